//! The forms a text value can have. The schema names them, the first pass checks them, messages quote
//! their examples: one table for all three.

use std::path::{Component, Path};

use chrono::format::{Item, StrftimeItems};

use crate::model::{ByteSize, JobName};
use crate::schedule::Schedule;

/// One form of text.
pub(super) struct TextKind {
    /// The word the schema marks it with.
    pub name: &'static str,
    /// What it is called in messages, after "expected".
    pub what: &'static str,
    /// A value that has the form.
    pub example: &'static str,
    /// Says what is wrong with a value; the message follows the value and a colon.
    pub check: fn(&str) -> Result<(), String>,
}

/// Every form; the schema's marker types are made from the same names.
pub(super) static KINDS: &[TextKind] = &[
    TextKind { name: "duration", what: "a duration", example: "1h 30m", check: duration },
    TextKind { name: "percent", what: "a percentage", example: "50%", check: percent },
    TextKind { name: "size", what: "a size", example: "10 GiB", check: size },
    TextKind { name: "time-zone", what: "an IANA time zone", example: "Europe/Berlin", check: zone },
    TextKind { name: "cron", what: "a crontab line", example: "0 3,11,19 * * *", check: cron },
    TextKind { name: "socket", what: "an address and port", example: "127.0.0.1:9736", check: socket },
    TextKind { name: "path", what: "an absolute path", example: "/var/backups", check: path },
    TextKind {
        name: "secret-file",
        what: "an absolute path",
        example: "/etc/backup-agent/smtp-password",
        check: path,
    },
    TextKind { name: "template", what: "a folder template", example: "daily/%Y/%m/%d/%H%M", check: template },
    TextKind { name: "smtp", what: "an SMTP address", example: "smtps://mail.example.org:465", check: smtp },
    TextKind {
        name: "http",
        what: "an https address",
        example: "https://hc-ping.example.org/uuid",
        check: http,
    },
    TextKind { name: "page", what: "a web address", example: "https://web1.example.org:9736/", check: page },
    TextKind { name: "mail", what: "an e-mail address", example: "admin@example.org", check: mail },
    TextKind { name: "name", what: "a name", example: "local", check: name },
];

/// The form with this name.
pub(super) fn kind(name: &str) -> Option<&'static TextKind> {
    KINDS.iter().find(|kind| kind.name == name)
}

fn duration(text: &str) -> Result<(), String> {
    super::duration::parse(text).map(drop)
}

fn percent(text: &str) -> Result<(), String> {
    super::percent::parse(text).map(drop)
}

fn size(text: &str) -> Result<(), String> {
    text.parse::<ByteSize>()
        .map(drop)
        .map_err(|_| "this is no number with a unit (kB, MB, GB, KiB, MiB, GiB …)".into())
}

fn zone(text: &str) -> Result<(), String> {
    super::timezone::parse(text).map(drop)
}

fn cron(text: &str) -> Result<(), String> {
    Schedule::parse(text).map(drop).map_err(|e| e.to_string())
}

fn socket(text: &str) -> Result<(), String> {
    text.parse::<std::net::SocketAddr>().map(drop).map_err(|_| "this is no IP address and port".into())
}

fn path(text: &str) -> Result<(), String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("the path must be absolute (start with /)".into());
    }
    // Paths are compared by their parts, to see that no target lies in a source of its own.
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("the path must not contain `..`".into());
    }
    if text.contains('\0') { Err("the path must not contain a NUL character".into()) } else { Ok(()) }
}

/// Folder of one backup below a target: strftime with `{job}` and `{host}`.
fn template(text: &str) -> Result<(), String> {
    let plain = text.replace("{job}", "job").replace("{host}", "host");
    if plain.contains(['{', '}']) {
        return Err("only {job} and {host} may stand in braces".into());
    }
    if plain.starts_with('/') {
        return Err("the template is a path below the target, so it must not start with /".into());
    }
    if let Some(part) = plain.split('/').find(|part| part.is_empty() || part.starts_with('.')) {
        return Err(match part {
            "" => "no part between slashes may be empty".into(),
            "." | ".." => format!("the part `{part}` leads nowhere below the target"),
            // `.partial-…` and `.expired-…` beside the backups are the agent's own.
            part => format!("the part `{part}` starts with a dot, which is kept for unfinished backups"),
        });
    }
    let sample = chrono::DateTime::UNIX_EPOCH;
    let mut rendered = String::new();
    for item in StrftimeItems::new(&plain) {
        if matches!(item, Item::Error) {
            return Err("it has a % sequence strftime does not know; write %% for a percent sign".into());
        }
        let items = std::iter::once(item);
        rendered.push_str(&sample.format_with_items(items).to_string());
    }
    match rendered.chars().find(|c| c.is_control()) {
        Some(_) => Err("it would put a control character into a folder name".into()),
        None => Ok(()),
    }
}

fn smtp(text: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(text).map_err(|e| e.to_string())?;
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err("the host is missing".into());
    };
    if url.password().is_some() {
        return Err("a password does not belong in the address; use password_file".into());
    }
    if !url.username().is_empty() {
        return Err("the login name does not belong in the address; use user".into());
    }
    let mut tls = None;
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "tls" => tls = Some(value.into_owned()),
            other => return Err(format!("unknown parameter `{other}`; only tls=required is known")),
        }
    }
    match (url.scheme(), tls.as_deref()) {
        ("smtps", None) | ("smtp", Some("required")) => Ok(()),
        ("smtp", None) if is_loopback(host) => Ok(()),
        ("smtp", None) => Err(format!(
            "mail to {host} would travel unencrypted; write smtp://{host}:587?tls=required or smtps://{host}:465 (no encryption is for loopback only)"
        )),
        ("smtp" | "smtps", Some(other)) => {
            Err(format!("tls={other} is not known; use tls=required, or smtps://"))
        }
        (scheme, _) => Err(format!("`{scheme}:` is not smtp: or smtps:")),
    }
}

/// True for a host name or address that never leaves this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn http(text: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(text).map_err(|e| e.to_string())?;
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => Ok(()),
        ("http", Some(host)) if is_loopback(host) => Ok(()),
        ("http", Some(_)) => {
            Err("the address would travel unencrypted; use https: (http: is for loopback only)".into())
        }
        (scheme, _) => Err(format!("`{scheme}:` is not https:")),
    }
}

/// The address of a page. It stands in messages, so a login has no place in it.
fn page(text: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(text).map_err(|e| e.to_string())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a login does not belong in the address: it stands in messages".into());
    }
    match (url.scheme(), url.host_str()) {
        ("https" | "http", Some(_)) => Ok(()),
        (scheme, _) => Err(format!("`{scheme}:` is not https: or http:")),
    }
}

fn mail(text: &str) -> Result<(), String> {
    text.parse::<lettre::message::Mailbox>().map(drop).map_err(|_| "this is no e-mail address".into())
}

/// Jobs, targets, sources and channels share one form of name.
fn name(text: &str) -> Result<(), String> {
    JobName::new(text)
        .map(drop)
        .map_err(|_| "a name has lower-case letters, digits, - and _, starts with a letter or digit, and has at most 64".into())
}

/// The candidate a person most likely meant: at most a third of its letters away, counting a swap of
/// neighbours as one.
pub(super) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = text.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with insertions, deletions, changes and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
