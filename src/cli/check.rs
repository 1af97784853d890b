//! `agent check`: the health checks as a monitoring plugin.

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
    output::print(&report.render(format, args.quiet));
    if args.mail && report.status() != HealthStatus::Ok {
        mail(global, &config, &report)?;
    }
    Ok(report.exit_code())
}

/// Tells of the findings through the agent's own channels, at most once in a reminder's time for the same
/// findings.
fn mail(global: &Global, config: &crate::config::Config, report: &Report) -> Result<()> {
    common::start_log(global, Some(config), "error")?;
    let agent = common::open(global, config.clone())?;
    let problems: Vec<&Finding> = report.problems();
    tell::findings(&agent, &report.summary(), &problems)?;
    for problem in tell::deliver(&agent).problems {
        tracing::error!("{problem}");
    }
    Ok(())
}
