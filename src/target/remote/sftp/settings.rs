//! What the SSH client would do for a host, by its own account (`ssh -G`).

use std::time::Duration;

use super::ssh;
use crate::config::SftpPlace;
use crate::process::{self, Command, ProcessError};

/// Nothing is connected to, but names may be looked up.
const LIMIT: Duration = Duration::from_secs(30);

/// Settings by name, one a line.
pub(super) struct Settings(String);

impl Settings {
    /// Those of a place, from the client's configuration files or, not `configured`, its built-in ones.
    pub(super) fn of(place: &SftpPlace, configured: bool) -> Result<Self, ProcessError> {
        let mut command = Command::new(ssh::PROGRAM).hint(ssh::MISSING).timeout(LIMIT).arg("-G");
        match &place.ssh_config_file {
            _ if !configured => command = command.args(["-F", "none"]),
            Some(file) => command = command.arg("-F").arg(file),
            None => {}
        }
        if let Some(port) = place.port {
            command = command.arg("-p").arg(port.to_string());
        }
        if let Some(user) = &place.user {
            command = command.arg("-l").arg(user);
        }
        let output = process::output(command.arg("--").arg(&place.host), &process::never())?;
        Ok(Self(output.text()))
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::trim)
    }
}

/// The client's ciphers with AES-GCM first, on a machine that has instructions for it: a copy takes half the time
/// then. None where somebody configured ciphers, or the client has it first already.
pub(super) fn faster_ciphers(place: &SftpPlace) -> Option<String> {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !processor.split_whitespace().any(|word| word == "aes") {
        return None;
    }
    let (configured, built_in) = (Settings::of(place, true).ok()?, Settings::of(place, false).ok()?);
    let ciphers = configured.get("ciphers")?;
    (built_in.get("ciphers")? == ciphers).then(|| reordered(ciphers))?
}

fn reordered(ciphers: &str) -> Option<String> {
    let all: Vec<&str> = ciphers.split(',').collect();
    let (fast, others): (Vec<&str>, Vec<&str>) = all.iter().partition(|cipher| cipher.contains("-gcm@"));
    let sorted: Vec<&str> = fast.into_iter().chain(others).collect();
    (sorted != all).then(|| sorted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_ciphers_changes_and_nothing_is_added() {
        let ciphers =
            "chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com";
        let sorted = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr";
        assert_eq!(reordered(ciphers).as_deref(), Some(sorted));
        assert_eq!(reordered(sorted), None);
        assert_eq!(reordered("chacha20-poly1305@openssh.com"), None);
    }
}
