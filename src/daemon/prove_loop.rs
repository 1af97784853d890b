//! What proves that backups come back: reading them back, and drills. Each on a thread of its own, with the
//! priority of work that nobody waits for; the processes that touch targets inherit it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::context::Shared;
use super::tend_loop::Trouble;
use crate::crypt::KeyFiles;
use crate::model::{JobName, TargetName};
use crate::ops::rounds::{self, Done};
use crate::ops::{Agent, drill, load};

/// How often it is looked whether something is due.
const LOOK: Duration = Duration::from_secs(60);
/// How long a target that could not be looked at is left alone.
const REST: Duration = Duration::from_secs(60 * 60);
/// Below everybody else.
const NICE: i32 = 19;

fn stay_in_the_background() {
    // Where it is not allowed, the work is done all the same.
    let _ = rustix::process::setpriority_process(None, NICE); // Linux: of this thread
    let _ = crate::sys::set_idle_io_priority();
}

/// Reads back what is due at the targets.
pub(super) fn verify(shared: &Shared) {
    stay_in_the_background();
    let mut trouble = Trouble::default();
    let mut resting: BTreeMap<TargetName, Instant> = BTreeMap::new();
    while !shared.is_stopping() {
        let agent = shared.agent();
        resting.retain(|_, since| since.elapsed() < REST);
        let mut skip: BTreeSet<TargetName> = resting.keys().cloned().collect();
        let result = rounds::pass(&agent, &mut skip, &shared.proving, &mut |done| match done {
            Done::Reading(copy) => tracing::debug!("reading run {} back from {}", copy.run_id, copy.target),
            Done::Read(copy, report) => {
                match report.result() {
                    Ok(()) => {
                        tracing::info!("run {} at {} was read back: as written", copy.run_id, copy.target)
                    }
                    Err(problems) => tracing::error!(
                        "run {} at {} was read back and is damaged: {problems}",
                        copy.run_id,
                        copy.target
                    ),
                }
                shared.messages.wake();
                shared.health.wake();
            }
            Done::Unread(copy, error) => {
                tracing::warn!("run {} at {} could not be read back: {error:#}", copy.run_id, copy.target)
            }
            Done::Repaired(copy, Ok(_)) => {
                tracing::info!("run {} at {} was replaced by a good copy", copy.run_id, copy.target);
                shared.messages.wake();
                shared.health.wake();
            }
            Done::Repaired(copy, Err(error)) => {
                tracing::error!("run {} at {} was not repaired: {error:#}", copy.run_id, copy.target)
            }
        });
        trouble.note("reading backups back", result);
        shared.messages.wake();
        for target in skip {
            resting.entry(target).or_insert_with(Instant::now);
        }
        shared.verifier.wait(LOOK);
    }
}

/// Makes the drills that are due, and deals with those that died.
pub(super) fn drills(shared: &Shared) {
    stay_in_the_background();
    let mut trouble = Trouble::default();
    let mut resting: BTreeMap<JobName, Instant> = BTreeMap::new();
    while !shared.is_stopping() {
        let agent = shared.agent();
        trouble.note("drills", drill_all(shared, &agent, &mut resting));
        shared.drills.wait(LOOK);
    }
}

fn drill_all(shared: &Shared, agent: &Agent, resting: &mut BTreeMap<JobName, Instant>) -> Result<()> {
    if drill::reap(agent)? > 0 {
        tracing::warn!("a drill had died: what it left was removed");
        shared.health.wake();
    }
    // What is tried again is told in the end.
    for left in load::reap(agent)?.into_iter().filter(|left| left.ended) {
        match left.bad {
            true => tracing::error!("{}", left.text),
            false => tracing::warn!("{}", left.text),
        }
    }
    resting.retain(|_, since| since.elapsed() < REST);
    for job in drill::due(agent)? {
        if shared.is_stopping() {
            return Ok(());
        }
        if resting.contains_key(&job) {
            continue;
        }
        tracing::info!("job {job}: a drill begins");
        match drill::drill(agent, &job, None, &KeyFiles::default(), &shared.proving) {
            Ok(done) if done.ok == Some(true) => {
                tracing::info!("job {job}: run {} came back from {} as it should", done.run_id, done.target)
            }
            Ok(done) => tracing::error!(
                "job {job}: run {} did not come back from {}: {}",
                done.run_id,
                done.target,
                done.result.problems.join("; ")
            ),
            Err(_) if shared.is_stopping() => return Ok(()),
            Err(error) => {
                // There is no backup yet, or the scratch folder is missing: that does not change by the minute.
                tracing::warn!("job {job}: there was no drill: {error:#}");
                resting.insert(job, Instant::now());
            }
        }
        shared.messages.wake();
        shared.health.wake();
    }
    Ok(())
}
