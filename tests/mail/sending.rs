//! One mail on its way: what it looks like, how it is protected, and what the answers mean.

use std::io::Write;
use std::sync::{Arc, Mutex};

use backup_agent::model::{ChannelName, Secret};
use backup_agent::notify::email::EmailSettings;
use backup_agent::notify::message::Labels;
use backup_agent::notify::outbox::{self, Delivery};
use backup_agent::notify::{Channel, Failure};
use backup_agent::state::MessageStatus;

use crate::heartbeat::{PATH, answering, heartbeat};
use crate::office::{Office, PASSWORD, policy, send, settings, test_facts};
use crate::smtp::{Certificates, Manners, Security, SmtpServer};

#[tokio::test]
async fn a_failure_arrives_as_a_well_formed_mail() {
    let server = SmtpServer::plain();
    let office = Office::new(&settings(&server, &["Ädmin <admin@example.org>", "second@example.org"]));
    let done = office.deliver().await;
    assert_eq!(done, Delivery { sent: 2, ..Default::default() });
    let mails = server.mails();
    assert_eq!(
        mails.iter().map(|m| m.to.join(",")).collect::<Vec<_>>(),
        ["admin@example.org", "second@example.org"]
    );
    let mail = &mails[0];
    assert_eq!(mail.from, "backup@example.org");
    assert!(mail.data.iter().all(u8::is_ascii), "nothing needs 8BITMIME or SMTPUTF8");
    assert!(mail.data.split(|b| *b == b'\n').all(|line| line.len() <= 999));
    let parsed = mail.parsed();
    assert_eq!(parsed["defects"], serde_json::json!([]));
    assert_eq!(parsed["types"], serde_json::json!(["multipart/alternative", "text/plain", "text/html"]));
    assert_eq!(
        parsed["subject"],
        "[backup-failure] askproai on web1: database failed in capture: mariadb-dump ended with status 2: Tabelle \
         »kürzel« fehlt: Bcc: victim@example.org"
    );
    let text = parsed["text"].as_str().unwrap();
    assert!(text.contains("  | Tabelle »kürzel« fehlt\n"), "{text}");
    assert!(text.contains("\n  | .\n"), "a line with a dot survives: {text}");
    assert!(text.contains("agent show 20261124T180000Z-k3f9qa"));
    assert!(parsed["html"].as_str().unwrap().contains("Tabelle »kürzel« fehlt"));
    assert!(mail.headers("Bcc").is_empty());
    assert_eq!(mail.header("From"), "Backups <backup@example.org>");
    assert_eq!(mail.header("To"), "Ädmin <admin@example.org>");
    assert_eq!(mail.header("Date"), "Tue, 24 Nov 2026 18:00:12 +0000");
    assert_eq!(mail.header("X-Backup-Agent-Label"), "backup-failure");
    assert_eq!(mail.header("X-Backup-Agent-Job"), "askproai");
    assert_eq!(mail.header("X-Backup-Agent-Run"), "20261124T180000Z-k3f9qa");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(mail.header("X-Auto-Response-Suppress"), "All");
    assert_eq!(mail.header("Message-ID"), office.state.messages(2).unwrap()[1].message_id);
    assert_eq!(office.statuses(), [MessageStatus::Delivered; 2]);
    // Nothing is left, and nothing is sent twice.
    assert_eq!(office.deliver().await, Delivery::default());
    assert_eq!(server.mails().len(), 2);
}

#[tokio::test]
async fn mail_goes_encrypted_and_logged_in() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path());
    for security in [Security::StartTls, Security::Tls] {
        let server = SmtpServer::start(security, Some(&certificates), Some(("backup@example.org", PASSWORD)));
        let mut settings = settings(&server, &["admin@example.org"]);
        settings.user = Some("backup@example.org".to_owned());
        settings.password = Some(Secret::new(PASSWORD));
        settings.ca_file = Some(certificates.authority.clone());
        send(&settings).await.unwrap();
        let mail = server.mails().pop().unwrap();
        assert!(mail.encrypted);
        assert_eq!(mail.user.as_deref(), Some("backup@example.org"));
        assert_eq!(mail.header("Subject"), "[backup-test] web1: a test, nothing is wrong");

        // A certificate nobody vouches for: nothing is sent, not even the login.
        settings.ca_file = None;
        let error = send(&settings).await.unwrap_err();
        assert_eq!(error.failure, Failure::Unreachable);
        assert!(error.text.contains("certificate"), "{error}");
        assert_eq!(server.transcript().iter().filter(|l| l.starts_with("AUTH")).count(), 1);
        assert_eq!(server.mails().len(), 1);
    }
}

#[tokio::test]
async fn a_server_without_starttls_gets_neither_login_nor_mail() {
    let server = SmtpServer::plain();
    let mut settings = settings(&server, &["admin@example.org"]);
    settings.url = format!("smtp://localhost:{}?tls=required", server.address.port());
    settings.user = Some("u".to_owned());
    settings.password = Some(Secret::new(PASSWORD));
    let error = send(&settings).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    assert!(error.text.contains("does not offer what is asked for"), "{error}");
    assert!(!server.transcript().iter().any(|l| l.starts_with("AUTH") || l.starts_with("MAIL")));
}

#[tokio::test]
async fn a_wrong_password_is_said_clearly_and_never_shown() {
    use base64::Engine as _;
    let server = SmtpServer::start(Security::Plain, None, Some(("backup", "another")));
    let mut settings = settings(&server, &["a@example.org", "b@example.org", "c@example.org"]);
    settings.user = Some("backup".to_owned());
    settings.password = Some(Secret::new(PASSWORD));
    let office = Office::new(&settings);
    let done = office.deliver().await;
    // One try, not one a message: servers lock accounts out.
    assert_eq!(server.transcript().iter().filter(|l| l.starts_with("AUTH")).count(), 1);
    assert_eq!((done.failed, done.given_up, done.pending), (3, 0, 3));
    assert!(done.problems[0].contains("refused the login (535"), "{:?}", done.problems);
    assert!(done.problems[0].contains("check `user` and `password_file`"), "{:?}", done.problems);
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("\0backup\0{PASSWORD}"));
    let everything = format!(
        "{settings:?} {:?} {done:?} {:?} {}",
        office.channels[0],
        office.state.messages(10).unwrap(),
        std::fs::read(office.dir.path().join("state.db"))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap(),
    );
    assert!(!everything.contains(PASSWORD) && !everything.contains(&encoded), "{everything}");
}

#[tokio::test]
async fn refusals_at_every_point_are_classified() {
    let table = [
        (Manners::Refuse("CONNECT", 421, "too busy"), Failure::Transient),
        (Manners::Refuse("MAIL", 452, "no space"), Failure::Transient),
        (Manners::Refuse("MAIL", 550, "sender not allowed"), Failure::Permanent),
        (Manners::Refuse("RCPT", 450, "mailbox busy"), Failure::Transient),
        (Manners::Refuse("RCPT", 553, "bad mailbox"), Failure::Permanent),
        (Manners::Refuse(".", 451, "virus scanner down"), Failure::Transient),
        (Manners::Refuse(".", 554, "looks like spam"), Failure::Permanent),
        (Manners::Refuse("MAIL", 530, "log in first"), Failure::Unreachable),
        (Manners::DropAfterData, Failure::Unreachable),
    ];
    for (manners, expected) in table {
        let server = SmtpServer::plain();
        server.next(manners.clone());
        let error = send(&settings(&server, &["admin@example.org"])).await.unwrap_err();
        assert_eq!(error.failure, expected, "{manners:?}: {error}");
        assert!(error.text.contains(&server.address.to_string()), "{manners:?}: {error}");
        send(&settings(&server, &["admin@example.org"])).await.unwrap();
    }
    let mut settings = settings(&SmtpServer::plain(), &["admin@example.org"]);
    settings.url = "smtp://127.0.0.1:1".to_owned(); // nobody listens there
    let error = send(&settings).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    assert!(error.text.contains("refused"), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_a_reason() {
    let good = settings(&SmtpServer::plain(), &["admin@example.org"]);
    type Change = fn(&mut EmailSettings);
    let table: [(Change, &str); 12] = [
        (|s| s.url = "mail.example.org".to_owned(), "looks like `smtps://HOST:465`"),
        (|s| s.url = "smtp://mail.example.org".to_owned(), "must be encrypted"),
        (|s| s.url = "smtp://mail.example.org?tls=none".to_owned(), "must be encrypted"),
        (|s| s.url = "smtp://mail.example.org?tls=maybe".to_owned(), "tls=maybe means nothing"),
        (|s| s.url = "smtps://mail.example.org?tls=none".to_owned(), "contradict"),
        (|s| s.url = "https://mail.example.org".to_owned(), "https:// is no mail server"),
        (|s| s.url = format!("smtp://u:{}@mail.example.org?tls=required", "canary"), "must not hold a login"),
        (|s| s.from = "nobody".to_owned(), "`from`: \"nobody\" is no mail address"),
        (|s| s.to = vec!["a@b.org\r\nBcc: c@d.org".to_owned()], "is no mail address"),
        (|s| s.to = vec![], "names no receiver"),
        (|s| s.user = Some("u".to_owned()), "no password"),
        (
            |s| {
                s.url = "smtps://localhost".to_owned();
                s.ca_file = Some("/nonexistent.pem".into())
            },
            "/nonexistent.pem",
        ),
    ];
    for (change, expected) in table {
        let mut settings = good.clone();
        change(&mut settings);
        let name = ChannelName::new("admin").unwrap();
        let error = Channel::email(name, policy(), Labels::default(), &settings).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

/// All that anything logs while it lives, at the lowest level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn secrets_are_not_logged_even_at_the_lowest_level() {
    use base64::Engine as _;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = SmtpServer::start(Security::Plain, None, Some(("backup", PASSWORD)));
    let mut settings = settings(&server, &["admin@example.org"]);
    settings.user = Some("backup".to_owned());
    settings.password = Some(Secret::new(PASSWORD));
    send(&settings).await.unwrap();
    let server = answering(&[302]);
    let switch = heartbeat(&server.url(PATH));
    assert!(outbox::send_test(&switch, &test_facts()).await.pop().unwrap().1.is_err());
    outbox::send_test(&switch, &test_facts()).await.pop().unwrap().1.unwrap();
    assert_eq!(server.requests().len(), 2);

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(!log.is_empty(), "the subscriber works");
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("\0backup\0{PASSWORD}"));
    for secret in [PASSWORD, &encoded, "canary-uuid"] {
        assert!(!log.contains(secret), "{log}");
    }
}
