//! The entries of a tar stream, with everything their extension headers say.
//!
//! Headers are decoded by the `tar` crate. Its iterator is not used, because it splits pax records at line
//! breaks: an ACL or a binary attribute, which may contain them, is then an error, and fields behind it are
//! lost. Records are taken apart by their stated length here, as POSIX says.

use std::io::{self, Read};

use anyhow::{Context, Result, bail};
use tar::{EntryType, GnuExtSparseHeader, GnuHeader, Header};

use super::header::{BLOCK, padding};

/// Extension headers above this are refused: attributes have 64 KiB at most, so this is no archive of files.
const EXTENSION_MAX: u64 = 16 << 20;

/// Reads a tar stream entry by entry.
pub(super) struct TarReader<'a> {
    stream: &'a mut dyn Read,
    /// Content of the current entry not yet read.
    left: u64,
    /// What pads it.
    padding: usize,
    /// True once the end blocks were seen.
    ended: bool,
}

/// One entry; its content is read from the [`TarReader`].
pub(super) struct TarEntry {
    pub header: Header,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub size: u64,
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> TarReader<'a> {
    pub fn new(stream: &'a mut dyn Read) -> Self {
        Self { stream, left: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` after the end blocks. A stream that just stops is an error.
    pub fn next(&mut self) -> Result<Option<TarEntry>> {
        let (mut long_name, mut long_link, mut pax) = (None, None, Vec::new());
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = match find(&pax, b"size") {
                Some(size) if !is_extension(kind) => parse_decimal(size).context("a pax size is damaged")?,
                _ => header.entry_size().context("an entry's size is damaged")?,
            };
            (self.left, self.padding) = (size, padding(size));
            self.skip_map(&header)?;
            match kind {
                EntryType::GNULongName => long_name = Some(self.extension(size)?),
                EntryType::GNULongLink => long_link = Some(self.extension(size)?),
                EntryType::XHeader => pax = records(&self.extension(size)?)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => {
                    let path = find(&pax, b"GNU.sparse.name").or_else(|| find(&pax, b"path"));
                    let path = path.map(<[u8]>::to_vec).or(long_name);
                    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = find(&pax, b"linkpath").map(<[u8]>::to_vec).or(long_link);
                    let link =
                        link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
                    return Ok(Some(TarEntry { header, path, link, size, pax }));
                }
            }
        }
    }

    /// Reads what is left of the stream after the end blocks.
    pub fn drain(&mut self) -> Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).context("reading the archive to its end")?;
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        self.stream
            .read_exact(header.as_mut_bytes())
            .map_err(|e| cut_off(e, "the archive ends without its end blocks: it was cut off"))?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            bail!("a header's checksum is wrong: the archive is damaged here");
        }
        Ok(Some(header))
    }

    /// Passes over the rest of the map of a sparse file in GNU's old format, which its size does not count.
    fn skip_map(&mut self, header: &Header) -> Result<()> {
        let mut more =
            header.entry_type().is_gnu_sparse() && header.as_gnu().is_some_and(GnuHeader::is_extended);
        while more {
            let mut map = GnuExtSparseHeader::new();
            self.stream
                .read_exact(map.as_mut_bytes())
                .map_err(|e| cut_off(e, "the archive ends inside a header"))?;
            more = map.is_extended();
        }
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_MAX {
            bail!("an extension header of {size} bytes is refused");
        }
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes).map_err(|e| cut_off(e, "the archive ends inside a header"))?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn skip_content(&mut self) -> Result<()> {
        let length = self.left + self.padding as u64;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut *self.stream).take(length), &mut io::sink())?;
        if skipped < length {
            bail!("the archive ends inside an entry: it was cut off");
        }
        Ok(())
    }
}

/// The content of the current entry.
impl Read for TarReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.stream.read(&mut out[..most])?;
        self.left -= got as u64;
        Ok(got)
    }
}

fn cut_off(error: io::Error, sentence: &'static str) -> anyhow::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { anyhow::anyhow!(sentence) } else { error.into() }
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn find<'p>(pax: &'p [(Vec<u8>, Vec<u8>)], key: &[u8]) -> Option<&'p [u8]> {
    pax.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_slice())
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The records of a pax header: each begins with its own length in decimal.
fn records(mut bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let record = (|| {
            let space = bytes.iter().take(20).position(|b| *b == b' ')?;
            let length = usize::try_from(parse_decimal(&bytes[..space])?).ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|b| *b == b'=')?;
            Some((length, record[..equals].to_vec(), record[equals + 1..].to_vec()))
        })();
        let Some((length, key, value)) = record else { bail!("a pax header is damaged") };
        found.push((key, value));
        bytes = &bytes[length..];
    }
    Ok(found)
}

const _: () = assert!(std::mem::size_of::<Header>() == BLOCK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_hold_line_breaks_and_equals_signs() {
        let bytes = b"15 acl=u\nv\nw=x\n8 a=bcd\n";
        let found = records(bytes).unwrap();
        assert_eq!(found, [(b"acl".to_vec(), b"u\nv\nw=x".to_vec()), (b"a".to_vec(), b"bcd".to_vec())]);
    }

    #[test]
    fn damaged_pax_headers_are_errors_not_panics() {
        for bad in [&b"5"[..], b"99 a=b\n", b"x a=b\n", b"6 ab\n\n", b"0 a=b\n", b"7 a=bcd"] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
    }
}
