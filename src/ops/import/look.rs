//! Looking into archives that another program made: what is in them, one file's content.

use std::io::{self, Write};

use anyhow::{Context, Result, bail, ensure};

use super::find::{Kind, Packing, kind_of};
use super::restore::{Digested, Unpacked, compare};
use crate::archive::{EntryKind, IndexEntry, Prefetch, check_tar, copy_tar_entry, list_tar, path_order};
use crate::event::{Interrupted, Progress};
use crate::manifest::PathText;
use crate::model::RunId;
use crate::ops::browse::{LINKS_MAX, OutputError, resolve};
use crate::ops::verify::Watched;
use crate::state::ImportedFile;
use crate::target::Target;

/// An imported backup.
pub struct Archives<'a> {
    /// Where it is.
    pub target: &'a dyn Target,
    /// Its folder there.
    pub location: &'a str,
    /// Its run.
    pub run: &'a RunId,
    /// Its files.
    pub files: Vec<ImportedFile>,
}

/// What is in a tar archive.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files, folders and links, as the agent's own archives have them: in their order, each path once.
    pub entries: Vec<IndexEntry>,
    /// How many devices and pipes there are beside.
    pub others: u64,
}

/// The name a file of an imported backup goes by: its own without the ends that say what it is.
pub fn name_of(file: &str) -> &str {
    let end = kind_of(file).map_or("", |(_, end)| end);
    file.strip_suffix(end).unwrap_or(file)
}

/// Reads an archive decompressed to its end. False when another program packed it, so that it is not looked into.
///
/// # Errors
/// It is cut off, damaged or empty, or cannot be read.
pub fn look_into(target: &dyn Target, location: &str, file: &str, progress: &Progress) -> Result<bool> {
    let (kind, _) = kind_of(file).unwrap_or((Kind::Stream(Packing::Plain), ""));
    let (Kind::Tar(packing) | Kind::Stream(packing)) = kind;
    if matches!(packing, Packing::Other(_)) {
        return Ok(false);
    }
    let stored = Unpacked::open(target, location, file, packing)?;
    let mut content = Watched::new(stored, progress);
    let looked = match kind {
        Kind::Tar(_) => check_tar(&mut content).map(|found| found.raw_bytes),
        Kind::Stream(_) => io::copy(&mut content, &mut io::sink()).map_err(Into::into),
    };
    let bytes = looked.with_context(|| format!("decompressing {file}"))?;
    ensure!(bytes > 0, "there is nothing in {file}");
    Ok(true)
}

/// Whether a file is a tar archive.
pub fn is_tree(file: &ImportedFile) -> bool {
    matches!(kind_of(&file.file), Some((Kind::Tar(_), _)))
}

impl Archives<'_> {
    /// The files that go by a name, or all of them.
    pub fn chosen(&self, name: Option<&str>) -> Result<Vec<&ImportedFile>> {
        let Some(name) = name else { return Ok(self.files.iter().collect()) };
        let is_meant = |file: &&ImportedFile| file.file == name || name_of(&file.file) == name;
        let found: Vec<&ImportedFile> = self.files.iter().filter(is_meant).collect();
        if found.is_empty() {
            let names: Vec<&str> = self.files.iter().map(|file| name_of(&file.file)).collect();
            bail!("run {} has no archive {name}; it has: {}", self.run, names.join(", "));
        }
        Ok(found)
    }

    /// What `keep` chooses of a tar archive. The archive is read from its beginning to its end.
    pub fn list(&self, file: &ImportedFile, keep: &dyn Fn(&[u8]) -> bool) -> Result<Listing> {
        let (entries, others) = self.numbered(file, keep)?;
        Ok(Listing { entries: entries.into_iter().map(|(_, entry)| entry).collect(), others })
    }

    fn numbered(
        &self,
        file: &ImportedFile,
        keep: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(Vec<(usize, IndexEntry)>, u64)> {
        let mut entries: Vec<(usize, IndexEntry)> = Vec::new();
        let others = self.read(file, |stream| {
            list_tar(stream, &mut |number, entry| {
                if keep(&entry.path.0) {
                    entries.push((number, entry));
                }
                Ok(())
            })
        })?;
        // Of a path that is there several times, `tar -x` leaves the last.
        entries.sort_by(|(n, a), (m, b)| path_order(&a.path.0, &b.path.0).then(m.cmp(n)));
        entries.dedup_by(|(_, later), (_, kept)| later.path == kept.path);
        Ok((entries, others))
    }

    /// Writes the content of the file at `path`, following links inside the archive; gives its length, or none
    /// where no archive has it. Each archive is read twice.
    pub fn cat(&self, files: &[&ImportedFile], path: &[u8], out: &mut dyn Write) -> Result<Option<u64>> {
        for file in files.iter().filter(|file| is_tree(file)) {
            // Where links lead is known only behind them.
            let (entries, _) = self.numbered(file, &|_| true)?;
            let find = |path: &[u8]| {
                let at = entries.binary_search_by(|(_, entry)| path_order(&entry.path.0, path));
                at.ok().map(|at| &entries[at])
            };
            let mut path = path.to_vec();
            for _ in 0..LINKS_MAX {
                let Some((number, entry)) = find(&path) else { break };
                let target = || entry.target.as_ref().map(|t| t.0.clone()).unwrap_or_default();
                match entry.kind {
                    EntryKind::Hardlink => path = target(),
                    EntryKind::Symlink => path = resolve(&path, &target()),
                    EntryKind::Dir => bail!("{} is a folder; list it with `ls`", entry.path.display()),
                    EntryKind::File => {
                        let bytes = self
                            .read(file, |stream| copy_tar_entry(stream, *number, out))
                            .with_context(|| PathText(path.clone()).display())?;
                        return Ok(Some(bytes));
                    }
                }
            }
            if find(&[&path[..], b"/"].concat()).is_some() {
                bail!("{} is a folder; list it with `ls`", PathText(path).display());
            }
        }
        Ok(None)
    }

    /// Writes a dump, decompressed; gives its length.
    pub fn cat_stream(&self, file: &ImportedFile, out: &mut dyn Write, progress: &Progress) -> Result<u64> {
        if is_tree(file) {
            bail!("{} is a tar archive; say which file", file.file);
        }
        let bytes = self.read(file, |stream| {
            let mut buffer = vec![0; 256 << 10];
            let mut bytes = 0;
            loop {
                let got = stream.read(&mut buffer)?;
                if got == 0 {
                    return Ok(bytes);
                }
                if progress.is_cancelled() {
                    return Err(Interrupted.into());
                }
                out.write_all(&buffer[..got]).map_err(OutputError)?;
                bytes += got as u64;
            }
        })?;
        out.flush().map_err(OutputError)?;
        Ok(bytes)
    }

    /// Has `body` read a file, decompressed, and compares the whole of it with what was imported.
    fn read<T>(&self, file: &ImportedFile, body: impl FnOnce(&mut dyn io::Read) -> Result<T>) -> Result<T> {
        let (kind, _) = kind_of(&file.file).unwrap_or((Kind::Stream(Packing::Plain), ""));
        let packing = match kind {
            Kind::Tar(Packing::Other(program)) => bail!(
                "{}/{} is packed by another program; `{program} -dc FILE | tar -tvf -` lists it",
                self.location,
                file.file
            ),
            Kind::Stream(Packing::Other(program)) => bail!(
                "{}/{} is packed by another program; `{program} -dc FILE` gives its content",
                self.location,
                file.file
            ),
            Kind::Tar(packing) | Kind::Stream(packing) => packing,
        };
        let unpacked = Unpacked::open(self.target, self.location, &file.file, packing)?;
        let totals = unpacked.totals();
        let mut reading = Digested::new(unpacked);
        let done = Prefetch::scope(&mut reading, |stream| {
            let done = body(stream)?;
            io::copy(stream, &mut io::sink())?; // to the end, for the digest
            anyhow::Ok(done)
        })
        .with_context(|| file.file.clone())?;
        compare(file, Some(reading.stored(totals)))?;
        Ok(done)
    }
}
