//! The table of what is told when.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{at, now};
use crate::event::Step;
use crate::model::Outcome;
use crate::notify::message::Kind;
use crate::notify::transitions::{
    Due, Fate, PastRun, Policy, RunEnd, SuccessMode, Told, after_run, digest_due, reminder,
};

const DAY: Duration = Duration::from_secs(86_400);

fn policy(success: SuccessMode) -> Policy {
    Policy {
        on: [Kind::Failure, Kind::Partial, Kind::Degraded, Kind::Interrupted, Kind::Recovery].into(),
        success,
        remind: DAY,
    }
}

/// `good`, `degraded:nas,cloud`, `open` (good, copies pending), or an outcome with a step: `failure@capture`.
fn end(text: &str) -> RunEnd {
    let (what, detail) = text.split_once(['@', ':']).unwrap_or((text, ""));
    let mut end =
        RunEnd { outcome: Outcome::Success, step: None, component: None, degraded: Vec::new(), open: false };
    match what {
        "good" => {}
        "open" => end.open = true,
        "degraded" => {
            end.degraded = detail.split(',').map(|d| format!("copy {d}: gone at {text:p}")).collect()
        }
        outcome => {
            end.outcome = outcome.parse().unwrap();
            end.step = match detail.split('/').next().unwrap_or_default() {
                "" => None,
                "capture" => Some(Step::Capture),
                "publish" => Some(Step::Publish),
                other => panic!("{other}"),
            };
            if let Some((_, component)) = text.split_once('/') {
                end.component = Some(component.parse().unwrap());
            }
        }
    }
    end
}

/// A run of the past: how it ended, and the messages about it as `kind age-in-hours fate`, fate being `+`
/// delivered, `?` pending, `x` lost.
fn past(text: &str, told: &[&str]) -> PastRun {
    let end = end(text);
    let told = told
        .iter()
        .map(|t| {
            let words: Vec<&str> = t.split(' ').collect();
            let at = now() - TimeDelta::hours(words[1].parse().unwrap());
            let fate = match words[2] {
                "+" => Fate::Delivered(at),
                "?" => Fate::Pending,
                "x" => Fate::Lost,
                other => panic!("{other}"),
            };
            Told { kind: words[0].parse().unwrap(), at, fate, about: end.troubles() }
        })
        .collect();
    PastRun { outcome: end.outcome, degraded: !end.degraded.is_empty(), told }
}

/// Kinds, with `!` for one that supersedes what is queued and `~` for one whose trouble nobody heard of.
fn show(due: &[Due]) -> String {
    due.iter()
        .map(|d| {
            format!("{}{}{}", d.kind, if d.supersede { "!" } else { "" }, if d.was_told { "" } else { "~" })
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn what_is_told_after_a_run() {
    let failed = |told: &[&str]| past("failure@capture", told);
    let degraded = |told: &[&str]| past("degraded:nas", told);
    let good = || past("good", &[]);
    #[rustfmt::skip]
    let table: Vec<(&str, Vec<PastRun>, &str, &str)> = vec![
        // what, history (newest first), the run, what is due
        ("first run good",                    vec![], "good", ""),
        ("first run bad",                     vec![], "failure@capture", "failure"),
        ("first bad run after good ones",     vec![good()], "partial", "partial"),
        ("same failure again",                vec![failed(&["failure 8 +"]), good()], "failure@capture", ""),
        ("same failure after a day",          vec![failed(&[]), failed(&[]), failed(&["failure 24 +"]), good()], "failure@capture", "reminder"),
        ("reminded lately",                   vec![failed(&["reminder 8 +"]), failed(&["failure 32 +"]), good()], "failure@capture", ""),
        ("another step",                      vec![failed(&["failure 8 +"]), good()], "failure@publish", "failure"),
        ("another component",                 vec![past("failure@capture/a", &["failure 8 +"])], "failure@capture/b", "failure"),
        ("another outcome",                   vec![failed(&["failure 8 +"]), good()], "interrupted", "interrupted"),
        ("back to a step told before",        vec![past("failure@publish", &["failure 8 +"]), failed(&["failure 16 +"]), good()], "failure@capture", ""),
        ("queued counts as told",             vec![failed(&["failure 8 ?"]), good()], "failure@capture", ""),
        ("no reminder while one is queued",   vec![failed(&["failure 48 ?"]), good()], "failure@capture", ""),
        ("lost does not count as told",       vec![failed(&["failure 8 x"]), good()], "failure@capture", "failure"),
        ("a failure before the last success", vec![good(), failed(&["failure 8 +"])], "failure@capture", "failure"),
        ("recovery",                          vec![failed(&[]), failed(&["failure 16 +"]), good()], "good", "recovery"),
        ("recovery with warnings",            vec![failed(&["failure 16 +"]), good()], "warning", "recovery"),
        ("recovery only once",                vec![good(), failed(&["failure 16 +"])], "good", ""),
        ("recovery while it was never sent",  vec![failed(&["failure 8 ?"]), good()], "good", "recovery!~"),
        ("recovery with a queued reminder",   vec![failed(&["reminder 1 ?"]), failed(&["failure 25 +"]), good()], "good", "recovery!"),
        ("recovery of what nobody heard of",  vec![failed(&["failure 80 x"]), good()], "good", ""),
        ("partial is no recovery",            vec![failed(&["failure 8 +"]), good()], "partial", "partial"),
        ("degraded",                          vec![good()], "degraded:nas", "degraded"),
        ("degraded again",                    vec![degraded(&["degraded 8 +"]), good()], "degraded:nas", ""),
        ("degraded in one more way",          vec![degraded(&["degraded 8 +"]), good()], "degraded:nas,cloud", "degraded"),
        ("degraded in fewer ways",            vec![past("degraded:nas,cloud", &["degraded 8 +"]), good()], "degraded:nas", ""),
        ("degraded for a day",                vec![degraded(&[]), degraded(&["degraded 24 +"]), good()], "degraded:nas", "reminder"),
        ("degraded no more",                  vec![degraded(&["degraded 8 +"]), good()], "good", "recovery"),
        ("degraded perhaps no more",          vec![degraded(&["degraded 8 +"]), good()], "open", ""),
        ("failure over, copies pending",      vec![failed(&["failure 8 +"]), good()], "open", "recovery"),
        ("degraded, then a failure",          vec![degraded(&["degraded 8 +"]), good()], "failure@capture", "failure"),
        ("failure, then degraded",            vec![failed(&["failure 8 +"]), good()], "degraded:nas", "recovery degraded"),
        ("degraded as before the failure",    vec![failed(&["failure 8 +"]), degraded(&["degraded 16 +"]), good()], "degraded:nas", "recovery"),
        ("both over",                         vec![failed(&["failure 8 +"]), degraded(&["degraded 16 +"]), good()], "good", "recovery"),
        ("clock set back",                    vec![failed(&["failure -48 +"]), good()], "failure@capture", "reminder"),
        ("clock set back, told since",      vec![failed(&["failure -48 +", "reminder 8 +"]), good()], "failure@capture", ""),
    ];
    for (what, history, run, expected) in table {
        let due = after_run(&policy(SuccessMode::Never), &history, &end(run), now());
        assert_eq!(show(&due), expected, "{what}");
        // Success messages never stand beside others, and never hide them.
        let always = after_run(&policy(SuccessMode::Always), &history, &end(run), now());
        let with_success = match expected {
            "" if end(run).outcome.is_good() => "success",
            other => other,
        };
        assert_eq!(show(&always), with_success, "{what}, each success told");
    }
}

#[test]
fn a_channel_is_told_only_what_it_asked_for() {
    let only = |kinds: &[Kind]| Policy {
        on: kinds.iter().copied().collect(),
        success: SuccessMode::Never,
        remind: DAY,
    };
    let told = [past("failure@capture", &["failure 48 +"])];
    let due = |policy: &Policy, history: &[PastRun], run| show(&after_run(policy, history, &end(run), now()));
    assert_eq!(due(&only(&[Kind::Failure]), &told, "good"), "");
    assert_eq!(due(&only(&[Kind::Failure]), &[], "partial"), "");
    assert_eq!(due(&only(&[Kind::Recovery]), &[], "failure@capture"), "");
    assert_eq!(due(&only(&[Kind::Recovery]), &[past("failure@capture", &[])], "good"), "");
    assert_eq!(due(&only(&[Kind::Partial]), &told, "failure@capture"), "");
    assert!(!reminder(&only(&[Kind::Partial]), &told, now()));
}

#[test]
fn reminders_come_without_a_new_run() {
    let policy = policy(SuccessMode::Never);
    let failed = |told: &[&str]| vec![past("failure@capture", told), past("good", &[])];
    assert!(!reminder(&policy, &[], now()));
    assert!(!reminder(&policy, &[past("good", &[])], now()));
    assert!(!reminder(&policy, &failed(&["failure 23 +"]), now()));
    assert!(reminder(&policy, &failed(&["failure 24 +"]), now()));
    assert!(!reminder(&policy, &failed(&["failure 24 ?"]), now()));
    assert!(
        reminder(&policy, &failed(&["failure -9000 +"]), now()),
        "told, a year from now by the clock of then"
    );
    assert!(!reminder(&policy, &failed(&["failure -9000 +", "reminder 5 +"]), now()));
    assert!(reminder(&policy, &failed(&["failure 80 x"]), now()), "a lost message is told again");
    assert!(!reminder(&policy, &failed(&["failure 80 x", "reminder 5 x"]), now()));
    assert!(!reminder(&policy, &failed(&["failure 48 +", "reminder 5 ?"]), now()));
    assert!(reminder(&policy, &[past("degraded:nas", &["degraded 25 +"])], now()));
    let never = Policy { remind: Duration::ZERO, ..policy };
    assert!(!reminder(&never, &failed(&["failure 999 +"]), now()));
}

#[test]
fn a_late_delivery_moves_the_reminder() {
    let delivered = |hours| {
        let mut run = past("failure@capture", &["failure 50 +"]);
        run.told[0].fate = Fate::Delivered(now() - TimeDelta::hours(hours));
        [run]
    };
    assert!(!reminder(&policy(SuccessMode::Never), &delivered(2), now()));
    assert!(reminder(&policy(SuccessMode::Never), &delivered(24), now()));
}

#[test]
fn a_digest_is_due_once_a_day_after_eight_in_the_morning() {
    let zone = chrono_tz::Europe::Berlin;
    let daily = policy(SuccessMode::Daily);
    let installed = at("2026-11-20T10:00:00Z");
    let due = |last: Option<&str>, now: &str| -> Option<DateTime<Utc>> {
        digest_due(&daily, last.map(at), installed, at(now), zone).map(|(from, _)| from)
    };
    // 08:00 in Berlin is 07:00 UTC in winter.
    assert_eq!(due(Some("2026-11-23T07:00:30Z"), "2026-11-24T06:59:59Z"), None);
    assert_eq!(due(Some("2026-11-23T07:00:30Z"), "2026-11-24T07:00:00Z"), Some(at("2026-11-23T07:00:30Z")));
    assert_eq!(due(Some("2026-11-24T07:00:30Z"), "2026-11-24T22:59:59Z"), None);
    assert_eq!(due(Some("2026-11-24T07:00:30Z"), "2026-11-25T03:00:00Z"), None);
    // The host slept until noon: late, and the next one at its usual time.
    assert_eq!(due(Some("2026-11-22T07:00:30Z"), "2026-11-24T11:00:00Z"), Some(at("2026-11-22T07:00:30Z")));
    assert!(due(Some("2026-11-24T11:00:00Z"), "2026-11-25T07:00:00Z").is_some());
    // Newly installed: not at once.
    assert_eq!(due(None, "2026-11-20T10:05:00Z"), None);
    assert_eq!(due(None, "2026-11-21T07:00:00Z"), Some(installed));
    // Summer time begins (a day of 23 hours) and ends (25): one digest each.
    assert!(due(Some("2026-03-28T07:00:00Z"), "2026-03-29T06:00:00Z").is_some());
    assert_eq!(due(Some("2026-10-24T06:00:00Z"), "2026-10-25T06:30:00Z"), None);
    assert!(due(Some("2026-10-24T06:00:00Z"), "2026-10-25T07:00:00Z").is_some());
    // A clock that went back.
    assert_eq!(due(Some("2027-11-24T07:00:30Z"), "2026-11-24T07:00:00Z"), Some(at("2026-11-23T07:00:00Z")));
    assert_eq!(digest_due(&policy(SuccessMode::Never), None, installed, now(), zone), None);
}
