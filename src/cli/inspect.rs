//! Verbs that only look: `list`, `show`, `status`, `history`, `schedule`, `metrics`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::args::{Global, History, Json, List, Schedule, Show};
use super::backup::warnings;
use super::output::{self, Table};
use super::{code, common};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, JobConfig, TargetConfig, Trigger};
use crate::health::{self, Extra};
use crate::manifest::{Encryption, Manifest};
use crate::metrics::{Facts, render};
use crate::model::{ByteSize, JobName, Outcome};
use crate::ops::{looks, verify::read_manifest};
use crate::state::{Copy, CopyStatus, HealthStatus, JobState, Origin, Run, load_for_reading};

fn local(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}

fn zone_of(config: &Config, job: &JobName) -> Tz {
    config.job.get(job).map_or(config.timezone, |j| config.job_timezone(j))
}

pub fn list(global: &Global, args: &List) -> Result<u8> {
    let agent = common::open_backups(global, common::load(global, false)?, args.target.as_ref(), None)?;
    let copies: Vec<Copy> = agent
        .state
        .copies(args.job.as_ref(), args.target.as_ref())?
        .into_iter()
        .filter(|c| args.all || c.status != CopyStatus::Expired)
        .collect();
    if args.json {
        output::json(&copies)?;
        return Ok(code::OK);
    }
    let now = agent.now();
    let mut table = Table::new(&["run", "job", "taken", "outcome", "target", "state", "size", "folder"]);
    for c in &copies {
        table.row(vec![
            c.run_id.to_string(),
            c.job.to_string(),
            local(c.started, zone_of(&agent.config, &c.job)),
            if c.imported { "imported".to_owned() } else { c.outcome.to_string() },
            c.target.to_string(),
            state_of(c, now),
            ByteSize(c.bytes).to_string(),
            c.location.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output::print(&if table.is_empty() {
        "there are no backups yet\n".to_owned()
    } else {
        table.render(Some(5))
    });
    Ok(code::OK)
}

pub fn show(global: &Global, args: &Show) -> Result<u8> {
    let agent = common::open_backups(global, common::load(global, false)?, None, Some(&args.id))?;
    let run = common::find_run(&agent, &args.id, args.job.as_ref())?;
    let copies = agent.state.copies_of(&run.run_id)?;
    let log = agent.state.run_log(&run.run_id)?;
    let drill = agent.state.drill_of_run(&run.run_id)?;
    // The manifest has what the state does not: digests and all warnings. A target that is away only means
    // that these are not shown.
    let manifest = copies.iter().filter(|c| c.status.is_kept()).find_map(|c| {
        agent.config.target.get(&c.target).filter(|t| t.folder().is_some() && !t.requires_mount())?;
        let (target, location) = (agent.open_target(&c.target).ok()?, c.location.as_deref()?);
        target.probe_readable(location).ok()?;
        read_manifest(target.as_ref(), location).ok()
    });
    if args.json {
        let log = args.log.then_some(log).flatten();
        output::json(
            &json!({"run": run, "copies": copies, "manifest": manifest, "drill": drill, "log": log}),
        )?;
        return Ok(code::OK);
    }
    let zone = zone_of(&agent.config, &run.job);
    output::print(&describe(&agent.config, &run, &copies, manifest.as_ref(), agent.now()));
    if let Some(drill) = &drill {
        output::print(&format!("\ndrill    {}", super::drill::described(drill, zone)));
    }
    match (args.log, log) {
        (true, Some(log)) => output::print(&format!("\nlog\n{log}")),
        (true, None) => output::print("\nno log is kept of this run\n"),
        (false, Some(_)) => output::print(&format!("\nlog: {} show {} --log\n", agent.command, run.run_id)),
        (false, None) => {}
    }
    Ok(code::OK)
}

/// Why a copy is not made yet.
fn waits_for(copy: &Copy) -> Option<String> {
    copy.last_error.clone().filter(|_| copy.status == CopyStatus::Pending)
}

/// How a copy stands, and what keeps it.
fn state_of(copy: &Copy, now: DateTime<Utc>) -> String {
    let mut text = copy.status.to_string();
    if copy.pinned {
        text.push_str(", pinned");
    }
    if copy.retained_until.is_some_and(|until| until > now) {
        text.push_str(", retained");
    }
    text
}

/// A line for each thing that keeps a copy.
fn kept_by(copy: &Copy, zone: Tz, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    if copy.pinned {
        let by = copy.pin.as_ref().map_or(String::new(), |pin| {
            let reason = pin.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            format!(" by {} on {}{reason}", pin.by, local(pin.pinned, zone))
        });
        let unknown = if copy.pin_stored || copy.imported { "" } else { " (the target does not know yet)" };
        text.push_str(&format!("pinned at {}{by}{unknown}\n", copy.target));
    }
    if let Some(until) = copy.retained_until.filter(|until| *until > now) {
        text.push_str(&format!("kept at {} by the storage until {}\n", copy.target, local(until, zone)));
    }
    text
}

fn describe(
    config: &Config,
    run: &Run,
    copies: &[Copy],
    manifest: Option<&Manifest>,
    now: DateTime<Utc>,
) -> String {
    let zone = zone_of(config, &run.job);
    let outcome = run.outcome.map_or("running", |o| o.as_str());
    let mut text =
        format!("run      {}\njob      {}\noutcome  {}\n", run.run_id, run.job, output::tinted(outcome, 0));
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<8} {value}\n"));
    line("started", format!("{} ({}, {})", local(run.started, zone), zone, run.trigger));
    if let (Some(ended), Some(took)) = (run.ended, run.duration()) {
        line("ended", format!("{}, after {}", local(ended, zone), output::took(took)));
    }
    if let Some(error) = &run.error {
        let step = run.failed_step.map_or_else(String::new, |s| format!(" (in {s})"));
        line("error", format!("{error}{step}"));
    }
    run.degraded.iter().for_each(|why| line("degraded", why.clone()));
    match manifest.map(|m| &m.encryption) {
        Some(Encryption::Age(age)) if age.passphrase => {
            line("opens by", "a passphrase (encrypted with age)".to_owned())
        }
        Some(Encryption::Age(age)) => {
            line("opens by", format!("{} (encrypted with age)", age.recipients.join(" or ")));
        }
        Some(Encryption::None) | None => {}
    }
    if !run.steps.is_empty() {
        let steps: Vec<String> =
            run.steps.iter().map(|s| format!("{} {:.1} s", s.step, s.ms as f64 / 1000.0)).collect();
        line("steps", steps.join(", "));
    }
    if !run.components.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["component", "read", "stored", "entries", "sha256"]);
        for c in &run.components {
            let digest = manifest.and_then(|m| m.components.iter().find(|x| x.name == c.name));
            table.row(vec![
                c.name.to_string(),
                ByteSize(c.source_bytes).to_string(),
                ByteSize(c.stored_bytes).to_string(),
                if c.entries > 0 { c.entries.to_string() } else { "-".to_owned() },
                digest.map_or_else(|| "-".to_owned(), |d| d.sha256.to_string()),
            ]);
        }
        text.push_str(&table.render(None));
    }
    if !copies.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["target", "state", "since", "folder"]);
        for c in copies {
            let since = c.verified_at.or(c.created_at).unwrap_or(c.queued_at);
            table.row(vec![
                c.target.to_string(),
                state_of(c, now),
                local(since, zone),
                c.location.clone().or_else(|| waits_for(c)).unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        text.push_str(&table.render(Some(1)));
        for copy in copies {
            let unread = config.target.get(&copy.target).filter(|_| copy.status == CopyStatus::Complete);
            if let Some(why) = unread.and_then(TargetConfig::not_read_back) {
                text.push_str(&format!("not read back at {}: {why}\n", copy.target));
            }
            text.push_str(&kept_by(copy, zone, now));
        }
    }
    // The manifest of an encrypted backup has no paths.
    let all = manifest.filter(|m| !m.encryption.is_some());
    let all = all.map(|m| m.components.iter().flat_map(|c| c.warnings.iter()).collect::<Vec<_>>());
    let files = all.unwrap_or_else(|| run.warnings.iter().collect());
    if !files.is_empty() {
        let skipped = run.warning_counts.skipped;
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        let counted = warnings(&run.warning_counts);
        let counts = format!("{counted}{skipped}");
        text.push_str(&format!("\nfiles:{}\n", counts.trim_start_matches(',')));
        for warning in files.iter().take(100) {
            text.push_str(&format!(
                "  {:<10} {}: {}\n",
                warning.kind,
                warning.path.display(),
                warning.detail
            ));
        }
        if files.len() > 100 {
            text.push_str(&format!("  … and {} more (--json has them)\n", files.len() - 100));
        }
    }
    text
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

pub fn status(global: &Global, args: &Json) -> Result<u8> {
    let config = common::load(global, false)?;
    let now = SystemClock.now();
    let (snapshot, origin) = load_for_reading(&config.state_dir, now)?;
    let extra = match origin {
        Origin::Database => looks::look(&config, &snapshot),
        Origin::StatusFile(_) => Extra::default(),
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

pub fn history(global: &Global, args: &History) -> Result<u8> {
    let agent = common::open_reading(global, common::load(global, false)?)?;
    let runs = agent.state.runs(args.job.as_ref(), args.limit)?;
    if args.json {
        output::json(&runs)?;
        return Ok(code::OK);
    }
    let mut table = Table::new(&["run", "job", "started", "by", "outcome", "took", "read", "stored", "what"]);
    for run in &runs {
        let counted = warnings(&run.warning_counts);
        let what = run
            .error
            .as_deref()
            .and_then(|e| e.lines().next())
            .map(str::to_owned)
            .or_else(|| run.degraded.first().cloned())
            .unwrap_or_else(|| counted.trim_start_matches(", ").to_owned());
        table.row(vec![
            run.run_id.to_string(),
            run.job.to_string(),
            local(run.started, zone_of(&agent.config, &run.job)),
            run.trigger.to_string(),
            match run.outcome {
                None => "running",
                Some(outcome) if outcome.is_good() && !run.degraded.is_empty() => "degraded",
                Some(outcome) => outcome.as_str(),
            }
            .to_owned(),
            run.duration().map_or_else(|| "-".to_owned(), output::took),
            ByteSize(run.source_bytes).to_string(),
            ByteSize(run.stored_bytes).to_string(),
            what,
        ]);
    }
    output::print(&if table.is_empty() {
        "there were no runs yet\n".to_owned()
    } else {
        table.render(Some(4))
    });
    Ok(code::OK)
}

pub fn schedule(global: &Global, args: &Schedule) -> Result<u8> {
    let config = common::load(global, false)?;
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let now = SystemClock.now();
    let mut answers = Vec::new();
    for (name, job) in config.job.iter().filter(|(name, _)| args.job.as_ref().is_none_or(|j| j == *name)) {
        let zone = config.job_timezone(job);
        // A line between jobs, none at the end.
        if !args.json && !answers.is_empty() {
            output::print("\n");
        }
        let Some(schedule) = job.schedule() else {
            answers.push(json!({"job": name, "schedule": null, "timezone": zone.name(), "next": []}));
            if !args.json {
                output::print(&format!("{name}: no schedule; it runs when it is started\n"));
            }
            continue;
        };
        let next: Vec<_> =
            schedule.upcoming(zone, now, args.count).iter().map(|at| at.with_timezone(&zone)).collect();
        answers.push(json!({
            "job": name, "schedule": schedule.as_str(), "timezone": zone.name(),
            "next": next.iter().map(DateTime::to_rfc3339).collect::<Vec<_>>(),
        }));
        if !args.json {
            let by = if job.trigger == Trigger::External { ", started by cron" } else { "" };
            output::print(&format!("{name}: {schedule} in {zone}{by}\n"));
            for at in &next {
                output::print(&format!("  {}\n", at.format("%a %Y-%m-%d %H:%M %Z")));
            }
        }
    }
    if args.json {
        output::json(&answers)?;
    }
    Ok(code::OK)
}

pub fn metrics(global: &Global) -> Result<u8> {
    let config = common::load(global, false)?;
    let now = SystemClock.now();
    let (snapshot, _) = load_for_reading(&config.state_dir, now).context("reading the state")?;
    let facts =
        Facts { snapshot: Arc::new(snapshot), config: Arc::new(config), progress: Default::default(), now };
    output::print(&render(&facts)?);
    Ok(code::OK)
}
