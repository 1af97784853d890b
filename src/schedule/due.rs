//! Which run is due: the rules that health checks, metrics and the daemon share.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use sha2::{Digest, Sha256};

use super::Schedule;

/// The earliest occurrence that no success has met yet: the first one after the start of the last success,
/// or after the job was first seen when it never succeeded, or after the schedule was changed if that is
/// later.
///
/// A failed run does not move it. A job is overdue once now is later than this by more than its grace. The
/// schedule an older success met is gone after an edit, so an edit must not be able to hide that a job was
/// already late: see [`due_after_edit`].
pub fn next_due(
    schedule: &Schedule,
    tz: Tz,
    last_success_start: Option<DateTime<Utc>>,
    first_seen: DateTime<Utc>,
    schedule_changed_at: Option<DateTime<Utc>>,
) -> Option<DateTime<Utc>> {
    schedule.next_after(tz, basis(last_success_start, first_seen, schedule_changed_at))
}

/// The due time after an edit of the schedule, so that editing neither makes nor clears an overdue.
///
/// `due_before` is what [`next_due`] gave with the old line when the edit was noticed at `changed_at`, and
/// `due_now` what it gives with the new line. When the job was already due then, and nothing has succeeded
/// since, the old due time stands.
pub fn due_after_edit(
    due_before: Option<DateTime<Utc>>,
    changed_at: DateTime<Utc>,
    last_success_start: Option<DateTime<Utc>>,
    due_now: Option<DateTime<Utc>>,
) -> Option<DateTime<Utc>> {
    match due_before {
        Some(due) if due <= changed_at && last_success_start.is_none_or(|start| start < due) => Some(due),
        _ => due_now,
    }
}

/// The occurrence that a daemon which was down (or has just started) must make up for: the latest one that
/// lies after the start of the last attempt (or after the job was first seen, or the schedule was changed)
/// and not after `now`. However many were missed, one run makes up for all of them.
///
/// An attempt of any outcome counts: a failure is told and retried at its next occurrence, not at each start
/// of the daemon.
pub fn catch_up_due(
    schedule: &Schedule,
    tz: Tz,
    last_attempt_start: Option<DateTime<Utc>>,
    first_seen: DateTime<Utc>,
    schedule_changed_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let basis = basis(last_attempt_start, first_seen, schedule_changed_at);
    schedule.last_at_or_before(tz, now).filter(|missed| *missed > basis)
}

fn basis(
    last: Option<DateTime<Utc>>,
    first_seen: DateTime<Utc>,
    changed: Option<DateTime<Utc>>,
) -> DateTime<Utc> {
    let since = last.unwrap_or(first_seen);
    changed.map_or(since, |changed| changed.max(since))
}

/// How much later than its occurrence a run starts: from zero up to, but not including, `max`, to the
/// millisecond.
///
/// Derived from a hash of `run_key`, so that asking twice (after a reload, or from `agent schedule`) gives
/// the same answer. A key made of the instance id, the job and the occurrence spreads hosts evenly and
/// varies from day to day.
pub fn splay_delay(run_key: &str, max: Duration) -> Duration {
    let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
    if max_ms == 0 {
        return Duration::ZERO;
    }
    let digest = Sha256::digest(run_key.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    Duration::from_millis(u64::from_be_bytes(head) % max_ms)
}
