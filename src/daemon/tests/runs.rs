//! Runs on their threads, and the place each takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Bench, at, job, of, options, wait_for};
use crate::daemon::context::{Ended, Shared};
use crate::daemon::scheduler::{Launch, Scheduler};
use crate::daemon::{reload, runner, tend_loop};
use crate::model::Outcome;
use crate::ops::copies::Host;
use crate::ops::reap::{self, Fate};
use crate::state::{CopyStatus, RunTrigger};

#[test]
fn a_run_that_still_copies_keeps_nobody_from_starting_and_is_waited_for_at_the_end() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    let shared = &bench.shared;
    let ended = || Ended { job: job("web"), occurrence: None, trigger: RunTrigger::Schedule, locked: false };
    let first = shared.begin(&job("web")).unwrap();
    shared.end(&first, ended());
    let second = shared.begin(&job("web")).unwrap();
    // The end of the first one is not that of the second.
    shared.end(&first, ended());
    assert_eq!(shared.active().len(), 1);
    shared.end(&second, ended());
    assert!(shared.active().is_empty() && shared.is_busy());
    shared.stop();
    assert!(first.is_cancelled());
    shared.leave(&first);
    shared.leave(&second);
    assert!(!shared.is_busy());
}

#[test]
fn a_run_on_its_thread_makes_a_backup_and_frees_its_place() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    let launch = of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z");
    runner::start(&bench.shared, launch.clone());
    wait_for("the end of the run", || bench.shared.active().is_empty());
    let run = bench.shared.state.last_run(&job("web")).unwrap().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Success), "{run:?}");
    assert_eq!(run.scheduled_for, launch.occurrence);
    let Launch { job, trigger, occurrence } = launch;
    assert_eq!(bench.shared.take_ended(), [Ended { job, occurrence, trigger, locked: false }]);
}

#[test]
fn a_catch_up_of_a_hundred_copies_to_slow_targets_delays_no_run() {
    let mut host = Host::new(&["cloud", "nas"]);
    host.config.job.get_mut(&job("web")).unwrap().schedule = Some("0 * * * *".to_owned());
    let state = host.agent().state;
    let mut late: Vec<String> = (1..=100).map(|hours| host.backup(&state, hours).to_string()).collect();
    host.set("cloud", "slow");
    host.set("nas", "slow");
    let shared = {
        let options = options(host.config.clone(), Arc::clone(&host.clock));
        Arc::new(Shared::new(&options, reload::start(&options).unwrap().agent))
    };
    reload::touch_jobs(&shared);
    let launching = Arc::clone(&shared);
    let launch = Box::new(move |launch| runner::start(&launching, launch));
    let mut scheduler = Scheduler::new(Arc::clone(&shared), Default::default(), launch);
    let copying = std::thread::spawn({
        let shared = Arc::clone(&shared);
        move || tend_loop::copies(&shared)
    });
    let begun = || host.lines("cloud", "begun").len() + host.lines("nas", "begun").len();
    wait_for("the catch-up", || begun() == 2);

    let mut runs = Vec::new();
    for hour in ["2026-11-24T04:00:00Z", "2026-11-24T05:00:00Z"] {
        host.clock.set(at(hour));
        scheduler.turn();
        wait_for("the run", || {
            let last = state.last_run(&job("web")).unwrap().unwrap();
            last.scheduled_for == Some(at(hour)) && last.outcome == Some(Outcome::Success)
        });
        wait_for("its place", || shared.active().is_empty());
        runs.push(state.last_run(&job("web")).unwrap().unwrap().run_id.to_string());
    }
    // Not one copy was made meanwhile, and no more are made at once than before.
    assert_eq!(begun(), 2);
    assert_eq!(state.pending_count(&job("web"), &"nas".parse().unwrap()).unwrap(), 102);

    // They are made from what is stored: nothing reads the sources again.
    std::fs::remove_dir_all(host.source()).unwrap();
    host.set("cloud", "go");
    host.set("nas", "go");
    let begun = Instant::now();
    while !state.queued_copies().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(300), "the copies were not made");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The one that was under way, then those of the runs that came meanwhile, then back through the days.
    late.sort_by(|a, b| b.cmp(a));
    for target in ["cloud", "nas"] {
        let mut copied = host.lines(target, "copied");
        assert_eq!(copied.remove(0), late[0], "{target}");
        // The two runs wait for a place, each for its own.
        let rest = copied.split_off(2);
        copied.sort();
        assert_eq!(copied, runs, "{target}");
        assert_eq!(rest, late[1..], "{target}");
    }
    shared.stop();
    copying.join().unwrap();
    wait_for("the end of the runs", || !shared.is_busy());
}

#[test]
fn a_run_that_cannot_even_begin_is_recorded_as_a_failure() {
    let bench = Bench::with("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")], |config| {
        config.job.get_mut(&job("web")).unwrap().lock_file = Some(PathBuf::from("/nowhere/at/all.lock"));
    });
    runner::start(&bench.shared, of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z"));
    wait_for("the end of the run", || bench.shared.active().is_empty());
    let run = bench.shared.state.last_run(&job("web")).unwrap().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Failure));
    assert!(run.error.unwrap().contains("/nowhere/at"));
}

/// Makes the state refuse ends of runs of this kind, a condition on the new row, until it is dropped.
struct Refusing(rusqlite::Connection);

impl Refusing {
    fn ends(bench: &Bench, condition: &str) -> Self {
        let state = rusqlite::Connection::open(bench.config.state_dir.join("state.db")).unwrap();
        let trigger = format!(
            "CREATE TRIGGER refuse BEFORE UPDATE OF outcome ON runs WHEN {condition}
             BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
        );
        state.execute_batch(&trigger).unwrap();
        Self(state)
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.execute_batch("DROP TRIGGER refuse").unwrap();
    }
}

/// One run on its thread, at a time of its own; whether it began.
fn one_run(bench: &Bench, at_time: &str) -> bool {
    bench.clock.set(at(at_time));
    runner::start(&bench.shared, of("web", RunTrigger::Schedule, at_time));
    wait_for("the end of the run", || !bench.shared.is_busy());
    bench.shared.take_ended().iter().all(|ended| !ended.locked)
}

/// Outcomes of the runs, newest first, and how many backups stand at the target.
fn runs_and_backups(bench: &Bench) -> (Vec<Option<Outcome>>, usize) {
    let runs = bench.shared.state.runs(Some(&job("web")), 10).unwrap();
    let target = bench.shared.agent().open_target(&bench.config.job["web"].targets[0]).unwrap();
    let stands = |run: &&crate::state::Run| {
        run.location.as_ref().is_some_and(|location| target.holds(location, &run.run_id).unwrap())
    };
    (runs.iter().map(|run| run.outcome).collect(), runs.iter().filter(stands).count())
}

#[test]
fn a_good_backup_whose_end_the_state_takes_only_at_the_second_attempt_counts_and_stays() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    // What is recorded of it afterwards is degraded, or a failure.
    let refusing = Refusing::ends(&bench, "NEW.outcome = 'success' AND NEW.degraded = '[]'");
    assert!(one_run(&bench, "2026-11-24T03:00:00Z"));
    drop(refusing);
    assert_eq!(runs_and_backups(&bench), (vec![Some(Outcome::Success)], 1));
    let run = bench.shared.state.last_run(&job("web")).unwrap().unwrap();
    assert!(
        run.degraded.len() == 1
            && run.degraded[0].contains("disk I/O error")
            && run.degraded[0].contains("read back"),
        "{run:?}"
    );
    let copies = bench.shared.state.copies_of(&run.run_id).unwrap();
    assert_eq!(copies.iter().map(|copy| copy.status).collect::<Vec<_>>(), [CopyStatus::Verified]);
    assert!(one_run(&bench, "2026-11-25T03:00:00Z"));
    assert_eq!(runs_and_backups(&bench), (vec![Some(Outcome::Success); 2], 2));
}

#[test]
fn a_failed_run_whose_end_the_state_takes_only_at_the_second_attempt_is_a_failure() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    std::fs::remove_dir_all(bench.folder.path().join("source")).unwrap();
    let refusing = Refusing::ends(&bench, "NEW.error NOT LIKE '%disk I/O error%'");
    assert!(one_run(&bench, "2026-11-24T03:00:00Z"));
    drop(refusing);
    assert_eq!(runs_and_backups(&bench), (vec![Some(Outcome::Failure)], 0));
}

#[test]
fn a_run_whose_end_the_state_never_took_blocks_no_other_and_its_backup_is_taken_over() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    let refusing = Refusing::ends(&bench, "NEW.outcome IS NOT NULL");
    assert!(one_run(&bench, "2026-11-24T03:00:00Z"));
    assert_eq!(runs_and_backups(&bench), (vec![None], 1));
    drop(refusing);
    assert!(one_run(&bench, "2026-11-25T03:00:00Z"), "locked by a run that is over");
    assert_eq!(runs_and_backups(&bench), (vec![Some(Outcome::Success); 2], 2));

    // Without a backup; and no run of the job comes by.
    std::fs::remove_dir_all(bench.folder.path().join("source")).unwrap();
    let refusing = Refusing::ends(&bench, "NEW.outcome IS NOT NULL");
    assert!(one_run(&bench, "2026-11-26T03:00:00Z"));
    drop(refusing);
    let reaped = reap::all(&bench.shared.agent()).unwrap();
    assert!(matches!(reaped[..], [(_, Fate::Interrupted)]), "{reaped:?}");
    let run = bench.shared.state.last_run(&job("web")).unwrap().unwrap();
    assert!(run.error.unwrap().contains("the state did not take its end"));
}
