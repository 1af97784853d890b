//! Azure Blob Storage through OpenDAL, behind the Cargo feature `azblob`.
//!
//! S3 does not go this way: OpenDAL cannot ask for Object Lock, and does not say until when an object is locked.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use opendal::layers::TimeoutLayer;
use opendal::{ErrorKind, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::runtime::Runtime;

use super::patient::into_io;
use super::{AlreadyThere, Entry, Mode, Object, Store, Tree, Upload, http};
use crate::archive::ReadAt;
use crate::config::{AzblobPlace, Place, resolve_secret};
use crate::target::{Permanent, Space, Unreached};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(60);
/// How long a body may stand still.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes sent as one block, and so many at the same time.
const BLOCK: usize = 8 << 20;
const AT_ONCE: usize = 4;

/// A store behind OpenDAL.
#[derive(Clone)]
pub(crate) struct OpendalStore {
    operator: Operator,
    runtime: Arc<Runtime>,
    place: Place,
    kind: &'static str,
}

impl OpendalStore {
    /// A container of Azure Blob Storage.
    pub(crate) fn azblob(azblob: &AzblobPlace) -> Result<Self> {
        let key = resolve_secret(azblob.account_key.as_ref(), azblob.account_key_file.as_deref())?
            .context("an Azure container needs `account_key_file`")?;
        let endpoint = azblob
            .endpoint
            .clone()
            .unwrap_or_else(|| format!("https://{}.blob.core.windows.net", azblob.account_name));
        let builder = opendal::services::Azblob::default()
            .container(&azblob.container)
            .account_name(&azblob.account_name)
            .account_key(key.expose())
            .endpoint(&endpoint)
            .root(&format!("/{}", azblob.prefix.trim_matches('/')));
        Self::new(builder, Place::Azblob(azblob.clone()), "azblob")
    }

    fn new(builder: impl opendal::Builder, place: Place, kind: &'static str) -> Result<Self> {
        // A client of its own: its connections live on this store's threads.
        let settings = http::HttpSettings { ca_file: None, silence: IDLE, threads: 1 };
        let transport = HttpTransporter::new(ReqwestTransport::new(http::client(&settings)?));
        let operator = Operator::new(builder)
            .map_err(|e| Permanent(format!("{}: {}", place.address(""), e.message())))?
            .with_context(OperationContext::new().with_http_transport(transport))
            .layer(TimeoutLayer::new().with_timeout(REQUEST).with_io_timeout(IDLE));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-store")
            .enable_all()
            .build()
            .context("starting the threads of a store")?;
        Ok(Self { operator, runtime: Arc::new(runtime), place, kind })
    }

    /// The error of one request as a sentence, marked when it is final.
    fn failed(&self, doing: &str, key: &str, error: &opendal::Error) -> anyhow::Error {
        let address = self.place.address(key);
        // The rest of such an error is a page of context: headers, and the request's id.
        let says = error.message().lines().next().unwrap_or_default().trim().to_owned();
        let text = format!("{doing} {address}: {}: {says}", error.kind());
        let is_final = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ConfigInvalid | ErrorKind::Unsupported => true,
            ErrorKind::NotFound => key.is_empty(),
            _ => false,
        };
        match is_final {
            true => Permanent(text).into(),
            false if error.kind() == ErrorKind::NotFound => anyhow::anyhow!(text),
            false => Unreached(text).into(),
        }
    }
}

/// A folder as OpenDAL writes it: with a slash at its end.
fn folder_path(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

impl Store for OpendalStore {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn address(&self, key: &str) -> String {
        self.place.address(key)
    }

    fn probe(&self) -> Result<Option<Space>> {
        let listed = self.runtime.block_on(async { self.operator.list_with("").limit(1).await });
        match listed {
            Ok(_) => Ok(None),
            Err(e) => Err(self.failed("looking at", "", &e)),
        }
    }

    fn upload(&self, key: &str, mode: Mode) -> Result<Box<dyn Upload>> {
        let exclusive = mode == Mode::New;
        let conditional = self.operator.info().capability().write_with_if_not_exists;
        if exclusive && !conditional && self.open(key)?.is_some() {
            return Err(AlreadyThere(self.address(key)).into());
        }
        let begun = self.runtime.block_on(async {
            let writer = self.operator.writer_with(key).chunk(BLOCK).concurrent(AT_ONCE);
            writer.if_not_exists(exclusive && conditional).await
        });
        match begun {
            Ok(writer) => Ok(Box::new(OpendalUpload {
                store: self.clone(),
                key: key.to_owned(),
                writer: Some(writer),
                block: Vec::new(),
                sent: 0,
            })),
            Err(e) => Err(self.failed("writing", key, &e)),
        }
    }

    fn open(&self, key: &str) -> Result<Option<Box<dyn Object>>> {
        match self.runtime.block_on(self.operator.stat(key)) {
            Ok(metadata) => Ok(Some(Box::new(OpendalObject {
                store: self.clone(),
                key: key.to_owned(),
                length: metadata.content_length(),
            }))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("looking at", key, &e)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let path = folder_path(folder);
        let entries = match self.runtime.block_on(self.operator.list(&path)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound && !folder.is_empty() => return Ok(Vec::new()),
            Err(e) => return Err(self.failed("listing", folder, &e)),
        };
        let below = entries.iter().filter_map(|entry| Some((entry, entry.path().strip_prefix(&path)?)));
        Ok(below
            .filter(|(_, name)| !name.is_empty() && *name != "/")
            .map(|(entry, name)| match name.strip_suffix('/') {
                Some(name) => Entry { name: name.to_owned(), length: None },
                None => Entry { name: name.to_owned(), length: Some(entry.metadata().content_length()) },
            })
            .collect())
    }

    fn find(&self, name: &str) -> Result<Option<Vec<String>>> {
        let listed = self.runtime.block_on(async { self.operator.list_with("").recursive(true).await });
        let entries = listed.map_err(|e| self.failed("listing", "", &e))?;
        let end = format!("/{name}");
        let keys = entries.iter().map(|entry| entry.path().to_owned()).filter(|path| path.ends_with(&end));
        Ok(Some(keys.collect()))
    }

    fn delete(&self, key: &str) -> Result<()> {
        match self.runtime.block_on(self.operator.delete(key)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.failed("removing", key, &e)),
            _ => Ok(()),
        }
    }

    fn tree(&self) -> Option<&dyn Tree> {
        None
    }
}

struct OpendalUpload {
    store: OpendalStore,
    key: String,
    /// Gone once it was closed.
    writer: Option<opendal::Writer>,
    block: Vec<u8>,
    sent: u64,
}

impl OpendalUpload {
    fn send(&mut self) -> Result<()> {
        let Some(writer) = &mut self.writer else { bail!("it was written to after its end") };
        let block = std::mem::take(&mut self.block);
        self.sent += block.len() as u64;
        let sent = self.store.runtime.block_on(writer.write(block));
        sent.map_err(|e| self.store.failed("writing", &self.key, &e))
    }
}

impl Write for OpendalUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK {
            self.send().map_err(into_io)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for OpendalUpload {
    fn finish(mut self: Box<Self>, length: u64) -> Result<()> {
        if self.sent + self.block.len() as u64 != length {
            bail!("{} bytes were given, {length} were meant", self.sent + self.block.len() as u64);
        }
        if !self.block.is_empty() || self.sent == 0 {
            self.send()?;
        }
        let Some(mut writer) = self.writer.take() else { bail!("it was ended twice") };
        match self.store.runtime.block_on(writer.close()) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists) => {
                return Err(AlreadyThere(self.store.address(&self.key)).into());
            }
            Err(e) => return Err(self.store.failed("writing", &self.key, &e)),
        }
        match self.store.open(&self.key)? {
            Some(object) if object.length()? == length => Ok(()),
            Some(object) => {
                bail!("{} has {} bytes, {length} were sent", self.store.address(&self.key), object.length()?)
            }
            None => bail!("{} was written and is not there", self.store.address(&self.key)),
        }
    }
}

impl Drop for OpendalUpload {
    fn drop(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            // Blocks that are never committed are invisible, and the store removes them by itself.
            let _ = self.store.runtime.block_on(writer.abort());
        }
    }
}

struct OpendalObject {
    store: OpendalStore,
    key: String,
    length: u64,
}

impl OpendalObject {
    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let range = offset..offset + length;
        let read = self
            .store
            .runtime
            .block_on(async { self.store.operator.read_with(&self.key).range(range).await });
        let bytes = read.map_err(|e| self.store.failed("reading", &self.key, &e))?.to_vec();
        if bytes.len() as u64 != length {
            bail!("{}: {} bytes came, {length} were asked for", self.store.address(&self.key), bytes.len());
        }
        Ok(bytes)
    }
}

impl ReadAt for OpendalObject {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == 0 { Ok(Vec::new()) } else { self.read(offset, length as u64).map_err(into_io) }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }
}

impl Object for OpendalObject {
    fn stream(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
        let object = OpendalObject { store: self.store.clone(), key: self.key.clone(), length: self.length };
        Ok(Box::new(OpendalStream { object, at: offset, block: io::Cursor::default() }))
    }
}

/// An object read block after block.
struct OpendalStream {
    object: OpendalObject,
    at: u64,
    block: io::Cursor<Vec<u8>>,
}

impl Read for OpendalStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.block.read(out)?;
        if got > 0 || out.is_empty() || self.at >= self.object.length {
            return Ok(got);
        }
        let length = (self.object.length - self.at).min(BLOCK as u64);
        self.block = io::Cursor::new(self.object.read(self.at, length).map_err(into_io)?);
        self.at += length;
        self.block.read(out)
    }
}
