//! When jobs ran, and when they will: `agent history`, `agent schedule`.

use anyhow::Result;
use chrono::DateTime;
use serde_json::json;

use super::{local, zone_of};
use crate::cli::args::{Global, History, Schedule};
use crate::cli::backup::warnings;
use crate::cli::output::{self, Table};
use crate::cli::{code, common};
use crate::clock::{Clock, SystemClock};
use crate::config::Trigger;
use crate::model::ByteSize;

pub fn history(global: &Global, args: &History) -> Result<u8> {
    let agent = common::open_reading(global, common::load(global)?)?;
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
    let config = common::load(global)?;
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
