//! Writing an object: a short one by one request, a longer one in parts, some of them at the same time.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use reqwest::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::body::{Payload, Source, nameless_file};
use super::client::{Call, header};
use super::error::Fault;
use super::plan::Tier;
use super::xml::{self, Part};
use super::{Inner, into_io};
use crate::manifest;
use crate::target::remote::{AlreadyThere, Mode, Upload};

/// Tells whose an object is, when the answer to its writing was lost.
const TOKEN: &str = "x-amz-meta-upload";
/// How long giving up may take.
const ABORT: Duration = Duration::from_secs(15);
/// Putting parts together takes stores minutes.
const COMPLETE_PATIENCE: u32 = 10;

/// What is being filled: a part, or all of a short object.
enum Filling {
    Memory(Vec<u8>),
    File { file: File, length: u64 },
}

impl Filling {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(buffer) => buffer.extend_from_slice(bytes),
            Self::File { file, length } => {
                file.write_all(bytes)?;
                *length += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn into_source(self) -> Source {
        match self {
            Self::Memory(bytes) => Source::Bytes(Bytes::from(bytes)),
            Self::File { file, length } => Source::File { file: Arc::new(file), length },
        }
    }
}

/// An upload in parts.
struct Multipart {
    id: String,
    sending: JoinSet<Result<Part>>,
    sent: Vec<Part>,
    slots: Arc<Semaphore>,
}

/// An object being written.
pub(super) struct S3Upload {
    inner: Arc<Inner>,
    key: String,
    mode: Mode,
    token: String,
    filling: Filling,
    /// Of the part being filled.
    tier: Tier,
    number: u32,
    /// Bytes taken so far.
    taken: u64,
    multipart: Option<Multipart>,
}

impl S3Upload {
    pub(super) fn new(inner: Arc<Inner>, key: &str, mode: Mode) -> Result<Self> {
        let tier = inner.plan.part(1).context("an upload has no parts")?;
        Ok(Self {
            inner,
            key: key.to_owned(),
            mode,
            token: format!("{:032x}", rand::random::<u128>()),
            filling: Filling::Memory(Vec::new()),
            tier,
            number: 1,
            taken: 0,
            multipart: None,
        })
    }

    /// A call that makes the object what it will be: with its token and its lock.
    fn creating(&self, method: Method) -> Result<Call> {
        let mut call = Call::new(method, Some(&self.key))
            .header(TOKEN, &self.token)
            .header("content-type", "application/octet-stream");
        // Marks and the sentinel, which begin with a dot, and what pins a backup must be removable.
        let name = self.key.rsplit('/').next().unwrap_or_default();
        let is_mark = name.starts_with('.') || name == manifest::PIN_FILE;
        if let Some(lock) = self.inner.lock.filter(|_| !is_mark) {
            let until = lock.until(self.inner.client.clock.now())?;
            call = call.header("x-amz-object-lock-mode", lock.mode.as_str()).header(
                "x-amz-object-lock-retain-until-date",
                until.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            );
        }
        Ok(call)
    }

    /// Sends what was filled as the next part, as soon as there is room for it.
    fn send_part(&mut self) -> Result<()> {
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => {
                let call = self.creating(Method::POST)?.query("uploads", "");
                let begun = self.inner.wait(self.inner.client.persist(&call));
                let answer = begun.map_err(|(fault, _)| self.failed(fault))?;
                let id = xml::upload_id(&answer.text).with_context(|| self.doing())?;
                self.multipart.insert(Multipart {
                    id,
                    sending: JoinSet::new(),
                    sent: Vec::new(),
                    slots: Arc::new(Semaphore::new(self.inner.plan.in_flight as usize)),
                })
            }
        };
        let Some(next) = self.inner.plan.part(self.number + 1) else {
            bail!("{}: the object is longer than stores take, {} bytes so far", self.doing(), self.taken);
        };
        let filling = std::mem::replace(&mut self.filling, Filling::Memory(Vec::new()));
        let share = self.inner.plan.share(self.tier.bytes);
        let slots = Arc::clone(&multipart.slots);
        let permit = self.inner.wait(slots.acquire_many_owned(share)).context("an upload was closed")?;
        let part = OnePart {
            inner: self.inner.for_task(),
            key: self.key.clone(),
            id: multipart.id.clone(),
            number: self.number,
            source: filling.into_source(),
            _permit: permit,
        };
        multipart.sending.spawn_on(part.send(), self.inner.http.handle());
        (self.tier, self.number) = (next, self.number + 1);
        self.filling = match next.in_file {
            true => {
                let folder = &self.inner.plan.folder;
                let file = nameless_file(folder)
                    .with_context(|| format!("making a file for a large part in {}", folder.display()))?;
                Filling::File { file, length: 0 }
            }
            false => Filling::Memory(Vec::with_capacity(next.bytes as usize)),
        };
        self.collect(false)
    }

    /// Takes in what became of parts; waits for all of them when asked to.
    fn collect(&mut self, all: bool) -> Result<()> {
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        loop {
            let joined = match all {
                true => self.inner.wait(multipart.sending.join_next()),
                false => multipart.sending.try_join_next(),
            };
            match joined {
                Some(part) => multipart.sent.push(part.context("sending a part")??),
                None => return Ok(()),
            }
        }
    }

    fn doing(&self) -> String {
        format!("writing {}", self.inner.client.address(&self.key))
    }

    fn failed(&self, fault: Fault) -> anyhow::Error {
        self.inner.client.error(fault, "writing", &self.key)
    }

    fn taken_already(&self) -> anyhow::Error {
        AlreadyThere(self.inner.client.address(&self.key)).into()
    }

    /// Makes the last request, the one that makes the object visible, under the condition that there is none.
    fn make_visible(&self, call: &Call) -> Result<()> {
        let client = &self.inner.client;
        let mut conditional = self.mode == Mode::New && self.inner.conditional.load(Ordering::Relaxed);
        loop {
            if self.mode == Mode::New && !conditional && !self.inner.write_only && self.stored()?.is_some() {
                return Err(self.taken_already());
            }
            let mut call = call.clone();
            if conditional {
                call = call.header("if-none-match", "*");
            }
            match self.inner.wait(client.persist(&call)) {
                Ok(_) => return Ok(()),
                // Every store takes these requests themselves: it is the condition it does not know.
                Err((fault, _)) if conditional && fault.is_unknown() => {
                    conditional = false;
                    self.inner.conditional.store(false, Ordering::Relaxed);
                }
                // The answer to an earlier attempt was lost, which may have been that it is done.
                Err((fault, true)) if fault.is_taken() || fault.code() == "NoSuchUpload" => {
                    return match self.stored()? {
                        Some(token) if token == self.token => Ok(()),
                        _ if fault.is_taken() && conditional => Err(self.taken_already()),
                        _ => Err(self.failed(fault)),
                    };
                }
                Err((fault, _)) if conditional && fault.is_taken() => return Err(self.taken_already()),
                Err((fault, _)) => return Err(self.failed(fault)),
            }
        }
    }

    /// The token of the object that stands there; empty for one without, none where there is none.
    fn stored(&self) -> Result<Option<String>> {
        let call = Call::new(Method::HEAD, Some(&self.key));
        match self.inner.wait(self.inner.client.persist(&call)) {
            Ok(answer) => Ok(Some(header(&answer.headers, TOKEN).unwrap_or_default().to_owned())),
            Err((fault, _)) if fault.is_missing() => Ok(None),
            // Whoever may not look cannot know: as if there were one of somebody else.
            Err((fault, _)) if fault.is_forbidden() && self.inner.write_only => Ok(Some(String::new())),
            Err((fault, _)) => Err(self.failed(fault)),
        }
    }
}

/// One part on its way.
struct OnePart {
    inner: Arc<super::ForTask>,
    key: String,
    id: String,
    number: u32,
    source: Source,
    /// Room that is free again when this is dropped.
    _permit: OwnedSemaphorePermit,
}

impl OnePart {
    async fn send(self) -> Result<Part> {
        let source = self.source.clone();
        let payload = tokio::task::spawn_blocking(move || Payload::new(source)).await??;
        let call = Call::new(Method::PUT, Some(&self.key))
            .query("partNumber", self.number.to_string())
            .query("uploadId", &self.id);
        let call = Call { payload, ..call };
        match self.inner.client.persist(&call).await {
            Ok(answer) => {
                let etag = header(&answer.headers, "etag").filter(|etag| !etag.is_empty());
                let address = self.inner.client.address(&self.key);
                let etag = etag.with_context(|| format!("writing {address}: a part got no ETag"))?;
                Ok(Part { number: self.number, etag: etag.to_owned() })
            }
            Err((fault, _)) => Err(self.inner.client.error(fault, "writing", &self.key)),
        }
    }
}

impl Write for S3Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filling.length() >= self.tier.bytes {
            self.send_part().map_err(into_io)?;
        }
        let room = (self.tier.bytes - self.filling.length()).min(bytes.len() as u64) as usize;
        self.filling.write(&bytes[..room])?;
        self.taken += room as u64;
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for S3Upload {
    fn finish(mut self: Box<Self>, length: u64) -> Result<()> {
        if self.taken != length {
            bail!("{}: {length} bytes were to be written, {} came", self.doing(), self.taken);
        }
        if self.multipart.is_none() {
            let filling = std::mem::replace(&mut self.filling, Filling::Memory(Vec::new()));
            let payload = Payload::new(filling.into_source()).with_context(|| self.doing())?;
            let call = Call { payload, ..self.creating(Method::PUT)? };
            return self.make_visible(&call);
        }
        if self.filling.length() > 0 {
            self.send_part()?;
        }
        self.collect(true)?;
        let multipart = self.multipart.as_mut().ok_or_else(|| anyhow!("an upload lost its parts"))?;
        multipart.sent.sort_by_key(|part| part.number);
        let text = xml::complete(&multipart.sent);
        let call = Call::new(Method::POST, Some(&self.key)).query("uploadId", &multipart.id);
        let payload = Payload::new(Source::Bytes(text.into()))?;
        let call = Call { payload, patience: COMPLETE_PATIENCE, ..call };
        self.make_visible(&call.header("content-type", "application/xml"))?;
        self.multipart = None;
        Ok(())
    }
}

impl Drop for S3Upload {
    /// An upload that was not finished is given up, so that its parts take no room.
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        multipart.sending.abort_all();
        let call = Call::new(Method::DELETE, Some(&self.key)).query("uploadId", &multipart.id);
        let given_up = self.inner.wait(async {
            while multipart.sending.join_next().await.is_some() {}
            tokio::time::timeout(ABORT, self.inner.client.exchange(&call)).await
        });
        if let Ok(Err(fault)) = given_up {
            // What stays is removed by `discard`, or by the bucket's own rule.
            tracing::debug!("{:#}", self.inner.client.error(fault, "giving up", &self.key));
        }
    }
}
