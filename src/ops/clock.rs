//! Whether the clock is to be believed, by what the state knows. While it is not, retention removes nothing.
//!
//! A clock that was set ahead and a host that was off look the same afterwards. Both keep retention still for a
//! day: long enough to be told and looked at, and a host that was off prunes by itself again after it.
//!
//! How long a host may be silent depends on how often it is heard of: the daemon leaves a sign of life every few
//! seconds; without one there are only the runs, and their rhythm.

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::is_believable;
use crate::state::{FactKey, RunTrigger, State, StateError};

/// How far the clock may stand behind the newest run.
const BEHIND: TimeDelta = TimeDelta::hours(1);
/// The shortest time after the last sign of life that is taken for a jump. Machines that are off over a weekend are
/// not to be called wrong each Monday.
const SILENT: TimeDelta = TimeDelta::days(3);
/// The longest time, where nothing is known of the rhythm, or the rhythm is slow: jobs of a month.
const LONGEST: TimeDelta = TimeDelta::days(45);
/// How long a jump keeps retention still.
const HELD: TimeDelta = TimeDelta::days(1);
/// How many runs the rhythm is taken from: many jobs may start at once, and then none for a week.
const HISTORY: usize = 500;

/// Whether the clock fits what the state knows; the sentence says why not.
pub fn problem(state: &State, now: DateTime<Utc>) -> Result<Option<String>, StateError> {
    match last_run(state)?.and_then(|run| behind(now, run)) {
        Some(problem) => Ok(Some(problem)),
        None => jump_ahead(state, now),
    }
}

/// Why nothing is to be removed now: a clock that does not fit, or did not within the last day.
pub fn distrust(state: &State, now: DateTime<Utc>) -> Result<Option<String>, StateError> {
    // In this order: `alive` notes the jump before it leaves the sign that hides it.
    if let Some(problem) = problem(state, now)? {
        return Ok(Some(problem));
    }
    let noted = state.fact(FactKey::ClockJump)?.filter(|noted| (now - noted.at).abs() < HELD);
    Ok(noted.map(|noted| noted.value))
}

/// Leaves a sign of life of the daemon. When the last one is too long ago, that is noted first.
pub fn alive(state: &State, key: FactKey, value: &str, now: DateTime<Utc>) -> Result<(), StateError> {
    if let Some(problem) = jump_ahead(state, now)? {
        tracing::warn!("{problem}: nothing is removed for a day");
        state.set_fact(FactKey::ClockJump, &problem, now)?;
    }
    state.set_fact(key, value, now)
}

/// The same for who has no state: by the end of the newest backup that was found.
pub fn far_from_backup(now: DateTime<Utc>, newest: Option<DateTime<Utc>>) -> Option<String> {
    let newest = newest?;
    behind(now, newest).or_else(|| long_after(now, newest, LONGEST, "run"))
}

fn last_run(state: &State) -> Result<Option<DateTime<Utc>>, StateError> {
    // When an imported archive was taken says nothing of this host's clock; they stand behind all runs.
    let newest = state.runs(None, 1)?.into_iter().next().filter(|run| run.trigger != RunTrigger::Import);
    Ok(newest.map(|run| run.ended.unwrap_or(run.started)))
}

fn jump_ahead(state: &State, now: DateTime<Utc>) -> Result<Option<String>, StateError> {
    let believable = |at: &DateTime<Utc>| is_believable(*at, now);
    let run = last_run(state)?.filter(believable);
    let tick = state.fact(FactKey::SchedulerTick)?.map(|fact| fact.at).filter(believable);
    let beat = state.fact(FactKey::AgentHeartbeat)?.map(|fact| fact.at).filter(believable);
    match (run, tick.max(beat)) {
        // A sign before the last run is that of a daemon that is no more.
        (run, Some(sign)) if run.is_none_or(|run| run <= sign) => {
            Ok(long_after(now, sign, SILENT, "sign of life"))
        }
        (Some(run), _) => {
            let allowed = allowed(&state.run_starts(HISTORY)?, now);
            Ok(long_after(now, run, allowed, "run"))
        }
        (None, _) => Ok(None),
    }
}

/// How long there may be no run: twice the longest pause between those there were. `starts` are the newest ones.
fn allowed(starts: &[DateTime<Utc>], now: DateTime<Utc>) -> TimeDelta {
    let starts: Vec<DateTime<Utc>> =
        starts.iter().copied().filter(|start| is_believable(*start, now)).collect();
    let pauses = starts.windows(2).map(|pair| (pair[0] - pair[1]).abs());
    let (known, longest) = pauses.fold((TimeDelta::zero(), TimeDelta::zero()), |(known, longest), pause| {
        (known + pause, longest.max(pause))
    });
    if known < SILENT { LONGEST } else { (longest * 2).clamp(SILENT, LONGEST) }
}

fn behind(now: DateTime<Utc>, newest: DateTime<Utc>) -> Option<String> {
    (now < newest - BEHIND)
        .then(|| format!("the clock shows {}, before the last run of {}", shown(now), shown(newest)))
}

fn long_after(now: DateTime<Utc>, newest: DateTime<Utc>, allowed: TimeDelta, what: &str) -> Option<String> {
    (now > newest + allowed)
        .then(|| format!("the clock shows {}, long after the last {what} of {}", shown(now), shown(newest)))
}

fn shown(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, RunId};
    use crate::state::{EndedRun, NewRun};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn last() -> DateTime<Utc> {
        at("2026-11-24T03:00:00Z")
    }

    /// A state with runs, so many days before the last of them.
    fn state(folder: &std::path::Path, days_before: &[i64]) -> State {
        let state = State::open(folder, last() - TimeDelta::days(400)).unwrap();
        for days in days_before {
            let started = last() - TimeDelta::days(*days);
            let run_id = RunId::generate(started);
            let run = NewRun {
                run_id: run_id.clone(),
                job: "web".parse().unwrap(),
                trigger: RunTrigger::Schedule,
                scheduled_for: None,
                process: crate::lock::ProcessIdentity::current(),
                started,
            };
            state.begin_run(&run).unwrap();
            state.end_run(&EndedRun::new(run_id, Outcome::Success, started), &[], &[]).unwrap();
        }
        state
    }

    #[test]
    fn a_clock_far_from_what_is_known_is_not_trusted() {
        let newest = last();
        let judge = |by| far_from_backup(newest + by, Some(newest));
        assert_eq!(judge(TimeDelta::hours(8)), None);
        assert_eq!(judge(TimeDelta::minutes(-5)), None);
        assert!(judge(TimeDelta::days(-365)).is_some() && judge(TimeDelta::days(365)).is_some());
        assert_eq!(far_from_backup(newest, None), None);
    }

    #[test]
    fn a_clock_set_ahead_under_a_daemon_is_noted_before_the_sign_of_life_that_hides_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path(), &[2, 1, 0]);
        let before = last() + TimeDelta::hours(5);
        alive(&state, FactKey::SchedulerTick, "", before).unwrap();
        assert_eq!(distrust(&state, before).unwrap(), None);
        let ahead = before + TimeDelta::days(40);
        let why = distrust(&state, ahead).unwrap().unwrap();
        assert!(why.contains("long after the last sign of life of 2026-11-24 08:00 UTC"), "{why}");
        alive(&state, FactKey::AgentHeartbeat, "7", ahead).unwrap();
        alive(&state, FactKey::SchedulerTick, "", ahead + TimeDelta::seconds(15)).unwrap();
        let minute = ahead + TimeDelta::minutes(1);
        assert_eq!(problem(&state, minute).unwrap(), None);
        assert_eq!(distrust(&state, minute).unwrap(), Some(why));
        // A host that was off is itself again a day later.
        for hours in 1..25 {
            alive(&state, FactKey::SchedulerTick, "", ahead + TimeDelta::hours(hours)).unwrap();
        }
        assert_eq!(distrust(&state, ahead + TimeDelta::hours(24)).unwrap(), None);
    }

    #[test]
    fn a_weekend_off_and_jobs_that_rest_under_a_daemon_are_no_jump() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path(), &[2, 1, 0]);
        let friday = last() + TimeDelta::days(100);
        state.set_fact(FactKey::SchedulerTick, "", friday).unwrap();
        assert_eq!(distrust(&state, friday + TimeDelta::hours(64)).unwrap(), None);
        assert!(distrust(&state, friday + TimeDelta::hours(73)).unwrap().is_some());
    }

    #[test]
    fn without_a_daemon_the_rhythm_of_the_runs_says_how_long_is_long() {
        let jump = |days_before: &[i64], days: i64| {
            let folder = tempfile::tempdir().unwrap();
            problem(&state(folder.path(), days_before), last() + TimeDelta::days(days)).unwrap().is_some()
        };
        let nightly = [5, 4, 3, 2, 1, 0];
        assert!(!jump(&nightly, 3) && jump(&nightly, 4));
        let weekly = [21, 14, 7, 0];
        assert!(!jump(&weekly, 14) && jump(&weekly, 15));
        // Several jobs at once do not make a rhythm of minutes.
        let together = [14, 14, 14, 7, 7, 7, 0, 0, 0];
        assert!(!jump(&together, 7) && !jump(&[0, 0, 0], 30));
        let monthly = [62, 31, 0];
        assert!(!jump(&monthly, 31) && !jump(&monthly, 45) && jump(&monthly, 46));
        // A run after a long pause tells of it once, and is then part of the rhythm.
        assert!(jump(&nightly, 30) && !jump(&[34, 33, 32, 31, 30, 0], 30));
    }

    #[test]
    fn a_daemon_that_is_no_more_does_not_keep_retention_still_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path(), &[21, 14, 7, 0]);
        state.set_fact(FactKey::SchedulerTick, "", last() - TimeDelta::days(30)).unwrap();
        assert_eq!(distrust(&state, last() + TimeDelta::days(7)).unwrap(), None);
        // Nor does a sign from a time when the clock was ahead.
        state.set_fact(FactKey::AgentHeartbeat, "7", last() + TimeDelta::days(300)).unwrap();
        assert_eq!(distrust(&state, last() + TimeDelta::days(7)).unwrap(), None);
    }
}
