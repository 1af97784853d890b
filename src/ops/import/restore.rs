//! Files out of archives that another program made: tar archives through the same safe restore as the agent's
//! own, dumps decompressed; for what is packed otherwise, the command.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::find::{Kind, Packing, kind_of};
use crate::archive::{
    Prefetch, RestoreOptions, RestoreSummary, StreamDecoder, StreamTotals, Tallied, restore_stream,
};
use crate::manifest::Codec;
use crate::model::Sha256;
use crate::ops::restore::write_stream;
use crate::state::ImportedFile;
use crate::target::{Cache, StoredFile, Target};

/// What came of one archive.
#[derive(Debug)]
pub struct Brought {
    /// The archive.
    pub file: String,
    /// Where it went.
    pub folder: PathBuf,
    /// What was restored; or the command that does it where this program cannot.
    pub result: Result<RestoreSummary, String>,
}

/// Restores the archives of an imported backup into `folder`, several into a folder each below it. `force`
/// replaces what is there.
pub fn restore(
    target: &dyn Target,
    location: &str,
    files: &[ImportedFile],
    folder: &Path,
    force: bool,
    options: &RestoreOptions,
) -> Result<Vec<Brought>> {
    crate::ops::restore::prepare_folder(folder, force)?;
    let mut brought = Vec::new();
    for known in files {
        let (kind, end) = kind_of(&known.file).unwrap_or((Kind::Stream(Packing::Plain), ""));
        let stem = known.file.strip_suffix(end).unwrap_or(&known.file);
        let to = if files.len() > 1 { folder.join(stem) } else { folder.to_path_buf() };
        fs::create_dir_all(&to).with_context(|| format!("making folder {}", to.display()))?;
        let result = match kind {
            Kind::Tar(Packing::Other(program)) => Err(format!(
                "tar --use-compress-program={program} -xf {location}/{} -C {}",
                known.file,
                to.display()
            )),
            Kind::Stream(Packing::Other(program)) => {
                Err(format!("{program} -dc {location}/{} > {}/{stem}.sql", known.file, to.display()))
            }
            Kind::Tar(packing) => Ok(tar(target, location, known, packing, &to, options)?),
            Kind::Stream(packing) => Ok(stream(target, location, known, packing, &to, force, options)?),
        };
        brought.push(Brought { file: known.file.clone(), folder: to, result });
    }
    Ok(brought)
}

/// A stored archive, decompressed; digested on its way where that is asked for.
pub(super) enum Unpacked {
    Plain(Box<dyn StoredFile>),
    Packed(StreamDecoder<Tallied<Box<dyn StoredFile>>>, Arc<StreamTotals>),
}

impl Unpacked {
    pub(super) fn open(target: &dyn Target, location: &str, file: &str, packing: Packing) -> Result<Self> {
        let stored = target.open(location, file, Cache::Warm)?;
        Ok(match packing {
            Packing::Gzip => Self::packed(stored, Codec::Gzip),
            Packing::Zstd => Self::packed(stored, Codec::Zstd),
            Packing::Plain | Packing::Other(_) => Self::Plain(stored),
        })
    }

    fn packed(stored: Box<dyn StoredFile>, codec: Codec) -> Self {
        let stored = Tallied::new(stored);
        let totals = stored.totals();
        Self::Packed(StreamDecoder::new(stored, codec), totals)
    }

    /// What was read of the stored file, where it goes through a decoder.
    pub(super) fn totals(&self) -> Option<Arc<StreamTotals>> {
        match self {
            Self::Plain(_) => None,
            Self::Packed(_, totals) => Some(Arc::clone(totals)),
        }
    }
}

impl Read for Unpacked {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stored) => stored.read(out),
            Self::Packed(decoder, _) => decoder.read(out),
        }
    }
}

/// The digest of what was restored must be that of the import; what is plain is digested on its way.
pub(super) fn compare(known: &ImportedFile, found: Option<Sha256>) -> Result<()> {
    match found {
        Some(found) if found != known.sha256 => bail!(
            "{} is not what was imported (digest {found}, {} expected): what was read of it may be wrong or incomplete",
            known.file,
            known.sha256
        ),
        _ => Ok(()),
    }
}

/// Digests what passes.
pub(super) struct Digested<R> {
    inner: R,
    digest: sha2::Sha256,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(out)?;
        sha2::Digest::update(&mut self.digest, &out[..got]);
        Ok(got)
    }
}

impl<R> Digested<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, digest: <sha2::Sha256 as sha2::Digest>::new() }
    }

    /// The digest of the stored file: by the decoder, or, of one that is not packed, of what passed.
    pub(super) fn stored(self, totals: Option<Arc<StreamTotals>>) -> Sha256 {
        match totals {
            Some(totals) => totals.sha256(),
            None => Sha256(sha2::Digest::finalize(self.digest).into()),
        }
    }
}

fn tar(
    target: &dyn Target,
    location: &str,
    known: &ImportedFile,
    packing: Packing,
    to: &Path,
    options: &RestoreOptions,
) -> Result<RestoreSummary> {
    let unpacked = Unpacked::open(target, location, &known.file, packing)?;
    let totals = unpacked.totals();
    let mut reading = Digested::new(unpacked);
    let summary = Prefetch::scope(&mut reading, |stream| {
        let summary = restore_stream(stream, to, options)?;
        io::copy(stream, &mut io::sink())?; // to the end, for the digest
        anyhow::Ok(summary)
    })
    .with_context(|| known.file.clone())?;
    compare(known, Some(reading.stored(totals)))?;
    Ok(summary)
}

fn stream(
    target: &dyn Target,
    location: &str,
    known: &ImportedFile,
    packing: Packing,
    to: &Path,
    force: bool,
    options: &RestoreOptions,
) -> Result<RestoreSummary> {
    let unpacked = Unpacked::open(target, location, &known.file, packing)?;
    let totals = unpacked.totals();
    let mut reading = Digested::new(unpacked);
    let plain = match packing {
        Packing::Gzip => known.file.strip_suffix(".gz"),
        Packing::Zstd => known.file.strip_suffix(".zst"),
        Packing::Plain | Packing::Other(_) => None,
    };
    let path = to.join(plain.unwrap_or(&known.file));
    let bytes = write_stream(&mut reading, &known.file, &path, force, options)?;
    compare(known, Some(reading.stored(totals)))?;
    Ok(RestoreSummary { entries: 1, bytes, ..RestoreSummary::default() })
}
