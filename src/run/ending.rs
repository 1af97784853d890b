//! The end of a run: recorded in one transaction, then copied, told and shown.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::making::Made;
use super::{Backup, Ran, Running};
use crate::event::Level;
use crate::failpoint;
use crate::metrics;
use crate::model::{ComponentName, Outcome};
use crate::ops::capture::ComponentError;
use crate::ops::hooks::{Hooks, Verdict};
use crate::ops::{copies, reap, tell};
use crate::state::{EndedRun, NewCopy, Run, write_status};

/// What was recorded.
pub(super) struct Recorded {
    ended: EndedRun,
    backup: Option<Backup>,
    /// What could not be written after that.
    trouble: Option<anyhow::Error>,
}

impl Running<'_> {
    /// Records the end in one transaction with its copies and messages.
    pub(super) fn record(&self, result: Result<Made>, late: bool, hooks: &Hooks<'_>) -> Result<Recorded> {
        let failed_step = self.lock_steps().current;
        let (made, error) = match result {
            Ok(made) => (Some(made), None),
            Err(e) => (None, Some(e)),
        };
        let text = error.as_ref().map(|e| self.describe(e, late));
        // Whatever a step says when it is asked to stop: being asked is what ended it.
        let interrupted = !late && self.progress.is_cancelled();
        let outcome = match &made {
            Some(made) => made.backup.manifest.outcome,
            None if interrupted => Outcome::Interrupted,
            None => Outcome::Failure,
        };
        // While the outcome can still be told with what they say.
        hooks.finish(Verdict { outcome: Some(outcome), error: text.as_deref() });
        let problems = hooks.problems();
        let now = self.agent.now();
        let mut ended = match &made {
            Some(made) => {
                let mut ended = reap::ended_by_manifest(&made.backup.manifest, now);
                ended.degraded.clone_from(&made.degraded);
                ended.degraded.extend(problems);
                ended
            }
            None => {
                let mut ended = EndedRun::new(self.run_id.clone(), outcome, now);
                ended.failed_step = failed_step;
                ended.error =
                    text.map(|text| [text].into_iter().chain(problems).collect::<Vec<_>>().join("\n"));
                ended
            }
        };
        ended.steps = std::mem::take(&mut self.lock_steps().done);
        let component =
            error.as_ref().and_then(|e| e.downcast_ref::<ComponentError>()).map(|e| e.component.clone());
        self.log_end(&ended);
        let copies = made.as_ref().map_or_else(Vec::new, |made| {
            let Backup { target, location, manifest } = &made.backup;
            reap::copies_to_make(self.agent, self.job, target, location, manifest)
        });
        let trouble = self.write_end(&mut ended, component, &copies)?;
        Ok(Recorded { ended, backup: made.map(|made| made.backup), trouble })
    }

    /// Records the end, and returns what could not be written once that was done.
    fn write_end(
        &self,
        ended: &mut EndedRun,
        component: Option<ComponentName>,
        copies: &[NewCopy],
    ) -> Result<Option<anyhow::Error>> {
        let state = &self.agent.state;
        let run = Run::begun(&self.run_id, &self.request.job, self.request.trigger, self.started);
        let tail = self.log.tail(30);
        let messages = tell::plan_end(self.agent, &run, ended, component.clone(), tail.clone())?;
        failpoint::hit("end-run")?;
        state.end_run(ended, copies, &messages)?;
        let written = || {
            failpoint::hit("ended-run")?;
            state.set_run_log(&self.run_id, &self.log.text(), self.agent.now())?;
            write_status(state, self.agent.now())?;
            anyhow::Ok(())
        };
        Ok(written().err())
    }

    /// The further targets get their copies as far as there is time; then what is due is sent.
    pub(super) fn copy_and_tell(&self, recorded: &Recorded) -> Result<Ran> {
        let Recorded { ended, backup, trouble } = recorded;
        let mut degraded = ended.degraded.clone();
        if let Some(trouble) = trouble {
            tracing::error!("after the run was recorded: {trouble:#}");
            if ended.outcome.is_good() {
                degraded.push(format!("state: {trouble:#}"));
                tell::degraded(self.agent, &self.run_id, &format!("state: {trouble:#}"))?;
            }
        }
        if backup.is_some() && self.job.targets.len() > 1 {
            let deadline = Some(Instant::now() + self.job.copy_wait);
            let pass =
                copies::Pass { only: Some(&self.run_id), deadline, finish: false, fast: self.request.fast };
            let drained = copies::drain(self.agent, &pass, self, self.progress);
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
        Ok(self.ran(recorded, degraded, delivery.problems))
    }

    /// The state failed after it had taken the end of the run: that is told without it, as the end it was.
    pub(super) fn tell_past_the_state(&self, recorded: &Recorded, error: &anyhow::Error) -> Ran {
        tracing::error!("after the run was recorded, the state failed: {error:#}");
        let ended = &recorded.ended;
        let told = tell::ended_without_state(self.agent, &self.request.job, self.started, ended, error);
        let mut degraded = ended.degraded.clone();
        if ended.outcome.is_good() {
            degraded.push(format!("state: {error:#}"));
        }
        let untold = told.map_or_else(|e| vec![format!("{e:#}")], |delivery| delivery.problems);
        self.ran(recorded, degraded, untold)
    }

    fn ran(&self, recorded: &Recorded, degraded: Vec<String>, untold: Vec<String>) -> Ran {
        let Recorded { ended, backup, .. } = recorded;
        Ran {
            run_id: self.run_id.clone(),
            job: self.request.job.clone(),
            outcome: ended.outcome,
            degraded,
            error: ended.error.clone(),
            backup: backup.clone(),
            // Measured by whoever began the run.
            duration: Duration::ZERO,
            untold,
        }
    }

    /// What those see who watch from outside: `status.json`, and the text file of metrics.
    fn show_end(&self) -> Result<()> {
        let agent = self.agent;
        if let Some(trouble) = metrics::publish(&agent.state, &agent.config, Default::default(), agent.now())?
        {
            self.note(Level::Warning, trouble);
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
            missing.push(tell::copy_missing(self.agent, copy, copy.last_error.as_deref()));
        }
        for text in &missing {
            tell::degraded(self.agent, &self.run_id, text)?;
        }
        Ok(missing)
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
        tracing::info!("the run ends: {}", ended.outcome);
    }
}
