//! One connection: an SSH client, and requests and answers through its pipes. Many requests are on the way at
//! once, from any number of threads; each asker gets its answers through a channel.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::error::SftpError;
use super::ssh::{self, Destination};
use super::wire::{Answer, Fields, Packet, WritePacket, kind};
use crate::process;

/// How long a login may take, all of it.
const LOGIN: Duration = Duration::from_secs(60);
/// How long a server may take for an answer, and the pipe for taking a byte.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// The same for making a large file durable on a slow disk.
pub(super) const FSYNC_LIMIT: Duration = Duration::from_secs(600);
/// How long a client that has nothing to do any more has for its end.
const GRACE: Duration = Duration::from_secs(2);
/// No answer is longer; OpenSSH's limit is 256 KiB.
const LONGEST: usize = 1 << 20;
/// What every server takes in one request.
const SAFE: u64 = 32 << 10;
/// More than this in one request gains nothing.
const LARGEST: u64 = 256 << 10;

/// What the server said it can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    pub(super) fsync: bool,
    pub(super) statvfs: bool,
    /// Data in one request, in bytes.
    pub(super) read: usize,
    pub(super) write: usize,
}

/// Where an answer goes.
pub(super) type Answers = Sender<Result<Answer, SftpError>>;

/// One connection. Dropping it ends the client.
pub(super) struct Session {
    input: Mutex<Option<Input>>,
    shared: Arc<Shared>,
    pub(super) can: Abilities,
}

struct Input {
    pipe: ChildStdin,
    next: u32,
}

struct Shared {
    destination: Arc<Destination>,
    /// Who waits for which answer; none once the connection is over.
    waiting: Mutex<Option<HashMap<u32, Answers>>>,
    end: Mutex<End>,
    ended: Condvar,
    /// Answers so far.
    heard: AtomicU64,
}

#[derive(Default)]
struct End {
    /// The client, until it is reaped: its number must not be signalled afterwards.
    group: Option<Pid>,
    /// Why it is over; the first reason counts.
    reason: Option<SftpError>,
    over: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Starts a client and greets the server.
    pub(super) fn connect(destination: &Arc<Destination>) -> Result<Self, SftpError> {
        let failed = |what: &str, e: &dyn std::fmt::Display| SftpError::Lost(format!("{what}: {e}"));
        let program = ssh::program()?;
        let call = destination.call().map_err(|e| SftpError::Final(format!("{e:#}")))?;
        let shared = Arc::new(Shared {
            destination: Arc::clone(destination),
            waiting: Mutex::new(Some(HashMap::new())),
            end: Mutex::default(),
            ended: Condvar::new(),
            heard: AtomicU64::new(0),
        });
        let (started, start) = mpsc::sync_channel(1);
        let (greet, greeting) = unbounded();
        let inner = Arc::clone(&shared);
        // The kernel ends the client when the thread that forked it ends, so the thread stays with it.
        thread::Builder::new()
            .name("sftp".to_owned())
            .spawn(move || match ssh::spawn(&program, &call) {
                Ok((mut child, pipe)) => {
                    lock(&inner.end).group = Pid::from_raw(child.id() as i32);
                    let _ = started.send(Ok(pipe)); // whoever asked waits for it
                    inner.attend(&mut child, &greet);
                    drop(call);
                }
                Err(e) => drop(started.send(Err(e))),
            })
            .map_err(|e| failed("starting a thread", &e))?;
        let pipe =
            start.recv().map_err(|e| failed("starting ssh", &e))?.map_err(|e| failed("starting ssh", &e))?;
        let can = Abilities { fsync: false, statvfs: false, read: SAFE as usize, write: SAFE as usize };
        let mut session = Self { input: Mutex::new(Some(Input { pipe, next: 0 })), shared, can };
        session.greet(&greeting)?;
        Ok(session)
    }

    fn greet(&mut self, greeting: &Receiver<Answer>) -> Result<(), SftpError> {
        let _ = self.put(&Packet::init()); // a client that is gone already says why below
        let version = match greeting.recv_timeout(LOGIN) {
            Ok(version) => version,
            Err(RecvTimeoutError::Disconnected) => return Err(self.shared.reason()),
            Err(RecvTimeoutError::Timeout) => {
                let host = &self.shared.destination.place.host;
                return Err(self.shared.fail(SftpError::Lost(format!(
                    "connecting to {host} was given up after {} seconds",
                    LOGIN.as_secs()
                ))));
            }
        };
        if version.id < 3 {
            let text = format!("the server speaks SFTP version {}, and 3 is needed", version.id);
            return Err(self.shared.fail(SftpError::Final(text)));
        }
        let mut fields = version.fields();
        let mut has_limits = false;
        while !fields.is_empty() {
            let (name, data) = (fields.string()?, fields.string()?);
            match name {
                b"fsync@openssh.com" => self.can.fsync = data == b"1",
                b"statvfs@openssh.com" => self.can.statvfs = data == b"2",
                b"limits@openssh.com" => has_limits = data == b"1",
                _ => {}
            }
        }
        // Servers that forbid it by name have it in their greeting all the same.
        if has_limits && let Ok(answer) = self.call(Packet::extended("limits@openssh.com")) {
            let limits = |mut fields: Fields<'_>| {
                fields.u64()?;
                Ok::<_, SftpError>((fields.u64()?, fields.u64()?))
            };
            if let Ok((read, write)) = answer.expect(kind::EXTENDED_REPLY).and_then(limits) {
                // Zero stands for no limit.
                let bounded =
                    |limit: u64| if limit == 0 { SAFE } else { limit.clamp(SAFE, LARGEST) } as usize;
                (self.can.read, self.can.write) = (bounded(read), bounded(write));
            }
        }
        Ok(())
    }

    /// False once the connection is over.
    pub(super) fn is_alive(&self) -> bool {
        lock(&self.shared.end).reason.is_none() && lock(&self.shared.waiting).is_some()
    }

    /// Sends a request; its answer goes to `answers`. Gives its number.
    pub(super) fn send(&self, packet: Packet, answers: &Answers) -> Result<u32, SftpError> {
        self.send_with(answers, |id, input, shared| input.put(&packet.numbered(id), shared))
    }

    /// The same for a write at `offset`.
    pub(super) fn send_write(
        &self,
        packet: &mut WritePacket,
        offset: u64,
        answers: &Answers,
    ) -> Result<u32, SftpError> {
        self.send_with(answers, |id, input, shared| input.put(packet.at(offset, id), shared))
    }

    fn send_with(
        &self,
        answers: &Answers,
        put: impl FnOnce(u32, &mut Input, &Shared) -> Result<(), SftpError>,
    ) -> Result<u32, SftpError> {
        let mut input = lock(&self.input);
        let Some(input) = input.as_mut() else { return Err(self.shared.reason()) };
        let id = input.next;
        input.next = id.wrapping_add(1);
        match lock(&self.shared.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, answers.clone()),
            None => return Err(self.shared.reason()),
        };
        put(id, input, &self.shared)?;
        Ok(id)
    }

    fn put(&self, bytes: &[u8]) -> Result<(), SftpError> {
        match lock(&self.input).as_mut() {
            Some(input) => input.put(bytes, &self.shared),
            None => Err(self.shared.reason()),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call(&self, packet: Packet) -> Result<Answer, SftpError> {
        self.call_within(packet, LIMIT)
    }

    /// The same, with another limit of time.
    pub(super) fn call_within(&self, packet: Packet, limit: Duration) -> Result<Answer, SftpError> {
        let (answers, answer) = unbounded();
        self.send(packet, &answers)?;
        self.wait(&answer, limit)
    }

    /// Sends a request whose answer does not matter.
    pub(super) fn mention(&self, packet: Packet) {
        let _ = self.send(packet, &unbounded().0); // a connection that is over has nothing to tidy up
    }

    /// Waits for the next answer. None in time ends the connection: what comes late would be a riddle.
    pub(super) fn wait(
        &self,
        answers: &Receiver<Result<Answer, SftpError>>,
        limit: Duration,
    ) -> Result<Answer, SftpError> {
        loop {
            let heard = self.shared.heard.load(Ordering::Relaxed);
            match answers.recv_timeout(limit) {
                Ok(answer) => return answer,
                // On a slow line others' answers come first: that is progress.
                Err(_) if self.shared.heard.load(Ordering::Relaxed) != heard => {}
                Err(_) => return Err(self.shared.fail(self.shared.silent(limit))),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of its input ends the client, after it has sent what is still on its way.
        *lock(&self.input) = None;
        let end = lock(&self.shared.end);
        let (mut end, _) = self
            .shared
            .ended
            .wait_timeout_while(end, GRACE, |end| !end.over && end.reason.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        end.kill();
    }
}

impl Input {
    /// Writes all of it, or ends the connection.
    fn put(&mut self, mut bytes: &[u8], shared: &Shared) -> Result<(), SftpError> {
        let mut last = Instant::now();
        while !bytes.is_empty() {
            match self.pipe.write(bytes) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    last = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if last.elapsed() >= LIMIT {
                        return Err(shared.fail(shared.silent(LIMIT)));
                    }
                    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                    let _ = poll(&mut [PollFd::new(&self.pipe, PollFlags::OUT)], Some(&second)); // looked at again
                }
                // The client is gone; its own words say why.
                Err(_) => return Err(shared.reason()),
            }
        }
        Ok(())
    }
}

impl End {
    fn kill(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL); // it may have ended by itself
        }
    }
}

impl Shared {
    fn silent(&self, limit: Duration) -> SftpError {
        SftpError::Lost(format!(
            "{} did not answer for {} seconds; the connection was given up",
            self.destination.place.host,
            limit.as_secs()
        ))
    }

    /// Ends the connection for a reason, or gives the one it ended for.
    fn fail(&self, reason: SftpError) -> SftpError {
        let mut end = lock(&self.end);
        end.kill();
        let reason = end.reason.get_or_insert(reason).clone();
        self.ended.notify_all();
        reason
    }

    /// Why the connection is over. The client's last words are waited for.
    fn reason(&self) -> SftpError {
        let end = lock(&self.end);
        let (end, _) = self
            .ended
            .wait_timeout_while(end, 2 * GRACE, |end| end.reason.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let host = &self.destination.place.host;
        end.reason.clone().unwrap_or_else(|| SftpError::Lost(format!("the connection to {host} broke")))
    }

    /// Reads answers until the client ends, reaps it, and tells everybody who still waits.
    fn attend(&self, child: &mut Child, greet: &Sender<Answer>) {
        let (say, last_words) = mpsc::sync_channel(1);
        if let Some(stderr) = child.stderr.take() {
            let collect = move || drop(say.send(ssh::last_words(stderr)));
            let _ = thread::Builder::new().name("sftp-stderr".to_owned()).spawn(collect);
        }
        let mut greeted = false;
        let broken = child.stdout.take().and_then(|stdout| {
            self.deliver(&mut BufReader::with_capacity(LARGEST as usize, stdout), greet, &mut greeted).err()
        });
        let pid = Pid::from_raw(child.id() as i32);
        if broken.is_none() {
            // It is ending by itself, and about to say why.
            let deadline = Instant::now() + GRACE;
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            while let Some(pid) = pid
                && matches!(waitid(WaitId::Pid(pid), options), Ok(None))
                && Instant::now() < deadline
            {
                thread::sleep(Duration::from_millis(2));
            }
        }
        {
            let mut end = lock(&self.end);
            end.kill();
            let _ = child.wait(); // it was killed, or has ended
            end.group = None;
        }
        let stderr = last_words.recv_timeout(GRACE).unwrap_or_default();
        let reason = broken.unwrap_or_else(|| {
            self.destination.ended(&process::readable(&stderr, std::iter::empty()), greeted)
        });
        let reason = {
            let mut end = lock(&self.end);
            end.over = true;
            let reason = end.reason.get_or_insert(reason).clone();
            self.ended.notify_all();
            reason
        };
        let waiting = lock(&self.waiting).take().unwrap_or_default();
        for answers in waiting.into_values() {
            let _ = answers.send(Err(reason.clone())); // who went away needs no answer
        }
    }

    /// Hands each answer to whoever asked; an error when what arrives is no SFTP.
    fn deliver(
        &self,
        stdout: &mut BufReader<ChildStdout>,
        greet: &Sender<Answer>,
        greeted: &mut bool,
    ) -> Result<(), SftpError> {
        let mut head = [0; 9];
        // The client ends, or is ended, in the middle of anything.
        while stdout.read_exact(&mut head[..4]).is_ok() {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if !(5..=LONGEST).contains(&length) {
                if *greeted {
                    return Err(SftpError::malformed(format!("a packet of {length} bytes")));
                }
                return Err(self.destination.no_sftp(&[&head[..4], stdout.buffer()].concat()));
            }
            if stdout.read_exact(&mut head[4..]).is_err() {
                return Ok(());
            }
            let mut body = vec![0; length - 5];
            if stdout.read_exact(&mut body).is_err() {
                return Ok(());
            }
            self.heard.fetch_add(1, Ordering::Relaxed);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let answer = Answer { id, kind: head[4], body };
            if answer.kind == kind::VERSION && !*greeted {
                *greeted = true;
                let _ = greet.send(answer); // who gave up waiting ends the connection
                continue;
            }
            let asker = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
            if let Some(asker) = asker {
                let _ = asker.send(Ok(answer)); // who went away needs no answer
            }
        }
        Ok(())
    }
}
