//! The HTTP server: the status pages, `/metrics`, `/healthz`, `/readyz`, `/api/v1/status`.
//!
//! It only reads. What it shows comes through [`Context`], which the daemon implements; the state is read on
//! the blocking pool, a few at a time and with a deadline, so that neither a long backup nor a hung disk can
//! hold the server up or use up its threads.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | every job and target on one page; like the next two HTML without script |
//! | `/jobs/NAME` | one job: its schedule, runs, sizes, backups at each target, checks |
//! | `/runs/ID` | one run: steps, components with digests, copies, who was told, files, the end of its log |
//! | `/icon/STATE.svg` | the sign in the browser's tab: green, yellow, red |
//! | `/metrics` | text format 0.0.4 |
//! | `/healthz` | 200 while the scheduler turns, else 503: for a supervisor that restarts |
//! | `/readyz` | 503 until the start is complete, then 200: for whoever waits for it |
//! | `/api/v1/status` | JSON: snapshot, findings, due times (see [`api::Status`]) |
//!
//! Pages are templates (`templates/`, compiled in); every value in them is escaped by [`text`], and bounded,
//! so that a page stays small whatever files are called and errors say.
//!
//! **When the state cannot be read**, the pages and `/api/v1/status` answer 503 and say why. `/metrics` answers
//! from the last snapshot that could be read: its timestamps stand still, so the rules for an overdue job, a
//! stuck scheduler and stale checks fire by themselves, and nothing pretends to be fresh. Without any
//! snapshot yet it answers 503 with `backup_build_info` alone: Prometheus then says that the agent is down.
//!
//! **No other site may read it.** A page in a browser on this machine could reach a loopback listener by a
//! name it lets resolve to 127.0.0.1. On a loopback listener, a request whose `Host` is neither an address,
//! `localhost`, nor this host's own name is therefore refused with 421. Prometheus sends the host of its
//! target; a proxy in front must send one of these.

mod answers;
pub mod api;
mod chart;
mod drill;
mod encoding;
mod frame;
mod job_page;
mod json;
mod overview;
mod parts;
mod request;
mod run_page;
mod server;
mod style;
mod text;
mod when;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use server::serve;

use crate::config::Config;
use crate::health::Extra;
use crate::manifest::FileWarning;
use crate::model::{JobName, RunId};
use crate::state::{JobRecord, RunRecord, Snapshot};

/// How far a run of this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunProgress {
    /// Bytes of content read so far.
    pub source_bytes: u64,
    /// Bytes of content expected, from the last good run.
    pub expected_bytes: Option<u64>,
}

impl RunProgress {
    /// From 0 to 1; none where nothing is known to expect.
    pub fn ratio(&self) -> Option<f64> {
        let expected = self.expected_bytes.filter(|expected| *expected > 0)?;
        Some((self.source_bytes as f64 / expected as f64).min(1.0))
    }
}

/// Where the pages get what they show.
pub trait Context: Send + Sync + 'static {
    /// The state of this moment. May block; it is called on the blocking pool.
    fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>>;

    /// The configuration in use.
    fn config(&self) -> Arc<Config>;

    /// How far a job's run is, when it runs in this process.
    fn progress(&self, job: &JobName) -> Option<RunProgress>;

    /// The files that changed and the like in these runs. May block.
    fn warnings(&self, _runs: &[RunId]) -> anyhow::Result<BTreeMap<RunId, Vec<FileWarning>>> {
        Ok(BTreeMap::new())
    }

    /// The latest runs of a job, at most `limit`, with their backups. May block.
    fn job_record(&self, _job: &JobName, _limit: usize) -> anyhow::Result<JobRecord> {
        Ok(JobRecord::default())
    }

    /// All that is known of one run; none when there is no such run. May block.
    fn run_record(&self, _run: &RunId) -> anyhow::Result<Option<RunRecord>> {
        Ok(None)
    }

    /// How this program is called on this host, for commands on pages.
    fn command(&self) -> String {
        "agent".to_owned()
    }

    /// What was last seen of lock files and backups; looking at them is not for a page. May block, as
    /// [`Context::snapshot`] may.
    fn extra(&self) -> Extra {
        Extra::default()
    }

    /// `/metrics` was fetched by a client that calls itself so. Must not block.
    fn scraped(&self, _by: &str) {}

    /// True once the start is complete; the server remembers it.
    fn ready(&self) -> bool;

    /// True while the scheduler turns.
    fn alive(&self) -> bool;

    /// The current instant.
    fn now(&self) -> DateTime<Utc>;
}

/// The facts of one request.
struct View {
    snapshot: Arc<Snapshot>,
    config: Arc<Config>,
    extra: Extra,
    progress: BTreeMap<JobName, RunProgress>,
    now: DateTime<Utc>,
    command: String,
    /// Whether the reader asked for a page that reloads.
    watched: bool,
}

impl View {
    fn watched(self, watched: bool) -> Self {
        Self { watched, ..self }
    }
}
