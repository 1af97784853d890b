//! Rules about single sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;
use ignore::gitignore::GitignoreBuilder;

use super::types::*;
use super::validate::Rules;

/// Extensions the agent gives to files of its own beside a component.
const RESERVED_EXTENSIONS: &[&str] = &["index", "warnings", "tar", "zst", "gz"];

impl Rules<'_> {
    /// Checks the source whose keys stand below `key`.
    pub(super) fn source(&mut self, key: &[&str], source: &SourceConfig, job: &JobConfig) {
        let at = |last: &'static str| [key, &[last]].concat();
        match source {
            SourceConfig::Files(files) => {
                if files.paths.is_empty() {
                    self.say(&at("paths"), "there must be at least one path");
                }
                self.paths(&at("paths"), &files.paths, job);
                self.patterns(&at("exclude"), &files.exclude);
                for name in &files.exclude_if_present {
                    if name.is_empty() || name.contains('/') {
                        self.say(&at("exclude_if_present"), format!("{name:?} is not the name of a file"));
                    }
                }
            }
            SourceConfig::System(system) => {
                self.paths(&at("paths"), system.paths.as_deref().unwrap_or_default(), job);
                self.paths(&at("extra_paths"), &system.extra_paths, job);
                self.patterns(&at("exclude"), &system.exclude);
            }
            SourceConfig::Sqlite(sqlite) => {
                self.outside_targets(&at("path"), &sqlite.path, job);
                self.not_zero(&at("timeout"), sqlite.timeout);
            }
            SourceConfig::Command(command) => self.command(key, command),
            SourceConfig::Mysql(mysql) => self.mysql(key, mysql),
            SourceConfig::Postgres(postgres) => self.postgres(key, postgres),
            SourceConfig::Redis(redis) => self.redis(key, redis),
        }
    }

    fn paths(&mut self, key: &[&str], paths: &[PathBuf], job: &JobConfig) {
        for (index, path) in paths.iter().enumerate() {
            let position = index.to_string();
            self.outside_targets(&[key, &[position.as_str()]].concat(), path, job);
        }
    }

    /// A source in its own target would back up its own backups. The other way round is fine: a target
    /// below a source is left out of it.
    fn outside_targets(&mut self, key: &[&str], path: &Path, job: &JobConfig) {
        for target in &job.targets {
            let folder = self.config.target.get(target).and_then(TargetConfig::folder);
            if let Some(folder) = folder.filter(|folder| path.starts_with(folder)) {
                let (path, folder) = (path.display(), folder.display());
                self.say(key, format!("{path} lies in the job's own target {target} ({folder})"));
            }
        }
    }

    fn patterns(&mut self, key: &[&str], patterns: &[String]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = GitignoreBuilder::new("/").add_line(None, pattern) {
                let position = index.to_string();
                self.say(
                    &[key, &[position.as_str()]].concat(),
                    format!("this is no gitignore pattern: {error}"),
                );
            }
        }
    }

    fn command(&mut self, key: &[&str], command: &CommandConfig) {
        let at = |last: &'static str| [key, &[last]].concat();
        if command.command.first().is_none_or(|program| program.is_empty()) {
            self.say(&at("command"), "the program is missing: `command` is a list of program and arguments");
        }
        let extension = command.extension.as_str();
        let valid = !extension.is_empty()
            && extension.len() <= 32
            && extension.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !valid {
            self.say(
                &at("extension"),
                "an extension has letters and digits only, such as \"sql\", and no dot",
            );
        } else if RESERVED_EXTENSIONS.contains(&extension) {
            self.say(
                &at("extension"),
                format!("`{extension}` is used by the agent's own files; choose another"),
            );
        }
        if command.check.first().is_some_and(String::is_empty) {
            self.say(&at("check"), "the program is missing: `check` is a list of program and arguments");
        }
        self.environment(key, &command.env, &command.env_file);
        self.user(&at("run_as"), command.run_as.as_deref());
        self.not_zero(&at("timeout"), command.timeout);
    }

    /// Checks the variables a program gets.
    pub(super) fn environment(
        &mut self,
        key: &[&str],
        env: &BTreeMap<String, String>,
        env_file: &BTreeMap<String, PathBuf>,
    ) {
        let at = |last: &'static str| [key, &[last]].concat();
        for name in env.keys().chain(env_file.keys()) {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.say(&at("env"), format!("{name:?} is no name of an environment variable"));
            }
        }
        if let Some(name) = env.keys().find(|name| env_file.contains_key(*name)) {
            self.say(&at("env_file"), format!("the variable {name} stands in `env` as well"));
        }
    }

    /// Checks the name of a user of the operating system. Whether there is one is asked when it is needed.
    pub(super) fn user(&mut self, key: &[&str], user: Option<&str>) {
        if user.is_some_and(|user| user.is_empty() || user.contains(['\0', ':', '/'])) {
            self.say(key, "this is no name of a user; for example \"postgres\"");
        }
    }

    /// Checks names and patterns of databases.
    fn databases(&mut self, key: &[&str], names: &[String], exclude: &[String]) {
        for (list, names) in [("databases", names), ("exclude_databases", exclude)] {
            for (index, name) in names.iter().enumerate() {
                let position = index.to_string();
                let key = [key, &[list, position.as_str()]].concat();
                if name.is_empty() || name.starts_with('-') || name.contains(['\0', '\n']) {
                    self.say(&key, "this can be no name or pattern of a database: it is empty, begins with a dash or has a line end");
                } else if let Err(error) = GlobBuilder::new(name).build() {
                    self.say(&key, format!("this is no pattern such as \"shop_*\": {}", error.kind()));
                }
            }
        }
    }

    /// Arguments stand in the process list, where everybody can read them.
    fn no_password(&mut self, key: &[&str], arguments: &[String], is_password: fn(&str) -> bool) {
        for (index, argument) in arguments.iter().enumerate() {
            if is_password(argument) {
                let position = index.to_string();
                let key = [key, &["extra_args", position.as_str()]].concat();
                self.say(&key, "a password does not belong in an argument; use a file for it");
            }
        }
    }

    fn one_password(&mut self, key: &[&str], password: bool, file: bool) {
        if password && file {
            let key = [key, &["password_file"]].concat();
            self.say(&key, "the environment gives a password as well; use one of the two");
        }
    }

    fn postgres(&mut self, key: &[&str], postgres: &PostgresConfig) {
        let at = |last: &'static str| [key, &[last]].concat();
        self.one_password(key, postgres.password.is_some(), postgres.password_file.is_some());
        let password = postgres.password.is_some() || postgres.password_file.is_some();
        if password && postgres.passfile.is_some() {
            self.say(&at("passfile"), "a password is given as well; use one of the two");
        }
        if password && postgres.run_as.is_some() {
            self.say(
                &at("run_as"),
                "another user cannot read the password that the agent passes on; use `passfile` with a file of that user, or peer authentication without a password",
            );
        }
        if postgres.host.is_some() && postgres.socket.is_some() {
            self.say(&at("socket"), "host and socket are both set; use one");
        }
        if postgres.maintenance_db.is_empty() {
            self.say(&at("maintenance_db"), "this is the name of a database, such as \"postgres\"");
        }
        self.user(&at("run_as"), postgres.run_as.as_deref());
        self.databases(key, &postgres.databases, &postgres.exclude_databases);
        self.not_zero(&at("timeout"), postgres.timeout);
    }

    fn redis(&mut self, key: &[&str], redis: &RedisConfig) {
        let at = |last: &'static str| [key, &[last]].concat();
        self.one_password(key, redis.password.is_some(), redis.password_file.is_some());
        if redis.user.is_some() && redis.password.is_none() && redis.password_file.is_none() {
            self.say(&at("user"), "`user` needs a password: set password_file");
        }
        if redis.socket.is_some() && (redis.host.is_some() || redis.port.is_some()) {
            self.say(&at("socket"), "a socket is used instead of host and port; use one of the two");
        }
        if redis.ca_file.is_some() && !redis.tls {
            self.say(&at("ca_file"), "`ca_file` means nothing without `tls = true`");
        }
        self.not_zero(&at("timeout"), redis.timeout);
    }

    fn mysql(&mut self, key: &[&str], mysql: &MysqlConfig) {
        let at = |last: &'static str| [key, &[last]].concat();
        self.one_password(key, mysql.password.is_some(), mysql.password_file.is_some());
        self.no_password(key, &mysql.extra_args, |argument| {
            argument.starts_with("--password") || (argument.starts_with("-p") && argument.len() > 2)
        });
        self.databases(key, &mysql.databases, &mysql.exclude_databases);
        self.not_zero(&at("timeout"), mysql.timeout);
    }
}
