//! Which runs are started, and when.

use std::sync::Arc;
use std::time::Duration;

use super::{Bench, at, job, of};
use crate::clock::Clock;
use crate::config;
use crate::daemon::scheduler::Launch;
use crate::lock::{self, FileLock, LockMode};
use crate::state::{FactKey, MessageKind, NewMessage, RunTrigger};

#[test]
fn each_occurrence_starts_one_run_at_its_time() {
    let mut bench = Bench::new("2026-11-24T02:50:00Z", &[("web", "0 3,4 * * *")]);
    let launched = bench.turns("2026-11-24T02:50:00Z", "2026-11-24T04:30:00Z");
    let expected = [
        of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z"),
        of("web", RunTrigger::Schedule, "2026-11-24T04:00:00Z"),
    ];
    assert_eq!(launched, expected);
}

#[test]
fn the_next_turn_comes_at_the_next_occurrence_and_after_ten_seconds_at_most() {
    let mut bench = Bench::new("2026-11-24T02:50:00Z", &[("web", "0 3 * * *")]);
    assert!(bench.scheduler.turn() > Duration::from_secs(9));
    bench.turn("2026-11-24T02:52:00Z");
    bench.clock.set(at("2026-11-24T02:53:58Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:55:30Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:57:00Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:58:30Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:59:58Z"));
    let pause = bench.scheduler.turn();
    assert!(pause >= Duration::from_secs(2) && pause < Duration::from_millis(2100), "{pause:?}");
}

#[test]
fn a_daemon_that_was_down_over_many_occurrences_makes_up_for_them_with_one_run() {
    let mut bench = Bench::new("2026-11-20T02:59:00Z", &[("web", "0 * * * *")]);
    assert_eq!(bench.turns("2026-11-20T02:59:00Z", "2026-11-20T03:01:00Z").len(), 1);
    let mut bench = bench.restarted("2026-11-24T12:20:00Z");
    let launched = bench.turns("2026-11-24T12:20:00Z", "2026-11-24T12:59:00Z");
    assert_eq!(launched, [of("web", RunTrigger::CatchUp, "2026-11-24T12:00:00Z")]);
    // Nor does the next start do it again.
    let mut bench = bench.restarted("2026-11-24T12:59:30Z");
    assert_eq!(bench.turn("2026-11-24T12:59:30Z"), []);
    assert_eq!(bench.turn("2026-11-24T13:00:00Z"), [of("web", RunTrigger::Schedule, "2026-11-24T13:00:00Z")]);
}

#[test]
fn a_machine_that_slept_makes_up_for_what_it_missed() {
    let mut bench = Bench::new("2026-11-24T02:00:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turn("2026-11-24T02:00:10Z"), []);
    assert_eq!(bench.turn("2026-11-24T07:30:00Z"), [of("web", RunTrigger::CatchUp, "2026-11-24T03:00:00Z")]);
}

#[test]
fn a_clock_set_far_ahead_is_noted_in_the_turn_that_starts_what_is_due_by_it() {
    let mut bench = Bench::new("2026-11-24T02:00:00Z", &[("web", "0 3 * * *")]);
    bench.turn("2026-11-24T02:00:10Z");
    let noted = |bench: &Bench| bench.shared.state.fact(FactKey::ClockJump).unwrap();
    assert_eq!(noted(&bench), None);
    assert_eq!(bench.turn("2027-01-03T07:30:00Z").len(), 1);
    let jump = noted(&bench).unwrap();
    assert!(jump.value.contains("long after the last sign of life of 2026-11-24"), "{}", jump.value);
}

#[test]
fn a_clock_that_is_set_back_makes_the_messages_that_wait_due() {
    let mut bench = Bench::new("2026-11-24T08:00:00Z", &[("web", "0 3 * * *")]);
    let state = bench.shared.state.clone();
    let message = NewMessage {
        channel: "admin".parse().unwrap(),
        job: None,
        run_id: None,
        kind: MessageKind::Agent,
        recipient: "a@example.org".to_owned(),
        message_id: "<1@h>".to_owned(),
        subject: "a refused configuration".to_owned(),
        payload: "{}".to_owned(),
        not_before: at("2026-11-24T08:10:00Z"),
    };
    state.enqueue(&[message], at("2026-11-24T08:00:00Z")).unwrap();
    let due = |now: &str| state.claim_messages(at(now), Duration::from_secs(1), 10).unwrap().len();
    bench.turn("2026-11-24T08:00:10Z");
    assert_eq!(due("2026-11-24T08:00:10Z"), 0);
    bench.turn("2026-11-24T06:00:20Z");
    assert_eq!(due("2026-11-24T06:00:20Z"), 1);
}

#[test]
fn a_job_that_is_new_is_not_made_up_for() {
    let mut bench = Bench::new("2026-11-24T03:30:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turns("2026-11-24T03:30:00Z", "2026-11-24T05:00:00Z"), []);
}

#[test]
fn a_run_by_hand_after_the_occurrence_was_missed_meets_it() {
    let bench = Bench::new("2026-11-23T12:00:00Z", &[("web", "0 3 * * *")]);
    bench.by_hand("web", "2026-11-24T04:00:00Z");
    let mut bench = bench.restarted("2026-11-24T05:00:00Z");
    assert_eq!(bench.turn("2026-11-24T05:00:00Z"), []);
}

#[test]
fn a_paused_job_is_passed_over_and_goes_on_after_its_pause() {
    let mut bench = Bench::new("2026-11-24T02:00:00Z", &[("web", "0 3,4,5 * * *")]);
    let now = bench.clock.now();
    bench.shared.state.set_paused(&job("web"), Some(at("2026-11-24T04:30:00Z")), now).unwrap();
    assert_eq!(bench.turns("2026-11-24T02:58:00Z", "2026-11-24T04:59:00Z"), []);
    let passed = bench.shared.state.last_occurrence(&job("web")).unwrap();
    assert_eq!(passed, Some(at("2026-11-24T04:00:00Z")));
    let after = bench.turn("2026-11-24T05:00:00Z");
    assert_eq!(after, [of("web", RunTrigger::Schedule, "2026-11-24T05:00:00Z")]);
}

#[test]
fn a_locked_job_runs_once_its_locks_are_free() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")]);
    let locks = bench.folder.path().join("state/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let held = FileLock::try_acquire(&locks.join("web.lock"), LockMode::Private).unwrap().unwrap();
    let launched = bench.turn("2026-11-24T03:00:00Z");
    assert_eq!(launched.len(), 1);
    bench.end(&launched[0], true);
    for now in ["2026-11-24T03:00:10Z", "2026-11-24T03:01:00Z", "2026-11-24T03:02:30Z"] {
        assert_eq!(bench.turn(now), [], "{now}");
    }
    drop(held);
    // What another test of this process has just forked holds the lock, too, until it becomes another program.
    while !lock::is_free(&locks.join("web.lock")).unwrap() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let launched = bench.turn("2026-11-24T03:03:00Z");
    assert_eq!(launched, [of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z")]);
    bench.succeed(&launched[0]);
    assert_eq!(bench.turns("2026-11-24T03:04:00Z", "2026-11-24T03:10:00Z"), []);
}

#[test]
fn a_job_that_stays_locked_is_given_up_after_its_grace_and_tried_at_the_next_occurrence() {
    let lines = [("web", "0 3,5 * * *")];
    let mut bench = Bench::with("2026-11-24T02:59:00Z", &lines, |config| {
        config.job.get_mut(&job("web")).unwrap().grace = Duration::from_secs(600);
    });
    let locks = bench.folder.path().join("state/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let _held = FileLock::try_acquire(&locks.join("web.lock"), LockMode::Private).unwrap().unwrap();
    let launched = bench.turn("2026-11-24T03:00:00Z");
    bench.end(&launched[0], true);
    assert_eq!(bench.turns("2026-11-24T03:01:00Z", "2026-11-24T04:59:00Z"), []);
    assert_eq!(bench.shared.state.last_occurrence(&job("web")).unwrap(), Some(at("2026-11-24T03:00:00Z")));
    let next = bench.turn("2026-11-24T05:00:00Z");
    assert_eq!(next, [of("web", RunTrigger::Schedule, "2026-11-24T05:00:00Z")]);
}

#[test]
fn jobs_run_as_many_at_once_as_allowed_in_the_order_they_were_due() {
    let jobs = [("a", "2 3 * * *"), ("b", "0 3 * * *"), ("c", "1 3 * * *")];
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &jobs);
    let first = bench.turn("2026-11-24T03:00:00Z");
    assert_eq!(first, [of("b", RunTrigger::Schedule, "2026-11-24T03:00:00Z")]);
    assert_eq!(bench.turn("2026-11-24T03:01:30Z"), []);
    assert_eq!(bench.turn("2026-11-24T03:03:00Z"), []);
    bench.succeed(&first[0]);
    let second = bench.turn("2026-11-24T03:04:00Z");
    assert_eq!(second, [of("c", RunTrigger::Schedule, "2026-11-24T03:01:00Z")]);
    bench.succeed(&second[0]);
    let third = bench.turn("2026-11-24T03:05:00Z");
    assert_eq!(third, [of("a", RunTrigger::Schedule, "2026-11-24T03:02:00Z")]);
}

#[test]
fn jobs_that_something_else_starts_are_left_alone_and_all_jobs_run_when_asked_for_at_the_start() {
    let bench = Bench::with("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")], |config| {
        config.job.get_mut(&job("web")).unwrap().trigger = config::Trigger::External;
    });
    let Bench { folder, config, clock, .. } = bench;
    let mut bench = Bench::start(folder, config, clock, &["web"]);
    let launched = bench.turn("2026-11-24T02:59:01Z");
    assert_eq!(launched, [Launch { job: job("web"), trigger: RunTrigger::Manual, occurrence: None }]);
    bench.succeed(&launched[0]);
    assert_eq!(bench.turns("2026-11-24T02:59:30Z", "2026-11-24T03:10:00Z"), []);
}

#[test]
fn a_clock_that_is_set_back_does_not_run_an_occurrence_twice() {
    let mut bench = Bench::new("2026-11-24T02:55:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turns("2026-11-24T02:55:00Z", "2026-11-24T03:01:00Z").len(), 1);
    assert_eq!(bench.turns("2026-11-24T02:30:00Z", "2026-11-24T03:30:00Z"), []);
    let mut bench = bench.restarted("2026-11-24T02:30:00Z");
    assert_eq!(bench.turns("2026-11-24T02:30:00Z", "2026-11-24T03:30:00Z"), []);
}

#[test]
fn a_clock_that_was_a_year_ahead_does_not_stop_the_schedule_for_a_year() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turns("2026-11-24T02:59:00Z", "2026-11-24T03:00:00Z").len(), 1);
    assert_eq!(bench.turns("2027-11-24T10:00:00Z", "2027-11-24T10:05:00Z").len(), 1);
    let mut bench = bench.restarted("2026-11-24T10:10:00Z");
    assert_eq!(bench.turns("2026-11-24T10:10:00Z", "2026-11-24T10:20:00Z"), []);
    let launched = bench.turns("2026-11-25T02:59:00Z", "2026-11-25T03:05:00Z");
    assert_eq!(launched.len(), 1, "{launched:?}");
    assert_eq!(launched[0].occurrence, Some(at("2026-11-25T03:00:00Z")));
}

#[test]
fn without_its_state_the_schedule_goes_on() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3,4 * * *")]);
    assert_eq!(bench.turn("2026-11-24T02:59:30Z"), []);
    std::fs::remove_file(bench.folder.path().join("state/state.db")).unwrap();
    let launched = bench.turns("2026-11-24T03:00:00Z", "2026-11-24T04:10:00Z");
    assert_eq!(launched.len(), 2, "{launched:?}");
}

#[test]
fn no_run_begins_once_the_daemon_stops_or_while_a_dead_run_is_dealt_with() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")]);
    bench.shared.set_reaping([job("web")].into());
    assert_eq!(bench.turn("2026-11-24T03:00:00Z"), []);
    bench.shared.reaped(&job("web"));
    assert_eq!(bench.turn("2026-11-24T03:01:00Z").len(), 1);
    let progress = Arc::clone(&bench.shared.copying);
    bench.shared.stop();
    assert!(progress.is_cancelled());
    assert!(bench.shared.begin(&job("other")).is_none());
}
