//! What a job's last run was like.

use super::*;

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
