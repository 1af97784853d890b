//! Work on a target that may hang, done by a child process.
//!
//! A process that touches a dead NFS or CIFS mount waits in the kernel, where no signal reaches it. So the
//! daemon never touches a mount itself: it starts itself again with a hidden verb, gives the request as one
//! JSON line, and reads lines until the answer. A child that says nothing for too long is killed; one that
//! cannot be killed is left behind, and nobody waits for it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::panics::unwinding;
use super::prune::{self, Stays};
use super::verify::{Depth, Report, verify_files, verify_with};
use super::{copies, drill, repair};
use crate::config::TargetConfig;
use crate::crypt::KeyFiles;
use crate::event::{Interrupted, Progress};
use crate::manifest::{Pin, StoredFile};
use crate::model::{RunId, Secret, TargetName};
use crate::state::TargetIdentity;
use crate::target::{self, Scan, Sentinel, Space, Target};

/// The hidden verb the child is started with.
pub const VERB: &str = "internal-target-io";

/// How often the child says that it is still at it.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// What to do with one backup at one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct At {
    /// The target's name.
    pub target: TargetName,
    /// What the configuration says of it.
    pub config: TargetConfig,
    /// The backup's folder there.
    pub location: String,
    /// What must stand there, where that is known.
    pub expected: Option<TargetIdentity>,
    /// A secret that the environment gave: the configuration is written without it, and the child needs it.
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
}

impl At {
    /// A folder at a target, which may be empty where only the target is meant.
    pub fn new(target: &TargetName, config: &TargetConfig, location: impl Into<String>) -> Self {
        Self {
            target: target.clone(),
            secret: config.secret().cloned(),
            config: config.clone(),
            location: location.into(),
            expected: None,
        }
    }

    /// The same, refused whenever something else than `expected` stands there.
    pub fn expecting(self, expected: Option<TargetIdentity>) -> Self {
        Self { expected, ..self }
    }

    /// Another folder at the same target.
    pub fn below(self, location: &str) -> Self {
        Self { location: location.to_owned(), ..self }
    }

    /// The target itself.
    pub fn open(&self) -> Result<Box<dyn Target>> {
        let mut config = self.config.clone();
        config.set_secret(self.secret.clone());
        target::open(&self.target, &config, self.expected.clone(), None)
    }
}

/// A secret on its way through the pipe to the child, the only place it is written to.
mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Secret;

    pub(super) fn serialize<S: Serializer>(
        secret: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => serializer.serialize_str(secret.expose()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
    }
}

/// What is asked of the child.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// Look whether the target is there and writable.
    Probe {
        /// The target; its location is not looked at.
        at: At,
    },
    /// Say what stands there now, whatever is expected.
    Identify {
        /// The target; its location is not looked at.
        at: At,
        /// The time to give.
        now: DateTime<Utc>,
    },
    /// Read all manifests.
    Scan {
        /// The target; its location is not looked at.
        at: At,
    },
    /// Give the target a sentinel file, unless it has one.
    Initialise {
        /// The target; its location is not looked at.
        at: At,
        /// The one to write.
        sentinel: Sentinel,
    },
    /// Copy a backup, publish it at the first free location, read it back.
    Copy {
        /// Where it is.
        from: Box<At>,
        /// Where it goes; the location is not looked at.
        to: Box<At>,
        /// The locations to try.
        locations: Vec<String>,
        /// The backup.
        run: RunId,
    },
    /// Read a backup back.
    Verify {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
        /// How closely.
        depth: Depth,
        /// Where the keys are that an encrypted backup is looked at deeply with.
        keys: KeyFiles,
    },
    /// Read the files of a backup back that another program made.
    VerifyFiles {
        /// Where it is.
        at: At,
        /// The files, with what they should be.
        files: Vec<StoredFile>,
    },
    /// Replace a damaged copy by a fresh one, and remove the damaged one last.
    Repair {
        /// Where a good one is.
        from: Box<At>,
        /// Where the damaged one is.
        bad: Box<At>,
        /// The locations to try for the fresh one.
        locations: Vec<String>,
        /// The backup.
        run: RunId,
    },
    /// Restore a backup into a scratch folder, and compare.
    Drill {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
        /// The scratch folder.
        folder: PathBuf,
        /// How many files are compared with the live ones.
        sample: usize,
        /// Where the keys are that an encrypted backup is opened with.
        keys: KeyFiles,
    },
    /// Remove a backup, unless it is pinned there.
    Remove {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
    },
    /// Pin a backup at its target, or unpin it.
    Pin {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
        /// What the target is to know.
        pin: Option<Pin>,
    },
    /// Remove what a dead run or copy left unfinished.
    Clean {
        /// The target; its location is not looked at.
        at: At,
        /// The backup.
        run: RunId,
    },
}

/// What the child answers, a JSON line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Reply {
    /// Bytes read and written so far.
    Progress {
        /// Their sum.
        bytes: u64,
    },
    /// About to publish here; goes on when a line comes back.
    Publishing {
        /// The location.
        location: String,
    },
    /// The target is there.
    Probed {
        /// Its room, where it says it.
        space: Option<Space>,
    },
    /// What stands there.
    Identified {
        /// It.
        identity: TargetIdentity,
    },
    /// What the manifests say.
    Scanned {
        /// All of them.
        scan: Scan,
    },
    /// The sentinel file the target has now.
    Initialised {
        /// Its content.
        sentinel: Sentinel,
    },
    /// The copy is published, and was read back and found equal.
    Copied {
        /// Where.
        location: String,
        /// Bytes stored.
        bytes: u64,
    },
    /// A damaged copy was replaced.
    Repaired {
        /// Where the good one is now.
        location: String,
        /// Bytes stored.
        bytes: u64,
        /// Why the damaged one could not be removed, when it could not.
        left: Option<String>,
    },
    /// The backup was restored and compared.
    Drilled {
        /// What that proved.
        proof: drill::Proof,
    },
    /// The backup was read back.
    Verified {
        /// What was found.
        report: Report,
    },
    /// It was removed, or there was nothing to remove.
    Removed,
    /// Why it was not removed, though nothing failed.
    Stays {
        /// Why.
        because: Stays,
    },
    /// The target knows of the pin.
    PinSet,
    /// It failed.
    Failed {
        /// The chain of errors.
        error: String,
    },
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
    let mut last_change = Instant::now();
    loop {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        let now = Instant::now();
        if deadline.is_some_and(|d| now >= d) {
            bail!("{} did not end in time; it was stopped", describe(request));
        }
        if now.duration_since(last_change) >= stall {
            bail!(
                "{} made no progress for {}; it was given up: the storage hangs, or is not reachable",
                describe(request),
                humantime::format_duration(Duration::from_secs(stall.as_secs()))
            );
        }
        match child.lines.recv_timeout(SIGN_OF_LIFE) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended without an answer", describe(request)),
            Ok(Reply::Progress { bytes }) => {
                if bytes != last_bytes {
                    progress.add_stored(bytes.saturating_sub(last_bytes));
                    (last_bytes, last_change) = (bytes, Instant::now());
                }
            }
            Ok(Reply::Publishing { location }) => {
                publishing(&location)?;
                child.go_on().context("telling the copying process to go on")?;
            }
            Ok(Reply::Failed { error }) => return Err(anyhow!(error)),
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
        let mut command = Command::new(own_program());
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
                let reply = serde_json::from_str(&line).unwrap_or_else(|e| Reply::Failed {
                    error: format!("an answer that makes no sense: {e}"),
                });
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
fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// How long a read-back may make no progress.
const VERIFY_STALL: Duration = Duration::from_secs(300);

/// Reads one backup back, in a child process where the target may hang, and records what was found.
pub fn verify_copy(
    agent: &super::Agent,
    run: &RunId,
    at: &At,
    isolated: bool,
    depth: Depth,
    progress: &Progress,
) -> Result<Report> {
    verify_copy_with(agent, run, at, isolated, (depth, &KeyFiles::default()), progress)
}

/// The same with the keys that looking deeply at an encrypted backup needs.
pub fn verify_copy_with(
    agent: &super::Agent,
    run: &RunId,
    at: &At,
    isolated: bool,
    (depth, keys): (Depth, &KeyFiles),
    progress: &Progress,
) -> Result<Report> {
    let imported = agent.state.imported_files(run, &at.target)?;
    let files: Vec<StoredFile> = imported
        .into_iter()
        .map(|known| StoredFile { file: known.file, sha256: known.sha256, bytes: known.bytes })
        .collect();
    let report = if isolated {
        let request = match files.is_empty() {
            true => Request::Verify { at: at.clone(), run: run.clone(), depth, keys: keys.clone() },
            false => Request::VerifyFiles { at: at.clone(), files },
        };
        match call(&request, VERIFY_STALL, None, progress, &mut |_| Ok(()))? {
            Reply::Verified { report } => report,
            other => bail!("an unexpected answer to a verification: {other:?}"),
        }
    } else if !files.is_empty() {
        verify_files(at.open()?.as_ref(), &at.location, &files, progress)?
    } else {
        verify_with(at.open()?.as_ref(), &at.location, run, depth, &Arc::new(keys.read()?), progress)?
    };
    let result = report.result();
    // Told before it is recorded: what died in between is found, and told, again.
    let copies = agent.state.copies_of(run)?;
    if let Some(copy) = copies.iter().find(|copy| copy.target == at.target)
        && (depth > Depth::Lengths || result.is_err())
    {
        let folder = at.config.address(&at.location);
        super::tell::verified(agent, copy, &folder, &report.problems)?;
    }
    // Lengths alone do not make a copy verified.
    if depth > Depth::Lengths || result.is_err() {
        agent.state.record_verify(
            run,
            &at.target,
            result.as_ref().copied().map_err(String::as_str),
            agent.now(),
        )?;
    }
    Ok(report)
}

/// The child's side: reads one request, does it, and answers. Errors become an answer too.
pub fn serve(input: &mut dyn BufRead, output: &mut (dyn Write + Send)) -> Result<()> {
    let mut line = String::new();
    input.read_line(&mut line).context("reading the request")?;
    let request: Request = serde_json::from_str(&line).context("reading the request")?;
    let progress = Arc::<Progress>::default();
    let output = std::sync::Mutex::new(output);
    let say = |reply: &Reply| -> Result<()> {
        let mut output = output.lock().map_err(|_| anyhow!("a thread panicked"))?;
        serde_json::to_writer(&mut *output, reply)?;
        output.write_all(b"\n")?;
        Ok(output.flush()?)
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let reply = thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = Instant::now();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if Instant::now() >= next {
                    let bytes = progress.source_bytes() + progress.stored_bytes();
                    let _ = say(&Reply::Progress { bytes });
                    next = Instant::now() + SIGN_OF_LIFE;
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        // The other thread must be stopped, and an answer given, whatever happens here.
        let result = unwinding(|| {
            answer(&request, &progress, &mut |location| {
                say(&Reply::Publishing { location: location.to_owned() })?;
                let mut line = String::new();
                input.read_line(&mut line).context("waiting to go on")?;
                if line.is_empty() { bail!("the run that asked for this copy is gone") } else { Ok(()) }
            })
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    });
    say(&reply.unwrap_or_else(|e| Reply::Failed { error: format!("{e:#}") }))
}

fn answer(
    request: &Request,
    progress: &Arc<Progress>,
    publishing: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Reply> {
    match request {
        Request::Probe { at } => Ok(Reply::Probed { space: at.open()?.probe()? }),
        Request::Identify { at, now } => Ok(Reply::Identified { identity: at.open()?.identify(*now)? }),
        Request::Scan { at } => Ok(Reply::Scanned { scan: at.open()?.scan(progress)? }),
        Request::Initialise { at, sentinel } => {
            Ok(Reply::Initialised { sentinel: at.open()?.initialise(sentinel)? })
        }
        Request::Verify { at, run, depth, keys } => {
            let keys = Arc::new(keys.read()?);
            let report = verify_with(at.open()?.as_ref(), &at.location, run, *depth, &keys, progress)?;
            Ok(Reply::Verified { report })
        }
        Request::VerifyFiles { at, files } => {
            let report = verify_files(at.open()?.as_ref(), &at.location, files, progress)?;
            Ok(Reply::Verified { report })
        }
        Request::Repair { from, bad, locations, run } => {
            repair::replace(from, bad, locations, run, progress, publishing)
        }
        Request::Drill { at, run, folder, sample, keys } => {
            Ok(Reply::Drilled { proof: drill::prove(at, run, folder, *sample, keys, progress)? })
        }
        Request::Remove { at, run } => {
            let stays = prune::remove(at.open()?.as_ref(), &at.location, run)?;
            Ok(stays.map_or(Reply::Removed, |because| Reply::Stays { because }))
        }
        Request::Pin { at, run, pin } => {
            at.open()?.set_pin(&at.location, run, pin.as_ref()).map(|()| Reply::PinSet)
        }
        Request::Clean { at, run } => at.open()?.clean(run).map(|_| Reply::Removed),
        Request::Copy { from, to, locations, run } => {
            copies::copy(from, to, locations, run, progress, publishing)
        }
    }
}
