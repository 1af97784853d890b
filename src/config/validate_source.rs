//! Rules about single sources.

use std::path::{Path, PathBuf};

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
            if let Some(found) = self.config.target.get(target).filter(|found| path.starts_with(&found.path))
            {
                let (path, folder) = (path.display(), found.path.display());
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
        for name in command.env.keys().chain(command.env_file.keys()) {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.say(&at("env"), format!("{name:?} is no name of an environment variable"));
            }
        }
        if let Some(name) = command.env.keys().find(|name| command.env_file.contains_key(*name)) {
            self.say(&at("env_file"), format!("the variable {name} stands in `env` as well"));
        }
        self.not_zero(&at("timeout"), command.timeout);
    }

    fn mysql(&mut self, key: &[&str], mysql: &MysqlConfig) {
        let at = |last: &'static str| [key, &[last]].concat();
        if mysql.password.is_some() && mysql.password_file.is_some() {
            self.say(&at("password_file"), "the environment gives a password as well; use one of the two");
        }
        for (index, argument) in mysql.extra_args.iter().enumerate() {
            // Arguments stand in the process list, where everybody can read them.
            let password =
                argument.starts_with("--password") || (argument.starts_with("-p") && argument.len() > 2);
            if password {
                let position = index.to_string();
                let key = [key, &["extra_args", position.as_str()]].concat();
                self.say(
                    &key,
                    "a password does not belong in an argument; use password_file or defaults_file",
                );
            }
        }
        if mysql.databases.iter().any(|name| name.is_empty() || name.starts_with('-')) {
            self.say(&at("databases"), "a database name is empty or begins with a dash");
        }
        self.not_zero(&at("timeout"), mysql.timeout);
    }
}
