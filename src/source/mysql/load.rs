//! Dumps back into a MySQL or MariaDB server, under another name where that is wanted.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::login::Login;
use super::renamed::Renamed;
use super::{CHECK_TIMEOUT, MysqlSource, check};
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process::{self, Command, ProcessError};
use crate::source::Context;
use crate::source::database::{Database, Load, feed};

/// Names the short-lived login file of questions.
const ASKING: &str = "question";
/// How long a server may take to drop a database.
const DROP_TIMEOUT: Duration = Duration::from_secs(10 * 60);

impl MysqlSource {
    fn client(&self, login: &Login) -> anyhow::Result<Command> {
        let client =
            check::CLIENTS.iter().find(|name| process::find_program(**name).is_some()).with_context(
                || format!("no client ({}) is installed: {}", check::CLIENTS.join(" or "), super::HINT),
            )?;
        Ok(check::base(client, login).args(["--batch", "--default-character-set=utf8mb4"]))
    }

    fn statement(
        &self,
        login: &Login,
        database: Option<&str>,
        sql: &str,
        timeout: Duration,
        context: &Context,
    ) -> anyhow::Result<String> {
        let mut command = self
            .client(login)?
            .args(["--skip-column-names", "--connect-timeout=10"])
            .arg(format!("--execute={sql}"))
            .timeout(timeout);
        if let Some(database) = database {
            command = command.arg(format!("--database={database}"));
        }
        let output = process::output(command, &context.cancel()).map_err(|e| check::explain(e, login))?;
        Ok(output.text().trim_end_matches('\n').to_owned())
    }

    /// Ends what this login does in a database: a client that was cut short may have left its statement behind,
    /// and a database in use is not dropped.
    fn end_connections(&self, login: &Login, database: &str, context: &Context) {
        let found = format!(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = {} AND ID <> CONNECTION_ID()",
            check::literal(database)
        );
        let Ok(ids) = self.statement(login, None, &found, CHECK_TIMEOUT, context) else { return };
        for id in ids.lines().filter_map(|id| id.parse::<u64>().ok()) {
            // It may have ended by itself meanwhile.
            let _ = self.statement(login, None, &format!("KILL {id}"), CHECK_TIMEOUT, context);
        }
    }

    fn login(&self, name: &ComponentName, context: &Context) -> anyhow::Result<Login> {
        Login::new(name, &self.config, &context.scratch)
    }

    fn asking(&self, context: &Context) -> anyhow::Result<Login> {
        self.login(&ComponentName::new(ASKING)?, context)
    }
}

impl Database for MysqlSource {
    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()> {
        if load.content == Content::MysqlUsers {
            bail!(
                "accounts and grants belong to no database: RESTORE.txt of the backup says how to load them"
            );
        }
        let into = load.into;
        ensure!(!is_system(into), "{into} is a database of the server itself: choose another name");
        ensure!(
            !into.is_empty() && !into.contains(['\0', '\n']),
            "{into:?} cannot be the name of a database"
        );
        let login = self.login(load.component, context)?;
        let found = format!(
            "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
            check::literal(into)
        );
        if self.statement(&login, None, &found, CHECK_TIMEOUT, context)? != "0" {
            ensure!(
                load.replace,
                "there is a database {into} at {} already; choose another name, or replace it with --force",
                login.place
            );
            let drop = format!("DROP DATABASE {}", name(into));
            self.statement(&login, None, &drop, DROP_TIMEOUT, context)?;
        }
        let command = self
            .client(&login)?
            // Nothing in a dump may be taken for a command of the client.
            .args(["--binary-mode", "--max-allowed-packet=1G"])
            .timeout(self.config.timeout);
        let mut renamed = Renamed::new(dump, load.from, into, load.trial);
        let filled = match feed(command, &mut renamed, context) {
            Err(error) => {
                let lacking = error.stderr().is_some_and(|tail| tail.lines.iter().any(|line| lacks(line)));
                let error = check::explain(without_statement(error), &login);
                Err(if lacking { error.context(needed(&login, load.trial)) } else { error })
            }
            Ok(Err(error)) => Err(error).context("reading the dump"),
            Ok(Ok(_)) => Ok(()),
        };
        let filled = filled.and_then(|()| {
            ensure!(renamed.seen, "the dump has no database {}", load.from);
            Ok(())
        });
        filled.map_err(|error| match self.remove(into, context) {
            Ok(()) => error.context(format!("loading {into}: what was loaded of it is removed again")),
            Err(left) => {
                error.context(format!("loading {into}: what was loaded of it is left there ({left:#})"))
            }
        })
    }

    fn remove(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        ensure!(!is_system(database), "{database} is a database of the server itself");
        let context = &context.undisturbed();
        let login = self.asking(context)?;
        self.end_connections(&login, database, context);
        let sql = format!("DROP DATABASE IF EXISTS {}", name(database));
        self.statement(&login, None, &sql, DROP_TIMEOUT, context)
            .with_context(|| format!("dropping the database {database}"))
            .map(drop)
    }

    fn ask(&self, database: &str, sql: &str, timeout: Duration, context: &Context) -> anyhow::Result<String> {
        let login = self.asking(context)?;
        let sql = format!("SET SESSION TRANSACTION READ ONLY; {sql}");
        self.statement(&login, Some(database), &sql, timeout, context)
    }

    fn tables(&self, database: &str, context: &Context) -> anyhow::Result<u64> {
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.TABLES
              WHERE TABLE_SCHEMA = {} AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')",
            check::literal(database)
        );
        let answer = self.statement(&self.asking(context)?, None, &sql, CHECK_TIMEOUT, context)?;
        answer.parse().with_context(|| format!("counting the tables of {database}: {answer:?}"))
    }

    fn tables_in(&self, dump: &Path, from: &str, context: &Context) -> anyhow::Result<u64> {
        let file = File::open(dump).with_context(|| format!("opening {}", dump.display()))?;
        let mut renamed = Renamed::new(file, from, from, false);
        let mut buffer = vec![0; 256 << 10];
        while renamed.read(&mut buffer).with_context(|| format!("reading {}", dump.display()))? > 0 {
            ensure!(!context.cancel()(), crate::event::Interrupted);
        }
        Ok(renamed.tables)
    }

    fn data_folder(&self, context: &Context) -> Option<PathBuf> {
        let login = self.asking(context).ok()?;
        // A server elsewhere may have the same path.
        let answer =
            self.statement(&login, None, "SELECT @@hostname, @@datadir", CHECK_TIMEOUT, context).ok()?;
        let (host, folder) = answer.split_once('\t')?;
        (host == rustix::system::uname().nodename().to_str().ok()?).then(|| PathBuf::from(folder))
    }

    fn is_own(&self, database: &str) -> bool {
        is_system(database)
    }
}

/// Whether a client complains about a privilege: of a database, a table, a definer, a function.
fn lacks(line: &str) -> bool {
    check::codes(line).iter().any(|code| matches!(code, 1044 | 1142 | 1227 | 1418 | 1419))
}

/// The client repeats the statement before the error: people's data, which belong into no message.
fn without_statement(mut error: ProcessError) -> ProcessError {
    if let ProcessError::Failed { stderr, .. } = &mut error
        && let Some(at) = stderr.lines.iter().rposition(|line| line.starts_with("ERROR "))
    {
        stderr.lines.drain(..at);
    }
    error
}

fn needed(login: &Login, trial: bool) -> String {
    let Login { user, place, .. } = login;
    match trial {
        true => format!(
            "{user} may not make and fill a scratch database at {place}: GRANT ALL PRIVILEGES ON `backup\\_drill\\_%`.* \
             (with binary logs also SET GLOBAL log_bin_trust_function_creators = 1), or name another server or login for drills"
        ),
        false => format!("{user} lacks a privilege at {place} that loading this dump needs"),
    }
}

fn is_system(name: &str) -> bool {
    check::SYSTEM_SCHEMAS.iter().any(|schema| schema.eq_ignore_ascii_case(name))
}

/// A name in a statement.
pub(super) fn name(database: &str) -> String {
    format!("`{}`", database.replace('`', "``"))
}
