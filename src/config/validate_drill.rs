//! Rules of reading back and of drills.

use super::kinds::nearest;
use super::types::*;
use super::validate::Rules;
use crate::model::{ComponentName, TargetName};

impl Rules<'_> {
    pub(super) fn verify(&mut self, target: &str, verify: &VerifyConfig) {
        if verify.budget.is_some_and(|budget| budget.0 == 0) {
            self.say(
                &["target", target, "verify", "budget"],
                "a budget of 0 would read nothing; leave it out for no limit, or say `enabled = false`",
            );
        }
    }

    pub(super) fn drill(&mut self, job: &str, config: &JobConfig, drill: &DrillConfig) {
        if let Some(target) = &drill.target
            && !config.targets.contains(target)
        {
            let known: Vec<&str> = config.targets.iter().map(TargetName::as_str).collect();
            self.say(
                &["job", job, "drill", "target"],
                format!("the job has no backups at {target}; its targets are: {}", known.join(", ")),
            );
        }
        for (source, server) in &drill.server {
            self.drill_server(&["job", job, "drill", "server", source.as_str()], config, source, server);
        }
        for (name, check) in &drill.check {
            let key = ["job", job, "drill", "check", name.as_str()];
            match check {
                DrillCheck::Command(check) => {
                    if check.command.first().is_none_or(String::is_empty) {
                        self.say(&key, "the command is empty; give a program and its arguments");
                    }
                    self.not_zero(&key_of(&key, "timeout"), check.timeout);
                }
                DrillCheck::Sql(check) => self.sql_check(&key, config, drill, check),
            }
        }
    }

    fn drill_server(
        &mut self,
        key: &[&str],
        config: &JobConfig,
        source: &ComponentName,
        server: &DrillServer,
    ) {
        // Which keys mean something depends on whose server it is.
        let (whose, foreign) = match config.source.get(source) {
            Some(SourceConfig::Mysql(_)) => (
                "MySQL",
                [("passfile", server.passfile.is_some()), ("run_as", server.run_as.is_some())].to_vec(),
            ),
            Some(SourceConfig::Postgres(_)) => {
                ("PostgreSQL", [("defaults_file", server.defaults_file.is_some())].to_vec())
            }
            Some(_) => {
                self.say(key, format!("{source} is no database server whose dumps a drill could load"));
                return;
            }
            None => return self.no_source(key, config, source),
        };
        for (name, _) in foreign.into_iter().filter(|(_, set)| *set) {
            self.say(&key_of(key, name), format!("{name} means nothing to {whose}, which {source} is"));
        }
        if server.host.is_some() && server.socket.is_some() {
            self.say(key, "host and socket are two places: give one of them");
        }
    }

    fn no_source(&mut self, key: &[&str], config: &JobConfig, source: &ComponentName) {
        let known: Vec<&str> = config.source.keys().map(ComponentName::as_str).collect();
        let hint = nearest(source.as_str(), known.iter().copied()).map_or_else(
            || format!("there is: {}", known.join(", ")),
            |meant| format!("did you mean \"{meant}\"?"),
        );
        self.say(key, format!("the job has no source {source}; {hint}"));
    }

    fn sql_check(&mut self, key: &[&str], config: &JobConfig, drill: &DrillConfig, check: &SqlCheck) {
        match config.source.get(&check.source) {
            Some(SourceConfig::Mysql(_) | SourceConfig::Postgres(_)) if drill.databases => {}
            Some(SourceConfig::Mysql(_) | SourceConfig::Postgres(_)) => self.say(
                &key_of(key, "source"),
                format!("with `databases = false` {} is not loaded, so that nothing can be asked", check.source),
            ),
            Some(SourceConfig::Sqlite(_)) => {
                if check.database.is_some() {
                    self.say(&key_of(key, "database"), "an SQLite file is one database: leave this out");
                }
            }
            Some(_) => self.say(
                &key_of(key, "source"),
                format!(
                    "drills can ask databases of MySQL, MariaDB, PostgreSQL and SQLite only, and {} is none; use a check of type \"command\"",
                    check.source
                ),
            ),
            None => self.no_source(&key_of(key, "source"), config, &check.source),
        }
        if check.expect.is_none() && check.at_least.is_none() {
            self.say(key, "say what the answer must be: `expect`, or `at_least` for a number");
        }
        if check.query.trim().is_empty() {
            self.say(&key_of(key, "query"), "the query is empty");
        }
        self.not_zero(&key_of(key, "timeout"), check.timeout);
    }
}

fn key_of<'k>(key: &[&'k str], last: &'k str) -> Vec<&'k str> {
    [key, &[last]].concat()
}
