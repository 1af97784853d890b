//! What is done beside runs: messages sent, late copies made, dead runs dealt with, old records removed. Each
//! on a thread of its own, because each can wait for something different for a long time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::context::Shared;
use crate::event::{Event, Observer};
use crate::lock::{FileLock, LockMode};
use crate::log;
use crate::model::{JobName, RunId};
use crate::ops::reap::{self, Fate};
use crate::ops::{Agent, copies, pins, tell};
use crate::state::write_status;

/// How often each of these looks, without being woken.
const LOOK: Duration = Duration::from_secs(60);
/// How often the queue of copies is looked at: retries are due to the minute.
const LOOK_FOR_COPIES: Duration = Duration::from_secs(30);
/// How long a target that could not be told of a pin is left alone.
const PINS_AGAIN: Duration = Duration::from_secs(15 * 60);
/// How often old records are removed.
const EXPIRE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the last delivery looks whether the runs have ended.
const POLL: Duration = Duration::from_millis(50);

/// Logs a problem once for as long as it stays the same.
#[derive(Default)]
pub(super) struct Trouble(Option<String>);

impl Trouble {
    pub(super) fn note(&mut self, what: &str, result: Result<()>) {
        let text = result.err().map(|error| format!("{error:#}"));
        if let Some(text) = text.as_ref().filter(|text| self.0.as_ref() != Some(*text)) {
            tracing::error!("{what}: {text}");
        }
        self.0 = text;
    }
}

/// Queues what is due by the passing of time, and sends what is queued. When the daemon stops it waits for
/// the runs, and sends what they left.
pub(super) fn messages(shared: &Shared) {
    let mut trouble = Trouble::default();
    loop {
        let stopping = shared.is_stopping();
        while stopping && shared.is_busy() {
            thread::sleep(POLL);
        }
        mend_channels(shared);
        let agent = shared.agent();
        trouble.note("queueing messages", tell::by_time(&agent));
        let delivery = tell::deliver(&agent);
        delivery.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
        if delivery.sent + delivery.failed + delivery.given_up > 0 {
            shared.health.wake();
        }
        if stopping {
            return;
        }
        shared.messages.wait(LOOK.min(agent.config.check_interval));
    }
}

/// Tries whether channels that could not be used can be now: somebody may have put a file where it belongs,
/// and should not have to think of a reload for what waits to go out.
fn mend_channels(shared: &Shared) {
    let agent = shared.agent();
    if !agent.channels.iter().any(|channel| channel.is_broken()) {
        return;
    }
    let made = crate::ops::channels::channels(&agent.config);
    let broken = |channels: &[Arc<crate::notify::Channel>]| {
        channels.iter().filter(|channel| channel.is_broken()).count()
    };
    if broken(&made) < broken(&agent.channels) {
        tracing::info!("a channel that could not be used can be used again");
        shared.exchange_agent(Agent { channels: Arc::new(made), ..Agent::clone(&agent) });
    }
}

/// Makes the copies that runs left behind, and tells targets of pins they do not know yet.
pub(super) fn copies(shared: &Shared) {
    let mut trouble = Trouble::default();
    let (mut pin_trouble, mut pins_from) = (Trouble::default(), Instant::now());
    while !shared.is_stopping() {
        let drained = copies::drain_as_configured(
            &|| shared.agent(),
            &copies::Pass::default(),
            &Logged,
            &shared.copying,
        );
        if drained.as_ref().is_ok_and(|drained| drained.made > 0 || !drained.failed.is_empty()) {
            shared.messages.wake();
            shared.health.wake();
        }
        trouble.note("making late copies", drained.map(drop));
        if Instant::now() >= pins_from {
            let told =
                pins::tell_all(&shared.agent(), &shared.copying).and_then(|told| match told.failed.first() {
                    Some((run, target, why)) => bail!("run {run} at {target}: {why}"),
                    None => Ok(()),
                });
            if told.is_err() {
                pins_from = Instant::now() + PINS_AGAIN;
            }
            pin_trouble.note("telling a target which backups are pinned", told);
        }
        shared.copies.wait(LOOK_FOR_COPIES);
    }
}

/// Copies made late are logged by the daemon itself: their run is over.
struct Logged;

impl Observer for Logged {
    fn event(&self, event: &Event) {
        match event {
            Event::CopyStarted { target, .. } => tracing::info!("making a late copy at {target}"),
            Event::CopyEnded(target, Ok(looked)) => {
                tracing::info!("the late copy at {target} is made, {looked}")
            }
            Event::CopyEnded(target, Err(error)) => tracing::warn!("no late copy at {target} yet: {error}"),
            _ => {}
        }
    }
}

/// Deals with runs that died while nobody looked, and removes old records.
pub(super) fn reaper(shared: &Shared) {
    let mut trouble = Trouble::default();
    let mut expired: Option<Instant> = None;
    while !shared.is_stopping() {
        shared.reaper.wait(LOOK);
        let agent = shared.agent();
        let reaped = reap::all(&agent).map(|reaped| {
            if !reaped.is_empty() {
                log(&agent, &reaped);
                shared.messages.wake();
                shared.copies.wake();
                shared.health.wake();
            }
        });
        trouble.note("looking for dead runs", reaped);
        if expired.is_none_or(|at| at.elapsed() >= EXPIRE) {
            expired = Some(Instant::now());
            trouble.note("removing old records", expire(&agent));
        }
    }
}

fn expire(agent: &Agent) -> Result<()> {
    let (logs, messages) = (agent.state.expire_logs(agent.now())?, agent.state.expire_messages(agent.now())?);
    tracing::debug!("{logs} logs and {messages} messages were old enough to be removed");
    Ok(())
}

/// Deals with the runs that an earlier life of the daemon left dead: each job on a thread of its own, because
/// its backup may have to be read back, or its target may hang. Until that is done the job is not started.
pub(super) fn reap_at_start(shared: &Arc<Shared>) -> Result<()> {
    let running = shared.state.all_running()?;
    let dead: BTreeSet<JobName> =
        running.into_iter().filter(|run| !reap::is_alive(run)).map(|run| run.job).collect();
    shared.set_reaping(dead.clone());
    for job in dead {
        let reaping = Reaping { shared: Arc::clone(shared), job };
        thread::Builder::new().name("reap".to_owned()).spawn(move || {
            let Reaping { shared, job } = &reaping;
            if let Err(error) = reap_job(&shared.agent(), job) {
                tracing::error!(job = job.as_str(), "dealing with a dead run: {error:#}");
            }
        })?;
    }
    Ok(())
}

/// Lets the job be started again, however its thread ends.
struct Reaping {
    shared: Arc<Shared>,
    job: JobName,
}

impl Drop for Reaping {
    fn drop(&mut self) {
        self.shared.reaped(&self.job);
    }
}

fn reap_job(agent: &Agent, job: &JobName) -> Result<()> {
    // Held by somebody who then does the same.
    let Some(_lock) = FileLock::try_acquire(&agent.lock_path(job), LockMode::Private)? else { return Ok(()) };
    log(agent, &reap::of_job(agent, job)?);
    write_status(&agent.state, agent.now())?;
    Ok(())
}

fn log(agent: &Agent, reaped: &[(RunId, Fate)]) {
    for (run, fate) in reaped {
        let job = agent.state.run(run).ok().flatten().map(|run| run.job);
        let _entered = job.map(|job| log::span(&job, run).entered());
        match fate {
            Fate::Interrupted => {
                tracing::warn!("the run had died: it is marked interrupted, its leftovers are removed")
            }
            Fate::Adopted(outcome) => {
                tracing::warn!(
                    "the run had died after it had published: its backup is there and counts ({outcome})"
                );
            }
            Fate::Unknown(why) => {
                tracing::warn!("the run has died, and its target cannot be looked at: {why}")
            }
        }
    }
}
