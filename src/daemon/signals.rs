//! What the daemon is asked from outside: by signals, and by a service manager that wants to know how it is.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::context::Shared;
use crate::web::Context as _;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Read the configuration again.
    Reload,
    /// End; the name of the signal.
    Stop(&'static str),
}

/// The signals the daemon listens to.
pub(super) struct Signals {
    hangup: Option<Signal>,
    interrupt: Option<Signal>,
    terminate: Signal,
    /// Whether SIGHUP is a wish for a reload, or says that the terminal is gone.
    reloads: bool,
}

impl Signals {
    /// Takes over the signals. Without files to reload, SIGHUP ends the daemon, unless it was started with
    /// SIGHUP ignored (`nohup`).
    pub(super) fn new(reloads: bool) -> Result<Self> {
        let listen = |kind: SignalKind| {
            signal(kind).with_context(|| format!("listening to signal {}", kind.as_raw_value()))
        };
        let unless_ignored =
            |kind: SignalKind| if is_ignored(kind) { Ok(None) } else { listen(kind).map(Some) };
        let hangup = SignalKind::hangup();
        Ok(Self {
            hangup: if reloads { Some(listen(hangup)?) } else { unless_ignored(hangup)? },
            // Shells start background jobs with it ignored: Ctrl-C is meant for somebody else then.
            interrupt: unless_ignored(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            reloads,
        })
    }

    /// The next wish.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            () = received(&mut self.hangup) => if self.reloads { Asked::Reload } else { Asked::Stop("SIGHUP") },
            () = received(&mut self.interrupt) => Asked::Stop("SIGINT"),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
        }
    }

    /// The next wish to end.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            if let Asked::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether the process was started with a signal ignored.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// Tells the service manager, if there is one.
pub(super) fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("telling the service manager: {error}");
    }
}

/// Tells the service manager that a reload begins; [`NotifyState::Ready`] says that it ended.
pub(super) fn tell_reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell_manager(&states);
}

/// Gives the service manager's watchdog its signs of life, for as long as the scheduler turns. On a thread of
/// its own: a manager that does not listen blocks whoever tells it something.
pub(super) fn feed_watchdog(shared: &Shared) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    loop {
        if shared.alive() {
            tell_manager(&[NotifyState::Watchdog]);
        }
        std::thread::sleep((limit / 2).max(Duration::from_millis(100)));
    }
}
