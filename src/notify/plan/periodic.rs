//! What is due by the passing of time: reminders, digests, and what was not queued when it should have been.

use chrono::{DateTime, TimeDelta, Utc};

use super::past::{history, mended, rows_of, runs_before};
use super::run::{end_of, plan_run, streak};
use super::{Plan, rows};
use crate::notify::Channel;
use crate::notify::facts::{DigestFacts, DigestJob, RunFacts};
use crate::notify::gather::{self, JobContext};
use crate::notify::message::{Content, Kind};
use crate::notify::transitions::{Due, digest_due, reminder};
use crate::state::{Message, MessageKind, Run, State, StateError};

/// How far back [`periodic`] makes up for what was not queued. Shorter than the outbox keeps messages, so
/// that nothing is told twice.
const MAKE_UP: TimeDelta = TimeDelta::days(7);

/// What is due by the passing of time, for the daemon's loop and `agent tend`, for all jobs at once (a digest
/// tells of all of them): reminders, digests, and whatever about a job's newest run was not queued yet (a
/// recovery after late copies, a degradation found later, a message lost with a process that died).
pub fn periodic(
    state: &State,
    channels: &[impl AsRef<Channel>],
    jobs: &[JobContext],
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    for context in jobs {
        let Some(newest) = runs_before(state, &context.job, None)?.into_iter().next() else { continue };
        let before = runs_before(state, &context.job, Some(&newest.run_id))?;
        let runs = [std::slice::from_ref(&newest), &before[..]].concat();
        // Read from the state once, and only when something is due.
        let mut facts = None;
        let readers = channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping());
        for channel in readers.filter(|c| context.tells(&c.name)) {
            let rows = rows_of(state, channel, &context.job, &runs, now)?;
            let mut due = made_up(state, channel, context, &newest, &before, &rows, &mut facts, now)?;
            if due.is_empty()
                && !context.paused
                && reminder(&channel.policy, &history(&runs, &rows, now), now)
            {
                let facts = known(&mut facts, state, context, &newest)?;
                plan_reminder(&mut due, channel, facts, &before, now);
            }
            plan.messages.extend(due.messages);
            plan.supersedes.extend(due.supersedes);
        }
    }
    plan_digests(&mut plan, state, channels, jobs, now)?;
    Ok(plan)
}

fn known<'a>(
    facts: &'a mut Option<RunFacts>,
    state: &State,
    context: &JobContext,
    run: &Run,
) -> Result<&'a RunFacts, StateError> {
    match facts {
        Some(facts) => Ok(facts),
        None => Ok(facts.insert(gather::recorded(state, context, run)?)),
    }
}

/// What should have been queued about the newest run and was not.
#[allow(clippy::too_many_arguments)] // one caller, and each is something else
fn made_up(
    state: &State,
    channel: &Channel,
    context: &JobContext,
    newest: &Run,
    before: &[Run],
    rows: &[Message],
    facts: &mut Option<RunFacts>,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    if newest.ended.is_none_or(|ended| (now - ended).abs() > MAKE_UP) {
        return Ok(plan);
    }
    let facts = known(facts, state, context, newest)?;
    let mended = mended(state, channel, facts, now)?;
    plan_run(&mut plan, channel, facts, before, rows, mended, now);
    // Reminders are judged apart, with the newest run's own messages in view.
    plan.messages.retain(|m| {
        m.kind != MessageKind::Reminder
            && !rows.iter().any(|r| r.message_id == m.message_id && r.recipient == m.recipient)
    });
    // What is withdrawn is withdrawn for the sake of a new message.
    if plan.messages.is_empty() {
        plan.supersedes.clear();
    }
    Ok(plan)
}

fn plan_reminder(plan: &mut Plan, channel: &Channel, facts: &RunFacts, before: &[Run], now: DateTime<Utc>) {
    let due = Due { kind: Kind::Reminder, supersede: false, was_told: true };
    let streak = streak(due, facts, before, None);
    let message = channel.render(Content::Run(Kind::Reminder, facts, streak.as_ref()), now);
    rows::add(plan, channel, message, Some(facts), end_of(facts).troubles(), now);
}

fn plan_digests(
    plan: &mut Plan,
    state: &State,
    channels: &[impl AsRef<Channel>],
    jobs: &[JobContext],
    now: DateTime<Utc>,
) -> Result<(), StateError> {
    for channel in channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping()) {
        let jobs: Vec<&JobContext> = jobs.iter().filter(|j| j.tells(&channel.name)).collect();
        let Some(host) = jobs.first() else { continue };
        let last = state.last_message(&channel.name, None, &[MessageKind::Digest])?.map(|m| m.created_at);
        let first_seen = state.jobs()?.iter().map(|j| j.first_seen).min().unwrap_or(now);
        let Some((from, until)) = digest_due(&channel.policy, last, first_seen, now, host.timezone) else {
            continue;
        };
        let facts = DigestFacts {
            host: host.host.clone(),
            timezone: host.timezone,
            from,
            until,
            jobs: jobs.iter().map(|job| digest_job(state, job, from, until)).collect::<Result<_, _>>()?,
            command: host.command.clone(),
        };
        let message = channel.render(Content::Digest(&facts), now);
        rows::add(plan, channel, message, None, Vec::new(), now);
    }
    Ok(())
}

fn digest_job(
    state: &State,
    context: &JobContext,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<DigestJob, StateError> {
    let runs = state.runs(Some(&context.job), 300)?;
    let (mut good_runs, mut bad_runs, mut warnings) = (0, 0, 0);
    for run in runs.iter().filter(|r| r.ended.is_some_and(|ended| ended > from && ended <= until)) {
        warnings += run.warning_counts.total();
        if run.is_good() { good_runs += 1 } else { bad_runs += 1 }
    }
    let last_good = state.last_success(&context.job)?;
    Ok(DigestJob {
        job: context.job.clone(),
        good_runs,
        bad_runs,
        last_good: last_good.as_ref().map(|r| r.started),
        stored_bytes: last_good.map_or(0, |r| r.stored_bytes),
        warnings,
        newest_verified: gather::last_good(state, context)?,
        notes: context.notes.clone(),
    })
}
