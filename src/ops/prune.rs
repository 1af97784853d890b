//! Retention carried out: decisions are made by [`crate::retention`], here they are acted upon.

use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, TimeDelta, Utc};

use super::Agent;
use super::isolate::{self, Request};
use crate::config::{Keep, ReadBack};
use crate::event::Progress;
use crate::model::{JobName, Outcome, RunId, TargetName};
use crate::retention::{Counts, Decision, Policy, Status, StoredCopy, decide};
use crate::state::{Copy, CopyStatus, FactKey};
use crate::target::Target;

/// How far the clock may stand behind the newest thing the state knows.
const BEHIND: TimeDelta = TimeDelta::hours(1);
/// How far it may have moved on since the last sign of life. A machine that was off for longer prunes one
/// run later.
const AHEAD: TimeDelta = TimeDelta::days(45);
/// How long a removal at a further target may make no progress.
const REMOVE_STALL: Duration = Duration::from_secs(10 * 60);

/// What retention decided for one job at one target, with the copies it decided about.
#[derive(Debug)]
pub struct Plan {
    /// Newest first.
    pub decisions: Vec<Decision>,
    /// The copies, in no order.
    pub copies: Vec<Copy>,
}

/// Whether the clock fits what the state knows; the sentence says why not.
pub fn clock_problem(agent: &Agent) -> Result<Option<String>> {
    let now = agent.now();
    let newest = agent.state.runs(None, 1)?.first().map(|run| run.ended.unwrap_or(run.started));
    Ok(judge_clock(now, newest))
}

fn judge_clock(now: DateTime<Utc>, newest: Option<DateTime<Utc>>) -> Option<String> {
    let newest = newest?;
    let shown = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M UTC").to_string();
    if now < newest - BEHIND {
        return Some(format!("the clock shows {}, before the last run of {}", shown(now), shown(newest)));
    }
    if now > newest + AHEAD {
        return Some(format!("the clock shows {}, long after the last run of {}", shown(now), shown(newest)));
    }
    None
}

/// A backup that was just made and read back, and is not in the state yet: run, start, outcome, stored bytes.
pub type Fresh<'a> = Option<(&'a RunId, DateTime<Utc>, Outcome, u64)>;

/// What retention would do for a job at a target.
pub fn plan(agent: &Agent, job: &JobName, target: &TargetName, fresh: Fresh<'_>) -> Result<Plan> {
    let config = agent.target(target)?;
    let zone = agent.config.job.get(job).map_or(agent.config.timezone, |j| agent.config.job_timezone(j));
    let copies: Vec<Copy> = agent
        .state
        .copies(Some(job), Some(target))?
        .into_iter()
        // What another program made is not ours to remove.
        .filter(|c| !c.imported && (c.status.is_kept() || c.status == CopyStatus::Corrupt))
        .collect();
    let unread = config.reads_back() == ReadBack::Never;
    let counts = if unread { Counts::Complete } else { Counts::Verified };
    let mut stored: Vec<StoredCopy> = copies.iter().map(stored_copy).collect();
    stored.extend(fresh.map(|(run_id, started, outcome, bytes)| StoredCopy {
        run_id: run_id.clone(),
        started,
        outcome,
        status: if unread { Status::Complete } else { Status::Verified },
        pinned: false,
        bytes,
    }));
    let trusted = clock_problem(agent)?.is_none()
        && agent.state.fact(FactKey::ClockJump)?.is_none_or(|f| !is_fresh(&f, agent.now()));
    let decisions = decide(&stored, &policy(config.keep.as_ref()), counts, zone, agent.now(), trusted);
    Ok(Plan { decisions, copies })
}

/// A clock jump keeps retention still for a day: long enough to be told and looked at.
fn is_fresh(fact: &crate::state::Fact, now: DateTime<Utc>) -> bool {
    (now - fact.at).abs() < TimeDelta::days(1)
}

fn stored_copy(copy: &Copy) -> StoredCopy {
    StoredCopy {
        run_id: copy.run_id.clone(),
        started: copy.started,
        outcome: copy.outcome,
        status: match copy.status {
            CopyStatus::Verified => Status::Verified,
            CopyStatus::Corrupt => Status::Corrupt,
            _ => Status::Complete,
        },
        pinned: copy.pinned,
        bytes: copy.bytes,
    }
}

fn policy(keep: Option<&Keep>) -> Policy {
    let Some(keep) = keep else { return Policy::default() };
    Policy {
        last: keep.last,
        hourly: keep.hourly,
        daily: keep.daily,
        weekly: keep.weekly,
        monthly: keep.monthly,
        yearly: keep.yearly,
        within: keep.within,
        max_bytes: keep.max_bytes.map(|limit| limit.0),
    }
}

/// Carries retention out for a job at a target and records it; gives the runs removed. `primary` is the
/// target when it is one that this process may touch itself.
pub fn at_target(
    agent: &Agent,
    job: &JobName,
    target: &TargetName,
    primary: Option<&dyn Target>,
    progress: &Progress,
) -> Result<Vec<RunId>> {
    recorded(agent, job, target, carry_out(agent, job, target, primary, None, progress))
}

/// As [`at_target`] at the primary target, counting a backup that is about to be recorded.
pub fn with_fresh(
    agent: &Agent,
    job: &JobName,
    name: &TargetName,
    target: &dyn Target,
    fresh: Fresh<'_>,
    progress: &Progress,
) -> Result<Vec<RunId>> {
    recorded(agent, job, name, carry_out(agent, job, name, Some(target), fresh, progress))
}

fn recorded(
    agent: &Agent,
    job: &JobName,
    target: &TargetName,
    result: Result<Vec<RunId>>,
) -> Result<Vec<RunId>> {
    let error = result.as_ref().err().map(|e| format!("{e:#}"));
    agent.state.record_retention(job, target, error.as_deref(), agent.now())?;
    result
}

fn carry_out(
    agent: &Agent,
    job: &JobName,
    target: &TargetName,
    primary: Option<&dyn Target>,
    fresh: Fresh<'_>,
    progress: &Progress,
) -> Result<Vec<RunId>> {
    let plan = plan(agent, job, target, fresh)?;
    let mut removed = Vec::new();
    let mut problems = Vec::new();
    // Removals that were cut short first: nothing is decided anew about them.
    let mut going = agent.state.half_removed_copies(job, target)?;
    let goes = |copy: &Copy| plan.decisions.iter().any(|d| !d.keep && d.run_id == copy.run_id);
    going.extend(plan.copies.into_iter().filter(goes));
    for copy in going {
        let Some(location) = copy.location.clone() else { continue };
        // Recorded before anything is touched: a backup that is listed is a whole one.
        agent.state.copy_expiring(&copy.run_id, target)?;
        let result = match primary {
            Some(target) => target.remove(&location, &copy.run_id),
            None => {
                let at = agent.at(target, location)?;
                let request = Request::Remove { at, run: copy.run_id.clone() };
                isolate::call(&request, REMOVE_STALL, None, progress, &mut |_| Ok(())).map(drop)
            }
        };
        match result {
            Ok(()) => {
                agent.state.copy_expired(&copy.run_id, target, agent.now())?;
                removed.push(copy.run_id);
            }
            Err(e) => problems.push(format!("{e:#}")),
        }
    }
    if problems.is_empty() { Ok(removed) } else { bail!("{}", problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_from_what_is_known_is_not_trusted() {
        let newest: DateTime<Utc> = "2026-11-24T03:00:00Z".parse().unwrap();
        assert!(judge_clock(newest + TimeDelta::hours(8), Some(newest)).is_none());
        assert!(judge_clock(newest - TimeDelta::minutes(5), Some(newest)).is_none());
        assert!(judge_clock(newest - TimeDelta::days(365), Some(newest)).is_some());
        assert!(judge_clock(newest + TimeDelta::days(365), Some(newest)).is_some());
        assert!(judge_clock(newest, None).is_none());
    }
}
