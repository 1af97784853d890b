//! `agent check`: the health checks as a monitoring plugin.

use std::sync::Arc;

use anyhow::Result;

use super::args::{Check, Global};
use super::{common, output};
use crate::clock::{Clock, SystemClock};
use crate::health::{self, Extra, Finding, Format, Report};
use crate::ops::{looks, tell};
use crate::state::{HealthStatus, Origin, load_for_reading};

pub fn check(global: &Global, args: &Check) -> Result<u8> {
    let config = common::load(global, false)?;
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let now = SystemClock.now();
    let format = if args.json { Format::Json } else { Format::Plugin };
    let report = match load_for_reading(&config.state_dir, now) {
        Err(e) => Report::unreadable(e),
        Ok((snapshot, origin)) => {
            // The status file is all an ordinary user may read; what it lacks is not looked at.
            let extra = match &origin {
                Origin::Database => looks::look(&config, &snapshot),
                Origin::StatusFile(_) => Extra::default(),
            };
            let mut findings = health::findings(&snapshot, &config, now, &extra);
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
    if args.mail && report.status() != HealthStatus::Ok {
        common::start_log(global.verbose, Some(&config), "error,backup_agent::notify=off")?;
        // The answer stands, whoever can be told of it.
        let problems = mail(global, &config, &report);
        for problem in problems.unwrap_or_else(|e| vec![format!("{e:#}")]) {
            tracing::error!("not told: {problem}");
        }
    }
    Ok(report.exit_code())
}

/// Tells of the findings through the agent's own channels, at most once a day for the same findings. What
/// went wrong with that is given back.
fn mail(global: &Global, config: &crate::config::Config, report: &Report) -> Result<Vec<String>> {
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
