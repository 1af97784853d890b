//! Copies of finished backups to further targets: a queue in the state, newest first.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use super::isolate::{self, At, Reply, Request};
use super::verify::{Depth, read_manifest, verify};
use super::{Agent, prune, publish, tell};
use crate::event::{Event, Interrupted, Observer, Progress};
use crate::failpoint;
use crate::lock::ProcessIdentity;
use crate::manifest;
use crate::model::{RunId, TargetName};
use crate::state::{Copy, CopyFailure, CopyStatus};
use crate::target::{Cache, Stage, Target, candidate_locations};

/// The longest pause between two attempts at one copy.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// The first pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2 * 60);

/// What a pass through the queue did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Copies made and read back.
    pub made: u64,
    /// Attempts that failed, with the reason.
    pub failed: Vec<(RunId, TargetName, String)>,
    /// What else went wrong at the targets, and is recorded with the runs already.
    pub degraded: Vec<(RunId, String)>,
}

/// Makes the copies that are due, newest backup first: of one run, or of all. Stops at `deadline`, or when
/// asked to; what is left stays in the queue.
pub fn drain(
    agent: &Agent,
    only: Option<&RunId>,
    deadline: Option<Instant>,
    observer: &dyn Observer,
    progress: &Progress,
) -> Result<Drained> {
    let mut drained = Drained::default();
    let claimer = serde_json::to_string(&ProcessIdentity::current())?;
    free_claims_of_the_dead(agent)?;
    // A target that failed is not tried again in this pass: the next copy would meet the same.
    let mut gave_up: Vec<TargetName> = Vec::new();
    loop {
        if progress.is_cancelled() {
            return Ok(drained);
        }
        let due = agent.state.pending_copies(agent.now())?;
        let next = due
            .into_iter()
            .filter(|copy| only.is_none_or(|run| copy.run_id == *run))
            .find(|copy| !gave_up.contains(&copy.target) && agent.config.target.contains_key(&copy.target));
        let Some(copy) = next else { return Ok(drained) };
        if deadline.is_some_and(|d| Instant::now() >= d) {
            return Ok(drained);
        }
        let lease = Duration::from_secs(24 * 60 * 60);
        if !agent.state.claim_copy(&copy.run_id, &copy.target, &claimer, agent.now(), lease)? {
            gave_up.push(copy.target);
            continue;
        }
        observer.event(&Event::CopyStarted(copy.target.clone()));
        let result = failpoint::hit("copy").and_then(|()| make(agent, &copy, deadline, progress));
        let outcome = result.as_ref().map(|_| ()).map_err(|e| format!("{e:#}"));
        observer.event(&Event::CopyEnded(copy.target.clone(), outcome.clone()));
        match result {
            Ok(()) => {
                drained.made += 1;
                tell::copy_came_after_all(agent, &copy)?;
                if let Err(e) = prune::at_target(agent, &copy.job, &copy.target, None, progress) {
                    let text = format!("retention {}: {e:#}", copy.target);
                    tell::degraded(agent, &copy.run_id, &text)?;
                    drained.degraded.push((copy.run_id, text));
                }
            }
            Err(e) if e.is::<Interrupted>() => {
                agent.state.release_copy(&copy.run_id, &copy.target, &claimer)?;
                return Ok(drained);
            }
            Err(_) => {
                let error = outcome.err().unwrap_or_default();
                let failure = CopyFailure {
                    error: error.clone(),
                    next_attempt: Some(next_attempt(&copy, agent.now())),
                    permanent: false,
                };
                agent.state.copy_failed(&copy.run_id, &copy.target, &failure)?;
                gave_up.push(copy.target.clone());
                drained.failed.push((copy.run_id, copy.target, error));
            }
        }
    }
}

/// A claim outlives the process that made it; without this, its copy would wait until the lease runs out.
fn free_claims_of_the_dead(agent: &Agent) -> Result<()> {
    for copy in agent.state.claimed_copies()? {
        let Some(claimer) = &copy.claimer else { continue };
        // A claim that cannot be read is an older version's; it runs out by itself.
        let Ok(process) = serde_json::from_str::<ProcessIdentity>(claimer) else { continue };
        if !process.is_alive() {
            agent.state.release_copy(&copy.run_id, &copy.target, claimer)?;
        }
    }
    Ok(())
}

/// Doubling pauses with jitter, so that many hosts do not come back to a NAS at the same second.
fn next_attempt(copy: &Copy, now: DateTime<Utc>) -> DateTime<Utc> {
    let doubled = FIRST_PAUSE.saturating_mul(1 << copy.attempts.min(10));
    let pause = doubled.min(LONGEST_PAUSE);
    now + pause.mul_f64(rand::random_range(0.8..1.2))
}

fn make(agent: &Agent, copy: &Copy, deadline: Option<Instant>, progress: &Progress) -> Result<()> {
    let state = &agent.state;
    let (run, target) = (&copy.run_id, &copy.target);
    let config = agent.target(target)?;
    let to = At { target: target.clone(), config: config.clone(), location: String::new() };
    let stall = agent.config.job.get(&copy.job).map_or(Duration::from_secs(300), |job| job.copy_stall);

    // An attempt that died after its rename left a whole copy behind: it is read back and taken.
    if let Some(location) = &copy.location {
        let at = At { location: location.clone(), ..to.clone() };
        let request = Request::Verify { at, run: run.clone(), depth: Depth::Digests };
        if let Ok(Reply::Verified { report }) =
            isolate::call(&request, stall, deadline, progress, &mut |_| Ok(()))
            && report.problems.is_empty()
        {
            return Ok(state.copy_done(run, target, location, report.bytes, true, agent.now())?);
        }
    }
    let clean = Request::Clean { at: to.clone(), run: run.clone() };
    isolate::call(&clean, stall, deadline, progress, &mut |_| Ok(()))?;

    let Some(from) = source(agent, copy)? else {
        // Nothing is left to copy; keeping the entry would mean failing for ever.
        state.copy_expired(run, target, agent.now())?;
        bail!("the backup expired at every other target before it could be copied");
    };
    let zone =
        agent.config.job.get(&copy.job).map_or(agent.config.timezone, |job| agent.config.job_timezone(job));
    let locations = candidate_locations(
        &config.template,
        copy.job.as_str(),
        &agent.config.host_name(),
        copy.started.with_timezone(&zone),
        run,
    );
    let request = Request::Copy { from, to, locations, run: run.clone() };
    let mut record = |location: &str| Ok(state.set_copy_location(run, target, location)?);
    match isolate::call(&request, stall, deadline, progress, &mut record)? {
        Reply::Copied { location, bytes } => {
            failpoint::hit("copy-made")?;
            Ok(state.copy_done(run, target, &location, bytes, true, agent.now())?)
        }
        other => bail!("an unexpected answer to a copy: {other:?}"),
    }
}

/// Where the backup can be copied from: a verified copy before a complete one, the primary before others.
fn source(agent: &Agent, copy: &Copy) -> Result<Option<At>> {
    let mut kept: Vec<Copy> = agent
        .state
        .copies_of(&copy.run_id)?
        .into_iter()
        .filter(|c| c.status.is_kept() && c.target != copy.target)
        .collect();
    kept.sort_by_key(|c| (c.status != CopyStatus::Verified, !c.primary));
    Ok(kept.into_iter().find_map(|c| {
        let config = agent.config.target.get(&c.target)?.clone();
        Some(At { target: c.target, config, location: c.location? })
    }))
}

/// The copying itself, in the child: every byte is digested on its way and compared with the manifest before
/// the copy is published.
pub(super) fn copy(
    from: &At,
    to: &At,
    locations: &[String],
    run: &RunId,
    progress: &Progress,
    publishing: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    let (source, target) = (from.open(), to.open());
    let manifest = read_manifest(source.as_ref(), &from.location)?;
    if manifest.run_id != *run {
        bail!("target {}: {} holds run {}, not {run}", from.target, from.location, manifest.run_id);
    }
    target.probe()?;
    let mut stage = target.stage(run)?;
    let staged =
        copy_files(source.as_ref(), &from.location, stage.as_mut(), &manifest, progress).and_then(|bytes| {
            publish::publish(stage.as_mut(), locations, publishing).map(|location| (bytes, location))
        });
    let (bytes, location) = match staged {
        Ok(done) => done,
        Err(e) => {
            let _ = stage.abandon(); // the error to report is the first one; the next attempt cleans up
            return Err(e);
        }
    };
    let read_back = verify(target.as_ref(), &location, run, Depth::Digests, progress);
    match read_back.and_then(|report| report.result().map_err(|problems| anyhow!("{problems}"))) {
        Ok(()) => Ok(Reply::Copied { location, bytes }),
        Err(e) => {
            // It stays in the queue, so that a better one is made; this one must not be found meanwhile.
            let _ = target.remove(&location, run); // the error to report is the first one
            Err(e.context("the copy was read back and differs"))
        }
    }
}

fn copy_files(
    source: &dyn Target,
    location: &str,
    stage: &mut dyn Stage,
    manifest: &manifest::Manifest,
    progress: &Progress,
) -> Result<u64> {
    let mut total = 0;
    for stored in manifest.files() {
        let (bytes, digest) = copy_file(source, location, stage, &stored.file, progress)?;
        if bytes != stored.bytes || digest != stored.sha256 {
            bail!(
                "target {}: {} in {location} is damaged ({bytes} bytes, digest {digest}): it was not copied",
                source.name(),
                stored.file
            );
        }
        total += bytes;
    }
    for name in [manifest::RESTORE_FILE, manifest::SUMS_FILE, manifest::FILE] {
        total += copy_file(source, location, stage, name, progress)?.0;
    }
    Ok(total)
}

fn copy_file(
    source: &dyn Target,
    location: &str,
    stage: &mut dyn Stage,
    file: &str,
    progress: &Progress,
) -> Result<(u64, crate::model::Sha256)> {
    let mut input = source.open(location, file, Cache::Warm)?;
    let mut output = stage.create(file)?;
    let mut digest = <sha2::Sha256 as sha2::Digest>::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let got = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).with_context(|| format!("target {}: reading {file}", source.name())),
        };
        output.write_all(&buffer[..got])?;
        sha2::Digest::update(&mut digest, &buffer[..got]);
        bytes += got as u64;
        progress.add_stored(got as u64);
    }
    output.finish(bytes)?;
    Ok((bytes, crate::model::Sha256(sha2::Digest::finalize(digest).into())))
}
