//! Dumps back into a PostgreSQL server.

use std::io::Read;

use anyhow::{Context as _, bail, ensure};

use super::login::{Login, quote};
use super::{PostgresSource, ask};
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process;
use crate::source::Context;
use crate::source::database::{Database, Load, feed};

/// Names the short-lived login file of questions.
const ASKING: &str = "question";
/// Databases that belong to the server.
const SYSTEM: [&str; 3] = ["postgres", "template0", "template1"];

impl PostgresSource {
    fn statement(
        &self,
        login: &Login,
        database: &str,
        sql: &str,
        context: &Context,
    ) -> anyhow::Result<String> {
        let command = self
            .command("psql", login)?
            .args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--field-separator=\t"])
            .arg("--set=ON_ERROR_STOP=1")
            .arg(format!("--dbname=dbname={}", quote(database)))
            .arg(format!("--command={sql}"));
        let output =
            process::output(command, &context.cancel()).map_err(|e| ask::explain(e, &login.words))?;
        Ok(output.text().trim_end_matches('\n').to_owned())
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
        let maintenance = &self.config.maintenance_db;
        let found = format!("SELECT count(*) FROM pg_database WHERE datname = {}", literal(into));
        if self.statement(&login, maintenance, &found, context)? != "0" {
            ensure!(
                load.replace,
                "there is a database {into} at {} already; choose another name, or replace it with --force",
                login.words.place
            );
            self.statement(&login, maintenance, &format!("DROP DATABASE {}", name(into)), context)?;
        }
        // Not template1: what an administrator put there would be in the way.
        let create = format!("CREATE DATABASE {} TEMPLATE template0", name(into));
        self.statement(&login, maintenance, &create, context)?;
        let mut command = self
            .command("pg_restore", &login)?
            .timeout(self.config.timeout)
            .args(["--exit-on-error", "--no-password"])
            .arg(format!("--dbname=dbname={}", quote(into)));
        if load.no_owner {
            command = command.args(["--no-owner", "--no-privileges"]);
        }
        let filled = match feed(command, dump, context) {
            Err(error) => {
                let no_role = error
                    .stderr()
                    .is_some_and(|tail| tail.contains("role \"") && tail.contains("does not exist"));
                let error = ask::explain(error, &login.words);
                Err(if no_role {
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
        let sql = format!("DROP DATABASE IF EXISTS {}", name(database));
        self.statement(&self.asking(context)?, &self.config.maintenance_db, &sql, context).map(drop)
    }

    fn query(&self, database: &str, sql: &str, context: &Context) -> anyhow::Result<String> {
        self.statement(&self.asking(context)?, database, sql, context)
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
