//! Runs that died: found, cleaned up after, and told.
//!
//! A `running` row whose private lock is free belongs to a run that was killed, or to a machine that lost
//! its power; or it ended in a process that lives on, and the state did not take the end. If its final folder
//! stands, the run died between the rename and the record: the backup is read back and taken over. Else its
//! leftovers are removed and it is marked interrupted.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};

use super::hooks::{Hooks, Verdict};
use super::verify::{Depth, read_manifest, verify};
use super::{Agent, at_work, prune, repair, tell};
use crate::config::JobConfig;
use crate::event::{Looked, Progress, Silent, Step};
use crate::lock::{FileLock, LockMode};
use crate::manifest::Manifest;
use crate::model::{JobName, Outcome, RunId, TargetName};
use crate::state::{ComponentSummary, CopyStatus, EndedRun, NewCopy, Run};
use crate::target::Target;

#[cfg(test)]
mod tests;

/// How many of the latest runs are looked at for backups that should not be there.
const LOOK_BACK: usize = 30;

/// What became of a dead run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is marked interrupted; its leftovers are gone.
    Interrupted,
    /// It had published: its backup was looked at as far as its target says, and counts.
    Adopted(Outcome),
    /// Its target is away, so that nobody can tell yet. It stays as it is.
    Unknown(String),
}

/// Looks at all running rows, and reaps those that are dead.
pub fn all(agent: &Agent) -> Result<Vec<(RunId, Fate)>> {
    let mut reaped = Vec::new();
    for Run { run_id, job, .. } in agent.state.all_running()? {
        // Held for as long as the run is dealt with, so that nobody starts one of this job meanwhile.
        let Some(_lock) = try_lock(agent, &job)? else { continue };
        // To deal with the one before may have taken hours, and this one may have ended in them.
        let Some(run) = agent.state.run(&run_id)?.filter(|run| run.is_running() && !is_alive(run)) else {
            continue;
        };
        reaped.extend(one(agent, &run)?.map(|fate| (run_id, fate)));
    }
    remove_old_scratch(agent)?;
    Ok(reaped)
}

/// Reaps the dead runs of one job, whose private lock the caller holds.
pub fn of_job(agent: &Agent, job: &JobName) -> Result<Vec<(RunId, Fate)>> {
    let dead = agent.state.all_running()?.into_iter().filter(|run| run.job == *job && !is_alive(run));
    let reaped = dead.map(|run| Ok(one(agent, &run)?.map(|fate| (run.run_id, fate))));
    reaped.filter_map(Result::transpose).collect()
}

fn try_lock(agent: &Agent, job: &JobName) -> Result<Option<FileLock>> {
    let path = agent.lock_path(job);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
    }
    Ok(FileLock::try_acquire(&path, LockMode::Private)?)
}

/// True when the run goes on although its lock is free: somebody removed the lock file. Of another process it is only
/// known that it lives; a run that this process has left does not go on.
pub fn is_alive(run: &Run) -> bool {
    run.process.as_ref().is_some_and(|process| at_work::goes_on(process, run.run_id.as_str()))
}

/// Whether a run that has no end in the state came to its end all the same: its process lives.
fn has_ended(run: &Run) -> bool {
    run.process.as_ref().is_some_and(at_work::is_own)
}

/// Removes at a job's primary target what its ended runs could not remove themselves, because the target
/// was away or full of errors at that moment. The caller holds the job's private lock.
pub fn leftovers(agent: &Agent, job: &JobName, target: &dyn Target) -> Result<()> {
    let state = &agent.state;
    for run_id in target.unfinished()? {
        let Some(run) = state.run(&run_id)?.filter(|run| run.job == *job && !run.is_running()) else {
            continue; // another job's, another host's, or at work
        };
        // What another process copies here belongs to an ended run, too; and so does what replaces a damaged copy.
        let _no_repair = match state.copy(&run.run_id, target.name())?.map(|copy| copy.status) {
            None => None,
            Some(CopyStatus::Pending) => continue,
            Some(_) => match repair::try_lock(agent)? {
                Some(lock) => Some(lock),
                None => continue,
            },
        };
        target.clean(&run_id)?;
    }
    // A backup that was visible when its run failed, and could not be taken away. One that is listed since then
    // (`agent target scan --adopt`) is somebody's, and so is one that is pinned at the target.
    let bad = |run: &Run| matches!(run.outcome, Some(Outcome::Failure | Outcome::Interrupted));
    for run in state.runs(Some(job), LOOK_BACK)?.iter().filter(|run| bad(run)) {
        let Some(location) = run.location.as_ref().filter(|_| run.target.as_ref() == Some(target.name()))
        else {
            continue;
        };
        let is_listed = state.copy(&run.run_id, target.name())?.is_some();
        if !is_listed && target.holds(location, &run.run_id)? {
            prune::remove(target, location, &run.run_id)?;
        }
    }
    Ok(())
}

/// None when somebody else has ended the run meanwhile.
fn one(agent: &Agent, run: &Run) -> Result<Option<Fate>> {
    remove_scratch(&agent.scratch_path(&run.job));
    remove_scratch(&agent.scratch_folder().join(run.run_id.as_str()));
    let job = agent.config.job.get(&run.job);
    let target = match (&run.target, job) {
        (Some(target), _) => Some(target.clone()),
        (None, Some(job)) => job.targets.first().cloned(),
        (None, None) => None,
    };
    let config = target.as_ref().and_then(|name| agent.config.target.get(name));
    let ended = has_ended(run);
    if let (Some(name), Some(_), Some(location)) = (&target, config, &run.location) {
        let how =
            if ended { "the state did not take its end" } else { "it died after its backup was published" };
        match adopt(agent, run, name, location, how) {
            Ok(Some(outcome)) => return Ok(Some(Fate::Adopted(outcome))),
            Ok(None) => {}
            Err(e) => return Ok(Some(Fate::Unknown(format!("{e:#}")))),
        }
    }
    let mut reason = format!(
        "the run ended without a word{}: {}",
        run.step.map(|step| format!(" in step {step}")).unwrap_or_default(),
        match ended {
            true => "the state did not take its end, the log has the reason",
            false => "its process was killed, or the machine went down",
        }
    );
    if let (Some(name), Some(_)) = (&target, config)
        && let Err(e) = agent.open_target(name).and_then(|target| target.clean(&run.run_id))
    {
        reason.push_str(&format!("; what it left behind could not be removed: {e:#}"));
    }
    for problem in make_up_hooks(agent, run, job, Outcome::Interrupted, Some(&reason)) {
        reason = format!("{reason}\n{problem}");
    }
    let mut ended = EndedRun::new(run.run_id.clone(), Outcome::Interrupted, agent.now());
    ended.error = Some(reason);
    ended.failed_step = run.step;
    let messages = tell::plan_end(agent, run, &mut ended, None, Vec::new())?;
    Ok(agent.state.end_run(&ended, &[], &messages)?.then_some(Fate::Interrupted))
}

/// Removes what runs that are over have left of the folders in which their sources worked, each named like its run.
fn remove_old_scratch(agent: &Agent) -> Result<()> {
    let Ok(entries) = fs::read_dir(agent.scratch_folder()) else { return Ok(()) }; // no run ever needed it
    for entry in entries.flatten() {
        let Some(run_id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Asked after the folder was seen: the state knows a run before it makes its folder.
        if !agent.state.run(&run_id)?.is_some_and(|run| run.is_running()) {
            remove_scratch(&entry.path());
        }
    }
    Ok(())
}

fn remove_scratch(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("removing {}, which holds data in clear: {e}", folder.display());
        }
        _ => {}
    }
}

/// Ends what the hooks of a dead run began: nobody else takes a site out of its maintenance mode. Which of
/// them had begun is not known beyond the step the run died in. A run that came to its end did it itself.
fn make_up_hooks(
    agent: &Agent,
    run: &Run,
    job: Option<&JobConfig>,
    outcome: Outcome,
    error: Option<&str>,
) -> Vec<String> {
    let begun = run.step.is_some_and(|step| step >= Step::Preflight);
    let Some(job) = job.filter(|_| begun && !has_ended(run)) else {
        return Vec::new();
    };
    let hooks = Hooks::new(agent, &run.job, job, &run.run_id, &Silent);
    hooks.make_up(run.step <= Some(Step::Capture), Verdict { outcome: Some(outcome), error });
    hooks.problems()
}

/// Takes over what a run of this process has published, when the state did not take its end for this reason. `None`
/// when it has published nothing that is still there and whole. The caller holds the job's private lock.
pub(super) fn take_over(agent: &Agent, run: &Run, error: &str) -> Result<Option<Outcome>> {
    let (Some(name), Some(location)) = (&run.target, &run.location) else { return Ok(None) };
    adopt(agent, run, name, location, &format!("the state did not take its end at once ({error})"))
}

/// Takes over a backup that was published but not recorded; `how` that came. `None` when there is none at its
/// location.
fn adopt(agent: &Agent, run: &Run, name: &TargetName, location: &str, how: &str) -> Result<Option<Outcome>> {
    let job = agent.config.job.get(&run.job);
    let target = agent.open_target(name)?;
    if !target.holds(location, &run.run_id)? {
        return Ok(None);
    }
    let config = agent.target(name)?;
    let depth = Depth::of(config.reads_back()).unwrap_or(Depth::Lengths);
    let report = verify(target.as_ref(), location, &run.run_id, depth, &Progress::default())?;
    if report.result().is_err() {
        target.remove(location, &run.run_id)?;
        return Ok(None);
    }
    let manifest = read_manifest(target.as_ref(), location)?;
    let copies = job.map_or_else(Vec::new, |job| copies_to_make(agent, job, name, location, &manifest));
    let mut ended = ended_by_manifest(&manifest, agent.now());
    ended.degraded.push(match config.looked_at() {
        Looked::NotAt(why) => format!(
            "run: {how}; the backup counts, its files have the lengths they should have, and was not read back: {why}"
        ),
        looked => format!("run: {how}; the backup was {looked} and counts"),
    });
    ended.degraded.extend(make_up_hooks(agent, run, job, manifest.outcome, None));
    let messages = tell::plan_end(agent, run, &mut ended, None, Vec::new())?;
    let is_recorded = agent.state.end_run(&ended, &copies, &messages)?;
    // It may have died in its own retention.
    if is_recorded
        && manifest.outcome.is_good()
        && let Err(e) = prune::at_target(agent, &run.job, name, Some(target.as_ref()), &Progress::default())
    {
        tell::degraded(agent, &run.run_id, &format!("retention {name}: {e:#}"))?;
    }
    Ok(Some(manifest.outcome))
}

/// The copies of a published backup: the primary as it was read back, and those still to be made.
pub fn copies_to_make(
    agent: &Agent,
    job: &JobConfig,
    primary: &TargetName,
    location: &str,
    manifest: &Manifest,
) -> Vec<NewCopy> {
    let first = NewCopy {
        target: primary.clone(),
        primary: true,
        status: match agent.config.target.get(primary).and_then(|target| Depth::of(target.reads_back())) {
            Some(_) => CopyStatus::Verified,
            None => CopyStatus::Complete,
        },
        location: Some(location.to_owned()),
        bytes: manifest.stored_bytes(),
    };
    let further = job.targets.iter().filter(|t| *t != primary).map(|target| NewCopy {
        target: target.clone(),
        primary: false,
        status: CopyStatus::Pending,
        location: None,
        bytes: manifest.stored_bytes(),
    });
    std::iter::once(first).chain(further).collect()
}

/// The end of a run as its manifest tells it.
pub fn ended_by_manifest(manifest: &Manifest, now: chrono::DateTime<chrono::Utc>) -> EndedRun {
    let mut ended = EndedRun::new(manifest.run_id.clone(), manifest.outcome, now);
    ended.source_bytes = manifest.source_bytes();
    ended.stored_bytes = manifest.stored_bytes();
    ended.warning_counts = manifest.warning_counts();
    for component in &manifest.components {
        ended.components.push(ComponentSummary {
            name: component.name.clone(),
            source_bytes: component.source_bytes,
            stored_bytes: component.stored_bytes,
            entries: component.entries,
            warning_counts: component.warning_counts,
            sha256: Some(component.sha256),
        });
        ended.warnings.extend(component.warnings.iter().cloned());
    }
    ended
}
