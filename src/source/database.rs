//! Dumps back into databases.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::manifest::Content;
use crate::model::ComponentName;

use super::Context;

/// What is loaded, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// The component, for the names of short-lived files.
    pub component: &'a ComponentName,
    /// What it holds.
    pub content: Content,
    /// The database of the dump that is meant.
    pub from: &'a str,
    /// The database that is made.
    pub into: &'a str,
    /// Give everything to whoever logs in, for servers that do not know the owners.
    pub no_owner: bool,
    /// What for.
    pub purpose: Purpose,
}

/// What a dump is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be used: everything that is in it.
    Use,
    /// To see that all of it loads with the rights of this login, before the live database is dropped for it:
    /// nothing acts by itself (events are made, and stay disabled) or reaches beyond the database that is made.
    Proof,
    /// For trial, perhaps beside the live database: what would act by itself (events, subscriptions) or reach
    /// beyond the database that is made is left out, and everything is given to the login.
    Trial,
}

impl Purpose {
    /// What a message calls the login that lacks a right, and how to give another one.
    pub(super) fn other_login(self) -> &'static str {
        match self {
            Purpose::Use | Purpose::Proof => "name a login that may with --login-file",
            Purpose::Trial => "name another server or login with `drill.server`",
        }
    }
}

/// A database of that name came to be meanwhile: it is not this program's, and stays.
#[derive(Debug, Clone, thiserror::Error)]
#[error("there is a database {0} already")]
pub struct AlreadyThere(pub String);

/// A database server that dumps can be loaded into.
pub trait Database: Send + Sync {
    /// Says why such a component cannot be loaded into a database of that name, whatever is at the server.
    fn accepts(&self, content: Content, into: &str) -> anyhow::Result<()>;

    /// Whether there is a database of that name.
    fn exists(&self, name: &str, context: &Context) -> anyhow::Result<bool>;

    /// Makes the database `load.into`, which must not exist ([`AlreadyThere`]), and fills it from `dump`, which
    /// is read to its end. After another error it may be there, half filled: [`Database::remove`].
    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()>;

    /// Whether a database can be renamed; where it cannot, it is loaded anew to get another name.
    fn can_rename(&self) -> bool;

    /// Says why this login could not replace a database that exists now: its rights, or others at work in it.
    fn replaceable(&self, name: &str, context: &Context) -> anyhow::Result<()>;

    /// Gives the database `from` the name `to`. The one that has this name gets the name `aside` in the same
    /// moment, where one is given. After an error nothing is renamed.
    fn rename(&self, from: &str, to: &str, aside: Option<&str>, context: &Context) -> anyhow::Result<()>;

    /// Drops a database that nobody uses. Once begun it is not interrupted.
    fn drop_database(&self, name: &str, context: &Context) -> anyhow::Result<()>;

    /// Ends this login's connections to a database and drops it; says whether it was there. Is done also when the
    /// work was asked to stop.
    fn remove(&self, name: &str, context: &Context) -> anyhow::Result<bool>;

    /// Where the server is, for messages.
    fn place(&self, context: &Context) -> anyhow::Result<String>;

    /// The answer to a question asked of a database, which can change nothing: rows in lines, columns with
    /// tabs between them, NULL as `NULL`.
    fn ask(&self, database: &str, sql: &str, timeout: Duration, context: &Context) -> anyhow::Result<String>;

    /// How many tables a database has; views and the like are none.
    fn tables(&self, database: &str, context: &Context) -> anyhow::Result<u64>;

    /// How many tables of the database `from` the dump in a file makes.
    fn tables_in(&self, dump: &Path, from: &str, context: &Context) -> anyhow::Result<u64>;

    /// Where the server keeps its data, when it runs on this machine and tells.
    fn data_folder(&self, context: &Context) -> Option<PathBuf>;

    /// Whether a database is the server's own, and no place or source of anybody's data.
    fn is_own(&self, database: &str) -> bool;
}

/// Fills a program from `dump`, and says how both ended: what the program says about its end is the better
/// reason, unless it only ended because the dump broke off.
pub(super) fn feed(
    command: crate::process::Command,
    dump: &mut dyn Read,
    context: &Context,
) -> Result<std::io::Result<u64>, crate::process::ProcessError> {
    let failed = |reason: std::io::Error| crate::process::ProcessError::Spawn {
        program: command.name(),
        reason: reason.to_string(),
    };
    let (stdin, mut input) = std::io::pipe().map_err(failed)?;
    let program = command.name();
    let mut child = crate::process::stream_from(command, stdin, context.cancel())?;
    // What it prints is read, so that it never waits for us; how it ended says whether that matters.
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || {
            let _ = std::io::copy(&mut child, &mut std::io::sink());
            child.finish()
        });
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        let fed = loop {
            match dump.read(&mut buffer) {
                Ok(0) => break Ok(bytes),
                Ok(got) => {
                    use std::io::Write as _;
                    if input.write_all(&buffer[..got]).is_err() {
                        break Ok(bytes); // the program closed its end, and says why
                    }
                    bytes += got as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        drop(input);
        match ended.join() {
            Ok(Ok(_)) => Ok(fed),
            // The program was cut short by us.
            Ok(Err(_)) if fed.is_err() => Ok(fed),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(crate::process::ProcessError::Spawn {
                program,
                reason: "the thread that read from it failed".to_owned(),
            }),
        }
    })
}
