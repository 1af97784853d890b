//! A run from its begin to its end: its steps, and what it tells of itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::Request;
use crate::config::JobConfig;
use crate::event::{Event, Interrupted, Level, Observer, Progress, Step};
use crate::failpoint;
use crate::lock::ProcessIdentity;
use crate::log::RunLog;
use crate::model::{ByteSize, ComponentName, RunId};
use crate::ops::at_work::{self, AtWork};
use crate::ops::{Agent, clock, touch_job};
use crate::state::{Baseline, FactKey, NewRun, StepTime, write_status};

/// A run between its locks and its end.
pub(super) struct Running<'a> {
    pub(super) agent: &'a Agent,
    pub(super) request: &'a Request,
    pub(super) job: &'a JobConfig,
    pub(super) observer: &'a dyn Observer,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) run_id: RunId,
    pub(super) started: DateTime<Utc>,
    pub(super) log: RunLog,
    steps: Mutex<Steps>,
    _at_work: AtWork,
}

#[derive(Default)]
pub(super) struct Steps {
    pub(super) done: Vec<StepTime>,
    pub(super) current: Option<Step>,
}

impl<'a> Running<'a> {
    /// Begins a run: in the state, in its log, and for whoever watches.
    pub(super) fn begin(
        agent: &'a Agent,
        request: &'a Request,
        job: &'a JobConfig,
        observer: &'a dyn Observer,
        progress: &'a Arc<Progress>,
    ) -> Result<Self> {
        let started = agent.now();
        let run_id = RunId::generate(started);
        let clock_problem = clock::problem(&agent.state, started)?;
        if let Some(problem) = &clock_problem {
            // Before the run is there, which would hide it.
            agent.state.set_fact(FactKey::ClockJump, problem, started)?;
        }
        touch_job(agent, &request.job, job)?;
        let at_work = at_work::begin(run_id.as_str());
        agent.state.begin_run(&NewRun {
            run_id: run_id.clone(),
            job: request.job.clone(),
            trigger: request.trigger,
            scheduled_for: request.scheduled_for,
            process: ProcessIdentity::current(),
            started,
        })?;
        // Whoever has to deal with an error knows from here on which run it is.
        observer.event(&Event::RunStarted { run: run_id.clone(), job: request.job.clone() });
        failpoint::hit("begun-run")?;
        write_status(&agent.state, started)?;
        let log = RunLog::new(&request.job, &run_id);
        let run = Self {
            agent,
            request,
            job,
            observer,
            progress,
            run_id,
            started,
            log,
            steps: Mutex::default(),
            _at_work: at_work,
        };
        run.log.span().in_scope(|| tracing::info!("the run begins ({})", request.trigger));
        if let Some(problem) = clock_problem {
            run.note(
                Level::Warning,
                format!("{problem}: the backup is made, but nothing is removed for a day"),
            );
        }
        Ok(run)
    }

    /// One step: noted, timed, and not begun when the run was asked to stop.
    pub(super) fn step<T>(&self, step: Step, work: impl FnOnce() -> Result<T>) -> Result<T> {
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

    /// The steps so far.
    pub(super) fn lock_steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What each component of the configured sources usually holds.
    pub(super) fn baselines(&self) -> BTreeMap<ComponentName, Baseline> {
        let mut baselines =
            self.agent.state.baselines(&self.request.job, Some(&self.run_id)).unwrap_or_default();
        baselines.retain(|name, _| self.job.source.contains_key(name.source()));
        baselines
    }

    /// Tells the log and whoever watches.
    pub(super) fn note(&self, level: Level, text: String) {
        self.event(&Event::Note(level, text));
    }

    /// Leftovers that cannot be removed now are removed by the next run; that is worth a line, not a failure.
    pub(super) fn tidy(&self, result: Result<()>) {
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
                ByteSize(*source_bytes),
                ByteSize(*stored_bytes)
            ),
            Event::CopyStarted { target, .. } => tracing::info!("copying to {target}"),
            Event::CopyEnded(target, Ok(looked)) => tracing::info!("the copy at {target} is there, {looked}"),
            Event::CopyEnded(target, Err(error)) => tracing::warn!("no copy at {target}: {error}"),
            _ => {}
        }
        self.observer.event(event);
    }
}
