//! `agent target init`: preparing targets.

use anyhow::Result;
use serde_json::json;

use super::args::{Global, Target, TargetHostKey, TargetInit, TargetVerb};
use super::common::{self, UsageError};
use super::{code, output, scan};
use crate::config::{Config, Place, SftpPlace};
use crate::model::TargetName;
use crate::ops::sentinel::initialise;
use crate::target::SENTINEL_FILE;
use crate::target::remote::sftp::host_key::{self, HostKey};

pub fn target(global: &Global, args: &Target) -> Result<u8> {
    match &args.verb {
        TargetVerb::Init(args) => init(global, args),
        TargetVerb::Scan(args) => scan::scan(global, args),
        TargetVerb::HostKey(args) => host_key(global, args),
    }
}

fn init(global: &Global, args: &TargetInit) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::known_target(&config, Some(&args.name))?;
    let agent = common::open(global, config)?;
    let (host, template) = (agent.config.host_name(), agent.target(&args.name)?.template.clone());
    let done = initialise(&agent, &args.name, args.force)?;
    let path = agent.target(&args.name)?.address(SENTINEL_FILE);
    if args.json {
        output::json(&json!({
            "target": args.name, "file": path, "was_there": done.was_there, "sentinel": done.sentinel,
            "file_system": done.identity.file_system,
        }))?;
        return Ok(code::OK);
    }
    let made = match done.was_there {
        true => format!(
            "has the sentinel that {} made on {}",
            done.sentinel.host,
            done.sentinel.created.format("%Y-%m-%d")
        ),
        false => "has a sentinel now".to_owned(),
    };
    output::print(&format!(
        "target {} {made}: {}\nid {}, file system {}: from now on nothing is written or removed there unless both \
         are the same\n",
        args.name, path, done.sentinel.id, done.identity.file_system
    ));
    if done.was_there && done.sentinel.host != host && !template.contains("{host}") {
        output::warn(&format!(
            "{} uses this target too, and the template \"{template}\" has no {{host}}: the backups of both stand side \
             by side; with \"{{host}}/{template}\" in [target.{}] each host has a folder of its own",
            done.sentinel.host, args.name
        ));
    }
    Ok(code::OK)
}

fn host_key(global: &Global, args: &TargetHostKey) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::known_target(&config, Some(&args.name))?;
    let Place::Sftp(place) = &config.target[&args.name].place else {
        return Err(
            UsageError(format!("target {} has no host key: it is not of type sftp", args.name)).into()
        );
    };
    let keys = host_key::ask(place)?;
    let pinned = place.host_key.as_deref().map(host_key::parse).and_then(Result::ok);
    let is_pinned = |key: &HostKey| pinned.as_ref().is_some_and(|pinned| pinned.line() == key.line());
    if args.json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| json!({"type": key.kind, "key": key.base64, "fingerprint": key.fingerprint, "pinned": is_pinned(key)}))
            .collect();
        output::json(&json!({"target": args.name, "host": place.host, "keys": keys}))?;
        return Ok(code::OK);
    }
    output::print(&describe_keys(&args.name, place, &keys, &is_pinned));
    if pinned.is_some() && !keys.iter().any(is_pinned) {
        output::error(&anyhow::anyhow!("none of them is the one that is pinned in [target.{}]", args.name));
        return Ok(code::FAILURE);
    }
    Ok(code::OK)
}

fn describe_keys(
    name: &TargetName,
    place: &SftpPlace,
    keys: &[HostKey],
    is_pinned: &dyn Fn(&HostKey) -> bool,
) -> String {
    let mut text = format!(
        "{} shows these host keys. Whoever is in between could show others: compare the fingerprint with what the\n\
         server itself says, there: for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done\n\
         Then put one line, best the first, into {}:\n",
        place.host,
        match &place.known_hosts_file {
            Some(file) => file.display().to_string(),
            None => format!("[target.{name}]"),
        }
    );
    for key in keys {
        let pinned = if is_pinned(key) { "  (this one is pinned)" } else { "" };
        let line = match (&place.known_hosts_file, place.port.unwrap_or(22)) {
            (None, _) => format!("host_key = \"{}\"", key.line()),
            (Some(_), 22) => format!("{} {}", place.host, key.line()),
            (Some(_), port) => format!("[{}]:{port} {}", place.host, key.line()),
        };
        text.push_str(&format!("\n# {}{pinned}\n{line}\n", key.fingerprint));
    }
    text
}

/// The target that is meant when none is named.
pub(super) fn only_target(config: &Config) -> Result<TargetName> {
    let mut names = config.target.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.clone()),
        (None, _) => Err(UsageError("the configuration has no target".to_owned()).into()),
        _ => {
            let names: Vec<&str> = config.target.keys().map(TargetName::as_str).collect();
            Err(UsageError(format!("which target? Name one: {}", names.join(", "))).into())
        }
    }
}
