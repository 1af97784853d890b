//! A component with a database, loaded into a database.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::stored::Backup;
use crate::config::{JobConfig, SourceConfig};
use crate::event::{Interrupted, Progress};
use crate::manifest::{Component, Content};
use crate::model::ComponentName;
use crate::source::{self, Load, Source};

/// What is loaded, and where to.
#[derive(Debug, Clone)]
pub struct WantedDatabase {
    /// The database of the dump; the only one in it when absent.
    pub from: Option<String>,
    /// The database that is made.
    pub into: String,
    /// Drop it first when it exists.
    pub force: bool,
    /// Give everything to the login.
    pub no_owner: bool,
    /// Log in by this file instead of the source's: a MySQL option file, or a pgpass file.
    pub login_file: Option<PathBuf>,
    /// Log in as this user instead.
    pub login_user: Option<String>,
}

/// Loads a component into the server that its source names in the configuration; gives the bytes of the dump.
/// When an error comes, no half-filled database is left, or the error says so.
pub fn load(
    backup: &Backup<'_>,
    component: &Component,
    job: &JobConfig,
    wanted: &WantedDatabase,
    state_dir: &Path,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let source = source_of(component, job, wanted)?;
    let server = source.database().with_context(|| {
        format!(
            "component {} holds no database that can be loaded: restore it into a folder, with --to",
            component.name
        )
    })?;
    let from = the_database(component, wanted)?;
    let scratch = Scratch::make(state_dir)?;
    let context = source::Context::new(scratch.0.clone(), Arc::clone(progress));
    let (mut decoder, totals) = backup.stream(component)?;
    let mut dump = Counted { dump: &mut decoder, bytes: 0, progress };
    let load = Load {
        component: &component.name,
        content: component.content,
        from: &from,
        into: &wanted.into,
        replace: wanted.force,
        no_owner: wanted.no_owner,
    };
    let loaded = server.load(&load, &mut dump, &context);
    if progress.is_cancelled() {
        loaded?;
        return Err(Interrupted.into());
    }
    loaded?;
    // A program may be content before the end of what it is given.
    io::copy(&mut dump, &mut io::sink()).with_context(|| format!("decompressing {}", component.file))?;
    if dump.bytes != component.raw_bytes || totals.sha256() != component.sha256 {
        let removed = server.remove(&wanted.into, &context);
        let left = if removed.is_ok() { "is removed again" } else { "is left there" };
        bail!("{} is not what was written: what was loaded into {} {left}", component.file, wanted.into);
    }
    Ok(dump.bytes)
}

/// The source that made a component: its name is the component's, or the beginning of it up to a dot.
fn source_of(component: &Component, job: &JobConfig, wanted: &WantedDatabase) -> Result<Box<dyn Source>> {
    let name = component.name.as_str();
    let found = job.source.iter().find(|(source, _)| {
        name.strip_prefix(source.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    let (source, config) = found.with_context(|| {
        format!(
            "the configuration has no source for component {name} any more, so nobody says where its server is; \
             RESTORE.txt of the backup says how to load it by hand"
        )
    })?;
    source::build(source, &with_login(config.clone(), wanted))
}

/// The same server, under another login.
fn with_login(mut config: SourceConfig, wanted: &WantedDatabase) -> SourceConfig {
    if wanted.login_file.is_none() && wanted.login_user.is_none() {
        return config;
    }
    match &mut config {
        SourceConfig::Mysql(config) => {
            if let Some(file) = &wanted.login_file {
                config.defaults_file = Some(file.clone());
                (config.user, config.password, config.password_file) = (None, None, None);
            }
            config.user = wanted.login_user.clone().or(config.user.take());
        }
        SourceConfig::Postgres(config) => {
            if let Some(file) = &wanted.login_file {
                config.passfile = Some(file.clone());
                (config.password, config.password_file) = (None, None);
            }
            config.user = wanted.login_user.clone().or(config.user.take());
        }
        _ => {}
    }
    config
}

fn the_database(component: &Component, wanted: &WantedDatabase) -> Result<String> {
    let name = &component.name;
    if let Some(from) = &wanted.from {
        let known = component.databases.is_empty() || component.databases.contains(from);
        ensure!(known, "component {name} has no database {from}; it has: {}", component.databases.join(", "));
        return Ok(from.clone());
    }
    match component.databases.as_slice() {
        [only] => Ok(only.clone()),
        [] if component.content == Content::PostgresGlobals || component.content == Content::MysqlUsers => {
            Ok(String::new()) // refused by the source, with the reason
        }
        several if several.contains(&wanted.into) => Ok(wanted.into.clone()),
        [] => bail!("which database of component {name}? Name it with --database"),
        several => {
            bail!("which database of component {name}? Name it with --database: {}", several.join(", "))
        }
    }
}

/// The component that holds a database, when only the database's name is known.
pub fn component_with<'b>(backup: &'b Backup<'_>, database: &str) -> Result<&'b Component> {
    let holds = |c: &&Component| c.databases.iter().any(|name| name == database);
    let found: Vec<&Component> = backup.manifest.components.iter().filter(holds).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => bail!("run {} has no database {database}", backup.manifest.run_id),
        several => {
            let names: Vec<&ComponentName> = several.iter().map(|c| &c.name).collect();
            bail!("several components have a database {database}, say which with --component: {names:?}")
        }
    }
}

/// A private folder for short-lived files, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(state_dir: &Path) -> Result<Self> {
        let folder = state_dir.join(format!("loading-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making folder {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::warn!("removing {}: {e}", self.0.display());
        }
    }
}

/// A dump that is counted, and ends when it is asked to.
struct Counted<'a, R> {
    dump: R,
    bytes: u64,
    progress: &'a Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(io::Error::other(Interrupted));
        }
        let got = self.dump.read(buffer)?;
        self.bytes += got as u64;
        self.progress.add_source(got as u64);
        Ok(got)
    }
}
