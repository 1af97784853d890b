//! The end of an RDB file: checked, and freed from what the transfer put behind it.
//!
//! An RDB file begins with `REDIS` (or `VALKEY`) and a version, and ends with the byte 0xFF and a CRC-64 of all
//! before it, eight bytes with the lowest first; eight zeros where the server makes no checksums. When the
//! server sends without a file of its own (`repl-diskless-sync`, the default since version 7), it marks the end
//! by forty more characters; to standard output, the client program passes them on.

use std::io::{self, Read};

use anyhow::{bail, ensure};
use crc::{CRC_64_REDIS, Crc, Digest, Table};

use crate::source::StreamSource;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// Bytes of the checksum.
const SUM: usize = 8;
/// Characters with which a server marks the end of what it sends.
const MARK: usize = 40;
/// How many of the last bytes are held back until it is clear what they are.
const HELD: usize = SUM + MARK;
/// The byte before the checksum.
const END: u8 = 0xFF;
/// How files begin.
const MAGIC: [&[u8]; 2] = [b"REDIS", b"VALKEY"];

/// An RDB file while it is read.
pub(super) struct RdbStream {
    inner: Box<dyn StreamSource>,
    program: String,
    /// Bytes that were read and not yet passed on; at the end of the input, all that will be.
    held: Vec<u8>,
    /// How many of `held` were passed on.
    given: usize,
    /// Over all bytes passed on.
    digest: Digest<'static, u64, Table<16>>,
    last_given: u8,
    first: Vec<u8>,
    end: Option<End>,
}

/// How the file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a checksum that is right, or where the server makes none, as such a file ends.
    Whole,
    CutOff,
}

impl RdbStream {
    /// `program` is for errors.
    pub(super) fn new(inner: Box<dyn StreamSource>, program: String) -> Self {
        Self {
            inner,
            program,
            held: Vec::new(),
            given: 0,
            digest: CRC.digest(),
            last_given: 0,
            first: Vec::new(),
            end: None,
        }
    }

    /// Reads until there is something to pass on, or the end is reached.
    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; 64 << 10];
        self.held.drain(..self.given);
        self.given = 0;
        while self.end.is_none() && self.held.len() <= HELD {
            match self.inner.reader().read(&mut chunk)? {
                0 => self.end = Some(self.judge()),
                n => {
                    if self.first.len() < 16 {
                        self.first.extend_from_slice(&chunk[..n.min(16)]);
                    }
                    self.held.extend_from_slice(&chunk[..n]);
                }
            }
        }
        Ok(())
    }

    /// At the end of the input: `held` has all that was not passed on. Takes the transfer's mark away.
    fn judge(&mut self) -> End {
        let held = &self.held;
        for tail in [0, MARK] {
            let Some(sum_at) = held.len().checked_sub(tail + SUM) else { continue };
            let mark = &held[sum_at + SUM..];
            if !mark.iter().all(u8::is_ascii_hexdigit) {
                continue;
            }
            let mut digest = self.digest.clone();
            digest.update(&held[..sum_at]);
            let last = held[..sum_at].last().copied().unwrap_or(self.last_given);
            let sum: [u8; SUM] = held[sum_at..sum_at + SUM].try_into().unwrap_or_default();
            let sum = u64::from_le_bytes(sum);
            if last == END && (sum == digest.finalize() || sum == 0) {
                self.held.truncate(sum_at + SUM);
                return End::Whole;
            }
        }
        End::CutOff
    }
}

impl Read for RdbStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let ready = |this: &Self| {
            let keep = if this.end.is_some() { 0 } else { HELD };
            (this.held.len() - this.given).saturating_sub(keep)
        };
        if ready(self) == 0 && self.end.is_none() {
            self.fill()?;
        }
        let n = ready(self).min(buf.len());
        let bytes = &self.held[self.given..self.given + n];
        buf[..n].copy_from_slice(bytes);
        self.digest.update(bytes);
        self.last_given = bytes.last().copied().unwrap_or(self.last_given);
        self.given += n;
        Ok(n)
    }
}

impl StreamSource for RdbStream {
    fn reader(&mut self) -> &mut (dyn Read + Send) {
        self
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self { inner, program, end, first, .. } = *self;
        inner.finish()?;
        ensure!(
            MAGIC.iter().any(|magic| first.starts_with(magic)),
            "program {program} ended well, but what it wrote does not begin as an RDB file does"
        );
        match end {
            Some(End::Whole) => Ok(()),
            _ => bail!(
                "program {program} ended well, but the RDB file has no valid checksum at its end: it is cut off or damaged"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(io::Cursor<Vec<u8>>, usize);

    impl Read for Bytes {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(self.1);
            self.0.read(&mut buf[..n])
        }
    }

    impl StreamSource for Bytes {
        fn reader(&mut self) -> &mut (dyn Read + Send) {
            self
        }
        fn finish(self: Box<Self>) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn pass(bytes: &[u8], chunk: usize) -> (Vec<u8>, Result<(), String>) {
        let inner = Bytes(io::Cursor::new(bytes.to_vec()), chunk);
        let mut stream = RdbStream::new(Box::new(inner), "redis-cli".to_owned());
        let mut out = Vec::new();
        stream.reader().read_to_end(&mut out).unwrap();
        (out, Box::new(stream).finish().map_err(|error| error.to_string()))
    }

    fn file(content: usize, with_sum: bool) -> Vec<u8> {
        let mut bytes = b"REDIS0010".to_vec();
        bytes.extend((0..content).map(|n| (n % 251) as u8));
        bytes.push(END);
        let sum = if with_sum { CRC.checksum(&bytes) } else { 0 };
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    #[test]
    fn the_checksum_is_the_one_of_redis() {
        assert_eq!(CRC.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_whole_file_passes_with_and_without_the_mark_of_the_transfer() {
        for chunk in [1, 7, 100, 1 << 16] {
            for (content, with_sum) in [(0, true), (1000, true), (200_000, true), (1000, false)] {
                let rdb = file(content, with_sum);
                let (out, result) = pass(&rdb, chunk);
                assert!(out == rdb && result.is_ok(), "{chunk} {content}: {result:?}");
                let marked = [&rdb[..], &b"0123456789abcdef0123456789abcdef01234567"[..]].concat();
                let (out, result) = pass(&marked, chunk);
                assert!(out == rdb && result.is_ok(), "{chunk} {content} marked: {result:?}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_off_or_changed_is_refused() {
        let rdb = file(1000, true);
        for length in (0..rdb.len()).step_by(13).chain([rdb.len() - 1, rdb.len() - 8, rdb.len() - 9]) {
            let (_, result) = pass(&rdb[..length], 64);
            assert!(result.is_err(), "{length} of {} bytes passed", rdb.len());
        }
        let mut changed = rdb.clone();
        changed[500] ^= 1;
        assert!(pass(&changed, 64).1.unwrap_err().contains("checksum"));
        assert!(pass(b"ERR no such thing", 64).1.unwrap_err().contains("does not begin"));
        let (_, result) = pass(&[&rdb[..], &b"more"[..]].concat(), 64);
        assert!(result.is_err());
    }
}
