//! `agent copies`: the queue of copies, and why what waits in it waits.

use std::collections::BTreeMap;

use anyhow::Result;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::args::{Copies, Global};
use super::output::{self, Table};
use super::{code, common};
use crate::health::{since, words};
use crate::model::{ByteSize, TargetName};
use crate::state::Copy;

pub fn copies(global: &Global, args: &Copies) -> Result<u8> {
    let agent = common::open_reading(global, common::load(global)?)?;
    if let Some(job) = &args.job {
        common::known_job(&agent.config, job)?;
    }
    common::known_target(&agent.config, args.target.as_ref())?;
    let mut queue = agent.state.queued_copies()?;
    queue.retain(|copy| {
        args.job.as_ref().is_none_or(|job| copy.job == *job)
            && args.target.as_ref().is_none_or(|target| copy.target == *target)
    });
    if args.json {
        output::json(&queue)?;
        return Ok(code::OK);
    }
    if queue.is_empty() {
        output::print("no copy waits\n");
        return Ok(code::OK);
    }
    let (now, zone) = (agent.now(), agent.config.timezone);
    let mut table =
        Table::new(&["run", "job", "target", "state", "size", "waits for", "tried", "next attempt"]);
    for copy in &queue {
        let state = state(copy, now);
        table.row(vec![
            copy.run_id.to_string(),
            copy.job.to_string(),
            copy.target.to_string(),
            state.to_owned(),
            ByteSize(copy.bytes).to_string(),
            words(since(copy.queued_at, now)),
            match copy.attempts {
                0 => "-".to_owned(),
                attempts => attempts.to_string(),
            },
            if state == "copying" { "-".to_owned() } else { next(copy, now, zone) },
        ]);
    }
    output::print(&table.render(Some(3)));
    output::print(&reasons(&queue, &agent.command));
    Ok(code::OK)
}

fn state(copy: &Copy, now: DateTime<Utc>) -> &'static str {
    match copy.claimed_until {
        Some(until) if until > now => "copying",
        _ if copy.permanent => "stopped",
        _ => "waits",
    }
}

fn next(copy: &Copy, now: DateTime<Utc>, zone: Tz) -> String {
    match copy.next_attempt {
        Some(at) if at <= now => "now".to_owned(),
        Some(at) => {
            format!("{} (in {})", at.with_timezone(&zone).format("%m-%d %H:%M"), words(since(now, at)))
        }
        None => "only with --retry".to_owned(),
    }
}

/// What the newest copy that failed met at each target, and what to do about it.
fn reasons(queue: &[Copy], command: &str) -> String {
    let mut by_target: BTreeMap<&TargetName, &Copy> = BTreeMap::new();
    for copy in queue.iter().filter(|copy| copy.last_error.is_some()) {
        by_target.entry(&copy.target).or_insert(copy);
    }
    let mut text = String::new();
    for (target, copy) in by_target {
        let error = copy.last_error.as_deref().unwrap_or_default();
        text.push_str(&format!("\n{target}: {error}\n"));
        if copy.permanent {
            text.push_str(&format!(
                "  trying again does not mend this: put it right, then: {command} tend --retry\n"
            ));
        }
    }
    text
}
