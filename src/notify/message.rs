//! From facts to a finished message. Pure: the same facts give the same message.
//!
//! A [`Rendered`] message is what the outbox keeps; nothing is rendered at the time of sending but the
//! notice that it comes late.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::body;
use super::facts::{AgentFacts, CheckFacts, DigestFacts, RunFacts, Streak, TestFacts, VerifyFacts};
use super::transitions::RunEnd;
use super::{html, notices, phone, text, verified};
use crate::model::{InvalidValue, JobName, Outcome, RunId};

/// Longest subject, in characters.
pub const SUBJECT_LIMIT: usize = 150;
/// Longest label, in characters.
const LABEL_LIMIT: usize = 40;
/// A message that waited longer than this says so. Prometheus waits as long before it tells that nobody
/// was mailed.
pub const LATE_AFTER: Duration = Duration::from_secs(15 * 60);

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// There is no new backup.
    Failure,
    /// A backup was kept, but something could not be read.
    Partial,
    /// The backup is good; a copy, retention or a further verification failed.
    Degraded,
    /// A run died or was ended.
    Interrupted,
    /// Good again.
    Recovery,
    /// A good run, where each one is told.
    Success,
    /// The good runs of a day.
    Digest,
    /// A failure that lasts.
    Reminder,
    /// Somebody tries the channel.
    Test,
    /// What `agent check --mail` found.
    Check,
    /// Something about the agent itself: its configuration, its state, the clock.
    Agent,
    /// A stored copy was read back and is damaged.
    Verify,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 12] = [
        Kind::Failure,
        Kind::Partial,
        Kind::Degraded,
        Kind::Interrupted,
        Kind::Recovery,
        Kind::Success,
        Kind::Digest,
        Kind::Reminder,
        Kind::Test,
        Kind::Check,
        Kind::Agent,
        Kind::Verify,
    ];

    /// The word stored for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Failure => "failure",
            Kind::Partial => "partial",
            Kind::Degraded => "degraded",
            Kind::Interrupted => "interrupted",
            Kind::Recovery => "recovery",
            Kind::Success => "success",
            Kind::Digest => "digest",
            Kind::Reminder => "reminder",
            Kind::Test => "test",
            Kind::Check => "check",
            Kind::Agent => "agent",
            Kind::Verify => "verify",
        }
    }

    /// The kind that tells an outcome which is no success; `None` for good ones.
    pub fn of_bad(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Success | Outcome::Warning => None,
            Outcome::Partial => Some(Kind::Partial),
            Outcome::Failure => Some(Kind::Failure),
            Outcome::Interrupted => Some(Kind::Interrupted),
        }
    }

    /// True for those that tell a trouble, so that a recovery follows them.
    pub fn is_trouble(self) -> bool {
        matches!(self, Kind::Failure | Kind::Partial | Kind::Degraded | Kind::Interrupted | Kind::Reminder)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Kind::ALL.into_iter().find(|k| k.as_str() == value).ok_or_else(|| InvalidValue {
            value: value.to_owned(),
            expected: "a kind of message (failure, partial, degraded, interrupted, recovery, success, digest, \
                       reminder, test, check, agent, verify)",
        })
    }
}

/// What stands in brackets at the start of a subject, and in `X-Backup-Agent-Label`; `backup-failure` and
/// so on where nothing else is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<Kind, String>);

impl Labels {
    /// Labels by the name of their kind. Names that are no kind are an error; texts are made one short
    /// line without brackets.
    pub fn new<'a>(by_name: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, InvalidValue> {
        let mut labels = BTreeMap::new();
        for (name, label) in by_name {
            let label = text::line(label, LABEL_LIMIT).replace(['[', ']'], "");
            labels.insert(name.parse::<Kind>()?, label);
        }
        Ok(Self(labels))
    }

    /// The label of a kind.
    pub fn get(&self, kind: Kind) -> String {
        match self.0.get(&kind) {
            Some(label) if !label.is_empty() => label.clone(),
            _ => format!("backup-{kind}"),
        }
    }
}

/// What is to be said.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// One run; `streak` is the row of bad runs it ends or continues. `kind` is one of failure, partial,
    /// degraded, interrupted, recovery, success, reminder.
    Run(Kind, &'a RunFacts, Option<&'a Streak>),
    /// The good runs of a day.
    Digest(&'a DigestFacts),
    /// The health checks.
    Check(&'a CheckFacts),
    /// A try.
    Test(&'a TestFacts),
    /// The agent itself.
    Agent(&'a AgentFacts),
    /// A stored copy that was read back: damaged, or whole again.
    Verify(&'a VerifyFacts),
}

impl Content<'_> {
    /// The kind of message this becomes.
    pub fn kind(&self) -> Kind {
        match self {
            Content::Run(kind, ..) => *kind,
            Content::Digest(_) => Kind::Digest,
            Content::Check(_) => Kind::Check,
            Content::Test(_) => Kind::Test,
            Content::Agent(_) => Kind::Agent,
            Content::Verify(facts) => {
                if facts.ok {
                    Kind::Recovery
                } else {
                    Kind::Verify
                }
            }
        }
    }

    /// The job it is about.
    pub fn job(&self) -> Option<&JobName> {
        match self {
            Content::Run(_, facts, _) => Some(&facts.job),
            Content::Verify(facts) => Some(&facts.job),
            _ => None,
        }
    }

    /// The run it is about.
    pub fn run_id(&self) -> Option<&RunId> {
        match self {
            Content::Run(_, facts, _) => Some(&facts.run_id),
            Content::Verify(facts) => Some(&facts.run_id),
            _ => None,
        }
    }

    /// The zone its times are shown in.
    pub fn timezone(&self) -> Tz {
        match self {
            Content::Run(_, facts, _) => facts.timezone,
            Content::Digest(facts) => facts.timezone,
            Content::Check(facts) => facts.timezone,
            Content::Test(facts) => facts.timezone,
            Content::Agent(facts) => facts.timezone,
            Content::Verify(facts) => facts.timezone,
        }
    }

    /// How the program is called on this host.
    pub fn command(&self) -> &str {
        match self {
            Content::Run(_, facts, _) => &facts.command,
            Content::Digest(facts) => &facts.command,
            Content::Check(facts) => &facts.command,
            Content::Test(_) => "agent",
            Content::Agent(facts) => &facts.command,
            Content::Verify(facts) => &facts.command,
        }
    }

    /// The host it is about.
    pub fn host(&self) -> &str {
        match self {
            Content::Verify(facts) => &facts.host,
            Content::Run(_, facts, _) => &facts.host,
            Content::Digest(facts) => &facts.host,
            Content::Check(facts) => &facts.host,
            Content::Test(facts) => &facts.host,
            Content::Agent(facts) => &facts.host,
        }
    }
}

/// A finished message, still without sender, receiver and date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// What it is about.
    pub kind: Kind,
    /// The subject: one line, at most [`SUBJECT_LIMIT`] characters, no control characters.
    pub subject: String,
    /// The body for people who read plain text.
    pub text: String,
    /// The body for everybody else.
    pub html: String,
    /// Further headers, names and values; values are one line of ASCII or encoded when sent.
    pub headers: Vec<(String, String)>,
    /// A name for what the message says, the same when the same is rendered again; part of the Message-ID.
    pub key: String,
    /// What the channel needs beside the texts: the message as data for a webhook, what a switch is told
    /// for a ping.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

/// How a message is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Plain text of the usual width, and HTML.
    Mail,
    /// Plain text only.
    Plain,
    /// A title without label, and a short text whose lines the screen wraps.
    Phone,
}

/// Renders a message as mail. `now` is the time it is made: ages and waits in it count from there.
pub fn render(content: Content<'_>, labels: &Labels, now: DateTime<Utc>) -> Rendered {
    render_as(Layout::Mail, content, labels, now)
}

/// Renders a message.
pub fn render_as(layout: Layout, content: Content<'_>, labels: &Labels, now: DateTime<Utc>) -> Rendered {
    let kind = content.kind();
    let label = labels.get(kind);
    let host = text::line(content.host(), 64);
    let (about, body) = match content {
        Content::Run(kind, facts, streak) => {
            let about = format!("{} on {host}: {}", facts.job, body::run_summary(kind, facts, streak, now));
            (about, body::run(kind, facts, streak, now))
        }
        Content::Digest(facts) => {
            (format!("{host}: {}", notices::digest_summary(facts)), notices::digest(facts, now))
        }
        Content::Check(facts) => {
            (format!("{host}: {}", notices::check_summary(facts)), notices::check(facts))
        }
        Content::Test(facts) => (format!("{host}: a test, nothing is wrong"), notices::test(facts)),
        Content::Agent(facts) => (format!("{host}: {}", facts.title), notices::agent(facts)),
        Content::Verify(facts) => {
            (format!("{} on {host}: {}", facts.job, verified::summary(facts)), verified::body(facts, now))
        }
    };
    let mut headers = vec![
        ("X-Backup-Agent-Label".to_owned(), label.clone()),
        ("X-Backup-Agent-Kind".to_owned(), kind.to_string()),
        ("X-Backup-Agent-Host".to_owned(), host.clone()),
        ("Auto-Submitted".to_owned(), "auto-generated".to_owned()),
        ("X-Auto-Response-Suppress".to_owned(), "All".to_owned()),
    ];
    let stamp = now.format("%Y%m%dT%H%M%SZ");
    let key = match content {
        Content::Run(kind, facts, streak) => {
            headers.push(("X-Backup-Agent-Job".to_owned(), facts.job.to_string()));
            headers.push(("X-Backup-Agent-Run".to_owned(), facts.run_id.to_string()));
            if let Some(streak) = streak {
                // All mails about one trouble name the same ancestor, so that mail programs show them
                // as one conversation.
                let root = format!("<{}.trouble.{}@{}>", facts.job, streak.since.timestamp(), id_text(&host));
                headers.push(("References".to_owned(), root));
            }
            match kind {
                // A reminder is told again and again about the same run.
                Kind::Reminder => format!("{}.{kind}.{stamp}", facts.run_id),
                // A run can end a failure at its end, and a degradation of its own later.
                Kind::Recovery if streak.is_some_and(|s| s.outcome.is_good()) => {
                    format!("{}.mended", facts.run_id)
                }
                // Copies can fail one after the other; each new degradation is told.
                Kind::Degraded => {
                    let end = RunEnd {
                        outcome: facts.outcome,
                        step: None,
                        component: None,
                        degraded: facts.degraded.clone(),
                        open: false,
                    };
                    format!(
                        "{}.{kind}.{}",
                        facts.run_id,
                        short_hash(&format!("{:?}", BTreeSet::from_iter(end.troubles())))
                    )
                }
                _ => format!("{}.{kind}", facts.run_id),
            }
        }
        // What lasts is told once a day, however often it is found.
        Content::Check(facts) => {
            let found: BTreeSet<_> = facts.findings.iter().map(|f| (&f.status, &f.job, &f.check)).collect();
            format!(
                "{}.{kind}.{}.{}",
                now.format("%Y%m%d"),
                short_hash(&format!("{found:?}")),
                id_text(&host)
            )
        }
        Content::Agent(facts) => {
            let about = format!("{}\n{}", facts.title, facts.details.join("\n"));
            format!("{}.{kind}.{}.{}", now.format("%Y%m%d"), short_hash(&about), id_text(&host))
        }
        Content::Verify(facts) => {
            headers.push(("X-Backup-Agent-Job".to_owned(), facts.job.to_string()));
            headers.push(("X-Backup-Agent-Run".to_owned(), facts.run_id.to_string()));
            verified::key(facts)
        }
        Content::Digest(_) | Content::Test(_) => format!("{stamp}.{kind}.{}", id_text(&host)),
    };
    let subject = match layout {
        Layout::Phone => about,
        Layout::Mail | Layout::Plain => format!("[{label}] {about}"),
    };
    Rendered {
        kind,
        subject: text::line(&subject, SUBJECT_LIMIT),
        text: if layout == Layout::Phone { phone::render(&body) } else { text::render(&body) },
        html: if layout == Layout::Mail { html::render(&body) } else { String::new() },
        headers,
        key,
        data: serde_json::Value::Null,
    }
}

/// The Message-ID of a message to one receiver: always the same for the same message, channel and
/// receiver, so that a receiver who gets it twice can tell. `sender` gives the domain.
pub fn message_id(rendered: &Rendered, channel: &str, recipient: &str, sender: &str) -> String {
    let domain = sender.trim_end_matches('>').rsplit('@').next().unwrap_or("localhost");
    format!(
        "<{}.{}@{}>",
        id_text(&rendered.key),
        short_hash(&format!("{channel}\n{recipient}")),
        id_text(domain)
    )
}

fn short_hash(text: &str) -> String {
    use sha2::Digest as _;
    hex::encode(&sha2::Sha256::digest(text)[..6])
}

/// What may stand in a Message-ID: everything else becomes `-`.
fn id_text(value: &str) -> String {
    let kept: String = value
        .chars()
        .take(120)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
        .collect();
    // Empty atoms between dots are not allowed in a Message-ID.
    let atoms: Vec<&str> = kept.split('.').filter(|a| !a.is_empty()).collect();
    if atoms.is_empty() { "localhost".to_owned() } else { atoms.join(".") }
}

/// The notice for a message that was made at `created` and goes out `now`, `None` while it is not late.
/// `why` is the answer to the last attempt.
pub fn late_notice(created: DateTime<Utc>, now: DateTime<Utc>, why: Option<&str>) -> Option<String> {
    let waited = text::between(created, now);
    if waited < LATE_AFTER {
        return None;
    }
    let waited = text::span(waited);
    Some(match why {
        Some(why) => format!(
            "This message is {waited} late: it could not be delivered until now. The last attempt before \
             this one: {}",
            text::line(why, 240)
        ),
        None => format!("This message is {waited} late: nothing delivered it until now."),
    })
}

/// The bodies (text, HTML) with a notice put before everything else.
pub fn with_notice(plain: &str, html_body: &str, notice: &str) -> (String, String) {
    let notice = text::line(notice, 400);
    (
        format!("{}\n{plain}", text::paragraph(&format!("NOTE: {notice}"))),
        html::with_notice(html_body, &notice),
    )
}
