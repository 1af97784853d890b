//! One segment in, one independent compressed frame out, and back.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use async_compression::Level;
use async_compression::tokio::write::{GzipDecoder, GzipEncoder};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// zstd at this level, with content checksums.
    Zstd(i32),
    /// gzip at this level.
    Gzip(i32),
}

/// Compresses segments; one for each thread, since it keeps its working memory.
pub(super) enum Compressor {
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(Level),
}

impl Compressor {
    pub fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.include_checksum(true)?; // off by default; a frame must prove itself
                Self::Zstd(compressor)
            }
            Codec::Gzip(level) => Self::Gzip(Level::Precise(level)),
        })
    }

    /// Replaces the content of `frame` with the compressed `raw`.
    pub fn compress(&mut self, raw: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
        frame.clear();
        match self {
            Self::Zstd(compressor) => {
                frame.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                compressor.compress_to_buffer(raw, frame).map(drop)
            }
            Self::Gzip(level) => {
                let encoder = GzipEncoder::with_quality(std::mem::take(frame), *level);
                *frame = write_all_now(encoder, raw)?.into_inner();
                Ok(())
            }
        }
    }
}

/// Decompresses one frame of known content length.
pub(super) struct Decompressor {
    codec: crate::manifest::Codec,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decompressor {
    pub fn new(codec: crate::manifest::Codec) -> io::Result<Self> {
        Ok(Self { codec, zstd: zstd::bulk::Decompressor::new()? })
    }

    /// The content of `frame`, which must be exactly `raw_length` bytes.
    pub fn decompress(&mut self, frame: &[u8], raw_length: usize) -> io::Result<Vec<u8>> {
        let raw = match self.codec {
            crate::manifest::Codec::Zstd => self.zstd.decompress(frame, raw_length)?,
            crate::manifest::Codec::Gzip => {
                let decoder = GzipDecoder::new(Vec::with_capacity(raw_length));
                write_all_now(decoder, frame)?.into_inner()
            }
        };
        if raw.len() == raw_length {
            return Ok(raw);
        }
        let message = format!("the frame holds {} bytes, {raw_length} were expected", raw.len());
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

/// Writes everything through an asynchronous coder whose other end is memory, which is always ready: no
/// runtime is needed on the engine's plain threads.
fn write_all_now<W: AsyncWrite + Unpin>(mut coder: W, bytes: &[u8]) -> io::Result<W> {
    ready(coder.write_all(bytes))?;
    ready(coder.shutdown())?;
    Ok(coder)
}

fn ready<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::Error::other("a coder that writes to memory was not ready")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_codecs_give_back_what_they_got_and_notice_a_wrong_length() {
        use crate::manifest::Codec as Stored;
        let raw = b"some text that repeats itself, some text that repeats itself".repeat(500);
        for (codec, stored) in [(Codec::Zstd(3), Stored::Zstd), (Codec::Gzip(6), Stored::Gzip)] {
            let mut frame = Vec::new();
            let mut compressor = Compressor::new(codec).unwrap();
            for _ in 0..2 {
                compressor.compress(&raw, &mut frame).unwrap();
                assert!(frame.len() < raw.len() / 10);
                let mut decompressor = Decompressor::new(stored).unwrap();
                assert_eq!(decompressor.decompress(&frame, raw.len()).unwrap(), raw);
                assert!(decompressor.decompress(&frame, raw.len() - 1).is_err());
                assert!(decompressor.decompress(&frame, raw.len() + 1).is_err());
                frame[20] ^= 0x10;
                assert!(
                    decompressor.decompress(&frame, raw.len()).is_err(),
                    "{codec:?}: a flipped bit passed"
                );
            }
        }
    }
}
