//! Copies of finished backups to further targets: a queue in the state, newest first.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `copies` | a pass through the queue: what is made next, and how many at once |
//! | `making` | one copy: made, spared, or failed |
//! | `pauses` | when the next attempt is due, and what makes it due at once |
//! | `child` | the copying itself, in a child process |

mod child;
mod making;
mod pauses;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::panics::unwinding;
use super::{Agent, at_work};
use crate::event::{Observer, Progress};
use crate::lock::ProcessIdentity;
use crate::model::{RunId, TargetName};
use crate::state::Copy;

pub(super) use child::{AtSource, copy};
pub(super) use making::{locations_for, sources};
pub use pauses::look_again;
#[cfg(test)]
pub use stand_in::{Host, stand_in};

use making::{Became, Making};

/// How long a copy is kept from others. A maker that dies or gives up is noticed earlier.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the lease of a copy that takes long is made longer.
const RENEW: Duration = Duration::from_secs(60 * 60);
/// How often it is looked how far copies are, and whether somebody wants to stop.
const TICK: Duration = Duration::from_millis(200);
/// How often a copy that somebody else makes is looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long a target that failed is left alone at least.
const REST: Duration = Duration::from_secs(60);

/// What a pass through the queue is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Only the copies of this run; one that somebody else makes is waited for. Else all that are due.
    pub only: Option<&'a RunId>,
    /// When to stop; what is left stays in the queue.
    pub deadline: Option<Instant>,
    /// What was begun before the deadline is finished.
    pub finish: bool,
    /// No restraint towards the machine's other work.
    pub fast: bool,
}

/// What a pass through the queue did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Copies made.
    pub made: u64,
    /// Copies that are not made at all: retention would remove them right away.
    pub spared: u64,
    /// Attempts that failed, with the reason.
    pub failed: Vec<(RunId, TargetName, String)>,
    /// What else went wrong at the targets, and is recorded with the runs already.
    pub degraded: Vec<(RunId, String)>,
}

/// Makes the copies that are due, the newest backup first at each target, up to `max_parallel_copies` at once. Ends
/// when nothing is left that could be made now, at the deadline, or when asked to.
pub fn drain(
    agent: &Agent,
    pass: &Pass<'_>,
    observer: &dyn Observer,
    progress: &Progress,
) -> Result<Drained> {
    let agent = Arc::new(agent.clone());
    drain_as_configured(&|| Arc::clone(&agent), pass, observer, progress)
}

/// The same, asking before each copy for the agent in use.
pub fn drain_as_configured(
    current: &(dyn Fn() -> Arc<Agent> + Sync),
    pass: &Pass<'_>,
    observer: &dyn Observer,
    progress: &Progress,
) -> Result<Drained> {
    let claimer = claimer();
    // Ends after all threads of the pass.
    let _at_work = at_work::begin(claimer.as_str());
    let making = Making {
        current,
        pass,
        claimer: &claimer,
        observer,
        tidying: Mutex::new(()),
        span: tracing::Span::current(),
    };
    let (send, ends) = channel();
    thread::scope(|scope| {
        let mut queue = Queue {
            making: &making,
            progress,
            send,
            running: Vec::new(),
            resting: Vec::new(),
            drained: Drained::default(),
        };
        let result = queue.work(scope, &ends);
        if result.is_err() {
            // Whoever still copies is stopped before the error is told: the state cannot be used.
            queue.running.iter().for_each(|running| running.progress.cancel());
        }
        result.map(|()| queue.drained)
    })
}

/// A pass at work.
struct Queue<'m, 'a> {
    making: &'m Making<'a>,
    progress: &'m Progress,
    send: Sender<End>,
    running: Vec<Running>,
    /// Targets that failed, and when: the next copy would meet the same, wherever the clock was set meanwhile.
    resting: Vec<(TargetName, Instant)>,
    drained: Drained,
}

/// A copy that is being made on a thread of its own.
struct Running {
    copy: Copy,
    /// Its own, so that it can be stopped alone.
    progress: Arc<Progress>,
    /// Bytes of it that were passed on already.
    passed_on: u64,
    renewed: Instant,
}

/// What a thread says when its copy is done with.
struct End {
    copy: Copy,
    result: Result<Became>,
}

/// What became of the search for something to do.
enum Next {
    /// A copy, which is claimed.
    Make(Box<Copy>),
    /// Something is due that others make, or that others leave no place for.
    Busy,
    /// Nothing is due.
    Nothing,
}

impl<'m> Queue<'m, '_> {
    fn work<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, ends: &Receiver<End>) -> Result<()>
    where
        'm: 'scope,
    {
        let stops = |queue: &Self| {
            queue.progress.is_cancelled()
                || queue.making.pass.deadline.is_some_and(|deadline| Instant::now() >= deadline)
        };
        loop {
            let agent = (self.making.current)();
            let at_once = agent.config.max_parallel_copies.max(1);
            let mut busy = false;
            release_dead(&agent)?;
            pauses::reconsider(&agent)?;
            self.resting.retain(|(_, since)| since.elapsed() < REST);
            while self.running.len() < at_once && !stops(self) {
                match self.next(&agent)? {
                    Next::Make(copy) => self.start(scope, &agent, *copy)?,
                    Next::Busy => {
                        busy = true;
                        break;
                    }
                    Next::Nothing => break,
                }
            }
            if self.running.is_empty() {
                // A copy of this very run that somebody else is making is waited for: it is not missing.
                if !busy || self.making.pass.only.is_none() || stops(self) {
                    return Ok(());
                }
                thread::sleep(POLL);
                continue;
            }
            self.wait(ends)?;
        }
    }

    /// Waits until a copy is done with, or for a moment.
    fn wait(&mut self, ends: &Receiver<End>) -> Result<()> {
        // Looked for again now and then: another target may have got something to do meanwhile.
        let until = Instant::now() + 10 * POLL;
        while Instant::now() < until {
            let end = ends.recv_timeout(TICK);
            self.tick()?;
            match end {
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(end) => return self.ended(end),
            }
        }
        Ok(())
    }

    /// Passes on how far the copies are, and that they should stop.
    fn tick(&mut self) -> Result<()> {
        let Making { current, claimer, .. } = *self.making;
        for running in &mut self.running {
            let bytes = running.progress.stored_bytes();
            self.progress.add_stored(bytes - running.passed_on);
            running.passed_on = bytes;
            if self.progress.is_cancelled() {
                running.progress.cancel();
            }
            if running.renewed.elapsed() >= RENEW {
                running.renewed = Instant::now();
                let Copy { run_id, target, .. } = &running.copy;
                let agent = current();
                agent.state.claim_copy(run_id, target, claimer, agent.now(), LEASE)?;
            }
        }
        Ok(())
    }

    fn ended(&mut self, end: End) -> Result<()> {
        let Copy { run_id, target, .. } = end.copy;
        self.running.retain(|running| (&running.copy.run_id, &running.copy.target) != (&run_id, &target));
        match end.result? {
            Became::Made { degraded } => {
                self.drained.made += 1;
                self.drained.degraded.extend(degraded.map(|text| (run_id, text)));
            }
            Became::Spared => self.drained.spared += 1,
            Became::Stopped => {}
            Became::Failed { error, only_this } => {
                if !only_this {
                    self.resting.push((target.clone(), Instant::now()));
                }
                self.drained.failed.push((run_id, target, error));
            }
        }
        Ok(())
    }

    /// Claims the newest copy that can be made now.
    fn next(&self, agent: &Agent) -> Result<Next> {
        let Making { pass, claimer, .. } = *self.making;
        let rests = |copy: &Copy| self.resting.iter().any(|(target, _)| *target == copy.target);
        let wanted = |copy: &Copy| pass.only.is_none_or(|run| copy.run_id == *run) && !rests(copy);
        let mut full: Vec<TargetName> = Vec::new();
        for copy in agent.state.pending_copies(agent.now())?.into_iter().filter(wanted) {
            let Some(target) = agent.config.target.get(&copy.target) else { continue };
            if full.contains(&copy.target) {
                continue;
            }
            let (now, at_most) = (agent.now(), target.max_parallel_copies.max(1));
            if agent.state.claim_copy_beside(&copy.run_id, &copy.target, claimer, now, LEASE, at_most)? {
                return Ok(Next::Make(Box::new(copy)));
            }
            full.push(copy.target);
        }
        let elsewhere = match pass.only {
            Some(run) => agent.state.claimed_copies(agent.now())?.iter().any(|copy| copy.run_id == *run),
            None => false,
        };
        Ok(if elsewhere || !full.is_empty() { Next::Busy } else { Next::Nothing })
    }

    fn start<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, agent: &Agent, copy: Copy) -> Result<()>
    where
        'm: 'scope,
    {
        let progress = Arc::<Progress>::default();
        let (making, send) = (self.making, self.send.clone());
        let (own, its) = (copy.clone(), Arc::clone(&progress));
        let spawned =
            thread::Builder::new().name(format!("copy {}", copy.target)).spawn_scoped(scope, move || {
                let result = match unwinding(|| Ok(making.one(&own, &its))) {
                    Ok(result) => result,
                    Err(panicked) => making.panicked(&own, &panicked),
                };
                let _ = send.send(End { copy: own, result }); // whoever waited is gone
            });
        if let Err(e) = spawned {
            agent.state.release_copy(&copy.run_id, &copy.target, making.claimer)?;
            return Err(anyhow::Error::from(e).context("starting a thread that makes a copy"));
        }
        self.running.push(Running { copy, progress, passed_on: 0, renewed: Instant::now() });
        Ok(())
    }
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

/// Frees the copies whose makers died at it, or ended without the state having taken that: their leases would keep
/// everybody away for long.
fn release_dead(agent: &Agent) -> Result<()> {
    for copy in agent.state.claimed_copies(agent.now())? {
        let Some(claimer) = &copy.claimer else { continue };
        if process_of(claimer).is_some_and(|process| !at_work::goes_on(&process, claimer)) {
            agent.state.release_copy(&copy.run_id, &copy.target, claimer)?;
        }
    }
    Ok(())
}
