//! The exposition, line by line: against a golden file, and with promtool.

mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use backup_agent::metrics::{self, Facts, table};
use backup_agent::state::{Baseline, ComponentSummary};

fn facts() -> Facts {
    Facts {
        snapshot: Arc::new(sample::snapshot()),
        config: Arc::new(sample::config()),
        progress: BTreeMap::from([("web".parse().unwrap(), 0.625)]),
        now: sample::now(),
    }
}

/// Lines that hold a sample.
fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn value(text: &str, series: &str) -> Option<f64> {
    samples(text).iter().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn the_exposition_is_the_one_in_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics.prom");
    // A new version of the program is no change of the exposition.
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    let text = metrics::render(&facts()).unwrap().replace(version, "version=\"…\"");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (text.lines().collect(), golden.lines().collect());
    let added: Vec<_> = found.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(
        text == golden,
        "tests/golden/metrics.prom differs (UPDATE_GOLDEN=1 writes it anew)\n\
         not in the golden file: {added:#?}\nonly in the golden file: {missing:#?}"
    );
}

/// Whoever changes a name breaks rules and dashboards of others: this is the list they were promised.
#[test]
fn every_name_of_the_contract_is_in_the_table_and_no_other() {
    let contract = "
        backup_build_info backup_job_info backup_last_run_timestamp_seconds backup_last_run_success
        backup_last_run_degraded backup_last_success_timestamp_seconds backup_failing_since_timestamp_seconds
        backup_last_duration_seconds backup_last_step_duration_seconds backup_last_size_bytes
        backup_last_component_size_bytes backup_last_source_bytes backup_source_baseline_bytes
        backup_last_warnings backup_warnings_total backup_runs_total backup_runs_failed_total
        backup_runs_partial_total backup_runs_interrupted_total backup_lock_contention_total
        backup_lock_last_contention_timestamp_seconds backup_running backup_run_start_timestamp_seconds
        backup_run_progress_ratio backup_max_runtime_seconds backup_next_due_timestamp_seconds
        backup_grace_seconds backup_next_run_timestamp_seconds backup_first_seen_timestamp_seconds
        backup_paused_until_timestamp_seconds backup_copies_pending backup_copy_last_success_timestamp_seconds
        backup_copy_failures_total backup_backups backup_target_size_bytes backup_target_free_bytes
        backup_target_up backup_target_last_probe_timestamp_seconds backup_last_verify_timestamp_seconds
        backup_last_verify_success backup_last_retention_timestamp_seconds backup_notifications_total
        backup_notification_failures_total backup_notifications_pending
        backup_notifications_refused_total backup_notification_channel_ok
        backup_last_failure_mail_timestamp_seconds backup_remind_seconds backup_health_status
        backup_health_last_check_timestamp_seconds backup_scheduler_last_tick_timestamp_seconds
        backup_config_last_reload_success_timestamp_seconds backup_config_last_reload_successful";
    let contract: BTreeSet<&str> = contract.split_whitespace().collect();
    let names: BTreeSet<&str> = table::TABLE.iter().map(|metric| metric.name).collect();
    assert_eq!(names, contract);
    assert_eq!(table::TABLE.len(), names.len(), "a name stands twice in the table");
}

#[test]
fn every_metric_of_the_table_has_a_sample_in_the_golden_file() {
    let text = metrics::render(&facts()).unwrap();
    for metric in table::TABLE {
        assert!(text.contains(&format!("# HELP {} ", metric.name)), "{} is nowhere", metric.name);
    }
}

#[test]
fn counters_start_at_zero_and_what_has_no_meaning_is_absent() {
    let text = metrics::render(&facts()).unwrap();
    for zero in [
        "backup_runs_total{backup_job=\"fresh\"}",
        "backup_runs_failed_total{backup_job=\"fresh\"}",
        "backup_warnings_total{backup_job=\"fresh\",kind=\"unreadable\"}",
        "backup_lock_contention_total{backup_job=\"fresh\"}",
        "backup_copy_failures_total{backup_job=\"web\",target=\"nas\"}",
        "backup_notifications_total{channel=\"pinger\"}",
        "backup_last_success_timestamp_seconds{backup_job=\"fresh\"}",
        "backup_failing_since_timestamp_seconds{backup_job=\"askproai\"}",
        "backup_running{backup_job=\"askproai\"}",
    ] {
        assert_eq!(value(&text, zero), Some(0.0), "{zero}");
    }
    for absent in [
        "backup_next_due_timestamp_seconds{backup_job=\"lab\"}",
        "backup_grace_seconds{backup_job=\"lab\"}",
        "backup_first_seen_timestamp_seconds{backup_job=\"fresh\"}",
        "backup_last_run_success{backup_job=\"fresh\"}",
        "backup_run_start_timestamp_seconds{backup_job=\"askproai\"}",
        "backup_paused_until_timestamp_seconds{backup_job=\"askproai\"}",
        "backup_max_runtime_seconds{backup_job=\"mail\"}",
        "backup_last_verify_success{backup_job=\"askproai\",target=\"offsite\"}",
        // The primary target receives no copies.
        "backup_copies_pending{backup_job=\"askproai\",target=\"local\"}",
    ] {
        assert_eq!(value(&text, absent), None, "{absent}");
    }
    assert!(!text.contains("removed"), "a job that is not configured is exported");
    assert!(!text.contains("drill"), "nothing was drilled yet");
    assert!(!text.contains("process_"), "process metrics are for the HTTP endpoint");
}

#[test]
fn due_times_follow_the_schedule_in_its_zone() {
    let text = metrics::render(&facts()).unwrap();
    let seconds = |at: &str| at.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp() as f64;
    for (series, at) in [
        // Good since the run of 03:45; 11:00 in Berlin is not met yet.
        ("backup_next_due_timestamp_seconds{backup_job=\"askproai\"}", "2026-11-24T10:00:00Z"),
        ("backup_next_run_timestamp_seconds{backup_job=\"askproai\"}", "2026-11-24T18:00:00Z"),
        // Failed twice since the run of 22 November: the occurrence after that is still due.
        ("backup_next_due_timestamp_seconds{backup_job=\"mail\"}", "2026-11-22T01:30:00Z"),
        // Paused for three days: nothing is due or started before that.
        ("backup_next_due_timestamp_seconds{backup_job=\"wiki\"}", "2026-11-27T23:00:00Z"),
        ("backup_next_run_timestamp_seconds{backup_job=\"wiki\"}", "2026-11-27T23:00:00Z"),
    ] {
        assert_eq!(value(&text, series), Some(seconds(at)), "{series}");
    }
    assert_eq!(value(&text, "backup_grace_seconds{backup_job=\"askproai\"}"), Some(4200.0));
}

#[test]
fn three_jobs_at_three_targets_with_everything_known_stay_below_300_series() {
    let (mut config, mut snapshot) = (sample::config(), sample::snapshot());
    let job = config.job["askproai"].clone();
    let mut state = snapshot.job(&"askproai".parse().unwrap()).unwrap().clone();
    // Everything that can be there at once.
    state.row.paused_until = Some(sample::now() + chrono::TimeDelta::days(1));
    state.running = state.last_run.clone();
    state.running.as_mut().unwrap().progress = Some(0.5);
    for target in state.targets.values_mut() {
        (target.last_verify, target.last_verify_ok) = (Some(sample::now()), Some(true));
        target.last_copy_success = Some(sample::now());
    }
    config.job.clear();
    snapshot.jobs.clear();
    snapshot.health.clear();
    for name in ["one", "two", "three"] {
        config.job.insert(name.parse().unwrap(), job.clone());
        let mut state = state.clone();
        state.row.job = name.parse().unwrap();
        snapshot.jobs.push(state);
    }
    let mut extra = backup_agent::health::Extra::default();
    for name in config.job.keys() {
        extra.backup_files.insert(name.clone(), Ok(()));
    }
    snapshot.health = backup_agent::health::findings(&snapshot, &config, sample::now(), &extra)
        .iter()
        .map(|finding| finding.to_row())
        .collect();
    snapshot.targets.get_mut("offsite").unwrap().free_bytes = Some(1);
    snapshot.targets.get_mut("offsite").unwrap().size_bytes = Some(1);
    let facts = Facts { snapshot: Arc::new(snapshot), config: Arc::new(config), ..facts() };
    let text = metrics::render_for_http(Some(&facts)).unwrap();
    let count = samples(&text).len();
    assert!(count < 300, "{count} series");
    assert!(count > 200, "{count} series: this is not the full case any more");
}

#[test]
fn components_beyond_twenty_are_summed() {
    let mut facts = facts();
    let snapshot = Arc::make_mut(&mut facts.snapshot);
    let job = snapshot.jobs.iter_mut().find(|job| job.row.job.as_str() == "askproai").unwrap();
    let run = job.last_run.as_mut().unwrap();
    run.components = (0..25)
        .map(|n| ComponentSummary {
            name: format!("part-{n:02}").parse().unwrap(),
            source_bytes: 10,
            stored_bytes: 1,
            entries: 1,
            warning_counts: Default::default(),
            sha256: None,
        })
        .collect();
    let baseline = Baseline { source_bytes: 100, entries: 1, runs: 7 };
    job.baselines = run.components.iter().map(|component| (component.name.clone(), baseline)).collect();
    let text = metrics::render(&facts).unwrap();
    let series = |name: &str, component: &str| {
        value(&text, &format!("{name}{{backup_job=\"askproai\",component=\"{component}\"}}"))
    };
    assert_eq!(series("backup_last_component_size_bytes", "part-19"), Some(1.0));
    assert_eq!(series("backup_last_component_size_bytes", "part-20"), None);
    assert_eq!(series("backup_last_component_size_bytes", "other"), Some(5.0));
    assert_eq!(series("backup_last_source_bytes", "other"), Some(50.0));
    assert_eq!(series("backup_source_baseline_bytes", "other"), Some(500.0));
}

#[test]
fn without_a_state_the_version_is_still_told() {
    let text = metrics::render_for_http(None).unwrap();
    let version = format!("backup_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version), "{text}");
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    assert!(samples(&text).iter().all(|line| !line.starts_with("backup_") || line.contains("build_info")));
}

#[test]
fn the_text_file_is_replaced_whole_and_readable_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup.prom");
    fs::write(&path, "old").unwrap();
    metrics::write_textfile(&path, &facts()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), metrics::render(&facts()).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left behind");
    let error = metrics::write_textfile(&folder.path().join("none/backup.prom"), &facts()).unwrap_err();
    assert!(format!("{error:#}").contains("none/backup.prom"), "{error:#}");
}

/// With the real promtool: `cargo test --features real-peers`. Without it the test fails, it is not skipped.
#[cfg(feature = "real-peers")]
#[test]
fn promtool_finds_nothing_to_complain_about() {
    use std::io::Write;
    use std::process::{Command, Stdio};

    for text in [
        metrics::render(&facts()).unwrap(),
        metrics::render_for_http(Some(&facts())).unwrap(),
        metrics::render_for_http(None).unwrap(),
    ] {
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is needed for this test");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}
