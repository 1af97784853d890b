//! The SSH client as a child process: how it is called, and what its last words mean.
//!
//! The client of the system is used, so that jump hosts, aliases and hardware keys work as its configuration
//! says, and its security updates are the system's. What would weaken a backup is set here and cannot be changed
//! there: unknown host keys, passwords, forwardings, and connections shared with other programs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use super::error::SftpError;
use super::{host_key, settings};
use crate::config::SftpPlace;
use crate::model::TargetName;
use crate::process::{self, STDERR_BYTES, StderrTail};

/// The program.
pub(super) const PROGRAM: &str = "ssh";
/// What to do when it is missing.
pub(super) const MISSING: &str = "install the package openssh-client";

/// Room in the pipes to and from the client, so that it is woken seldom.
const PIPE: i32 = 1 << 20;

/// Set for every connection, before the client's own configuration is read: the first value counts.
const OPTIONS: &[&str] = &[
    // Older clients do not know all of these.
    "IgnoreUnknown=KnownHostsCommand,UpdateHostKeys,RemoteCommand,KbdInteractiveAuthentication",
    "BatchMode=yes",
    // With less it keeps to itself that there is no host key of the pinned kind, and why a connection ended.
    "LogLevel=INFO",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "PreferredAuthentications=publickey",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    // A connection of somebody else's would be one whose host key was checked by other rules.
    "ControlMaster=no",
    "ControlPath=none",
    "ControlPersist=no",
    // A connection that is dead is noticed after a minute.
    "ConnectTimeout=20",
    "ConnectionAttempts=1",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "TCPKeepAlive=yes",
];

/// Where a store is and how it is reached.
pub(super) struct Destination {
    pub(super) target: TargetName,
    pub(super) place: SftpPlace,
    /// The root for people.
    pub(super) address: String,
}

/// Arguments for the client, and what must stay open as long as it runs.
pub(super) struct Call {
    pub(super) args: Vec<OsString>,
    /// A file of known hosts without a name: nothing is left behind.
    pub(super) _known_hosts: Option<File>,
}

impl Destination {
    /// How the client is called for SFTP.
    pub(super) fn call(&self) -> Result<Call> {
        let place = &self.place;
        let mut args: Vec<OsString> = Vec::new();
        if let Some(file) = &place.ssh_config_file {
            args.extend(["-F".into(), file.into()]);
        }
        let mut option = |text: String| args.extend(["-o".into(), OsString::from(text)]);
        OPTIONS.iter().for_each(|text| option((*text).to_owned()));
        let mut known_hosts = None;
        if let Some(key) = &place.host_key {
            let pinned = host_key::parse(key).map_err(|why| anyhow::anyhow!("`host_key`: {why}"))?;
            let file = known_hosts_of(&pinned.line()).context("writing the pinned host key down for ssh")?;
            option(format!("UserKnownHostsFile=/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
            known_hosts = Some(file);
            option("GlobalKnownHostsFile=/dev/null".to_owned());
            option("KnownHostsCommand=none".to_owned());
            option("CheckHostIP=no".to_owned());
            option(format!("HostKeyAlgorithms={}", pinned.algorithms()));
        } else if let Some(file) = &place.known_hosts_file {
            option(format!("UserKnownHostsFile={}", quoted(file)));
            option("GlobalKnownHostsFile=/dev/null".to_owned());
            option("KnownHostsCommand=none".to_owned());
        }
        if let Some(file) = &place.identity_file {
            option(format!("IdentityFile={}", quoted(file)));
            option("IdentitiesOnly=yes".to_owned());
        }
        if let Some(ciphers) = settings::faster_ciphers(place) {
            option(format!("Ciphers={ciphers}"));
        }
        if let Some(port) = place.port {
            args.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = &place.user {
            args.extend(["-l".into(), user.into()]);
        }
        args.extend(["-s".into(), "--".into(), OsString::from(&place.host), "sftp".into()]);
        Ok(Call { args, _known_hosts: known_hosts })
    }

    /// What the end of the client means. `greeted` says whether the server had answered in SFTP by then.
    pub(super) fn ended(&self, stderr: &StderrTail, greeted: bool) -> SftpError {
        let host = &self.place.host;
        let said = said(stderr);
        let target = &self.target;
        let see = format!("`agent target host-key {target}` shows the key it has now");
        if stderr.contains("HOST IDENTIFICATION HAS CHANGED") || stderr.contains("has changed and you have") {
            return SftpError::Final(format!(
                "the host key of {host} is not the one that is expected: another machine answers, or it was set \
                 up anew; nothing was sent. Ask whoever runs it; {see}"
            ));
        }
        if stderr.contains("no matching host key type") {
            let offered = stderr.lines.iter().find_map(|line| line.split("offer: ").nth(1)).unwrap_or("");
            return SftpError::Final(format!(
                "{host} has no host key of the kind that is pinned; it offers {offered}; nothing was sent. {see}"
            ));
        }
        if stderr.contains("host key is known for") || stderr.contains("Host key verification failed") {
            let missing = self.place.known_hosts_file.as_ref().filter(|file| !file.exists());
            if let Some(file) = missing {
                return SftpError::Final(format!(
                    "no host key is known for {host}: `known_hosts_file` {} does not exist; {see}, as a line for it, to \
                     be compared with the server's own",
                    file.display()
                ));
            }
            return SftpError::Final(format!(
                "the host key of {host} is not known, and unknown keys are not accepted: {see}, as a line to be \
                 put down, to be compared with the server's own{said}"
            ));
        }
        if stderr.contains("Permission denied (") || stderr.contains("Too many authentication failures") {
            let user = self.place.user.as_ref().map_or_else(String::new, |user| format!(" for {user}"));
            let key = match &self.place.identity_file {
                Some(file) if !file.exists() => {
                    format!("the key {} does not exist", file.display())
                }
                Some(file) => format!(
                    "the server does not accept the key {}{user}; its public half must stand in the \
                     authorized_keys there, and it must have no passphrase",
                    file.display()
                ),
                None => format!(
                    "the server accepts none of the SSH client's own keys{user}; name one with `identity_file`"
                ),
            };
            return SftpError::Final(format!("logging in at {host} failed: {key}{said}"));
        }
        let misuse =
            ["onfiguration option", "command-line: line", "command-line line", "Can't open user config"];
        if misuse.iter().any(|text| stderr.contains(text)) {
            return SftpError::Final(format!("the SSH client refuses its configuration{said}"));
        }
        if stderr.contains("subsystem request failed") {
            return SftpError::Final(format!(
                "{host} offers no SFTP: its sshd_config needs a line such as `Subsystem sftp internal-sftp`{said}"
            ));
        }
        SftpError::Lost(match greeted {
            true => format!("the connection to {host} broke{said}"),
            false => format!("connecting to {host} failed{said}"),
        })
    }

    /// When something else than SFTP arrives, mostly what the login shell prints.
    pub(super) fn no_sftp(&self, first: &[u8]) -> SftpError {
        let text = String::from_utf8_lossy(&first[..first.len().min(60)]).into_owned();
        SftpError::Final(format!(
            "{} does not answer in SFTP but with {text:?}; the shell of the account must print nothing",
            self.place.host
        ))
    }
}

/// The client's words as the end of a sentence.
fn said(stderr: &StderrTail) -> String {
    // The last line alone is often `Connection closed.`; the frames around warnings say nothing.
    let lines: Vec<&str> =
        stderr.lines.iter().map(|line| line.trim()).filter(|line| !line.starts_with("@@")).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!(" (ssh: {})", lines[lines.len().saturating_sub(4)..].join("; ")),
    }
}

/// A path as the client reads it in an option: quoted, and `%` doubled, which it replaces.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

/// A file of known hosts in memory, with one line, open as long as the result is kept.
fn known_hosts_of(line: &str) -> io::Result<File> {
    let memory = rustix::fs::memfd_create("known-hosts", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(format!("* {line}\n").as_bytes())?;
    Ok(file)
}

/// The client's path.
pub(super) fn program() -> Result<PathBuf, SftpError> {
    process::find_program(PROGRAM).ok_or_else(|| {
        SftpError::Final(format!(
            "targets of type sftp need the program {PROGRAM}, which was not found: {MISSING}"
        ))
    })
}

/// Reads to the end and keeps the last of it.
pub(super) fn last_words(mut from: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * STDERR_BYTES {
            kept.drain(..kept.len() - STDERR_BYTES);
        }
    }
    kept
}

/// Starts the client; gives it and its input, to which writing never blocks.
pub(super) fn spawn(program: &Path, call: &Call) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new(program);
    command
        .args(&call.args)
        .env_clear()
        .envs(process::environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0);
    crate::sys::die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let Some(pipe) = child.stdin.take() else { return Err(io::Error::other("its pipes are missing")) };
    // A client that hangs must not hang who writes to it.
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
    crate::sys::widen_pipe(&pipe, PIPE);
    if let Some(stdout) = &child.stdout {
        crate::sys::widen_pipe(stdout, PIPE);
    }
    Ok((child, pipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(place: serde_json::Value) -> Destination {
        let place: SftpPlace = serde_json::from_value(place).unwrap();
        Destination { target: "vault".parse().unwrap(), place, address: "sftp://vault/x".to_owned() }
    }

    fn words(args: &[OsString]) -> String {
        args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn host_keys_are_strict_whatever_the_configuration_of_the_client_says() {
        let key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAABAABAgM=";
        let places = [
            serde_json::json!({"host": "vault", "path": "x"}),
            serde_json::json!({"host": "vault", "path": "x", "known_hosts_file": "/etc/a b%h"}),
            serde_json::json!({"host": "vault", "path": "x", "host_key": key, "port": 2222, "user": "backup"}),
        ];
        for place in places {
            let call = destination(place).call().unwrap();
            let args = words(&call.args);
            assert!(args.contains("-o StrictHostKeyChecking=yes"), "{args}");
            assert!(args.contains("-o ControlPath=none") && args.contains("-o BatchMode=yes"), "{args}");
            assert!(args.ends_with("-s -- vault sftp"), "{args}");
            if args.contains("-p 2222 -l backup") {
                assert!(args.contains("HostKeyAlgorithms=rsa-sha2-512,rsa-sha2-256"), "{args}");
                let file = args.split("UserKnownHostsFile=").nth(1).unwrap().split(' ').next().unwrap();
                assert_eq!(std::fs::read_to_string(file).unwrap(), format!("* {key}\n"));
            } else if args.contains("UserKnownHostsFile") {
                assert!(args.contains(r#"UserKnownHostsFile="/etc/a b%%h""#), "{args}");
                assert!(args.contains("GlobalKnownHostsFile=/dev/null"), "{args}");
            }
        }
    }

    #[test]
    fn the_last_words_of_the_client_tell_what_is_final() {
        let vault =
            destination(serde_json::json!({"host": "vault", "path": "x", "identity_file": "/dev/null"}));
        let tell = |text: &str| {
            let stderr = process::readable(text.as_bytes(), std::iter::empty());
            vault.ended(&stderr, false)
        };
        for (text, says) in [
            (
                "No ED25519 host key is known for vault and you have requested strict checking.\nHost key verification failed.",
                "is not known",
            ),
            (
                "@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
                "not the one that is expected",
            ),
            (
                "Unable to negotiate with 127.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa",
                "it offers ssh-rsa",
            ),
            ("backup@vault: Permission denied (publickey).", "/dev/null"),
            ("command-line: line 0: Bad configuration option: x", "refuses its configuration"),
            ("subsystem request failed on channel 0", "Subsystem sftp"),
        ] {
            let error = tell(text);
            assert!(matches!(&error, SftpError::Final(t) if t.contains(says)), "{error}");
        }
        for text in ["ssh: connect to host vault port 22: Connection refused", "Connection timed out", ""] {
            assert!(matches!(tell(text), SftpError::Lost(_)), "{text}");
        }
    }
}
