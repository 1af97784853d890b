//! Messages that are not accepted at once, and processes that die in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backup_agent::clock::Clock;
use backup_agent::model::ChannelName;
use backup_agent::notify::Channel;
use backup_agent::notify::message::Labels;
use backup_agent::notify::outbox::Delivery;
use backup_agent::state::MessageStatus;
use chrono::TimeDelta;

use crate::office::{Office, channel, now, policy, settings};
use crate::smtp::{Manners, SmtpServer};

#[tokio::test]
async fn a_refusal_for_now_is_tried_again_and_the_late_mail_says_so() {
    let server = SmtpServer::plain();
    server.next(Manners::Refuse("RCPT", 451, "4.7.1 greylisted, try again later"));
    let office = Office::new(&settings(&server, &["admin@example.org"]));
    let done = office.deliver().await;
    assert_eq!((done.sent, done.failed, done.pending), (0, 1, 1));
    assert!(
        office.last_error().contains("does not take the message for admin@example.org now (451"),
        "{}",
        office.last_error()
    );
    // Not before its time.
    assert_eq!(office.deliver().await, Delivery { pending: 1, ..Default::default() });
    office.clock.advance(TimeDelta::hours(3));
    assert_eq!(office.deliver().await.sent, 1);
    let mail = server.mails().pop().unwrap();
    let parsed = mail.parsed();
    for body in ["text", "html"] {
        let body = parsed[body].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(body.contains("This message is 3 h late"), "{body}");
        assert!(body.contains("greylisted"), "{body}");
    }
    assert_eq!(mail.header("Date"), "Tue, 24 Nov 2026 18:00:12 +0000", "the date of the event");
    let counters = office.state.counters().unwrap();
    let count = |name: &str| counters.iter().find(|c| c.name == name).map_or(0, |c| c.value);
    assert_eq!(count("backup_notifications_total"), 1, "{counters:?}");
    assert_eq!(count("backup_notification_failures_total"), 1, "{counters:?}");
}

#[tokio::test]
async fn a_refusal_for_good_is_not_repeated_and_stays_visible() {
    let server = SmtpServer::plain();
    server.next(Manners::Refuse("RCPT", 550, "5.1.1 no such user"));
    let office = Office::new(&settings(&server, &["gone@example.org", "admin@example.org"]));
    let done = office.deliver().await;
    assert_eq!((done.sent, done.given_up, done.pending), (1, 1, 0));
    assert_eq!(office.statuses(), [MessageStatus::Refused, MessageStatus::Delivered]);
    assert!(
        done.problems[0].contains("gone@example.org") && done.problems[0].contains("550"),
        "{:?}",
        done.problems
    );
    office.clock.advance(TimeDelta::days(1));
    assert_eq!(office.deliver().await, Delivery::default());
}

#[tokio::test]
async fn a_silent_server_costs_one_timeout_not_one_a_message() {
    for manners in [Manners::Stall, Manners::StallAfterData] {
        let server = SmtpServer::plain();
        server.next(manners);
        let mut settings = settings(&server, &["a@example.org", "b@example.org", "c@example.org"]);
        let patient = channel(&settings);
        settings.timeout = Duration::from_secs(3);
        let mut office = Office::new(&settings);
        let begin = Instant::now();
        let done = office.deliver().await;
        assert!(begin.elapsed() < 3 * settings.timeout, "{:?}", begin.elapsed());
        assert_eq!((done.sent, done.failed, done.pending), (0, 3, 3));
        assert_eq!(server.connections(), 1);
        assert!(done.problems[0].contains("did not finish taking the message"), "{:?}", done.problems);
        office.clock.advance(TimeDelta::minutes(2));
        office.channels = vec![patient];
        assert_eq!(office.deliver().await.sent, 3);
    }
}

#[tokio::test]
async fn a_message_that_may_have_arrived_comes_again_under_the_same_id() {
    let server = SmtpServer::plain();
    server.next(Manners::DropAfterData);
    let office = Office::new(&settings(&server, &["admin@example.org"]));
    assert_eq!(office.deliver().await.failed, 1);
    office.clock.advance(TimeDelta::minutes(1));
    assert_eq!(office.deliver().await.sent, 1);
    // A process that died after the server accepted and before it could write that down.
    let claimed = office.state.claim_messages(office.clock.now(), Duration::from_secs(60), 8).unwrap();
    assert!(claimed.is_empty());
    let mails = server.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
}

#[tokio::test]
async fn a_message_claimed_by_a_process_that_died_is_sent_when_its_lease_ends() {
    let server = SmtpServer::plain();
    let office = Office::new(&settings(&server, &["admin@example.org"]));
    office.state.claim_messages(now(), Duration::from_secs(60), 8).unwrap();
    assert_eq!(office.deliver().await, Delivery { pending: 1, ..Default::default() });
    office.clock.advance(TimeDelta::seconds(61));
    assert_eq!(office.deliver().await.sent, 1);
}

#[tokio::test]
async fn two_deliveries_at_once_send_each_message_once() {
    let server = SmtpServer::plain();
    let to: Vec<String> = (0..30).map(|i| format!("r{i}@example.org")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let office = Office::new(&settings(&server, &to));
    let (a, b) = tokio::join!(office.deliver(), office.deliver());
    assert_eq!(a.sent + b.sent, 30);
    assert_eq!(server.mails().len(), 30);
}

#[tokio::test]
async fn a_message_nobody_takes_is_given_up_after_three_days() {
    let mut settings = settings(&SmtpServer::plain(), &["admin@example.org"]);
    settings.url = "smtp://127.0.0.1:1".to_owned(); // nobody listens there
    let office = Office::new(&settings);
    let mut attempts = 0;
    for _ in 0..2000 {
        attempts += office.deliver().await.failed;
        office.clock.advance(TimeDelta::minutes(5));
    }
    assert!((70..100).contains(&attempts), "{attempts}");
    assert_eq!(office.statuses(), [MessageStatus::Failed]);
    assert!(office.last_error().starts_with("given up after 3 days: "), "{}", office.last_error());
}

#[tokio::test]
async fn a_channel_that_left_the_configuration_does_not_stop_the_others() {
    let server = SmtpServer::plain();
    let mut office = Office::new(&settings(&server, &["admin@example.org"]));
    let name = ChannelName::new("ops").unwrap();
    let other =
        Channel::email(name, policy(), Labels::default(), &settings(&server, &["ops@example.org"])).unwrap();
    office.channels = vec![Arc::new(other)];
    office.queue();
    let done = office.deliver().await;
    assert_eq!((done.sent, done.failed), (1, 1));
    assert!(
        done.problems[0].contains("the channel admin is not in the configuration"),
        "{:?}",
        done.problems
    );
}
