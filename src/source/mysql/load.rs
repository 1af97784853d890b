//! Dumps back into a MySQL or MariaDB server, under another name where that is wanted.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};

use super::login::Login;
use super::renamed::Renamed;
use super::{CHECK_TIMEOUT, MysqlSource, check};
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process::{self, Command, ProcessError};
use crate::source::Context;
use crate::source::database::{AlreadyThere, Database, Load, Purpose, feed};

/// Names the short-lived login file of questions.
const ASKING: &str = "question";
/// How long a server may take to drop a database.
const DROP_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How many seconds it waits for those who use a database that is to be dropped.
const LOCK_WAIT: u32 = 60;
/// What a message says was done.
const LOADING: &str = "loading a dump";

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
        let output = process::output(command, &context.cancel())
            .map_err(|e| check::explain_doing(e, login, LOADING))?;
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
    fn accepts(&self, content: Content, into: &str) -> anyhow::Result<()> {
        if content == Content::MysqlUsers {
            bail!(
                "accounts and grants belong to no database: RESTORE.txt of the backup says how to load them"
            );
        }
        ensure!(!is_system(into), "{into} is a database of the server itself: choose another name");
        ensure!(
            !into.is_empty() && !into.contains(['\0', '\n']),
            "{into:?} cannot be the name of a database"
        );
        Ok(())
    }

    fn exists(&self, name: &str, context: &Context) -> anyhow::Result<bool> {
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
            check::literal(name)
        );
        Ok(self.statement(&self.asking(context)?, None, &sql, CHECK_TIMEOUT, context)? != "0")
    }

    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()> {
        self.accepts(load.content, load.into)?;
        let login = self.login(load.component, context)?;
        let command = self
            .client(&login)?
            // Nothing in a dump may be taken for a command of the client.
            .args(["--binary-mode", "--max-allowed-packet=1G"])
            .timeout(self.config.timeout);
        let mut renamed = Renamed::new(dump, load.from, load.into, load.purpose);
        match feed(command, &mut renamed, context) {
            Err(error) => Err(why(without_statement(error), load, &login)),
            Ok(Err(error)) => Err(error).context("reading the dump"),
            Ok(Ok(_)) => {
                ensure!(renamed.seen, "the dump has no database {}", load.from);
                Ok(())
            }
        }
    }

    fn can_rename(&self) -> bool {
        false
    }

    fn replaceable(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        // What a login may is shown by loading the dump under another name, and by DROP itself. That would stop in
        // the middle at a table that others refer to.
        let login = self.asking(context)?;
        let sql = format!(
            "SELECT CONCAT(CONSTRAINT_SCHEMA, '.', TABLE_NAME) FROM information_schema.REFERENTIAL_CONSTRAINTS
              WHERE UNIQUE_CONSTRAINT_SCHEMA = {0} AND CONSTRAINT_SCHEMA <> {0} LIMIT 1",
            check::literal(database)
        );
        let table = self.statement(&login, None, &sql, CHECK_TIMEOUT, context)?;
        ensure!(
            table.is_empty(),
            "the table {table} at {} refers to the database {database} by a foreign key, so that it cannot be \
             dropped: drop that key first, and make it again afterwards",
            login.place
        );
        Ok(())
    }

    fn rename(&self, from: &str, _: &str, _: Option<&str>, _: &Context) -> anyhow::Result<()> {
        bail!("this server cannot rename the database {from}")
    }

    fn drop_database(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        ensure!(!is_system(database), "{database} is a database of the server itself");
        let context = &context.undisturbed();
        let login = self.asking(context)?;
        // The server would go on waiting for a lock when nobody waits for the answer any more.
        let sql = format!("SET SESSION lock_wait_timeout = {LOCK_WAIT}; DROP DATABASE {}", name(database));
        self.statement(&login, None, &sql, DROP_TIMEOUT, context)
            .with_context(|| format!("dropping the database {database}"))
            .map(drop)
    }

    fn remove(&self, database: &str, context: &Context) -> anyhow::Result<bool> {
        let context = &context.undisturbed();
        if !self.exists(database, context)? {
            return Ok(false);
        }
        self.end_connections(&self.asking(context)?, database, context);
        self.drop_database(database, context)?;
        Ok(true)
    }

    fn place(&self, context: &Context) -> anyhow::Result<String> {
        Ok(self.asking(context)?.place.clone())
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
        let mut renamed = Renamed::new(file, from, from, Purpose::Use);
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

/// The client repeats the statement before the error: people's data, which belong into no message.
fn without_statement(mut error: ProcessError) -> ProcessError {
    if let ProcessError::Failed { stderr, .. } = &mut error
        && let Some(at) = stderr.lines.iter().rposition(|line| line.starts_with("ERROR "))
    {
        stderr.lines.drain(..at);
    }
    error
}

/// One sentence of what stopped a client that loads, and what it said.
fn why(error: ProcessError, load: &Load<'_>, login: &Login) -> anyhow::Error {
    let Login { user, place, .. } = login;
    let said = error.stderr().and_then(|tail| tail.lines.iter().find(|line| line.starts_with("ERROR ")));
    let Some(said) = said.cloned() else { return check::explain_doing(error, login, LOADING) };
    let codes = check::codes(&said);
    let is = |known: &[u32]| codes.iter().any(|code| known.contains(code));
    let grants = match load.purpose {
        Purpose::Use => format!("{}.*", name(load.into)),
        Purpose::Proof => "`backup\\_restore\\_%`.*".to_owned(),
        Purpose::Trial => "`backup\\_drill\\_%`.*".to_owned(),
    };
    let what = match load.purpose {
        Purpose::Use => format!("the database {}", load.into),
        Purpose::Proof => format!("the temporary database {}", load.into),
        Purpose::Trial => "a scratch database".to_owned(),
    };
    let other = load.purpose.other_login();
    if is(&[1007]) {
        return AlreadyThere(load.into.to_owned()).into();
    }
    let sentence = if is(&[1044, 1142, 1143, 1370]) {
        format!(
            "{user} may not make and fill {what} at {place}: GRANT ALL PRIVILEGES ON {grants}, or {other}"
        )
    } else if is(&[1227]) {
        format!(
            "{user} may not make at {place} what belongs to other accounts (DEFINER) or concerns the whole server: \
             {other}"
        )
    } else if is(&[1418, 1419]) {
        format!(
            "{user} may not make triggers and functions at {place}, which writes binary logs: \
             SET GLOBAL log_bin_trust_function_creators = 1, or {other}"
        )
    } else {
        return check::explain_doing(error, login, LOADING);
    };
    anyhow!(said).context(sentence)
}

fn is_system(name: &str) -> bool {
    check::SYSTEM_SCHEMAS.iter().any(|schema| schema.eq_ignore_ascii_case(name))
}

/// A name in a statement.
pub(super) fn name(database: &str) -> String {
    format!("`{}`", database.replace('`', "``"))
}
