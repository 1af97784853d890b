//! `agent backup`: one run of one or more jobs, now.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::args::{Backup, Global, IfLocked};
use super::common::{self, Begun, UsageError};
use super::progress::BackupBar;
use super::{code, output};
use crate::clock::SystemClock;
use crate::config::{self, TargetConfig};
use crate::event::{Looked, Progress};
use crate::model::{ByteSize, JobName, Outcome, RunId, TargetName, WarningCounts, plural};
use crate::ops::Agent;
use crate::run::{End, Ran, Request, run_job};
use crate::state::{RunTrigger, StepTime};

pub fn backup(global: &Global, args: &Backup) -> Result<u8> {
    let begun = match (&args.to, &args.source[..]) {
        (Some(to), sources) => {
            std::fs::create_dir_all(to).with_context(|| format!("making folder {}", to.display()))?;
            outside(sources, to)?;
            Begun::AsIs(config::adhoc(sources, to, None))
        }
        (None, _) => common::begin(global)?,
    };
    let config = begun.config().clone();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    common::start_log(global, Some(&config), if terminal { common::BESIDE_ANSWER } else { "info" })?;
    let jobs = chosen(&config, args)?;
    let agent = match common::open(global, config.clone()) {
        Ok(agent) => agent,
        Err(e) => {
            tell_unopened(global, &config, &jobs, &e);
            return Err(e);
        }
    };
    begun.record(&agent)?;
    crate::ops::limits::raise_open_files();
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;

    let mut codes = Vec::new();
    let mut results = Vec::new();
    for job in &jobs {
        let request = Request {
            job: job.clone(),
            trigger: trigger(),
            scheduled_for: None,
            fast: args.fast,
            lock_wait: args.lock_wait,
        };
        let bar = BackupBar::start(&progress);
        let end = run_job(&agent, &request, &bar, &progress);
        let notes = bar.finish();
        let mut result = match end {
            Ok(end) => Answer::new(&agent, job, end, notes)?,
            Err(e) => {
                tell_past_the_state(&agent, job, &e);
                if jobs.len() == 1 {
                    return Err(e);
                }
                output::error(&e.context(format!("job {job}")));
                codes.push(code::FAILURE);
                continue;
            }
        };
        if result.outcome.is_none() && args.if_locked == IfLocked::Skip {
            result.exit_code = code::OK;
        }
        codes.push(result.exit_code);
        if !args.json {
            output::print(&common::as_called(global, &result.text(&agent)));
        }
        results.push(result);
        if progress.is_cancelled() {
            break;
        }
    }
    if args.json {
        match &results[..] {
            [one] if !args.all => output::json(one)?,
            several => output::json(&several)?,
        }
    }
    Ok(worst(&codes))
}

/// A source inside the folder of backups is left out of every backup: better said than found out.
fn outside(sources: &[PathBuf], to: &Path) -> Result<()> {
    let to = to.canonicalize().with_context(|| format!("looking at folder {}", to.display()))?;
    match sources.iter().find(|source| source.canonicalize().is_ok_and(|path| path.starts_with(&to))) {
        Some(source) => Err(UsageError(format!(
            "{} lies in the folder of backups {}, which is left out of every backup; choose another --to",
            source.display(),
            to.display()
        ))
        .into()),
        None => Ok(()),
    }
}

/// No run could begin. A person at a terminal sees that; for anybody else it is told past the state.
fn tell_unopened(global: &Global, config: &config::Config, jobs: &[JobName], error: &anyhow::Error) {
    if trigger() == RunTrigger::Manual {
        return;
    }
    let command = common::command(global);
    for job in jobs {
        let told = crate::ops::tell::run_without_agent(config, &command, job, error, Arc::new(SystemClock));
        for problem in told.map_or_else(|e| vec![format!("{e:#}")], |delivery| delivery.problems) {
            tracing::error!("not told: {problem}");
        }
    }
}

/// The state failed under a run: whoever can be told is told now, through the spool.
fn tell_past_the_state(agent: &Agent, job: &JobName, error: &anyhow::Error) {
    let told = crate::ops::tell::run_without_state(agent, job, error);
    for problem in told.map_or_else(|e| vec![format!("{e:#}")], |delivery| delivery.problems) {
        tracing::error!("{problem}");
    }
}

/// Cron and systemd start programs without a terminal and, cron, with a telling environment; a person has
/// one.
fn trigger() -> RunTrigger {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdin())
        || std::io::IsTerminal::is_terminal(&std::io::stdout())
        || std::io::IsTerminal::is_terminal(&std::io::stderr());
    if terminal { RunTrigger::Manual } else { RunTrigger::Cron }
}

fn chosen(config: &config::Config, args: &Backup) -> Result<Vec<JobName>> {
    if args.all {
        let all: Vec<JobName> = config.job.keys().cloned().collect();
        return if all.is_empty() {
            Err(UsageError("the configuration has no job".to_owned()).into())
        } else {
            Ok(all)
        };
    }
    if args.jobs.is_empty() {
        return Ok(vec![common::only_job(config)?]);
    }
    args.jobs.iter().try_for_each(|job| common::known_job(config, job))?;
    Ok(args.jobs.clone())
}

/// The worst of several exit codes.
fn worst(codes: &[u8]) -> u8 {
    const ORDER: [u8; 6] =
        [code::FAILURE, code::INTERRUPTED, code::PARTIAL, code::DEGRADED, code::LOCKED, code::OK];
    ORDER.into_iter().find(|code| codes.contains(code)).unwrap_or(code::OK)
}

/// What one job came to; the JSON form is for programs and keeps its names.
#[derive(Debug, Serialize)]
struct Answer {
    job: JobName,
    run_id: Option<RunId>,
    /// None when it did not begin: the job is locked.
    outcome: Option<Outcome>,
    exit_code: u8,
    error: Option<String>,
    degraded: Vec<String>,
    locked_by: Option<String>,
    duration_seconds: f64,
    target: Option<String>,
    location: Option<String>,
    source_bytes: u64,
    stored_bytes: u64,
    warnings: WarningCounts,
    components: Vec<Part>,
    steps: Vec<StepTime>,
    /// Warnings about the run, such as a source that shrank.
    notes: Vec<String>,
    untold: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    name: String,
    file: String,
    source_bytes: u64,
    stored_bytes: u64,
    entries: u64,
    warnings: WarningCounts,
}

impl Answer {
    fn new(agent: &Agent, job: &JobName, end: End, notes: Vec<String>) -> Result<Self> {
        let mut answer = Self {
            job: job.clone(),
            run_id: None,
            outcome: None,
            exit_code: code::LOCKED,
            error: None,
            degraded: Vec::new(),
            locked_by: None,
            duration_seconds: 0.0,
            target: None,
            location: None,
            source_bytes: 0,
            stored_bytes: 0,
            warnings: WarningCounts::default(),
            components: Vec::new(),
            steps: Vec::new(),
            notes,
            untold: Vec::new(),
        };
        let ran = match end {
            End::Locked(held) => {
                answer.locked_by = Some(format!("{}, which holds {}", held.holder, held.path.display()));
                return Ok(answer);
            }
            End::Ran(ran) => *ran,
        };
        answer.steps = agent.state.run(&ran.run_id)?.map(|run| run.steps).unwrap_or_default();
        answer.exit_code = exit_code(&ran);
        answer.duration_seconds = ran.duration.as_secs_f64();
        if let Some(backup) = &ran.backup {
            answer.target = Some(backup.target.to_string());
            let target = agent.config.target.get(&backup.target);
            answer.location = target.map(|t| t.address(&backup.location));
            answer.source_bytes = backup.manifest.source_bytes();
            answer.stored_bytes = backup.manifest.stored_bytes();
            answer.warnings = backup.manifest.warning_counts();
            answer.components = backup.manifest.components.iter().map(part).collect();
        }
        answer.run_id = Some(ran.run_id);
        answer.outcome = Some(ran.outcome);
        answer.error = ran.error;
        answer.degraded = ran.degraded;
        answer.untold = ran.untold;
        // What stands in the answer anyway is not said twice.
        let told = |note: &String| {
            answer.degraded.contains(note) || answer.error.as_ref().is_some_and(|error| error.contains(note))
        };
        answer.notes = std::mem::take(&mut answer.notes).into_iter().filter(|note| !told(note)).collect();
        Ok(answer)
    }

    fn text(&self, agent: &Agent) -> String {
        let mut text = String::new();
        let (Some(outcome), Some(run)) = (self.outcome, &self.run_id) else {
            return format!(
                "locked   job {}: {}\n",
                self.job,
                self.locked_by.as_deref().unwrap_or("another run")
            );
        };
        let took = output::took(std::time::Duration::from_secs_f64(self.duration_seconds));
        let word = output::tinted(outcome.as_str(), 8);
        text.push_str(&format!("{word} job {}, run {run}, {took}\n", self.job));
        if let Some(error) = &self.error {
            text.push_str(&format!("  {error}\n"));
        }
        let name_width = self.components.iter().map(|c| c.name.len()).max().unwrap_or(0);
        for part in &self.components {
            let entries = if part.entries > 0 {
                format!(", {}", plural(part.entries, "entry", "entries"))
            } else {
                String::new()
            };
            let warnings = warnings(&part.warnings);
            text.push_str(&format!(
                "  {:name_width$}  {:>9} read, {:>9} stored{entries}{warnings}\n",
                part.name,
                ByteSize(part.source_bytes),
                ByteSize(part.stored_bytes),
            ));
        }
        let job = agent.config.job.get(&self.job).filter(|_| self.location.is_some());
        // What is read back is the rule; what is not says so, and why.
        let line = |done: &str, target: &TargetName, place: &str| {
            let looked = agent.config.target.get(target).map(TargetConfig::looked_at);
            match looked {
                Some(looked @ Looked::NotAt(_)) => format!("  {done}: {place} ({looked})\n"),
                Some(looked) => format!("  {done} and {looked}: {place}\n"),
                None => format!("  {done}: {place}\n"),
            }
        };
        if let Some(location) = &self.location {
            text.push_str(&match job.and_then(|job| job.targets.first()) {
                Some(primary) => line("stored", primary, location),
                None => format!("  stored: {location}\n"),
            });
        }
        let missing: Vec<&String> = self.degraded.iter().collect();
        if let Some(job) = job {
            for target in job.targets.iter().skip(1) {
                if missing.iter().any(|text| crate::ops::tell::is_copy_trouble(text, target)) {
                    continue;
                }
                text.push_str(&line("copied", target, target.as_str()));
            }
        }
        self.notes.iter().for_each(|why| text.push_str(&format!("  {} {why}\n", output::tinted("note:", 0))));
        missing.iter().for_each(|why| text.push_str(&format!("  {} {why}\n", output::tinted("degraded", 0))));
        if outcome == Outcome::Partial || self.warnings.total() > 0 {
            text.push_str(&format!("  the files are listed by: {} show {run}\n", agent.command));
        }
        self.untold.iter().for_each(|why| text.push_str(&format!("  not told: {why}\n")));
        text
    }
}

fn part(component: &crate::manifest::Component) -> Part {
    Part {
        name: component.name.to_string(),
        file: component.file.clone(),
        source_bytes: component.source_bytes,
        stored_bytes: component.stored_bytes,
        entries: component.entries,
        warnings: component.warning_counts,
    }
}

/// `, 3 changed, 1 unreadable`, or nothing.
pub(super) fn warnings(counts: &WarningCounts) -> String {
    use crate::model::WarningKind;
    WarningKind::COUNTED
        .into_iter()
        .filter(|kind| counts.get(*kind) > 0)
        .map(|kind| format!(", {} {kind}", counts.get(kind)))
        .collect()
}

fn exit_code(ran: &Ran) -> u8 {
    match ran.outcome {
        Outcome::Failure => code::FAILURE,
        Outcome::Interrupted => code::INTERRUPTED,
        Outcome::Partial => code::PARTIAL,
        Outcome::Success | Outcome::Warning if !ran.degraded.is_empty() => code::DEGRADED,
        Outcome::Success | Outcome::Warning => code::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_several_jobs_decides_the_exit_code() {
        assert_eq!(worst(&[0, 75, 4]), 4);
        assert_eq!(worst(&[0, 3, 1, 130]), 1);
        assert_eq!(worst(&[130, 3]), 130);
        assert_eq!(worst(&[0, 75]), 75);
        assert_eq!(worst(&[0, 0]), 0);
    }
}
