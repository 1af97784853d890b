//! Rounds of reading back: every target's backups on the target's own schedule, within a budget of a day,
//! those first that were not looked at for longest.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};

use super::Agent;
use super::isolate::verify_copy;
use super::repair::{self, Repaired};
use super::tell;
use super::verify::{Depth, Report};
use crate::clock::is_believable;
use crate::config::ReadBack;
use crate::event::{Interrupted, Progress};
use crate::model::{RunId, TargetName};
use crate::schedule::Schedule;
use crate::state::{Copy, CopyStatus};
use crate::target::is_permanent;

/// What the budget is for.
const DAY: TimeDelta = TimeDelta::hours(24);
/// After so many backups that a target does not let us read, it is left alone until the next pass.
const MOST_UNREAD: usize = 10;

/// One thing that happened in a pass.
#[derive(Debug)]
pub enum Done<'a> {
    /// A backup is about to be read.
    Reading(&'a Copy),
    /// A backup was read.
    Read(&'a Copy, &'a Report),
    /// A backup, or its target, could not be looked at.
    Unread(&'a Copy, &'a anyhow::Error),
    /// A damaged copy was dealt with.
    Repaired(&'a Copy, &'a Result<Repaired>),
}

/// Reads what is due at every target, except those in `skip`; targets that could not be looked at are added to
/// it. Ends early, without an error, when it is asked to.
pub fn pass(
    agent: &Agent,
    skip: &mut BTreeSet<TargetName>,
    progress: &Progress,
    done: &mut dyn FnMut(Done<'_>),
) -> Result<()> {
    for target in agent.config.target.keys() {
        let (mut read, mut unread) = (BTreeSet::new(), BTreeMap::new());
        while !skip.contains(target) {
            let Some(copy) = next(agent, target, &unread)? else { break };
            if progress.is_cancelled() {
                return Ok(());
            }
            let (Some(location), config) = (copy.location.clone(), agent.target(target)?) else { break };
            done(Done::Reading(&copy));
            let at = agent.at(target, location)?;
            let Some(depth) = Depth::of(config.reads_back()) else { break };
            match verify_copy(agent, &copy.run_id, &at, true, depth, progress) {
                Ok(report) => {
                    agent.state.add_verify_read(target, report.bytes, agent.now())?;
                    read.insert(copy.run_id.clone());
                    done(Done::Read(&copy, &report));
                    if !report.problems.is_empty() && config.verify.repair && !copy.imported {
                        let repaired =
                            repair::lock(agent).and_then(|_lock| repair::repair(agent, &copy, progress));
                        done(Done::Repaired(&copy, &repaired));
                    }
                }
                Err(e) if e.is::<Interrupted>() => return Ok(()),
                Err(e) => {
                    done(Done::Unread(&copy, &e));
                    // One that cannot be read as it is, since it lies in an archive of the store, say, must not keep
                    // the others from being read; a target that is away keeps all.
                    match is_permanent(&e) {
                        true => drop(unread.insert(copy.run_id.clone(), format!("{e:#}"))),
                        false => drop(skip.insert(target.clone())),
                    }
                    if unread.len() == MOST_UNREAD {
                        break;
                    }
                }
            }
        }
        tell::refused_to_be_read(agent, target, &read, &unread)?;
        if !unread.is_empty() {
            skip.insert(target.clone());
        }
    }
    Ok(())
}

/// The backup to be read next at a target, if one is due and the budget allows it.
fn next(agent: &Agent, target: &TargetName, unread: &BTreeMap<RunId, String>) -> Result<Option<Copy>> {
    let (config, reads_back) = (&agent.target(target)?.verify, agent.target(target)?.reads_back());
    if !config.enabled || reads_back == ReadBack::Never {
        return Ok(None);
    }
    let now = agent.now();
    let schedule = Schedule::parse(&config.schedule)?;
    let Some(round) = schedule.last_at_or_before(agent.config.timezone, now) else { return Ok(None) };
    let mut copies = agent.state.copies(None, Some(target))?;
    copies.retain(|copy| !unread.contains_key(&copy.run_id));
    let left = match config.budget {
        None => Left::All,
        Some(budget) => match agent.state.verify_read_since(target, now - DAY, now)? {
            0 => Left::Fresh(budget.0),
            spent => Left::Some(budget.0.saturating_sub(spent)),
        },
    };
    Ok(choose(copies, round, left, now))
}

/// What is left of a day's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// There is none to keep.
    All,
    /// Nothing was read yet: one backup may be read even when it is larger, or it would never be.
    Fresh(u64),
    /// So much.
    Some(u64),
}

/// The copy not looked at for longest, of those not looked at since the round began.
fn choose(copies: Vec<Copy>, round: DateTime<Utc>, left: Left, now: DateTime<Utc>) -> Option<Copy> {
    let looked_at = |copy: &Copy| {
        let looks = [copy.verified_at, copy.created_at, Some(copy.queued_at)].into_iter().flatten();
        looks.into_iter().find(|at| is_believable(*at, now)).unwrap_or(DateTime::UNIX_EPOCH)
    };
    let oldest = copies
        .into_iter()
        .filter(|copy| copy.status.is_kept() || copy.status == CopyStatus::Corrupt)
        .filter(|copy| copy.location.is_some() && looked_at(copy) < round)
        .min_by_key(|copy| (looked_at(copy), copy.started))?;
    match left {
        Left::Some(bytes) if oldest.bytes > bytes => None,
        _ => Some(oldest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;

    fn copy(day: &str, looked_at: &str, bytes: u64) -> Copy {
        let at = |text: &str| format!("2026-11-{text}T12:00:00Z").parse::<DateTime<Utc>>().unwrap();
        Copy {
            run_id: RunId::generate(at(day)),
            job: "web".parse().unwrap(),
            target: "nas".parse().unwrap(),
            primary: false,
            status: CopyStatus::Verified,
            location: Some(day.to_owned()),
            bytes,
            outcome: Outcome::Success,
            started: at(day),
            queued_at: at(day),
            created_at: Some(at(day)),
            verified_at: Some(at(looked_at)),
            verify_ok: Some(true),
            expired_at: None,
            attempts: 0,
            next_attempt: None,
            permanent: false,
            last_error: None,
            claimed_until: None,
            claimer: None,
            imported: false,
            pinned: false,
            pin: None,
            pin_stored: false,
            retained_until: None,
        }
    }

    fn chosen(copies: &[Copy], left: Left) -> Option<String> {
        let round = "2026-11-22T00:00:00Z".parse().unwrap();
        let now = "2026-11-25T00:00:00Z".parse().unwrap();
        choose(copies.to_vec(), round, left, now)?.location
    }

    #[test]
    fn the_copy_not_looked_at_for_longest_is_next_and_each_only_once_a_round() {
        let copies = [copy("10", "21", 5), copy("11", "15", 5), copy("12", "23", 5)];
        assert_eq!(chosen(&copies, Left::All).as_deref(), Some("11"));
        assert_eq!(chosen(&copies[..1], Left::All).as_deref(), Some("10"));
        assert_eq!(chosen(&copies[2..], Left::All), None);
    }

    #[test]
    fn a_look_that_a_wrong_clock_dated_ahead_counts_for_nothing() {
        let later = "2027-11-20T12:00:00Z".parse().unwrap();
        let ahead = Some(later);
        let read_ahead = Copy { verified_at: ahead, ..copy("23", "23", 5) };
        assert_eq!(
            chosen(std::slice::from_ref(&read_ahead), Left::All),
            None,
            "it was made since the round began"
        );
        let both = Copy { created_at: ahead, queued_at: later, ..read_ahead };
        assert!(chosen(&[both], Left::All).is_some());
        assert!(chosen(&[Copy { verified_at: ahead, ..copy("10", "10", 5) }], Left::All).is_some());
    }

    #[test]
    fn a_days_budget_holds_and_a_backup_larger_than_it_is_read_all_the_same_once() {
        let copies = [copy("10", "15", 50)];
        assert_eq!(chosen(&copies, Left::Some(49)), None);
        assert!(chosen(&copies, Left::Some(50)).is_some());
        assert!(chosen(&copies, Left::Fresh(10)).is_some());
    }

    #[test]
    fn damaged_copies_are_looked_at_again_and_those_that_are_gone_or_missing_are_not() {
        let with = |status| chosen(&[Copy { status, ..copy("10", "15", 1) }], Left::All);
        assert!(with(CopyStatus::Corrupt).is_some());
        assert!(with(CopyStatus::Expired).is_none() && with(CopyStatus::Pending).is_none());
    }
}
