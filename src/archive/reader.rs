//! Stored components, decompressed: as one stream, or only the frames that are wanted.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use anyhow::Result;
use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use crossbeam_channel::{Receiver, bounded};
use tokio::io::{AsyncRead, BufReader, ReadBuf};

use super::entries::TarReader;
use super::frames::Decompressor;
use super::index::FrameRecord;
use crate::manifest::Codec;
use crate::model::Sha256;

/// Something that can be read at any position: a file, or an object reached over the network.
pub trait ReadAt: Send + Sync {
    /// Reads exactly `length` bytes from `offset`.
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        FileExt::read_exact_at(self, &mut bytes, offset)?;
        Ok(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// What was read from a stored file.
#[derive(Default)]
pub struct StreamTotals {
    stored: AtomicU64,
    digest: std::sync::Mutex<sha2::Sha256>,
}

impl StreamTotals {
    /// Bytes read from the stored file so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// The digest of them.
    pub fn sha256(&self) -> Sha256 {
        let digest = self.digest.lock().unwrap_or_else(|e| e.into_inner()).clone();
        Sha256(sha2::Digest::finalize(digest).into())
    }
}

/// Counts and digests what is read from a stored file.
pub struct Tallied<R> {
    source: R,
    totals: Arc<StreamTotals>,
}

impl<R: Read> Tallied<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self { source, totals: Arc::default() }
    }

    /// What has been read.
    pub fn totals(&self) -> Arc<StreamTotals> {
        Arc::clone(&self.totals)
    }
}

impl<R: Read> Read for Tallied<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(out)?;
        sha2::Digest::update(&mut *self.totals.digest.lock().unwrap_or_else(|e| e.into_inner()), &out[..got]);
        self.totals.stored.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// The stored file as an asynchronous source that is always ready, because it blocks instead. The decoders
/// are asynchronous; driven this way they need no runtime.
struct Blocking<R>(R);

impl<R: Read + Unpin> AsyncRead for Blocking<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        let got = loop {
            match self.0.read(space) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        buf.advance(got);
        Poll::Ready(Ok(()))
    }
}

enum Decoder<R> {
    Zstd(ZstdDecoder<BufReader<Blocking<R>>>),
    Gzip(GzipDecoder<BufReader<Blocking<R>>>),
}

/// A component decompressed from its first frame to its last.
pub struct StreamDecoder<R> {
    decoder: Decoder<R>,
}

impl<R: Read + Unpin> StreamDecoder<R> {
    /// Decompresses `stored`; a [`Tallied`] one says afterwards what was read.
    pub fn new(stored: R, codec: Codec) -> Self {
        let source = BufReader::with_capacity(256 << 10, Blocking(stored));
        // Without `multiple_members` the decoders end after the first frame, without an error.
        let decoder = match codec {
            Codec::Zstd => {
                let mut decoder = ZstdDecoder::new(source);
                decoder.multiple_members(true);
                Decoder::Zstd(decoder)
            }
            Codec::Gzip => {
                let mut decoder = GzipDecoder::new(source);
                decoder.multiple_members(true);
                Decoder::Gzip(decoder)
            }
        };
        Self { decoder }
    }
}

impl<R: Read + Unpin> Read for StreamDecoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(out);
        let mut context = Context::from_waker(Waker::noop());
        let poll = match &mut self.decoder {
            Decoder::Zstd(decoder) => Pin::new(decoder).poll_read(&mut context, &mut buf),
            Decoder::Gzip(decoder) => Pin::new(decoder).poll_read(&mut context, &mut buf),
        };
        match poll {
            Poll::Ready(result) => result.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::Error::other("a decoder that reads from a file was not ready")),
        }
    }
}

/// Chosen frames of a component, decompressed one after the other.
pub struct FrameReader<'a> {
    file: &'a dyn ReadAt,
    frames: std::vec::IntoIter<FrameRecord>,
    decompressor: Decompressor,
    current: io::Cursor<Vec<u8>>,
}

impl<'a> FrameReader<'a> {
    /// Reads `frames` of `file` in the order given.
    pub fn new(file: &'a dyn ReadAt, codec: Codec, frames: Vec<FrameRecord>) -> io::Result<Self> {
        let decompressor = Decompressor::new(codec)?;
        Ok(Self { file, frames: frames.into_iter(), decompressor, current: io::Cursor::default() })
    }
}

impl Read for FrameReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.current.read(out)?;
            if got > 0 || out.is_empty() {
                return Ok(got);
            }
            let Some(frame) = self.frames.next() else { return Ok(0) };
            let describe = |e: io::Error| {
                io::Error::new(e.kind(), format!("frame {} at byte {}: {e}", frame.frame, frame.offset))
            };
            let stored = self.file.read_exact_at(frame.offset, frame.stored as usize).map_err(describe)?;
            self.current =
                io::Cursor::new(self.decompressor.decompress(&stored, frame.raw as usize).map_err(describe)?);
        }
    }
}

/// Reads ahead on a thread of its own, so that decompressing and writing files overlap.
pub struct Prefetch {
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: io::Cursor<Vec<u8>>,
    failed: bool,
}

impl Prefetch {
    /// Runs `body` with a reader that is up to four chunks of 1 MiB ahead.
    pub fn scope<T>(source: &mut (dyn Read + Send), body: impl FnOnce(&mut Prefetch) -> T) -> T {
        let (send, chunks) = bounded(4);
        thread::scope(|scope| {
            scope.spawn(move || {
                loop {
                    let mut chunk = Vec::with_capacity(1 << 20);
                    let result = (&mut *source).take(1 << 20).read_to_end(&mut chunk);
                    let end = !matches!(result, Ok(n) if n > 0);
                    let message = result.map(|_| chunk);
                    if send.send(message).is_err() || end {
                        return;
                    }
                }
            });
            let mut reader = Prefetch { chunks, current: io::Cursor::default(), failed: false };
            body(&mut reader)
        })
    }
}

impl Read for Prefetch {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.current.read(out)?;
            if got > 0 || out.is_empty() {
                return Ok(got);
            }
            match self.chunks.recv() {
                Ok(Ok(chunk)) if chunk.is_empty() => return Ok(0),
                Ok(Ok(chunk)) => self.current = io::Cursor::new(chunk),
                Ok(Err(e)) => {
                    self.failed = true;
                    return Err(e);
                }
                Err(_) if self.failed => return Err(io::Error::other("reading failed before")),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// What a walk through a tar stream counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarCheck {
    /// Entries.
    pub entries: u64,
    /// Bytes of the stream, end blocks included.
    pub raw_bytes: u64,
}

/// Walks through a tar stream to its end, which must be there, and counts.
pub fn check_tar(stream: &mut dyn Read) -> Result<TarCheck> {
    let mut counting = Counting { source: stream, read: 0 };
    let mut archive = TarReader::new(&mut counting);
    let mut entries = 0;
    while archive.next()?.is_some() {
        entries += 1;
    }
    archive.drain()?;
    Ok(TarCheck { entries, raw_bytes: counting.read })
}

struct Counting<'a> {
    source: &'a mut dyn Read,
    read: u64,
}

impl Read for Counting<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(out)?;
        self.read += got as u64;
        Ok(got)
    }
}
