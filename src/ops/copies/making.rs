//! One copy of the queue, from its claim to what is recorded of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Pass;
use super::pauses::{self, Fault};
use crate::config::{IoNice, ReadBack, TargetConfig};
use crate::crypt::KeyFiles;
use crate::event::{Event, Level, Looked, Observer, Progress, is_interruption};
use crate::failpoint;
use crate::log;
use crate::ops::isolate::{self, At, FromSource, Reply, Request, TimeUp, verify_copy};
use crate::ops::verify::Depth;
use crate::ops::{Agent, pins, prune, sentinel, tell};
use crate::state::{Copy, CopyStatus};
use crate::target::candidate_locations;

/// What the threads of a pass share.
pub(super) struct Making<'a> {
    /// Gives the agent in use now: a pass may take days, and the configuration be another one by then.
    pub current: &'a (dyn Fn() -> Arc<Agent> + Sync),
    pub pass: &'a Pass<'a>,
    pub claimer: &'a str,
    pub observer: &'a dyn Observer,
    /// Held by the one that carries out retention: two would want to remove the same.
    pub tidying: Mutex<()>,
    /// What is logged belongs to whom the pass belongs to.
    pub span: tracing::Span,
}

/// What became of a copy.
pub(super) enum Became {
    /// It was made; retention may have failed after it.
    Made { degraded: Option<String> },
    /// It is not needed any more.
    Spared,
    /// It was asked to stop, and is given back.
    Stopped,
    /// It failed. With `only_this`, others at the target may be tried.
    Failed { error: String, only_this: bool },
}

impl Making<'_> {
    /// Makes a copy that is claimed, and records what came of it. Errors are those of the state.
    pub(super) fn one(&self, copy: &Copy, progress: &Progress) -> Result<Became> {
        let Making { pass, observer, .. } = *self;
        let agent = &*(self.current)();
        // Who may finish is not stopped in the middle.
        let deadline = pass.deadline.filter(|_| !pass.finish);
        let _outer = self.span.enter();
        let _entered = log::span(&copy.job, &copy.run_id).entered();
        if !pass.fast {
            be_a_good_neighbour(agent, copy);
        }
        if spare(agent, copy, deadline, progress)? {
            return Ok(Became::Spared);
        }
        let looked = agent.config.target.get(&copy.target).map_or(Looked::AtAll, TargetConfig::looked_at);
        let read_back = !matches!(looked, Looked::NotAt(_));
        observer.event(&Event::CopyStarted { target: copy.target.clone(), read_back });
        let result = failpoint::hit("copy").and_then(|()| make(agent, copy, deadline, progress));
        let told = result.as_ref().map(|()| looked).map_err(|e| format!("{e:#}"));
        observer.event(&Event::CopyEnded(copy.target.clone(), told));
        match result {
            Ok(()) => {
                pins::carry_over(agent, &copy.run_id, &copy.target, progress)?;
                if let Some(warning) = sentinel::learn(agent, &copy.target, None)? {
                    observer.event(&Event::Note(Level::Warning, warning));
                }
                tell::copy_came_after_all(agent, copy)?;
                pauses::worked(agent, &copy.target)?;
                Ok(Became::Made { degraded: self.retain(agent, copy, progress)? })
            }
            // Nobody's fault: it is begun anew by whoever has the time.
            Err(e) if is_interruption(&e) || e.is::<TimeUp>() => {
                agent.state.release_copy(&copy.run_id, &copy.target, self.claimer)?;
                Ok(Became::Stopped)
            }
            Err(e) => {
                let fault = pauses::failed(agent, copy, &e)?;
                let error = format!("{e:#}");
                // A run tells of its own copies itself, when it is through with them.
                if pass.only.is_none() && fault.is_permanent() {
                    tell::copy_stopped(agent, copy, &error)?;
                }
                Ok(Became::Failed { error, only_this: matches!(fault, Fault::Source { .. }) })
            }
        }
    }

    /// Records a copy whose making met a defect of this program, so that it waits like others that failed.
    pub(super) fn panicked(&self, copy: &Copy, error: &anyhow::Error) -> Result<Became> {
        pauses::record(&(self.current)(), copy, error, false)?;
        Ok(Became::Failed { error: format!("{error:#}"), only_this: true })
    }

    /// Retention at the target, now that it has a new backup; gives what went wrong.
    fn retain(&self, agent: &Agent, copy: &Copy, progress: &Progress) -> Result<Option<String>> {
        let _held = self.tidying.lock().unwrap_or_else(|e| e.into_inner());
        let Err(e) = prune::at_target(agent, &copy.job, &copy.target, None, progress) else {
            return Ok(None);
        };
        let text = format!("retention {}: {e:#}", copy.target);
        tell::degraded(agent, &copy.run_id, &text)?;
        Ok(Some(text))
    }
}

/// The processes that copy inherit the priority of the thread that starts them: that of the job's engine.
fn be_a_good_neighbour(agent: &Agent, copy: &Copy) {
    let engine = agent.config.job.get(&copy.job).map(|job| &job.engine);
    // Where it is not allowed, the copy is made all the same.
    let _ = rustix::process::setpriority_process(None, engine.map_or(10, |engine| engine.nice)); // of this thread
    if engine.is_none_or(|engine| engine.ionice == IoNice::Idle) {
        let _ = crate::sys::set_idle_io_priority();
    }
}

/// Takes a copy out of the queue that retention would remove as soon as it is made: after a target was away for
/// long, newer ones leave it no place. Newer ones are made first, so that what is decided here is what would be
/// decided then. What an earlier attempt left at the target is removed; a copy that may be there as a whole, and one
/// whose target cannot be tidied, are left to be made.
fn spare(agent: &Agent, copy: &Copy, deadline: Option<Instant>, progress: &Progress) -> Result<bool> {
    if copy.location.is_some() {
        return Ok(false);
    }
    let as_if_made = Some((&copy.run_id, copy.started, copy.outcome, copy.bytes));
    let decisions = prune::plan(agent, &copy.job, &copy.target, as_if_made)?;
    let goes =
        !copy.pinned && decisions.iter().any(|decision| decision.run_id == copy.run_id && !decision.keep);
    if !goes || (copy.attempts > 0 && clean(agent, copy, deadline, progress).is_err()) {
        return Ok(false);
    }
    agent.state.copy_expired(&copy.run_id, &copy.target, agent.now())?;
    tell::copy_came_after_all(agent, copy)?;
    tracing::info!("no copy is made at {}: the policy there keeps newer ones and not this one", copy.target);
    Ok(true)
}

/// Removes what an attempt that died left at the target.
fn clean(agent: &Agent, copy: &Copy, deadline: Option<Instant>, progress: &Progress) -> Result<()> {
    let request = Request::Clean { at: agent.at(&copy.target, "")?, run: copy.run_id.clone() };
    isolate::call(&request, stall(agent, copy), deadline, progress, &mut |_| Ok(())).map(drop)
}

/// How long work at the target may make no progress.
fn stall(agent: &Agent, copy: &Copy) -> Duration {
    agent.config.job.get(&copy.job).map_or(Duration::from_secs(300), |job| job.copy_stall)
}

fn make(agent: &Agent, copy: &Copy, deadline: Option<Instant>, progress: &Progress) -> Result<()> {
    let (state, stall) = (&agent.state, stall(agent, copy));
    let (run, target) = (&copy.run_id, &copy.target);
    let to = agent.at(target, "")?;
    let depth = Depth::of(to.config.reads_back());

    // An attempt that died after its rename left a whole copy behind: it is read back and taken.
    if let Some(location) = &copy.location {
        let at = to.clone().below(location);
        let request = Request::Verify {
            at,
            run: run.clone(),
            depth: depth.unwrap_or(Depth::Lengths),
            keys: KeyFiles::default(),
        };
        if let Ok(Reply::Verified { report }) =
            isolate::call(&request, stall, deadline, progress, &mut |_| Ok(()))
            && report.problems.is_empty()
        {
            return Ok(state.copy_done(run, target, location, copy.bytes, depth.is_some(), agent.now())?);
        }
    }
    clean(agent, copy, deadline, progress)?;

    let sources = sources(agent, copy)?;
    if sources.is_empty() {
        return nothing_to_copy(agent, copy);
    }
    let locations = locations_for(agent, copy)?;
    let mut tried = Vec::new();
    let mut permanent = true;
    for from in sources {
        let request = Request::Copy {
            from: Box::new(from.clone()),
            to: Box::new(to.clone()),
            locations: locations.clone(),
            run: run.clone(),
        };
        let mut record = |location: &str| Ok(state.set_copy_location(run, target, location)?);
        let failed = match isolate::call(&request, stall, deadline, progress, &mut record) {
            Ok(Reply::Copied { location, bytes }) => {
                failpoint::hit("copy-made")?;
                return Ok(state.copy_done(run, target, &location, bytes, depth.is_some(), agent.now())?);
            }
            Ok(other) => bail!("an unexpected answer to a copy: {other:?}"),
            Err(e) => e.downcast::<FromSource>()?,
        };
        permanent &= is_damaged(agent, copy, &from, progress)? || failed.permanent;
        tried.push(failed.error);
    }
    Err(FromSource { error: tried.join("; "), permanent }.into())
}

/// Reads a backup that could not be copied where it stands: a damaged one must count as such, and somebody is told.
fn is_damaged(agent: &Agent, copy: &Copy, from: &At, progress: &Progress) -> Result<bool> {
    match verify_copy(agent, &copy.run_id, from, true, Depth::Digests, progress) {
        Ok(report) => Ok(!report.problems.is_empty()),
        Err(e) if is_interruption(&e) => Err(e),
        // It cannot be looked at, which says nothing of the backup.
        Err(_) => Ok(false),
    }
}

/// There is no good backup to copy: it expired everywhere, or is damaged everywhere.
fn nothing_to_copy(agent: &Agent, copy: &Copy) -> Result<()> {
    let damaged: Vec<String> = agent
        .state
        .copies_of(&copy.run_id)?
        .into_iter()
        .filter(|other| other.target != copy.target && other.status == CopyStatus::Corrupt)
        .map(|other| other.target.to_string())
        .collect();
    if damaged.is_empty() {
        // Keeping the entry would mean failing for ever.
        agent.state.copy_expired(&copy.run_id, &copy.target, agent.now())?;
        // Not the target's fault: its other copies go on.
        let error = "the backup expired at every other target before it could be copied".to_owned();
        return Err(FromSource { error, permanent: false }.into());
    }
    let error = format!("the backup at {} is damaged, and there is no good one to copy", damaged.join(", "));
    Err(FromSource { error, permanent: true }.into())
}

/// The folders to try for a copy at its target.
pub(in crate::ops) fn locations_for(agent: &Agent, copy: &Copy) -> Result<Vec<String>> {
    let zone =
        agent.config.job.get(&copy.job).map_or(agent.config.timezone, |job| agent.config.job_timezone(job));
    Ok(candidate_locations(
        &agent.target(&copy.target)?.template,
        copy.job.as_str(),
        &agent.config.host_name(),
        copy.started.with_timezone(&zone),
        &copy.run_id,
    ))
}

/// Everywhere the backup can be copied from, the best first: a verified copy before a complete one, the primary
/// before others, one that may be read before one that is only written to.
pub(in crate::ops) fn sources(agent: &Agent, copy: &Copy) -> Result<Vec<At>> {
    let mut kept: Vec<Copy> = agent
        .state
        .copies_of(&copy.run_id)?
        .into_iter()
        .filter(|c| c.status.is_kept() && c.target != copy.target)
        .collect();
    let unread = |c: &Copy| {
        agent.config.target.get(&c.target).is_some_and(|target| target.reads_back() == ReadBack::Never)
    };
    kept.sort_by_key(|c| (c.status != CopyStatus::Verified, unread(c), !c.primary));
    let all = kept.into_iter().filter_map(|c| agent.at(&c.target, c.location?).ok());
    Ok(all.filter(|at| !at.config.write_only()).collect())
}
