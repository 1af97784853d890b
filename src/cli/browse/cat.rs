//! `agent cat`.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::{Stored, imported, in_archive, with_backup};
use crate::cli::args::{Cat, Global};
use crate::cli::{code, common};
use crate::event::Progress;
use crate::ops::browse::{self, OutputError};

pub fn cat(global: &Global, args: &Cat) -> Result<u8> {
    let agent = common::open_backup(global, args.of.target.as_ref(), &args.id)?;
    let run = common::find_run_at(&agent, &args.id, args.of.job.as_ref(), args.of.target.as_ref())?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let printed = with_backup(&agent, &run, &args.of, |stored| {
        let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
        let run = &run.run_id;
        let hint = |path: &str| {
            format!("there is no file {path} in run {run}; `{} ls -R {run}` lists them", agent.command)
        };
        let backup = match stored {
            Stored::Own(backup) => backup,
            Stored::Imported(archives) => {
                let found = imported::cat(archives, args, &mut out, &progress)?;
                out.flush().map_err(OutputError)?;
                let path = args.path.as_deref().unwrap_or_default();
                return found.map(drop).with_context(|| hint(path));
            }
        };
        let Some(path) = &args.path else {
            let name = args.of.component.as_ref().context("neither a file nor a component is named")?;
            return browse::cat_stream(backup, backup.component(name)?, &mut out, &progress).map(drop);
        };
        let trees = backup.trees(args.of.component.as_ref())?;
        let found = browse::cat(backup, &trees, in_archive(path), &mut out)?;
        out.flush().map_err(OutputError)?;
        found.map(drop).with_context(|| hint(path))
    });
    match printed {
        Err(e) if is_closed(&e) => Ok(code::OK),
        other => other.map(|()| code::OK),
    }
}

/// Whether an error only says that the reader of standard output went away.
fn is_closed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
