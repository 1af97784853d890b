//! A whole backup as one uncompressed tar, for handing it over: digests and instructions are in it.

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use sha2::Digest;

use super::stored::Backup;
use crate::event::{Interrupted, Progress};
use crate::manifest;
use crate::model::Sha256;

/// Writes the backup's files, as they are stored, below a folder `<job>-<run id>/`. Each is compared with what
/// the manifest says on the way. Gives the bytes of their content.
pub fn export(backup: &Backup<'_>, out: &mut dyn Write, progress: &Progress) -> Result<u64> {
    let about = &backup.manifest;
    let folder = format!("{}-{}", about.job, about.run_id);
    let mtime = u64::try_from(about.ended.timestamp()).unwrap_or_default();
    let mut archive = tar::Builder::new(out);
    let mut total = 0;
    let described = about.files().map(|f| (f.file, Some((f.bytes, f.sha256))));
    let describing =
        [manifest::RESTORE_FILE, manifest::SUMS_FILE, manifest::FILE].map(|f| (f.to_owned(), None));
    for (file, expected) in described.chain(describing) {
        let stored = backup.file(&file)?;
        let length = stored.read_at().length().with_context(|| format!("looking at {file}"))?;
        if let Some((bytes, _)) = expected.filter(|(bytes, _)| *bytes != length) {
            bail!(
                "{file} has {length} bytes, {bytes} were written: export from another target with --target"
            );
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(mtime);
        let mut content = Exactly { stored, left: length, digest: sha2::Sha256::new(), progress };
        archive
            .append_data(&mut header, format!("{folder}/{file}"), &mut content)
            .map_err(|e| if progress.is_cancelled() { Interrupted.into() } else { anyhow::Error::from(e) })
            .with_context(|| format!("exporting {file}"))?;
        total += length;
        let digest = Sha256(content.digest.finalize().into());
        if let Some((_, sha256)) = expected.filter(|(_, sha256)| *sha256 != digest) {
            bail!(
                "{file} has digest {digest}, {sha256} was written: it is damaged; export from another target \
                 with --target"
            );
        }
    }
    archive.into_inner().and_then(|out| out.flush()).context("ending the export")?;
    Ok(total)
}

/// Gives exactly so many bytes, or an error: a header that promises another length than follows breaks a tar.
struct Exactly<'a, R> {
    stored: R,
    left: u64,
    digest: sha2::Sha256,
    progress: &'a Progress,
}

impl<R: Read> Read for Exactly<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(io::Error::other(Interrupted));
        }
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let got = self.stored.read(&mut buffer[..room])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before its length"));
        }
        self.left -= got as u64;
        self.digest.update(&buffer[..got]);
        self.progress.add_source(got as u64);
        Ok(got)
    }
}
