//! `agent export`: a whole backup as one tar.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::args::{Export, Global};
use super::progress::{Bar, Counts};
use super::{code, common, output};
use crate::event::Progress;
use crate::fsutil;
use crate::model::ByteSize;
use crate::ops::export::export as write_tar;
use crate::ops::stored::Backup;

pub fn export(global: &Global, args: &Export) -> Result<u8> {
    let agent = common::open_backup(global, args.target.as_ref(), &args.id)?;
    let run = common::find_run_at(&agent, &args.id, args.job.as_ref(), args.target.as_ref())?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let copy = common::nearest(&agent, &run, args.target.as_ref())?;
    let location = copy.location.context("the backup has no location")?;
    let target = agent.open_target(&copy.target)?;
    let backup = Backup::open(target.as_ref(), &location, &run.run_id)?;
    let bar = Bar::start(&progress);
    bar.begin(&format!("exporting from {}", copy.target), Counts::Sources, Some(copy.bytes), &progress);
    if args.to == Path::new("-") {
        if io::stdout().is_terminal() {
            bail!("a tar is nothing for a terminal: write it to a file, or pipe it into a program");
        }
        let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
        write_tar(&backup, &mut out, &progress)?;
        bar.finish();
        return Ok(code::OK);
    }
    let bytes = into_file(&args.to, args.force, |out| write_tar(&backup, out, &progress))?;
    bar.finish();
    output::print(&format!(
        "exported {} from {}: {} into {}\n\
         whoever gets it unpacks it with `tar -xf`, checks it with `sha256sum -c SHA256SUMS`, and reads RESTORE.txt\n",
        run.run_id,
        copy.target,
        ByteSize(bytes),
        args.to.display()
    ));
    Ok(code::OK)
}

/// Writes a file that appears under its name when it is whole and durable.
fn into_file(to: &Path, force: bool, write: impl FnOnce(&mut dyn Write) -> Result<u64>) -> Result<u64> {
    let to = std::path::absolute(to)?;
    let name = to.file_name().with_context(|| format!("{} names no file", to.display()))?;
    if !force && fs::symlink_metadata(&to).is_ok() {
        bail!("{} is there already; replace it with --force", to.display());
    }
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(format!(".{}.tmp", std::process::id()));
    let unfinished = to.with_file_name(unfinished);
    let whole = (|| {
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            // A backup holds what its sources held, so it is nobody else's to read.
            .mode(0o600)
            .open(&unfinished)
            .with_context(|| format!("creating {}", unfinished.display()))?;
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        let bytes = write(&mut out)?;
        let file =
            out.into_inner().map_err(io::Error::from).with_context(|| format!("writing {}", to.display()))?;
        file.sync_all()
            .and_then(|()| fsutil::close(file))
            .with_context(|| format!("writing {}", to.display()))?;
        if force { fs::rename(&unfinished, &to) } else { fsutil::rename_noreplace(&unfinished, &to) }
            .with_context(|| format!("giving {} its name", to.display()))?;
        fsutil::fsync_dir(to.parent().unwrap_or(Path::new("/")))?;
        Ok(bytes)
    })();
    if whole.is_err() {
        let _ = fs::remove_file(&unfinished); // the error to report is the first one
    }
    whole
}
