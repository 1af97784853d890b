//! MySQL and MariaDB databases, dumped by their own dump program.
//!
//! Decisions about the dump:
//! - `--single-transaction --quick`: one moment's state of transactional tables, nobody is locked out, and
//!   memory stays small. Tables of other engines are named by the preflight.
//! - `--routines --triggers --events`: all of the database, not only its tables.
//! - `--hex-blob` and utf8mb4: binary columns and every character survive.
//! - `--tz-utc`: TIMESTAMP columns are written in UTC, so that a server in another zone restores the same
//!   moments. `--no-flush-logs` is the default and stays: a backup must not rotate the server's logs.
//! - `--no-tablespaces`: the dump needs no PROCESS privilege.
//! - `--databases`: the dump creates its databases with their character sets, and `mysql < dump` restores it.
//! - One dump of everything is one moment of everything; with `split` each database has a moment of its own.
//! - Accounts and grants are SQL that any server of the kind takes, not rows of tables that only the same
//!   version knows.
//! - `--comments`: they hold the end marker, `-- Dump completed`, without which no dump counts as whole.

mod accounts;
mod check;
mod load;
mod login;
mod option_file;
mod renamed;
mod version;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use self::login::Login;
use self::version::{Flavour, Version};
use super::dump::{EndMarker, ProgramStream, Watched};
use super::parts::{Choice, Part, USERS};
use super::{Capture, Context, RANK_DATABASE, Ready, Source, settings};
use crate::config::MysqlConfig;
use crate::manifest::{Content, Kind};
use crate::model::ComponentName;
use crate::process::{self, Cancel, Command};

/// Dump programs, the preferred one first: on MariaDB systems `mysqldump` is an old name of the other.
const DUMP_PROGRAMS: [&str; 2] = ["mariadb-dump", "mysqldump"];
/// The extension of dumps.
const EXTENSION: &str = "sql";
/// What to do when there is none.
const HINT: &str = "install the Debian package mariadb-client (or default-mysql-client)";
/// The dump program's own end marker; a date may follow.
const END_MARKER: &str = "-- Dump completed";
/// How long questions to the server may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments that are refused, by how they begin, and why.
const REFUSED_ARGS: &[(&str, &str)] = &[
    ("--password", "passwords in arguments are visible to every user: use password_file or defaults_file"),
    ("-p", "passwords in arguments are visible to every user: use password_file or defaults_file"),
    ("--defaults-", "use defaults_file"),
    ("--no-defaults", "use defaults_file, password_file or env_file to say where the login comes from"),
    ("--login-path", "use defaults_file"),
    ("--result-file", "the dump must go to standard output"),
    ("-r", "the dump must go to standard output"),
    ("--tab", "the dump must go to standard output"),
    ("-T", "the dump must go to standard output"),
    ("--dir", "the dump must go to standard output"),
    ("--compact", "it removes the end marker that tells a whole dump from one that broke off"),
    ("--skip-comments", "it removes the end marker that tells a whole dump from one that broke off"),
    ("--comments=", "comments hold the end marker that tells a whole dump from one that broke off"),
    ("--databases", "use databases"),
    ("-B", "use databases"),
    ("--all-databases", "leave databases empty instead"),
    ("-A", "leave databases empty instead"),
    ("--force", "it goes on after errors, and the dump would look whole"),
    ("-f", "it goes on after errors, and the dump would look whole"),
];

/// Databases of one MySQL or MariaDB server.
#[derive(Debug)]
pub struct MysqlSource {
    name: ComponentName,
    config: MysqlConfig,
}

impl MysqlSource {
    /// Checks the form of the settings; server and programs are asked by the preflight.
    pub fn new(name: ComponentName, config: MysqlConfig) -> anyhow::Result<Self> {
        ensure!(!config.timeout.is_zero(), "timeout must not be 0");
        Choice::new(&config.databases, &config.exclude_databases, config.allow_empty)?;
        settings::extra_args(&config.extra_args, REFUSED_ARGS)?;
        settings::absolute(&[
            ("defaults_file", &config.defaults_file),
            ("password_file", &config.password_file),
            ("env_file", &config.env_file),
            ("socket", &config.socket),
        ])?;
        Ok(Self { name, config })
    }

    /// Which databases are meant, by what the login says where the configuration says nothing.
    fn choice(&self, login: &Login) -> anyhow::Result<Choice> {
        Choice::new(&login.databases, &self.config.exclude_databases, self.config.allow_empty)
    }

    /// The components that hold `databases`.
    fn parts(&self, choice: &Choice, databases: Vec<String>) -> anyhow::Result<Vec<Part>> {
        let mut parts = Vec::new();
        if self.config.split {
            for database in &databases {
                parts.push(Part::database(&self.name, database, EXTENSION, Content::Mysql)?);
            }
        } else if !databases.is_empty() || choice.is_everything() {
            let part = Part::whole(&self.name, EXTENSION, Kind::Stream, Content::Mysql);
            parts.push(Part { databases, ..part });
        }
        if self.config.users {
            parts.push(Part::beside(&self.name, USERS, EXTENSION, Content::MysqlUsers)?);
        }
        Ok(parts)
    }

    fn dump_program(&self) -> anyhow::Result<PathBuf> {
        if let Some(program) = &self.config.program {
            return process::find_program(program).with_context(|| {
                format!("the dump program {} was not found or is not executable: {HINT}", program.display())
            });
        }
        DUMP_PROGRAMS
            .into_iter()
            .find_map(process::find_program)
            .with_context(|| format!("no dump program ({}) is installed: {HINT}", DUMP_PROGRAMS.join(" or ")))
    }

    fn dump_version(&self, cancel: &Cancel) -> anyhow::Result<Version> {
        let program = self.dump_program()?;
        let shown = program.display().to_string();
        let command = Command::new(program).arg("--version").timeout(CHECK_TIMEOUT);
        let text =
            process::output(command, cancel).context("asking the dump program for its version")?.text();
        Version::of_client(&text).with_context(|| {
            format!("{shown} does not tell its version as a dump program does: {:?}", text.trim())
        })
    }

    /// The dump of these databases; of all there are when `None`.
    fn dump_command(
        &self,
        login: &Login,
        version: Option<&Version>,
        databases: Option<&[String]>,
    ) -> anyhow::Result<Command> {
        let program = self.dump_program()?;
        let mut command = check::base(&program.to_string_lossy(), login).timeout(self.config.timeout).args([
            "--single-transaction",
            "--quick",
            "--routines",
            "--triggers",
            "--events",
            "--hex-blob",
            "--tz-utc",
            "--comments",
            "--no-tablespaces",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1G",
        ]);
        if let Some(Version { flavour: Flavour::Mysql, number, .. }) = version {
            // Oracle's dump writes the server's GTIDs, which another server refuses at the restore, and
            // asks for histograms, which MariaDB does not have.
            if *number >= (5, 6) {
                command = command.arg("--set-gtid-purged=OFF");
            }
            if *number >= (8, 0) {
                command = command.arg("--column-statistics=0");
            }
        }
        command = command.args(&self.config.extra_args);
        Ok(match databases {
            None => command.args(["--flush-privileges", "--all-databases"]),
            Some(databases) => command.arg("--databases").args(databases),
        })
    }
}

impl Source for MysqlSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "mysql"
    }

    fn preflight(&self, context: &Context) -> anyhow::Result<Ready> {
        let cancel = context.cancel();
        let version = self.dump_version(&cancel)?;
        let login = Login::new(&self.name, &self.config, &context.scratch)?;
        let choice = self.choice(&login)?;
        let check::Found { databases, warnings } = check::check(self, &login, &choice, &version, &cancel)?;
        Ok(Ready { parts: self.parts(&choice, databases)?, warnings })
    }

    fn open(&self, part: &Part, context: &Context) -> anyhow::Result<Capture> {
        let cancel = context.cancel();
        let version = self.dump_version(&cancel)?;
        let mut login = Login::new(&part.name, &self.config, &context.scratch)?;
        let command = match part.content {
            Content::MysqlUsers if version.flavour == Flavour::Mysql => {
                let read = Box::new(accounts::read(&login, &cancel)?);
                return Ok(Capture::Stream(Box::new(accounts::KeepsPasswords::new(read))));
            }
            Content::MysqlUsers => accounts::dump(&self.dump_program()?, &login),
            _ => {
                let everything = !self.config.split && self.choice(&login)?.is_everything();
                self.dump_command(&login, Some(&version), (!everything).then_some(&part.databases))?
            }
        };
        let command = command.timeout(self.config.timeout);
        let program = command.name();
        let child = process::stream(command, cancel)?;
        let marker = EndMarker::LineBeginningWith(END_MARKER);
        let stream = Box::new(ProgramStream {
            program,
            output: Watched::new(child, &marker),
            marker,
            allow_empty: false,
            credentials: login.file.take(),
            explain: Some(Box::new(move |error| check::explain(error, &login))),
        });
        Ok(Capture::Stream(match part.content {
            Content::MysqlUsers => Box::new(accounts::KeepsPasswords::new(stream)),
            _ => stream,
        }))
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
