//! Files of a server: written and read with many requests on the way, so that a round trip costs nothing.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use crossbeam_channel::{Receiver, unbounded};

use super::SftpStore;
use super::error::SftpError;
use super::session::{Answers, FSYNC_LIMIT, LIMIT, Session};
use super::wire::{Answer, Packet, WritePacket, kind, open, status};
use crate::archive::ReadAt;
use crate::target::remote::{Object, Upload};

/// Bytes on their way in one direction, for one file. OpenSSH's own window is 2 MiB; more waits in pipes only.
const WINDOW: usize = 4 << 20;

type Outcomes = Receiver<Result<Answer, SftpError>>;

/// An open file of the server, closed when it is dropped.
pub(super) struct Handle {
    pub(super) session: Arc<Session>,
    bytes: Vec<u8>,
    open: bool,
}

impl Handle {
    /// Opens a file; `mode` is what a new one gets.
    pub(super) fn open(session: &Arc<Session>, path: &str, how: u32, mode: u32) -> Result<Self, SftpError> {
        let packet = Packet::new(kind::OPEN).string(path.as_bytes()).u32(how);
        let packet = if how & open::CREATE == 0 { packet.u32(0) } else { packet.permissions(mode) };
        Self::from(session, &session.call(packet)?)
    }

    /// Opens a folder to be listed.
    pub(super) fn folder(session: &Arc<Session>, path: &str) -> Result<Self, SftpError> {
        let answer = session.call(Packet::new(kind::OPENDIR).string(path.as_bytes()))?;
        Self::from(session, &answer)
    }

    fn from(session: &Arc<Session>, answer: &Answer) -> Result<Self, SftpError> {
        let bytes = answer.expect(kind::HANDLE)?.string()?.to_vec();
        Ok(Self { session: Arc::clone(session), bytes, open: true })
    }

    /// A request about it.
    pub(super) fn packet(&self, kind: u8) -> Packet {
        Packet::new(kind).string(&self.bytes)
    }

    fn length(&self) -> Result<u64, SftpError> {
        let answer = self.session.call(self.packet(kind::FSTAT))?;
        let found = answer.expect(kind::ATTRS)?.attributes()?;
        found.size.ok_or_else(|| SftpError::malformed("it does not say how long a file is"))
    }

    fn fsync(&self) -> Result<(), SftpError> {
        let packet = Packet::extended("fsync@openssh.com").string(&self.bytes);
        self.session.call_within(packet, FSYNC_LIMIT)?.done()
    }

    fn close(mut self) -> Result<(), SftpError> {
        self.open = false;
        self.session.call(self.packet(kind::CLOSE))?.done()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.open {
            self.session.mention(self.packet(kind::CLOSE));
        }
    }
}

/// A file on its way to the server.
pub(super) struct SftpUpload {
    store: SftpStore,
    key: String,
    /// None once it is closed.
    handle: Option<Handle>,
    packet: WritePacket,
    /// Bytes that were sent.
    sent: u64,
    on_the_way: usize,
    answers: (Answers, Outcomes),
    failed: Option<SftpError>,
}

impl SftpUpload {
    pub(super) fn new(store: SftpStore, key: &str, handle: Handle) -> Self {
        let packet = WritePacket::new(&handle.bytes, handle.session.can.write);
        Self {
            store,
            key: key.to_owned(),
            handle: Some(handle),
            packet,
            sent: 0,
            on_the_way: 0,
            answers: unbounded(),
            failed: None,
        }
    }

    /// Sends what is gathered, after having waited for so many answers that it fits into the window.
    fn send(&mut self) -> Result<(), SftpError> {
        let Some(handle) = &self.handle else { return Err(SftpError::Lost("the file is closed".to_owned())) };
        let session = Arc::clone(&handle.session);
        let most = (WINDOW / session.can.write).max(1);
        self.settle(&session, most - 1)?;
        session.send_write(&mut self.packet, self.sent, &self.answers.0)?;
        self.on_the_way += 1;
        self.sent += self.packet.len() as u64;
        self.packet.clear();
        Ok(())
    }

    /// Waits until no more than `left` requests are without an answer.
    fn settle(&mut self, session: &Session, left: usize) -> Result<(), SftpError> {
        while self.on_the_way > left {
            session.wait(&self.answers.1, LIMIT)?.done()?;
            self.on_the_way -= 1;
        }
        // A disk that is full is noticed now, not a window later.
        while let Ok(answer) = self.answers.1.try_recv() {
            answer?.done()?;
            self.on_the_way -= 1;
        }
        Ok(())
    }

    fn complete(&mut self, length: u64) -> Result<(), SftpError> {
        if self.packet.len() > 0 {
            self.send()?;
        }
        let Some(handle) = &self.handle else { return Ok(()) };
        let session = Arc::clone(&handle.session);
        self.settle(&session, 0)?;
        let Some(handle) = &self.handle else { return Ok(()) };
        if session.can.fsync {
            match handle.fsync() {
                // A server may forbid it and say that it has it all the same.
                Err(e) if e.is(status::UNSUPPORTED) || e.is(status::PERMISSION_DENIED) => {}
                done => done?,
            }
        }
        let found = handle.length()?;
        if found != length || self.sent != length {
            return Err(SftpError::Lost(format!(
                "the file is incomplete: {found} bytes are there, {} were sent, {length} should be",
                self.sent
            )));
        }
        match self.handle.take() {
            Some(handle) => handle.close(),
            None => Ok(()),
        }
    }
}

impl Write for SftpUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone().into_io());
        }
        let taken = self.packet.take(bytes);
        if self.packet.is_full()
            && let Err(e) = self.send()
        {
            let e = self.store.why(e);
            self.failed = Some(e.clone());
            return Err(e.into_io());
        }
        Ok(taken)
    }

    /// Does nothing: what counts is the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for SftpUpload {
    fn finish(mut self: Box<Self>, length: u64) -> Result<()> {
        let done = match self.failed.take() {
            Some(failed) => Err(failed),
            None => self.complete(length).map_err(|e| self.store.why(e)),
        };
        done.map_err(|e| e.doing(format_args!("writing {}", self.store.shown(&self.key))))
    }
}

impl Drop for SftpUpload {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let session = Arc::clone(&handle.session);
        drop(handle);
        if !self.store.write_only() {
            let path = self.store.path(&self.key);
            session.mention(Packet::new(kind::REMOVE).string(path.as_bytes()));
        }
    }
}

/// A stored file. It is opened again where the connection was lost.
pub(super) struct SftpObject {
    store: SftpStore,
    key: String,
    length: u64,
    handle: Mutex<Option<Arc<Handle>>>,
}

impl SftpObject {
    /// Opens it; none when there is no such file.
    pub(super) fn open(store: &SftpStore, key: &str) -> Result<Option<Self>> {
        let doing = || format!("opening {}", store.shown(key));
        let opened =
            store.session().and_then(|session| Handle::open(&session, &store.path(key), open::READ, 0));
        let handle = match opened {
            Err(e) if e.is(status::NO_SUCH_FILE) => return Ok(None),
            opened => opened.map_err(|e| e.doing(doing()))?,
        };
        let attributes = |handle: &Handle| {
            handle.session.call(handle.packet(kind::FSTAT))?.expect(kind::ATTRS)?.attributes()
        };
        let found = attributes(&handle).map_err(|e| e.doing(doing()))?;
        let Some(length) = found.size.filter(|_| found.mode.is_none() || found.is_file()) else {
            bail!("{} is no file", store.shown(key));
        };
        let handle = Mutex::new(Some(Arc::new(handle)));
        Ok(Some(Self { store: store.clone(), key: key.to_owned(), length, handle }))
    }

    fn handle(&self) -> Result<Arc<Handle>, SftpError> {
        let mut slot = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = slot.as_ref().filter(|handle| handle.session.is_alive()) {
            return Ok(Arc::clone(handle));
        }
        *slot = None;
        let handle = Handle::open(&self.store.session()?, &self.store.path(&self.key), open::READ, 0)?;
        if handle.length()? != self.length {
            return Err(SftpError::Lost("it was replaced while it was read".to_owned()));
        }
        Ok(Arc::clone(slot.insert(Arc::new(handle))))
    }

    /// The bytes from `offset` to `end`, or to the end of the file.
    fn pipeline(&self, offset: u64, end: u64) -> Result<Pipeline, SftpError> {
        Ok(Pipeline {
            handle: self.handle()?,
            shown: self.store.shown(&self.key),
            next: offset,
            end: end.min(self.length),
            slots: VecDeque::new(),
            answers: unbounded(),
            current: (Vec::new(), 0),
        })
    }
}

impl ReadAt for SftpObject {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.length);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut pipeline = self.pipeline(offset, end).map_err(SftpError::into_io)?;
        let mut bytes = vec![0; length];
        pipeline.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }
}

impl Object for SftpObject {
    fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
        let doing = |e: SftpError| e.doing(format_args!("reading {}", self.store.shown(&self.key)));
        Ok(Box::new(self.pipeline(offset, self.length).map_err(doing)?))
    }
}

/// Reads a range with as many requests on the way as the window allows. They are answered in any order, and with
/// less than was asked for.
struct Pipeline {
    handle: Arc<Handle>,
    shown: String,
    next: u64,
    end: u64,
    slots: VecDeque<Slot>,
    answers: (Answers, Outcomes),
    /// What arrived, and how much of it was given already.
    current: (Vec<u8>, usize),
}

/// One request.
struct Slot {
    id: u32,
    offset: u64,
    length: usize,
    data: Option<Vec<u8>>,
}

impl Pipeline {
    fn ask(&self, offset: u64, length: usize) -> Result<Slot, SftpError> {
        let packet = self.handle.packet(kind::READ).u64(offset).u32(length as u32);
        let id = self.handle.session.send(packet, &self.answers.0)?;
        Ok(Slot { id, offset, length, data: None })
    }

    fn fill(&mut self) -> Result<(), SftpError> {
        let most = self.handle.session.can.read;
        while self.slots.len() < (WINDOW / most).max(1) && self.next < self.end {
            let length = (self.end - self.next).min(most as u64) as usize;
            let slot = self.ask(self.next, length)?;
            self.slots.push_back(slot);
            self.next += length as u64;
        }
        Ok(())
    }

    /// The data that follow; none at the end.
    fn advance(&mut self) -> Result<Option<Vec<u8>>, SftpError> {
        self.fill()?;
        loop {
            match self.slots.front_mut() {
                None => return Ok(None),
                Some(slot) if slot.data.is_some() => {
                    let data = slot.data.take();
                    self.slots.pop_front();
                    return Ok(data);
                }
                Some(_) => {}
            }
            let answer = self.handle.session.wait(&self.answers.1, LIMIT)?;
            let Some(at) = self.slots.iter().position(|slot| slot.id == answer.id) else { continue };
            let length = match answer.expect(kind::DATA) {
                Ok(mut fields) => fields.string()?.len(),
                Err(e) if e.is(status::EOF) => {
                    return Err(SftpError::Lost("the file became shorter while it was read".to_owned()));
                }
                Err(e) => return Err(e),
            };
            let (offset, asked) = (self.slots[at].offset, self.slots[at].length);
            if length == 0 || length > asked {
                return Err(SftpError::malformed(format!(
                    "{length} bytes came where {asked} were asked for"
                )));
            }
            if length < asked {
                let rest = self.ask(offset + length as u64, asked - length)?;
                self.slots.insert(at + 1, rest);
            }
            self.slots[at].length = length;
            // The data stand behind their length; cutting that off would copy them.
            self.slots[at].data = Some(answer.body);
        }
    }
}

impl Read for Pipeline {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.current.1 >= self.current.0.len() {
            let next = self.advance().map_err(|e| {
                let e = e.into_io();
                match e.get_ref().is_some_and(|inner| inner.is::<crate::target::Permanent>()) {
                    true => e,
                    false => io::Error::new(e.kind(), format!("reading {}: {e}", self.shown)),
                }
            })?;
            let Some(next) = next else { return Ok(0) };
            self.current = (next, 4);
        }
        let (data, at) = &mut self.current;
        let count = out.len().min(data.len() - *at);
        out[..count].copy_from_slice(&data[*at..*at + count]);
        *at += count;
        Ok(count)
    }
}
