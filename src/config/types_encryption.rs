//! What backups are encrypted to.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{AbsolutePath, SecretFile};

/// What backups are encrypted to: public keys, or a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncryptionConfig {
    /// Whether backups are encrypted; `false` takes a job out when `[encryption]` is there for all.
    pub enabled: bool,
    /// Public keys: `age1…`, or lines of SSH's `.pub` files with `ssh-ed25519` or `ssh-rsa`. Any one of the
    /// private keys opens a backup.
    pub recipients: Vec<String>,
    /// A file with more public keys, one a line, as `age -R` reads it.
    #[schemars(with = "Option<AbsolutePath>")]
    pub recipients_file: Option<PathBuf>,
    /// A file with a passphrase, instead of public keys; this host can then read its own backups.
    #[schemars(with = "Option<SecretFile>")]
    pub passphrase_file: Option<PathBuf>,
}

impl Default for EncryptionConfig {
    fn default() -> Self {
        Self { enabled: true, recipients: Vec::new(), recipients_file: None, passphrase_file: None }
    }
}
