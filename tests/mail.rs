//! Mail and heartbeats against real servers on loopback: what arrives, and what happens when the other
//! side behaves badly.

#[path = "support/smtp.rs"]
mod smtp;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use backup_agent::clock::{Clock, ManualClock};
use backup_agent::event::Step;
use backup_agent::model::{ChannelName, JobName, Outcome, RunId, Secret};
use backup_agent::notify::HttpSettings;
use backup_agent::notify::email::EmailSettings;
use backup_agent::notify::facts::{LastGood, RunFacts, TestFacts};
use backup_agent::notify::message::{Kind, Labels};
use backup_agent::notify::outbox::{self, Delivery};
use backup_agent::notify::ping::Dialect;
use backup_agent::notify::transitions::{Policy, SuccessMode};
use backup_agent::notify::{Channel, Failure, SendError, plan, spool};
use backup_agent::state::{MessageStatus, State};
use chrono::{DateTime, TimeDelta, Utc};
use smtp::{Certificates, Manners, Security, SmtpServer};

const PASSWORD: &str = "canary-pässword-7c1f";

fn now() -> DateTime<Utc> {
    "2026-11-24T18:00:12Z".parse().unwrap()
}

fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn settings(server: &SmtpServer, to: &[&str]) -> EmailSettings {
    EmailSettings {
        url: server.url(),
        user: None,
        password: None,
        from: "Backups <backup@example.org>".to_owned(),
        to: to.iter().map(|t| (*t).to_owned()).collect(),
        timeout: Duration::from_secs(2),
        ca_file: None,
    }
}

fn policy() -> Policy {
    Policy {
        on: [Kind::Failure, Kind::Partial, Kind::Degraded, Kind::Interrupted, Kind::Recovery].into(),
        success: SuccessMode::Never,
        remind: Duration::from_secs(86_400),
    }
}

fn channel(settings: &EmailSettings) -> Arc<Channel> {
    let name = ChannelName::new("admin").unwrap();
    Arc::new(Channel::email(name, policy(), Labels::default(), settings).unwrap())
}

fn facts(outcome: Outcome) -> RunFacts {
    RunFacts {
        job: JobName::new("askproai").unwrap(),
        host: "web1".to_owned(),
        run_id: "20261124T180000Z-k3f9qa".parse::<RunId>().unwrap(),
        outcome,
        degraded: Vec::new(),
        failed_step: Some(Step::Capture),
        failed_component: Some("database".parse().unwrap()),
        error: Some(
            "mariadb-dump ended with status 2\nTabelle »kürzel« fehlt\r\nBcc: victim@example.org".to_owned(),
        ),
        started: now() - TimeDelta::seconds(12),
        ended: now(),
        timezone: chrono_tz::Europe::Berlin,
        components: Vec::new(),
        warning_counts: Default::default(),
        first_warnings: Vec::new(),
        log_tail: vec!["19:00:12 ERROR database: failed".to_owned(), ".".to_owned(), "x".repeat(390)],
        newest_verified: LastGood::Nothing,
        next_run: None,
        copies: Vec::new(),
        command: "agent".to_owned(),
    }
}

fn test_facts() -> TestFacts {
    TestFacts {
        host: "web1".to_owned(),
        timezone: chrono_tz::Europe::Berlin,
        at: now(),
        channel: ChannelName::new("admin").unwrap(),
        tells: "failure".to_owned(),
    }
}

/// A state with one failure queued for each of the receivers, and a clock.
struct Office {
    dir: tempfile::TempDir,
    state: State,
    channels: Vec<Arc<Channel>>,
    clock: Arc<ManualClock>,
}

impl Office {
    fn new(settings: &EmailSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), now()).unwrap();
        let office =
            Self { dir, state, channels: vec![channel(settings)], clock: Arc::new(ManualClock::new(now())) };
        office.queue();
        office
    }

    fn queue(&self) {
        let plan = plan::without_state(&self.channels, &facts(Outcome::Failure), self.clock.now());
        plan.enqueue(&self.state, self.clock.now()).unwrap();
    }

    async fn deliver(&self) -> Delivery {
        outbox::deliver(Some(&self.state), self.dir.path(), &self.channels, self.clock.clone()).await
    }

    fn statuses(&self) -> Vec<MessageStatus> {
        self.state.messages(100).unwrap().iter().rev().map(|m| m.status).collect()
    }

    fn last_error(&self) -> String {
        self.state.messages(1).unwrap()[0].last_error.clone().unwrap_or_default()
    }
}

async fn send(settings: &EmailSettings) -> Result<(), SendError> {
    let mut results = outbox::send_test(&channel(settings), &test_facts()).await;
    results.pop().unwrap().1
}

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
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut settings = settings(&SmtpServer::plain(), &["admin@example.org"]);
    settings.url = format!("smtp://{nobody}");
    let error = send(&settings).await.unwrap_err();
    assert_eq!(error.failure, Failure::Unreachable);
    assert!(error.text.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_silent_server_costs_one_timeout_not_one_a_message() {
    for manners in [Manners::Stall, Manners::StallAfterData] {
        let server = SmtpServer::plain();
        server.next(manners);
        let mut settings = settings(&server, &["a@example.org", "b@example.org", "c@example.org"]);
        settings.timeout = Duration::from_millis(400);
        let office = Office::new(&settings);
        let begin = Instant::now();
        let done = office.deliver().await;
        assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
        assert_eq!((done.sent, done.failed, done.pending), (0, 3, 3));
        assert_eq!(server.connections(), 1);
        assert!(done.problems[0].contains("did not finish taking the message"), "{:?}", done.problems);
        office.clock.advance(TimeDelta::minutes(2));
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
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut settings = settings(&SmtpServer::plain(), &["admin@example.org"]);
    settings.url = format!("smtp://{nobody}");
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
    let (url, seen) = http(&[302]);
    let switch = heartbeat(&url);
    assert!(outbox::send_test(&switch, &test_facts()).await.pop().unwrap().1.is_err());
    outbox::send_test(&switch, &test_facts()).await.pop().unwrap().1.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(!log.is_empty(), "the subscriber works");
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("\0backup\0{PASSWORD}"));
    for secret in [PASSWORD, &encoded, "canary-uuid"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// A little HTTP server: keeps the requests, answers with the status its script says.
fn http(statuses: &'static [u16]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ping/canary-uuid?x=1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    std::thread::spawn(move || {
        let mut statuses = statuses.iter();
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let first = first.trim_end_matches(" HTTP/1.1\r\n");
            log.lock().unwrap().push(format!("{first} {}", String::from_utf8_lossy(&body)).trim().to_owned());
            let status = statuses.next().copied().unwrap_or(200);
            let _ = write!(
                reader.get_mut(),
                "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
    });
    (url, seen)
}

fn heartbeat(url: &str) -> Arc<Channel> {
    install_provider();
    let settings = HttpSettings { url: Secret::new(url), timeout: Duration::from_millis(500), ca_file: None };
    Arc::new(Channel::ping(ChannelName::new("switch").unwrap(), &settings, Dialect::HEARTBEAT).unwrap())
}

#[tokio::test]
async fn a_heartbeat_pings_good_and_bad_runs() {
    let (url, seen) = http(&[200, 405, 200, 500]);
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path(), now()).unwrap();
    let channels = vec![heartbeat(&url)];
    let clock = Arc::new(ManualClock::new(now()));
    let tell = async |outcome, id: &str| {
        let mut facts = facts(outcome);
        facts.run_id = id.parse().unwrap();
        plan::run_ended(&state, &channels, &facts, clock.now())
            .unwrap()
            .enqueue(&state, clock.now())
            .unwrap();
        outbox::deliver(Some(&state), dir.path(), &channels, clock.clone()).await
    };
    assert_eq!(tell(Outcome::Success, "20261124T180000Z-k3f9qa").await.sent, 1);
    // A switch that knows only GET.
    assert_eq!(tell(Outcome::Failure, "20261124T180100Z-k3f9qa").await.sent, 1);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "POST /ping/canary-uuid?x=1 askproai: success, run 20261124T180000Z-k3f9qa",
            "POST /ping/canary-uuid/fail?x=1 askproai: failure, run 20261124T180100Z-k3f9qa",
            "GET /ping/canary-uuid/fail?x=1",
        ]
    );
    let done = tell(Outcome::Success, "20261124T180200Z-k3f9qa").await;
    assert_eq!(done.failed, 1);
    assert!(done.problems[0].contains("127.0.0.1 answered 500"), "{done:?}");
    assert!(!format!("{done:?} {:?} {:?}", channels[0], state.messages(9).unwrap()).contains("canary"));
    // A newer one replaces what waits.
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(
        tell(Outcome::Warning, "20261124T180300Z-k3f9qa").await,
        Delivery { sent: 1, ..Default::default() }
    );
    assert!(seen.lock().unwrap().last().unwrap().ends_with("warning, run 20261124T180300Z-k3f9qa"));
}

#[tokio::test]
async fn a_heartbeat_nobody_answers_names_only_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/canary", listener.local_addr().unwrap());
    let dead = format!("http://{}/canary", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    for url in [&silent, &dead] {
        let mut results = outbox::send_test(&heartbeat(url), &test_facts()).await;
        let error = results.pop().unwrap().1.unwrap_err();
        assert!(error.text.contains("heartbeat at 127.0.0.1") && !error.text.contains("canary"), "{error}");
    }
    for bad in ["canary", "ftp://canary/", "mailto:canary@example.org"] {
        let settings = HttpSettings { url: Secret::new(bad), timeout: Duration::from_secs(1), ca_file: None };
        let name = ChannelName::new("switch").unwrap();
        let error = Channel::ping(name, &settings, Dialect::HEARTBEAT).unwrap_err();
        assert!(!format!("{error:#} {settings:?}").contains("canary"), "{error:#}");
    }
}
