//! `agent target init`, `agent target scan`: preparing targets, and knowing what they hold without a state.

use std::sync::Arc;

use anyhow::Result;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::args::{Global, Target, TargetHostKey, TargetInit, TargetScan, TargetVerb};
use super::common::{self, UsageError};
use super::output::Table;
use super::{code, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Place, SftpPlace};
use crate::event::Progress;
use crate::model::{ByteSize, RunId, TargetName};
use crate::ops::isolate::At;
use crate::ops::scan::{self as scanning, Freshness, Known, freshness};
use crate::ops::sentinel::initialise;
use crate::state::{State, StateError};
use crate::target::remote::sftp::host_key::{self, HostKey};
use crate::target::{SENTINEL_FILE, Scan};

pub fn target(global: &Global, args: &Target) -> Result<u8> {
    match &args.verb {
        TargetVerb::Init(args) => init(global, args),
        TargetVerb::Scan(args) => scan(global, args),
        TargetVerb::HostKey(args) => host_key(global, args),
    }
}

/// Checks that a target named on the command line exists.
fn known_target(config: &Config, name: &TargetName) -> Result<()> {
    if config.target.contains_key(name) {
        return Ok(());
    }
    let names: Vec<&str> = config.target.keys().map(TargetName::as_str).collect();
    Err(UsageError(format!("there is no target {name} in the configuration; it has: {}", names.join(", ")))
        .into())
}

fn init(global: &Global, args: &TargetInit) -> Result<u8> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    known_target(&config, &args.name)?;
    let agent = common::open(global, config)?;
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
    Ok(code::OK)
}

fn host_key(global: &Global, args: &TargetHostKey) -> Result<u8> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    known_target(&config, &args.name)?;
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
         Then put one line, best the first, into [target.{name}]:\n",
        place.host
    );
    for key in keys {
        let pinned = if is_pinned(key) { "  (this one is pinned)" } else { "" };
        text.push_str(&format!("\n# {}{pinned}\nhost_key = \"{}\"\n", key.fingerprint, key.line()));
    }
    text
}

/// The target that is meant when none is named.
fn only_target(config: &Config) -> Result<TargetName> {
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

fn scan(global: &Global, args: &TargetScan) -> Result<u8> {
    let config = common::load(global, false)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let name = args.name.clone().map_or_else(|| only_target(&config), Ok)?;
    known_target(&config, &name)?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let (now, zone) = (SystemClock.now(), config.timezone);
    let (mut scan, known, adopted) = if args.adopt {
        let agent = common::open(global, config)?;
        let scan = scanning::scan(agent.at(&name, "")?, &progress)?;
        let known = scanning::known(Some(&agent.state), &name, &scan)?;
        let adopted = scanning::adopt(&agent, &name, &scan, args.host.as_deref())?;
        common::publish(&agent)?;
        (scan, known, Some(adopted))
    } else {
        // A state that is lost is what this is for.
        let state = match State::open_read_only(&config.state_dir) {
            Ok(state) => Some(state),
            Err(StateError::NotFound { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let expected = state.as_ref().map(|state| state.target_identity(&name)).transpose()?.flatten();
        let at = At::new(&name, &config.target[&name], "").expecting(expected);
        let scan = scanning::scan(at, &progress)?;
        let known = scanning::known(state.as_ref(), &name, &scan)?;
        (scan, known, None)
    };
    let mut shown = known.into_iter();
    let mut known = Vec::new();
    scan.found.retain(|found| {
        let known_as = shown.next().unwrap_or(Known::Unknown);
        let wanted = args.host.as_ref().is_none_or(|host| *host == found.host);
        if wanted {
            known.push(known_as);
        }
        wanted
    });
    let sums = freshness(&scan);
    if args.json {
        let backups: Vec<_> = scan
            .found
            .iter()
            .zip(&known)
            .map(|(found, known)| {
                let mut value = serde_json::to_value(found)?;
                value["known"] = json!(known.as_str());
                value["adopted"] = json!(adopted.as_ref().is_some_and(|runs| runs.contains(&found.run_id)));
                Ok(value)
            })
            .collect::<Result<_>>()?;
        output::json(&json!({
            "target": name, "backups": backups, "hosts": sums, "unread": scan.unread,
        }))?;
    } else {
        output::print(&describe(zone, &scan, &known, &sums, adopted.as_deref(), now));
    }
    for unread in &scan.unread {
        output::error(&anyhow::anyhow!("{}: {}", unread.location, unread.error));
    }
    Ok(if scan.unread.is_empty() { code::OK } else { code::FAILURE })
}

fn describe(
    zone: Tz,
    scan: &Scan,
    known: &[Known],
    sums: &[Freshness],
    adopted: Option<&[RunId]>,
    now: DateTime<Utc>,
) -> String {
    if scan.found.is_empty() {
        return "there are no backups\n".to_owned();
    }
    let local = |at: DateTime<Utc>| at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string();
    let mut table = Table::new(&["host", "job", "run", "taken", "outcome", "size", "state", "folder"]);
    for (found, known) in scan.found.iter().zip(known) {
        let state = match adopted {
            Some(runs) if runs.contains(&found.run_id) => "adopted",
            _ => known.as_str(),
        };
        table.row(vec![
            found.host.clone(),
            found.job.to_string(),
            found.run_id.to_string(),
            local(found.started),
            found.outcome.to_string(),
            ByteSize(found.stored_bytes).to_string(),
            state.to_owned(),
            found.location.clone(),
        ]);
    }
    let mut text = table.render(Some(6));
    let mut table = Table::new(&["host", "job", "backups", "size", "newest good", "age"]);
    for sum in sums {
        let age = |at: DateTime<Utc>| output::took((now - at).to_std().unwrap_or_default());
        table.row(vec![
            sum.host.clone(),
            sum.job.to_string(),
            sum.backups.to_string(),
            ByteSize(sum.bytes).to_string(),
            sum.newest_good.map_or("none".to_owned(), local),
            sum.newest_good.map_or("-".to_owned(), age),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(None));
    let new = known.iter().filter(|known| known.is_new()).count();
    match adopted {
        Some(runs) => text.push_str(&format!(
            "\n{} recorded as complete; one counts as verified once `agent verify ID` has read it back\n",
            counted(runs.len())
        )),
        None if new > 0 => text.push_str(&format!(
            "\n{} not known to the state; record those of this host with --adopt\n",
            counted(new)
        )),
        None => {}
    }
    text
}

/// `1 backup`, `3 backups`.
fn counted(number: usize) -> String {
    format!("{number} backup{}", if number == 1 { "" } else { "s" })
}
