//! The configuration as text: the commented example, and the effective values.

use super::positions::{mask_login, sounds_secret};
use super::types::*;

/// The commented example `agent config init` writes. Every key stands in it.
pub fn example() -> &'static str {
    include_str!("example.toml")
}

/// What stands for a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// The effective values as TOML, every default filled in, without secrets.
pub fn show(config: &Config) -> String {
    let mut config = config.clone();
    for channel in config.notify.values_mut() {
        match channel {
            NotifyConfig::Email(email) => email.smtp = mask_login(&email.smtp),
            NotifyConfig::Webhook(webhook) => {
                for value in webhook.headers.values_mut() {
                    *value = mask_login(value);
                }
            }
            // Addresses show themselves as redacted.
            _ => {}
        }
    }
    for job in config.job.values_mut() {
        let commands = job.source.values_mut().filter_map(|source| match source {
            SourceConfig::Command(command) => Some(&mut command.env),
            _ => None,
        });
        for (name, value) in commands.chain(job.hook.values_mut().map(|hook| &mut hook.env)).flatten() {
            *value = if sounds_secret(name) { REDACTED.to_owned() } else { mask_login(value) };
        }
    }
    toml::to_string(&config).unwrap_or_else(|error| format!("# cannot be shown as TOML: {error}\n"))
}
