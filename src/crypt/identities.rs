//! What encrypted files are opened with: private keys, or a passphrase.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret as _, SecretString};
use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::model::Secret;
use crate::secret_file::{self, Readers};

/// More than any file with keys.
const MAX_BYTES: u64 = 1 << 20;
/// A passphrase's work factor above this is refused: opening the file would take a gigabyte and more.
const WORK_FACTOR_MAX: u8 = 20;

/// The files that keys are read from; the keys themselves travel nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFiles {
    /// Files of age, or private keys of SSH.
    pub identities: Vec<PathBuf>,
    /// A file with a passphrase.
    pub passphrase_file: Option<PathBuf>,
}

impl KeyFiles {
    /// True when there is no file.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.passphrase_file.is_none()
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// A file cannot be read, can be read by others, or holds no key that can be used; the error names the file
    /// and shows nothing of it.
    pub fn read(&self) -> Result<Keyring> {
        let mut keys = Keyring::default();
        for file in &self.identities {
            keys.add_file(file)?;
        }
        if let Some(file) = &self.passphrase_file {
            let passphrase = secret_file::read_of(file, Readers::GroupForNow)?;
            let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
            identity.set_max_work_factor(WORK_FACTOR_MAX);
            keys.identities.push(Box::new(identity));
            keys.names.push("a passphrase".to_owned());
        }
        Ok(keys)
    }
}

/// Private keys.
#[derive(Default)]
pub struct Keyring {
    identities: Vec<Box<dyn age::Identity + Send + Sync>>,
    names: Vec<String>,
}

impl Keyring {
    /// True when there is no key.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// The public keys that belong to them, for messages.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The keys as age takes them.
    pub(super) fn identities(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.identities.iter().map(|identity| identity.as_ref() as &dyn age::Identity)
    }

    fn add_file(&mut self, file: &Path) -> Result<()> {
        let shown = file.display();
        let mut bytes = Vec::new();
        secret_file::open(file, Readers::GroupForNow)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading the key in {shown}"))?;
        if bytes.len() as u64 > MAX_BYTES {
            bail!("{shown} is too long for a file with keys: more than {MAX_BYTES} bytes");
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) if e.as_bytes().starts_with(b"age-encryption.org/") => bail!("{}", protected(file)),
            Err(_) => bail!("{shown} holds no private key: it is not text"),
        };
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") {
            bail!("{}", protected(file));
        }
        if text.trim_start().starts_with("-----BEGIN") {
            self.add_ssh(file, &text)
        } else {
            self.add_age(file, &text)
        }
    }

    fn add_ssh(&mut self, file: &Path, text: &str) -> Result<()> {
        use age::ssh::Identity;
        let shown = file.display();
        let identity = Identity::from_buffer(text.trim_start().as_bytes(), None)
            .map_err(|_| anyhow::anyhow!("{shown} holds no SSH private key that can be read"))?;
        match &identity {
            Identity::Unencrypted(_) => {}
            Identity::Encrypted(_) => bail!(
                "the SSH key in {shown} is protected by a passphrase, which the agent cannot ask for: make a copy \
                 of it on a machine you trust, take the passphrase off (ssh-keygen -p -f COPY), and remove the \
                 copy afterwards; or use the `age` program, as RESTORE.txt says"
            ),
            Identity::Unsupported(_) => bail!(
                "the SSH key in {shown} is of a kind that age cannot decrypt with; it takes ssh-ed25519 and ssh-rsa \
                 keys that are files"
            ),
        }
        let name = age::ssh::Recipient::try_from(identity.clone())
            .map_or_else(|_| format!("the SSH key in {shown}"), |public| public.to_string());
        self.names.push(name);
        self.identities.push(Box::new(identity));
        Ok(())
    }

    fn add_age(&mut self, file: &Path, text: &str) -> Result<()> {
        let shown = file.display();
        let before = self.identities.len();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = number + 1;
            match line.parse::<age::x25519::Identity>() {
                Ok(identity) => {
                    self.names.push(identity.to_public().to_string());
                    self.identities.push(Box::new(identity));
                }
                Err(_) if line.parse::<super::PublicKey>().is_ok() => bail!(
                    "{shown} holds a public key in line {number}: backups are opened with the private key that \
                     belongs to it"
                ),
                Err(_) if line.to_ascii_uppercase().starts_with("AGE-PLUGIN-") => {
                    bail!(
                        "line {number} of {shown} needs a plugin of age, which the agent does not run; use the `age` program"
                    )
                }
                Err(_) => bail!(
                    "line {number} of {shown} is no private key of age; it should begin with AGE-SECRET-KEY-1"
                ),
            }
        }
        if self.identities.len() == before {
            bail!("{shown} holds no key");
        }
        Ok(())
    }
}

fn protected(file: &Path) -> String {
    let shown = file.display();
    format!(
        "the key in {shown} is itself protected by a passphrase, which the agent cannot ask for: decrypt it on a \
         machine you trust (age -d {shown} > key.txt), give that file, and remove it afterwards; or use the `age` \
         program, as RESTORE.txt says"
    )
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.names).finish()
    }
}

/// A new pair of keys.
pub struct Generated {
    /// The public key, `age1…`.
    pub public: String,
    /// The file with the private key, as `age-keygen` writes it.
    pub file: Secret,
}

/// Makes a new pair of keys from the randomness of the system.
pub fn generate(now: DateTime<Utc>) -> Generated {
    let identity = age::x25519::Identity::generate();
    let public = identity.to_public().to_string();
    let created = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let file =
        format!("# created: {created}\n# public key: {public}\n{}\n", identity.to_string().expose_secret());
    Generated { public, file: Secret::new(file) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn keys(content: &str, mode: u32) -> Result<Keyring> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.txt");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        KeyFiles { identities: vec![file], passphrase_file: None }.read()
    }

    #[test]
    fn a_generated_file_is_read_back_and_names_its_public_key() {
        let made = generate(DateTime::UNIX_EPOCH);
        let read = keys(made.file.expose(), 0o600).unwrap();
        assert_eq!(read.names(), std::slice::from_ref(&made.public));
        assert!(made.file.expose().starts_with("# created: 1970-01-01T00:00:00Z\n# public key: age1"));
        assert!(format!("{read:?}").contains(&made.public) && !format!("{read:?}").contains("SECRET"));
    }

    #[test]
    fn files_that_are_no_use_are_told_by_their_kind_and_show_nothing() {
        let made = generate(DateTime::UNIX_EPOCH);
        for (content, mode, said) in [
            (made.file.expose(), 0o644, "chmod 600"),
            (&made.public, 0o600, "holds a public key in line 1"),
            ("# nothing\n", 0o600, "holds no key"),
            ("AGE-SECRET-KEY-1HUNTER2\n", 0o600, "line 1 of"),
            ("age-encryption.org/v1\n-> scrypt x 18\n", 0o600, "protected by a passphrase"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nHUNTER2\n", 0o600, "no SSH private key that can be read"),
        ] {
            let error = format!("{:#}", keys(content, mode).unwrap_err());
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("HUNTER2") && !error.contains("SECRET-KEY-1Q"), "{error}");
        }
    }
}
