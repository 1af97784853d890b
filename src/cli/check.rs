//! `agent check`: the health checks as a monitoring plugin.

use std::sync::Arc;

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::args::{Check, Global};
use super::{common, output};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::health::{self, Extra, Finding, Format, Report};
use crate::metrics;
use crate::ops::{looks, starts, tell};
use crate::state::{HealthStatus, Origin, State, load_for_reading, write_status};

pub fn check(global: &Global, args: &Check) -> Result<u8> {
    let config = common::load(global, false)?;
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let now = SystemClock.now();
    let format = if args.json { Format::Json } else { Format::Plugin };
    let mut all = Vec::new();
    let report = match load_for_reading(&config.state_dir, now) {
        Err(e) => Report::unreadable(e),
        Ok((snapshot, origin)) => {
            // The status file is all an ordinary user may read; what it lacks is not looked at.
            let extra = match &origin {
                Origin::Database => Extra {
                    duplicates: starts::duplicates(&config, &common::command(global), now),
                    ..looks::look(&config, &snapshot)
                },
                Origin::StatusFile(_) => Extra::default(),
            };
            let mut findings = health::findings(&snapshot, &config, now, &extra);
            all.clone_from(&findings);
            if let Some(job) = &args.job {
                findings.retain(|f| f.job.as_ref().is_none_or(|j| j == job));
            }
            let report = Report::new(findings);
            match origin {
                Origin::Database => report,
                Origin::StatusFile(why) => {
                    let written = health::words(health::since(snapshot.written, now));
                    report.note(format!("read from status.json, written {written} ago ({why})"))
                }
            }
        }
    };
    output::print(&match format {
        Format::Plugin => common::as_called(global, &report.render(format, args.quiet)),
        Format::Json => report.render(format, args.quiet),
    });
    if args.mail || args.record {
        common::start_log(global, Some(&config), "error,backup_agent::notify=off")?;
    }
    // All of it, whatever part was asked for: what is written down is the state of the whole host.
    if args.record
        && !all.is_empty()
        && let Err(e) = record(&config, &all, now)
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

/// Writes the answers down for everybody who asks later: the state, `status.json`, and the text file of
/// metrics.
fn record(config: &Config, findings: &[Finding], now: DateTime<Utc>) -> Result<()> {
    let state = State::open(&config.state_dir, now)?;
    let rows: Vec<_> = findings.iter().map(Finding::to_row).collect();
    state.record_health(&rows, now)?;
    let snapshot = Arc::new(write_status(&state, now)?);
    if let Some(path) = &config.metrics.textfile {
        let config = Arc::new(config.clone());
        let facts = metrics::Facts { snapshot, config, progress: Default::default(), now };
        metrics::write_textfile(path, &facts)?;
    }
    Ok(())
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
