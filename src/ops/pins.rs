//! Pins: backups that a person keeps. The state knows of a pin at once; every target that holds the backup is told,
//! so that whoever rebuilds a state from it, or runs retention from elsewhere, knows too. A target that is away is
//! told later.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Agent;
use super::isolate::{self, Reply, Request};
use crate::event::{Interrupted, Progress};
use crate::manifest::Pin;
use crate::model::{RunId, TargetName};
use crate::state::{Copy, CopyStatus};

/// How long a target may take to answer.
const STALL: Duration = Duration::from_secs(30);

/// Who is at work: `root@web1`; behind sudo the user who called it.
pub fn somebody(host: &str) -> String {
    let behind_sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let user = behind_sudo.or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        user.map(|user| user.name)
    });
    format!("{}@{host}", user.unwrap_or_else(|| nix::unistd::geteuid().to_string()))
}

/// True when the target of a copy can be told of its pin: it is there, and this program made it.
pub fn can_be_told(copy: &Copy) -> bool {
    (copy.status.is_kept() || copy.status == CopyStatus::Corrupt) && !copy.imported && copy.location.is_some()
}

/// Tells the target of a copy what the state says of its pin, and records that.
pub fn tell(agent: &Agent, copy: &Copy, progress: &Progress) -> Result<()> {
    let location = copy.location.clone().context("the copy has no folder yet")?;
    // Pinned by a version that did not write down why.
    let unknown = || Pin::new(agent.now(), agent.config.host_name(), None);
    let pin = copy.pinned.then(|| copy.pin.clone().unwrap_or_else(unknown));
    let request = Request::Pin { at: agent.at(&copy.target, location)?, run: copy.run_id.clone(), pin };
    match isolate::call(&request, STALL, None, progress, &mut |_| Ok(()))? {
        Reply::PinSet => Ok(agent.state.pin_stored(&copy.run_id, &copy.target, copy.pinned)?),
        other => bail!("an unexpected answer to a pin: {other:?}"),
    }
}

/// A copy that was just made carries the pin of its backup. What fails is left to [`tell_all`].
pub fn carry_over(agent: &Agent, run: &RunId, target: &TargetName, progress: &Progress) -> Result<()> {
    match agent.state.copy(run, target)? {
        Some(copy) if copy.pinned && can_be_told(&copy) => {
            if let Err(e) = tell(agent, &copy, progress) {
                tracing::warn!("target {target} does not know yet that run {run} is pinned: {e:#}");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What [`tell_all`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Copies whose target knows now.
    pub told: u64,
    /// Copies whose target does not, with the reason.
    pub failed: Vec<(RunId, TargetName, String)>,
}

/// Tells the targets what they do not know yet. One that fails is not asked again in this pass.
pub fn tell_all(agent: &Agent, progress: &Progress) -> Result<Told> {
    let mut done = Told::default();
    let mut away: BTreeSet<TargetName> = BTreeSet::new();
    for copy in agent.state.unstored_pins()? {
        if away.contains(&copy.target) || !agent.config.target.contains_key(&copy.target) {
            continue;
        }
        match tell(agent, &copy, progress) {
            Ok(()) => done.told += 1,
            Err(e) if e.is::<Interrupted>() => return Ok(done),
            Err(e) => {
                done.failed.push((copy.run_id, copy.target.clone(), format!("{e:#}")));
                away.insert(copy.target);
            }
        }
    }
    Ok(done)
}
