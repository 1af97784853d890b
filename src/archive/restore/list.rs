//! Looking into tar streams that have no index: read from the beginning to the end.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use tar::EntryType;

use super::attributes::Attributes;
use super::copy_content;
use crate::archive::entries::TarReader;
use crate::archive::index::{EntryKind, IndexEntry};
use crate::manifest::PathText;

/// Calls `visit` for each file, folder and link of a tar stream, in its order, with the number of its entry.
/// Paths are given without a leading `/` or `./`, folders with a slash at their end. Gives how many devices and
/// pipes there were.
pub fn list_tar(
    stream: &mut dyn Read,
    visit: &mut dyn FnMut(usize, IndexEntry) -> Result<()>,
) -> Result<u64> {
    let mut archive = TarReader::new(stream);
    let (mut number, mut others) = (0, 0);
    while let Some(entry) = archive.next().context("reading the archive")? {
        let (size, old_sparse) = (entry.size, entry.header.as_gnu().and_then(|gnu| gnu.real_size().ok()));
        let found = Attributes::read(entry).context("reading the archive: a header is damaged")?;
        let mut path = plain(&found.path).to_vec();
        let kind = match found.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse if !path.ends_with(b"/") => {
                Some(EntryKind::File)
            }
            EntryType::Regular | EntryType::Directory => Some(EntryKind::Dir),
            EntryType::Symlink => Some(EntryKind::Symlink),
            EntryType::Link => Some(EntryKind::Hardlink),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                others += 1;
                None
            }
            _ => None,
        };
        if let Some(kind) = kind {
            if kind == EntryKind::Dir && !path.ends_with(b"/") {
                path.push(b'/');
            }
            let size = match (kind, found.kind) {
                (EntryKind::File, EntryType::GNUSparse) => old_sparse.unwrap_or(size),
                (EntryKind::File, _) => found.sparse_size.unwrap_or(size),
                _ => 0,
            };
            let target = match kind {
                EntryKind::Symlink => Some(PathText(found.link)),
                EntryKind::Hardlink => Some(PathText(plain(&found.link).to_vec())),
                _ => None,
            };
            // The folder that everything is in has no name of its own.
            if path != b"/" {
                let (path, mtime, mode) = (PathText(path), found.mtime.tv_sec, found.mode);
                visit(number, IndexEntry { path, kind, size, mtime, mode, at: 0, target })?;
            }
        }
        number += 1;
    }
    archive.drain()?;
    Ok(others)
}

/// Writes the content of entry `number` of a tar stream, counted as [`list_tar`] does; gives its length. The
/// stream is read to its end.
pub fn copy_tar_entry(stream: &mut dyn Read, number: usize, out: &mut dyn Write) -> Result<u64> {
    let mut archive = TarReader::new(stream);
    let (mut at, mut copied) = (0, None);
    while let Some(entry) = archive.next().context("reading the archive")? {
        if at == number {
            copied = Some(copy_content(&mut archive, entry, out)?);
        }
        at += 1;
    }
    archive.drain()?;
    match copied {
        Some(bytes) => Ok(bytes),
        None => bail!("the archive changed while it was read"),
    }
}

/// A path as archives of this program have it; `/` for the folder that everything is in.
fn plain(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] | [b'.', b'/', rest @ ..] = path {
        path = rest;
    }
    if matches!(path, b"" | b".") { b"/" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_agents_own_archives() {
        for (path, wanted) in [
            ("./data/a", "data/a"),
            ("/etc/hosts", "etc/hosts"),
            ("././/x/", "x/"),
            ("./", "/"),
            (".", "/"),
            ("", "/"),
            ("..", ".."),
            (".hidden", ".hidden"),
        ] {
            assert_eq!(plain(path.as_bytes()), wanted.as_bytes(), "{path}");
        }
    }
}
