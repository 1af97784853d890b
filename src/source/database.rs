//! Dumps back into databases.

use std::io::Read;

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
    /// Drop the database `into` first, when there is one; else that is an error.
    pub replace: bool,
    /// Give everything to whoever logs in, for servers that do not know the owners.
    pub no_owner: bool,
}

/// A database server that dumps can be loaded into.
pub trait Database: Send + Sync {
    /// Makes the database `load.into` and fills it from `dump`, which is read to its end. When an error comes,
    /// no half-filled database is left.
    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()>;

    /// Drops a database.
    fn remove(&self, name: &str, context: &Context) -> anyhow::Result<()>;

    /// The answer to one statement in a database: rows in lines, columns with tabs between them.
    fn query(&self, database: &str, sql: &str, context: &Context) -> anyhow::Result<String>;
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
