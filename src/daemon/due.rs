//! Which occurrence of a schedule asks for a run, and when that run starts. Pure.
//!
//! The rules:
//!
//! - An occurrence is met by any run that started after it, whoever started it and however it ended: a failure
//!   is told and made up for at the next occurrence, not at once and for ever.
//! - However many occurrences were missed, one run makes up for all of them.
//! - Occurrences before the job was first seen or within a pause ask for nothing, and neither do those of a
//!   new schedule before it was set. What the old schedule had asked for still is asked for.
//! - What the state dates later than now was written under a clock that was wrong. It is not believed, or a
//!   clock that was once a year ahead would stop the schedule for that year.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::clock::is_believable;
use crate::schedule::{Schedule, catch_up_due, splay_delay};
use crate::state::RunTrigger;

/// What is known of one job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// Its schedule.
    pub schedule: &'a Schedule,
    /// The zone of the schedule.
    pub tz: Tz,
    /// The most a start is delayed.
    pub splay: Duration,
    /// What makes the delay of this job on this host its own: `<instance id>/<job>`.
    pub splay_key: &'a str,
    /// When the state first heard of the job.
    pub first_seen: DateTime<Utc>,
    /// When its schedule was changed.
    pub schedule_changed_at: Option<DateTime<Utc>>,
    /// What had come due under the schedule before that one, and was not met.
    pub due_before: Option<DateTime<Utc>>,
    /// Until when it is, or was, paused.
    pub paused_until: Option<DateTime<Utc>>,
    /// Since when the scheduler has watched the clock without a gap: its start, or when the clock last jumped
    /// or the machine last slept.
    pub since: DateTime<Utc>,
    /// The present.
    pub now: DateTime<Utc>,
}

/// What an occurrence asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A run.
    Run(Start),
    /// Nothing: it lies in a pause.
    PassedOver(DateTime<Utc>),
}

/// A run that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The occurrence it answers.
    pub occurrence: DateTime<Utc>,
    /// When it starts: the occurrence and its delay, or for one that was missed, the delay from when that was
    /// noticed (hosts that come back together after a power cut do not all start at once).
    pub at: DateTime<Utc>,
    /// Whether it comes in time or late.
    pub trigger: RunTrigger,
}

/// The occurrence that asks for something now, if one does. `attempts` are the starts of runs and the
/// occurrences dealt with, in any order.
pub(super) fn due(facts: &Facts<'_>, attempts: &[DateTime<Utc>]) -> Option<Due> {
    let Facts { now, .. } = *facts;
    let believable = |at: &DateTime<Utc>| is_believable(*at, now);
    let last = attempts.iter().copied().filter(|at| believable(at)).max();
    let first_seen = if believable(&facts.first_seen) { facts.first_seen } else { facts.since.min(now) };
    let changed = facts.schedule_changed_at.filter(believable);
    // An occurrence at the very end of a pause belongs to the time after it.
    let pause_ended = facts.paused_until.filter(believable).map(|until| until - TimeDelta::milliseconds(1));
    let basis = changed.max(pause_ended);
    // An edit does not forgive what was due before it.
    let before = facts.due_before.filter(believable).filter(|due| {
        last.is_none_or(|last| last < *due) && facts.paused_until.is_none_or(|until| until <= *due)
    });
    let occurrence = catch_up_due(facts.schedule, facts.tz, last, first_seen, basis, now).or(before)?;
    if facts.paused_until.is_some_and(|until| until > now) {
        return Some(Due::PassedOver(occurrence));
    }
    let delay = delay(facts, occurrence);
    let in_time = occurrence + delay >= facts.since;
    let (at, trigger) = match in_time {
        true => (occurrence + delay, RunTrigger::Schedule),
        false => (facts.since + delay, RunTrigger::CatchUp),
    };
    Some(Due::Run(Start { occurrence, at, trigger }))
}

/// When the next occurrence that is still to come starts its run.
pub(super) fn next_start(facts: &Facts<'_>) -> Option<DateTime<Utc>> {
    let occurrence = facts.schedule.next_after(facts.tz, facts.now)?;
    Some(occurrence + delay(facts, occurrence))
}

fn delay(facts: &Facts<'_>, occurrence: DateTime<Utc>) -> TimeDelta {
    let key = format!("{}/{}", facts.splay_key, occurrence.timestamp());
    TimeDelta::from_std(splay_delay(&key, facts.splay)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn facts<'a>(schedule: &'a Schedule, now: &str) -> Facts<'a> {
        Facts {
            schedule,
            tz: chrono_tz::UTC,
            splay: Duration::ZERO,
            splay_key: "id/web",
            first_seen: at("2026-11-01T00:00:00Z"),
            schedule_changed_at: None,
            due_before: None,
            paused_until: None,
            since: at("2026-11-20T00:00:00Z"),
            now: at(now),
        }
    }

    fn daily() -> Schedule {
        Schedule::parse("0 3 * * *").unwrap()
    }

    fn start(occurrence: &str, start: &str, trigger: RunTrigger) -> Option<Due> {
        Some(Due::Run(Start { occurrence: at(occurrence), at: at(start), trigger }))
    }

    #[test]
    fn an_occurrence_that_has_come_is_due_until_a_run_started_after_it() {
        let (schedule, yesterday) = (daily(), at("2026-11-23T03:00:00Z"));
        assert_eq!(due(&facts(&schedule, "2026-11-24T02:59:59Z"), &[yesterday]), None);
        let today = start("2026-11-24T03:00:00Z", "2026-11-24T03:00:00Z", RunTrigger::Schedule);
        assert_eq!(due(&facts(&schedule, "2026-11-24T03:00:00Z"), &[yesterday]), today);
        assert_eq!(due(&facts(&schedule, "2026-11-24T03:09:00Z"), &[yesterday]), today);
        assert_eq!(
            due(&facts(&schedule, "2026-11-24T04:00:00Z"), &[yesterday, at("2026-11-24T03:30:00Z")]),
            None
        );
    }

    #[test]
    fn many_missed_occurrences_ask_for_one_run_and_it_is_a_late_one() {
        let schedule = daily();
        let mut facts = facts(&schedule, "2026-11-24T09:00:00Z");
        facts.since = at("2026-11-24T08:59:00Z");
        let missed = due(&facts, &[at("2026-11-10T03:00:00Z")]);
        assert_eq!(missed, start("2026-11-24T03:00:00Z", "2026-11-24T08:59:00Z", RunTrigger::CatchUp));
        assert_eq!(due(&facts, &[at("2026-11-24T03:00:00Z")]), None);
    }

    #[test]
    fn a_job_that_is_new_or_has_a_new_schedule_waits_for_the_next_occurrence() {
        let schedule = daily();
        let mut new = facts(&schedule, "2026-11-24T09:00:00Z");
        new.first_seen = at("2026-11-24T08:00:00Z");
        assert_eq!(due(&new, &[]), None);
        let mut edited = facts(&schedule, "2026-11-24T09:00:00Z");
        edited.schedule_changed_at = Some(at("2026-11-24T08:00:00Z"));
        assert_eq!(due(&edited, &[at("2026-11-22T03:00:00Z")]), None);
    }

    #[test]
    fn an_edit_of_the_schedule_does_not_forgive_what_was_due_before_it() {
        let schedule = daily();
        let mut edited = facts(&schedule, "2026-11-24T09:00:00Z");
        edited.schedule_changed_at = Some(at("2026-11-24T08:00:00Z"));
        edited.due_before = Some(at("2026-11-24T07:00:00Z"));
        let owed = start("2026-11-24T07:00:00Z", "2026-11-24T07:00:00Z", RunTrigger::Schedule);
        assert_eq!(due(&edited, &[at("2026-11-23T07:00:00Z")]), owed);
        assert_eq!(due(&edited, &[at("2026-11-24T07:00:00Z")]), None);
    }

    #[test]
    fn occurrences_within_a_pause_are_passed_over_and_the_first_one_after_it_runs() {
        let schedule = daily();
        let mut facts = facts(&schedule, "2026-11-24T09:00:00Z");
        facts.paused_until = Some(at("2026-11-25T03:00:00Z"));
        let before = [at("2026-11-23T03:00:00Z")];
        assert_eq!(due(&facts, &before), Some(Due::PassedOver(at("2026-11-24T03:00:00Z"))));
        facts.now = at("2026-11-25T02:59:00Z");
        assert_eq!(due(&facts, &[at("2026-11-24T03:00:00Z")]), None);
        facts.now = at("2026-11-25T03:00:00Z");
        let first = start("2026-11-25T03:00:00Z", "2026-11-25T03:00:00Z", RunTrigger::Schedule);
        assert_eq!(due(&facts, &before), first);
        // Also when nobody was there to note what was passed over.
        facts.paused_until = Some(at("2026-11-24T08:00:00Z"));
        facts.now = at("2026-11-24T09:00:00Z");
        assert_eq!(due(&facts, &before), None);
    }

    #[test]
    fn what_a_wrong_clock_wrote_into_the_future_does_not_stop_the_schedule() {
        let schedule = daily();
        let facts = facts(&schedule, "2026-11-24T03:00:00Z");
        let today = start("2026-11-24T03:00:00Z", "2026-11-24T03:00:00Z", RunTrigger::Schedule);
        assert_eq!(due(&facts, &[at("2026-11-23T03:00:00Z"), at("2027-11-24T03:00:00Z")]), today);
        // A clock that stands before all that is known starts from where it was noticed.
        let mut behind =
            Facts { since: at("2025-11-24T01:00:00Z"), now: at("2025-11-24T02:00:00Z"), ..facts };
        assert_eq!(due(&behind, &[at("2026-11-23T03:00:00Z")]), None);
        behind.now = at("2025-11-24T03:00:00Z");
        assert!(matches!(due(&behind, &[at("2026-11-23T03:00:00Z")]), Some(Due::Run(_))));
    }

    #[test]
    fn the_delay_is_the_same_at_each_look_and_counts_from_the_start_for_what_was_missed() {
        let schedule = daily();
        let mut facts = facts(&schedule, "2026-11-24T03:00:01Z");
        facts.splay = Duration::from_secs(1800);
        let before = [at("2026-11-23T03:00:00Z")];
        let Some(Due::Run(first)) = due(&facts, &before) else { panic!("nothing is due") };
        assert!(first.at > first.occurrence && first.at < at("2026-11-24T03:30:00Z"), "{first:?}");
        assert_eq!(due(&Facts { now: at("2026-11-24T03:29:00Z"), ..facts }, &before), Some(Due::Run(first)));
        let delay = first.at - first.occurrence;
        let noon = at("2026-11-24T12:00:00Z");
        let late = due(&Facts { since: noon, now: noon, ..facts }, &before);
        let expected = Start { at: noon + delay, trigger: RunTrigger::CatchUp, ..first };
        assert_eq!(late, Some(Due::Run(expected)));
    }

    #[test]
    fn an_hour_that_the_clock_skips_or_repeats_gives_one_run() {
        let half_past_two = Schedule::parse("30 2 * * *").unwrap();
        let berlin = |now: &str| Facts { tz: chrono_tz::Europe::Berlin, ..facts(&half_past_two, now) };
        // 2027-03-28: from 02:00 to 03:00, which is 01:00 UTC.
        let spring = berlin("2027-03-28T01:00:00Z");
        let before = at("2027-03-27T01:30:00Z");
        let gap = at("2027-03-28T01:00:00Z");
        assert!(matches!(due(&spring, &[before]), Some(Due::Run(start)) if start.occurrence == gap));
        assert_eq!(due(&berlin("2027-03-28T12:00:00Z"), &[before, gap]), None);
        // 2026-10-25: 02:30 is there at 00:30 and at 01:30 UTC.
        let mut autumn = berlin("2026-10-25T00:30:00Z");
        autumn.first_seen = at("2026-10-01T00:00:00Z");
        autumn.since = autumn.first_seen;
        let (before, first) = (at("2026-10-24T00:30:00Z"), at("2026-10-25T00:30:00Z"));
        assert!(matches!(due(&autumn, &[before]), Some(Due::Run(start)) if start.occurrence == first));
        autumn.now = at("2026-10-25T03:00:00Z");
        assert_eq!(due(&autumn, &[before, first]), None);
    }
}
