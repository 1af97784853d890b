//! One running child and the thread that looks after it.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::tail::Tail;
use super::{Cancel, Command, Exit, GRACE, ProcessError};
use crate::sys;

/// Bytes read from the child at once.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for the reader; with [`CHUNK`], how much output is held in memory.
const CHUNKS_WAITING: usize = 8;
/// Bytes the kernel holds between child and reader: of the 64 KiB it has by itself, a dump program would wait for
/// the reader's thread again and again on a machine whose cores all compress.
const PIPE: usize = 1 << 20;
/// How long output is left to gather in such a pipe after less than [`FEW`] bytes were there. Dump programs write
/// 4 KiB at a time; taken one by one they cost two changes of threads each, which is time the program itself lacks.
const GATHER: Duration = Duration::from_millis(1);
const FEW: usize = CHUNK / 2;
/// How often `cancel` is asked.
const CANCEL_TICK: Duration = Duration::from_millis(100);
/// How long the kernel may take to end a killed process before it is left behind.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How long standard error may stay open after the group is gone, held by a process that left it.
const STDERR_WAIT: Duration = Duration::from_millis(500);

/// Why a child was ended by us.
#[derive(Debug, Clone)]
enum Stop {
    TimedOut,
    Cancelled,
    /// Nobody reads any more.
    Dropped,
    Read(String),
}

/// A running child whose standard output is read through [`Read`]. After the end of the output,
/// [`StreamChild::finish`] says whether it was whole. Dropping it earlier ends the process group, which
/// takes up to [`GRACE`] and a little more.
///
/// Reading blocks: use it from a plain thread, not from async code.
#[derive(Debug)]
pub struct StreamChild {
    program: String,
    pid: u32,
    chunks: Option<mpsc::Receiver<Bytes>>,
    current: Bytes,
    at_end: bool,
    stop: Arc<OnceLock<Stop>>,
    // Its loss tells the supervisor that nobody reads any more.
    handle: Option<oneshot::Sender<()>>,
    supervisor: Option<thread::JoinHandle<Result<Exit, ProcessError>>>,
}

impl StreamChild {
    /// The child's process id, which is also the id of its group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the child to end. An error unless all of its output was read and it exited with 0 in
    /// time; the error carries the end of its standard error.
    pub fn finish(mut self) -> Result<Exit, ProcessError> {
        if !self.at_end && self.stop.get().is_none() && !self.fill() && self.stop.get().is_none() {
            self.at_end = true;
        }
        let unread = !self.at_end && self.stop.get().is_none();
        if unread {
            self.abandon();
        }
        match self.join() {
            Ok(_) | Err(ProcessError::NotReadToEnd { .. }) if unread => {
                Err(ProcessError::NotReadToEnd { program: self.program.clone() })
            }
            result => result,
        }
    }

    /// Gets the next chunk into `current`; false when there is none.
    fn fill(&mut self) -> bool {
        if let Some(chunk) = self.chunks.as_mut().and_then(mpsc::Receiver::blocking_recv) {
            self.current = chunk;
        }
        !self.current.is_empty()
    }

    fn abandon(&mut self) {
        self.chunks = None;
        self.handle = None;
    }

    fn join(&mut self) -> Result<Exit, ProcessError> {
        let died = || ProcessError::Spawn {
            program: self.program.clone(),
            reason: "the thread that looked after it failed".to_owned(),
        };
        match self.supervisor.take().map(thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(died()),
        }
    }
}

impl Read for StreamChild {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.at_end {
            return Ok(0);
        }
        if self.current.is_empty() && !self.fill() {
            // The channel is closed: at the end of the output, or because the child was ended.
            return match self.stop.get() {
                None => {
                    self.at_end = true;
                    Ok(0)
                }
                Some(stop) => Err(io::Error::other(match stop {
                    Stop::TimedOut => format!("program {} had not finished by its deadline", self.program),
                    Stop::Cancelled => format!("program {} was ended: the run was interrupted", self.program),
                    Stop::Dropped => format!("program {} was ended", self.program),
                    Stop::Read(reason) => {
                        format!("the output of {} could not be read: {reason}", self.program)
                    }
                })),
            };
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

impl Drop for StreamChild {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            self.abandon();
            // Whoever dropped it has a better error to tell.
            let _ = self.join();
        }
    }
}

/// Starts a program whose output is read as a stream. The deadline of the [`Command`] runs from here to
/// the child's end.
pub fn stream(command: Command, cancel: Cancel) -> Result<StreamChild, ProcessError> {
    start(command, Stdio::null(), cancel)
}

/// The same, with a standard input: the reading end of a pipe.
pub fn stream_from(
    command: Command,
    stdin: io::PipeReader,
    cancel: Cancel,
) -> Result<StreamChild, ProcessError> {
    start(command, Stdio::from(stdin), cancel)
}

fn start(command: Command, stdin: Stdio, cancel: Cancel) -> Result<StreamChild, ProcessError> {
    let program = command.name();
    let resolved = command.resolve()?;
    let failed = |reason: String| ProcessError::Spawn { program: program.clone(), reason };

    let (chunk_sender, chunks) = mpsc::channel(CHUNKS_WAITING);
    let (handle, dropped) = oneshot::channel();
    let (started_sender, started) = std_mpsc::sync_channel(1);
    let stop = Arc::new(OnceLock::new());
    let supervised = Supervised { command, chunks: chunk_sender, cancel, dropped, stop: stop.clone() };

    // The kernel ends the child when the thread that forked it ends, so the thread stays with the child.
    let supervisor = thread::Builder::new()
        .name("child".to_owned())
        .spawn(move || {
            let program = supervised.command.name();
            let failed = |reason: io::Error| ProcessError::Spawn { program, reason: reason.to_string() };
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let error = failed(error);
                    let _ = started_sender.send(Err(error.clone()));
                    return Err(error);
                }
            };
            let result = runtime.block_on(async {
                match spawn(&supervised.command, &resolved, stdin) {
                    Ok((child, pid)) => {
                        let _ = started_sender.send(Ok(pid));
                        supervised.run(child, pid).await
                    }
                    Err(error) => {
                        let error = failed(error);
                        let _ = started_sender.send(Err(error.clone()));
                        Err(error)
                    }
                }
            });
            // A reader of a pipe that some stray process holds open must not hold up this thread.
            runtime.shutdown_background();
            result
        })
        .map_err(|error| failed(error.to_string()))?;

    let pid = started.recv().map_err(|_| failed("the thread that looks after it failed".to_owned()))??;
    Ok(StreamChild {
        program,
        pid: pid.as_raw_nonzero().get() as u32,
        chunks: Some(chunks),
        current: Bytes::new(),
        at_end: false,
        stop,
        handle: Some(handle),
        supervisor: Some(supervisor),
    })
}

fn spawn(command: &Command, resolved: &std::path::Path, stdin: Stdio) -> io::Result<(Child, Pid)> {
    let mut std = std::process::Command::new(resolved);
    std.args(&command.args)
        .env_clear()
        .envs(command.environment())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/");
    std.process_group(0);
    if let Some(user) = &command.user {
        // The standard library drops root's further groups with it.
        std.uid(user.uid).gid(user.gid);
    }
    sys::die_with_parent(&mut std);
    let child = tokio::process::Command::from(std).spawn()?;
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(id as i32))
        .ok_or_else(|| io::Error::other("it has no process id"))?;
    Ok((child, pid))
}

/// What the supervising thread holds.
struct Supervised {
    command: Command,
    chunks: mpsc::Sender<Bytes>,
    cancel: Cancel,
    dropped: oneshot::Receiver<()>,
    stop: Arc<OnceLock<Stop>>,
}

impl Supervised {
    async fn run(self, mut child: Child, pid: Pid) -> Result<Exit, ProcessError> {
        let Supervised { command, chunks, cancel, dropped, stop } = self;
        let tail = Arc::new(Mutex::new(Tail::default()));
        let stderr = tokio::spawn(keep_tail(child.stderr.take(), tail.clone()));
        let stdout = child.stdout.take();

        let mut work = Box::pin(async {
            pump(stdout, chunks, &stop).await?;
            exited(pid).await;
            Ok::<(), Stop>(())
        });
        let stopped = tokio::select! {
            done = &mut work => done.err(),
            () = sleep(command.timeout) => Some(Stop::TimedOut),
            () = cancelled(&cancel) => Some(Stop::Cancelled),
            _ = dropped => Some(Stop::Dropped),
        };
        // The reason must be there before the reader meets the closed channel, which would else look like the
        // end of the output; `work` owns the sender.
        if let Some(reason) = &stopped {
            let _ = stop.set(reason.clone());
        }
        drop(work);
        if stopped.is_some() {
            let _ = kill_process_group(pid, Signal::TERM);
            let _ = timeout(GRACE, exited(pid)).await;
        }
        // The leader is not reaped yet, so the number still means its group. After a good end this reaches
        // what the program left running.
        let _ = kill_process_group(pid, Signal::KILL);
        let status = timeout(KILL_WAIT, child.wait()).await;
        let _ = timeout(STDERR_WAIT, stderr).await;
        let tail = std::mem::take(&mut *tail.lock().unwrap_or_else(PoisonError::into_inner));
        let stderr = tail.finish(command.secrets());

        let program = command.name();
        match (stopped, status) {
            (Some(Stop::TimedOut), _) => {
                Err(ProcessError::TimedOut { program, timeout: command.timeout, stderr })
            }
            (Some(Stop::Cancelled), _) => Err(ProcessError::Cancelled { program }),
            (Some(Stop::Dropped), _) => Err(ProcessError::NotReadToEnd { program }),
            (Some(Stop::Read(reason)), _) => Err(ProcessError::Read { program, reason }),
            (None, Ok(Ok(status))) => judge(status, program, stderr),
            (None, Ok(Err(error))) => {
                Err(ProcessError::Read { program, reason: format!("its exit status is unknown: {error}") })
            }
            (None, Err(_)) => {
                Err(ProcessError::Read { program, reason: "its exit status is unknown".to_owned() })
            }
        }
    }
}

fn judge(status: ExitStatus, program: String, stderr: super::StderrTail) -> Result<Exit, ProcessError> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Exit { stderr }),
        (Some(code), _) => Err(ProcessError::Failed { program, code, stderr }),
        (None, signal) => {
            let signal = signal.unwrap_or(0);
            let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown", |s| s.as_str());
            Err(ProcessError::Signalled { program, signal, name, stderr })
        }
    }
}

/// Sends all of standard output to the reader, at the reader's pace. A failure is in `stop` before the
/// channel closes.
async fn pump(
    stdout: Option<ChildStdout>,
    chunks: mpsc::Sender<Bytes>,
    stop: &OnceLock<Stop>,
) -> Result<(), Stop> {
    let Some(mut stdout) = stdout else { return Ok(()) };
    // Where a limit of the system forbids it, the smaller pipe does as well, and must not be left to fill up.
    let is_wide = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE).is_ok();
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(bytes) => {
                if chunks.send(buffer.split().freeze()).await.is_err() {
                    return Err(Stop::Dropped);
                }
                buffer.reserve(CHUNK);
                if is_wide && bytes < FEW {
                    sleep(GATHER).await;
                }
            }
            Err(error) => {
                let reason = Stop::Read(error.to_string());
                let _ = stop.set(reason.clone());
                return Err(reason);
            }
        }
    }
}

/// Reads standard error to its end, so that the child never waits for us, and keeps the last of it.
async fn keep_tail(stderr: Option<ChildStderr>, tail: Arc<Mutex<Tail>>) {
    async fn read(stderr: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> usize {
        stderr.read(buffer).await.unwrap_or(0)
    }
    let Some(mut stderr) = stderr else { return };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = read(&mut stderr, &mut buffer).await;
        if n == 0 {
            return;
        }
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..n]);
    }
}

/// Returns once the child has ended, without reaping it: its number must not be given to another process
/// before its group was signalled for the last time. (A pidfd would do, but not on kernels before 5.3.)
async fn exited(pid: Pid) {
    let mut pause = Duration::from_millis(1);
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) => {}
            // Ended; or no longer our child, which leaves nothing to wait for.
            Ok(Some(_)) | Err(_) => return,
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(32));
    }
}

async fn cancelled(cancel: &Cancel) {
    while !cancel() {
        sleep(CANCEL_TICK).await;
    }
}
