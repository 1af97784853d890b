//! Whether a job's backups come when they should.

use super::*;

#[test]
fn a_job_is_overdue_once_the_grace_after_a_missed_occurrence_is_over_not_by_age() {
    // The last success answered 03:00; the occurrence of 11:00 is 20 minutes old, the grace an hour.
    let in_grace = with(json!({"last_success": run("success", 440), "last_run": run("failure", 19)}));
    assert_eq!(says(&in_grace, "overdue"), (Good, "due since 20 min, within the grace of 1 h".into()));
    // It answered 19:00 of the day before: 03:00 was missed, 8 h 20 min ago.
    let missed = with(json!({"last_success": run("success", 910)}));
    let (status, text) = says(&missed, "overdue");
    assert_eq!(status, Critical);
    assert_eq!(text, "overdue by 7 h 20 min (due 2026-11-24 03:00, last success 2026-11-23 20:10)");
    let finding = find(&findings(&missed, &config(), now(), &Extra::default()), "overdue");
    assert!(finding.hint.unwrap().contains("`agent backup app`"));
}

#[test]
fn splay_belongs_to_the_grace() {
    let missed = with(json!({"last_success": run("success", 440)}));
    let mut config = config();
    let job = config.job.get_mut("app").unwrap();
    job.grace = std::time::Duration::from_secs(600);
    assert_eq!(says_of(&missed, &config, &Extra::default(), "overdue").0, Critical);
    config.job.get_mut("app").unwrap().splay = std::time::Duration::from_secs(900);
    assert_eq!(says_of(&missed, &config, &Extra::default(), "overdue").0, Good);
}

#[test]
fn a_late_run_under_way_makes_overdue_a_warning_unless_it_is_dead_or_too_long() {
    let mut running = run("success", 5);
    running["outcome"] = Value::Null;
    running["ended"] = Value::Null;
    let late = with(json!({"last_success": run("success", 910), "running": running}));
    assert_eq!(says(&late, "overdue").0, Warning);
    let extra = Extra { dead_runs: ["20261124T020000Z-aaaaaa".parse().unwrap()].into(), ..Extra::default() };
    assert_eq!(says_of(&late, &config(), &extra, "overdue").0, Critical);
    assert_eq!(says_of(&late, &config(), &extra, "dead-run").0, Warning);
    assert!(is_silent(&late, "dead-run"));
    let mut config = config();
    config.job.get_mut("app").unwrap().max_runtime = Some(std::time::Duration::from_secs(120));
    assert_eq!(says_of(&late, &config, &Extra::default(), "overdue").0, Critical);
}

#[test]
fn paused_jobs_are_silent_and_owe_nothing_for_the_pause() {
    let paused = with(json!({"last_success": run("success", 9_000), "paused_until": ago(-60)}));
    assert_eq!(says(&paused, "overdue"), (Good, "paused until 2026-11-24 12:20".into()));
    // The pause ended 40 minutes ago: only 11:00, after it, is due, and its grace runs.
    let over = with(json!({"last_success": run("success", 9_000), "paused_until": ago(40)}));
    assert_eq!(says(&over, "overdue").0, Good);
    // It ended long ago.
    let long_over = with(json!({"last_success": run("success", 9_000), "paused_until": ago(2_000)}));
    assert_eq!(says(&long_over, "overdue").0, Critical);
}

#[test]
fn a_job_without_a_schedule_is_never_overdue() {
    let mut config = config();
    config.job.get_mut("app").unwrap().schedule = None;
    let old = with(json!({"last_success": run("success", 900_000)}));
    let all = findings(&old, &config, now(), &Extra::default());
    assert!(all.iter().all(|finding| finding.check != "overdue"));
    assert_eq!(find(&all, "never-succeeded").status, Good);
}

#[test]
fn a_job_that_never_succeeded_is_told_once_a_run_was_due_or_failed() {
    let fresh = with(json!({"first_seen": ago(5), "last_run": null, "last_success": null}));
    assert_eq!(says(&fresh, "never-succeeded"), (Good, "first run due 2026-11-24 19:00".into()));
    let failed = with(json!({"first_seen": ago(5), "last_run": run("failure", 3), "last_success": null}));
    assert_eq!(says(&failed, "never-succeeded").0, Warning);
    let due = with(json!({"first_seen": ago(600), "last_run": null, "last_success": null}));
    assert_eq!(says(&due, "never-succeeded").0, Warning);
    assert_eq!(says(&due, "overdue").0, Critical);
    let unknown = Snapshot { jobs: Vec::new(), ..snapshot(good_job()) };
    assert_eq!(says(&unknown, "never-succeeded").0, Warning);
}

#[test]
fn a_run_too_long_is_a_warning_and_one_that_cannot_be_ended_critical() {
    let mut config = config();
    config.job.get_mut("app").unwrap().max_runtime = Some(std::time::Duration::from_secs(3600));
    for (minutes, status) in [(59, Good), (61, Warning), (69, Warning), (71, Critical)] {
        let mut running = run("success", minutes);
        running["outcome"] = Value::Null;
        let state = with(json!({"running": running}));
        assert_eq!(says_of(&state, &config, &Extra::default(), "runtime").0, status, "{minutes}");
    }
    assert!(is_silent(&snapshot(good_job()), "runtime"));
}

#[test]
fn contention_is_told_above_its_limit() {
    let held = |n: u64| with(json!({"contention": {"total": 9, "last_24h": n, "last": ago(30)}}));
    assert_eq!(says(&held(3), "contention").0, Good);
    let (status, text) = says(&held(4), "contention");
    assert_eq!(
        (status, text.as_str()),
        (Warning, "4 runs in a day found the lock held, the last 30 min ago")
    );
}

#[test]
fn a_secret_that_cannot_be_used_is_told_by_what_fails_for_want_of_it() {
    let state = snapshot(good_job());
    assert!(is_silent(&state, "secret-files"));
    let file = |fails| SecretFile { fails, text: "/x does not exist".into() };
    let answer = |found: Vec<SecretFile>| {
        let extra = Extra { secret_files: [("app".parse().unwrap(), found)].into(), ..Extra::default() };
        says_of(&state, &config(), &extra, "secret-files")
    };
    let copies = Fails::Copies("nas".parse().unwrap());
    let (status, text) = answer(vec![file(copies.clone())]);
    assert_eq!((status, text.as_str()), (Warning, "copies to nas will fail: /x does not exist"));
    assert_eq!(answer(vec![file(Fails::Drills)]).0, Warning);
    let (status, text) = answer(vec![file(copies), file(Fails::Runs)]);
    assert_eq!(status, Critical);
    assert!(text.ends_with("; the next run will fail: /x does not exist"), "{text}");
}

#[test]
fn what_starts_a_backup_twice_is_told_where_somebody_looked() {
    let state = snapshot(good_job());
    assert!(is_silent(&state, "duplicate-trigger"));
    let found = |at_once| Duplicate { at_once, text: "two lines start it".into(), hint: "Remove one".into() };
    for (found, status) in [(None, Good), (Some(found(true)), Critical), (Some(found(false)), Warning)] {
        let extra = Extra { duplicates: [("app".parse().unwrap(), found)].into(), ..Extra::default() };
        assert_eq!(says_of(&state, &config(), &extra, "duplicate-trigger").0, status);
    }
}
