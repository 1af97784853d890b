//! When a job is due, overdue, and run next. The rule stands in [`crate::schedule`]; here it meets the
//! state and the configuration, once for checks, metrics and pages.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::config::{Config, JobConfig};
use crate::schedule::{self, Schedule};
use crate::state::{JobRow, JobState};

/// The earliest scheduled time that no success has met yet; `None` without a schedule.
///
/// Nothing is due before the end of a pause: the occurrences in it were passed over on purpose.
pub fn next_due(config: &Config, job: &JobConfig, state: &JobState) -> Option<DateTime<Utc>> {
    let last_success = state.last_success.as_ref().map(|run| run.started);
    due(&job.schedule()?, config.job_timezone(job), last_success, &state.row)
}

/// [`next_due`] from its parts, for those who have another schedule than the configuration's.
pub fn due(
    schedule: &Schedule,
    zone: Tz,
    last_success: Option<DateTime<Utc>>,
    row: &JobRow,
) -> Option<DateTime<Utc>> {
    let basis = row.schedule_changed_at.max(row.paused_until);
    let due = schedule::next_due(schedule, zone, last_success, row.first_seen, basis);
    match row.schedule_changed_at {
        // Who rested on purpose since then is not held to what was due before.
        Some(changed) if row.paused_until.is_none_or(|until| until < changed) => {
            schedule::due_after_edit(row.due_before, changed, last_success, due)
        }
        _ => due,
    }
}

/// How late a success may be: the grace, and the random delay a start may have.
pub fn allowance(job: &JobConfig) -> Duration {
    job.grace.saturating_add(job.splay)
}

/// The moment from which the job is overdue.
pub fn overdue_at(config: &Config, job: &JobConfig, state: &JobState) -> Option<DateTime<Utc>> {
    next_due(config, job, state)?.checked_add_signed(chrono::TimeDelta::from_std(allowance(job)).ok()?)
}

/// The next occurrence of the schedule at which a run is started, by the daemon or by whatever else starts
/// this job; its random delay left out.
pub fn next_run(
    config: &Config,
    job: &JobConfig,
    row: Option<&JobRow>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    // An occurrence at the very end of a pause belongs to the time after it.
    let pause = row.and_then(|row| row.paused_until).map(|until| until - chrono::TimeDelta::milliseconds(1));
    job.schedule()?.next_after(config.job_timezone(job), pause.map_or(now, |until| until.max(now)))
}
