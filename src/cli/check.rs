//! `agent check`: the health checks as a monitoring plugin.

use std::sync::Arc;

use anyhow::Result;

use super::args::{Check, Global};
use super::{common, output};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::health::{self, Extra, Finding, Format, Report};
use crate::log;
use crate::model::JobName;
use crate::ops::{looks, starts, tell};
use crate::state::{HealthStatus, Origin, load_for_reading};

/// What standard error shows beside the report: only what keeps somebody from being told of it.
const BESIDE_REPORT: &str = "warn,backup_agent::health=off,backup_agent::notify=off";

pub fn check(global: &Global, args: &Check) -> Result<u8> {
    let config = common::load(global)?;
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let now = SystemClock.now();
    let format = if args.json { Format::Json } else { Format::Plugin };
    let mut all = Vec::new();
    let read = load_for_reading(&config.state_dir, now);
    start_log(global, &config, matches!(read, Ok((_, Origin::Database))))?;
    let report = match read {
        Err(e) => Report::unreadable(e),
        Ok((snapshot, origin)) => {
            // The status file is all an ordinary user may read; what it lacks is not looked at.
            let extra = match &origin {
                Origin::Database => Extra {
                    duplicates: starts::duplicates(&config, &common::command(global), now),
                    ..looks::look(&config, &snapshot, || looks::snapshot_now(&config, now))
                },
                Origin::StatusFile(_) => {
                    Extra { secret_files: looks::secret_files(&config), ..Extra::default() }
                }
                Origin::InsteadOfBroken(why) => Extra { state_broken: Some(why.clone()), ..Extra::default() },
            };
            let mut findings = health::findings(&snapshot, &config, now, &extra);
            all.clone_from(&findings);
            if let Some(job) = &args.job {
                findings.retain(|f| f.job.as_ref().is_none_or(|j| j == job));
            }
            let report = Report::new(findings);
            match origin {
                Origin::Database => report,
                Origin::StatusFile(why) | Origin::InsteadOfBroken(why) => {
                    let written = health::words(health::since(snapshot.written, now));
                    report.note(format!("read from status.json, written {written} ago ({why})"))
                }
            }
        }
    };
    log_report(global, &report);
    output::print(&match format {
        Format::Plugin => common::as_called(global, &report.render(format, args.quiet)),
        Format::Json => report.render(format, args.quiet),
    });
    // All of it, whatever part was asked for: what is written down is the state of the whole host.
    if args.record
        && !all.is_empty()
        && let Err(e) = record(global, &config, &all)
    {
        tracing::error!("the answers were not written down: {e:#}");
    }
    if args.mail && report.status() != HealthStatus::Ok {
        // The answer stands, whoever can be told of it.
        let problems = mail(global, &config, &report);
        for problem in problems.unwrap_or_else(|e| vec![format!("{e:#}")]) {
            tracing::error!("not told: {problem}");
        }
    }
    Ok(report.exit_code())
}

/// The answer stands on standard output already; log files get it too, from those who may write them.
fn start_log(global: &Global, config: &Config, with_files: bool) -> Result<()> {
    let mut settings = common::log_settings(global.verbose, Some(config), BESIDE_REPORT);
    if global.verbose == 0 {
        settings.level = Some(BESIDE_REPORT.to_owned());
    }
    if !with_files {
        (settings.run_file, settings.health_file) = (None, None);
    }
    common::init_log(&settings)
}

/// Writes the answers down for everybody who asks later, as a daemon does every minute: the state,
/// `status.json`, and the text file of metrics.
fn record(global: &Global, config: &Config, findings: &[Finding]) -> Result<()> {
    let agent = common::open(global, config.clone())?;
    let rows: Vec<_> = findings.iter().map(Finding::to_row).collect();
    agent.state.record_health(&rows, agent.now())?;
    common::publish(&agent)
}

/// One line when all is well, else one for each finding that is not as it should be.
fn log_report(global: &Global, report: &Report) {
    match (report.status(), report.problems().len()) {
        (HealthStatus::Ok, _) => tracing::info!(target: log::HEALTH, "in order: {}", report.summary()),
        (_, 0) => tracing::warn!(target: log::HEALTH, "{}", report.summary()),
        _ => {}
    }
    for finding in report.problems() {
        let job = finding.job.as_ref().map(JobName::as_str);
        let text = common::as_called(global, &finding.text());
        tracing::warn!(target: log::HEALTH, job, "check {} is {}: {text}", finding.check, finding.status);
    }
}

/// Tells of the findings through the agent's own channels, at most once a day for the same findings. What
/// went wrong with that is given back.
fn mail(global: &Global, config: &Config, report: &Report) -> Result<Vec<String>> {
    let agent = match common::open(global, config.clone()) {
        Ok(agent) => agent,
        Err(e) => {
            let reason = format!("{e:#}; what the check says: {}", report.summary());
            let command = common::command(global);
            let told = tell::state_unusable(config, &command, &reason, Arc::new(SystemClock))?;
            return Ok(told.problems);
        }
    };
    let problems: Vec<&Finding> = report.problems();
    tell::findings(&agent, &report.summary(), &problems)?;
    Ok(tell::deliver(&agent).problems)
}
