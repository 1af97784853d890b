//! What is stored: its files, copies and targets.

use super::*;

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
fn a_target_where_nothing_is_read_back_any_more_is_told_when_a_limit_says_so() {
    let state = with(json!({"targets": {"local": {"kept": 1, "kept_bytes": 1, "corrupt": 0, "pending": 0,
        "failures": 0, "last_verify": ago(3000), "last_verify_ok": true}}}));
    assert_eq!(says(&state, "verify").0, Good);
    let mut strict = config();
    strict.health.max_verify_age = Some(std::time::Duration::from_secs(86_400));
    assert_eq!(says_of(&state, &strict, &Extra::default(), "verify").0, Warning);
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
