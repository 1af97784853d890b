//! The daemon: the scheduler, and the loops that look after copies, messages, targets and health.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | what the daemon is given, and its life from start to end |
//! | `reload` | the configuration: loaded, refused, kept, exchanged |
//! | `due` | which occurrence of a schedule asks for a run; pure |
//! | `scheduler` | one turn of the scheduler: what is due, what may start |
//! | `runner` | one run on a thread of its own |
//! | `tend_loop` | messages, late copies, dead runs, old records |
//! | `health_loop` | probes of targets, health checks, `status.json`, the text file of metrics |
//! | `context` | what all of these share; what the pages show |
//! | `listener` | the HTTP address: bound, moved, waited for |
//! | `signals` | SIGHUP, SIGTERM, SIGINT; the service manager |
//! | `limits` | open files |
//!
//! Threads are plain ones: everything here reads disks and databases, which block. Each loop stands alone, so
//! that what hangs holds up nothing else: a NAS that hangs costs the copy that is being made, not the next
//! run, and neither a mail nor an answer of `/metrics`.

mod context;
mod due;
mod limits;
mod runner;
mod scheduler;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Config, LoadOptions};
use crate::event::{Observer, Progress, Silent};
use crate::model::JobName;
use crate::run::End;

pub use limits::raise_open_files;

/// What the daemon is given.
pub struct Options {
    /// Where the configuration comes from.
    pub source: Source,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How this program is called on this host, for the commands in messages; see
    /// [`crate::ops::Agent::command`].
    pub command: String,
    /// Run every job once at the start.
    pub now: bool,
    /// Somebody sits before it: an address that is taken is an error instead of something to wait for.
    pub interactive: bool,
    /// Who watches.
    pub watcher: Arc<dyn Watcher>,
}

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files and environment. SIGHUP reads them again; when a start finds them broken, the last good
    /// configuration of the state is used.
    Files(LoadOptions),
    /// A configuration nobody wrote. It cannot be read again, and SIGHUP ends the daemon as a closed
    /// terminal should.
    Fixed(Box<Config>),
}

/// Somebody who watches the daemon: the terminal. Its functions are called on the daemon's threads and must
/// return soon.
pub trait Watcher: Send + Sync {
    /// The configuration is known; nothing was logged before. For setting up the log.
    fn configured(&self, _config: &Config) {}

    /// Pages and metrics are served at this address.
    fn listening(&self, _address: SocketAddr) {}

    /// A run of `job` begins: who is told its events.
    fn begins(&self, _job: &JobName, _progress: &Arc<Progress>) -> Box<dyn Observer> {
        Box::new(Silent)
    }

    /// A run of `job` ended, or could not even begin.
    fn ended(&self, _job: &JobName, _end: &anyhow::Result<End>) {}
}

/// A watcher that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWatcher;

impl Watcher for NoWatcher {}

/// Why the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to, and everything came to an orderly end.
    Stopped,
    /// It was asked to, but runs did not end within `shutdown_timeout`; the next start cleans up after them.
    TimedOut,
    /// It was asked twice, and did not wait for runs in progress; the next start cleans up after them.
    Forced,
}

impl ExitReason {
    /// The exit code of `agent run`: 0 when everything came to an orderly end, else 130 (interrupted).
    pub fn code(self) -> u8 {
        match self {
            ExitReason::Stopped => 0,
            ExitReason::TimedOut | ExitReason::Forced => 130,
        }
    }
}

/// Runs until a signal ends it.
///
/// # Errors
/// The start failed: the configuration is broken and there is no last good one, the state cannot be opened,
/// a channel's settings cannot work, or (before a terminal) the address is taken.
pub fn run(options: Options) -> anyhow::Result<ExitReason> {
    let _ = options;
    anyhow::bail!("the daemon is not complete yet")
}
