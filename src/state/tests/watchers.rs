use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::manifest::FileWarning;
use crate::model::WarningKind;

#[test]
fn a_snapshot_holds_what_the_watchers_need() {
    let f = Fixture::new();
    let state = &f.state;
    state.touch_job(&job(), Some("0 3,11,19 * * *"), at(0)).unwrap();
    let first = f.run_of_size(10, 100, 10);
    let last = f.run_of_size(20, 300, 30);
    let running = f.begin(30);
    state.set_fact(FactKey::SchedulerTick, "", at(31)).unwrap();
    state.record_probe(&nas(), at(30), true, Some(1000), Some(100), None).unwrap();
    state.record_probe(&nas(), at(31), false, None, None, Some("not mounted")).unwrap();
    let check =
        |job, status| HealthRow { job, check: "overdue".into(), status, message: "since noon".into() };
    state
        .record_health(&[check(Some(job()), HealthStatus::Critical), check(None, HealthStatus::Ok)], at(32))
        .unwrap();
    state.record_health(&[check(Some(job()), HealthStatus::Warning)], at(33)).unwrap();

    let snapshot = state.snapshot(at(40)).unwrap();
    assert_eq!((snapshot.version, snapshot.written), (SNAPSHOT_VERSION, at(40)));
    let j = snapshot.job(&job()).unwrap();
    assert_eq!(j.row.schedule.as_deref(), Some("0 3,11,19 * * *"));
    assert_eq!(j.last_run.as_ref().unwrap().run_id, last);
    assert_eq!(j.last_success.as_ref().unwrap().run_id, last);
    assert_eq!(j.running.as_ref().unwrap().run_id, running);
    assert_eq!(j.history.iter().map(|r| r.run_id.clone()).collect::<Vec<_>>(), [last.clone(), first]);
    assert_eq!(j.history[0].duration_ms, 60_000);
    assert_eq!(j.baselines["application"].source_bytes, 100, "the last run does not judge itself");
    let target = &j.targets[&local()];
    assert_eq!((target.kept, target.kept_bytes, target.newest_verified), (2, 200, Some(at(20))));
    assert_eq!(j.newest_verified(), Some((at(20), &last, &local())));
    assert_eq!((j.targets[&nas()].pending, j.targets[&nas()].oldest_pending), (2, Some(at(11))));
    let probe = &snapshot.targets[&nas()];
    assert_eq!((probe.up, probe.free_bytes, probe.last_up), (false, Some(100), Some(at(30))));
    assert_eq!(snapshot.health.len(), 1, "results of earlier checks are replaced");
    assert_eq!(snapshot.agent.scheduler_tick, Some(at(31)));
    assert_eq!(snapshot.agent.health_checked, Some(at(33)));
}

#[test]
fn the_status_file_is_the_snapshot_readable_by_all_and_without_secrets() {
    let f = Fixture::new();
    let id = f.begin(0);
    let mut ended = EndedRun::new(id, Outcome::Partial, at(1));
    ended.warnings = vec![FileWarning {
        kind: WarningKind::Unreadable,
        path: "canary-path".into(),
        detail: "permission denied".into(),
    }];
    let mut message = mail(MessageKind::Partial, "<1@h>", "canary-recipient@x");
    (message.payload, message.subject) = ("canary-payload".into(), "canary-subject".into());
    f.state.end_run(&ended, &[primary(3)], &[message]).unwrap();
    f.state.config_loaded("/etc/x.toml", "canary-config", at(2)).unwrap();
    f.state.set_fact(FactKey::ConfigRefused, "canary-report", at(3)).unwrap();

    let written = write_status(&f.state, at(5)).unwrap();
    let path = f.path().join(STATUS_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(read_status(f.path()).unwrap(), written);
    assert_eq!(written.agent.config_refused, Some(at(3)));
    write_status(&f.state, at(6)).unwrap();
    assert_eq!(read_status(f.path()).unwrap().written, at(6));
    let strays = fs::read_dir(f.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("status.json."));
    assert_eq!(strays.count(), 0);
}

#[test]
fn a_reader_falls_back_to_the_status_file_and_names_both_reasons_when_it_has_neither() {
    let f = Fixture::new();
    f.run(0, Outcome::Success);
    write_status(&f.state, at(2)).unwrap();
    let (snapshot, origin) = load_for_reading(f.path(), at(3)).unwrap();
    assert_eq!((snapshot.written, origin), (at(3), Origin::Database));

    let path = f.path().join(DATABASE_FILE);
    fs::remove_file(&path).unwrap();
    let (snapshot, origin) = load_for_reading(f.path(), at(3)).unwrap();
    assert_eq!(snapshot.written, at(2));
    assert!(matches!(origin, Origin::StatusFile(why) if why.contains("no state database")));

    // A database that is there and of no use to anybody is another matter than one that is not there.
    fs::write(&path, "this is no database at all, whoever reads it").unwrap();
    let (_, origin) = load_for_reading(f.path(), at(3)).unwrap();
    assert!(matches!(origin, Origin::InsteadOfBroken(why) if why.contains("is damaged")));
    fs::remove_file(&path).unwrap();

    fs::write(f.path().join(STATUS_FILE), "{\"version\": 77}").unwrap();
    let error = load_for_reading(f.path(), at(3)).unwrap_err().to_string();
    assert!(error.contains("no state database") && error.contains("version 77"), "{error}");
    fs::write(f.path().join(STATUS_FILE), "{").unwrap();
    assert!(load_for_reading(f.path(), at(3)).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn the_last_good_configuration_survives_a_refused_one() {
    let f = Fixture::new();
    assert_eq!(f.state.fact(FactKey::LastGoodConfig).unwrap(), None);
    f.state.config_loaded("file", "good = 1", at(0)).unwrap();
    f.state.set_fact(FactKey::ConfigRefused, "line 3", at(1)).unwrap();
    assert_eq!(f.state.fact(FactKey::LastGoodConfig).unwrap().unwrap().value, "good = 1");
    f.state.config_loaded("file", "good = 2", at(2)).unwrap();
    assert_eq!(f.state.fact(FactKey::ConfigRefused).unwrap(), None);
    f.state.clear_fact(FactKey::ConfigLoaded).unwrap();
    assert_eq!(f.state.fact(FactKey::ConfigLoaded).unwrap(), None);
}

/// Fifty jobs, ten thousand runs and their copies: the size the snapshot must stay fast at.
fn large() -> Fixture {
    let f = Fixture::new();
    let model = f.run_of_size(0, 1 << 30, 1000);
    f.state
        .write("fill", |tx| {
            tx.execute("DELETE FROM jobs", [])?;
            for n in 0..50 {
                tx.execute("INSERT INTO jobs (job, first_seen) VALUES (?1, 0)", [format!("job-{n}")])?;
                tx.execute("INSERT INTO job_targets (job, target) VALUES (?1, 'local')", [format!("job-{n}")])?;
            }
            tx.execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
                 INSERT INTO runs (run_id, job, started_by, started, outcome, ended, components, warning_counts)
                 SELECT '20261124T180000Z-' || printf('%06d', i), 'job-' || (i % 50), 'schedule', started + i,
                        CASE i % 9 WHEN 0 THEN 'failure' ELSE 'success' END, ended + i, components, warning_counts
                 FROM n, (SELECT * FROM runs WHERE job = 'askproai');
                 INSERT INTO copies (run_id, target, job, is_primary, status, bytes, outcome, started, queued_at)
                 SELECT run_id, 'local', job, 1, CASE WHEN seq > 2000 THEN 'verified' ELSE 'expired' END, 1, outcome, started, started
                 FROM runs WHERE job <> 'askproai' AND outcome = 'success'",
            )?;
            tx.execute("DELETE FROM runs WHERE run_id = ?1", [model.as_str()])?;
            Ok(())
        })
        .unwrap();
    f
}

#[test]
fn a_snapshot_of_a_long_history_reads_through_indexes() {
    let f = large();
    let snapshot = f.state.snapshot(at(0)).unwrap();
    assert_eq!(snapshot.jobs.len(), 50);
    assert!(snapshot.jobs.iter().all(|j| j.history.len() == 30 && j.baselines.len() == 1));
    let start = std::time::Instant::now();
    (0..20).for_each(|_| drop(f.state.snapshot(at(0)).unwrap()));
    println!("a snapshot takes {:?}", start.elapsed() / 20);
    // No time is asserted, which would depend on the machine; but nothing may scan the runs.
    f.state
        .read("explain", |tx| {
            for (sql, index) in [
                ("SELECT * FROM runs WHERE job = 'a' AND outcome IS NOT NULL ORDER BY seq DESC LIMIT 1", "runs_by_job"),
                (
                    "SELECT * FROM runs WHERE job = 'a' AND outcome IN ('success', 'warning') ORDER BY seq DESC LIMIT 1",
                    "runs_",
                ),
                ("SELECT * FROM copies WHERE status = 'pending' AND next_attempt <= 5", "copies_pending"),
                (
                    "SELECT job, target, status, count(*) FROM copies WHERE status <> 'expired' GROUP BY job, target, status",
                    "copies_present",
                ),
                ("SELECT EXISTS (SELECT 1 FROM outbox WHERE status = 'pending' AND not_before <= 5)", "outbox_pending"),
            ] {
                let plan: Vec<String> = tx
                    .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?
                    .query_map([], |row| row.get("detail"))?
                    .collect::<rusqlite::Result<_>>()?;
                let plan = plan.join("; ");
                assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
            }
            Ok(())
        })
        .unwrap();
}
