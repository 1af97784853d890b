//! Verbs that change how jobs are treated: `pause`, `resume`, `ack`.

use anyhow::Result;
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::args::{Global, JobArg, Pause};
use super::common::{self, UsageError};
use super::{code, output};
use crate::ops::{Agent, touch_job};

fn open_for(global: &Global, job: &crate::model::JobName) -> Result<Agent> {
    let config = common::load(global)?;
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
