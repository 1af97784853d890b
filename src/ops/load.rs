//! A component with a database, loaded into a database.

mod filling;
mod folder;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::stored::Backup;
use crate::config::{Config, SourceConfig};
use crate::event::{Interrupted, Progress};
use crate::fsutil;
use crate::manifest::{Component, Content};
use crate::model::{ByteSize, ComponentName, JobName};
use crate::source::{self, Database};

use filling::Filling;
use folder::Record;
pub(super) use folder::Scratch;
pub use folder::{Left, reap};

/// Room that must be left at the server beside what is loaded.
const SPARE: u64 = 256 << 20;

/// What is loaded, and where to.
#[derive(Debug, Clone)]
pub struct WantedDatabase {
    /// The database of the dump; the only one in it when absent.
    pub from: Option<String>,
    /// The database that is made.
    pub into: String,
    /// Put it in the place of one that exists.
    pub force: bool,
    /// Give everything to the login.
    pub no_owner: bool,
    /// Log in by this file instead of the source's: a MySQL option file, or a pgpass file.
    pub login_file: Option<PathBuf>,
    /// Log in as this user instead.
    pub login_user: Option<String>,
}

/// Loads a component into the server that its source names in the configuration; gives the bytes of the dump.
///
/// A database that is there is dropped when all of the dump is at the server, and not before.
///
/// # Errors
/// Each says what is left at the server: of a new database nothing; of one that was to be replaced the database
/// as it was, or, past the moment it was dropped, where everything stands now.
pub fn load(
    backup: &Backup<'_>,
    component: &Component,
    (job, config): (&JobName, &Config),
    wanted: &WantedDatabase,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let sources = &config.job.get(job).with_context(|| format!("the configuration has no job {job}"))?.source;
    let (name, settings) = source_of(&component.name, sources).with_context(|| {
        format!(
            "the configuration has no source for component {} any more, so nobody says where its server is; \
             RESTORE.txt of the backup says how to load it by hand",
            component.name
        )
    })?;
    let source = source::build(name, &with_login(settings.clone(), wanted))?;
    let server = source.database().with_context(|| {
        format!(
            "component {} holds no database that can be loaded: restore it into a folder, with --to",
            component.name
        )
    })?;
    let from = the_database(component, wanted)?;
    server.accepts(component.content, &wanted.into)?;
    let folder = Scratch::make(&config.state_dir)?;
    let context = source::Context::new(folder.path().to_owned(), Arc::clone(progress));
    let there = server.exists(&wanted.into, &context)?;
    ensure!(
        !there || wanted.force,
        "there is a database {} at {} already; choose another name, or replace it with --force",
        wanted.into,
        server.place(&context)?
    );
    let record = Record::new(job, name, wanted);
    let filling = Filling { backup, component, server, context, from, wanted, progress };
    let filled = match (there, server.can_rename()) {
        (_, true) => filling.renamed(there, &folder, record),
        (true, false) => filling.proved(&folder, record),
        (false, false) => filling.directly(&folder, record),
    };
    filled.map_err(|error| match progress.is_cancelled() && !error.is::<Interrupted>() {
        // A program that was ended for it says so in its own way.
        true => anyhow::Error::new(Interrupted).context(format!("{error:#}")),
        false => error,
    })
}

/// A server on this machine may share its disk with the live databases: they come first. `otherwise` says what
/// else can be done.
pub(super) fn no_room(
    server: &dyn Database,
    dump: u64,
    context: &source::Context,
    otherwise: &str,
) -> Result<()> {
    match server.data_folder(context) {
        Some(folder) => no_room_in(&folder, dump, otherwise),
        None => Ok(()),
    }
}

fn no_room_in(folder: &Path, dump: u64, otherwise: &str) -> Result<()> {
    // Where this process may not look, the server itself says when its disk is full.
    let Ok((_, free)) = fsutil::space(folder) else { return Ok(()) };
    let needed = dump.saturating_mul(2).saturating_add(SPARE);
    ensure!(
        free >= needed,
        "there is no room to load it: {} are needed in {}, {} are free; {otherwise}",
        ByteSize(needed),
        folder.display(),
        ByteSize(free)
    );
    Ok(())
}

/// A name that nobody else has, and that says what it is. With its random end it fits into the 63 bytes that
/// PostgreSQL allows.
pub(super) fn temporary_name(prefix: &str, of: &str) -> String {
    let room = 63 - prefix.len() - "_00000000".len();
    let words: String = of
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .take(room)
        .collect();
    format!("{prefix}{words}_{:08x}", rand::random::<u32>())
}

/// The source that made a component: its name is the component's, or the beginning of it up to a dot.
pub(super) fn source_of<'c>(
    component: &ComponentName,
    sources: &'c BTreeMap<ComponentName, SourceConfig>,
) -> Option<(&'c ComponentName, &'c SourceConfig)> {
    sources.iter().find(|(source, _)| {
        let rest = component.as_str().strip_prefix(source.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
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
        [] => bail!("run {} has no database {database}; {}", backup.manifest.run_id, there_are(backup)),
        several => {
            let names: Vec<&str> = several.iter().map(|c| c.name.as_str()).collect();
            bail!(
                "several components have a database {database}, say which with --component: {}",
                names.join(", ")
            )
        }
    }
}

/// The component that is meant when nobody says which: that with the database `into`, or the only database there
/// is.
pub fn component_for<'b>(backup: &'b Backup<'_>, into: &str) -> Result<&'b Component> {
    let components = &backup.manifest.components;
    if components.iter().any(|c| c.databases.iter().any(|name| name == into)) {
        return component_with(backup, into);
    }
    let is_dump = |c: &&Component| matches!(c.content, Content::Mysql | Content::Postgres);
    let dumps: Vec<&Component> = components.iter().filter(is_dump).collect();
    match dumps.as_slice() {
        [only] if only.databases.len() <= 1 => Ok(only),
        _ => bail!("which database? Name it with --database; {}", there_are(backup)),
    }
}

/// The databases of a backup, in a sentence.
fn there_are(backup: &Backup<'_>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for component in &backup.manifest.components {
        names.extend(component.databases.iter().map(String::as_str));
    }
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => "it names no databases".to_owned(),
        names => format!("it has: {}", names.join(", ")),
    }
}

/// A dump that is counted, and ends when it is asked to.
pub(super) struct Counted<'a, R> {
    dump: R,
    bytes: u64,
    progress: &'a Progress,
}

impl<'a, R> Counted<'a, R> {
    pub(super) fn new(dump: R, progress: &'a Progress) -> Self {
        Self { dump, bytes: 0, progress }
    }

    /// How many bytes were read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_has_no_room_beside_what_is_there_is_refused_before_it_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let error = no_room_in(folder.path(), 1 << 60, "drop something").unwrap_err().to_string();
        assert!(error.starts_with("there is no room to load it: "), "{error}");
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        assert!(error.ends_with("; drop something"), "{error}");
        // Another machine's folder, or one that may not be looked into.
        no_room_in(&folder.path().join("away"), 1 << 60, "").unwrap();
    }
}
