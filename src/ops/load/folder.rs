//! The private folder of a restore into a database: files with credentials, for as long as a program needs them,
//! and a record of the temporary database, by which the next `tend` cleans up after a restore that died.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::filling::PREFIX;
use super::{WantedDatabase, source_of, with_login};
use crate::fsutil;
use crate::model::{ComponentName, JobName};
use crate::ops::Agent;
use crate::source;

/// How the names of such folders begin; the process that made it follows.
const SCRATCH: &str = "loading-";
/// The record in it.
const RECORD: &str = "database.json";
/// How long a server that does not answer is tried again.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A database that a restore makes, and where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    job: JobName,
    source: ComponentName,
    login_file: Option<PathBuf>,
    login_user: Option<String>,
    /// What it is for.
    into: String,
    /// Its name: a temporary one, or that it is to have.
    pub(super) database: String,
    /// The name that the database gets that it replaces.
    pub(super) aside: Option<String>,
    /// Whether it may be all there is: the database it replaces is dropped, or about to be.
    pub(super) last: bool,
}

impl Record {
    pub(super) fn new(job: &JobName, source: &ComponentName, wanted: &WantedDatabase) -> Self {
        Self {
            job: job.clone(),
            source: source.clone(),
            login_file: wanted.login_file.clone(),
            login_user: wanted.login_user.clone(),
            into: wanted.into.clone(),
            database: String::new(),
            aside: None,
            last: false,
        }
    }
}

/// A private folder for short-lived files with credentials, removed at the end.
pub(in crate::ops) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one, and removes those of processes that died, but for those with a record, which [`reap`] removes.
    pub(in crate::ops) fn make(state_dir: &Path) -> Result<Self> {
        for left in dead(state_dir) {
            if !left.join(RECORD).exists() {
                let _ = fs::remove_dir_all(left);
            }
        }
        let name = format!("{SCRATCH}{}-{:08x}", std::process::id(), rand::random::<u32>());
        let folder = state_dir.join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making folder {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(in crate::ops) fn path(&self) -> &Path {
        &self.0
    }

    /// Says which database is about to be made.
    pub(super) fn record(&self, record: &Record) -> Result<()> {
        let path = self.0.join(RECORD);
        fsutil::write_atomic(&path, &serde_json::to_vec(record)?, 0o600)
            .with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::warn!("removing {}: {e}", self.0.display());
        }
    }
}

/// The folders of processes that died.
fn dead(state_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state_dir).into_iter().flatten().flatten();
    let of_dead = |name: &str| {
        let pid = name.strip_prefix(SCRATCH).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(of_dead))
        .map(|entry| entry.path())
        .collect()
}

/// What a restore left that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// A sentence about it.
    pub text: String,
    /// Whether it is dealt with, and not told again.
    pub ended: bool,
    /// Whether a person has to do something.
    pub bad: bool,
}

/// Cleans up after restores into databases that died: temporary databases are dropped, and folders removed. Where
/// the temporary database may be all there is, or a server does not answer for a day, that is said once.
pub fn reap(agent: &Agent) -> Result<Vec<Left>> {
    let mut found = Vec::new();
    for folder in dead(&agent.config.state_dir) {
        let record = fs::read(folder.join(RECORD)).ok();
        let record: Option<Record> = record.and_then(|text| serde_json::from_slice(&text).ok());
        let left = record.and_then(|record| of_dead(agent, &folder, &record));
        if left.as_ref().is_none_or(|left| left.ended) {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        found.extend(left);
    }
    Ok(found)
}

fn of_dead(agent: &Agent, folder: &Path, record: &Record) -> Option<Left> {
    let Record { into, database, .. } = record;
    match clean(agent, record) {
        Ok(done) => done,
        Err(e) => {
            let made = fs::metadata(folder).and_then(|meta| meta.modified());
            let age = made.ok().and_then(|made| made.elapsed().ok());
            let ended = age.is_none_or(|age| age > PATIENCE);
            let next = if ended { "look for it by hand" } else { "its server is asked again" };
            Some(Left {
                text: format!(
                    "a restore into the database {into} died, and may have left the database {database} behind, which \
                     is not whole: {next}: {e:#}"
                ),
                ended,
                bad: true,
            })
        }
    }
}

/// Drops what a record names; a sentence when there was something.
fn clean(agent: &Agent, record: &Record) -> Result<Option<Left>> {
    let Record { job, source, into, database, aside, .. } = record;
    let config = agent.config.job.get(job).and_then(|job| source_of(source, &job.source));
    let (name, config) =
        config.with_context(|| format!("the configuration has no source {source} of job {job} any more"))?;
    let wanted = WantedDatabase {
        from: None,
        into: into.clone(),
        force: false,
        no_owner: false,
        login_file: record.login_file.clone(),
        login_user: record.login_user.clone(),
    };
    let built = source::build(name, &with_login(config.clone(), &wanted))?;
    let server = built.database().with_context(|| format!("{source} is no database server"))?;
    let scratch = Scratch::make(&agent.config.state_dir)?;
    let context = source::Context::new(scratch.path().to_owned(), Arc::default());
    if record.last {
        return Ok(server.exists(database, &context)?.then(|| Left {
            text: format!(
                "a restore died while it replaced the database {into}, which may be missing or not whole: all of the \
                 backup stands in the database {database} (its events are disabled). Restore once more with --force, \
                 and drop {database} when {into} is whole"
            ),
            ended: true,
            bad: true,
        }));
    }
    if let Some(aside) = aside
        && server.exists(aside, &context)?
    {
        return Ok(Some(Left {
            text: format!(
                "a restore died when the database {into} was replaced: the one that was there is called {aside}; drop \
                 it when {into} is as it should be"
            ),
            ended: true,
            bad: true,
        }));
    }
    if database == into {
        // Somebody may have mended it by hand meanwhile.
        return Ok(server.exists(database, &context)?.then(|| Left {
            text: format!(
                "a restore died while it filled the new database {into}, which is not whole: drop it, and restore once \
                 more"
            ),
            ended: true,
            bad: true,
        }));
    }
    ensure!(database.starts_with(PREFIX), "{database} is no temporary database, it is left alone");
    let dropped = server.remove(database, &context)?;
    Ok(dropped.then(|| Left {
        text: format!("the temporary database {database} of a restore into {into} that died is dropped"),
        ended: true,
        bad: false,
    }))
}
