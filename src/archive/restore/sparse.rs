//! Sparse files as GNU tar writes them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};

use super::place::WriteError;
use crate::archive::header;

/// Content of a sparse file in GNU's pax format 1.0: the map, padded to whole blocks, then the extents.
pub(super) fn write_sparse(
    content: &mut dyn Read,
    length: u64,
    file: &mut File,
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
    let mut written = 0;
    for (offset, length) in extents {
        if offset.checked_add(length).is_none_or(|end| end > real_size) {
            bail!("the sparse map leaves the file");
        }
        file.seek(SeekFrom::Start(offset)).map_err(WriteError)?;
        let copied = io::copy(&mut content.by_ref().take(length), file).map_err(WriteError)?;
        if copied != length {
            return Err(WriteError(io::ErrorKind::UnexpectedEof.into()).into());
        }
        written += copied;
    }
    file.set_len(real_size).map_err(WriteError)?;
    file.flush().map_err(WriteError)?;
    Ok(written)
}
