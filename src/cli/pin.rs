//! `agent pin`, `agent unpin`: backups that a person keeps.

use anyhow::{Result, anyhow, bail};

use super::args::{Global, Pin, Unpin};
use super::common::{self, UsageError};
use super::{code, output};
use crate::event::Progress;
use crate::manifest;
use crate::ops::{Agent, pins};
use crate::state::{Copy, CopyStatus, PinChange};

/// No reason is longer; it stands in a small file at every target.
const LONGEST_REASON: usize = 1000;

pub fn pin(global: &Global, args: &Pin) -> Result<u8> {
    let reason = args.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
        return Err(UsageError(format!("a reason has at most {LONGEST_REASON} characters")).into());
    }
    set(global, &args.which, |agent| {
        let by = pins::somebody(&agent.config.host_name());
        Some(manifest::Pin::new(agent.now(), by, reason.map(str::to_owned)))
    })
}

pub fn unpin(global: &Global, args: &Unpin) -> Result<u8> {
    set(global, args, |_| None)
}

fn set(global: &Global, args: &Unpin, pin: impl FnOnce(&Agent) -> Option<manifest::Pin>) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open_backups_to_change(global, config, args.target.as_ref(), Some(&args.id))?;
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
    let pin = pin(&agent);
    let mut failed = false;
    for copy in &copies {
        let text = match (&pin, agent.state.set_pin(&run.run_id, &copy.target, pin.as_ref())?) {
            (Some(_), PinChange::Made) => "pinned: retention never removes it",
            (Some(_), PinChange::None) => "was pinned already",
            (None, PinChange::Made) => "no longer pinned: the retention policy decides",
            (None, PinChange::None) => "was not pinned",
            (_, PinChange::TooLate) => {
                failed = true;
                output::error(&anyhow!(
                    "{} at {} cannot be pinned: retention is just removing it",
                    run.run_id,
                    copy.target
                ));
                continue;
            }
        };
        output::print(&format!("{} at {} {text}\n", run.run_id, copy.target));
        if let Some(copy) = agent.state.copy(&run.run_id, &copy.target)?
            && copy.pinned != copy.pin_stored
        {
            tell(&agent, &copy);
        }
    }
    common::publish(&agent)?;
    Ok(if failed { code::FAILURE } else { code::OK })
}

/// The state holds it already; what the target does not know yet is said, with when it will.
fn tell(agent: &Agent, copy: &Copy) {
    if !pins::can_be_told(copy) {
        return;
    }
    if let Err(e) = pins::tell(agent, copy, &Progress::default()) {
        output::warn(&format!(
            "target {} does not know of it yet, and is told by the daemon or `{} tend` once it can be: {e:#}",
            copy.target, agent.command
        ));
    }
}
