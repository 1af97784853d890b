use super::*;
use crate::event::Step;
use crate::manifest::FileWarning;
use crate::model::WarningKind;

#[test]
fn a_run_is_followed_from_its_start_to_its_end() {
    let f = Fixture::new();
    let id = f.begin(0);
    f.state.set_step(&id, Step::Capture, at(1)).unwrap();
    f.state.set_progress(&id, 7.5).unwrap();
    f.state.set_location(&id, &local(), "daily/2026/11/24/1900", ".partial-x").unwrap();
    let running = f.state.running(&job()).unwrap().unwrap();
    assert_eq!(
        (running.step, running.step_since, running.progress),
        (Some(Step::Capture), Some(at(1)), Some(1.0))
    );
    assert_eq!(running.location.as_deref(), Some("daily/2026/11/24/1900"));
    assert!(running.is_running() && f.state.last_run(&job()).unwrap().is_none());

    let mut ended = EndedRun::new(id.clone(), Outcome::Warning, at(2));
    ended.steps = vec![StepTime { step: Step::Capture, ms: 60_000 }];
    ended.degraded = vec!["copy to nas is still pending".into()];
    ended.warning_counts = WarningCounts { changed: 60, skipped: 4, ..Default::default() };
    ended.warnings = (0..60)
        .map(|n| FileWarning {
            kind: WarningKind::Changed,
            path: format!("log/{n}").as_str().into(),
            detail: "grew".into(),
        })
        .collect();
    assert!(
        f.state.end_run(&ended, &[primary(5), pending()], &[mail(MessageKind::Success, "m", "a@b")]).unwrap()
    );

    let run = f.state.run(&id).unwrap().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Warning));
    assert_eq!(run.duration(), Some(std::time::Duration::from_secs(120)));
    assert_eq!(
        (run.steps, run.degraded, run.warning_counts),
        (ended.steps, ended.degraded, ended.warning_counts)
    );
    assert_eq!(run.warnings, ended.warnings[..WARNINGS_KEPT]);
    assert!(f.state.all_running().unwrap().is_empty());
    assert_eq!(f.state.last_success(&job()).unwrap().unwrap().run_id, id);
    assert_eq!(f.state.copies_of(&id).unwrap().len(), 2);
    assert_eq!(f.state.pending_messages().unwrap().len(), 1);
    assert_eq!((f.count(names::WARNINGS, "changed"), f.count(names::WARNINGS, "skipped")), (60, 0));
}

#[test]
fn a_run_ends_once() {
    let f = Fixture::new();
    let id = f.run(0, Outcome::Success);
    let again = EndedRun::new(id.clone(), Outcome::Failure, at(5));
    assert!(!f.state.end_run(&again, &[], &[mail(MessageKind::Failure, "m", "a@b")]).unwrap());
    assert!(!f.state.interrupt_run(&id, at(6), "process gone", &[]).unwrap());
    assert_eq!(f.state.run(&id).unwrap().unwrap().outcome, Some(Outcome::Success));
    assert!(f.state.pending_messages().unwrap().is_empty());
    assert_eq!(f.count(names::RUNS, ""), 1);
    let unknown = EndedRun::new(RunId::generate(at(9)), Outcome::Success, at(10));
    assert!(matches!(f.state.end_run(&unknown, &[], &[]), Err(StateError::UnknownRun { .. })));
}

#[test]
fn the_streak_of_failures_begins_with_its_first_end_and_ends_with_a_good_run() {
    let f = Fixture::new();
    f.run(0, Outcome::Success);
    assert_eq!(f.job().failing_since, None);
    f.run(10, Outcome::Failure);
    f.run(20, Outcome::Partial);
    let id = f.begin(30);
    f.state.set_step(&id, Step::ReadBack, at(31)).unwrap();
    assert!(f.state.interrupt_run(&id, at(32), "its process is gone", &[]).unwrap());
    assert_eq!(f.job().failing_since, Some(at(11)));
    let dead = f.state.last_run(&job()).unwrap().unwrap();
    assert_eq!((dead.outcome, dead.failed_step), (Some(Outcome::Interrupted), Some(Step::ReadBack)));
    f.run(40, Outcome::Warning);
    assert_eq!(f.state.failing_since(&job()).unwrap(), None);
    let counters = [names::RUNS, names::RUNS_FAILED, names::RUNS_PARTIAL, names::RUNS_INTERRUPTED];
    assert_eq!(counters.map(|name| f.count(name, "")), [5, 1, 1, 1]);
    let counts = f.state.outcome_counts(&job(), at(10)).unwrap();
    let expected = OutcomeCounts { success: 0, warning: 1, partial: 1, failure: 1, interrupted: 1 };
    assert_eq!(counts, expected);
}

#[test]
fn a_clock_set_back_does_not_change_which_run_is_the_last() {
    let f = Fixture::new();
    f.run(1000, Outcome::Success);
    let id = f.run(0, Outcome::Failure);
    assert_eq!(f.state.last_run(&job()).unwrap().unwrap().run_id, id);
    let mut back = f.state.run(&id).unwrap().unwrap();
    back.ended = Some(at(-5));
    assert_eq!(back.duration(), Some(std::time::Duration::ZERO));
}

#[test]
fn the_baseline_is_the_median_of_seven_good_runs_after_the_acknowledgement() {
    let f = Fixture::new();
    let component = "application".parse().unwrap();
    let baseline = |exclude: Option<&RunId>| f.state.baseline(&job(), &component, exclude).unwrap();
    assert_eq!(baseline(None), None);
    f.run_of_size(0, 1, 1);
    for (m, bytes) in [(10, 700), (20, 100), (30, 300), (40, 200), (50, 500), (60, 400), (70, 600)] {
        f.run_of_size(m, bytes, bytes / 10);
    }
    f.run(75, Outcome::Failure);
    assert_eq!(baseline(None), Some(Baseline { source_bytes: 400, entries: 40, runs: 7 }));
    let shrunk = f.run_of_size(80, 10, 1);
    assert_eq!(baseline(Some(&shrunk)).unwrap().source_bytes, 400);
    f.state.ack_baseline(&job(), at(81)).unwrap();
    assert_eq!(baseline(None), None);
    f.run_of_size(90, 12, 2);
    f.run_of_size(100, 13, 3);
    assert_eq!(baseline(None), Some(Baseline { source_bytes: 12, entries: 2, runs: 2 }));
}

#[test]
fn the_median_of_huge_numbers_does_not_overflow() {
    use crate::state::history::median;
    assert_eq!(median(vec![]), 0);
    assert_eq!(median(vec![3, 1]), 2);
    assert_eq!(median(vec![u64::MAX, u64::MAX]), u64::MAX);
    assert_eq!(median(vec![9, 1, 5]), 5);
}

#[test]
fn runs_are_found_by_the_beginning_or_the_random_end_of_their_id_and_near_ones_are_named() {
    let f = Fixture::new();
    let first = f.run(0, Outcome::Success);
    let second = f.run(60 * 24, Outcome::Success);
    let found =
        |text: &str| f.state.find_runs(text).unwrap().into_iter().map(|r| r.run_id).collect::<Vec<_>>();
    assert_eq!(found("20261124"), std::slice::from_ref(&first));
    assert_eq!(found("2026"), [second.clone(), first.clone()]);
    assert_eq!(found(&second.as_str()[17..]), std::slice::from_ref(&second));
    assert!(found("%").is_empty() && found("nothing").is_empty());
    let typo = first.as_str().replace("1124", "1142");
    assert_eq!(f.state.nearest_ids(&typo, 1).unwrap(), std::slice::from_ref(&first));
    assert_eq!(f.state.nearest_ids(&first.as_str()[17..22], 1).unwrap(), [first]);
    assert_eq!(f.state.nearest_ids("x", 5).unwrap().len(), 2);
}

#[test]
fn a_scheduled_start_is_remembered_and_never_goes_back() {
    let f = Fixture::new();
    let run = |m: i64| NewRun {
        run_id: RunId::generate(at(m)),
        job: job(),
        trigger: RunTrigger::Schedule,
        scheduled_for: Some(at(m)),
        process: crate::lock::ProcessIdentity { boot_id: String::new(), pid: 1, start_ticks: None },
        started: at(m),
    };
    assert_eq!(f.state.last_occurrence(&job()).unwrap(), None);
    f.state.begin_run(&run(60)).unwrap();
    f.state.begin_run(&run(0)).unwrap();
    assert_eq!(f.state.last_occurrence(&job()).unwrap(), Some(at(60)));
    f.state.occurrence_done(&job(), at(120), at(121)).unwrap();
    assert_eq!(f.state.last_occurrence(&job()).unwrap(), Some(at(120)));
}

#[test]
fn only_an_edited_schedule_counts_as_changed() {
    let f = Fixture::new();
    f.state.touch_job(&job(), Some("0 3 * * *"), at(0)).unwrap();
    f.state.touch_job(&job(), Some("0 3 * * *"), at(10)).unwrap();
    let row = f.job();
    assert_eq!((row.first_seen, row.schedule_changed_at), (at(0), None));
    f.state.touch_job(&job(), Some("0 4 * * *"), at(20)).unwrap();
    f.state.touch_job(&job(), Some("0 4 * * *"), at(30)).unwrap();
    let row = f.job();
    assert_eq!((row.first_seen, row.schedule_changed_at), (at(0), Some(at(20))));
    assert_eq!(row.schedule.as_deref(), Some("0 4 * * *"));
}

#[test]
fn a_pause_is_set_and_cleared() {
    let f = Fixture::new();
    f.state.set_paused(&job(), Some(at(99)), at(0)).unwrap();
    assert_eq!(f.job().paused_until, Some(at(99)));
    f.state.set_paused(&job(), None, at(1)).unwrap();
    assert_eq!(f.job().paused_until, None);
}

#[test]
fn what_degraded_a_run_can_come_later_and_be_mended() {
    let f = Fixture::new();
    let id = f.run(0, Outcome::Success);
    f.state.add_degraded(&id, "copy to nas failed").unwrap();
    f.state.add_degraded(&id, "copy to nas failed").unwrap();
    f.state.add_degraded(&id, "retention failed").unwrap();
    assert_eq!(f.state.run(&id).unwrap().unwrap().degraded, ["copy to nas failed", "retention failed"]);
    assert!(!f.state.retain_degraded(&id, |text| !text.contains("nas")).unwrap());
    assert!(f.state.retain_degraded(&id, |_| false).unwrap());
    assert!(f.state.add_degraded(&RunId::generate(at(0)), "x").is_err());
}

#[test]
fn logs_are_kept_for_ninety_days() {
    let f = Fixture::new();
    let (old, new) = (f.run(0, Outcome::Success), f.run(10, Outcome::Success));
    f.state.set_run_log(&old, "first\n", at(0)).unwrap();
    f.state.set_run_log(&old, "old\n", at(1)).unwrap();
    f.state.set_run_log(&new, "new\n", at(60)).unwrap();
    assert_eq!(f.state.run_log(&old).unwrap().as_deref(), Some("old\n"));
    assert_eq!(f.state.expire_logs(at(30) + Duration::days(90)).unwrap(), 1);
    assert_eq!(f.state.run_log(&old).unwrap(), None);
    assert_eq!(f.state.run_log(&new).unwrap().as_deref(), Some("new\n"));
}

#[test]
fn lock_contention_is_counted_for_ever_and_for_a_day() {
    let f = Fixture::new();
    assert_eq!(f.state.contention(&job(), at(0)).unwrap(), Contention::default());
    for m in [0, 60, 60 * 30] {
        f.state.record_contention(&job(), at(m)).unwrap();
    }
    let now = at(60 * 30 + 1);
    let expected = Contention { total: 3, last_24h: 1, last: Some(at(60 * 30)) };
    assert_eq!(f.state.contention(&job(), now).unwrap(), expected);
    assert_eq!(f.state.counters().unwrap().len(), 1, "contention is not a run");
}
