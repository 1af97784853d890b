//! Rules between keys, which no single value can break. All are checked; each broken one names its key.

use super::collide;
use super::kinds::nearest;
use super::limits::{HealthConfig, LIMITS, LimitScope, Limits};
use super::problem::Problem;
use super::types::*;
use super::walk::Findings;
use crate::model::TargetName;

/// Names whose files stand in a backup beside the components'.
const RESERVED: &[&str] = &["manifest", "restore", "sha256sums", "index", "warnings"];

/// Collects what is wrong with the whole.
pub(super) struct Rules<'a> {
    /// The merged configuration.
    pub(super) config: &'a Config,
    findings: &'a Findings,
    problems: Vec<Problem>,
}

/// Checks every rule on the merged configuration. `findings` holds what the first pass took out, so that
/// a reference to it is not called dangling.
pub(super) fn rules(config: &Config, findings: &Findings) -> Vec<Problem> {
    let mut rules = Rules { config, findings, problems: Vec::new() };
    rules.host();
    rules.health(&["health"], &config.health, config.agent_limits());
    rules.legacy(&["legacy"], &config.legacy);
    if let Some(encryption) = &config.encryption {
        rules.encryption(&["encryption"], encryption);
    }
    rules.targets();
    for (name, job) in &config.job {
        rules.job(name.as_str(), job);
    }
    for (name, channel) in &config.notify {
        rules.channel(name.as_str(), channel);
    }
    rules.problems
}

/// What is allowed but probably not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.job.is_empty() {
        warnings.push("there is no [job.…]: nothing is backed up".to_owned());
    } else if config.notify.is_empty() {
        warnings.push("there is no [notify.…]: nobody is told when a backup fails".to_owned());
    }
    for (name, job) in &config.job {
        if job.schedule.is_none() {
            warnings
                .push(format!("job {name} has no schedule: it never starts by itself and is never overdue"));
        }
        if job.notify.as_ref().is_some_and(Vec::is_empty) {
            warnings.push(format!("job {name} has an empty `notify`: nobody is told when it fails"));
        }
    }
    warnings.extend(collide::warnings(config));
    // An admin host without jobs has targets to look through.
    for (name, target) in config.target.iter().filter(|_| !config.job.is_empty()) {
        if !target.import_only && !config.job.values().any(|job| job.targets.contains(name)) {
            warnings.push(format!("no job uses the target {name}"));
        }
    }
    warnings
}

impl Rules<'_> {
    pub(super) fn say(&mut self, key: &[&str], message: impl Into<String>) {
        self.problems.push(Problem::of(key, message));
    }

    /// Whether the first pass saw `[section.name]`, though it could not read it.
    pub(super) fn was_there(&self, section: &str, name: &str) -> bool {
        self.findings.broken.contains([section.to_owned(), name.to_owned()].as_slice())
            || self.findings.misspelt.contains([section.to_owned()].as_slice())
    }

    fn host(&mut self) {
        let config = self.config;
        if !config.listen.ip().is_loopback() && !config.allow_remote {
            let message = format!(
                "{} can be reached by other machines; say `allow_remote = true` if that is meant, or listen on 127.0.0.1",
                config.listen
            );
            self.say(&["listen"], message);
        }
        if let Some(host) = &config.host
            && (host.is_empty()
                || host.len() > 253
                || host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()))
        {
            self.say(&["host"], "a host name has no spaces and no slashes");
        }
        for (key, value) in
            [("check_interval", config.check_interval), ("shutdown_timeout", config.shutdown_timeout)]
        {
            self.not_zero(&[key], value);
        }
        if let Some(path) = &config.metrics.textfile
            && path.extension().is_none_or(|extension| extension != "prom")
        {
            self.say(
                &["metrics", "textfile"],
                "the name must end in `.prom`: node_exporter reads no others in its folder",
            );
        }
        if let Some(level) = &config.log.level
            && let Err(error) = tracing_subscriber::EnvFilter::builder().parse(level)
        {
            self.say(
                &["log", "level"],
                format!("expected a level such as \"info\" or \"backup_agent=debug\": {error}"),
            );
        }
    }

    pub(super) fn not_zero(&mut self, key: &[&str], value: std::time::Duration) {
        if value.is_zero() {
            let name = key.last().copied().unwrap_or_default();
            self.say(key, format!("`{name}` must be longer than 0s"));
        }
    }

    fn job(&mut self, name: &str, job: &JobConfig) {
        let config = self.config;
        if job.targets.is_empty() {
            self.say(&["job", name, "targets"], format!("[job.{name}] needs at least one target"));
        }
        for (index, target) in job.targets.iter().enumerate() {
            let position = index.to_string();
            let key = ["job", name, "targets", position.as_str()];
            if !config.target.contains_key(target) && !self.was_there("target", target.as_str()) {
                let known: Vec<&str> = config.target.keys().map(TargetName::as_str).collect();
                self.say(&key, dangling("target", target.as_str(), &known));
            }
            if job.targets[..index].contains(target) {
                self.say(&key, format!("the target {target} is named twice"));
            }
        }
        for (index, channel) in job.notify.iter().flatten().enumerate() {
            if !config.notify.contains_key(channel) && !self.was_there("notify", channel.as_str()) {
                let known: Vec<&str> = config.notify.keys().map(|name| name.as_str()).collect();
                let position = index.to_string();
                self.say(
                    &["job", name, "notify", position.as_str()],
                    dangling("notify", channel.as_str(), &known),
                );
            }
        }
        for (index, alias) in job.aliases.iter().enumerate() {
            if config.job.contains_key(alias) {
                let position = index.to_string();
                self.say(
                    &["job", name, "aliases", position.as_str()],
                    format!("there is a job named {alias}; an alias is the name a job had before"),
                );
            }
        }
        if let Some(limit) = job.max_runtime {
            self.not_zero(&["job", name, "max_runtime"], limit);
        }
        self.not_zero(&["job", name, "copy_stall"], job.copy_stall);
        self.engine(name, &job.engine);
        if let Some(encryption) = &job.encryption {
            self.encryption(&["job", name, "encryption"], encryption);
        }
        self.health(&["job", name, "health"], &job.health, config.limits_of(job));
        self.legacy(&["job", name, "legacy"], &job.legacy);
        if job.source.is_empty() && job.preset.is_none() {
            let message = format!("[job.{name}] has no source; add a [job.{name}.source.…] or a preset");
            self.say(&["job", name, "source"], message);
        }
        for (component, source) in &job.source {
            if RESERVED.contains(&component.as_str()) {
                let message = format!(
                    "`{component}` is the name of a file every backup has; call the source something else"
                );
                self.say(&["job", name, "source", component.as_str()], message);
            }
            self.source(&["job", name, "source", component.as_str()], source, job);
        }
        if let Some(drill) = &job.drill {
            self.drill(name, job, drill);
            self.drill_key(name, job, drill);
        }
        self.hooks(name, job);
    }

    /// Limits of the health checks in `section`; `limits` are those that follow from them.
    fn health(&mut self, section: &[&str], health: &HealthConfig, limits: Limits) {
        fn key<'k>(section: &[&'k str], last: &'k str) -> Vec<&'k str> {
            section.iter().copied().chain([last]).collect()
        }
        for (name, value) in health.durations() {
            if let Some(value) = value {
                self.not_zero(&key(section, name), value);
            }
        }
        let mixed = health.copies_warning.is_some() || health.copies_critical.is_some();
        if mixed && limits.copies_critical < limits.copies_warning {
            let set = if health.copies_critical.is_some() { "copies_critical" } else { "copies_warning" };
            self.say(&key(section, set), "copies_critical must not be shorter than copies_warning");
        }
        if section.len() > 1 {
            for limit in LIMITS.iter().filter(|l| l.scope == LimitScope::Agent && health.sets(l.key)) {
                let message = format!("`{}` is not about a job: set it in [health]", limit.key);
                self.say(&key(section, limit.key), message);
            }
        }
    }

    /// Programs of earlier backups: paths, or names without a slash.
    fn legacy(&mut self, section: &[&str], programs: &[String]) {
        for (index, program) in programs.iter().enumerate() {
            let position = index.to_string();
            let key: Vec<&str> = section.iter().copied().chain([position.as_str()]).collect();
            let message = if program.trim().is_empty() || program.ends_with('/') {
                "name a program, such as \"/usr/local/bin/backup-run.sh\" or \"backup-run.sh\""
            } else if program.contains(|c: char| c.is_whitespace() || c.is_control()) {
                "name the program alone, without arguments"
            } else if program.contains('/') && !program.starts_with('/') {
                "a path begins with a slash; a name has none"
            } else {
                continue;
            };
            self.say(&key, message);
        }
    }

    fn engine(&mut self, job: &str, engine: &EngineConfig) {
        let (name, levels) = match engine.codec {
            CodecName::Zstd => ("zstd", 1..=22),
            CodecName::Gzip => ("gzip", 1..=9),
        };
        if let Some(level) = engine.level.filter(|level| !levels.contains(level)) {
            let message = format!("{name} has levels {} to {}, not {level}", levels.start(), levels.end());
            self.say(&["job", job, "engine", "level"], message);
        }
        if engine.read_limit.is_some_and(|limit| limit.0 == 0) {
            self.say(
                &["job", job, "engine", "read_limit"],
                "a limit of 0 would read nothing; leave it out for no limit",
            );
        }
    }
}

pub(super) fn dangling(section: &str, name: &str, known: &[&str]) -> String {
    let hint = match nearest(name, known.iter().copied()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None if known.is_empty() => format!("there is no [{section}.…] at all"),
        None => format!("there is {}", known.join(", ")),
    };
    format!("there is no [{section}.{name}]; {hint}")
}
