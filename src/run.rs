//! One run of a job, from lock to telling: the table of contents of a backup.
//!
//! ```text
//! lock → preflight → capture → publish → read back → retention → record, unlock → copies → tell
//! ```
//!
//! The commit point is a backup that was published and read back at the primary target. Whatever fails
//! before it makes the run a failure and leaves no backup behind; whatever fails later degrades the run, and
//! changes neither its outcome nor the last success.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `run` | the order of things |
//! | `running` | a run from its begin to its end: its steps, what it tells |
//! | `making` | what the steps do to make a backup, and to take back a bad one |
//! | `ending` | the end: recorded, copied, told, shown |
//! | `minder` | the watch that ends a run that takes too long |

mod ending;
mod making;
mod minder;
mod running;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::event::{Event, Observer, Progress, Step};
use crate::manifest::Manifest;
use crate::model::{JobName, Outcome, RunId, TargetName};
use crate::ops::hooks::{Hooks, Scope, Verdict};
use crate::ops::locks::{self, Held};
use crate::ops::panics::unwinding;
use crate::ops::prune::Pruned;
use crate::ops::{Agent, preflight, reap, tell};
use crate::source;
use crate::state::{RunTrigger, write_status};

use making::Made;
use minder::Minder;
use running::Running;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The job.
    pub job: JobName,
    /// What started the run.
    pub trigger: RunTrigger,
    /// The scheduled moment it answers.
    pub scheduled_for: Option<DateTime<Utc>>,
    /// All cores, and no restraint towards the machine's other work.
    pub fast: bool,
    /// How long to wait for the locks.
    pub lock_wait: Option<Duration>,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// It did not begin: the job is locked.
    Locked(Held),
    /// It ran.
    Ran(Box<Ran>),
}

/// A run that ended.
#[derive(Debug)]
pub struct Ran {
    /// Its id.
    pub run_id: RunId,
    /// Its job.
    pub job: JobName,
    /// How it ended.
    pub outcome: Outcome,
    /// What failed beside the outcome.
    pub degraded: Vec<String>,
    /// What failed.
    pub error: Option<String>,
    /// The backup: target, folder there, manifest.
    pub backup: Option<Backup>,
    /// From lock to the end of the copies.
    pub duration: Duration,
    /// Messages that were due and not accepted, in words.
    pub untold: Vec<String>,
}

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Where it stands.
    pub target: TargetName,
    /// Its folder there.
    pub location: String,
    /// What is in it.
    pub manifest: Manifest,
}

/// Runs a job once. An error means that not even the state could be used; then the failure was told past it.
pub fn run_job(
    agent: &Agent,
    request: &Request,
    observer: &dyn Observer,
    progress: &Arc<Progress>,
) -> Result<End> {
    let job = agent.job(&request.job)?;
    let begun = Instant::now();

    let locks = match locks::acquire(agent, &request.job, job, request.lock_wait, progress)? {
        Ok(locks) => locks,
        Err(held) => {
            agent.state.record_contention(&request.job, agent.now())?;
            write_status(&agent.state, agent.now())?;
            return Ok(End::Locked(held));
        }
    };
    reap::of_job(agent, &request.job)?;

    let run = Running::begin(agent, request, job, observer, progress)?;
    let span = run.log.span();
    let _entered = span.enter();
    let mut beginning = tell::begun(agent, &request.job, &run.run_id);
    let minder = Minder::start(agent, &run, job);
    let hooks = Hooks::new(agent, &request.job, job, &run.run_id, &run);
    let result = unwinding(|| run.make_backup(&hooks));
    let late = minder.stop();
    let recorded = run.record(result, late, &hooks)?;
    drop(locks);
    observer.event(&Event::Recorded);

    beginning.wait();
    // From here on it stands how the run ended: a state that fails now degrades a good one.
    let mut ran = match run.copy_and_tell(&recorded) {
        Ok(ran) => ran,
        Err(error) => run.tell_past_the_state(&recorded, &error),
    };
    ran.duration = begun.elapsed();
    observer.event(&Event::RunEnded {
        outcome: ran.outcome,
        degraded: ran.degraded.clone(),
        duration: ran.duration,
    });
    Ok(End::Ran(Box::new(ran)))
}

impl Running<'_> {
    /// Everything up to the commit point, and local retention.
    fn make_backup(&self, hooks: &Hooks<'_>) -> Result<Made> {
        let primary = self.primary()?;
        let sources = source::build_all(&self.job.source)?;

        self.step(Step::Preflight, || self.look_at_target(&primary, hooks))?;
        let mut stage = self.stage(&primary)?;
        let stored = unwinding(|| {
            let (context, _scratch) = self.context(stage.as_mut())?;
            hooks.before(&Scope::Capture, &context.cancel())?;
            let ready = preflight::sources(&sources, |name| hooks.stand_before(name), &context, self)?;
            let captured =
                self.step(Step::Capture, || self.capture(&sources, ready, stage.as_mut(), &context, hooks))?;
            hooks.after(&Scope::Capture, Verdict { outcome: Some(captured.outcome), error: None });
            self.step(Step::Publish, || self.publish(&primary, stage.as_mut(), captured))
        });
        let backup = stored.inspect_err(|_| self.abandon(stage.as_mut()))?;
        unwinding(|| self.look_at_backup(&primary, &backup))
            .inspect_err(|_| self.withdraw(&primary, &backup))?;

        // Only a good backup may let others go.
        let retained = match backup.manifest.outcome.is_good() {
            true => unwinding(|| self.step(Step::Retention, || self.retain(&primary, &backup))),
            false => Ok(Pruned::default()),
        };
        Ok(Made { degraded: self.degraded_by(&primary, retained), backup })
    }
}
