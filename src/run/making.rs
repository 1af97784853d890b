//! What the steps of a run do to make a backup, and to take back a bad one.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Backup, Running};
use crate::archive;
use crate::config::{CodecName, TargetConfig};
use crate::event::{Level, Step};
use crate::manifest::{self, Manifest};
use crate::model::{ComponentName, TargetName};
use crate::ops::hooks::{Hooks, Scope};
use crate::ops::prune::{self, Pruned};
use crate::ops::verify::{Depth, verify};
use crate::ops::{capture, engine_options, keys, preflight, publish, reap};
use crate::process::Cancel;
use crate::source::{Context, Ready, Source};
use crate::target::{Removal, Stage, Target, candidate_locations};

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

/// A private folder of this host, removed with all that is in it. The job's lock keeps others out of it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it anew: what stands there was left by a run that died.
    fn make(folder: PathBuf) -> Result<Self> {
        let making = || format!("making the scratch folder {}", folder.display());
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(making),
            _ => {}
        }
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).with_context(making)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("removing {}, which holds data in clear: {e}", self.0.display());
        }
    }
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
        // A key that is not there shows before anything is started.
        keys::seal(&self.agent.config, self.job)?;
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

    /// What sources work with. What they put down on the way stands beside the backup; of an encrypted one in the
    /// state folder, since it is in clear, until the second value is dropped.
    pub(super) fn context(&self, stage: &mut dyn Stage) -> Result<(Context, Option<Scratch>)> {
        let scratch = match self.agent.config.encryption_of(self.job) {
            None => None,
            Some(_) => Some(Scratch::make(self.agent.scratch_path(&self.request.job))?),
        };
        let folder = match &scratch {
            None => stage.scratch()?,
            Some(scratch) => scratch.0.clone(),
        };
        Ok((Context::new(folder, Arc::clone(self.progress)), scratch))
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
        let seal = keys::seal(&self.agent.config, self.job)?;
        let options = engine_options(&self.job.engine, self.request.fast, Arc::clone(self.progress));
        let options = archive::Options { seal, ..options };
        let baselines = self.baselines();
        let plan = capture::Plan {
            options: &options,
            skip: self.own_folders(),
            limits: self.agent.config.limits_of(self.job),
            accept: format!("agent ack {}", self.request.job),
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

    /// The step that reads the backup back. A target that is not to be read has no such step, and the log says so.
    pub(super) fn look_at_backup(&self, primary: &Primary<'_>, backup: &Backup) -> Result<()> {
        let config = self.agent.target(primary.name)?;
        match Depth::of(config.reads_back()) {
            Some(depth) => self.step(Step::ReadBack, || self.read_back(primary, backup, depth)),
            None => {
                self.note(Level::Info, format!("the backup at {}: {}", primary.name, config.looked_at()));
                Ok(())
            }
        }
    }

    /// Reads the backup around the page cache, and compares it with what was written.
    fn read_back(&self, primary: &Primary<'_>, backup: &Backup, depth: Depth) -> Result<()> {
        let target = primary.target.as_ref();
        let report = verify(target, &backup.location, &self.run_id, depth, self.progress)?;
        report
            .result()
            .map_err(|problems| anyhow!("the backup could not be read back as it was written: {problems}"))
    }

    /// Removes a backup that does not read back: it must not be found by somebody who needs one.
    pub(super) fn withdraw(&self, primary: &Primary<'_>, backup: &Backup) {
        let removed = primary.target.remove(&backup.location, &self.run_id);
        self.tidy(removed.and_then(|removal| match removal {
            Removal::Removed => Ok(()),
            Removal::Retained { .. } => bail!(
                "target {}: the storage does not let {} go: it does not read back, restore nothing from it",
                primary.name,
                backup.location
            ),
        }));
    }

    /// Removes what the policy lets expire at the primary target, now that there is a new backup.
    pub(super) fn retain(&self, primary: &Primary<'_>, backup: &Backup) -> Result<Pruned> {
        let bytes = backup.manifest.stored_bytes();
        let fresh = Some((&self.run_id, self.started, backup.manifest.outcome, bytes));
        let job = &self.request.job;
        prune::with_fresh(self.agent, job, primary.name, primary.target.as_ref(), fresh, self.progress)
    }

    /// Tells what retention removed; gives back what it degraded the run by.
    pub(super) fn degraded_by(&self, primary: &Primary<'_>, retained: Result<Pruned>) -> Vec<String> {
        let name = primary.name;
        match retained {
            Ok(pruned) => {
                for run in &pruned.removed {
                    self.note(Level::Info, format!("run {run} expired at {name}"));
                }
                for (run, because) in &pruned.stays {
                    self.note(Level::Info, format!("run {run} would expire at {name}, and stays: {because}"));
                }
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
            encryption: captured.encryption,
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
