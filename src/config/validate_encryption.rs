//! Rules of encryption.

use super::types::*;
use super::validate::Rules;
use crate::crypt::PublicKey;

impl Rules<'_> {
    pub(super) fn encryption(&mut self, section: &[&str], encryption: &EncryptionConfig) {
        for (index, recipient) in encryption.recipients.iter().enumerate() {
            if let Err(bad) = recipient.parse::<PublicKey>() {
                let position = index.to_string();
                self.say(&[section, &["recipients", position.as_str()]].concat(), bad.to_string());
            }
        }
        if !encryption.enabled {
            return;
        }
        let keys = !encryption.recipients.is_empty() || encryption.recipients_file.is_some();
        match (keys, &encryption.passphrase_file) {
            (true, Some(_)) => self.say(
                &[section, &["passphrase_file"]].concat(),
                "a file of age has public keys or a passphrase, never both; leave one of them out",
            ),
            (false, None) => self.say(
                section,
                "nobody could read what is encrypted: name a public key, such as recipients = [\"age1…\"] (`agent key \
                 generate` makes one), or say `enabled = false`",
            ),
            _ => {}
        }
    }

    /// A drill on a schedule restores, which needs the key.
    pub(super) fn drill_key(&mut self, job: &str, config: &JobConfig, drill: &DrillConfig) {
        let encryption = self.config.encryption_of(config);
        let with_keys = encryption.is_some_and(|encryption| encryption.passphrase_file.is_none());
        if with_keys && drill.schedule.is_some() && drill.identity_file.is_none() {
            self.say(
                &["job", job, "drill", "schedule"],
                "the job's backups are encrypted, so a drill here needs the private key: set `identity_file`, or \
                 leave `schedule` out and make drills with `agent drill --identity FILE` where the key is",
            );
        }
    }
}
