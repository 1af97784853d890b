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
        for (name, check) in &drill.check {
            let key = ["job", job, "drill", "check", name.as_str()];
            match check {
                DrillCheck::Command(check) => {
                    if check.command.first().is_none_or(String::is_empty) {
                        self.say(&key, "the command is empty; give a program and its arguments");
                    }
                    self.not_zero(&key_of(&key, "timeout"), check.timeout);
                }
                DrillCheck::Sql(check) => self.sql_check(&key, config, check),
            }
        }
    }

    fn sql_check(&mut self, key: &[&str], config: &JobConfig, check: &SqlCheck) {
        match config.source.get(&check.source) {
            Some(SourceConfig::Sqlite(_)) => {}
            Some(_) => self.say(
                &key_of(key, "source"),
                format!(
                    "drills can ask SQLite databases only, and {} is none; use a check of type \"command\" that loads the restored dump and asks it",
                    check.source
                ),
            ),
            None => {
                let known: Vec<&str> = config.source.keys().map(ComponentName::as_str).collect();
                let hint = nearest(check.source.as_str(), known.iter().copied()).map_or_else(
                    || format!("there is: {}", known.join(", ")),
                    |meant| format!("did you mean \"{meant}\"?"),
                );
                self.say(&key_of(key, "source"), format!("the job has no source {}; {hint}", check.source));
            }
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
