//! Rules about hooks.

use super::types::*;
use super::validate::Rules;

impl Rules<'_> {
    /// Checks the hooks of a job.
    pub(super) fn hooks(&mut self, job_name: &str, job: &JobConfig) {
        for (name, hook) in &job.hook {
            let key = ["job", job_name, "hook", name.as_str()];
            let at = |last: &'static str| [&key[..], &[last]].concat();
            let commands = [("before", &hook.before), ("after", &hook.after), ("failure", &hook.failure)];
            if commands.iter().all(|(_, command)| command.is_empty()) {
                self.say(&key, "a hook needs a command: `before`, `after` or `failure`");
            }
            for (phase, command) in commands {
                if command.first().is_some_and(String::is_empty) {
                    self.say(
                        &at(phase),
                        format!("the program is missing: `{phase}` is a list of program and arguments"),
                    );
                }
            }
            if let Some(source) = &hook.source {
                if !job.source.contains_key(source) {
                    let known: Vec<&str> = job.source.keys().map(|name| name.as_str()).collect();
                    self.say(
                        &at("source"),
                        format!("there is no source {source} in this job; it has: {}", known.join(", ")),
                    );
                }
                if hook.around != Around::Run {
                    self.say(&at("around"), "a hook stands around a source or around the capture; use one of `around` and `source`");
                }
            }
            self.environment(&key, &hook.env, &hook.env_file);
            self.user(&at("run_as"), hook.run_as.as_deref());
            self.not_zero(&at("timeout"), hook.timeout);
        }
    }
}
