//! What each check says, and when it begins to. What the tests share.

mod agent;
mod backups;
mod due;
mod report;
mod runs;

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
