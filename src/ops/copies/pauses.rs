//! When a copy that failed is tried again: what is due when, and what makes it due at once.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use sha2::Digest;

use crate::config::TargetConfig;
use crate::model::{Sha256, TargetName};
use crate::ops::isolate::FromSource;
use crate::ops::{Agent, looks};
use crate::state::{Copy, CopyFailure, LONGEST_PAUSE};
use crate::target::is_permanent;

/// The first pause between two attempts at one copy; it doubles.
const FIRST: Duration = Duration::from_secs(2 * 60);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The same where trying again makes no sense until somebody changed something.
const FIRST_STOPPED: Duration = Duration::from_secs(60 * 60);
const LONGEST_STOPPED: Duration = Duration::from_secs(24 * 60 * 60);
// With what `jittered` adds.
const _: () = assert!(LONGEST_STOPPED.as_secs() * 6 / 5 <= LONGEST_PAUSE.num_seconds() as u64);

/// Whose fault a failure is, and so what else would meet the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The target refuses: nothing is copied there until somebody changed something.
    Refused,
    /// The target cannot be used now.
    Down,
    /// The target answers, and yet the copy failed.
    Unclear,
    /// The target came back while the copy failed, or a person asked for another attempt meanwhile.
    Over,
    /// The backup could not be read where it is copied from; other copies are none the worse for it.
    Source { permanent: bool },
}

impl Fault {
    pub(super) fn is_permanent(self) -> bool {
        matches!(self, Fault::Refused | Fault::Source { permanent: true })
    }
}

/// Records a failure, and when what is due. Nobody hammers at a target: one that failed is looked at, and while it is
/// down, or refuses, its other copies wait for as long as this one.
pub(super) fn failed(agent: &Agent, copy: &Copy, error: &anyhow::Error) -> Result<Fault> {
    let fault = match error.downcast_ref::<FromSource>() {
        Some(source) => Fault::Source { permanent: source.permanent },
        None => {
            // What is found is recorded, so that the next good look makes the copies due at once.
            looks::probe(agent, &copy.target)?;
            match (is_permanent(error), is_down(agent, &copy.target)?) {
                (_, false) if was_made_due(agent, copy)? => Fault::Over,
                (true, _) => Fault::Refused,
                (false, true) => Fault::Down,
                (false, false) => Fault::Unclear,
            }
        }
    };
    if matches!(fault, Fault::Over) {
        record_until(agent, copy, error, false, agent.now())?;
        return Ok(fault);
    }
    let next = record(agent, copy, error, fault.is_permanent())?;
    match fault {
        Fault::Refused => {
            agent.state.hold_copies(&copy.target, next)?;
            let settings = settings(agent.target(&copy.target)?);
            agent.state.set_target_settings(&copy.target, &settings)?;
        }
        Fault::Down => {
            agent.state.hold_copies(&copy.target, next)?;
            // Whoever found it back since it was looked at above made the queue due before it was held.
            if !is_down(agent, &copy.target)? {
                agent.state.retry_copies(Some(&copy.target), agent.now())?;
                return Ok(Fault::Over);
            }
        }
        Fault::Unclear => {
            // Longer the more of them failed, and shorter than the pause of the one that failed: it may be its own
            // fault, and then the others must get their turn.
            let failing = agent.state.failing_count(&copy.target)?;
            let hold = jittered(pause(failing.saturating_sub(1), false) / 2);
            agent.state.hold_copies(&copy.target, agent.now() + hold)?;
        }
        Fault::Over | Fault::Source { .. } => {}
    }
    Ok(fault)
}

/// Whether the last look at a target found it unusable.
fn is_down(agent: &Agent, target: &TargetName) -> Result<bool> {
    Ok(agent.state.probes()?.iter().any(|(probed, probe)| probed == target && !probe.up))
}

/// Whether the queue was made due after the copy had been taken from it. What failed then says nothing of the target
/// as it is now, and a pause would keep the copy from a target that was just found usable.
fn was_made_due(agent: &Agent, copy: &Copy) -> Result<bool> {
    let due = agent.state.copy(&copy.run_id, &copy.target)?.and_then(|now| now.next_attempt);
    Ok(due > copy.next_attempt && due.is_some_and(|due| due <= agent.now()))
}

/// Records the failure of one copy; gives when it is tried again.
pub(super) fn record(
    agent: &Agent,
    copy: &Copy,
    error: &anyhow::Error,
    permanent: bool,
) -> Result<DateTime<Utc>> {
    let next = agent.now() + jittered(pause(copy.attempts, permanent));
    record_until(agent, copy, error, permanent, next)?;
    Ok(next)
}

fn record_until(
    agent: &Agent,
    copy: &Copy,
    error: &anyhow::Error,
    permanent: bool,
    next: DateTime<Utc>,
) -> Result<()> {
    let failure = CopyFailure { error: format!("{error:#}"), next_attempt: Some(next), permanent };
    Ok(agent.state.copy_failed(&copy.run_id, &copy.target, &failure)?)
}

/// How long to wait after one more failure than `attempts`.
fn pause(attempts: u64, stopped: bool) -> Duration {
    let (first, longest) = if stopped { (FIRST_STOPPED, LONGEST_STOPPED) } else { (FIRST, LONGEST) };
    first.saturating_mul(1 << attempts.min(10)).min(longest)
}

/// So that many hosts do not come back to a NAS at the same second.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.2))
}

/// A copy was made: whatever kept others from the target is over.
pub(super) fn worked(agent: &Agent, target: &TargetName) -> Result<()> {
    if agent.state.clear_target_settings(target)? {
        agent.state.retry_copies(Some(target), agent.now())?;
    } else {
        agent.state.release_held_copies(target, agent.now())?;
    }
    Ok(())
}

/// Makes the copies to a target that refused due at once, when its settings are not what they were then.
pub(super) fn reconsider(agent: &Agent) -> Result<()> {
    for name in agent.state.stopped_targets()? {
        let Some(target) = agent.config.target.get(&name) else { continue };
        let now = settings(target);
        if agent.state.target_settings(&name)?.is_some_and(|then| then != now) {
            agent.state.set_target_settings(&name, &now)?;
            agent.state.retry_copies(Some(&name), agent.now())?;
            tracing::info!("the settings of target {name} were changed: its copies are tried again");
        }
    }
    Ok(())
}

/// A digest of what decides whether a target takes copies: its configuration, the files it names, this program.
fn settings(target: &TargetConfig) -> String {
    let mut digest = sha2::Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    // What cannot be written down has not changed.
    digest.update(serde_json::to_vec(target).unwrap_or_default());
    for file in target.files() {
        let seen =
            file.metadata().ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.mode(), m.uid()));
        digest.update(format!("{}{seen:?}", file.display()));
    }
    Sha256(digest.finalize().into()).to_string()
}

/// Looks at the targets that copies wait for and that were down when they were last looked at. The copies to those
/// that are back are due at once. For hosts where no daemon looks every minute.
pub fn look_again(agent: &Agent) -> Result<()> {
    let waiting = agent.state.queued_copies()?;
    let is_due = |at: Option<DateTime<Utc>>| at.is_some_and(|at| at <= agent.now());
    for (target, probe) in agent.state.probes()? {
        let waits = waiting.iter().any(|copy| copy.target == target && !is_due(copy.next_attempt));
        if waits && !probe.up && agent.config.target.contains_key(&target) {
            looks::probe(agent, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_up_to_a_day_where_somebody_has_to_do_something() {
        let minutes = |attempts, stopped| pause(attempts, stopped).as_secs() / 60;
        assert_eq!([0, 1, 2, 4, 5, 60].map(|n| minutes(n, false)), [2, 4, 8, 32, 60, 60]);
        assert_eq!([0, 1, 4, 5, 60].map(|n| minutes(n, true)), [60, 120, 960, 1440, 1440]);
    }

    #[test]
    fn a_changed_key_file_and_a_changed_key_are_changed_settings() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("password");
        std::fs::write(&key, "old").unwrap();
        let text = format!(
            "type = \"webdav\"\nurl = \"https://dav.example.org/\"\nuser = \"a\"\npassword_file = \"{}\"",
            key.display()
        );
        let of = |text: &str| settings(&toml::from_str(text).unwrap());
        let before = of(&text);
        assert_eq!(before, of(&text));
        assert_ne!(before, of(&text.replace("\"a\"", "\"b\"")));
        std::fs::write(&key, "longer").unwrap();
        assert_ne!(before, of(&text));
    }
}
