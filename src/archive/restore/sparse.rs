//! Sparse files as GNU tar writes them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};

use super::place::WriteError;
use crate::archive::header;

/// Where the content of a sparse file goes.
pub(super) trait Sink: Write {
    /// Leaves a hole up to `offset`, which lies behind everything written.
    fn skip_to(&mut self, offset: u64) -> io::Result<()>;
    /// Ends with a hole where the content ends before `size`.
    fn end(&mut self, size: u64) -> io::Result<()>;
}

impl Sink for File {
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset)).map(drop)
    }

    fn end(&mut self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }
}

/// A stream, on which holes are zeros.
pub(super) struct Filled<'a> {
    pub out: &'a mut dyn Write,
    pub at: u64,
}

impl Write for Filled<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Sink for Filled<'_> {
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        let hole = offset.saturating_sub(self.at);
        io::copy(&mut io::repeat(0).take(hole), self).map(drop)
    }

    fn end(&mut self, size: u64) -> io::Result<()> {
        self.skip_to(size)
    }
}

/// Content of a sparse file in GNU's pax format 1.0: the map, padded to whole blocks, then the extents.
pub(super) fn write_sparse(
    content: &mut dyn Read,
    length: u64,
    file: &mut dyn Sink,
    real_size: u64,
) -> Result<u64> {
    let mut content = content.take(length);
    let mut map_bytes = 0;
    let mut number = || -> Result<u64> {
        let mut digits = String::new();
        loop {
            let mut byte = [0];
            content.read_exact(&mut byte).map_err(WriteError)?;
            map_bytes += 1;
            match byte[0] {
                b'\n' => return digits.parse().context("the sparse map is damaged"),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte[0] as char),
                _ => bail!("the sparse map is damaged"),
            }
        }
    };
    let count = number()?;
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push((number()?, number()?));
    }
    io::copy(&mut content.by_ref().take(header::padding(map_bytes) as u64), &mut io::sink())
        .map_err(WriteError)?;
    let (mut written, mut last_end) = (0, 0);
    for (offset, length) in extents {
        let end = offset.checked_add(length).filter(|end| *end <= real_size);
        let Some(end) = end.filter(|_| offset >= last_end) else {
            bail!("the sparse map is damaged: its pieces overlap or leave the file");
        };
        last_end = end;
        file.skip_to(offset).map_err(WriteError)?;
        let copied = io::copy(&mut content.by_ref().take(length), file).map_err(WriteError)?;
        if copied != length {
            return Err(WriteError(io::ErrorKind::UnexpectedEof.into()).into());
        }
        written += copied;
    }
    file.end(real_size).map_err(WriteError)?;
    file.flush().map_err(WriteError)?;
    Ok(written)
}
