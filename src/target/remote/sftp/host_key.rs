//! Host keys: as they are written, and as a server shows them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use super::settings::Settings;
use super::ssh;
use crate::config::SftpPlace;
use crate::process::{self, Command};

/// How long a server has to show its keys.
const SCAN: Duration = Duration::from_secs(30);

/// A public host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Its type: `ssh-ed25519`.
    pub kind: String,
    /// The key, base64.
    pub base64: String,
    /// As `ssh-keygen -l` shows it: `SHA256:…`.
    pub fingerprint: String,
}

impl HostKey {
    /// As it stands in the configuration and, after the names, in known_hosts.
    pub fn line(&self) -> String {
        format!("{} {}", self.kind, self.base64)
    }

    /// The signature algorithms that prove this key.
    pub(super) fn algorithms(&self) -> &str {
        match self.kind.as_str() {
            "ssh-rsa" => "rsa-sha2-512,rsa-sha2-256",
            kind => kind,
        }
    }
}

/// Reads a key as it stands in known_hosts without the name.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<HostKey, String> {
    crate::config::check_host_key(text)?;
    let mut words = text.split_whitespace();
    let (kind, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let bytes = STANDARD.decode(base64).map_err(|e| e.to_string())?;
    let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(bytes)));
    Ok(HostKey { kind: kind.to_owned(), base64: base64.to_owned(), fingerprint })
}

/// The keys a server shows, of each type one. Nothing proves them: compare the fingerprints with what the server
/// itself says.
///
/// # Errors
/// `ssh` or `ssh-keyscan` are missing; the server does not answer; it is behind a jump host.
pub fn ask(place: &SftpPlace) -> Result<Vec<HostKey>> {
    // Aliases and ports of the client's configuration count here as well.
    let settings = Settings::of(place, true)?;
    let setting = |name: &str| settings.get(name);
    let host = setting("hostname").unwrap_or(&place.host);
    let port = setting("port").unwrap_or("22");
    if let Some(jump) = setting("proxyjump").filter(|jump| *jump != "none") {
        bail!("{host} is reached through {jump}; ask from there: ssh {jump} ssh-keyscan -p {port} {host}");
    }
    if setting("proxycommand").is_some_and(|command| command != "none") {
        bail!(
            "{host} is reached by a ProxyCommand; run ssh-keyscan -p {port} {host} where it can be reached"
        );
    }
    let scan = Command::new("ssh-keyscan").hint(ssh::MISSING).timeout(SCAN);
    let scan = scan.args(["-T", "10", "-p", port]).arg("--").arg(host);
    let found = process::output(scan, &process::never())
        .with_context(|| format!("asking {host} port {port} for its host keys"))?;
    let mut keys: Vec<HostKey> = found
        .text()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| parse(line.split_once(' ')?.1).ok())
        .collect();
    if keys.is_empty() {
        bail!("{host} port {port} shows no host key{}", found.stderr);
    }
    // The one to choose first.
    let order = |key: &HostKey| match key.kind.as_str() {
        "ssh-ed25519" => 0,
        kind if kind.starts_with("ecdsa-") => 1,
        _ => 2,
    };
    keys.sort_by(|a, b| (order(a), &a.kind).cmp(&(order(b), &b.kind)));
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_and_its_fingerprint_is_that_of_ssh_keygen() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl github";
        let key = parse(key).unwrap();
        assert_eq!(key.fingerprint, "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
        assert_eq!(key.algorithms(), "ssh-ed25519");
        assert_eq!(
            key.line(),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
        );
    }
}
