//! The files a configuration names: are they there, and are those with secrets closed to others?

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::problem::Problem;
use super::types::*;
use crate::crypt::{Seal, parse_recipients};

/// Who may read a file with a secret, beside its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// Nobody but root's group.
    Owner,
    /// Its group as well: the application's own `.env`, which PHP reads as another user.
    Group,
}

/// Looks at every file the configuration names beside sources and targets. A secret that others can read
/// is no secret, so such a file is refused, with the command that closes it.
pub fn check_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut check = |key: &[&str], file: Option<&Path>, readers| {
        if let Some(Err(message)) = file.map(|file| secret_file(file, readers)) {
            problems.push(Problem::of(key, message));
        }
    };
    for (name, job) in &config.job {
        if let Some(drill) = &job.drill {
            check(
                &["job", name.as_str(), "drill", "identity_file"],
                drill.identity_file.as_deref(),
                Readers::Owner,
            );
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
    let all = config.encryption.iter().map(|encryption| (vec!["encryption"], encryption));
    let own = config
        .job
        .iter()
        .filter_map(|(name, job)| Some((vec!["job", name.as_str(), "encryption"], job.encryption.as_ref()?)));
    for (section, encryption) in all.chain(own).filter(|(_, encryption)| encryption.enabled) {
        problems.extend(encryption_files(&section, encryption));
    }
    problems
}

fn encryption_files(section: &[&str], encryption: &EncryptionConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |key: &str, message| problems.push(Problem::of(&[section, &[key]].concat(), message));
    if let Some(file) = &encryption.passphrase_file {
        let good = secret_file(file, Readers::Owner).and_then(|()| {
            let passphrase = crate::secret_file::read(file).and_then(Seal::to_passphrase);
            passphrase.map(drop).map_err(|error| format!("{}: {error:#}", file.display()))
        });
        if let Err(message) = good {
            say("passphrase_file", message);
        }
    }
    if let Some(file) = &encryption.recipients_file {
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

/// The same for the files of channels. What is wrong here breaks one way of telling somebody; that is no
/// reason to make no backup.
pub fn check_channel_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, channel) in &config.notify {
        let mut say = |key: &[&str], message| {
            let key: Vec<&str> = ["notify", name.as_str()].iter().chain(key).copied().collect();
            problems.push(Problem::of(&key, message));
        };
        for (key, file) in channel.secret_files() {
            if let Err(message) = secret_file(file, Readers::Owner) {
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

/// Why a file with a secret is not to be used; none for one that only its owner reads.
///
/// For targets, where this breaks one of several places, and no backup.
pub fn open_to_others(file: &Path) -> Option<String> {
    secret_file(file, Readers::Owner).err()
}

fn secret_file(file: &Path, readers: Readers) -> Result<(), String> {
    let shown = file.display();
    let meta = std::fs::metadata(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{shown} does not exist; write the secret there, then `chmod 600 {shown}`")
        }
        _ => format!("{shown} cannot be looked at: {error}"),
    })?;
    if !meta.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    let mode = meta.permissions().mode() & 0o777;
    let group = readers == Readers::Owner && meta.gid() != 0 && mode & 0o060 != 0;
    if mode & 0o007 == 0 && !group {
        return Ok(());
    }
    let (who, closed) = match readers {
        Readers::Owner => ("other users", "600"),
        Readers::Group => ("every user", "640"),
    };
    Err(format!("{shown} has mode {mode:04o}, so {who} can read its secret; `chmod {closed} {shown}`"))
}
