//! The job, the run and the copy that are meant.

use anyhow::{Context, Result, anyhow, bail};

use super::UsageError;
use crate::config::Config;
use crate::model::{JobName, RunId, TargetName};
use crate::ops::Agent;
use crate::state::{Copy, CopyStatus, Run};

/// The job that is meant when none is named.
pub fn only_job(config: &Config) -> Result<JobName> {
    let mut jobs = config.job.keys();
    match (jobs.next(), jobs.next()) {
        (Some(job), None) => Ok(job.clone()),
        (None, _) => Err(UsageError("the configuration has no job".to_owned()).into()),
        _ => {
            let names: Vec<&str> = config.job.keys().map(JobName::as_str).collect();
            Err(UsageError(format!("which job? Name one, or say --all: {}", names.join(", "))).into())
        }
    }
}

/// Checks that a job named on the command line exists.
pub fn known_job(config: &Config, job: &JobName) -> Result<()> {
    if config.job.contains_key(job) {
        return Ok(());
    }
    let names: Vec<&str> = config.job.keys().map(JobName::as_str).collect();
    Err(UsageError(format!("there is no job {job} in the configuration; it has: {}", names.join(", ")))
        .into())
}

/// Checks that a target named on the command line exists.
pub fn known_target(config: &Config, target: Option<&TargetName>) -> Result<()> {
    let Some(target) = target.filter(|target| !config.target.contains_key(*target)) else { return Ok(()) };
    let names: Vec<&str> = config.target.keys().map(TargetName::as_str).collect();
    let names = names.join(", ");
    Err(UsageError(format!("there is no target {target} in the configuration; it has: {names}")).into())
}

/// As [`find_run`]; with a target, `latest` is the latest good backup that stands there: its copy of the very latest
/// may still be to come.
pub fn find_run_at(
    agent: &Agent,
    id: &str,
    job: Option<&JobName>,
    target: Option<&TargetName>,
) -> Result<Run> {
    let (Some(target), "latest") = (target, id) else { return find_run(agent, id, job) };
    let copies = agent.state.copies(job, Some(target))?;
    let good = |copy: &&Copy| copy.status.is_kept() && copy.outcome.is_good() && !copy.imported;
    let Some(newest) = copies.iter().find(good) else {
        // What was asked for is not there; the very latest says what is the matter with it.
        return find_run(agent, id, job);
    };
    let mut jobs: Vec<&str> = copies.iter().filter(good).map(|copy| copy.job.as_str()).collect();
    jobs.sort_unstable();
    jobs.dedup();
    if jobs.len() > 1 {
        return Err(which_job(&jobs));
    }
    agent.state.run(&newest.run_id)?.with_context(|| format!("the state has lost run {}", newest.run_id))
}

fn which_job(names: &[&str]) -> anyhow::Error {
    UsageError(format!("`latest` of which job? Say --job: {}", names.join(", "))).into()
}

/// The run an id means: whole, its beginning, its last six characters, or `latest` good backup.
pub fn find_run(agent: &Agent, id: &str, job: Option<&JobName>) -> Result<Run> {
    if id == "latest" {
        let jobs: Vec<JobName> = match job {
            Some(job) => vec![job.clone()],
            None => agent.state.jobs()?.into_iter().map(|row| row.job).collect(),
        };
        let mut found = Vec::new();
        for job in &jobs {
            found.extend(agent.state.last_success(job)?);
        }
        if job.is_none() && found.len() > 1 {
            let names: Vec<&str> = found.iter().map(|run| run.job.as_str()).collect();
            return Err(which_job(&names));
        }
        return found.pop().context("there is no good backup yet");
    }
    let found: Vec<Run> =
        agent.state.find_runs(id)?.into_iter().filter(|run| job.is_none_or(|job| run.job == *job)).collect();
    match found.len() {
        1 => found.into_iter().next().context("a run was found and lost"),
        0 => {
            let near: Vec<String> = agent.state.nearest_ids(id, 3)?.iter().map(RunId::to_string).collect();
            let hint = if near.is_empty() {
                "there are no runs yet".to_owned()
            } else {
                format!("the nearest are: {}", near.join(", "))
            };
            bail!("there is no run {id}; {hint}")
        }
        n => {
            let first: Vec<String> = found.iter().take(5).map(|run| run.run_id.to_string()).collect();
            let more = if n > first.len() { ", …" } else { "" };
            Err(UsageError(format!("{n} runs begin with {id}: {}{more}", first.join(", "))).into())
        }
    }
}

/// The copy to read from: the one asked for, else a verified one, the primary first.
pub fn nearest(agent: &Agent, run: &Run, target: Option<&TargetName>) -> Result<Copy> {
    let mut copies: Vec<Copy> = agent.state.copies_of(&run.run_id)?;
    if let Some(target) = target {
        copies.retain(|c| c.target == *target);
    }
    let pending = copies.iter().find(|c| c.status == CopyStatus::Pending).map(|c| c.target.clone());
    copies.retain(|c| c.status.is_kept() || c.status == CopyStatus::Corrupt);
    // What cannot be read from here comes last of all: it is asked for its reason only.
    let write_only = |c: &Copy| agent.config.target.get(&c.target).is_some_and(|target| target.write_only());
    copies.sort_by_key(|c| {
        (write_only(c), c.status == CopyStatus::Corrupt, c.status != CopyStatus::Verified, !c.primary)
    });
    copies.into_iter().next().ok_or_else(|| {
        if let Some(target) = pending {
            return anyhow!(
                "the copy of run {} at {target} is still to be made; `{} copies` says what it waits for",
                run.run_id,
                agent.command
            );
        }
        let at = target.map_or_else(String::new, |t| format!(" at {t}"));
        let ended = run.outcome.map_or("still runs".to_owned(), |outcome| format!("ended with {outcome}"));
        anyhow!(
            "run {} has no backup{at} any more: it {ended}; `{} list` shows those there are",
            run.run_id,
            agent.command
        )
    })
}
