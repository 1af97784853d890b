//! `agent status`.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::local;
use crate::cli::args::{Global, Json};
use crate::cli::output::{self, Table};
use crate::cli::{code, common};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, JobConfig};
use crate::health::{self, Extra};
use crate::model::{ByteSize, JobName, Outcome};
use crate::ops::looks;
use crate::state::{HealthStatus, JobState, Origin, Run, load_for_reading};

pub fn status(global: &Global, args: &Json) -> Result<u8> {
    let config = common::load(global)?;
    let now = SystemClock.now();
    let (snapshot, origin) = load_for_reading(&config.state_dir, now)?;
    let extra = match origin {
        Origin::Database => looks::look(&config, &snapshot, || looks::snapshot_now(&config, now)),
        Origin::StatusFile(_) => Extra { secret_files: looks::secret_files(&config), ..Extra::default() },
        Origin::InsteadOfBroken(why) => Extra { state_broken: Some(why), ..Extra::default() },
    };
    let findings = health::findings(&snapshot, &config, now, &extra);
    if args.json {
        output::json(&json!({"status": snapshot, "findings": findings}))?;
        return Ok(code::OK);
    }
    let recovery = |name: &JobName| snapshot.job(name)?.drills.last_good.as_ref()?.result.restore_ms;
    // How long it took to get everything back, where that was ever tried.
    let drilled = config.job.keys().any(|name| recovery(name).is_some());
    let mut columns = vec!["job", "state", "last good", "next run", "size", "took", "copies"];
    columns.extend(drilled.then_some("recovery"));
    let mut table = Table::new(&columns);
    for (name, job) in &config.job {
        let zone = config.job_timezone(job);
        let state = snapshot.job(name);
        let last = state.and_then(|s| s.last_success.as_ref());
        let paused = state.and_then(|s| s.row.paused_until).filter(|until| *until > now);
        let bad = findings
            .iter()
            .any(|f| f.job.as_ref() == Some(name) && f.check == "overdue" && f.status != HealthStatus::Ok);
        let word = match state {
            Some(s) if s.running.as_ref().is_some_and(|run| !extra.dead_runs.contains(&run.run_id)) => {
                "running"
            }
            _ if paused.is_some() => "paused",
            _ if bad => "overdue",
            Some(JobState { last_run: Some(run), .. }) => match run.outcome {
                Some(outcome) if outcome.is_good() && !run.degraded.is_empty() => "degraded",
                Some(Outcome::Success) => "good",
                Some(outcome) => outcome.as_str(),
                None => "running",
            },
            _ => "never ran",
        };
        let next = match (paused, job.schedule()) {
            (Some(until), _) => format!("rests until {}", local(until, zone)),
            (None, Some(schedule)) => {
                schedule.next_after(zone, now).map_or_else(|| "-".to_owned(), |at| local(at, zone))
            }
            (None, None) => "no schedule".to_owned(),
        };
        let copies: Vec<String> = job
            .targets
            .iter()
            .map(|target| {
                let at = state.and_then(|s| s.targets.get(target)).cloned().unwrap_or_default();
                let pending = match (at.pending, at.stopped) {
                    (0, _) => String::new(),
                    (pending, false) => format!(" (+{pending} pending)"),
                    (pending, true) => format!(" (+{pending} stopped)"),
                };
                format!("{target} {}{pending}", at.kept)
            })
            .collect();
        let none = || "-".to_owned();
        let took = recovery(name).map(|ms| output::took(Duration::from_millis(ms)));
        let mut row = vec![
            name.to_string(),
            word.to_owned(),
            last.map_or_else(none, |run| format!("{} ago", health::words(health::since(run.started, now)))),
            next,
            last.map_or_else(none, |run| ByteSize(run.stored_bytes).to_string()),
            last.and_then(Run::duration).map_or_else(none, output::took),
            copies.join(", "),
        ];
        row.extend(drilled.then(|| took.unwrap_or_else(none)));
        table.row(row);
    }
    output::print(&if table.is_empty() {
        "the configuration has no job\n".to_owned()
    } else {
        table.render(Some(1))
    });
    let waits = |state: &JobState| state.targets.values().any(|at| at.pending > 0);
    if snapshot.jobs.iter().any(waits) {
        output::print(&common::as_called(global, "\nwhat waits to be copied, and why: `agent copies`\n"));
    }
    for (name, job) in &config.job {
        if let Some(line) = snapshot.job(name).and_then(|state| drill_line(&config, job, state, now)) {
            output::print(&format!("\n{name}: {line}\n"));
        }
    }
    for finding in findings.iter().filter(|f| f.status != HealthStatus::Ok) {
        let job = finding.job.as_ref().map_or_else(|| "agent".to_owned(), JobName::to_string);
        output::print(&format!("\n{job}: {}\n", common::as_called(global, &finding.text())));
    }
    Ok(code::OK)
}

/// The last drill of a job and the next, in a line; none where there is neither.
fn drill_line(config: &Config, job: &JobConfig, state: &JobState, now: DateTime<Utc>) -> Option<String> {
    let zone = config.job_timezone(job);
    let next = health::next_drill(config, job, state);
    let next = next.map(|at| match at > now {
        true => format!("the next {}", local(at, zone)),
        false => format!("the next is due since {}", local(at, zone)),
    });
    let last = state.drills.last.as_ref().map(|drill| {
        let at = drill.ended.unwrap_or(drill.started);
        let ago = health::words(health::since(at, now));
        let took = drill.result.restore_ms.map(|ms| output::took(Duration::from_millis(ms)));
        match (drill.ok, took) {
            (Some(true), Some(took)) => {
                format!("the last drill brought everything back in {took}, {ago} ago")
            }
            _ => format!("the last drill FAILED {ago} ago"),
        }
    });
    match (last, next) {
        (None, None) => None,
        (Some(last), None) => Some(last),
        (None, Some(next)) => Some(format!("no drill yet, {next}")),
        (Some(last), Some(next)) => Some(format!("{last}; {next}")),
    }
}
