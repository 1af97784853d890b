//! Tests of what is pure: texts, messages, decisions.

mod plan;
mod transitions;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Europe::Berlin;

use super::facts::{ComponentFacts, CopyFacts, GoodBackup, LastGood, RunFacts, Streak, TestFacts};
use super::message::{self, Content, Kind, Labels, Rendered, render};
use super::{hints, html, text};
use crate::event::Step;
use crate::manifest::{FileWarning, PathText};
use crate::model::{ChannelName, JobName, Outcome, TargetName, WarningCounts, WarningKind};

pub(super) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub(super) fn now() -> DateTime<Utc> {
    at("2026-11-24T18:00:12Z")
}

/// A failed run as it comes from a real server.
pub(super) fn failed_run() -> RunFacts {
    RunFacts {
        job: JobName::new("askproai").unwrap(),
        host: "web1".to_owned(),
        run_id: "20261124T180000Z-k3f9qa".parse().unwrap(),
        outcome: Outcome::Failure,
        degraded: Vec::new(),
        failed_step: Some(Step::Capture),
        failed_component: Some("database".parse().unwrap()),
        error: Some(
            "mariadb-dump ended with status 2\nAccess denied for user 'backup'@'localhost' (using password: YES)"
                .to_owned(),
        ),
        started: at("2026-11-24T18:00:00Z"),
        ended: now(),
        timezone: Berlin,
        components: Vec::new(),
        warning_counts: WarningCounts::default(),
        first_warnings: Vec::new(),
        log_tail: vec![
            "19:00:00 INFO  run 20261124T180000Z-k3f9qa of askproai begins".to_owned(),
            "19:00:01 INFO  database: mariadb-dump --single-transaction askproai_db".to_owned(),
            "19:00:12 ERROR database: mariadb-dump ended with status 2".to_owned(),
        ],
        newest_verified: LastGood::Backup(GoodBackup {
            run_id: "20261124T100000Z-abcdef".parse().unwrap(),
            taken: at("2026-11-24T10:00:00Z"),
            target: TargetName::new("local").unwrap(),
            location: Some("/var/backups/askproai/daily/2026/11/24/1100".to_owned()),
        }),
        next_run: Some(at("2026-11-25T02:00:00Z")),
        copies: Vec::new(),
        command: "agent".to_owned(),
    }
}

pub(super) fn good_run() -> RunFacts {
    let mut facts = failed_run();
    facts.outcome = Outcome::Success;
    facts.failed_step = None;
    facts.failed_component = None;
    facts.error = None;
    facts.components = vec![ComponentFacts {
        name: "application".parse().unwrap(),
        source_bytes: 640 << 20,
        stored_bytes: 512 << 20,
        entries: 41_203,
        warning_counts: WarningCounts::default(),
    }];
    facts
}

fn streak() -> Streak {
    Streak {
        since: at("2026-11-23T18:00:10Z"),
        runs: 3,
        outcome: Outcome::Failure,
        step: Some(Step::Capture),
        component: Some("database".parse().unwrap()),
        error: Some("mariadb-dump ended with status 2".to_owned()),
        told: true,
    }
}

fn rendered(kind: Kind, facts: &RunFacts) -> Rendered {
    render(Content::Run(kind, facts, None), &Labels::default(), now())
}

#[test]
fn a_failure_says_what_failed_what_is_left_and_what_to_do() {
    let message = rendered(Kind::Failure, &failed_run());
    assert_eq!(
        message.subject,
        "[backup-failure] askproai on web1: database failed in capture: mariadb-dump ended with status 2: \
         Access denied for user 'backup'@'localhost' (using p…"
    );
    insta::assert_snapshot!("failure_mail", message.text);
}

#[test]
fn labels_can_be_replaced_and_stay_one_short_line() {
    let labels = Labels::new([("failure", "BACKUP\r\nX-Evil: [1]"), ("recovery", "")]).unwrap();
    let message = render(Content::Run(Kind::Failure, &failed_run(), None), &labels, now());
    assert!(message.subject.starts_with("[BACKUP X-Evil: 1] askproai"), "{}", message.subject);
    assert_eq!(labels.get(Kind::Recovery), "backup-recovery");
    assert!(Labels::new([("disaster", "x")]).is_err());
}

/// Texts a hostile file name, program or log could bring in.
const HOSTILE: &[&str] = &[
    "x\r\nBcc: victim@example.org\r\n\r\nbody",
    "x\nSubject: other",
    "x\rX: y",
    "\u{2028}next\u{2029}line\u{85}",
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "gpj.\u{202e}exe",
    "<script>alert(1)</script><!--notice--></pre><img src=x onerror=y>",
    "\0nul",
    "=?utf-8?q?=0d=0aBcc:_x?=",
];

#[test]
fn hostile_texts_reach_neither_headers_nor_html() {
    for hostile in HOSTILE {
        let long = hostile.repeat(50);
        for hostile in [*hostile, &long] {
            let mut facts = failed_run();
            facts.host = hostile.to_owned();
            facts.command = hostile.to_owned();
            facts.error = Some(hostile.to_owned());
            facts.degraded = vec![hostile.to_owned()];
            facts.log_tail = vec![hostile.to_owned()];
            facts.warning_counts.unreadable = 1;
            facts.first_warnings = vec![FileWarning {
                kind: WarningKind::Unreadable,
                path: PathText(hostile.as_bytes().to_vec()),
                detail: hostile.to_owned(),
            }];
            facts.copies = vec![CopyFacts {
                target: TargetName::new("nas").unwrap(),
                state: hostile.to_owned(),
                detail: Some(hostile.to_owned()),
            }];
            let mut streak = streak();
            streak.error = Some(hostile.to_owned());
            for kind in
                [Kind::Failure, Kind::Partial, Kind::Degraded, Kind::Recovery, Kind::Reminder, Kind::Success]
            {
                let message = render(Content::Run(kind, &facts, Some(&streak)), &Labels::default(), now());
                assert!(message.subject.chars().count() <= message::SUBJECT_LIMIT);
                for value in message.headers.iter().map(|(_, v)| v).chain([&message.subject]) {
                    assert!(!value.chars().any(char::is_control), "{value:?}");
                }
                for body in [&message.text, &message.html] {
                    assert!(!body.chars().any(|c| c.is_control() && c != '\n'), "{body:?}");
                    assert!(!body.contains(['\u{202e}', '\u{2028}']), "{body:?}");
                }
                assert!(
                    !message.html.contains("<script") && !message.html.contains("<img"),
                    "{}",
                    message.html
                );
                assert_eq!(message.html.matches(html::NOTICE_SLOT).count(), 1);
                let id = message::message_id(&message, "admin", hostile, hostile);
                assert!(id.starts_with('<') && id.ends_with('>') && id.len() < 300, "{id}");
                assert!(!id.contains(char::is_whitespace) && id.matches('@').count() == 1, "{id}");
            }
        }
    }
}

#[test]
fn a_message_stays_small_whatever_it_is_about() {
    let mut facts = failed_run();
    facts.error = Some("long line ".repeat(100_000));
    facts.log_tail = vec!["log ".repeat(10_000); 10_000];
    facts.degraded = vec!["copy nas: gone ".repeat(1000); 1000];
    facts.first_warnings = vec![
        FileWarning {
            kind: WarningKind::Changed,
            path: PathText(vec![b'a'; 4000]),
            detail: "x".repeat(4000)
        };
        1000
    ];
    facts.warning_counts.changed = 1_000_000;
    let message = rendered(Kind::Failure, &facts);
    assert!(message.text.len() < 40_000, "{}", message.text.len());
    assert!(message.html.len() < 60_000, "{}", message.html.len());
}

#[test]
fn a_failure_without_any_good_backup_says_so_first_thing() {
    let mut facts = failed_run();
    facts.newest_verified = LastGood::Nothing;
    let text = rendered(Kind::Failure, &facts).text;
    assert!(text.contains("NOTHING: there is no verified backup of this job."), "{text}");
}

#[test]
fn an_incomplete_backup_lists_unreadable_files_before_others() {
    let mut facts = good_run();
    facts.outcome = Outcome::Partial;
    let warning = |kind, path: &str, detail: &str| FileWarning {
        kind,
        path: PathText(path.as_bytes().to_vec()),
        detail: detail.to_owned(),
    };
    facts.first_warnings =
        (0..30).map(|i| warning(WarningKind::Changed, &format!("log/{i}"), "grew")).collect();
    facts.first_warnings.push(warning(
        WarningKind::Unreadable,
        "storage/keys/oauth.key",
        "Permission denied",
    ));
    facts.warning_counts = WarningCounts { changed: 30, unreadable: 1, ..Default::default() };
    let message = rendered(Kind::Partial, &facts);
    assert_eq!(
        message.subject,
        "[backup-partial] askproai on web1: backup is incomplete, 1 file was unreadable"
    );
    let first = message.text.lines().find(|l| l.starts_with("  - ") && l.contains('(')).unwrap();
    assert_eq!(first, "  - unreadable storage/keys/oauth.key (Permission denied)");
    assert!(message.text.contains("and 21 more"), "{}", message.text);
}

#[test]
fn a_recovery_tells_both_ends_and_whether_the_failure_was_told() {
    let mut streak = streak();
    let message = render(Content::Run(Kind::Recovery, &good_run(), Some(&streak)), &Labels::default(), now());
    assert_eq!(
        message.subject,
        "[backup-recovery] askproai on web1: good again, after 3 bad runs (since Mon 23 Nov 2026, 19:00 CET)"
    );
    let flat = message.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.contains(
            "The backup of askproai on web1 failed on Mon 23 Nov 2026, 19:00 CET, and is good again since Tue 24 \
             Nov 2026, 19:00 CET, after 3 bad runs."
        ),
        "{flat}"
    );
    assert!(!flat.contains("You were not told"));
    streak.told = false;
    let message = render(Content::Run(Kind::Recovery, &good_run(), Some(&streak)), &Labels::default(), now());
    assert!(message.text.contains("You were not told"), "{}", message.text);
}

#[test]
fn all_messages_about_one_trouble_form_a_conversation() {
    let streak = streak();
    let root = |kind, facts: &RunFacts| {
        let message = render(Content::Run(kind, facts, Some(&streak)), &Labels::default(), now());
        message.headers.into_iter().find(|(n, _)| n == "References").unwrap().1
    };
    assert_eq!(root(Kind::Failure, &failed_run()), "<askproai.trouble.1795456810@web1>");
    assert_eq!(root(Kind::Recovery, &good_run()), root(Kind::Failure, &failed_run()));
}

#[test]
fn the_message_id_is_the_same_for_the_same_message_and_another_for_another_receiver() {
    let message = rendered(Kind::Failure, &failed_run());
    let id = |to| message::message_id(&message, "admin", to, "Backups <backup@example.org>");
    assert_eq!(id("a@example.org"), id("a@example.org"));
    assert_ne!(id("a@example.org"), id("b@example.org"));
    assert!(id("a@example.org").starts_with("<20261124T180000Z-k3f9qa.failure."), "{}", id("a@example.org"));
    assert!(id("a@example.org").ends_with("@example.org>"), "{}", id("a@example.org"));
}

#[test]
fn a_late_message_says_so_in_both_bodies() {
    let message = rendered(Kind::Failure, &failed_run());
    let late = now() + TimeDelta::hours(3);
    assert_eq!(message::late_notice(now(), now() + TimeDelta::minutes(14), None), None);
    assert_eq!(message::late_notice(now(), now() - TimeDelta::hours(14), None), None);
    let notice = message::late_notice(now(), late, Some("the mail server refused\r\nit")).unwrap();
    assert!(notice.contains("3 h late") && notice.contains("refused it"), "{notice}");
    let (plain, html_body) = message::with_notice(&message.text, &message.html, &notice);
    assert!(plain.starts_with("NOTE: This message is 3 h late"));
    assert!(html_body.contains("This message is 3 h late"));
}

#[test]
fn spans_and_lines_are_for_people() {
    let span = |s| text::span(Duration::from_secs(s));
    assert_eq!(span(12), "12 s");
    assert_eq!(span(300), "5 min");
    assert_eq!(span(3 * 3600 + 300), "3 h 5 min");
    assert_eq!(span(3 * 3600), "3 h");
    assert_eq!(span(8 * 3600 - 12), "8 h");
    assert_eq!(span(47 * 3600 + 300), "47 h");
    assert_eq!(span(3 * 86_400), "3 days");
    assert_eq!(text::line("  a \n\t b  ", 10), "a b");
    assert_eq!(text::line("abcdef", 4), "abc…");
    assert_eq!(text::line("abc\u{202e}", 6), "abc…");
    assert_eq!(text::line("ab\u{7f}c", 99), "ab\\u{7f}c");
    assert_eq!(text::verbatim("\ta  b\u{1b}"), "    a  b\\u{1b}");
}

#[test]
fn advice_is_given_once_for_each_cause() {
    assert!(hints::find(&["write: No space left on device (os error 28)"])[0].contains("df -h"));
    assert_eq!(hints::find(&["No space left on device", "no space left"]).len(), 1);
    assert!(hints::find(&["all is well"]).is_empty());
}

#[test]
fn a_test_message_says_that_nothing_is_wrong() {
    let facts = TestFacts {
        host: "web1".to_owned(),
        timezone: Berlin,
        at: now(),
        channel: ChannelName::new("admin").unwrap(),
        tells: "failure, recovery".to_owned(),
    };
    let message = render(Content::Test(&facts), &Labels::default(), now());
    assert_eq!(message.subject, "[backup-test] web1: a test, nothing is wrong");
    assert!(message.text.contains("admin"));
}
