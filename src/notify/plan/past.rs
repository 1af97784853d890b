//! What a channel was told about the runs before.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::Payload;
use crate::clock::{is_believable, waits};
use crate::model::{JobName, Outcome, RunId};
use crate::notify::Channel;
use crate::notify::facts::RunFacts;
use crate::notify::transitions::{Fate, PastRun, Told, Trouble};
use crate::state::{LONGEST_PAUSE, Message, MessageKind, MessageStatus, Run, State, StateError};

/// A job's ended runs, newest first, up to and with the newest good and undegraded one; `before` and
/// everything after it left out.
pub(super) fn runs_before(
    state: &State,
    job: &JobName,
    before: Option<&RunId>,
) -> Result<Vec<Run>, StateError> {
    // Most often the run before was good: a long history is only read when there is a long streak.
    for limit in [6, 60, 600] {
        let all = state.runs(Some(job), limit)?;
        let read = all.len();
        let skip = match before.and_then(|id| all.iter().position(|r| r.run_id == *id)) {
            Some(position) => position + 1,
            None => 0,
        };
        let mut runs: Vec<Run> = all.into_iter().skip(skip).filter(|r| !r.is_running()).collect();
        if let Some(whole) = runs.iter().position(|r| r.is_good() && r.degraded.is_empty()) {
            runs.truncate(whole + 1);
            return Ok(runs);
        }
        if read < limit || limit == 600 {
            return Ok(runs);
        }
    }
    Ok(Vec::new())
}

/// The messages this channel has or will get about these runs.
pub(super) fn rows_of(
    state: &State,
    channel: &Channel,
    job: &JobName,
    runs: &[Run],
    now: DateTime<Utc>,
) -> Result<Vec<Message>, StateError> {
    match told_since(runs.iter().map(|r| r.started), now) {
        Some(since) => state.messages_about(&channel.name, job, since),
        None => Ok(Vec::new()),
    }
}

/// Since when there can be messages about runs that started then: a run that a wrong clock dated ahead may have been
/// told of before.
pub(super) fn told_since(
    starts: impl Iterator<Item = DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    starts.map(|start| if is_believable(start, now) { start } else { DateTime::UNIX_EPOCH }).min()
}

pub(super) fn payload_of(row: &Message) -> Option<Payload> {
    serde_json::from_str(&row.payload).ok()
}

/// What one channel was told, by run and message. A message to several receivers counts once.
fn told(rows: &[Message], now: DateTime<Utc>) -> BTreeMap<(&RunId, String), Told> {
    let mut told: BTreeMap<(&RunId, String), Told> = BTreeMap::new();
    for row in rows {
        let (Some(run_id), Some(payload)) = (&row.run_id, payload_of(row)) else { continue };
        let fate = match row.status {
            MessageStatus::Delivered => Fate::Delivered(row.closed_at.unwrap_or(row.created_at)),
            // On its way at this moment: whoever is told next should not hear that nobody was told.
            MessageStatus::Pending
                if row.claimed_until.is_some_and(|until| waits(until, now, LONGEST_PAUSE)) =>
            {
                Fate::Delivered(now)
            }
            MessageStatus::Pending => Fate::Pending,
            MessageStatus::Failed | MessageStatus::Refused | MessageStatus::Dropped => Fate::Lost,
            MessageStatus::Superseded => continue,
        };
        let entry = told.entry((run_id, payload.message.key)).or_insert(Told {
            kind: payload.message.kind,
            at: row.created_at,
            fate,
            about: payload.about,
        });
        entry.fate = match (entry.fate, fate) {
            (Fate::Delivered(a), Fate::Delivered(b)) => Fate::Delivered(a.min(b)),
            (Fate::Delivered(at), _) | (_, Fate::Delivered(at)) => Fate::Delivered(at),
            (Fate::Pending, _) | (_, Fate::Pending) => Fate::Pending,
            (Fate::Lost, Fate::Lost) => Fate::Lost,
        };
    }
    told
}

/// The runs with what one channel was told about each.
pub(super) fn history(runs: &[Run], rows: &[Message], now: DateTime<Utc>) -> Vec<PastRun> {
    let told = told(rows, now);
    runs.iter()
        .map(|run| PastRun {
            outcome: run.outcome.unwrap_or(Outcome::Interrupted),
            degraded: !run.degraded.is_empty(),
            told: told.iter().filter(|((id, _), _)| *id == &run.run_id).map(|(_, t)| t.clone()).collect(),
        })
        .collect()
}

pub(super) fn earlier_self(facts: &RunFacts, rows: &[Message], now: DateTime<Utc>) -> Option<PastRun> {
    let told: Vec<Told> = told(rows, now)
        .into_iter()
        .filter(|((id, _), told)| **id == facts.run_id && told.kind.is_trouble())
        .map(|(_, told)| told)
        .collect();
    (!told.is_empty()).then(|| PastRun { outcome: facts.outcome, degraded: facts.outcome.is_good(), told })
}

/// An earlier run that the channel was told to be degraded, and that has been mended since (its copies came
/// late), where it heard of no recovery after that: in the state there is nothing left to recover from.
pub(super) fn mended(
    state: &State,
    channel: &Channel,
    facts: &RunFacts,
    now: DateTime<Utc>,
) -> Result<Option<PastRun>, StateError> {
    const KINDS: [MessageKind; 3] = [MessageKind::Degraded, MessageKind::Reminder, MessageKind::Recovery];
    let Some(row) = state.last_message(&channel.name, Some(&facts.job), &KINDS)? else { return Ok(None) };
    let Some(run_id) = row.run_id.clone().filter(|id| *id != facts.run_id) else { return Ok(None) };
    let whole = state.run(&run_id)?.is_some_and(|run| run.is_good() && run.degraded.is_empty());
    let rows = [row];
    let told: Vec<Told> = told(&rows, now).into_values().filter(|told| told.kind.is_trouble()).collect();
    let degradation = |told: &Told| told.about.iter().all(|t| matches!(t, Trouble::Degraded(_)));
    Ok((whole && !told.is_empty() && told.iter().all(degradation)).then_some(PastRun {
        outcome: Outcome::Success,
        degraded: true,
        told,
    }))
}
