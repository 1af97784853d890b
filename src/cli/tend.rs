//! `agent tend`: what the daemon does beside runs, once, for hosts where cron starts everything.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::args::{Global, Tend};
use super::{code, common, output};
use crate::daemon;
use crate::event::{Progress, Silent};
use crate::health::Extra;
use crate::ops::reap::Fate;
use crate::ops::{Agent, copies, drill, load, looks, pins, reap, starts, tell, touch_job};
use crate::state::CopyStatus;

pub fn tend(global: &Global, args: &Tend) -> Result<u8> {
    let begun = common::begin(global)?;
    let config = begun.config().clone();
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open(global, config)?;
    begun.record(&agent)?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let mut failed = false;
    for (job, config) in &agent.config.job {
        touch_job(&agent, job, config)?;
    }
    for (run, fate) in reap::all(&agent)? {
        let text = match fate {
            Fate::Interrupted => "had died: marked interrupted, its leftovers removed".to_owned(),
            Fate::Adopted(outcome) => format!("had died after publishing: its backup counts ({outcome})"),
            Fate::Unknown(why) => format!("has died, and its target cannot be looked at: {why}"),
        };
        output::print(&format!("run {run} {text}\n"));
    }
    match drill::reap(&agent)? {
        0 => {}
        1 => output::print("1 drill had died: it counts as failed, its leftovers removed\n"),
        died => {
            output::print(&format!("{died} drills had died: they count as failed, their leftovers removed\n"))
        }
    }
    for left in load::reap(&agent)? {
        output::print(&format!("{}\n", left.text));
        failed |= left.bad;
    }
    if args.retry {
        agent.state.retry_copies(None, agent.now())?;
        agent.state.retry_messages(agent.now())?;
    }
    if !daemon::is_running(agent.state.dir()) {
        copies::look_again(&agent)?;
    }
    let deadline = Some(Instant::now() + args.copy_wait);
    let pass = copies::Pass { deadline, finish: true, ..Default::default() };
    let drained = copies::drain(&agent, &pass, &Silent, &progress)?;
    match drained.made {
        0 => {}
        1 => output::print("1 pending copy was made\n"),
        made => output::print(&format!("{made} pending copies were made\n")),
    }
    match drained.spared {
        0 => {}
        1 => output::print("1 pending copy is not needed any more: newer ones leave it no place\n"),
        spared => {
            output::print(&format!(
                "{spared} pending copies are not needed any more: newer ones leave them no place\n"
            ));
        }
    }
    for (run, target, why) in &drained.failed {
        output::print(&format!("no copy of run {run} at {target}: {why}\n"));
        failed = true;
    }
    for (run, why) in &drained.degraded {
        output::print(&format!("run {run}: {why}\n"));
        failed = true;
    }
    let pinned = pins::tell_all(&agent, &progress)?;
    if pinned.told > 0 {
        let copies = if pinned.told == 1 { "1 copy".to_owned() } else { format!("{} copies", pinned.told) };
        output::print(&format!("targets were told which backups are pinned: {copies}\n"));
    }
    for (run, target, why) in &pinned.failed {
        output::print(&format!("target {target} was not told yet whether run {run} is pinned: {why}\n"));
        failed = true;
    }
    agent.state.expire_logs(agent.now())?;
    agent.state.expire_messages(agent.now())?;
    tell::by_time(&agent)?;
    let delivery = tell::deliver(&agent);
    match delivery.sent {
        0 => {}
        1 => output::print("1 message was sent\n"),
        sent => output::print(&format!("{sent} messages were sent\n")),
    }
    for problem in &delivery.problems {
        output::print(&format!("not told: {problem}\n"));
        failed = true;
    }
    waiting(&agent)?;
    look(&agent)?;
    common::publish(&agent)?;
    Ok(if failed { code::FAILURE } else { code::OK })
}

/// Looks at the targets and answers the health checks, where no daemon does.
fn look(agent: &Agent) -> Result<()> {
    if daemon::is_running(agent.state.dir()) {
        return Ok(());
    }
    for target in looks::used_targets(&agent.config) {
        looks::probe(agent, &target)?;
    }
    let now = agent.now();
    let extra = Extra {
        duplicates: starts::duplicates(&agent.config, &agent.command, now),
        ..looks::look(&agent.config, &agent.state.snapshot(now)?, || agent.state.snapshot(now).ok())
    };
    looks::record(agent, &extra)?;
    Ok(())
}

/// Says what is left to be done, and when: whoever mended a target or a mail server wants to know why
/// nothing happened.
fn waiting(agent: &Agent) -> Result<()> {
    let copies: Vec<_> = agent.state.copies(None, None)?;
    let copies: Vec<_> = copies.iter().filter(|c| c.status == CopyStatus::Pending).collect();
    let messages = agent.state.pending_messages()?;
    for (count, what, next) in [
        (copies.len(), "copies", copies.iter().filter_map(|c| c.next_attempt).min()),
        (messages.len(), "messages", messages.iter().map(|m| m.not_before).min()),
    ] {
        let Some(next) = next.filter(|_| count > 0) else { continue };
        let at = next.with_timezone(&agent.config.timezone).format("%H:%M:%S");
        output::print(&format!(
            "{what} that wait: {count}, the next attempt at {at} (now: {} tend --retry)\n",
            agent.command
        ));
    }
    Ok(())
}
