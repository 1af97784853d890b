//! `agent ls`, `agent cat`, `agent diff`: looking into backups.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | a backup, opened: one of the agent's own, or archives of another program |
//! | `ls`, `cat`, `diff` | the verbs |
//! | `imported` | their work on archives of another program |
//! | `lines` | listings on their way to somebody who may stop reading |

mod cat;
mod diff;
mod imported;
mod lines;
mod ls;

pub use self::cat::cat;
pub use self::diff::diff;
pub use self::ls::ls;

use std::sync::Arc;

use anyhow::{Context, Result};

use super::args::Of;
use super::{common, key};
use crate::ops::Agent;
use crate::ops::import::Archives;
use crate::ops::stored::Backup;
use crate::state::Run;

/// A path as it stands in archives.
fn in_archive(path: &str) -> &[u8] {
    path.trim_matches('/').as_bytes()
}

/// A backup, opened.
enum Stored<'a> {
    /// One of the agent's own.
    Own(Box<Backup<'a>>),
    /// Archives of another program.
    Imported(Archives<'a>),
}

/// Opens the nearest copy of a backup for `body`.
fn with_backup<T>(
    agent: &Agent,
    run: &Run,
    of: &Of,
    body: impl FnOnce(&Stored<'_>) -> Result<T>,
) -> Result<T> {
    let copy = common::nearest(agent, run, of.target.as_ref())?;
    let location = copy.location.context("the backup has no location")?;
    let target = agent.open_target(&copy.target)?;
    let target = target.as_ref();
    body(&match copy.imported {
        false => {
            let keys = Arc::new(key::files(agent, &run.job, &of.keys)?.read()?);
            Stored::Own(Box::new(Backup::open(target, &location, &run.run_id)?.with_keys(keys)?))
        }
        true => {
            let (run, files) = (&run.run_id, agent.state.imported_files(&run.run_id, &copy.target)?);
            Stored::Imported(Archives { target, location: &location, run, files })
        }
    })
}
