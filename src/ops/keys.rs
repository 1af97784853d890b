//! What backups of a job are encrypted to, and where the keys are that open them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

use crate::config::{Config, JobConfig};
use crate::crypt::{KeyFiles, PublicKey, Seal, parse_recipients};
use crate::manifest::{Age, Encryption};
use crate::secret_file::{self, Readers};

/// What the configuration says a job's backups are encrypted to; none when they are not.
///
/// # Errors
/// A file with public keys or with the passphrase cannot be read, or holds none. Then no backup is made: one in
/// clear is not what was asked for.
pub fn seal(config: &Config, job: &JobConfig) -> Result<Option<Arc<Seal>>> {
    let Some(encryption) = config.encryption_of(job) else { return Ok(None) };
    let seal = if let Some(file) = &encryption.passphrase_file {
        secret_file::read(file).and_then(Seal::to_passphrase).with_context(|| file.display().to_string())
    } else {
        let inline = encryption.recipients.iter().map(|text| text.parse::<PublicKey>());
        let mut keys = inline.collect::<Result<Vec<_>, _>>()?;
        if let Some(file) = &encryption.recipients_file {
            keys.extend(recipients_in(file)?);
        }
        Seal::to_keys(keys)
    };
    seal.map(|seal| Some(Arc::new(seal))).context("encryption")
}

fn recipients_in(file: &Path) -> Result<Vec<PublicKey>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the recipients in {shown}"))?;
    parse_recipients(&text).map_err(|(line, bad)| anyhow!("{shown}, line {line}: {bad}"))
}

/// How a manifest says it.
pub fn described(seal: Option<&Seal>) -> Encryption {
    match seal.map(Seal::recipients) {
        None => Encryption::None,
        Some(recipients) => Encryption::Age(Age { passphrase: recipients.is_empty(), recipients }),
    }
}

/// The keys to open a job's backups with: those that were given, else the passphrase that this host encrypts with.
pub fn files(config: &Config, job: Option<&JobConfig>, given: &KeyFiles) -> KeyFiles {
    if !given.is_empty() {
        return given.clone();
    }
    let own = job.and_then(|job| config.encryption_of(job)).and_then(|e| e.passphrase_file.clone());
    // A backup in clear can be read without it.
    let own = own.filter(|file| match secret_file::check(file, Readers::GroupForNow) {
        Ok(()) => true,
        Err(e) => {
            tracing::warn!("{e:#}");
            false
        }
    });
    KeyFiles { identities: Vec::new(), passphrase_file: own }
}
