//! Dumps back into a PostgreSQL server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::login::{Login, quote};
use super::{CHECK_TIMEOUT, PostgresSource, ask};
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process::{self, Command};
use crate::source::Context;
use crate::source::database::{Database, Load, feed};

/// Names the short-lived login file of questions.
const ASKING: &str = "question";
/// How long a server may take to make or drop a database.
const DROP_TIMEOUT: Duration = Duration::from_secs(10 * 60);
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
        let output = process::output(asker, &context.cancel()).map_err(|e| ask::explain(e, &login.words))?;
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
    fn load(&self, load: &Load<'_>, dump: &mut dyn Read, context: &Context) -> anyhow::Result<()> {
        if load.content != Content::Postgres {
            bail!(
                "roles and tablespaces belong to no database: RESTORE.txt of the backup says how to load them"
            );
        }
        let into = load.into;
        ensure!(!SYSTEM.contains(&into), "{into} is a database of the server itself: choose another name");
        ensure!(
            !into.is_empty() && !into.contains(['\0', '\n']),
            "{into:?} cannot be the name of a database"
        );
        let login = Login::new(load.component, &self.config, &context.scratch)?;
        let found = format!("SELECT count(*) FROM pg_database WHERE datname = {}", literal(into));
        if self.statement(&login, &found, context)? != "0" {
            ensure!(
                load.replace,
                "there is a database {into} at {} already; choose another name, or replace it with --force",
                login.words.place
            );
            self.statement(&login, &format!("DROP DATABASE {}", name(into)), context)?;
        }
        // Not template1: what an administrator put there would be in the way.
        let create = format!("CREATE DATABASE {} TEMPLATE template0", name(into));
        self.statement(&login, &create, context).map_err(|error| match load.trial {
            true => error.context(format!(
                "{} may not make a scratch database at {}: ALTER ROLE … CREATEDB, or name another server or \
                 login for drills",
                login.words.user, login.words.place
            )),
            false => error,
        })?;
        let mut command = self
            .command("pg_restore", &login)?
            .timeout(self.config.timeout)
            .args(["--exit-on-error", "--no-password"])
            .arg(format!("--dbname=dbname={}", quote(into)));
        if load.no_owner || load.trial {
            command = command.args(["--no-owner", "--no-privileges"]);
        }
        if load.trial {
            // Of these, subscriptions would also keep the database from being dropped.
            command = command.args(["--no-subscriptions", "--no-publications"]);
            command = command.args(["--no-tablespaces", "--no-security-labels"]);
        }
        let filled = match feed(command, dump, context) {
            Err(error) => {
                let no_role = error
                    .stderr()
                    .is_some_and(|tail| tail.contains("role \"") && tail.contains("does not exist"));
                let error = ask::explain(error, &login.words);
                Err(if no_role && load.trial {
                    error.context(
                        "a role that the dump names, in a policy for instance, is missing at the server",
                    )
                } else if no_role {
                    error.context(
                        "an owner in the dump does not exist here: load the component with the globals first \
                         (RESTORE.txt says how), or give everything to the login with --no-owner",
                    )
                } else {
                    error
                })
            }
            Ok(Err(error)) => Err(error).context("reading the dump"),
            Ok(Ok(_)) => Ok(()),
        };
        filled.map_err(|error| match self.remove(into, context) {
            Ok(()) => error.context(format!("loading {into}: what was loaded of it is removed again")),
            Err(left) => {
                error.context(format!("loading {into}: what was loaded of it is left there ({left:#})"))
            }
        })
    }

    fn remove(&self, database: &str, context: &Context) -> anyhow::Result<()> {
        ensure!(!SYSTEM.contains(&database), "{database} is a database of the server itself");
        let context = &context.undisturbed();
        let login = self.asking(context)?;
        // A program that was cut short may have left its statement behind, and a database in use is not dropped.
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = {} AND usename = current_user AND pid <> pg_backend_pid()",
            literal(database)
        );
        let _ = self.statement(&login, &end, context);
        let sql = format!("DROP DATABASE IF EXISTS {}", name(database));
        self.statement(&login, &sql, context)
            .with_context(|| format!("dropping the database {database}"))
            .map(drop)
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

/// A name in a statement.
fn name(database: &str) -> String {
    format!("\"{}\"", database.replace('"', "\"\""))
}

/// A text in a statement; `standard_conforming_strings` is on since 9.1.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
