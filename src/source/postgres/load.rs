//! Dumps back into a PostgreSQL server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};

use super::login::{Login, Words, quote};
use super::{CHECK_TIMEOUT, PostgresSource, ask};
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process::{self, Command, ProcessError};
use crate::source::Context;
use crate::source::database::{AlreadyThere, Database, Load, Purpose, feed};

/// Names the short-lived login file of questions.
const ASKING: &str = "question";
/// How long a server may take to make or drop a database.
const DROP_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How often a database is renamed that somebody looks into, a monitoring program for instance: each time the
/// server waits five seconds for them.
const RENAME_ATTEMPTS: u32 = 6;
/// What a message says was done.
const LOADING: &str = "loading a dump";
/// Databases that belong to the server.
const SYSTEM: [&str; 3] = ["postgres", "template0", "template1"];

impl PostgresSource {
    /// A program that asks one thing in a database.
    fn asker(&self, login: &Login, database: &str, sql: &str, timeout: Duration) -> anyhow::Result<Command> {
        Ok(self
            .command("psql", login)?
            .args(["--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"])
            .args(["--field-separator=\t", "--pset=null=NULL", "--set=ON_ERROR_STOP=1"])
            .arg(format!("--dbname=dbname={}", quote(database)))
            .arg(format!("--command={sql}"))
            .timeout(timeout))
    }

    fn answer(&self, asker: Command, login: &Login, context: &Context) -> anyhow::Result<String> {
        let output = process::output(asker, &context.cancel())
            .map_err(|e| ask::explain_doing(e, &login.words, LOADING))?;
        Ok(output.text().trim_end_matches('\n').to_owned())
    }

    fn statement(&self, login: &Login, sql: &str, context: &Context) -> anyhow::Result<String> {
        let asker = self.asker(login, &self.config.maintenance_db, sql, DROP_TIMEOUT)?;
        self.answer(asker, login, context)
    }

    fn asking(&self, context: &Context) -> anyhow::Result<Login> {
        Login::new(&ComponentName::new(ASKING)?, &self.config, &context.scratch)
    }
}

impl Database for PostgresSource {
    fn accepts(&self, content: Content, into: &str) -> anyhow::Result<()> {
        if content != Content::Postgres {
            bail!(
                "roles and tablespaces belong to no database: RESTORE.txt of the backup says how to load them"
            );
        }
        ensure!(!SYSTEM.contains(&into), "{into} is a database of the server itself: choose another name");
        ensure!(
            !into.is_empty() && !into.contains(['\0', '\n']),
            "{into:?} cannot be the name of a database"
        );
        Ok(())
    }

    fn exists(&self, database: &str, context: &Context) -> anyhow::Result<bool> {
        let sql = format!("SELECT count(*) FROM pg_database WHERE datname = {}", literal(database));
        Ok(self.statement(&self.asking(context)?, &sql, context)? != "0")
    }

    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()> {
        self.accepts(load.content, load.into)?;
        let into = load.into;
        let login = Login::new(load.component, &self.config, &context.scratch)?;
        if self.exists(into, context)? {
            bail!(AlreadyThere(into.to_owned()));
        }
        let trial = load.purpose == Purpose::Trial;
        // Not template1: what an administrator put there would be in the way.
        let create = format!("CREATE DATABASE {} TEMPLATE template0", name(into));
        let asker = self.asker(&login, &self.config.maintenance_db, &create, DROP_TIMEOUT)?;
        process::output(asker, &context.cancel()).map_err(|error| unmade(error, load, &login))?;
        let mut command = self
            .command("pg_restore", &login)?
            .timeout(self.config.timeout)
            .args(["--exit-on-error", "--no-password"])
            .arg(format!("--dbname=dbname={}", quote(into)));
        if load.no_owner || trial {
            command = command.args(["--no-owner", "--no-privileges"]);
        }
        if trial {
            // Of these, subscriptions would also keep the database from being dropped.
            command = command.args(["--no-subscriptions", "--no-publications"]);
            command = command.args(["--no-tablespaces", "--no-security-labels"]);
        }
        match feed(command, dump, context) {
            Err(error) => Err(unfilled(error, load, &login)),
            Ok(Err(error)) => Err(error).context("reading the dump"),
            Ok(Ok(_)) => Ok(()),
        }
    }

    fn can_rename(&self) -> bool {
        true
    }

    fn replaceable(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        let login = self.asking(context)?;
        let Words { user, place } = &login.words;
        ensure!(
            self.config.maintenance_db != database,
            "the database {database} is the one that logins begin in (maintenance_db), which cannot be replaced: \
             name another in the configuration"
        );
        let sql = format!(
            "SELECT CASE WHEN r.rolsuper THEN 'may' WHEN NOT pg_has_role(d.datdba, 'USAGE') THEN 'owner'
                         WHEN NOT r.rolcreatedb THEN 'createdb' ELSE 'may' END,
                    (SELECT count(*) FROM pg_stat_activity a
                      WHERE a.datname = d.datname AND a.usename IS NOT NULL AND a.pid <> pg_backend_pid())
               FROM pg_database d, pg_roles r WHERE r.rolname = current_user AND d.datname = {}",
            literal(database)
        );
        let answer = self.statement(&login, &sql, context)?;
        match answer.split_once('\t') {
            Some(("may", "0")) => Ok(()),
            Some(("may", others)) => bail!(
                "the database {database} at {place} is in use (connections: {others}): stop what uses it first"
            ),
            Some(("owner", _)) => {
                bail!("{user} does not own the database {database} at {place}: {OTHER_LOGIN}")
            }
            Some(("createdb", _)) => bail!(
                "{user} may not make the database at {place} that is to replace {database}: \
                 ALTER ROLE … CREATEDB, or {OTHER_LOGIN}"
            ),
            _ => bail!("the server at {place} says nothing of the database {database}: {answer:?}"),
        }
    }

    fn rename(&self, from: &str, to: &str, aside: Option<&str>, context: &Context) -> anyhow::Result<()> {
        let context = &context.undisturbed();
        let login = self.asking(context)?;
        let mut sql = "BEGIN; ".to_owned();
        if let Some(aside) = aside {
            sql += &format!("ALTER DATABASE {} RENAME TO {}; ", name(to), name(aside));
        }
        sql += &format!("ALTER DATABASE {} RENAME TO {}; ", name(from), name(to));
        if aside.is_some() {
            // Who owns it decides who may make tables in it.
            let owner = format!(
                "SELECT quote_ident(o.rolname) FROM pg_database d JOIN pg_roles o ON o.oid = d.datdba
                  WHERE d.datname = {} AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
                literal(to)
            );
            let owner = self.statement(&login, &owner, context)?;
            if !owner.is_empty() {
                sql += &format!("ALTER DATABASE {} OWNER TO {owner}; ", name(to));
            }
        }
        sql += "COMMIT";
        let mut renamed = self.statement(&login, &sql, context);
        for _ in 1..RENAME_ATTEMPTS {
            match &renamed {
                Err(error) if format!("{error:#}").contains("being accessed by other users") => {
                    renamed = self.statement(&login, &sql, context);
                }
                _ => break,
            }
        }
        match renamed {
            // All of it is one transaction; the answer alone may be lost.
            Err(_) if matches!(self.exists(from, context), Ok(false)) => Ok(()),
            renamed => renamed.with_context(|| format!("giving the database {from} the name {to}")).map(drop),
        }
    }

    fn drop_database(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        ensure!(!SYSTEM.contains(&database), "{database} is a database of the server itself");
        let context = &context.undisturbed();
        self.statement(&self.asking(context)?, &format!("DROP DATABASE {}", name(database)), context)
            .with_context(|| format!("dropping the database {database}"))
            .map(drop)
    }

    fn remove(&self, database: &str, context: &Context) -> anyhow::Result<bool> {
        let context = &context.undisturbed();
        if !self.exists(database, context)? {
            return Ok(false);
        }
        // A program that was cut short may have left its statement behind, and a database in use is not dropped.
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = {} AND usename = current_user AND pid <> pg_backend_pid()",
            literal(database)
        );
        let _ = self.statement(&self.asking(context)?, &end, context);
        self.drop_database(database, context)?;
        Ok(true)
    }

    fn place(&self, context: &Context) -> anyhow::Result<String> {
        Ok(self.asking(context)?.words.place.clone())
    }

    fn ask(&self, database: &str, sql: &str, timeout: Duration, context: &Context) -> anyhow::Result<String> {
        let login = self.asking(context)?;
        let asker = self
            .asker(&login, database, sql, timeout)?
            .env("PGOPTIONS", "-c default_transaction_read_only=on");
        self.answer(asker, &login, context)
    }

    fn tables(&self, database: &str, context: &Context) -> anyhow::Result<u64> {
        // What an extension brings along is not in dumps.
        let sql = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                      AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                       AND d.objid = c.oid AND d.deptype = 'e')";
        let answer = self.ask(database, sql, CHECK_TIMEOUT, context)?;
        answer.parse().with_context(|| format!("counting the tables of {database}: {answer:?}"))
    }

    fn tables_in(&self, dump: &Path, _: &str, context: &Context) -> anyhow::Result<u64> {
        // It needs no login, and another user could not read the file.
        let command = Command::new(self.program("pg_restore"))
            .hint(super::HINT)
            .timeout(CHECK_TIMEOUT)
            .max_output(256 << 20)
            .arg("--list")
            .arg(dump);
        let list = process::output(command, &context.cancel())
            .with_context(|| format!("listing what is in {}", dump.display()))?;
        // `215; 1259 16386 TABLE public orders postgres`; the data of tables have no catalogue.
        let is_table = |line: &&str| {
            let mut words = line.split(' ').skip(1);
            (words.next(), words.nth(1)) == (Some("1259"), Some("TABLE"))
        };
        Ok(list.text().lines().filter(is_table).count() as u64)
    }

    fn data_folder(&self, context: &Context) -> Option<PathBuf> {
        // By a socket it is this machine; of a host nobody knows.
        if self.config.host.as_deref().is_some_and(|host| !host.starts_with('/')) {
            return None;
        }
        let login = self.asking(context).ok()?;
        self.statement(&login, "SHOW data_directory", context).ok().map(PathBuf::from)
    }

    fn is_own(&self, _: &str) -> bool {
        // People keep tables in `postgres`, too.
        false
    }
}

/// How to go on without a right.
const OTHER_LOGIN: &str = "name a login that may with --login-file or --login-user";

/// What a program said was wrong, the last of it.
fn said(error: &ProcessError) -> Option<String> {
    let lines = &error.stderr()?.lines;
    lines.iter().find(|line| line.contains("error: ") || line.starts_with("ERROR: ")).cloned()
}

/// Why a database was not made.
fn unmade(error: ProcessError, load: &Load<'_>, login: &Login) -> anyhow::Error {
    let Words { user, place } = &login.words;
    let what = match load.purpose {
        Purpose::Trial => "a scratch database",
        _ => "a database",
    };
    let denied = said(&error).filter(|said| said.contains("permission denied to create database"));
    match denied {
        Some(said) => anyhow!(said).context(format!(
            "{user} may not make {what} at {place}: ALTER ROLE … CREATEDB, or {}",
            load.purpose.other_login()
        )),
        None => ask::explain_doing(error, &login.words, LOADING),
    }
}

/// Why a database was not filled.
fn unfilled(error: ProcessError, load: &Load<'_>, login: &Login) -> anyhow::Error {
    let Words { user, place } = &login.words;
    let Some(said) = said(&error) else { return ask::explain_doing(error, &login.words, LOADING) };
    let no_role = said.contains("role \"") && said.contains("does not exist");
    let trial = load.purpose == Purpose::Trial;
    let denied = [
        "permission denied",
        "must be owner",
        "must be superuser",
        "must be member of role",
        "must be able to SET ROLE",
    ];
    let sentence = if no_role && trial {
        "a role that the dump names, in a policy for instance, is missing at the server".to_owned()
    } else if no_role {
        "an owner in the dump does not exist here: load the component with the globals first (RESTORE.txt says \
         how), or give everything to the login with --no-owner"
            .to_owned()
    } else if denied.iter().any(|text| said.contains(text)) {
        let own = if trial || load.no_owner { "" } else { "give everything to it with --no-owner, or " };
        format!(
            "{user} lacks a privilege at {place} to make what is in the dump: {own}{}",
            load.purpose.other_login()
        )
    } else {
        return ask::explain_doing(error, &login.words, LOADING);
    };
    anyhow!(said).context(sentence)
}

/// A name in a statement.
fn name(database: &str) -> String {
    format!("\"{}\"", database.replace('"', "\"\""))
}

/// A text in a statement; `standard_conforming_strings` is on since 9.1.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
