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
//!
//! Threads are plain ones: everything here reads disks and databases, which block. Each loop stands alone, so
//! that what hangs holds up nothing else: a NAS that hangs costs the copy that is being made, not the next
//! run, and neither a mail nor an answer of `/metrics`.

mod context;
mod due;
mod health_loop;
mod listener;
mod prove_loop;
mod reload;
mod runner;
mod scheduler;
mod signals;
mod tend_loop;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{Config, LoadOptions};
use crate::event::{Observer, Progress, Silent};
use crate::lock::{self, FileLock, LockMode};
use crate::log;
use crate::model::JobName;
use crate::ops::Agent;
use crate::ops::limits::raise_open_files;
use crate::run::End;
use crate::state::{FactKey, write_status};

use context::Shared;
use reload::{Begun, Reloaded};
use scheduler::Scheduler;
use signals::{Asked, Signals};

/// Held by the daemon for as long as it lives, in the state folder.
const LOCK_FILE: &str = "daemon.lock";
/// How long a loop rests after an internal error.
const AFTER_PANIC: Duration = Duration::from_secs(10);

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

    /// Another configuration is in use from now on.
    fn reconfigured(&self, _config: &Config) {}

    /// Pages and metrics are served at this address.
    fn listening(&self, _address: SocketAddr) {}

    /// A run of `job` begins: who is told its events.
    fn begins(&self, _job: &JobName, _progress: &Arc<Progress>) -> Box<dyn Observer> {
        Box::new(Silent)
    }

    /// A run of `job` ended, or could not even begin.
    fn ended(&self, _job: &JobName, _end: &Result<End>) {}
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
/// The start failed: the configuration is broken and there is no last good one (a
/// [`crate::config::ConfigErrors`]) or none that can be used ([`crate::ops::last_good::NoneUsable`]), the state cannot be opened or another daemon has it, a channel's settings
/// cannot work, or (before a terminal) the address is taken.
pub fn run(options: Options) -> Result<ExitReason> {
    raise_open_files();
    let Begun { agent, found } = reload::start(&options)?;
    options.watcher.configured(&agent.config);
    let _only = only_daemon(&agent)?;
    let shared = Arc::new(Shared::new(&options, agent));
    found.record(&shared);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime for network work")?;
    let result = runtime.block_on(live(&options, &shared));
    // A read that hangs with its disk is left behind.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// True while a daemon runs with this state.
pub fn is_running(state_dir: &Path) -> bool {
    // A lock that cannot be looked at says nothing; then nobody relies on a daemon.
    !lock::is_free(&state_dir.join(LOCK_FILE)).unwrap_or(true)
}

/// Two daemons would start every job twice, and stand in each other's way.
fn only_daemon(agent: &Agent) -> Result<FileLock> {
    let path = agent.state.dir().join(LOCK_FILE);
    FileLock::try_acquire(&path, LockMode::Private)?.with_context(|| {
        format!(
            "a daemon already runs with the state in {} ({} is locked): end it first, or give this one a state_dir of its own",
            agent.state.dir().display(),
            path.display()
        )
    })
}

async fn live(options: &Options, shared: &Arc<Shared>) -> Result<ExitReason> {
    let reloads = matches!(options.source, Source::Files(_));
    let mut signals = Signals::new(reloads)?;
    let (wanted, listens) = watch::channel(shared.agent().config.listen);
    let bound = listener::bind(*listens.borrow()).await;
    let first = match bound {
        Ok(listener) => Some(listener),
        Err(error) if options.interactive => return Err(error),
        // Tried again, and told, by the listener's task.
        Err(_) => None,
    };
    begin(shared)?;
    let loops = Loops::start(options, shared)?;
    let (stop, stops) = watch::channel(false);
    let server = tokio::spawn(listener::serve(Arc::clone(shared), first, listens, stops));
    shared.set_ready();
    let status = count_of_jobs(shared.agent().config.job.len());
    signals::tell_manager(&[NotifyState::Ready, NotifyState::Status(&status)]);

    let name = loop {
        match signals.next().await {
            Asked::Stop(name) => break name,
            Asked::Reload => {
                // Whatever the configuration is like: log files may have been rotated away.
                log::reopen();
                let Source::Files(load) = &options.source else { continue };
                reload_now(shared, load.clone()).await;
                wanted.send_if_modified(|listen| {
                    let now = shared.agent().config.listen;
                    std::mem::replace(listen, now) != now
                });
            }
        }
    };

    tracing::info!("{name}: ending; runs in progress are stopped");
    signals::tell_manager(&[NotifyState::Stopping]);
    let limit = shared.agent().config.shutdown_timeout;
    shared.stop();
    let reason = tokio::select! {
        ended = tokio::time::timeout(limit, loops.ended(shared)) => match ended {
            Ok(()) => ExitReason::Stopped,
            Err(_) => ExitReason::TimedOut,
        },
        second = signals.stop() => {
            tracing::warn!("{second}: ending at once");
            return Ok(ExitReason::Forced);
        }
    };
    if reason == ExitReason::TimedOut {
        let left: Vec<String> = shared.active().iter().map(ToString::to_string).collect();
        tracing::warn!("not everything ended within shutdown_timeout; runs left behind: {}", left.join(", "));
    }
    // Answers until the end; those under way get a moment.
    let _ = stop.send(true);
    let _ = server.await;
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || end(&shared, name)).await.context("recording the end")??;
    Ok(reason)
}

/// What the state is told before anything begins.
fn begin(shared: &Arc<Shared>) -> Result<()> {
    reload::touch_jobs(shared);
    let version = env!("CARGO_PKG_VERSION");
    shared.state.set_fact(FactKey::AgentStarted, version, shared.now()).context("recording the start")?;
    tracing::info!("backup-agent {version} begins, with its state in {}", shared.state.dir().display());
    tend_loop::reap_at_start(shared)
}

/// What the state is told when everything has ended.
fn end(shared: &Shared, signal: &str) -> Result<()> {
    shared.state.set_fact(FactKey::AgentStopped, signal, shared.now()).context("recording the end")?;
    write_status(&shared.state, shared.now())?;
    Ok(())
}

fn count_of_jobs(count: usize) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

async fn reload_now(shared: &Arc<Shared>, load: LoadOptions) {
    signals::tell_reloading();
    let task = {
        let shared = Arc::clone(shared);
        tokio::task::spawn_blocking(move || reload::reload(&shared, &load))
    };
    let status = match task.await {
        Ok(Reloaded::Good) => count_of_jobs(shared.agent().config.job.len()),
        Ok(Reloaded::Refused) => "the configuration was refused, the old one is used".to_owned(),
        Err(error) => {
            tracing::error!("internal error while loading the configuration, the old one is used: {error}");
            "the configuration was not loaded, the old one is used".to_owned()
        }
    };
    for wake in [&shared.scheduler, &shared.messages, &shared.copies, &shared.health] {
        wake.wake();
    }
    signals::tell_manager(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The threads of the daemon.
struct Loops(Vec<JoinHandle<()>>);

impl Loops {
    fn start(options: &Options, shared: &Arc<Shared>) -> Result<Self> {
        let at_once = if options.now {
            shared.agent().config.job.keys().cloned().collect()
        } else {
            Default::default()
        };
        let launching = Arc::clone(shared);
        let launch = Box::new(move |launch| runner::start(&launching, launch));
        let scheduler = Scheduler::new(Arc::clone(shared), at_once, launch);
        let awaited = vec![
            spawn("scheduler", move || scheduler.run())?,
            spawn_loop(shared, "messages", |shared| tend_loop::messages(shared))?,
            spawn_loop(shared, "copies", |shared| tend_loop::copies(shared))?,
            spawn_loop(shared, "health", health_loop::run)?,
            spawn_loop(shared, "verify", |shared| prove_loop::verify(shared))?,
            spawn_loop(shared, "drills", |shared| prove_loop::drills(shared))?,
        ];
        // Not waited for: what it does may be interrupted anywhere, and may hang with a target.
        spawn_loop(shared, "reaper", |shared| tend_loop::reaper(shared))?;
        spawn_loop(shared, "watchdog", |shared| signals::feed_watchdog(shared))?;
        Ok(Self(awaited))
    }

    /// Returns when all loops and runs have ended.
    async fn ended(&self, shared: &Shared) {
        while shared.is_busy() || self.0.iter().any(|thread| !thread.is_finished()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A loop that begins again after a panic: one fault must not end it for good.
fn spawn_loop(shared: &Arc<Shared>, name: &'static str, work: fn(&Arc<Shared>)) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    spawn(name, move || {
        while catch_unwind(AssertUnwindSafe(|| work(&shared))).is_err() && !shared.is_stopping() {
            tracing::error!("internal error in the loop for {name}; it begins again, please report it");
            std::thread::sleep(AFTER_PANIC);
        }
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("starting the thread {name}"))
}
