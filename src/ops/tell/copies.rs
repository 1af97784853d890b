//! What becomes of a run's copies. A copy that is missing degrades its run.

use anyhow::Result;

use crate::model::{RunId, TargetName};
use crate::notify::facts::VerifyFacts;
use crate::notify::{gather, plan};
use crate::ops::Agent;
use crate::state::{Copy, CopyStatus};

/// Notes that something beside the outcome failed; the next [`by_time`] tells it.
pub fn degraded(agent: &Agent, run: &RunId, text: &str) -> Result<()> {
    Ok(agent.state.add_degraded(run, text)?)
}

/// How a copy that is not there is named among what degraded a run.
fn copy_trouble(target: &TargetName) -> String {
    format!("copy {target}")
}

/// The same for a copy that nobody makes until somebody changed something.
fn copy_stop(target: &TargetName) -> String {
    format!("{} stopped", copy_trouble(target))
}

/// True for what degraded a run because its copy to a target is not there.
pub fn is_copy_trouble(text: &str, target: &TargetName) -> bool {
    [copy_trouble(target), copy_stop(target)]
        .iter()
        .any(|name| text.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(": ")))
}

/// Why a copy is not there, as it degrades its run: by another name when it is for good, so that it is told even to
/// those who know already that the copy is late.
pub fn copy_missing(agent: &Agent, copy: &Copy, error: Option<&str>) -> String {
    match error {
        Some(error) if copy.permanent => format!(
            "{}: {error}. Trying again does not mend this: put it right, then: {} tend --retry",
            copy_stop(&copy.target),
            agent.command
        ),
        error => {
            let why = error.unwrap_or("not made yet; it stays in the queue");
            format!("{}: {why}", copy_trouble(&copy.target))
        }
    }
}

/// Nothing is copied to a target until somebody changed something: that degrades the run at once, however late the
/// copy is.
pub fn copy_stopped(agent: &Agent, copy: &Copy, error: &str) -> Result<()> {
    let text = copy_missing(agent, &Copy { permanent: true, ..copy.clone() }, Some(error));
    agent
        .state
        .retain_degraded(&copy.run_id, |known| !is_copy_trouble(known, &copy.target) || *known == text)?;
    degraded(agent, &copy.run_id, &text)
}

/// A copy that was missed came late: the run is no longer degraded by it.
pub fn copy_came_after_all(agent: &Agent, copy: &Copy) -> Result<()> {
    agent.state.retain_degraded(&copy.run_id, |text| !is_copy_trouble(text, &copy.target))?;
    Ok(())
}

/// Queues what reading a copy back found, where it is news. To be called before the result is recorded.
pub fn verified(agent: &Agent, copy: &Copy, location: &str, problems: &[String]) -> Result<()> {
    let ok = problems.is_empty();
    // Damage is news at a copy that counted, soundness at one that did not.
    if ok != (copy.status == CopyStatus::Corrupt) {
        return Ok(());
    }
    let now = agent.now();
    let context = agent.job_context(&copy.job);
    let other = |c: &Copy| !(c.run_id == copy.run_id && c.target == copy.target);
    let facts = VerifyFacts {
        job: copy.job.clone(),
        host: context.host.clone(),
        timezone: context.timezone,
        at: now,
        ok,
        run_id: copy.run_id.clone(),
        taken: copy.started,
        target: copy.target.clone(),
        location: location.to_owned(),
        problems: problems.to_vec(),
        newest_verified: gather::last_good_of(&agent.state, &context, &other)?,
        before: copy.verified_at,
        command: agent.command.clone(),
    };
    let channels = agent.channels_for(&copy.job);
    Ok(plan::verified(&agent.state, &channels, &facts, now)?.enqueue(&agent.state, now)?)
}
