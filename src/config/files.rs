//! The files a configuration names: are they there, and are those with secrets closed to others?

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::problem::Problem;
use super::types::*;
use crate::crypt::{Seal, parse_recipients};
use crate::secret_file::{Readers, look};

/// Whom a file that cannot be used concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns<'a> {
    /// The runs of a job.
    Job(&'a str),
    /// The runs of every job that does not say for itself to whom it encrypts.
    Encryption,
    /// The drills of a job.
    Drill(&'a str),
    /// Whoever uses a target.
    Target(&'a str),
    /// A way of telling somebody.
    Channel,
}

impl Problem {
    /// Whom the problem of a file concerns, by the key that names it.
    pub fn concerns(&self) -> Concerns<'_> {
        let key: Vec<&str> = self.key.iter().map(String::as_str).collect();
        match key.as_slice() {
            ["job", job, "drill", ..] => Concerns::Drill(job),
            ["job", job, ..] => Concerns::Job(job),
            ["target", target, ..] => Concerns::Target(target),
            ["encryption", ..] => Concerns::Encryption,
            _ => Concerns::Channel,
        }
    }
}

/// Looks at every file with a secret that jobs and targets need. One that is missing, or that others can read, fails
/// what needs it, and nothing else; so it is no mistake of the configuration as a whole. Each comes with the command
/// that closes it. Only files that `wanted` accepts are touched.
pub fn check_files(config: &Config, wanted: &dyn Fn(&Path) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut check = |key: &[&str], file: Option<&Path>, readers| {
        if let Some(Err(message)) = file.filter(|file| wanted(file)).map(|file| look(file, readers)) {
            problems.push(Problem::of(key, message));
        }
    };
    for (name, target) in &config.target {
        if let Some((key, file)) = target.secret_file() {
            check(&["target", name.as_str(), key], Some(file), Readers::Owner);
        }
    }
    for (name, job) in &config.job {
        if let Some(drill) = &job.drill {
            let key = ["job", name.as_str(), "drill", "identity_file"];
            check(&key, drill.identity_file.as_deref(), Readers::GroupForNow);
        }
        for (component, source) in &job.source {
            let key = |last: &'static str| ["job", name.as_str(), "source", component.as_str(), last];
            match source {
                SourceConfig::Mysql(mysql) => {
                    check(&key("defaults_file"), mysql.defaults_file.as_deref(), Readers::Owner);
                    check(&key("password_file"), mysql.password_file.as_deref(), Readers::Owner);
                    check(&key("env_file"), mysql.env_file.as_deref(), Readers::Group);
                }
                SourceConfig::Command(command) => {
                    for (variable, file) in &command.env_file {
                        let key = ["job", name.as_str(), "source", component.as_str(), "env_file", variable];
                        check(&key, Some(file), Readers::Owner);
                    }
                }
                SourceConfig::Postgres(postgres) => {
                    check(&key("password_file"), postgres.password_file.as_deref(), Readers::Owner);
                    check(&key("passfile"), postgres.passfile.as_deref(), Readers::Owner);
                }
                SourceConfig::Redis(redis) => {
                    check(&key("password_file"), redis.password_file.as_deref(), Readers::Owner);
                }
                _ => {}
            }
        }
        for (hook, config) in &job.hook {
            for (variable, file) in &config.env_file {
                let key = ["job", name.as_str(), "hook", hook.as_str(), "env_file", variable];
                check(&key, Some(file), Readers::Owner);
            }
        }
    }
    for (name, target) in &config.target {
        // A key of an agent has its public half there. Whether it is closed the SSH client looks at itself.
        if let Place::Sftp(SftpPlace { identity_file: Some(file), .. }) = &target.place
            && wanted(file)
            && !file.exists()
            && !file.with_added_extension("pub").exists()
        {
            let message = format!("the key {} does not exist", file.display());
            problems.push(Problem::of(&["target", name.as_str(), "identity_file"], message));
        }
    }
    let all = config.encryption.iter().map(|encryption| (vec!["encryption"], encryption));
    let own = config
        .job
        .iter()
        .filter_map(|(name, job)| Some((vec!["job", name.as_str(), "encryption"], job.encryption.as_ref()?)));
    for (section, encryption) in all.chain(own).filter(|(_, encryption)| encryption.enabled) {
        problems.extend(encryption_files(&section, encryption, wanted));
    }
    problems
}

fn encryption_files(
    section: &[&str],
    encryption: &EncryptionConfig,
    wanted: &dyn Fn(&Path) -> bool,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |key: &str, message| problems.push(Problem::of(&[section, &[key]].concat(), message));
    if let Some(file) = encryption.passphrase_file.as_ref().filter(|file| wanted(file)) {
        let good = look(file, Readers::Owner).and_then(|()| {
            let passphrase = crate::secret_file::read(file).and_then(Seal::to_passphrase);
            passphrase.map(drop).map_err(|error| format!("{}: {error:#}", file.display()))
        });
        if let Err(message) = good {
            say("passphrase_file", message);
        }
    }
    if let Some(file) = encryption.recipients_file.as_ref().filter(|file| wanted(file)) {
        let shown = file.display();
        let good = match std::fs::read_to_string(file) {
            Err(error) => Err(format!("{shown} cannot be read: {error}")),
            Ok(text) => match parse_recipients(&text) {
                Err((line, bad)) => Err(format!("{shown}, line {line}: {bad}")),
                Ok(keys) if keys.is_empty() && encryption.recipients.is_empty() => {
                    Err(format!("{shown} holds no public key"))
                }
                Ok(_) => Ok(()),
            },
        };
        if let Err(message) = good {
            say("recipients_file", message);
        }
    }
    problems
}

/// The same for the files of channels. What is wrong here breaks one way of telling somebody.
pub fn check_channel_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, channel) in &config.notify {
        let mut say = |key: &[&str], message| {
            let key: Vec<&str> = ["notify", name.as_str()].iter().chain(key).copied().collect();
            problems.push(Problem::of(&key, message));
        };
        for (key, file) in channel.secret_files() {
            if let Err(message) = look(file, Readers::Owner) {
                say(&key, message);
            }
        }
        for (key, file) in channel.plain_files() {
            if let Err(error) = std::fs::File::open(file) {
                say(&[key], format!("{} cannot be read: {error}", file.display()));
            }
        }
    }
    problems
}

/// A warning about a configuration everybody can change: whoever names a command to run becomes whoever
/// runs the agent.
pub(super) fn writable_by_others(file: &Path) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    let shown = file.display();
    (mode & 0o002 != 0).then(|| {
        format!("every user can change {shown}, and so run programs as this one; `chmod o-w {shown}`")
    })
}
