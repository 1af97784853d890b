//! One run of a job, from lock to telling: the table of contents of a backup.
//!
//! ```text
//! lock → preflight → capture → publish → read back → retention → record, unlock → copies → tell
//! ```
//!
//! The commit point is a backup that was published and read back at the primary target. Whatever fails
//! before it makes the run a failure and leaves no backup behind; whatever fails later degrades the run, and
//! changes neither its outcome nor the last success.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use chrono::{DateTime, Utc};

use crate::config::JobConfig;
use crate::event::{Event, Interrupted, Level, Observer, Progress, Step};
use crate::failpoint;
use crate::lock::ProcessIdentity;
use crate::log::RunLog;
use crate::manifest::{self, Encryption, Manifest};
use crate::metrics;
use crate::model::{ComponentName, JobName, Outcome, RunId, TargetName};
use crate::ops::capture::{self, ComponentError};
use crate::ops::locks::{self, Held};
use crate::ops::panics::unwinding;
use crate::ops::verify::{Depth, verify};
use crate::ops::{Agent, copies, engine_options, preflight, prune, publish, reap, tell, touch_job};
use crate::source::{self, Context};
use crate::state::{EndedRun, FactKey, NewCopy, NewRun, Run, RunTrigger, StepTime, write_status};
use crate::target::{Target, candidate_locations};

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
    let minder = Minder::start(agent, &run, job);
    let result = unwinding(|| run.make_backup());
    let late = minder.stop();
    let recorded = run.record(result, late)?;
    drop(locks);
    observer.event(&Event::Recorded);

    let mut ran = run.copy_and_tell(recorded)?;
    ran.duration = begun.elapsed();
    observer.event(&Event::RunEnded {
        outcome: ran.outcome,
        degraded: ran.degraded.clone(),
        duration: ran.duration,
    });
    Ok(End::Ran(Box::new(ran)))
}

/// A run between its locks and its end.
struct Running<'a> {
    agent: &'a Agent,
    request: &'a Request,
    job: &'a JobConfig,
    observer: &'a dyn Observer,
    progress: &'a Arc<Progress>,
    run_id: RunId,
    started: DateTime<Utc>,
    log: RunLog,
    steps: std::sync::Mutex<Steps>,
}

#[derive(Default)]
struct Steps {
    done: Vec<StepTime>,
    current: Option<Step>,
}

/// What was made up to the commit point.
struct Made {
    backup: Backup,
    degraded: Vec<String>,
}

/// What was recorded.
struct Recorded {
    outcome: Outcome,
    error: Option<String>,
    degraded: Vec<String>,
    backup: Option<Backup>,
}

impl<'a> Running<'a> {
    fn begin(
        agent: &'a Agent,
        request: &'a Request,
        job: &'a JobConfig,
        observer: &'a dyn Observer,
        progress: &'a Arc<Progress>,
    ) -> Result<Self> {
        let started = agent.now();
        let run_id = RunId::generate(started);
        let clock_problem = prune::clock_problem(agent)?;
        touch_job(agent, &request.job, job)?;
        agent.state.begin_run(&NewRun {
            run_id: run_id.clone(),
            job: request.job.clone(),
            trigger: request.trigger,
            scheduled_for: request.scheduled_for,
            process: ProcessIdentity::current(),
            started,
        })?;
        failpoint::hit("begun-run")?;
        write_status(&agent.state, started)?;
        let log = RunLog::new(&run_id);
        observer.event(&Event::RunStarted { run: run_id.clone(), job: request.job.clone() });
        let steps = std::sync::Mutex::default();
        let run = Self { agent, request, job, observer, progress, run_id, started, log, steps };
        run.log.span().in_scope(|| tracing::info!("run {} of job {} begins", run.run_id, request.job));
        if let Some(problem) = clock_problem {
            agent.state.set_fact(FactKey::ClockJump, &problem, started)?;
            run.note(
                Level::Warning,
                format!("{problem}: the backup is made, but nothing is removed for a day"),
            );
        }
        Ok(run)
    }

    /// Everything up to the commit point, and local retention.
    fn make_backup(&self) -> Result<Made> {
        let (name, config) = self.agent.config.primary_target(self.job).context("the job has no target")?;
        let target = self.agent.open_target(name)?;
        let target = target.as_ref();
        let sources = source::build_all(&self.job.source)?;

        self.step(Step::Preflight, || {
            // First, since it makes room; a target that is away is for the look at it to tell.
            let tidied = reap::leftovers(self.agent, &self.request.job, target);
            preflight::target(self.agent, &self.request.job, target, self, self.progress)?;
            self.tidy(tidied);
            Ok(())
        })?;
        let mut stage = target.stage(&self.run_id)?;
        let published = unwinding(|| {
            let context = Context { scratch: stage.scratch()?, progress: Arc::clone(self.progress) };
            preflight::sources(&sources, &context, self)?;
            let options = engine_options(&self.job.engine, self.request.fast, Arc::clone(self.progress));
            let captured = self.step(Step::Capture, || {
                let baseline = |component: &ComponentName| self.baseline(component);
                let plan = capture::Plan {
                    options: &options,
                    skip: self.own_folders(),
                    health: &self.job.health,
                    baseline: &baseline,
                    now: self.started.timestamp(),
                };
                capture::capture_all(&sources, stage.as_mut(), &context, &plan, self)
            })?;
            self.step(Step::Publish, || {
                let manifest = self.manifest(captured, &options);
                publish::describe(stage.as_mut(), &manifest)?;
                let place = stage.place();
                let location =
                    publish::publish(stage.as_mut(), &self.locations(&config.template), &mut |location| {
                        Ok(self.agent.state.set_location(&self.run_id, name, location, &place)?)
                    })?;
                Ok(Backup { target: name.clone(), location, manifest })
            })
        });
        let backup = match published {
            Ok(backup) => backup,
            Err(e) => {
                self.tidy(stage.abandon());
                return Err(e);
            }
        };
        if let Err(e) = unwinding(|| self.step(Step::ReadBack, || self.read_back(target, &backup.location))) {
            // A backup that does not read back must not be found by somebody who needs one.
            self.tidy(target.remove(&backup.location, &self.run_id));
            return Err(e);
        }

        let mut degraded = Vec::new();
        if backup.manifest.outcome.is_good() {
            let pruned = unwinding(|| {
                self.step(Step::Retention, || {
                    let bytes = backup.manifest.stored_bytes();
                    let fresh = Some((&self.run_id, self.started, backup.manifest.outcome, bytes));
                    prune::with_fresh(self.agent, &self.request.job, name, target, fresh, self.progress)
                })
            });
            match pruned {
                Ok(removed) => removed
                    .iter()
                    .for_each(|run| self.note(Level::Info, format!("run {run} expired at {name}"))),
                Err(e) => degraded.push(format!("retention {name}: {e:#}")),
            }
        }
        Ok(Made { backup, degraded })
    }

    fn read_back(&self, target: &dyn Target, location: &str) -> Result<()> {
        let report = verify(target, location, &self.run_id, Depth::Digests, self.progress)?;
        report.result().map_err(|problems| anyhow!("the backup was read back and differs: {problems}"))
    }

    /// Records the end in one transaction with its copies and messages.
    fn record(&self, result: Result<Made>, late: bool) -> Result<Recorded> {
        let now = self.agent.now();
        let failed_step = self.lock_steps().current;
        let (made, error) = match result {
            Ok(made) => (Some(made), None),
            Err(e) => (None, Some(e)),
        };
        let mut ended = match (&made, &error) {
            (Some(made), _) => {
                let mut ended = reap::ended_by_manifest(&made.backup.manifest, now);
                ended.degraded.clone_from(&made.degraded);
                ended
            }
            (None, error) => {
                // Whatever a step says when it is asked to stop: being asked is what ended it.
                let interrupted = !late && self.progress.is_cancelled();
                let outcome = if interrupted { Outcome::Interrupted } else { Outcome::Failure };
                let mut ended = EndedRun::new(self.run_id.clone(), outcome, now);
                ended.failed_step = failed_step;
                ended.error = error.as_ref().map(|e| self.describe(e, late));
                ended
            }
        };
        ended.steps = std::mem::take(&mut self.lock_steps().done);
        let component =
            error.as_ref().and_then(|e| e.downcast_ref::<ComponentError>()).map(|e| e.component.clone());
        self.log_end(&ended);
        let copies = made.as_ref().map_or_else(Vec::new, |made| {
            let Backup { target, location, manifest } = &made.backup;
            reap::copies_to_make(self.job, target, location, manifest)
        });
        self.write_end(&mut ended, component, &copies)?;
        Ok(Recorded {
            outcome: ended.outcome,
            error: ended.error,
            degraded: ended.degraded,
            backup: made.map(|made| made.backup),
        })
    }

    fn write_end(
        &self,
        ended: &mut EndedRun,
        component: Option<ComponentName>,
        copies: &[NewCopy],
    ) -> Result<()> {
        let state = &self.agent.state;
        let run = Run::begun(&self.run_id, &self.request.job, self.request.trigger, self.started);
        let tail = self.log.tail(30);
        let messages = tell::plan_end(self.agent, &run, ended, component.clone(), tail.clone())?;
        failpoint::hit("end-run")?;
        state.end_run(ended, copies, &messages)?;
        failpoint::hit("ended-run")?;
        state.set_run_log(&self.run_id, &self.log.text(), self.agent.now())?;
        write_status(state, self.agent.now())?;
        Ok(())
    }

    /// The further targets get their copies as far as there is time; then what is due is sent.
    fn copy_and_tell(&self, recorded: Recorded) -> Result<Ran> {
        let Recorded { outcome, error, mut degraded, backup } = recorded;
        if backup.is_some() && self.job.targets.len() > 1 {
            let deadline = Some(Instant::now() + self.job.copy_wait);
            let drained = copies::drain(self.agent, Some(&self.run_id), deadline, self, self.progress);
            if let Ok(drained) = &drained {
                degraded.extend(drained.degraded.iter().map(|(_, text)| text.clone()));
            }
            degraded.extend(self.missing_copies(drained)?);
        }
        let state = &self.agent.state;
        state.set_run_log(&self.run_id, &self.log.text(), self.agent.now())?;
        write_status(state, self.agent.now())?;
        tell::by_time(self.agent)?;
        failpoint::hit("deliver")?;
        let delivery = tell::deliver(self.agent);
        failpoint::hit("delivered")?;
        self.show_end()?;
        Ok(Ran {
            run_id: self.run_id.clone(),
            job: self.request.job.clone(),
            outcome,
            degraded,
            error,
            backup,
            duration: Duration::ZERO,
            untold: delivery.problems,
        })
    }

    /// What those see who watch from outside: `status.json`, and the text file of metrics.
    fn show_end(&self) -> Result<()> {
        let now = self.agent.now();
        let snapshot = Arc::new(write_status(&self.agent.state, now)?);
        if let Some(path) = &self.agent.config.metrics.textfile {
            let config = Arc::clone(&self.agent.config);
            let facts = metrics::Facts { snapshot, config, progress: Default::default(), now };
            if let Err(e) = metrics::write_textfile(path, &facts) {
                self.note(Level::Warning, format!("{e:#}"));
            }
        }
        Ok(())
    }

    fn missing_copies(&self, drained: Result<copies::Drained>) -> Result<Vec<String>> {
        let state = &self.agent.state;
        let mut missing = Vec::new();
        if let Err(e) = drained {
            missing.push(format!("copies: {e:#}"));
        }
        for copy in state.copies_of(&self.run_id)?.iter().filter(|c| !c.primary && !c.status.is_kept()) {
            let why = copy.last_error.as_deref().unwrap_or("not made yet; it stays in the queue");
            missing.push(format!("{}: {why}", tell::copy_trouble(&copy.target)));
        }
        for text in &missing {
            tell::degraded(self.agent, &self.run_id, text)?;
        }
        Ok(missing)
    }

    fn step<T>(&self, step: Step, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        self.lock_steps().current = Some(step);
        self.agent.state.set_step(&self.run_id, step, self.agent.now())?;
        self.observer.event(&Event::StepStarted(step));
        tracing::debug!("step {step} begins");
        let begun = Instant::now();
        failpoint::hit(step.as_str())?;
        let result = work()?;
        failpoint::hit(&format!("{step}-done"))?;
        let took = begun.elapsed();
        self.lock_steps().done.push(StepTime { step, ms: took.as_millis() as u64 });
        self.observer.event(&Event::StepEnded(step, took));
        tracing::info!("{step}: done in {:.1} s", took.as_secs_f64());
        Ok(result)
    }

    fn lock_steps(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn manifest(&self, captured: capture::Captured, options: &crate::archive::Options) -> Manifest {
        Manifest {
            version: manifest::VERSION,
            run_id: self.run_id.clone(),
            job: self.request.job.clone(),
            job_aliases: self.job.aliases.clone(),
            instance_id: self.agent.state.instance_id().to_owned(),
            host: self.agent.config.host_name(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            timezone: self.agent.config.job_timezone(self.job).to_string(),
            scheduled_for: self.request.scheduled_for,
            started: self.started,
            ended: self.agent.now(),
            outcome: captured.outcome,
            codec: match options.codec {
                crate::archive::Codec::Zstd(_) => manifest::Codec::Zstd,
                crate::archive::Codec::Gzip(_) => manifest::Codec::Gzip,
            },
            encryption: Encryption::None,
            components: captured.components,
            other: Default::default(),
        }
    }

    fn locations(&self, template: &str) -> Vec<String> {
        let zone = self.agent.config.job_timezone(self.job);
        let (job, host) = (self.request.job.as_str(), self.agent.config.host_name());
        candidate_locations(template, job, &host, self.started.with_timezone(&zone), &self.run_id)
    }

    fn baseline(&self, component: &ComponentName) -> Option<crate::state::Baseline> {
        self.agent.state.baseline(&self.request.job, component, Some(&self.run_id)).ok().flatten()
    }

    /// What no source may capture: backups of backups, and a database that changes with every step.
    fn own_folders(&self) -> Vec<std::path::PathBuf> {
        let targets = self.agent.config.target.values().map(|t| t.path.clone());
        targets.chain([self.agent.config.state_dir.clone()]).collect()
    }

    fn describe(&self, error: &anyhow::Error, late: bool) -> String {
        match (late, self.job.max_runtime) {
            (true, Some(limit)) => format!(
                "it ran longer than max_runtime ({}) and was stopped",
                humantime::format_duration(limit)
            ),
            _ if self.progress.is_cancelled() => "it was stopped by a signal".to_owned(),
            _ => format!("{error:#}"),
        }
    }

    fn log_end(&self, ended: &EndedRun) {
        if let Some(error) = &ended.error {
            tracing::error!(
                "{}: {error}",
                ended.failed_step.map_or_else(|| "run".to_owned(), |s| s.to_string())
            );
        }
        ended.degraded.iter().for_each(|text| tracing::warn!("degraded: {text}"));
        tracing::info!("run {} ends: {}", self.run_id, ended.outcome);
    }

    fn note(&self, level: Level, text: String) {
        self.event(&Event::Note(level, text));
    }

    /// Leftovers that cannot be removed now are removed by the next run; that is worth a line, not a failure.
    fn tidy(&self, result: Result<()>) {
        if let Err(e) = result {
            self.note(Level::Warning, format!("cleaning up: {e:#}"));
        }
    }
}

/// Events of the operations go to the log of the run, then to whoever watches.
impl Observer for Running<'_> {
    fn event(&self, event: &Event) {
        match event {
            Event::Note(Level::Info, text) => tracing::info!("{text}"),
            Event::Note(Level::Warning, text) => tracing::warn!("{text}"),
            Event::Note(Level::Error, text) => tracing::error!("{text}"),
            Event::ComponentEnded { component, source_bytes, stored_bytes, warnings } => tracing::info!(
                "{component}: {} read, {} stored, {warnings} warnings",
                crate::model::ByteSize(*source_bytes),
                crate::model::ByteSize(*stored_bytes)
            ),
            Event::CopyStarted(target) => tracing::info!("copying to {target}"),
            Event::CopyEnded(target, Ok(())) => {
                tracing::info!("the copy at {target} is there and was read back")
            }
            Event::CopyEnded(target, Err(error)) => tracing::warn!("no copy at {target}: {error}"),
            _ => {}
        }
        self.observer.event(event);
    }
}

/// Ends a run that takes too long, and records how far it is. Lives as long as the run.
struct Minder {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

/// How often the progress of a run is recorded.
const RECORD_PROGRESS: Duration = Duration::from_secs(5);

impl Minder {
    fn start(agent: &Agent, run: &Running<'_>, job: &JobConfig) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let deadline = job.max_runtime.map(|limit| Instant::now() + limit);
        let (state, run_id, progress) = (agent.state.clone(), run.run_id.clone(), Arc::clone(run.progress));
        let expected: u64 = job.source.keys().filter_map(|c| run.baseline(c)).map(|b| b.source_bytes).sum();
        let thread = std::thread::spawn(move || {
            let mut late = false;
            let mut recorded = Instant::now();
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(Duration::from_millis(250))
            {
                if !late && deadline.is_some_and(|d| Instant::now() >= d) {
                    late = true;
                    progress.cancel();
                }
                if expected > 0 && recorded.elapsed() >= RECORD_PROGRESS {
                    recorded = Instant::now();
                    // Only for those who watch from outside: a busy database is no reason to stop.
                    let _ = state.set_progress(&run_id, progress.source_bytes() as f64 / expected as f64);
                }
            }
            late
        });
        Self { stop, thread }
    }

    /// Stops minding; true when the run had to be ended.
    fn stop(self) -> bool {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or(false)
    }
}
