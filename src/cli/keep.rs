//! Verbs that change how jobs and backups are treated: `pause`, `resume`, `ack`, `prune`, `pin`, `unpin`.

use anyhow::{Result, bail};
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::args::{Global, JobArg, Pause, Pin, Prune};
use super::code;
use super::common::{self, UsageError};
use super::output::{self, Table};
use crate::event::Progress;
use crate::model::ByteSize;
use crate::ops::{Agent, prune, touch_job};
use crate::state::CopyStatus;

fn open_for(global: &Global, job: &crate::model::JobName) -> Result<Agent> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::known_job(&config, job)?;
    common::open(global, config)
}

pub fn pause(global: &Global, args: &Pause) -> Result<u8> {
    let agent = open_for(global, &args.job)?;
    let job = agent.job(&args.job)?;
    let zone = agent.config.job_timezone(job);
    let until = moment(&args.until, agent.now(), zone)?;
    touch_job(&agent, &args.job, job)?;
    agent.state.set_paused(&args.job, Some(until), agent.now())?;
    common::publish(&agent)?;
    let shown = until.with_timezone(&zone).format("%Y-%m-%d %H:%M %Z");
    output::print(&format!("job {} rests until {shown}: no scheduled runs, no alarms\n", args.job));
    Ok(code::OK)
}

pub fn resume(global: &Global, args: &JobArg) -> Result<u8> {
    let agent = open_for(global, &args.job)?;
    // Not erased but ended: what was passed over in the pause is not due.
    agent.state.set_paused(&args.job, Some(agent.now()), agent.now())?;
    common::publish(&agent)?;
    output::print(&format!("job {} goes on by its schedule\n", args.job));
    Ok(code::OK)
}

pub fn ack(global: &Global, args: &JobArg) -> Result<u8> {
    let agent = open_for(global, &args.job)?;
    agent.state.ack_baseline(&args.job, agent.now())?;
    common::publish(&agent)?;
    output::print(&format!("job {}: sizes are measured anew from the next good run on\n", args.job));
    Ok(code::OK)
}

/// A duration from now, or a date or time in the job's zone.
fn moment(text: &str, now: DateTime<Utc>, zone: Tz) -> Result<DateTime<Utc>> {
    let wrong = || UsageError(format!("{text:?} is no time: say 2h, 3days, 2026-12-01 or 2026-12-01T08:00"));
    let found = if let Ok(duration) = humantime::parse_duration(text) {
        now + TimeDelta::from_std(duration).map_err(|_| wrong())?
    } else if let Ok(exact) = text.parse::<DateTime<Utc>>() {
        exact
    } else {
        let local = ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
            .ok_or_else(wrong)?;
        local.and_local_timezone(zone).earliest().ok_or_else(wrong)?.with_timezone(&Utc)
    };
    if found <= now { Err(UsageError(format!("{text} has passed already")).into()) } else { Ok(found) }
}

pub fn prune(global: &Global, args: &Prune) -> Result<u8> {
    let config = common::load(global, true)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let agent = if args.dry_run {
        common::open_reading(global, config)?
    } else {
        common::open_existing(global, config)?
    };
    let mut answers = Vec::new();
    let mut failed = false;
    for (job, config) in
        agent.config.job.iter().filter(|(name, _)| args.job.as_ref().is_none_or(|j| j == *name))
    {
        for (position, target) in config.targets.iter().enumerate() {
            if args.target.as_ref().is_some_and(|t| t != target) {
                continue;
            }
            let plan = prune::plan(&agent, job, target, None)?;
            let mut table = Table::new(&["run", "does", "size", "because"]);
            for decision in &plan.decisions {
                table.row(vec![
                    decision.run_id.to_string(),
                    if decision.keep { "stays" } else { "goes" }.to_owned(),
                    ByteSize(decision.bytes).to_string(),
                    decision.reasons.join("; "),
                ]);
                answers.push(json!({
                    "job": job, "target": target, "run_id": decision.run_id, "keep": decision.keep,
                    "bytes": decision.bytes, "reasons": decision.reasons,
                }));
            }
            if !args.json && !table.is_empty() {
                output::print(&format!("{job} at {target}\n{}", table.render(Some(1))));
            }
            if args.dry_run {
                let goes: Vec<_> = plan.decisions.iter().filter(|d| !d.keep).collect();
                let bytes = ByteSize(goes.iter().map(|d| d.bytes).sum());
                if !args.json && !table.is_empty() {
                    output::print(&format!(
                        "{} would be removed, {bytes}\n\n",
                        counted(goes.len(), "backup")
                    ));
                }
            } else {
                let primary = (position == 0).then(|| agent.open_target(target)).transpose()?;
                match prune::at_target(&agent, job, target, primary.as_deref(), &Progress::default()) {
                    Ok(removed) if !args.json && !table.is_empty() => {
                        output::print(&format!("{} removed\n\n", counted(removed.len(), "backup")));
                    }
                    Ok(_) => {}
                    Err(e) => {
                        output::error(&e);
                        failed = true;
                    }
                }
            }
        }
    }
    if args.json {
        output::json(&answers)?;
    } else if answers.is_empty() {
        output::print("there are no backups\n");
    }
    if !args.dry_run {
        common::publish(&agent)?;
    }
    Ok(if failed { code::FAILURE } else { code::OK })
}

pub fn pin(global: &Global, args: &Pin, pinned: bool) -> Result<u8> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open_existing(global, config)?;
    let run = common::find_run(&agent, &args.id, args.job.as_ref())?;
    let mut copies = agent.state.copies_of(&run.run_id)?;
    // One still to be made can be pinned already.
    copies.retain(|c| {
        c.status != CopyStatus::Expired && args.target.as_ref().is_none_or(|target| c.target == *target)
    });
    if copies.is_empty() {
        let at = args.target.as_ref().map_or_else(String::new, |target| format!(" at {target}"));
        bail!("run {} has no backup{at}; `{} list` shows those there are", run.run_id, agent.command);
    }
    for copy in &copies {
        let changed = agent.state.set_pinned(&run.run_id, &copy.target, pinned)?;
        let text = match (pinned, changed) {
            (true, true) => "pinned: retention never removes it",
            (true, false) => "was pinned already",
            (false, true) => "no longer pinned: the retention policy decides",
            (false, false) => "was not pinned",
        };
        output::print(&format!("{} at {} {text}\n", run.run_id, copy.target));
    }
    common::publish(&agent)?;
    Ok(code::OK)
}

/// `1 backup`, `3 backups`.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_takes_durations_dates_and_times() {
        let now: DateTime<Utc> = "2026-11-24T12:00:00Z".parse().unwrap();
        let until = |text: &str| moment(text, now, chrono_tz::Europe::Berlin).map(|t| t.to_rfc3339()).ok();
        assert_eq!(until("2h").as_deref(), Some("2026-11-24T14:00:00+00:00"));
        assert_eq!(until("2026-12-01").as_deref(), Some("2026-11-30T23:00:00+00:00"));
        assert_eq!(until("2026-12-01T08:00").as_deref(), Some("2026-12-01T07:00:00+00:00"));
        assert_eq!(until("2026-12-01T08:00:00Z").as_deref(), Some("2026-12-01T08:00:00+00:00"));
        assert_eq!(until("yesterday"), None);
        assert_eq!(until("2020-01-01"), None, "the past was accepted");
    }
}
