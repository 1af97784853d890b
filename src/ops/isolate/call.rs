//! The side that asks: a child is started, watched, and killed or left behind.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::protocol::{Reply, Request};
use super::{SIGN_OF_LIFE, VERB};
use crate::event::{Interrupted, Progress};
use crate::target;

/// The error of work that was stopped at its deadline.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not end in time{}; it was stopped", if *.progressed { "" } else { ", nor get on at all: the storage hangs, or is not reachable" })]
pub struct TimeUp {
    what: String,
    progressed: bool,
}

/// The error of a copy that failed where it is copied from.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FromSource {
    /// The chain of errors.
    pub error: String,
    /// Whether trying again makes no sense until somebody changed something.
    pub permanent: bool,
}

/// Has a child do `request`. `stall` is how long it may make no progress; `deadline` ends it anyway;
/// `publishing` is told each location before it is tried.
pub fn call(
    request: &Request,
    stall: Duration,
    deadline: Option<Instant>,
    progress: &Progress,
    publishing: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    let mut child = Running::start(request)?;
    let mut last_bytes = 0;
    let (mut idle, mut looked) = (Duration::ZERO, Instant::now());
    loop {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        // What was said already counts, however late it is heard here.
        let reply = match child.lines.try_recv() {
            Err(TryRecvError::Empty) => {
                let now = Instant::now();
                // A machine that stood still gave the child no time either.
                idle += now.duration_since(looked).min(2 * SIGN_OF_LIFE);
                looked = now;
                if deadline.is_some_and(|d| now >= d) {
                    return Err(TimeUp { what: describe(request), progressed: last_bytes > 0 }.into());
                }
                if idle >= stall {
                    bail!(
                        "{} made no progress for {}; it was given up: the storage hangs, or is not reachable",
                        describe(request),
                        humantime::format_duration(Duration::from_secs(stall.as_secs()))
                    );
                }
                child.lines.recv_timeout(SIGN_OF_LIFE)
            }
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Ok(reply) => Ok(reply),
        };
        match reply {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended without an answer", describe(request)),
            Ok(Reply::Progress { bytes }) => {
                if bytes != last_bytes {
                    progress.add_stored(bytes.saturating_sub(last_bytes));
                    (last_bytes, idle) = (bytes, Duration::ZERO);
                }
            }
            Ok(Reply::Publishing { location }) => {
                publishing(&location)?;
                child.go_on().context("telling the copying process to go on")?;
            }
            Ok(Reply::Failed { error, permanent, at_source: true }) => {
                return Err(FromSource { error, permanent }.into());
            }
            // What the child knew of it goes on: the mark is all that is left of the chain.
            Ok(Reply::Failed { error, permanent: true, .. }) => return Err(target::Permanent(error).into()),
            Ok(Reply::Failed { error, .. }) => return Err(anyhow!(error)),
            Ok(reply) => return Ok(reply),
        }
    }
}

fn describe(request: &Request) -> String {
    match request {
        Request::Probe { at } | Request::Identify { at, .. } => format!("looking at target {}", at.target),
        Request::Scan { at } => format!("looking through target {}", at.target),
        Request::Initialise { at, .. } => format!("initialising target {}", at.target),
        Request::Copy { to, run, .. } => format!("copying run {run} to target {}", to.target),
        Request::Verify { at, run, .. } => format!("reading run {run} back from target {}", at.target),
        Request::VerifyFiles { at, .. } => {
            format!("reading {} back from target {}", at.location, at.target)
        }
        Request::Repair { bad, run, .. } => format!("replacing run {run} at target {}", bad.target),
        Request::Drill { at, run, .. } => format!("restoring run {run} from target {}", at.target),
        Request::Pin { at, run, .. } => format!("pinning run {run} at target {}", at.target),
        Request::Remove { at, run } => format!("removing run {run} from target {}", at.target),
        Request::Clean { at, run } => format!("cleaning up after run {run} at target {}", at.target),
    }
}

/// A child at work. Dropping it kills it, and does not wait: it may be beyond the reach of signals.
struct Running {
    child: Option<Child>,
    input: ChildStdin,
    lines: Receiver<Reply>,
}

impl Running {
    fn start(request: &Request) -> Result<Self> {
        let mut command = own_program();
        command.arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        crate::sys::die_with_parent(&mut command);
        let mut child = command.spawn().context("starting a process for work on a target")?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("starting a process for work on a target: its pipes are missing");
        };
        let (send, lines) = channel();
        thread::Builder::new().name("target-io".to_owned()).spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                let reply = serde_json::from_str(&line)
                    .unwrap_or_else(|e| Reply::failed(&anyhow!("an answer that makes no sense: {e}")));
                if send.send(reply).is_err() {
                    return;
                }
            }
        })?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        input.write_all(&line).context("asking a process for work on a target")?;
        Ok(Self { child: Some(child), input, lines })
    }

    fn go_on(&mut self) -> io::Result<()> {
        self.input.write_all(b"go on\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        // Reaped by a thread of its own, which may wait as long as the kernel likes.
        let _ = thread::Builder::new().name("reap".to_owned()).spawn(move || child.wait());
    }
}

/// The program that is running, also after its file was replaced by an update.
#[cfg(not(test))]
fn own_program() -> Command {
    Command::new("/proc/self/exe")
}

/// In a test the program that is running knows nothing of the verb: a script stands in for it.
#[cfg(test)]
fn own_program() -> Command {
    let mut command = Command::new("sh");
    command.arg(crate::ops::copies::stand_in());
    command
}
