//! What files are encrypted to: public keys, or a passphrase.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use age::secrecy::SecretString;
use anyhow::{Result, bail};

use crate::model::Secret;

/// The cost of a guess, as a power of two: 64 MiB of memory and about a quarter of a second. The `age` program
/// takes four times that, which a server would pay for each file of each backup.
const WORK_FACTOR: u8 = 16;
/// Characters below which a passphrase is guessed, whatever a guess costs.
const PASSPHRASE_MIN: usize = 16;

/// A public key that files can be encrypted to.
#[derive(Clone)]
pub struct PublicKey(Kind);

#[derive(Clone)]
enum Kind {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

/// Why a text is no public key. The text is never repeated: it may be a private one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecipient {
    /// A private key stands where a public one should.
    #[error(
        "this is a PRIVATE key, which must not be on this server: put the public key here (age1… or ssh-…; \
         `age-keygen -y FILE` prints it), and take the private one for known to whoever could read this file"
    )]
    Private,
    /// A key of a kind that is not supported.
    #[error("keys of the kind {0} are not supported; use age1…, ssh-ed25519 or ssh-rsa")]
    Kind(String),
    /// An RSA key that is too short to be safe.
    #[error("this RSA key has less than 2048 bits, which is not safe any more; make another key")]
    TooShort,
    /// An RSA key longer than can be used.
    #[error("this RSA key is longer than 4096 bits, which is not supported; use another key")]
    TooLong,
    /// A recipient of age that needs another program.
    #[error("recipients of age's plugins are not supported; use age1…, ssh-ed25519 or ssh-rsa")]
    Plugin,
    /// Anything else.
    #[error(
        "this is no public key; it should look like age1… (62 characters) or like a line of an SSH .pub file"
    )]
    Malformed,
}

/// True for a text with a private key in it, of age or of SSH.
pub fn looks_private(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    upper.contains("AGE-SECRET-KEY-") || upper.contains("PRIVATE KEY-----") || upper.contains("AGE-PLUGIN-")
}

impl FromStr for PublicKey {
    type Err = BadRecipient;

    fn from_str(text: &str) -> Result<Self, BadRecipient> {
        let text = text.trim();
        if looks_private(text) {
            return Err(BadRecipient::Private);
        }
        if let Some(data) = text.strip_prefix("age1") {
            return match text.parse() {
                Ok(key) => Ok(Self(Kind::X25519(key))),
                // Plugins have a name after age1, and no other data part is as long as theirs.
                Err(_) if data.contains('1') => Err(BadRecipient::Plugin),
                Err(_) => Err(BadRecipient::Malformed),
            };
        }
        use age::ssh::ParseRecipientKeyError as Bad;
        match text.parse() {
            Ok(key) => Ok(Self(Kind::Ssh(key))),
            Err(Bad::Unsupported(kind)) => Err(BadRecipient::Kind(kind)),
            Err(Bad::RsaModulusTooSmall) => Err(BadRecipient::TooShort),
            Err(Bad::RsaModulusTooLarge) => Err(BadRecipient::TooLong),
            Err(Bad::Invalid(_) | Bad::Ignore) => Err(BadRecipient::Malformed),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::X25519(key) => key.fmt(f),
            Kind::Ssh(key) => key.fmt(f),
        }
    }
}

impl PublicKey {
    fn recipient(&self) -> &dyn age::Recipient {
        match &self.0 {
            Kind::X25519(key) => key,
            Kind::Ssh(key) => key,
        }
    }
}

/// Reads a list of recipients as the `age` program does: one a line, empty lines and those that begin with
/// `#` left out. An error comes with the number of its line, from 1.
pub fn parse_recipients(text: &str) -> Result<Vec<PublicKey>, (usize, BadRecipient)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| line.parse().map_err(|bad| (number, bad)))
        .collect()
}

/// What files are encrypted to.
pub struct Seal(To);

enum To {
    Keys(Vec<PublicKey>),
    Passphrase(Secret),
}

/// Encrypts what is written to it; [`finish`](age::stream::StreamWriter::finish) must be called, or the file is
/// cut off.
pub type SealedWriter<W> = age::stream::StreamWriter<W>;

impl Seal {
    /// Any one of the private keys of `keys` opens what is encrypted.
    ///
    /// # Errors
    /// There is no key.
    pub fn to_keys(keys: Vec<PublicKey>) -> Result<Self> {
        let mut different: Vec<PublicKey> = Vec::new();
        for key in keys {
            if !different.iter().any(|known| known.to_string() == key.to_string()) {
                different.push(key);
            }
        }
        if different.is_empty() {
            bail!("there is no recipient: nobody could ever read what is encrypted");
        }
        Ok(Self(To::Keys(different)))
    }

    /// The passphrase opens what is encrypted.
    ///
    /// # Errors
    /// It is not one line, or so short that it is guessed.
    pub fn to_passphrase(passphrase: Secret) -> Result<Self> {
        if passphrase.expose().contains(['\n', '\r']) {
            bail!("the passphrase has several lines; age asks for one line only");
        }
        if passphrase.expose().chars().count() < PASSPHRASE_MIN {
            bail!(
                "the passphrase has less than {PASSPHRASE_MIN} characters and would be guessed; take six random \
                 words or more, or public keys"
            );
        }
        Ok(Self(To::Passphrase(passphrase)))
    }

    /// The public keys; none with a passphrase.
    pub fn recipients(&self) -> Vec<String> {
        match &self.0 {
            To::Keys(keys) => keys.iter().map(PublicKey::to_string).collect(),
            To::Passphrase(_) => Vec::new(),
        }
    }

    /// Writes the header of an encrypted file to `out`, and gives the writer for its content.
    pub fn writer<W: Write>(&self, out: W) -> io::Result<SealedWriter<W>> {
        let sealed = match &self.0 {
            To::Keys(keys) => age::Encryptor::with_recipients(keys.iter().map(PublicKey::recipient)),
            To::Passphrase(passphrase) => {
                let mut recipient =
                    age::scrypt::Recipient::new(SecretString::from(passphrase.expose().to_owned()));
                recipient.set_work_factor(WORK_FACTOR);
                age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        sealed.map_err(|e| io::Error::other(format!("encrypting: {e}")))?.wrap_output(out)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            To::Keys(_) => f.debug_tuple("Seal").field(&self.recipients()).finish(),
            To::Passphrase(_) => f.write_str("Seal([passphrase])"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X25519: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

    #[test]
    fn public_keys_come_back_as_they_were_without_comments() {
        for text in [X25519, ED25519] {
            assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
        }
        assert_eq!(format!(" {ED25519} alice@host\n").parse::<PublicKey>().unwrap().to_string(), ED25519);
        let list = format!("# two\n\n{X25519}\r\n  {ED25519} me\n");
        assert_eq!(parse_recipients(&list).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_public_key_is_told_by_its_kind_and_never_repeated() {
        let secret = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
        let bad = |text: &str| text.parse::<PublicKey>().err().unwrap();
        for private in [secret, &secret.to_lowercase(), "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn"] {
            assert_eq!(bad(private), BadRecipient::Private);
            assert!(!bad(private).to_string().contains("GQ9778"));
        }
        assert_eq!(bad(&X25519[..61]), BadRecipient::Malformed);
        assert_eq!(bad(&X25519.replace("ql3z", "ql3y")), BadRecipient::Malformed);
        assert_eq!(
            bad("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"),
            BadRecipient::Plugin
        );
        assert_eq!(bad("hunter2 is my passphrase"), BadRecipient::Malformed);
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHFliOyIZs1gxGF3fmDxFykQhE88wy6AKDGFBfn0R6ZuvRmENABZQa9+pj9hMki+LX0qDJbmHTiWDbYv/cmFt/Q=";
        assert_eq!(bad(ecdsa), BadRecipient::Kind("ecdsa-sha2-nistp256".to_owned()));
        let list = format!("{X25519}\n# next\nage1nonsense\n");
        assert_eq!(parse_recipients(&list).err().unwrap(), (3, BadRecipient::Malformed));
    }

    #[test]
    fn a_seal_needs_a_recipient_or_a_passphrase_worth_the_name_and_shows_no_secret() {
        assert!(Seal::to_keys(Vec::new()).is_err());
        let twice = vec![X25519.parse().unwrap(), X25519.parse().unwrap()];
        assert_eq!(Seal::to_keys(twice).unwrap().recipients(), [X25519]);
        for bad in ["hunter2", "a line of its own\nand another one"] {
            assert!(Seal::to_passphrase(Secret::new(bad)).is_err());
        }
        let seal = Seal::to_passphrase(Secret::new("correct horse battery staple")).unwrap();
        assert!(!format!("{seal:?}").contains("horse") && seal.recipients().is_empty());
    }
}
