//! The agent itself: its daemon, state, configuration, messages and clock.

use super::*;

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

#[test]
fn a_state_nobody_can_use_is_critical_however_good_the_last_facts_are() {
    let state = snapshot(good_job());
    assert!(is_silent(&state, "state"));
    let broken = Extra { state_broken: Some("the state database is damaged".into()), ..Extra::default() };
    let (status, text) = says_of(&state, &config(), &broken, "state");
    assert_eq!((status, text.as_str()), (Critical, "no run can be made: the state database is damaged"));
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
    state.agent.config_unusable = state.agent.config_refused;
    let (status, text) = says(&state, "config");
    assert_eq!(status, Critical);
    assert!(text.ends_with("could not be used either: no run was made"), "{text}");
    let jump =
        |hours| crate::state::Fact { value: "a year ahead".into(), at: now() - TimeDelta::hours(hours) };
    state.agent.clock_jump = Some(jump(3));
    assert_eq!(says(&state, "clock").0, Warning);
    state.agent.clock_jump = Some(jump(25));
    assert!(is_silent(&state, "clock"));
}
