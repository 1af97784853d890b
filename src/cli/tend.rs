//! `agent tend`: what the daemon does beside runs, once, for hosts where cron starts everything.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::args::{Global, Tend};
use super::{code, common, output};
use crate::event::{Progress, Silent};
use crate::ops::reap::Fate;
use crate::ops::{copies, reap, tell};
use crate::state::write_status;

pub fn tend(global: &Global, args: &Tend) -> Result<u8> {
    let config = common::load(global, true)?;
    common::start_log(global, Some(&config), "warn")?;
    let agent = common::open(global, config)?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let mut failed = false;
    for (job, config) in &agent.config.job {
        agent.state.touch_job(job, config.schedule.as_deref(), agent.now())?;
    }
    for (run, fate) in reap::all(&agent)? {
        let text = match fate {
            Fate::Interrupted => "had died: marked interrupted, its leftovers removed".to_owned(),
            Fate::Adopted(outcome) => format!("had died after publishing: its backup counts ({outcome})"),
            Fate::Unknown(why) => format!("has died, and its target cannot be looked at: {why}"),
        };
        output::print(&format!("run {run} {text}\n"));
    }
    if args.retry {
        agent.state.retry_copies(None, agent.now())?;
    }
    let drained = copies::drain(&agent, None, Some(Instant::now() + args.copy_wait), &Silent, &progress)?;
    if drained.made > 0 {
        output::print(&format!("{} pending copies were made\n", drained.made));
    }
    for (run, target, why) in &drained.failed {
        output::print(&format!("no copy of run {run} at {target}: {why}\n"));
        failed = true;
    }
    for (run, why) in &drained.degraded {
        output::print(&format!("run {run}: {why}\n"));
        failed = true;
    }
    agent.state.expire_logs(agent.now())?;
    agent.state.expire_messages(agent.now())?;
    tell::by_time(&agent)?;
    let delivery = tell::deliver(&agent);
    if delivery.sent > 0 {
        output::print(&format!("{} messages were sent\n", delivery.sent));
    }
    for problem in &delivery.problems {
        output::print(&format!("not told: {problem}\n"));
        failed = true;
    }
    write_status(&agent.state, agent.now())?;
    Ok(if failed { code::FAILURE } else { code::OK })
}
