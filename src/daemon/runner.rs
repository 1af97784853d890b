//! One run on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Result, anyhow};

use super::context::{Ended, Shared};
use super::scheduler::Launch;
use crate::event::{Event, Observer, Progress};
use crate::log;
use crate::model::{JobName, RunId};
use crate::ops::{Agent, failed};
use crate::run::{self, End, Request};

/// Starts a run, with the configuration of this moment. Does nothing when the job runs already, or when the
/// daemon stops.
pub(super) fn start(shared: &Arc<Shared>, launch: Launch) {
    let agent = shared.agent();
    let Some(progress) = shared.begin(&launch.job) else { return };
    let ending = Ending {
        shared: Arc::clone(shared),
        launch,
        progress,
        locked: false,
        begun: OnceLock::new(),
        recorded: AtomicBool::new(false),
    };
    let started = thread::Builder::new().name(format!("run {}", ending.launch.job)).spawn({
        let agent = Arc::clone(&agent);
        move || run(&agent, ending)
    });
    if let Err(error) = started {
        // The ending was dropped with the closure; the occurrence counts as dealt with.
        tracing::error!("a run could not be started: no thread for it: {error}");
    }
}

/// Frees the job's place however the thread ends.
struct Ending {
    shared: Arc<Shared>,
    launch: Launch,
    progress: Arc<Progress>,
    locked: bool,
    /// The run, once the state knows of it.
    begun: OnceLock<RunId>,
    /// Set once the outcome is in the state: whatever goes wrong afterwards does not change it.
    recorded: AtomicBool,
}

impl Ending {
    fn free(&self) {
        let Launch { job, trigger, occurrence } = self.launch.clone();
        self.shared.end(&self.progress, Ended { job, occurrence, trigger, locked: self.locked });
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.free();
        self.shared.leave(&self.progress);
    }
}

/// Frees the job's place once the outcome is recorded: a further target that hangs must not hold up the next
/// run, of this job or of another one.
struct Freeing<'a> {
    ending: &'a Ending,
    watcher: Box<dyn Observer>,
}

impl Observer for Freeing<'_> {
    fn event(&self, event: &Event) {
        match event {
            Event::RunStarted { run, .. } => {
                let _ = self.ending.begun.set(run.clone()); // there is one
            }
            Event::Recorded => {
                self.ending.recorded.store(true, Ordering::Relaxed);
                self.ending.free();
            }
            _ => {}
        }
        self.watcher.event(event);
    }
}

fn run(agent: &Agent, mut ending: Ending) {
    let Ending { shared, launch, progress, .. } = &ending;
    let result = catch_unwind(AssertUnwindSafe(|| {
        if let Some(bytes) = expected(agent, &launch.job) {
            shared.expect(&launch.job, bytes);
        }
        let observer = Freeing { ending: &ending, watcher: shared.watcher.begins(&launch.job, progress) };
        let request = Request {
            job: launch.job.clone(),
            trigger: launch.trigger,
            scheduled_for: launch.occurrence,
            fast: false,
            lock_wait: None,
        };
        run::run_job(agent, &request, &observer, progress)
    }));
    // What it panicked with was logged by the hook.
    let end = result
        .unwrap_or_else(|_| Err(anyhow!("internal error; please report it, with the log before this line")));
    report(agent, &ending, &end);
    shared.watcher.ended(&launch.job, &end);
    ending.locked = matches!(end, Ok(End::Locked(_)));
}

fn report(agent: &Agent, ending: &Ending, end: &Result<End>) {
    let Ending { launch, begun, .. } = ending;
    let recorded = ending.recorded.load(Ordering::Relaxed);
    let job = launch.job.as_str();
    match end {
        Ok(End::Ran(ran)) => {
            let _entered = log::span(&ran.job, &ran.run_id).entered();
            ran.untold.iter().for_each(|problem| tracing::warn!("not told: {problem}"));
        }
        Ok(End::Locked(held)) => {
            tracing::warn!(job, "locked ({}) by {}", held.path.display(), held.holder);
        }
        Err(error) if recorded => {
            tracing::error!(job, "its run is recorded, but what follows a run failed: {error:#}");
        }
        Err(error) => {
            tracing::error!(job, "{error:#}");
            let Launch { job: name, trigger, occurrence } = launch;
            for problem in failed::record(agent, name, *trigger, *occurrence, begun.get(), error) {
                tracing::error!(job, "{problem}");
            }
        }
    }
}

/// What the sources usually hold together.
fn expected(agent: &Agent, job: &JobName) -> Option<u64> {
    let components = agent.config.job.get(job)?.source.keys();
    let usual = components.filter_map(|component| agent.state.baseline(job, component, None).ok().flatten());
    let sum = usual.map(|baseline| baseline.source_bytes).sum::<u64>();
    (sum > 0).then_some(sum)
}
