//! What the steps of a run do to make a backup, and to take back a bad one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};

use super::{Backup, Running};
use crate::config::{CodecName, TargetConfig};
use crate::event::Level;
use crate::manifest::{self, Encryption, Manifest};
use crate::model::{ComponentName, RunId, TargetName};
use crate::ops::hooks::{Hooks, Scope};
use crate::ops::verify::{Depth, verify};
use crate::ops::{capture, engine_options, preflight, prune, publish, reap};
use crate::process::Cancel;
use crate::source::{Context, Ready, Source};
use crate::target::{Stage, Target, candidate_locations};

/// The target a run stores its backup at.
pub(super) struct Primary<'a> {
    name: &'a TargetName,
    config: &'a TargetConfig,
    /// The target itself.
    pub(super) target: Box<dyn Target>,
}

/// What was made up to the commit point.
pub(super) struct Made {
    /// The backup.
    pub(super) backup: Backup,
    /// What failed after it.
    pub(super) degraded: Vec<String>,
}

impl Running<'_> {
    /// The job's first target.
    pub(super) fn primary(&self) -> Result<Primary<'_>> {
        let (name, config) = self.agent.config.primary_target(self.job).context("the job has no target")?;
        Ok(Primary { name, config, target: self.agent.open_target(name)? })
    }

    /// Makes room and order at the target, and looks whether it can take a backup.
    pub(super) fn look_at_target(&self, primary: &Primary<'_>, hooks: &Hooks<'_>) -> Result<()> {
        let target = primary.target.as_ref();
        let progress = Arc::clone(self.progress);
        hooks.before(&Scope::Run, &(Arc::new(move || progress.is_cancelled()) as Cancel))?;
        // First, since it makes room; a target that is away is for the look at it to tell.
        let tidied = reap::leftovers(self.agent, &self.request.job, target);
        preflight::target(self.agent, &self.request.job, target, self, self.progress)?;
        self.tidy(tidied);
        Ok(())
    }

    /// Begins the backup at its target.
    pub(super) fn stage(&self, primary: &Primary<'_>) -> Result<Box<dyn Stage>> {
        primary.target.stage(&self.run_id, &self.locations(&primary.config.template))
    }

    /// What sources work with.
    pub(super) fn context(&self, stage: &mut dyn Stage) -> Result<Context> {
        Ok(Context::new(stage.scratch()?, Arc::clone(self.progress)))
    }

    /// Reads the sources into the stage.
    pub(super) fn capture(
        &self,
        sources: &[Box<dyn Source>],
        ready: BTreeMap<ComponentName, Ready>,
        stage: &mut dyn Stage,
        context: &Context,
        hooks: &Hooks<'_>,
    ) -> Result<capture::Captured> {
        let options = engine_options(&self.job.engine, self.request.fast, Arc::clone(self.progress));
        let baselines = self.baselines();
        let plan = capture::Plan {
            options: &options,
            skip: self.own_folders(),
            limits: self.agent.config.limits_of(self.job),
            baselines: &baselines,
            now: self.started.timestamp(),
            hooks,
        };
        capture::capture_all(sources, ready, stage, context, &plan, self)
    }

    /// Describes what was captured, and puts it in its place. The state knows the place first.
    pub(super) fn publish(
        &self,
        primary: &Primary<'_>,
        stage: &mut dyn Stage,
        captured: capture::Captured,
    ) -> Result<Backup> {
        let manifest = self.manifest(captured);
        publish::describe(stage, &manifest)?;
        let place = stage.place();
        let locations = self.locations(&primary.config.template);
        let location = publish::publish(stage, &locations, &mut |location| {
            Ok(self.agent.state.set_location(&self.run_id, primary.name, location, &place)?)
        })?;
        Ok(Backup { target: primary.name.clone(), location, manifest })
    }

    /// Removes what was staged by a run that failed.
    pub(super) fn abandon(&self, stage: &mut dyn Stage) {
        self.tidy(stage.abandon());
    }

    /// Reads the backup around the page cache, and compares it with what was written.
    pub(super) fn read_back(&self, primary: &Primary<'_>, backup: &Backup) -> Result<()> {
        let target = primary.target.as_ref();
        let report = verify(target, &backup.location, &self.run_id, Depth::Digests, self.progress)?;
        report.result().map_err(|problems| anyhow!("the backup was read back and differs: {problems}"))
    }

    /// Removes a backup that does not read back: it must not be found by somebody who needs one.
    pub(super) fn withdraw(&self, primary: &Primary<'_>, backup: &Backup) {
        self.tidy(primary.target.remove(&backup.location, &self.run_id));
    }

    /// Removes what the policy lets expire at the primary target, now that there is a new backup.
    pub(super) fn retain(&self, primary: &Primary<'_>, backup: &Backup) -> Result<Vec<RunId>> {
        let bytes = backup.manifest.stored_bytes();
        let fresh = Some((&self.run_id, self.started, backup.manifest.outcome, bytes));
        let job = &self.request.job;
        prune::with_fresh(self.agent, job, primary.name, primary.target.as_ref(), fresh, self.progress)
    }

    /// Tells what retention removed; gives back what it degraded the run by.
    pub(super) fn degraded_by(&self, primary: &Primary<'_>, retained: Result<Vec<RunId>>) -> Vec<String> {
        let name = primary.name;
        match retained {
            Ok(removed) => {
                removed.iter().for_each(|run| self.note(Level::Info, format!("run {run} expired at {name}")));
                Vec::new()
            }
            Err(e) => vec![format!("retention {name}: {e:#}")],
        }
    }

    fn manifest(&self, captured: capture::Captured) -> Manifest {
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
            codec: match self.job.engine.codec {
                CodecName::Zstd => manifest::Codec::Zstd,
                CodecName::Gzip => manifest::Codec::Gzip,
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

    /// What no source may capture: backups of backups, and a database that changes with every step.
    fn own_folders(&self) -> Vec<PathBuf> {
        let targets = self.agent.config.target.values().filter_map(|t| t.folder().map(Path::to_path_buf));
        targets.chain([self.agent.config.state_dir.clone()]).collect()
    }
}
