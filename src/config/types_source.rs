//! What can be backed up, as the configuration says it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{AbsolutePath, DurationText, SecretFile};
use crate::model::Secret;

/// One source.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    /// Files and folders.
    Files(FilesConfig),
    /// The standard output of a program.
    Command(CommandConfig),
    /// An SQLite database file.
    Sqlite(SqliteConfig),
    /// MySQL or MariaDB databases.
    Mysql(MysqlConfig),
    /// PostgreSQL databases, each dumped in PostgreSQL's own archive format.
    Postgres(PostgresConfig),
    /// A Redis or Valkey server.
    Redis(RedisConfig),
    /// What the operating system needs to be set up again.
    System(SystemConfig),
}

/// Files and folders.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// Absolute paths.
    #[schemars(with = "Vec<AbsolutePath>")]
    pub paths: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax, relative to each path.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Leave out folders with a valid `CACHEDIR.TAG`, except the tag.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Leave out folders that hold a file with one of these names, such as `.nobackup`.
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    /// Do not go into other file systems.
    #[serde(default)]
    pub one_file_system: bool,
    /// What an unreadable file does to the outcome.
    #[serde(default)]
    pub unreadable: Unreadable,
    /// Accept a source with no file in it.
    #[serde(default)]
    pub allow_empty: bool,
}

/// What an unreadable file does to the outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unreadable {
    /// The run becomes `partial`.
    #[default]
    Fail,
    /// The run becomes `warning`, as with GNU tar's `--ignore-failed-read`.
    Warn,
}

/// The standard output of a program.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    /// File name extension of the component, without a dot.
    #[serde(default = "super::defaults::extension")]
    pub extension: String,
    /// Text the output must end with, white space aside.
    #[serde(default)]
    pub end_marker: Option<String>,
    /// A program that gets all of the output on its standard input and must exit with 0, as proof that the
    /// output is whole.
    #[serde(default)]
    pub check: Vec<String>,
    /// The user the program runs as; needs the agent to run as root.
    #[serde(default)]
    pub run_as: Option<String>,
    /// Environment variables whose values are read from files.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SecretFile>")]
    pub env_file: BTreeMap<String, PathBuf>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long it may run.
    #[serde(default = "super::defaults::dump_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Accept an output of no bytes.
    #[serde(default)]
    pub allow_empty: bool,
}

/// An SQLite database file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file, absolute.
    #[schemars(with = "AbsolutePath")]
    pub path: PathBuf,
    /// How long to wait for a writer to let go.
    #[serde(default = "super::defaults::sqlite_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// MySQL or MariaDB databases.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    /// Databases to dump, by name or pattern (`shop_*`); all when empty.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Databases to leave out, by name or pattern.
    #[serde(default)]
    pub exclude_databases: Vec<String>,
    /// One dump for each database, `SOURCE.DATABASE`, instead of one for all of them.
    #[serde(default)]
    pub split: bool,
    /// Dump accounts and grants too, as the component `SOURCE.users-and-grants`.
    #[serde(default)]
    pub users: bool,
    /// How many dumps run at the same time, when there are several.
    #[serde(default = "super::defaults::parallel")]
    #[schemars(range(min = 1, max = 8))]
    pub parallel: usize,
    /// Accept patterns that match no database.
    #[serde(default)]
    pub allow_empty: bool,
    /// A MySQL option file with the credentials; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub defaults_file: Option<PathBuf>,
    /// Host, when it is not in the option file.
    #[serde(default)]
    pub host: Option<String>,
    /// Port, when it is not in the option file.
    #[serde(default)]
    pub port: Option<u16>,
    /// Socket, when it is not in the option file.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub socket: Option<PathBuf>,
    /// User, when it is not in the option file.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// A Laravel `.env` to read host, port, user, password and database from.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub env_file: Option<PathBuf>,
    /// The dump program; `mariadb-dump` or `mysqldump`, whichever is found, when absent.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Further arguments for the dump program.
    #[serde(default)]
    pub extra_args: Vec<String>,
    /// How long the dump may take.
    #[serde(default = "super::defaults::dump_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// PostgreSQL databases, each dumped in PostgreSQL's own archive format.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Databases to dump, by name or pattern (`shop_*`); all but templates when empty.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Databases to leave out, by name or pattern.
    #[serde(default)]
    pub exclude_databases: Vec<String>,
    /// Dump roles, memberships and tablespaces too, as the component `SOURCE.globals`.
    #[serde(default = "super::defaults::yes")]
    pub globals: bool,
    /// How many dumps run at the same time, when there are several.
    #[serde(default = "super::defaults::parallel")]
    #[schemars(range(min = 1, max = 8))]
    pub parallel: usize,
    /// Accept patterns that match no database.
    #[serde(default)]
    pub allow_empty: bool,
    /// Host; the local socket when absent.
    #[serde(default)]
    pub host: Option<String>,
    /// Port; 5432 when absent.
    #[serde(default)]
    pub port: Option<u16>,
    /// Folder of the server's socket, when it is not the client's default.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub socket: Option<PathBuf>,
    /// Role to log in as; the name of the operating system's user when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// A pgpass file (`host:port:database:user:password`), which PostgreSQL's programs read themselves.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub passfile: Option<PathBuf>,
    /// The operating system's user the programs run as, for peer authentication; needs the agent to run as
    /// root.
    #[serde(default)]
    pub run_as: Option<String>,
    /// The database that questions about the server are asked in.
    #[serde(default = "super::defaults::maintenance_db")]
    pub maintenance_db: String,
    /// Folder of `psql`, `pg_dump`, `pg_dumpall` and `pg_restore`, where several versions are installed.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub bin_dir: Option<PathBuf>,
    /// Further arguments for `pg_dump`.
    #[serde(default)]
    pub extra_args: Vec<String>,
    /// How long each dump may take.
    #[serde(default = "super::defaults::dump_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// A Redis or Valkey server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// Host; 127.0.0.1 when absent.
    #[serde(default)]
    pub host: Option<String>,
    /// Port; 6379 when absent.
    #[serde(default)]
    pub port: Option<u16>,
    /// Socket, instead of host and port.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub socket: Option<PathBuf>,
    /// User of the server's access control list; the default user when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// Connect with TLS.
    #[serde(default)]
    pub tls: bool,
    /// A PEM file with the certificate authority of the server.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub ca_file: Option<PathBuf>,
    /// The client program; `valkey-cli` or `redis-cli`, whichever is found, when absent.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// How long the dump may take.
    #[serde(default = "super::defaults::dump_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// What the operating system needs to be set up again.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SystemConfig {
    /// Paths instead of the preset's; missing ones are passed over.
    #[schemars(with = "Option<Vec<AbsolutePath>>")]
    pub paths: Option<Vec<PathBuf>>,
    /// Paths beside the preset's.
    #[schemars(with = "Vec<AbsolutePath>")]
    pub extra_paths: Vec<PathBuf>,
    /// What to leave out, in gitignore syntax.
    pub exclude: Vec<String>,
    /// What an unreadable file does to the outcome.
    pub unreadable: Unreadable,
}
