//! Copies of finished backups to further targets: a queue in the state, newest first.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use super::isolate::{self, At, Reply, Request};
use super::verify::{Depth, read_manifest, verify};
use super::{Agent, pins, prune, publish, sentinel, tell};
use crate::crypt::KeyFiles;
use crate::event::{Event, Interrupted, Level, Observer, Progress};
use crate::failpoint;
use crate::lock::ProcessIdentity;
use crate::log;
use crate::manifest;
use crate::model::{RunId, TargetName};
use crate::state::{Copy, CopyFailure, CopyStatus};
use crate::target::{Cache, Stage, Target, candidate_locations};

/// The longest pause between two attempts at one copy.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// The first pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2 * 60);

/// How long a copy is kept from others. A maker that dies is noticed earlier, by its process.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a copy that somebody else makes is looked at.
const POLL: Duration = Duration::from_millis(500);

/// What a pass through the queue did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Copies made and read back.
    pub made: u64,
    /// Copies that are not made at all: retention would remove them right away.
    pub spared: u64,
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
    // A target that failed is not tried again in this pass: the next copy would meet the same.
    let mut gave_up: Vec<TargetName> = Vec::new();
    let claimer = claimer();
    loop {
        release_dead(agent)?;
        if progress.is_cancelled() {
            return Ok(drained);
        }
        let due = agent.state.pending_copies(agent.now())?;
        let next = due
            .into_iter()
            .filter(|copy| only.is_none_or(|run| copy.run_id == *run))
            .find(|copy| !gave_up.contains(&copy.target) && agent.config.target.contains_key(&copy.target));
        let Some(copy) = next else {
            // A copy of this very run that somebody else is making is waited for: it is not missing.
            let elsewhere = |run: &RunId| {
                Ok::<_, anyhow::Error>(
                    agent.state.claimed_copies(agent.now())?.iter().any(|copy| copy.run_id == *run),
                )
            };
            match only {
                Some(run) if deadline.is_none_or(|d| Instant::now() < d) && elsewhere(run)? => {
                    std::thread::sleep(POLL);
                    continue;
                }
                _ => return Ok(drained),
            }
        };
        if deadline.is_some_and(|d| Instant::now() >= d) {
            return Ok(drained);
        }
        if !agent.state.claim_copy(&copy.run_id, &copy.target, &claimer, agent.now(), LEASE)? {
            gave_up.push(copy.target);
            continue;
        }
        let _entered = log::span(&copy.job, &copy.run_id).entered();
        if spare(agent, &copy, deadline, progress)? {
            drained.spared += 1;
            continue;
        }
        observer.event(&Event::CopyStarted(copy.target.clone()));
        let result = failpoint::hit("copy").and_then(|()| make(agent, &copy, deadline, progress));
        let outcome = result.as_ref().map(|_| ()).map_err(|e| format!("{e:#}"));
        observer.event(&Event::CopyEnded(copy.target.clone(), outcome.clone()));
        match result {
            Ok(()) => {
                drained.made += 1;
                pins::carry_over(agent, &copy.run_id, &copy.target, progress)?;
                if let Some(warning) = sentinel::learn(agent, &copy.target, None)? {
                    observer.event(&Event::Note(Level::Warning, warning));
                }
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

/// Takes a copy out of the queue that retention would remove as soon as it is made: after a target was away for
/// long, newer ones leave it no place. Newer ones are made first, so that what is decided here is what would be
/// decided then. What an earlier attempt left at the target is removed; a copy that may be there as a whole, and one
/// whose target cannot be tidied, are left to be made.
fn spare(agent: &Agent, copy: &Copy, deadline: Option<Instant>, progress: &Progress) -> Result<bool> {
    if copy.location.is_some() {
        return Ok(false);
    }
    let as_if_made = Some((&copy.run_id, copy.started, copy.outcome, copy.bytes));
    let plan = prune::plan(agent, &copy.job, &copy.target, as_if_made)?;
    let goes = !copy.pinned
        && plan.decisions.iter().any(|decision| decision.run_id == copy.run_id && !decision.keep);
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

/// Names one pass through the queue: its process, and among those of the process itself.
fn claimer() -> String {
    let ProcessIdentity { boot_id, pid, start_ticks } = ProcessIdentity::current();
    format!("{boot_id}/{pid}/{}/{:08x}", start_ticks.unwrap_or(0), rand::random::<u32>())
}

/// The process behind a claim; none where the name is not one of [`claimer`].
fn process_of(claimer: &str) -> Option<ProcessIdentity> {
    let mut parts = claimer.split('/');
    let (boot_id, pid, ticks) =
        (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(ProcessIdentity { boot_id, pid, start_ticks: Some(ticks).filter(|ticks| *ticks != 0) })
}

/// Frees the copies whose makers died at it: their leases would keep everybody away for long.
fn release_dead(agent: &Agent) -> Result<()> {
    for copy in agent.state.claimed_copies(agent.now())? {
        let Some(claimer) = &copy.claimer else { continue };
        if process_of(claimer).is_some_and(|process| !process.is_alive()) {
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
    let to = agent.at(target, "")?;
    let stall = stall(agent, copy);
    let reads_back = !to.config.write_only();

    // An attempt that died after its rename left a whole copy behind: it is read back and taken.
    if let Some(location) = &copy.location {
        let at = to.clone().below(location);
        let request =
            Request::Verify { at, run: run.clone(), depth: Depth::Digests, keys: KeyFiles::default() };
        if let Ok(Reply::Verified { report }) =
            isolate::call(&request, stall, deadline, progress, &mut |_| Ok(()))
            && report.problems.is_empty()
        {
            return Ok(state.copy_done(run, target, location, report.bytes, true, agent.now())?);
        }
    }
    clean(agent, copy, deadline, progress)?;

    let Some(from) = source(agent, copy)? else {
        // Nothing is left to copy; keeping the entry would mean failing for ever.
        state.copy_expired(run, target, agent.now())?;
        bail!("the backup expired at every other target before it could be copied");
    };
    let locations = locations_for(agent, copy)?;
    let request = Request::Copy { from: Box::new(from), to: Box::new(to), locations, run: run.clone() };
    let mut record = |location: &str| Ok(state.set_copy_location(run, target, location)?);
    match isolate::call(&request, stall, deadline, progress, &mut record)? {
        Reply::Copied { location, bytes } => {
            failpoint::hit("copy-made")?;
            Ok(state.copy_done(run, target, &location, bytes, reads_back, agent.now())?)
        }
        other => bail!("an unexpected answer to a copy: {other:?}"),
    }
}

/// The folders to try for a copy at its target.
pub(super) fn locations_for(agent: &Agent, copy: &Copy) -> Result<Vec<String>> {
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

/// Where the backup can be copied from: a verified copy before a complete one, the primary before others.
fn source(agent: &Agent, copy: &Copy) -> Result<Option<At>> {
    Ok(sources(agent, copy)?.into_iter().next())
}

/// Everywhere the backup can be copied from, the best first.
pub(super) fn sources(agent: &Agent, copy: &Copy) -> Result<Vec<At>> {
    let mut kept: Vec<Copy> = agent
        .state
        .copies_of(&copy.run_id)?
        .into_iter()
        .filter(|c| c.status.is_kept() && c.target != copy.target)
        .collect();
    kept.sort_by_key(|c| (c.status != CopyStatus::Verified, !c.primary));
    let all = kept.into_iter().filter_map(|c| agent.at(&c.target, c.location?).ok());
    Ok(all.filter(|at| !at.config.write_only()).collect())
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
    let (source, target) = (from.open()?, to.open()?);
    let manifest = read_manifest(source.as_ref(), &from.location)?;
    if manifest.run_id != *run {
        bail!("target {}: {} holds run {}, not {run}", from.target, from.location, manifest.run_id);
    }
    target.probe()?;
    let mut stage = target.stage(run, locations)?;
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
    // Every part was compared by the store as it came, and nothing more can be known from here.
    if to.config.write_only() {
        return Ok(Reply::Copied { location, bytes });
    }
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
    if let Ok(length) = input.read_at().length() {
        output.expect(length);
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::config;
    use crate::event::Silent;
    use crate::model::Outcome;
    use crate::state::{EndedRun, NewCopy, NewRun, RunTrigger, State};

    #[test]
    fn a_claim_names_its_process_and_its_pass() {
        assert_eq!(process_of(&claimer()), Some(ProcessIdentity::current()));
        assert_ne!(claimer(), claimer());
        assert_eq!(process_of("somebody"), None);
    }

    #[test]
    fn a_copy_whose_maker_died_is_free_again_at_once_and_one_whose_maker_lives_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let config = config::adhoc(&[], folder.path(), None);
        let state = State::open(&config.state_dir, SystemClock.now()).unwrap();
        let agent = Agent {
            config: Arc::new(config),
            state: state.clone(),
            clock: Arc::new(SystemClock),
            channels: Arc::default(),
            command: "agent".to_owned(),
        };
        let run_id = RunId::generate(agent.now());
        let (job, target): (_, TargetName) = ("web".parse().unwrap(), "nas".parse().unwrap());
        let run = NewRun {
            run_id: run_id.clone(),
            job,
            trigger: RunTrigger::Manual,
            scheduled_for: None,
            process: ProcessIdentity::current(),
            started: agent.now(),
        };
        state.begin_run(&run).unwrap();
        let pending = NewCopy {
            target: target.clone(),
            primary: false,
            status: CopyStatus::Pending,
            location: None,
            bytes: 1,
        };
        state
            .end_run(&EndedRun::new(run_id.clone(), Outcome::Success, agent.now()), &[pending], &[])
            .unwrap();
        let claimed_by = |claimer: &str| {
            assert!(state.claim_copy(&run_id, &target, claimer, agent.now(), LEASE).unwrap());
            let cancelled = Progress::default();
            cancelled.cancel();
            drain(&agent, None, None, &Silent, &cancelled).unwrap();
            !state.claimed_copies(agent.now()).unwrap().is_empty()
        };
        let dead = format!("{}/{}/1/00000000", crate::lock::boot_id(), std::process::id());
        assert!(!claimed_by(&dead));
        assert!(claimed_by(&claimer()));
    }
}
