//! The state against real files, other processes and other users. What the tests share.

mod copies;
mod faults;
mod open;
mod outbox;
mod processes;
mod records;
mod runs;
mod watchers;

use std::path::Path;

use chrono::{DateTime, Duration, Utc};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::model::{JobName, Outcome, RunId, TargetName, WarningCounts};

/// Minute `m` of the day these tests live in.
fn at(m: i64) -> DateTime<Utc> {
    "2026-11-24T18:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::minutes(m)
}

fn job() -> JobName {
    JobName::new("askproai").unwrap()
}

fn local() -> TargetName {
    TargetName::new("local").unwrap()
}

fn nas() -> TargetName {
    TargetName::new("nas").unwrap()
}

struct Fixture {
    state: State,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { state: State::open(dir.path(), at(0)).unwrap(), dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn begin(&self, m: i64) -> RunId {
        self.begin_job(&job(), m)
    }

    fn begin_job(&self, job: &JobName, m: i64) -> RunId {
        let run_id = RunId::generate(at(m));
        self.state
            .begin_run(&NewRun {
                run_id: run_id.clone(),
                job: job.clone(),
                trigger: RunTrigger::Manual,
                scheduled_for: None,
                process: crate::lock::ProcessIdentity {
                    boot_id: "boot".into(),
                    pid: 4711,
                    start_ticks: None,
                },
                started: at(m),
            })
            .unwrap();
        run_id
    }

    /// A run from minute `m` to `m + 1`.
    fn run(&self, m: i64, outcome: Outcome) -> RunId {
        let run_id = self.begin(m);
        let ended = EndedRun::new(run_id.clone(), outcome, at(m + 1));
        assert!(self.state.end_run(&ended, &[], &[]).unwrap());
        run_id
    }

    /// A good run with one component of that size, a verified primary and a pending copy.
    fn run_of_size(&self, m: i64, bytes: u64, entries: u64) -> RunId {
        let run_id = self.begin(m);
        let mut ended = EndedRun::new(run_id.clone(), Outcome::Success, at(m + 1));
        ended.source_bytes = bytes;
        ended.stored_bytes = bytes / 2;
        ended.components = vec![ComponentSummary {
            name: "application".parse().unwrap(),
            source_bytes: bytes,
            stored_bytes: bytes / 2,
            entries,
            warning_counts: WarningCounts::default(),
            sha256: None,
        }];
        let copies = [primary(bytes / 2), pending()];
        assert!(self.state.end_run(&ended, &copies, &[]).unwrap());
        run_id
    }

    fn job(&self) -> JobRow {
        self.state.job(&job()).unwrap().unwrap()
    }

    fn count(&self, name: &str, label: &str) -> u64 {
        let counters = self.state.counters().unwrap();
        counters.iter().find(|c| c.name == name && c.label == label).map_or(0, |c| c.value)
    }
}

fn primary(bytes: u64) -> NewCopy {
    let location = Some("daily/2026/11/24/1900".into());
    NewCopy { target: local(), primary: true, status: CopyStatus::Verified, location, bytes }
}

fn pending() -> NewCopy {
    NewCopy { target: nas(), primary: false, status: CopyStatus::Pending, location: None, bytes: 0 }
}

fn mail(kind: MessageKind, id: &str, recipient: &str) -> NewMessage {
    NewMessage {
        channel: "admin".parse().unwrap(),
        job: Some(job()),
        run_id: None,
        kind,
        recipient: recipient.into(),
        message_id: id.into(),
        subject: format!("[{kind}] askproai"),
        payload: "{\"text\": \"rendered\"}".into(),
        not_before: at(0),
    }
}

/// A run of minute `m` that is to begin.
fn new_run(m: i64) -> NewRun {
    NewRun {
        run_id: RunId::generate(at(m)),
        job: job(),
        trigger: RunTrigger::Cron,
        scheduled_for: None,
        process: crate::lock::ProcessIdentity {
            boot_id: String::new(),
            pid: std::process::id(),
            start_ticks: None,
        },
        started: at(m),
    }
}

/// A good run of minute `m`, with a copy and a message.
fn one_run(state: &State, m: i64) {
    let new = new_run(m);
    state.begin_run(&new).unwrap();
    let message = mail(MessageKind::Success, new.run_id.as_str(), "a@x");
    let ended = EndedRun::new(new.run_id, Outcome::Success, at(m));
    assert!(state.end_run(&ended, &[primary(1)], &[message]).unwrap());
}

/// The database, opened past the agent.
fn raw(dir: &Path) -> Connection {
    Connection::open(dir.join(DATABASE_FILE)).unwrap()
}
