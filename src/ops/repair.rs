//! A damaged copy replaced by a good one from another target.
//!
//! The fresh copy is staged, published beside the damaged one and read back; only then the damaged one goes.
//! Cut short anywhere, the next repair finds what is there: a fresh copy that is whole is taken as it is.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::copies::{self, locations_for, sources};
use super::isolate::{self, At, Reply, Request, verify_copy};
use super::verify::{Depth, verify};
use super::{Agent, locks, pins, tell};
use crate::event::{Interrupted, Progress};
use crate::failpoint;
use crate::lock::FileLock;
use crate::model::{RunId, TargetName};
use crate::state::{Copy, CopyStatus};
use crate::target::Removal;

/// What came of the repair of one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// It was replaced.
    Replaced {
        /// The target the good copy came from.
        from: TargetName,
        /// Its folder now.
        location: String,
        /// Bytes stored.
        bytes: u64,
        /// Why the damaged folder is still there, when it could not be removed.
        left: Option<String>,
    },
    /// It was read back once more before anything was touched, and is as it was written.
    Whole,
}

/// Holds the one place where copies are repaired on this host.
pub fn lock(agent: &Agent) -> Result<FileLock> {
    try_lock(agent)?.context("another repair is under way on this host")
}

/// The same. None while a repair is under way.
pub fn try_lock(agent: &Agent) -> Result<Option<FileLock>> {
    locks::beside(agent, "all.repair")
}

/// The damaged copies, newest backup first: of one run or all, at one target or all.
pub fn damaged(agent: &Agent, run: Option<&RunId>, target: Option<&TargetName>) -> Result<Vec<Copy>> {
    let mut found = agent.state.copies(None, target)?;
    found.retain(|c| c.status == CopyStatus::Corrupt && run.is_none_or(|run| c.run_id == *run));
    Ok(found)
}

/// Repairs one damaged copy. Without a good one elsewhere nothing is touched, and the error says so.
pub fn repair(agent: &Agent, copy: &Copy, progress: &Progress) -> Result<Repaired> {
    let (run, target) = (&copy.run_id, &copy.target);
    let location = copy.location.clone().with_context(|| format!("run {run} has no folder at {target}"))?;
    let bad = agent.at(target, location)?;
    // The damage may have been a share that was not there, or a disk that answers again.
    if verify_copy(agent, run, &bad, true, Depth::Digests, progress)?.problems.is_empty() {
        return Ok(Repaired::Whole);
    }
    if copy.imported {
        bail!(
            "the archive in {} at {target} was made by another program, and there is no other copy of it",
            bad.location
        );
    }
    let stall = agent.config.job.get(&copy.job).map_or(Duration::from_secs(300), |job| job.copy_stall);
    let mut tried = Vec::new();
    for from in sources(agent, copy)? {
        let request = Request::Repair {
            from: Box::new(from.clone()),
            bad: Box::new(bad.clone()),
            locations: locations_for(agent, copy)?,
            run: run.clone(),
        };
        match isolate::call(&request, stall, None, progress, &mut |_| Ok(())) {
            Ok(Reply::Repaired { location, bytes, left }) => {
                failpoint::hit("repair-made")?;
                let folder = bad.config.address(&location);
                // It was damaged until here; told before it is recorded, as everything is.
                let damaged = Copy { status: CopyStatus::Corrupt, ..copy.clone() };
                tell::verified(agent, &damaged, &folder, &[])?;
                agent.state.copy_repaired(run, target, &location, bytes, agent.now())?;
                pins::carry_over(agent, run, target, progress)?;
                return Ok(Repaired::Replaced { from: from.target, location, bytes, left });
            }
            Ok(other) => bail!("an unexpected answer to a repair: {other:?}"),
            Err(e) if e.is::<Interrupted>() => return Err(e),
            Err(e) => {
                tried.push(format!("from {}: {e:#}", from.target));
                // It may be that one that is damaged: then it must count as such.
                match verify_copy(agent, run, &from, true, Depth::Digests, progress) {
                    Err(e) if e.is::<Interrupted>() => return Err(e),
                    _ => {}
                }
            }
        }
    }
    if tried.is_empty() {
        bail!(
            "there is no good copy of run {run} at another target: the damaged one at {target} stays as it is ({} may still bring most of it back)",
            format_args!("`{} restore {run} --target {target} --keep-going`", agent.command)
        );
    }
    bail!("no good copy of run {run} could be made, the damaged one at {target} stays: {}", tried.join("; "))
}

/// The replacing itself, in the child.
pub(super) fn replace(
    from: &At,
    bad: &At,
    locations: &[String],
    run: &RunId,
    progress: &Progress,
    publishing: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    let target = bad.open()?;
    target.clean(run)?;
    let mut made = None;
    // A repair that was cut short after publishing left this.
    for location in locations.iter().filter(|location| **location != bad.location) {
        if !target.holds(location, run)? {
            continue;
        }
        let report = verify(target.as_ref(), location, run, Depth::Digests, progress)?;
        if report.problems.is_empty() {
            made = Some((location.clone(), report.bytes));
            break;
        }
        target.remove(location, run)?;
    }
    let (location, bytes) = match made {
        Some(made) => made,
        None => match copies::copy(from, bad, locations, run, Some(Depth::Digests), progress, publishing)? {
            Reply::Copied { location, bytes } => (location, bytes),
            other => bail!("an unexpected answer to a copy: {other:?}"),
        },
    };
    // With the damaged folder gone altogether the fresh one may stand in its very place.
    let left = match location == bad.location {
        true => None,
        false => match target.remove(&bad.location, run) {
            Ok(Removal::Removed) => None,
            Ok(Removal::Retained { .. }) => Some("the storage does not let it go yet".to_owned()),
            Err(e) => Some(format!("{e:#}")),
        },
    };
    Ok(Reply::Repaired { location, bytes, left })
}
