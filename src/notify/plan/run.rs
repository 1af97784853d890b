//! What each channel is told at the end of a run.

use chrono::{DateTime, Utc};

use super::past::{earlier_self, history, mended, payload_of, runs_before, told_since};
use super::ping::plan_ping;
use super::{Plan, rows};
use crate::model::Outcome;
use crate::notify::Channel;
use crate::notify::facts::{RunFacts, Streak};
use crate::notify::message::{Content, Kind};
use crate::notify::transitions::{Due, PastRun, RunEnd, Trouble, after_run};
use crate::state::{Message, MessageStatus, Run, State, StateError};

/// What is due at the end of a run; goes into the transaction that records it (`messages`, and
/// `supersedes` of [`crate::state::EndedRun`]).
///
/// A good run whose copies are still to be made says so in `facts.copies` (state `pending`); plan again,
/// and [`Plan::enqueue`], when copies failed and the run became degraded.
pub fn run_ended(
    state: &State,
    channels: &[impl AsRef<Channel>],
    facts: &RunFacts,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let runs = runs_before(state, &facts.job, Some(&facts.run_id))?;
    let starts = runs.iter().map(|r| r.started).chain([facts.started]);
    let since = told_since(starts, now).unwrap_or(facts.started);
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref) {
        let rows = state.messages_about(&channel.name, &facts.job, since)?;
        let mended = mended(state, channel, facts, now)?;
        plan_run(&mut plan, channel, facts, &runs, &rows, mended, now);
    }
    Ok(plan)
}

/// What is due at the end of a run when the state cannot be read: every trouble is told, since nobody
/// knows what was told before.
pub fn without_state(channels: &[impl AsRef<Channel>], facts: &RunFacts, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref) {
        plan_run(&mut plan, channel, facts, &[], &[], None, now);
    }
    plan
}

/// Plans for one channel and one run. `runs` are those before it, newest first; `mended` is a run of which
/// the channel knows only that it was degraded.
pub(super) fn plan_run(
    plan: &mut Plan,
    channel: &Channel,
    facts: &RunFacts,
    runs: &[Run],
    rows: &[Message],
    mended: Option<PastRun>,
    now: DateTime<Utc>,
) {
    if channel.is_ping() {
        plan_ping(plan, channel, facts, rows, now);
        return;
    }
    let end = end_of(facts);
    let mut past = history(runs, rows, now);
    // What the same run was told to be before: degraded, and mended since; or simply the same.
    let before = earlier_self(facts, rows, now).or(mended);
    past.splice(0..0, before.clone());
    for due in after_run(&channel.policy, &past, &end, now) {
        let streak = streak(due, facts, runs, before.as_ref());
        let message = channel.render(Content::Run(due.kind, facts, streak.as_ref()), now);
        let about = if due.kind.is_trouble() { end.troubles() } else { Vec::new() };
        rows::add(plan, channel, message, Some(facts), about, now);
        if due.supersede {
            let whole = facts.degraded.is_empty();
            plan.supersedes.extend(
                rows.iter().filter(|r| r.status == MessageStatus::Pending && is_over(r, whole)).map(|r| r.id),
            );
        }
    }
}

pub(super) fn end_of(facts: &RunFacts) -> RunEnd {
    RunEnd {
        outcome: facts.outcome,
        step: facts.failed_step,
        component: facts.failed_component.clone(),
        degraded: facts.degraded.clone(),
        open: facts.copies.iter().any(|c| c.state == "pending"),
    }
}

/// Whether a queued message about a trouble has nothing more to say after a good run: one about a
/// degradation only when the run is not degraded itself.
fn is_over(row: &Message, whole: bool) -> bool {
    payload_of(row).is_some_and(|p| {
        p.message.kind.is_trouble()
            && (whole || p.about.iter().all(|trouble| matches!(trouble, Trouble::Bad { .. })))
    })
}

/// The row of bad (or degraded) runs a message is about. `before` is what the run itself was told to be.
pub(super) fn streak(due: Due, facts: &RunFacts, runs: &[Run], before: Option<&PastRun>) -> Option<Streak> {
    let failing: Vec<&Run> = runs.iter().take_while(|r| !r.is_good()).collect();
    let mended = due.kind == Kind::Recovery && before.is_some();
    let earlier = match Kind::of_bad(facts.outcome) {
        Some(_) => failing,
        None if due.kind == Kind::Recovery && !mended && !failing.is_empty() => failing,
        None => degraded(runs),
    };
    let runs = earlier.len() as u64 + u64::from(due.kind.is_trouble() || mended);
    let told = due.was_told;
    if let Some(first) = earlier.last() {
        return Some(Streak {
            since: first.ended.unwrap_or(first.started),
            runs,
            outcome: first.outcome.unwrap_or(Outcome::Interrupted),
            step: first.failed_step,
            component: None,
            error: first.error.clone().or_else(|| first.degraded.first().cloned()),
            told,
        });
    }
    let was: Vec<String> = before
        .iter()
        .flat_map(|b| b.told.iter().flat_map(|t| &t.about))
        .filter_map(|t| match t {
            Trouble::Degraded(name) => Some(name.clone()),
            Trouble::Bad { .. } => None,
        })
        .collect();
    let error = facts.error.clone().or_else(|| facts.degraded.first().cloned());
    (runs > 0).then(|| Streak {
        since: before.iter().flat_map(|b| b.told.iter().map(|t| t.at)).min().unwrap_or(facts.ended),
        runs,
        outcome: facts.outcome,
        step: facts.failed_step,
        component: facts.failed_component.clone(),
        error: error.or_else(|| (!was.is_empty()).then(|| was.join(", "))),
        told,
    })
}

fn degraded(runs: &[Run]) -> Vec<&Run> {
    runs.iter().take_while(|r| !r.is_good() || !r.degraded.is_empty()).filter(|r| r.is_good()).collect()
}
