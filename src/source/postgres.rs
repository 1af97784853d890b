//! PostgreSQL databases, each dumped by `pg_dump` in its own archive format.
//!
//! Decisions about the dump:
//! - `--format=custom`: `pg_restore` takes from it what is wanted, in parallel, into a database of any name.
//! - `--compress=0`: the engine compresses; twice would cost time and gain nothing.
//! - `pg_restore` reads each dump along and must accept it to its end. The archive has no end marker, and its
//!   list of contents stands at its beginning: `pg_restore --list` is content with a dump that was cut off.
//! - Roles, memberships and tablespaces belong to no database: `pg_dumpall --globals-only`.
//! - Passwords reach the programs by a pgpass file; peer authentication by running them as that user.
//!
//! Each database is one moment's state (a serializable snapshot); two databases are two moments. Copies of
//! the server's files, and recovery to a point in time, are for tools of their own such as pgBackRest.

mod ask;
mod load;
mod login;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use self::login::Login;
use super::checked::CheckedStream;
use super::dump::{EndMarker, ProgramStream, Watched};
use super::parts::{Choice, GLOBALS, Part};
use super::{Capture, Context, RANK_DATABASE, Ready, Source, settings};
use crate::config::PostgresConfig;
use crate::manifest::Content;
use crate::model::ComponentName;
use crate::process::{self, Cancel, Command};

/// What to do when a program is missing.
const HINT: &str = "install the Debian package postgresql-client";
/// How long questions to the server may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// What `pg_dumpall` writes last, but for white space.
const GLOBALS_END: &str = "--\n-- PostgreSQL database cluster dump complete\n--";

/// Arguments that are refused, by how they begin, and why.
const REFUSED_ARGS: &[(&str, &str)] = &[
    ("--format", "dumps are in the custom format, which pg_restore can check"),
    ("-F", "dumps are in the custom format, which pg_restore can check"),
    ("--compress", "the engine compresses"),
    ("-Z", "the engine compresses"),
    ("--file", "the dump must go to standard output"),
    ("-f", "the dump must go to standard output"),
    ("--dbname", "use databases"),
    ("-d", "use databases"),
    ("--jobs", "a dump to standard output has one job; use parallel"),
    ("-j", "a dump to standard output has one job; use parallel"),
    ("--password", "nobody is there to be asked: use password_file or passfile"),
    ("-W", "nobody is there to be asked: use password_file or passfile"),
];

/// Databases of one PostgreSQL server.
#[derive(Debug)]
pub struct PostgresSource {
    name: ComponentName,
    config: PostgresConfig,
}

impl PostgresSource {
    /// Checks the form of the settings; server and programs are asked by the preflight.
    pub fn new(name: ComponentName, config: PostgresConfig) -> anyhow::Result<Self> {
        ensure!(!config.timeout.is_zero(), "timeout must not be 0");
        Choice::new(&config.databases, &config.exclude_databases, config.allow_empty)?;
        settings::extra_args(&config.extra_args, REFUSED_ARGS)?;
        settings::absolute(&[
            ("password_file", &config.password_file),
            ("passfile", &config.passfile),
            ("socket", &config.socket),
            ("bin_dir", &config.bin_dir),
        ])?;
        Ok(Self { name, config })
    }

    fn program(&self, name: &str) -> PathBuf {
        self.config.bin_dir.as_ref().map_or_else(|| PathBuf::from(name), |folder| folder.join(name))
    }

    /// One of PostgreSQL's programs, which logs in where it has to.
    fn command(&self, name: &str, login: &Login) -> anyhow::Result<Command> {
        let mut command = Command::new(self.program(name)).hint(HINT).timeout(CHECK_TIMEOUT);
        if let Some(user) = &self.config.run_as {
            command = command.run_as(user)?;
        }
        Ok(login.environment(command))
    }

    fn dump(&self, database: &str, login: &Login, cancel: &Cancel) -> anyhow::Result<Capture> {
        let command = self
            .command("pg_dump", login)?
            .timeout(self.config.timeout)
            .args(["--format=custom", "--compress=0", "--no-password"])
            .args(&self.config.extra_args)
            // A name with an equals sign would be taken for a connection string.
            .arg(format!("--dbname=dbname={}", login::quote(database)));
        // It needs no login, and another version than the dump program's could not read its archive.
        let checker = Command::new(self.program("pg_restore"))
            .hint(HINT)
            .timeout(self.config.timeout)
            .args(["--format=custom", "--file=/dev/null"]);
        let dump = self.stream(command, EndMarker::Any, login, cancel)?;
        Ok(Capture::Stream(Box::new(CheckedStream::new(Box::new(dump), checker, cancel.clone())?)))
    }

    fn globals(&self, login: &Login, cancel: &Cancel) -> anyhow::Result<Capture> {
        let command = self
            .command("pg_dumpall", login)?
            .timeout(self.config.timeout)
            .args(["--globals-only", "--no-password"])
            .arg(format!("--database={}", self.config.maintenance_db));
        let dump = self.stream(command, EndMarker::Text(GLOBALS_END.to_owned()), login, cancel)?;
        Ok(Capture::Stream(Box::new(dump)))
    }

    fn stream(
        &self,
        command: Command,
        marker: EndMarker,
        login: &Login,
        cancel: &Cancel,
    ) -> anyhow::Result<ProgramStream> {
        let program = command.name();
        let child = process::stream(command, cancel.clone())?;
        let words = login.words.clone();
        Ok(ProgramStream {
            program,
            output: Watched::new(child, &marker),
            marker,
            allow_empty: false,
            credentials: None,
            explain: Some(Box::new(move |error| ask::explain(error, &words))),
        })
    }
}

impl Source for PostgresSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "postgres"
    }

    fn preflight(&self, context: &Context) -> anyhow::Result<Ready> {
        let cancel = context.cancel();
        for program in ["psql", "pg_dump", "pg_restore", "pg_dumpall"] {
            let path = self.program(program);
            process::find_program(&path).with_context(|| {
                format!("the program {} was not found or is not executable: {HINT}", path.display())
            })?;
        }
        let login = Login::new(&self.name, &self.config, &context.scratch)?;
        let server = ask::server(self, &login, &cancel)?;
        ask::compare(self, &server, &login, &cancel)?;
        let choice =
            Choice::new(&self.config.databases, &self.config.exclude_databases, self.config.allow_empty)?;
        let (place, user) = (&login.words.place, &login.words.user);
        let chosen = choice.among(&server.databases, false, |_| false, place, user)?;
        let mut parts = Vec::new();
        if self.config.globals {
            parts.push(Part::beside(&self.name, GLOBALS, "sql", Content::PostgresGlobals)?);
        }
        for database in &chosen.databases {
            parts.push(Part::database(&self.name, database, "pgdump", Content::Postgres)?);
        }
        Ok(Ready { parts, warnings: chosen.warnings })
    }

    fn open(&self, part: &Part, context: &Context) -> anyhow::Result<Capture> {
        let cancel = context.cancel();
        let login = Login::new(&part.name, &self.config, &context.scratch)?;
        let capture = match part.databases.first() {
            Some(database) => self.dump(database, &login, &cancel)?,
            None => self.globals(&login, &cancel)?,
        };
        let Capture::Stream(stream) = capture else { return Ok(capture) };
        Ok(Capture::Stream(Box::new(login::WithLogin::new(stream, login))))
    }

    fn database(&self) -> Option<&dyn super::Database> {
        Some(self)
    }

    fn parallel(&self) -> usize {
        self.config.parallel
    }

    fn rank(&self) -> u8 {
        RANK_DATABASE
    }
}
