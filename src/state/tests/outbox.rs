use std::time::Duration as Std;

use super::*;
use crate::model::ChannelName;

const LEASE: Std = Std::from_secs(300);

fn admin() -> ChannelName {
    "admin".parse().unwrap()
}

/// Ends a run and returns the ids of the rows its messages got.
fn fail_with(f: &Fixture, m: i64, messages: &[NewMessage]) -> Vec<i64> {
    let id = f.begin(m);
    f.state.end_run(&EndedRun::new(id, Outcome::Failure, at(m + 1)), &[], messages).unwrap();
    f.state.pending_messages().unwrap().iter().map(|m| m.id).collect()
}

#[test]
fn a_message_is_one_row_a_recipient_and_queued_once() {
    let f = Fixture::new();
    let both = [mail(MessageKind::Failure, "<1@h>", "a@x"), mail(MessageKind::Failure, "<1@h>", "b@x")];
    f.state.enqueue(&both, at(0)).unwrap();
    f.state.enqueue(&both, at(1)).unwrap();
    let queued = f.state.pending_messages().unwrap();
    assert_eq!(queued.iter().map(|m| m.recipient.as_str()).collect::<Vec<_>>(), ["a@x", "b@x"]);
    assert_eq!(queued[0].created_at, at(0));
}

#[test]
fn a_claimed_message_comes_again_only_when_its_sender_died() {
    let f = Fixture::new();
    f.state.enqueue(&[mail(MessageKind::Failure, "<1@h>", "a@x")], at(0)).unwrap();
    let claim = |m| f.state.claim_messages(at(m), LEASE, 10).unwrap();
    assert!(f.state.claim_messages(at(-1), LEASE, 10).unwrap().is_empty(), "not before it is due");
    let first = claim(0);
    assert_eq!((first.len(), first[0].attempts), (1, 1));
    assert!(claim(4).is_empty());
    let second = claim(5);
    assert_eq!((second[0].message_id.as_str(), second[0].attempts), ("<1@h>", 2));
    f.state.message_delivered(second[0].id, at(6), "250 ok").unwrap();
    f.state.message_delivered(second[0].id, at(7), "250 ok").unwrap();
    assert!(claim(100).is_empty());
    assert_eq!(f.count(names::NOTIFICATIONS, "admin"), 1);
}

#[test]
fn a_message_that_waits_by_a_clock_that_was_ahead_is_due() {
    let f = Fixture::new();
    let both = [mail(MessageKind::Failure, "<1@h>", "a@x"), mail(MessageKind::Failure, "<1@h>", "b@x")];
    let ahead = at(0) + Duration::days(365);
    f.state.enqueue(&both, at(0)).unwrap();
    let claimed = f.state.claim_messages(ahead, LEASE, 10).unwrap();
    let again = NextTry::At(ahead + Duration::seconds(30));
    f.state.message_failed(claimed[0].id, ahead, "no route", again).unwrap();
    // The other one was being sent when the machine went down.
    let claimed = f.state.claim_messages(at(1), LEASE, 10).unwrap();
    assert_eq!(claimed.len(), 2);
    // What a server asks for is waited for, and what is sent is left alone.
    f.state.message_failed(claimed[0].id, at(1), "busy", NextTry::At(at(1) + Duration::hours(24))).unwrap();
    assert!(f.state.claim_messages(at(2), LEASE, 10).unwrap().is_empty());
    // No lease is so long that it would not be believed.
    let claimed = f.state.claim_messages(at(6), Std::from_secs(1 << 40), 10).unwrap();
    assert_eq!(claimed.len(), 1);
    assert!(f.state.claim_messages(at(7), LEASE, 10).unwrap().is_empty());
}

#[test]
fn a_refused_message_waits_or_is_given_up() {
    let f = Fixture::new();
    let both = [mail(MessageKind::Failure, "<1@h>", "a@x"), mail(MessageKind::Failure, "<1@h>", "b@x")];
    f.state.enqueue(&both, at(0)).unwrap();
    let claimed = f.state.claim_messages(at(0), LEASE, 10).unwrap();
    f.state.message_failed(claimed[0].id, at(1), "451 try later", NextTry::At(at(20))).unwrap();
    f.state.message_failed(claimed[1].id, at(1), "550 no such user", NextTry::Never).unwrap();
    assert!(f.state.claim_messages(at(19), LEASE, 10).unwrap().is_empty());
    assert_eq!(f.state.claim_messages(at(20), LEASE, 10).unwrap().len(), 1);
    let channel = &f.state.snapshot(at(21)).unwrap().channels[&admin()];
    assert_eq!((channel.delivered, channel.failures, channel.pending, channel.given_up), (0, 2, 1, 1));
    assert_eq!(channel.oldest_pending, Some(at(0)));
    assert_eq!(channel.last_error.as_deref(), Some("451 try later"));
}

#[test]
fn an_accepted_failure_mail_says_that_somebody_was_told() {
    let f = Fixture::new();
    let ids =
        fail_with(&f, 0, &[mail(MessageKind::Ping, "p", "hc"), mail(MessageKind::Failure, "<1@h>", "a@x")]);
    let since = f.job().failing_since.unwrap();
    f.state.message_delivered(ids[0], at(2), "200").unwrap();
    assert!(!f.state.was_failure_told(&job(), since).unwrap(), "nobody reads a ping");
    f.state.message_delivered(ids[1], at(3), "250 ok").unwrap();
    assert!(f.state.was_failure_told(&job(), since).unwrap());
    assert_eq!(f.state.last_failure_mail(&job()).unwrap(), Some(at(3)));
}

#[test]
fn a_late_mail_about_an_earlier_failure_does_not_count_for_the_present_one() {
    let f = Fixture::new();
    let ids = fail_with(&f, 0, &[mail(MessageKind::Failure, "<1@h>", "a@x")]);
    f.run(10, Outcome::Success);
    let ids_now = fail_with(&f, 20, &[mail(MessageKind::Failure, "<2@h>", "a@x")]);
    let since = f.job().failing_since.unwrap();
    f.state.message_delivered(ids[0], at(30), "250 ok").unwrap();
    assert!(!f.state.was_failure_told(&job(), since).unwrap());
    f.state.message_delivered(ids_now[1], at(31), "250 ok").unwrap();
    assert!(f.state.was_failure_told(&job(), since).unwrap());
}

#[test]
fn a_failure_overtaken_by_recovery_becomes_one_message() {
    let f = Fixture::new();
    fail_with(
        &f,
        0,
        &[mail(MessageKind::Failure, "<1@h>", "a@x"), mail(MessageKind::Degraded, "<d@h>", "a@x")],
    );
    let late = f.state.undelivered_failures(&job()).unwrap();
    assert_eq!(late.len(), 1);
    let mut ended = EndedRun::new(f.begin(10), Outcome::Success, at(11));
    ended.supersedes = late.iter().map(|m| m.id).collect();
    f.state.end_run(&ended, &[], &[mail(MessageKind::Recovery, "<2@h>", "a@x")]).unwrap();
    let left: Vec<_> = f.state.pending_messages().unwrap().into_iter().map(|m| m.kind).collect();
    assert_eq!(left, [MessageKind::Degraded, MessageKind::Recovery]);

    // A sender that had claimed it and got it accepted after all has the last word.
    f.state.message_failed(late[0].id, at(12), "cut", NextTry::At(at(13))).unwrap();
    assert_eq!(f.state.pending_messages().unwrap().len(), 2);
    f.state.message_delivered(late[0].id, at(12), "250 ok").unwrap();
    let all = f.state.messages(10).unwrap();
    assert_eq!(all.iter().find(|m| m.id == late[0].id).unwrap().status, MessageStatus::Delivered);
    let replaced =
        f.state.supersede(&[late[0].id], &[mail(MessageKind::Agent, "<3@h>", "a@x")], at(14)).unwrap();
    assert_eq!((replaced, f.state.pending_messages().unwrap().len()), (0, 3));
}

#[test]
fn the_last_message_of_a_kind_is_found_by_channel_and_job() {
    let f = Fixture::new();
    let mut digest = mail(MessageKind::Digest, "<d@h>", "a@x");
    digest.job = None;
    f.state.enqueue(&[mail(MessageKind::Failure, "<1@h>", "a@x"), digest], at(0)).unwrap();
    f.state.enqueue(&[mail(MessageKind::Reminder, "<2@h>", "a@x")], at(9)).unwrap();
    let last = |job: Option<&JobName>, kinds: &[MessageKind]| {
        f.state.last_message(&admin(), job, kinds).unwrap().map(|m| m.message_id)
    };
    let kinds = [MessageKind::Failure, MessageKind::Reminder];
    assert_eq!(last(Some(&job()), &kinds).as_deref(), Some("<2@h>"));
    assert_eq!(last(Some(&job()), &kinds[..1]).as_deref(), Some("<1@h>"));
    assert_eq!(last(None, &[MessageKind::Digest]).as_deref(), Some("<d@h>"));
    assert_eq!(last(None, &kinds), None);
    assert_eq!(last(Some(&job()), &[]), None);
}

#[test]
fn closed_messages_are_kept_for_thirty_days_and_pending_ones_for_ever() {
    let f = Fixture::new();
    f.state
        .enqueue(&[mail(MessageKind::Test, "1", "a@x"), mail(MessageKind::Test, "2", "a@x")], at(0))
        .unwrap();
    let ids: Vec<i64> = f.state.pending_messages().unwrap().iter().map(|m| m.id).collect();
    f.state.message_delivered(ids[0], at(1), "250").unwrap();
    assert_eq!(f.state.expire_messages(at(0) + Duration::days(30)).unwrap(), 0);
    assert_eq!(f.state.expire_messages(at(2) + Duration::days(30)).unwrap(), 1);
    assert_eq!(f.state.messages(10).unwrap().len(), 1);
}
