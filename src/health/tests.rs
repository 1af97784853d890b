//! What each check says, and when it begins to.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::*;
use crate::config::Config;
use crate::state::HealthStatus::{Critical, Ok as Good, Unknown, Warning};
use crate::state::Snapshot;

fn now() -> DateTime<Utc> {
    "2026-11-24T10:20:00Z".parse().unwrap()
}

fn ago(minutes: i64) -> Value {
    json!(now() - TimeDelta::minutes(minutes))
}

/// Two targets, three runs a day in Berlin, the default grace of an hour.
fn config() -> Config {
    toml::from_str(
        r#"
        timezone = "Europe/Berlin"
        [target.local]
        type = "directory"
        path = "/var/backups"
        [target.nas]
        type = "directory"
        path = "/mnt/nas"
        [job.app]
        schedule = "0 3,11,19 * * *"
        targets = ["local", "nas"]
        source.files = { type = "files", paths = ["/srv"] }
        [notify.admin]
        type = "email"
        smtp = "smtp://127.0.0.1:25"
        from = "a@example.org"
        to = ["b@example.org"]
        "#,
    )
    .unwrap()
}

fn run(outcome: &str, minutes_ago: i64) -> Value {
    json!({
        "run_id": "20261124T020000Z-aaaaaa", "job": "app", "trigger": "schedule",
        "started": ago(minutes_ago), "ended": ago(minutes_ago - 2), "outcome": outcome,
        "source_bytes": 3000, "stored_bytes": 1000,
        "components": [{"name": "files", "source_bytes": 3000, "stored_bytes": 1000, "entries": 30}],
    })
}

/// A job that is good: its last run answered 11:00 in Berlin (10:00 UTC), 20 minutes ago.
fn good_job() -> Value {
    json!({
        "job": "app", "first_seen": ago(100_000), "schedule": "0 3,11,19 * * *",
        "last_run": run("success", 19), "last_success": run("success", 19), "running": null,
        "counters": {"runs": 1, "failed": 0, "partial": 0, "interrupted": 0, "warnings": {}},
        "contention": {"total": 0, "last_24h": 0, "last": null},
        "targets": {}, "baselines": {}, "history": [],
    })
}

fn snapshot(job: Value) -> Snapshot {
    let agent = json!({"started": ago(500), "scheduler_tick": ago(0), "heartbeat": ago(0)});
    serde_json::from_value(json!({
        "version": 1, "written": now(), "agent_version": "0.1.0", "instance_id": "x", "jobs": [job],
        "targets": {}, "channels": {}, "health": [], "agent": agent,
    }))
    .unwrap()
}

/// A good job with some fields replaced.
fn with(fields: Value) -> Snapshot {
    let mut job = good_job();
    for (key, value) in fields.as_object().unwrap() {
        job[key] = value.clone();
    }
    snapshot(job)
}

fn find(found: &[Finding], check: &str) -> Finding {
    found.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}")).clone()
}

/// What one check says.
fn says(snapshot: &Snapshot, check: &str) -> (HealthStatus, String) {
    says_of(snapshot, &config(), &Extra::default(), check)
}

fn says_of(snapshot: &Snapshot, config: &Config, extra: &Extra, check: &str) -> (HealthStatus, String) {
    let finding = find(&findings(snapshot, config, now(), extra), check);
    (finding.status, finding.message)
}

fn is_silent(snapshot: &Snapshot, check: &str) -> bool {
    findings(snapshot, &config(), now(), &Extra::default()).iter().all(|finding| finding.check != check)
}

#[test]
fn a_good_job_has_nothing_but_good_findings() {
    let all = findings(&snapshot(good_job()), &config(), now(), &Extra::default());
    assert!(all.iter().all(|finding| finding.status == Good), "{all:#?}");
    assert_eq!(worst(all.iter().map(|finding| finding.status)), Good);
    assert_eq!(find(&all, "never-succeeded").message, "last success 17 min ago");
    assert_eq!(find(&all, "overdue").message, "next due in 7 h 40 min");
    assert_eq!(find(&all, "last-outcome").message, "the run 17 min ago was good, took 2 min");
}

#[test]
fn check_names_are_told_apart_and_each_says_what_it_means() {
    let names: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
    assert!(CHECKS.iter().all(|check| check.severity > Good && !check.meaning.is_empty()));
}

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
fn each_outcome_has_its_severity() {
    for (outcome, status) in [
        ("success", Good),
        ("warning", Good),
        ("partial", Warning),
        ("interrupted", Warning),
        ("failure", Critical),
    ] {
        let state = with(json!({"last_run": run(outcome, 19)}));
        assert_eq!(says(&state, "last-outcome").0, status, "{outcome}");
    }
    let mut degraded = run("success", 19);
    degraded["degraded"] = json!(["the copy to nas failed.\nlong story"]);
    let (status, text) = says(&with(json!({"last_run": degraded})), "last-outcome");
    assert_eq!(
        (status, text.as_str()),
        (Warning, "the backup 17 min ago is good, but the copy to nas failed")
    );
}

#[test]
fn a_failure_names_step_reason_and_streak() {
    let mut failed = run("failure", 19);
    failed["failed_step"] = json!("preflight");
    failed["error"] = json!("target full\nmore");
    let state = with(json!({"last_run": failed, "failing_since": ago(600)}));
    let text = says(&state, "last-outcome").1;
    assert_eq!(text, "the run 17 min ago failed at step preflight, failing for 10 h: target full");
}

#[test]
fn a_component_is_small_only_against_its_own_baseline() {
    let base = |bytes: u64, entries: u64, runs: u64| {
        with(json!({"baselines": {"files": {"source_bytes": bytes, "entries": entries, "runs": runs}}}))
    };
    // The run has 3000 bytes in 30 entries; half of that is allowed.
    assert_eq!(says(&base(6000, 60, 7), "size").0, Good);
    let (status, text) = says(&base(6100, 30, 7), "size");
    assert_eq!(status, Warning);
    assert!(text.starts_with("files shrank: 2.93 KiB, usually 5.96 KiB"), "{text}");
    assert!(says(&base(3000, 61, 7), "size").1.contains("30 entries, usually 61"));
    assert_eq!(says(&base(1_000_000, 1000, 0), "size").0, Good, "a baseline of no run");
    // A failed run stored nothing: the sizes are those of the last success.
    let mut failed = run("failure", 3);
    failed["components"] = json!([]);
    let state = with(json!({
        "last_run": failed, "baselines": {"files": {"source_bytes": 3000, "entries": 30, "runs": 7}},
    }));
    assert_eq!(says(&state, "size").0, Good);
}

#[test]
fn a_configured_component_that_is_missing_has_shrunk_to_nothing() {
    let usual = json!({"source_bytes": 3000, "entries": 30, "runs": 7});
    let state = with(json!({"baselines": {"files": usual, "database": usual}}));
    assert_eq!(says(&state, "size").0, Good, "a source that was taken out of the configuration");
    let mut config = config();
    let source = config.job["app"].source["files"].clone();
    config.job.get_mut("app").unwrap().source.insert("database".parse().unwrap(), source);
    let (status, text) = says_of(&state, &config, &Extra::default(), "size");
    assert_eq!(status, Warning);
    assert!(text.contains("database shrank: missing, usually 2.93 KiB"), "{text}");
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
fn files_are_judged_only_where_somebody_looked() {
    let state = snapshot(good_job());
    assert!(is_silent(&state, "files"));
    let looked =
        |result| Extra { backup_files: [("app".parse().unwrap(), result)].into(), ..Extra::default() };
    assert_eq!(says_of(&state, &config(), &looked(Ok(())), "files").0, Good);
    let (status, text) = says_of(&state, &config(), &looked(Err("manifest.json is gone".into())), "files");
    assert_eq!(status, Critical);
    assert_eq!(text, "the newest good backup is not whole: manifest.json is gone");
}

#[test]
fn copies_are_told_after_hours_and_become_critical_after_days() {
    let target = |oldest: Value| {
        json!({"kept": 0, "kept_bytes": 0, "corrupt": 0, "pending": 2, "oldest_pending": oldest,
               "last_error": "not mounted", "failures": 1})
    };
    let waiting = |minutes: i64| with(json!({"targets": {"nas": target(ago(minutes))}}));
    assert_eq!(says(&waiting(300), "copies"), (Good, "2 copies to be made".into()));
    assert_eq!(
        says(&waiting(400), "copies"),
        (Warning, "2 copies to nas waiting for 6 h 40 min: not mounted".into())
    );
    assert_eq!(says(&waiting(5_000), "copies").0, Critical);
    // A target that is no longer configured is nobody's business.
    let gone = with(json!({"targets": {"old": target(ago(5_000))}}));
    assert_eq!(says(&gone, "copies").0, Good);
}

#[test]
fn damage_and_retention_are_told_with_the_newest_intact_backup() {
    let targets = json!({
        "local": {"kept": 3, "kept_bytes": 1, "corrupt": 0, "pending": 0, "failures": 0,
                  "newest_verified": ago(600), "newest_verified_run": "20261124T000000Z-bbbbbb"},
        "nas": {"kept": 1, "kept_bytes": 1, "corrupt": 1, "pending": 0, "failures": 0,
                "last_verify": ago(60), "last_verify_ok": false, "retention_error": "permission denied"},
    });
    let state = with(json!({"targets": targets}));
    let all = findings(&state, &config(), now(), &Extra::default());
    let verify = find(&all, "verify");
    assert_eq!(
        (verify.status, verify.message.as_str()),
        (Critical, "the backup read back 1 h ago at nas is damaged")
    );
    assert!(verify.hint.unwrap().contains("20261124T000000Z-bbbbbb at local, 10 h old"));
    assert_eq!(find(&all, "retention").status, Warning);
}

#[test]
fn a_daemon_is_missed_only_where_jobs_wait_for_it() {
    let mut state = snapshot(good_job());
    state.agent.scheduler_tick = Some(now() - TimeDelta::seconds(130));
    state.agent.heartbeat = Some(now() - TimeDelta::seconds(130));
    let (status, text) = says(&state, "daemon");
    assert_eq!(status, Critical);
    let expected =
        "the daemon is not running, its scheduler last turned 2 min 10 s ago: no scheduled run will start";
    assert_eq!(text, expected);
    state.agent.heartbeat = Some(now());
    assert!(says(&state, "daemon").1.contains("lives, but its scheduler has not turned"));
    state.agent.stopped = Some(now() - TimeDelta::minutes(2));
    assert!(says(&state, "daemon").1.contains("was stopped 2 min ago"));
    state.agent.scheduler_tick = None;
    assert!(says(&state, "daemon").1.contains("never run"));
    let mut config = config();
    config.job.get_mut("app").unwrap().trigger = crate::config::Trigger::External;
    let all = findings(&state, &config, now(), &Extra::default());
    assert!(all.iter().all(|finding| finding.check != "daemon"));
}

/// `status.json` is not written at each turn of the scheduler: being a little old is no sign of death.
#[test]
fn an_old_status_file_is_judged_by_when_it_was_written() {
    let mut state = snapshot(good_job());
    state.written = now() - TimeDelta::seconds(200);
    state.agent.scheduler_tick = Some(state.written - TimeDelta::seconds(60));
    assert_eq!(says(&state, "daemon").0, Good);
    state.written = now() - TimeDelta::seconds(300);
    state.agent.scheduler_tick = Some(state.written);
    assert_eq!(says(&state, "daemon").0, Critical);
}

fn probe(up: bool, minutes: i64, free: Option<u64>) -> crate::state::Probe {
    crate::state::Probe {
        at: now() - TimeDelta::minutes(minutes),
        up,
        size_bytes: Some(1000),
        free_bytes: free,
        error: (!up).then(|| "not mounted".to_owned()),
        last_up: Some(now() - TimeDelta::hours(5)),
    }
}

#[test]
fn a_primary_target_that_is_down_is_critical_and_a_copy_target_a_warning() {
    let mut state = snapshot(good_job());
    assert!(is_silent(&state, "targets"));
    state.targets.insert("nas".parse().unwrap(), probe(false, 1, None));
    assert_eq!(says(&state, "targets"), (Warning, "target nas is down for 5 h: not mounted".into()));
    state.targets.insert("local".parse().unwrap(), probe(false, 1, None));
    assert_eq!(says(&state, "targets").0, Critical);
    state.targets.clear();
    state.targets.insert("local".parse().unwrap(), probe(true, 60 * 48, Some(1)));
    assert_eq!(says(&state, "targets"), (Unknown, "nobody has looked at target local for 2 days".into()));
    // One that no job uses.
    state.targets.clear();
    state.targets.insert("old".parse().unwrap(), probe(false, 1, None));
    assert!(is_silent(&state, "targets"));
}

#[test]
fn free_space_is_compared_with_min_free() {
    let mut config = config();
    let mut state = snapshot(good_job());
    state.targets.insert("local".parse().unwrap(), probe(true, 1, Some(99)));
    assert_eq!(
        says_of(&state, &config, &Extra::default(), "free-space"),
        (Good, "99 B free at local".into())
    );
    for (limit, status) in [(99, Good), (100, Warning), (1000, Critical)] {
        config.target.get_mut("local").unwrap().min_free = Some(crate::model::ByteSize(limit));
        assert_eq!(says_of(&state, &config, &Extra::default(), "free-space").0, status, "{limit}");
    }
    state.targets.clear();
    assert_eq!(says_of(&state, &config, &Extra::default(), "free-space").0, Unknown);
}

#[test]
fn messages_that_are_refused_late_or_given_up_are_told_and_forgotten() {
    let mut state = snapshot(good_job());
    assert_eq!(says(&state, "notify").0, Good);
    let channel =
        |pending, oldest: i64, error: Option<&str>, given_up: Option<i64>| crate::state::ChannelState {
            pending,
            oldest_pending: (pending > 0).then(|| now() - TimeDelta::minutes(oldest)),
            last_error: error.map(str::to_owned),
            given_up: u64::from(given_up.is_some()),
            last_given_up: given_up.map(|hours| now() - TimeDelta::hours(hours)),
            ..Default::default()
        };
    let mut with = |channel| {
        state.channels.insert("admin".parse().unwrap(), channel);
        says(&state, "notify")
    };
    assert_eq!(with(channel(1, 2, None, None)), (Good, "1 message on the way".into()));
    assert_eq!(
        with(channel(1, 2, Some("550 no"), None)),
        (Warning, "1 message for admin not accepted for 2 min: 550 no".into())
    );
    assert_eq!(with(channel(2, 16, None, None)).0, Warning);
    assert_eq!(
        with(channel(0, 0, None, Some(3))),
        (Warning, "a message for admin was given up 3 h ago".into())
    );
    assert_eq!(with(channel(0, 0, None, Some(49))).0, Good);
}

#[test]
fn a_refused_configuration_and_a_jump_of_the_clock_are_told() {
    let mut state = snapshot(good_job());
    state.agent.config_loaded = Some(now() - TimeDelta::hours(5));
    assert_eq!(says(&state, "config").0, Good);
    state.agent.config_refused = Some(now() - TimeDelta::hours(1));
    let (status, text) = says(&state, "config");
    assert_eq!(status, Warning);
    assert_eq!(text, "the configuration was refused 1 h ago; the one of 2026-11-24 06:20 is used");
    let jump =
        |hours| crate::state::Fact { value: "a year ahead".into(), at: now() - TimeDelta::hours(hours) };
    state.agent.clock_jump = Some(jump(3));
    assert_eq!(says(&state, "clock").0, Warning);
    state.agent.clock_jump = Some(jump(25));
    assert!(is_silent(&state, "clock"));
}

#[test]
fn the_worst_is_critical_then_warning_then_unknown() {
    assert_eq!(worst([]), Good);
    assert_eq!(worst([Good, Unknown]), Unknown);
    assert_eq!(worst([Unknown, Warning, Good]), Warning);
    assert_eq!(worst([Unknown, Critical, Warning]), Critical);
}

fn report(state: &Snapshot) -> Report {
    Report::new(findings(state, &config(), now(), &Extra::default()))
}

#[test]
fn the_first_line_of_the_report_has_status_worst_problem_and_figures() {
    let mut late = with(json!({"last_success": run("success", 910), "last_run": run("failure", 19)}));
    late.channels.insert("admin".parse().unwrap(), Default::default());
    let report = report(&late);
    assert_eq!(report.exit_code(), 2);
    let text = report.render(Format::Plugin, true);
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "BACKUP CRITICAL - app: overdue by 7 h 20 min (due 2026-11-24 03:00, last success 2026-11-23 20:10); \
         1 more | app_age=54480s;;;0 app_duration=120s;;;0 app_size=1000B;;;0 app_contention=0;3;;0 \
         app_copies_pending=0;;;0 notifications_pending=0;;;0"
    );
    let second = lines.next().unwrap();
    assert!(second.starts_with("CRITICAL app overdue: overdue by 7 h 20 min"), "{second}");
    assert!(lines.clone().any(|line| line.starts_with("CRITICAL app last-outcome: ")));
    assert!(lines.clone().any(|line| line.starts_with("OK daemon: ")));
    // Only the first line may have the character that begins figures.
    assert!(lines.all(|line| !line.contains('|')));
}

#[test]
fn a_good_report_says_how_old_the_backups_are_and_is_empty_when_quiet() {
    let good = report(&snapshot(good_job()));
    assert_eq!(good.exit_code(), 0);
    let text = good.render(Format::Plugin, false);
    assert!(text.starts_with("BACKUP OK - app: last success 17 min ago | app_age=1020s;;;0 "), "{text}");
    assert_eq!(good.render(Format::Plugin, true), "");
    assert_eq!(good.render(Format::Json, true), "");
    let none = Report::new(Vec::new()).render(Format::Plugin, false);
    assert_eq!(none, "BACKUP OK - no job is configured\n");
}

#[test]
fn an_unreadable_state_is_unknown_and_never_quiet() {
    let report = Report::unreadable("cannot read /x/state.db | permission\ndenied");
    assert_eq!(report.exit_code(), 3);
    let text = report.render(Format::Plugin, true);
    assert_eq!(text, "BACKUP UNKNOWN - cannot read /x/state.db / permission denied\n");
    let json: Value = serde_json::from_str(&report.render(Format::Json, true)).unwrap();
    assert_eq!((json["status"].as_str(), json["exit_code"].as_u64()), (Some("unknown"), Some(3)));
}

#[test]
fn the_json_form_has_every_finding_with_its_figures() {
    let json: Value = serde_json::from_str(
        &report(&snapshot(good_job())).note("from status.json").render(Format::Json, false),
    )
    .unwrap();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["note"], "from status.json");
    let overdue = &json["findings"][0];
    assert_eq!((&overdue["job"], &overdue["check"]), (&json!("app"), &json!("overdue")));
    assert_eq!(overdue["perfdata"][0]["label"], "app_age");
    assert_eq!(overdue["perfdata"][0]["value"], 1020.0);
}

#[test]
fn figures_follow_the_plugin_guidelines() {
    let perf = |label: &str| Perf::new(label, 1.5, Unit::Seconds);
    assert_eq!(perf("a-b_1").to_string(), "a-b_1=1.5s;;;0");
    assert_eq!(perf("free space").to_string(), "'free space'=1.5s;;;0");
    assert_eq!(perf("it's=|x").to_string(), "'it''s__x'=1.5s;;;0");
    assert_eq!(perf("").to_string(), "''=1.5s;;;0");
    assert_eq!(Perf::unknown("age").to_string(), "age=U");
    assert_eq!(Perf::new("x", f64::NAN, Unit::None).to_string(), "x=U");
    let free = Perf::new("free", 3e12, Unit::Bytes).warning("10:".into()).critical("1:".into()).maximum(8e12);
    assert_eq!(free.to_string(), "free=3000000000000B;10:;1:;0;8000000000000");
}

#[test]
fn a_finding_becomes_a_row_with_message_and_hint() {
    let missed = with(json!({"last_success": run("success", 910)}));
    let row = find(&findings(&missed, &config(), now(), &Extra::default()), "overdue").to_row();
    assert_eq!((row.check.as_str(), row.status), ("overdue", Critical));
    assert!(row.message.contains("). `agent history app`"), "{}", row.message);
}

#[test]
fn every_limit_of_a_check_is_one_of_the_table_and_every_limit_moves_a_check() {
    let named: Vec<&str> = CHECKS.iter().flat_map(|check| check.limits).copied().collect();
    for limit in crate::config::LIMITS {
        assert!(named.contains(&limit.key), "no check names {}", limit.key);
    }
    assert_eq!(named.len(), crate::config::LIMITS.len());
}

#[test]
fn limits_of_the_host_and_of_the_job_move_the_checks() {
    let mut config = config();
    let mut job = good_job();
    job["targets"] = json!({"nas": {"kept": 0, "kept_bytes": 0, "corrupt": 0, "pending": 1,
        "oldest_pending": ago(90), "failures": 0, "last_verify": ago(90), "last_verify_ok": true}});
    job["contention"] = json!({"total": 2, "last_24h": 2, "last": ago(5)});
    let state = snapshot(job);
    let status = |config: &Config, check: &str| says_of(&state, config, &Extra::default(), check).0;
    assert_eq!((status(&config, "copies"), status(&config, "contention")), (Good, Good));
    config.health.copies_warning = Some(std::time::Duration::from_secs(3600));
    config.health.max_contention = Some(1);
    assert_eq!((status(&config, "copies"), status(&config, "contention")), (Warning, Warning));
    let own = config.job.values_mut().next().unwrap();
    own.health.copies_critical = Some(std::time::Duration::from_secs(4000));
    own.health.max_contention = Some(2);
    assert_eq!((status(&config, "copies"), status(&config, "contention")), (Critical, Good));
}

#[test]
fn a_target_that_is_away_is_told_as_the_target_and_not_as_lost_files() {
    let state = snapshot(good_job());
    let away = Extra {
        targets_away: [("local".parse().unwrap(), "/var/backups is not mounted".to_owned())].into(),
        ..Extra::default()
    };
    let (status, text) = says_of(&state, &config(), &away, "targets");
    assert_eq!(status, Critical);
    assert_eq!(text, "target local cannot be used: /var/backups is not mounted");
    assert!(findings(&state, &config(), now(), &away).iter().all(|finding| finding.check != "files"));
}

#[test]
fn a_state_nobody_can_use_is_critical_however_good_the_last_facts_are() {
    let state = snapshot(good_job());
    assert!(is_silent(&state, "state"));
    let broken = Extra { state_broken: Some("the state database is damaged".into()), ..Extra::default() };
    let (status, text) = says_of(&state, &config(), &broken, "state");
    assert_eq!((status, text.as_str()), (Critical, "no run can be made: the state database is damaged"));
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

#[test]
fn warnings_of_files_are_too_many_against_the_usual_or_a_limit() {
    let brief = |warnings: u64| {
        json!({"run_id": "20261123T020000Z-bbbbbb", "started": ago(2000), "ended": ago(1999),
               "outcome": "warning", "degraded": false, "duration_ms": 1, "stored_bytes": 1,
               "warnings": warnings})
    };
    let job = |count: u64, usual: u64| {
        let mut last = run("warning", 19);
        last["warning_counts"] = json!({"changed": count, "vanished": 0, "unreadable": 0});
        with(json!({"last_run": last, "history": [brief(usual), brief(usual), brief(usual)]}))
    };
    assert_eq!(says(&job(99, 0), "warnings").0, Good);
    assert_eq!(says(&job(101, 2), "warnings").0, Warning);
    assert_eq!(says(&job(900, 100), "warnings").0, Good);
    let mut strict = config();
    strict.health.max_warnings = Some(5);
    let (status, text) = says_of(&job(6, 2), &strict, &Extra::default(), "warnings");
    assert_eq!(status, Warning);
    assert_eq!(text, "6 files changed, vanished or could not be read in the run 19 min ago, usually 2");
    assert!(is_silent(&snapshot(good_job()), "warnings"), "nothing is usual yet");
}

#[test]
fn a_target_where_nothing_is_read_back_any_more_is_told_when_a_limit_says_so() {
    let state = with(json!({"targets": {"local": {"kept": 1, "kept_bytes": 1, "corrupt": 0, "pending": 0,
        "failures": 0, "last_verify": ago(3000), "last_verify_ok": true}}}));
    assert_eq!(says(&state, "verify").0, Good);
    let mut strict = config();
    strict.health.max_verify_age = Some(std::time::Duration::from_secs(86_400));
    assert_eq!(says_of(&state, &strict, &Extra::default(), "verify").0, Warning);
}
