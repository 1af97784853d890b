//! Commands around a run: what `before` began, `after` ends, whatever happened in between.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::Agent;
use crate::config::{Around, HookConfig, JobConfig, resolve_secret};
use crate::event::{Event, Interrupted, Level, Observer};
use crate::model::{ComponentName, HookName, JobName, Outcome, RunId, Secret};
use crate::process::{self, Cancel, Command, ProcessError, STDERR_BYTES};
use crate::secret_file::{self, Readers};

/// What a hook stands around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The run, until its outcome is known.
    Run,
    /// The reading of all sources.
    Capture,
    /// The reading of one source.
    Source(ComponentName),
}

impl Scope {
    fn of(hook: &HookConfig) -> Self {
        match (&hook.source, hook.around) {
            (Some(source), _) => Scope::Source(source.clone()),
            (None, Around::Run) => Scope::Run,
            (None, Around::Capture) => Scope::Capture,
        }
    }
}

/// When in a hook a command runs; the word it finds in its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    After,
    Failure,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::After => "after",
            Phase::Failure => "failure",
        }
    }

    fn command(self, hook: &HookConfig) -> &[String] {
        match self {
            Phase::Before => &hook.before,
            Phase::After => &hook.after,
            Phase::Failure => &hook.failure,
        }
    }
}

/// How the run is going, for those who are told by the environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Verdict<'a> {
    /// The outcome, or what it is so far.
    pub outcome: Option<Outcome>,
    /// What failed.
    pub error: Option<&'a str>,
}

/// The hooks of one run.
pub struct Hooks<'a> {
    hooks: &'a BTreeMap<HookName, HookConfig>,
    /// What every command finds in its environment.
    environment: Vec<(&'static str, String)>,
    observer: &'a dyn Observer,
    /// Those whose `before` was begun and whose `after` was not, in that order.
    open: Mutex<Vec<HookName>>,
    /// What failed after the run could still fail by it.
    problems: Mutex<Vec<String>>,
}

impl<'a> Hooks<'a> {
    /// The hooks of `job` in the run `run`.
    pub fn new(
        agent: &Agent,
        name: &JobName,
        job: &'a JobConfig,
        run: &RunId,
        observer: &'a dyn Observer,
    ) -> Self {
        let environment = vec![
            ("BACKUP_AGENT_JOB", name.to_string()),
            ("BACKUP_AGENT_RUN_ID", run.to_string()),
            ("BACKUP_AGENT_HOST", agent.config.host_name()),
        ];
        Self { hooks: &job.hook, environment, observer, open: Mutex::default(), problems: Mutex::default() }
    }

    /// Whether a command must run before this source can be looked at.
    pub fn stand_before(&self, source: &ComponentName) -> bool {
        self.of(&Scope::Source(source.clone())).any(|(_, hook)| !hook.before.is_empty())
    }

    fn of(&self, scope: &Scope) -> impl Iterator<Item = (&'a HookName, &'a HookConfig)> {
        self.hooks.iter().filter(move |(_, hook)| Scope::of(hook) == *scope)
    }

    /// Runs the `before` commands of a scope, in the order of the hooks' names. The first that fails ends it;
    /// what it may have begun is ended by its own `after`.
    pub fn before(&self, scope: &Scope, cancel: &Cancel) -> Result<()> {
        for (name, hook) in self.of(scope) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
            self.run(name, hook, Phase::Before, Verdict::default(), cancel)?;
        }
        Ok(())
    }

    /// Runs the `after` commands of the hooks of a scope whose `before` was begun, the last begun first. All
    /// of them run, also in a run that is to stop; what fails is kept for [`Hooks::problems`].
    pub fn after(&self, scope: &Scope, verdict: Verdict<'_>) {
        self.close(|hook| Scope::of(hook) == *scope, verdict);
    }

    /// Ends everything that is still open, whatever its scope, and runs the `failure` commands if the run was
    /// no success.
    pub fn finish(&self, verdict: Verdict<'_>) {
        self.close(|_| true, verdict);
        if verdict.outcome.is_some_and(Outcome::is_good) {
            return;
        }
        for (name, hook) in self.hooks {
            self.run_last(name, hook, Phase::Failure, verdict);
        }
    }

    /// After a run that died: what it may have left open, up to the scope that `reading` says, is ended.
    pub fn make_up(&self, reading: bool, verdict: Verdict<'_>) {
        let open = self.hooks.iter().filter(|(_, hook)| reading || Scope::of(hook) == Scope::Run);
        let names: Vec<HookName> = open.map(|(name, _)| name.clone()).collect();
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = names;
        self.finish(verdict);
    }

    /// What failed of the commands that cannot fail the run, as sentences.
    pub fn problems(&self) -> Vec<String> {
        std::mem::take(&mut *self.problems.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn close(&self, which: impl Fn(&HookConfig) -> bool, verdict: Verdict<'_>) {
        loop {
            let last = {
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                let at = open.iter().rposition(|name| self.hooks.get(name).is_some_and(&which));
                at.map(|at| open.remove(at))
            };
            let Some((name, hook)) = last.and_then(|name| self.hooks.get_key_value(&name)) else { return };
            self.run_last(name, hook, Phase::After, verdict);
        }
    }

    /// Runs a command that nothing may keep from running but its own time limit.
    fn run_last(&self, name: &HookName, hook: &HookConfig, phase: Phase, verdict: Verdict<'_>) {
        if let Err(error) = self.run(name, hook, phase, verdict, &process::never()) {
            let text = format!("{error:#}");
            self.observer.event(&Event::Note(Level::Error, text.clone()));
            self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    fn run(
        &self,
        name: &HookName,
        hook: &HookConfig,
        phase: Phase,
        verdict: Verdict<'_>,
        cancel: &Cancel,
    ) -> Result<()> {
        let Some((program, args)) = phase.command(hook).split_first() else { return Ok(()) };
        let place = || format!("hook {name}, {}", phase.as_str());
        let mut secrets = Vec::new();
        let mut command = Command::new(program)
            .args(args)
            .timeout(hook.timeout)
            .env("BACKUP_AGENT_HOOK", name.as_str())
            .env("BACKUP_AGENT_PHASE", phase.as_str());
        for (key, value) in &self.environment {
            command = command.env(*key, value);
        }
        let source = hook.source.as_ref().map(|source| ("BACKUP_AGENT_SOURCE", source.as_str()));
        let outcome = verdict.outcome.map(|outcome| ("BACKUP_AGENT_OUTCOME", outcome.as_str()));
        let error = verdict.error.map(|error| ("BACKUP_AGENT_ERROR", error));
        for (key, value) in [source, outcome, error].into_iter().flatten() {
            // An error may quote what programs printed; a NUL would keep the command from starting.
            command = command.env(key, value.replace('\0', ""));
        }
        for (key, value) in &hook.env {
            command = command.env(key, value);
        }
        for (key, path) in &hook.env_file {
            let secret = secret_file::look(path, Readers::Owner)
                .map_err(anyhow::Error::msg)
                .and_then(|()| resolve_secret(None, Some(path)))
                .with_context(|| format!("environment variable {key}"))
                .with_context(place)?
                .with_context(|| format!("{} holds no secret", path.display()))?;
            secrets.push(secret.clone());
            command = command.env_secret(key, secret);
        }
        if let Some(user) = &hook.run_as {
            command = command.run_as(user).with_context(place)?;
        }
        let shown = command.name();
        self.observer.event(&Event::Note(Level::Info, format!("{}: {shown} begins", place())));
        self.say(command, &secrets, &place(), cancel)
            .map_err(|error| match error {
                ProcessError::Cancelled { .. } => anyhow::Error::new(Interrupted).context(error.to_string()),
                error => error.into(),
            })
            .with_context(place)
    }

    /// Runs a command to its end and puts what it printed into the log of the run.
    fn say(
        &self,
        command: Command,
        secrets: &[Secret],
        place: &str,
        cancel: &Cancel,
    ) -> Result<(), ProcessError> {
        let program = command.name();
        let mut child = process::stream(command, cancel.clone())?;
        let mut kept = Vec::new();
        let mut chunk = vec![0; 16 << 10];
        // A read error is told by `finish`, which knows how the program ended.
        while let Ok(n) = child.read(&mut chunk)
            && n > 0
        {
            kept.extend_from_slice(&chunk[..n]);
            // Only the end can be shown, and one more line's beginning to cut it at.
            if kept.len() > 4 * STDERR_BYTES {
                kept.drain(..kept.len() - 2 * STDERR_BYTES);
            }
        }
        let ended = child.finish();
        let stdout = process::readable(&kept, secrets.iter());
        let stderr = ended.as_ref().ok().map(|exit| exit.stderr.lines.clone()).unwrap_or_default();
        for line in stdout.lines.iter().chain(&stderr) {
            self.observer.event(&Event::Note(Level::Info, format!("{place}: {line}")));
        }
        ended
            .map(|_| self.observer.event(&Event::Note(Level::Info, format!("{place}: {program} ended well"))))
    }
}
