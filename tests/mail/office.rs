//! What is to be told, and a state that holds it. What the tests share.

use std::sync::{Arc, Once};
use std::time::Duration;

use backup_agent::clock::{Clock, ManualClock};
use backup_agent::event::Step;
use backup_agent::model::{ChannelName, JobName, Outcome, RunId};
use backup_agent::notify::email::EmailSettings;
use backup_agent::notify::facts::{LastGood, RunFacts, TestFacts};
use backup_agent::notify::message::{Kind, Labels};
use backup_agent::notify::outbox::{self, Delivery};
use backup_agent::notify::transitions::{Policy, SuccessMode};
use backup_agent::notify::{Channel, SendError, plan};
use backup_agent::state::{MessageStatus, State};
use chrono::{DateTime, TimeDelta, Utc};

use crate::smtp::SmtpServer;

pub const PASSWORD: &str = "canary-pässword-7c1f";

pub fn now() -> DateTime<Utc> {
    "2026-11-24T18:00:12Z".parse().unwrap()
}

pub fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

pub fn settings(server: &SmtpServer, to: &[&str]) -> EmailSettings {
    EmailSettings {
        url: server.url(),
        user: None,
        password: None,
        from: "Backups <backup@example.org>".to_owned(),
        to: to.iter().map(|t| (*t).to_owned()).collect(),
        timeout: Duration::from_secs(60),
        ca_file: None,
    }
}

pub fn policy() -> Policy {
    Policy {
        on: [Kind::Failure, Kind::Partial, Kind::Degraded, Kind::Interrupted, Kind::Recovery].into(),
        success: SuccessMode::Never,
        remind: Duration::from_secs(86_400),
    }
}

pub fn channel(settings: &EmailSettings) -> Arc<Channel> {
    let name = ChannelName::new("admin").unwrap();
    Arc::new(Channel::email(name, policy(), Labels::default(), settings).unwrap())
}

pub fn facts(outcome: Outcome) -> RunFacts {
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

pub fn test_facts() -> TestFacts {
    TestFacts {
        host: "web1".to_owned(),
        timezone: chrono_tz::Europe::Berlin,
        at: now(),
        channel: ChannelName::new("admin").unwrap(),
        tells: "failure".to_owned(),
    }
}

/// A state with one failure queued for each of the receivers, and a clock.
pub struct Office {
    pub dir: tempfile::TempDir,
    pub state: State,
    pub channels: Vec<Arc<Channel>>,
    pub clock: Arc<ManualClock>,
}

impl Office {
    pub fn new(settings: &EmailSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), now()).unwrap();
        let office =
            Self { dir, state, channels: vec![channel(settings)], clock: Arc::new(ManualClock::new(now())) };
        office.queue();
        office
    }

    pub fn queue(&self) {
        let plan = plan::without_state(&self.channels, &facts(Outcome::Failure), self.clock.now());
        plan.enqueue(&self.state, self.clock.now()).unwrap();
    }

    pub async fn deliver(&self) -> Delivery {
        outbox::deliver(Some(&self.state), self.dir.path(), &self.channels, self.clock.clone()).await
    }

    pub fn statuses(&self) -> Vec<MessageStatus> {
        self.state.messages(100).unwrap().iter().rev().map(|m| m.status).collect()
    }

    pub fn last_error(&self) -> String {
        self.state.messages(1).unwrap()[0].last_error.clone().unwrap_or_default()
    }
}

pub async fn send(settings: &EmailSettings) -> Result<(), SendError> {
    let mut results = outbox::send_test(&channel(settings), &test_facts()).await;
    results.pop().unwrap().1
}
