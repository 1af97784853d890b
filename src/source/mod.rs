//! Where the data comes from: files, databases, programs, the state of the system.
//!
//! A [`Source`] is made from its part of the configuration by [`build`], looked at by
//! [`Source::preflight`] before anything is read, which also says of which components it consists; each of
//! these is opened once: as a tree that the engine walks, or as a stream of bytes. A stream is good only after [`StreamSource::finish`] said so: a dump that broke off
//! looks like any other dump until its exit status and its end marker are known.

mod checked;
mod command;
mod database;
mod dotenv;
mod dump;
mod files;
mod mysql;
mod parts;
mod postgres;
mod redis;
mod settings;
mod sqlite;
mod system;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::archive::TreeSpec;
use crate::config::{SourceConfig, Unreadable};
use crate::event::Progress;
use crate::model::ComponentName;
use crate::process::Cancel;

pub use command::CommandSource;
pub use database::{AlreadyThere, Database, Load, Purpose};
pub use dotenv::{Dotenv, DotenvError};
pub use files::FilesSource;
pub use mysql::MysqlSource;
pub use parts::Part;
pub use postgres::PostgresSource;
pub use redis::RedisSource;
pub use sqlite::SqliteSource;
pub use system::SystemSource;

/// What a source has for the engine.
pub enum Capture {
    /// Files and folders, to be walked.
    Tree(TreeSpec),
    /// Bytes, to be read to their end.
    Stream(Box<dyn StreamSource>),
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Capture::Tree(spec) => f.debug_tuple("Tree").field(spec).finish(),
            Capture::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A stream while it is read. Dropping it before [`StreamSource::finish`] gives it up and ends what
/// produces it.
pub trait StreamSource: Send {
    /// The bytes. A read error means that the stream is not whole.
    fn reader(&mut self) -> &mut (dyn Read + Send);

    /// Called after the last byte was read: says whether what was read is whole (exit status, end marker).
    /// Its error is the better one where reading failed too: it knows how the program ended.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// What a source may use while it works.
#[derive(Debug, Clone)]
pub struct Context {
    /// An existing folder that only this user can enter, on the file system of the backup, removed after
    /// the run. Copies of databases and short-lived option files with credentials are made here.
    pub scratch: PathBuf,
    /// Says whether the run should stop.
    pub progress: Arc<Progress>,
    /// Set when another component of the same source failed, so that this one is not worth finishing.
    pub given_up: Arc<AtomicBool>,
}

/// What a look at a source found.
#[derive(Debug, Default)]
pub struct Ready {
    /// The components it will make, in this order.
    pub parts: Vec<Part>,
    /// Sentences for a person.
    pub warnings: Vec<String>,
}

impl Ready {
    /// One component, and nothing to say.
    fn whole(part: Part) -> Self {
        Self { parts: vec![part], warnings: Vec::new() }
    }
}

impl Context {
    /// A context for sources that use `scratch`, in a run that `progress` watches.
    pub fn new(scratch: PathBuf, progress: Arc<Progress>) -> Self {
        Self { scratch, progress, given_up: Arc::default() }
    }

    /// The same without the wish to stop: for what must be cleaned up all the same.
    pub fn undisturbed(&self) -> Self {
        Self::new(self.scratch.clone(), Arc::default())
    }

    /// The run's wish to stop, in the form child processes understand.
    pub fn cancel(&self) -> Cancel {
        let (progress, given_up) = (self.progress.clone(), self.given_up.clone());
        Arc::new(move || progress.is_cancelled() || given_up.load(Ordering::Relaxed))
    }
}

/// One source of a job.
pub trait Source: Send + Sync {
    /// The name of the source: its component has it too, or begins with it.
    fn name(&self) -> &ComponentName;

    /// The type as the configuration spells it: `files`, `mysql`.
    fn type_name(&self) -> &'static str;

    /// Looks for everything that would make [`Source::open`] fail: files, programs, logins. An error ends
    /// the run before anything is read of this source.
    fn preflight(&self, context: &Context) -> anyhow::Result<Ready>;

    /// Opens one of the components that [`Source::preflight`] named. Blocks for as long as the source needs
    /// before its first byte.
    fn open(&self, part: &Part, context: &Context) -> anyhow::Result<Capture>;

    /// The server that dumps of this source can be loaded into; none for sources that are no database server.
    fn database(&self) -> Option<&dyn Database> {
        None
    }

    /// How many components may be captured at the same time.
    fn parallel(&self) -> usize {
        1
    }

    /// What an unreadable file does to the outcome.
    fn unreadable(&self) -> Unreadable {
        Unreadable::Fail
    }

    /// Whether nothing at all is an acceptable content.
    fn allow_empty(&self) -> bool {
        false
    }

    /// When it is captured: lower is earlier. Databases come before files, so that no row names a file
    /// newer than what is stored.
    fn rank(&self) -> u8;
}

/// Rank of databases and programs, see [`Source::rank`].
const RANK_DATABASE: u8 = 0;
/// Rank of files.
const RANK_FILES: u8 = 1;
/// Rank of the system's state.
const RANK_SYSTEM: u8 = 2;

/// Makes the source called `name`. An error says what is wrong with its settings; nothing outside is
/// touched yet.
pub fn build(name: &ComponentName, config: &SourceConfig) -> anyhow::Result<Box<dyn Source>> {
    let name = name.clone();
    let source: anyhow::Result<Box<dyn Source>> = match config {
        SourceConfig::Files(config) => Ok(Box::new(FilesSource::new(name.clone(), config.clone()))),
        SourceConfig::Command(config) => boxed(CommandSource::new(name.clone(), config.clone())),
        SourceConfig::Sqlite(config) => Ok(Box::new(SqliteSource::new(name.clone(), config.clone()))),
        SourceConfig::Mysql(config) => boxed(MysqlSource::new(name.clone(), config.clone())),
        SourceConfig::Postgres(config) => boxed(PostgresSource::new(name.clone(), config.clone())),
        SourceConfig::Redis(config) => boxed(RedisSource::new(name.clone(), config.clone())),
        SourceConfig::System(config) => Ok(Box::new(SystemSource::new(name.clone(), config.clone()))),
    };
    source.with_context(|| format!("source {name}"))
}

fn boxed<S: Source + 'static>(source: anyhow::Result<S>) -> anyhow::Result<Box<dyn Source>> {
    source.map(|source| Box::new(source) as Box<dyn Source>)
}

/// Makes all sources of a job, in the order in which they are captured.
pub fn build_all(sources: &BTreeMap<ComponentName, SourceConfig>) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let mut built =
        sources.iter().map(|(name, config)| build(name, config)).collect::<anyhow::Result<Vec<_>>>()?;
    order(&mut built);
    Ok(built)
}

/// Sorts sources into the order in which they are captured: databases and programs, files, the system's
/// state; by name within.
pub fn order(sources: &mut [Box<dyn Source>]) {
    sources.sort_by(|a, b| (a.rank(), a.name()).cmp(&(b.rank(), b.name())));
}

#[cfg(test)]
mod tests;
