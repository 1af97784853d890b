//! Messages while the state cannot be written.

use std::path::Path;
use std::sync::Arc;

use backup_agent::clock::ManualClock;
use backup_agent::model::Outcome;
use backup_agent::notify::outbox::{self, Delivery};
use backup_agent::notify::{plan, spool};
use backup_agent::state::{MessageStatus, State};
use chrono::TimeDelta;

use crate::office::{channel, facts, now, settings};
use crate::smtp::{Manners, SmtpServer};

#[tokio::test]
async fn without_a_state_the_message_is_spooled_sent_and_recorded_later() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = SmtpServer::plain();
    server.next(Manners::Refuse("MAIL", 451, "later"));
    let dir = tempfile::tempdir().unwrap();
    let channels = vec![channel(&settings(&server, &["first@example.org", "second@example.org"]))];
    let clock = Arc::new(ManualClock::new(now()));
    let plan = plan::without_state(&channels, &facts(Outcome::Failure), now());
    let done = outbox::tell_without_state(dir.path(), &plan.messages, &channels, clock.clone()).await;
    assert_eq!((done.sent, done.failed, done.pending), (1, 1, 1), "{done:?}");
    let (entries, broken) = spool::read(dir.path()).unwrap();
    assert_eq!((entries.len(), broken.len()), (2, 0));
    for entry in &entries {
        assert_eq!(std::fs::metadata(&entry.path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Still no state: what waits is tried again, what was accepted is not.
    clock.advance(TimeDelta::minutes(30));
    let done = outbox::deliver(None, dir.path(), &channels, clock.clone()).await;
    assert_eq!((done.sent, done.pending), (1, 0), "{done:?}");
    assert_eq!(server.mails().len(), 2);
    assert!(server.mails()[1].parsed()["text"].as_str().unwrap().contains("30 min late"));
    // The state is back and learns that a person was told.
    let state = State::open(dir.path(), now()).unwrap();
    let done = outbox::deliver(Some(&state), dir.path(), &channels, clock.clone()).await;
    assert_eq!(done, Delivery::default());
    assert_eq!(server.mails().len(), 2);
    assert!(
        state
            .messages(10)
            .unwrap()
            .iter()
            .all(|m| m.status == MessageStatus::Delivered && m.created_at == now())
    );
    assert!(spool::read(dir.path()).unwrap().0.is_empty());
    // A file that somebody damaged is reported once, and stays for people to see.
    std::fs::write(dir.path().join("spool/x.json"), "{").unwrap();
    let done = outbox::deliver(Some(&state), dir.path(), &channels, clock.clone()).await;
    assert!(done.problems[0].contains("spool/x.broken"), "{done:?}");
    assert_eq!(outbox::deliver(Some(&state), dir.path(), &channels, clock).await, Delivery::default());
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_does_not_keep_the_message_from_being_sent() {
    let server = SmtpServer::plain();
    let channels = vec![channel(&settings(&server, &["admin@example.org"]))];
    let plan = plan::without_state(&channels, &facts(Outcome::Failure), now());
    let nowhere = Path::new("/proc/no-such-folder");
    let clock = Arc::new(ManualClock::new(now()));
    let done = outbox::tell_without_state(nowhere, &plan.messages, &channels, clock.clone()).await;
    assert_eq!(done.sent, 1);
    assert!(done.problems[0].contains("spool folder /proc/no-such-folder"), "{:?}", done.problems);
    server.next(Manners::Refuse("MAIL", 451, "later"));
    let done = outbox::tell_without_state(nowhere, &plan.messages, &channels, clock).await;
    assert!(done.problems.iter().any(|p| p.starts_with("nobody could be told")), "{:?}", done.problems);
}
