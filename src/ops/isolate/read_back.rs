//! A copy read back, and what was found recorded and told.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use super::call::call;
use super::protocol::{At, Reply, Request};
use crate::crypt::KeyFiles;
use crate::event::Progress;
use crate::manifest::StoredFile;
use crate::model::RunId;
use crate::ops::verify::{Depth, Report, verify_files, verify_with};
use crate::ops::{Agent, tell};
use crate::state::{Copy, CopyStatus};

/// How long a read-back may make no progress.
const VERIFY_STALL: Duration = Duration::from_secs(300);

/// Reads one backup back, in a child process where the target may hang, and records what was found.
pub fn verify_copy(
    agent: &Agent,
    run: &RunId,
    at: &At,
    isolated: bool,
    depth: Depth,
    progress: &Progress,
) -> Result<Report> {
    verify_copy_with(agent, run, at, isolated, (depth, &KeyFiles::default()), progress)
}

/// The same with the keys that looking deeply at an encrypted backup needs.
pub fn verify_copy_with(
    agent: &Agent,
    run: &RunId,
    at: &At,
    isolated: bool,
    (depth, keys): (Depth, &KeyFiles),
    progress: &Progress,
) -> Result<Report> {
    let imported = agent.state.imported_files(run, &at.target)?;
    let files: Vec<StoredFile> = imported
        .into_iter()
        .map(|known| StoredFile { file: known.file, sha256: known.sha256, bytes: known.bytes })
        .collect();
    let report = if isolated {
        let request = match files.is_empty() {
            true => Request::Verify { at: at.clone(), run: run.clone(), depth, keys: keys.clone() },
            false => Request::VerifyFiles { at: at.clone(), files, depth },
        };
        match call(&request, VERIFY_STALL, None, progress, &mut |_| Ok(()))? {
            Reply::Verified { report } => report,
            other => bail!("an unexpected answer to a verification: {other:?}"),
        }
    } else if !files.is_empty() {
        verify_files(at.open()?.as_ref(), &at.location, &files, depth, progress)?
    } else {
        verify_with(at.open()?.as_ref(), &at.location, run, depth, &Arc::new(keys.read()?), progress)?
    };
    let result = report.result();
    // Told before it is recorded: what died in between is found, and told, again.
    let copies = agent.state.copies_of(run)?;
    // Retention may have taken it while it was read: that its files went is no damage.
    let is_gone = |copy: &Copy| copy.target == at.target && copy.status == CopyStatus::Expired;
    if result.is_err() && copies.iter().any(is_gone) {
        bail!("target {}: run {run} was removed while it was read", at.target);
    }
    if let Some(copy) = copies.iter().find(|copy| copy.target == at.target)
        && (depth > Depth::Lengths || result.is_err())
    {
        let folder = at.config.address(&at.location);
        tell::verified(agent, copy, &folder, &report.problems)?;
    }
    // Lengths alone do not make a copy verified.
    if depth > Depth::Lengths || result.is_err() {
        agent.state.record_verify(
            run,
            &at.target,
            result.as_ref().copied().map_err(String::as_str),
            agent.now(),
        )?;
    }
    Ok(report)
}
