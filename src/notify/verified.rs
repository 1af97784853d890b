//! What is said when a stored copy was read back: that it is damaged, or that it is whole again.

use chrono::{DateTime, Utc};

use super::body::{Block, Body, Section, Tone, footer, para, section};
use super::facts::{LastGood, VerifyFacts};
use super::text::{between, line, moment, span};
use crate::model::plural;

/// The subject's part.
pub fn summary(facts: &VerifyFacts) -> String {
    let taken = moment(facts.taken, facts.timezone);
    if facts.ok {
        return format!("the backup of {taken} at {} is whole again", facts.target);
    }
    let problem = facts.problems.first().map(|p| format!(": {}", line(p, 200))).unwrap_or_default();
    format!("the backup of {taken} at {} is damaged{problem}", facts.target)
}

/// A name for the discovery: the same until the result is recorded, another one for the next discovery.
pub fn key(facts: &VerifyFacts) -> String {
    let what = if facts.ok { "whole" } else { "damaged" };
    let before = facts.before.map_or(0, |at| at.timestamp_millis());
    format!("{}{what}.{before}", prefix(facts))
}

/// How the keys of all messages about one copy begin.
pub fn prefix(facts: &VerifyFacts) -> String {
    format!("{}.verify.{}.", facts.run_id, facts.target)
}

/// The message.
pub fn body(facts: &VerifyFacts, now: DateTime<Utc>) -> Body {
    let (job, host, zone) = (&facts.job, line(&facts.host, 64), facts.timezone);
    let command = line(&facts.command, 200);
    let taken = moment(facts.taken, zone);
    let rows = vec![
        ("Backup", format!("{} of {taken}", facts.run_id)),
        ("Stored at", format!("{}, {}", facts.target, line(&facts.location, 300))),
        ("Read back", moment(facts.at, zone)),
    ];
    let mut first = vec![Block::Facts(rows)];
    let mut sections = Vec::new();
    let (tone, headline) = if facts.ok {
        first.push(para("It was damaged when it was read back before, and is as it was written now."));
        (Tone::Good, format!("The backup of {job} on {host} of {taken} at {} is whole again.", facts.target))
    } else {
        first.push(para(format!("{}:", plural(facts.problems.len() as u64, "problem", "problems"))));
        first.push(Block::List(facts.problems.iter().take(20).map(|p| line(p, 400)).collect()));
        (
            Tone::Bad,
            format!(
                "The backup of {job} on {host} of {taken} at {} is damaged: it is not what was written.",
                facts.target
            ),
        )
    };
    sections.push(Section { title: None, blocks: first });
    if !facts.ok {
        sections.push(section(
            "What is still good",
            vec![para(match &facts.newest_verified {
                LastGood::Backup(b) => format!(
                    "The newest backup that was read back and found good is {} old: {}, at {}{}.",
                    span(between(b.taken, now)),
                    b.run_id,
                    b.target,
                    b.location.as_deref().map(|l| format!(" ({})", line(l, 200))).unwrap_or_default()
                ),
                LastGood::Unread(b) => format!(
                    "Perhaps: the newest other backup is {} old: {}, at {}{}; it was never read back.",
                    span(between(b.taken, now)),
                    b.run_id,
                    b.target,
                    b.location.as_deref().map(|l| format!(" ({})", line(l, 200))).unwrap_or_default()
                ),
                LastGood::Nothing => {
                    "NOTHING: no other backup of this job was read back and found good.".to_owned()
                }
                LastGood::Unknown => "Unknown: the agent could not read its own state.".to_owned(),
            })],
        ));
        let what = "The damaged copy counts for nothing from now on: nothing is restored from it, and retention \
                    does not count it. Disk, memory or controller may be failing: look at `dmesg -T` and \
                    `smartctl -a`, and read the other copies back too.";
        sections.push(section(
            "What to do",
            vec![
                para(what),
                Block::Commands(vec![
                    (
                        format!("Read the others back (on {host}):"),
                        format!("{command} verify {} --deep", facts.run_id),
                    ),
                    ("Make a fresh backup:".to_owned(), format!("{command} backup {job}")),
                    ("See everything that can be restored:".to_owned(), format!("{command} list")),
                ]),
            ],
        ));
    }
    Body { tone, headline, sections, footer: footer(&facts.host, &facts.command) }
}
