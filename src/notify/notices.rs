//! What messages say that are about no single run: digests, health checks, the agent itself, a try.

use chrono::{DateTime, Utc};

use super::body::{Block, Body, SHOWN_LOG_LINES, Section, Tone, footer, para, section};
use super::facts::{AgentFacts, CheckFacts, DigestFacts, FindingFacts, LastGood, TestFacts};
use super::text::{between, line, lines, moment, span};
use crate::model::{ByteSize, plural};

/// The subject's part of a digest.
pub fn digest_summary(facts: &DigestFacts) -> String {
    let good: u64 = facts.jobs.iter().map(|j| j.good_runs).sum();
    let bad: u64 = facts.jobs.iter().map(|j| j.bad_runs).sum();
    let jobs = facts.jobs.len() as u64;
    match bad {
        0 => format!("{} of {} good", plural(good, "backup", "backups"), plural(jobs, "job", "jobs")),
        _ => format!(
            "{} good, {bad} not, of {}",
            plural(good, "backup", "backups"),
            plural(jobs, "job", "jobs")
        ),
    }
}

/// The digest of a day.
pub fn digest(facts: &DigestFacts, now: DateTime<Utc>) -> Body {
    let zone = facts.timezone;
    let bad: u64 = facts.jobs.iter().map(|j| j.bad_runs).sum();
    let mut sections = vec![Section {
        title: None,
        blocks: vec![para(format!("From {} to {}.", moment(facts.from, zone), moment(facts.until, zone)))],
    }];
    for job in &facts.jobs {
        let mut rows = vec![(
            "Runs",
            match job.bad_runs {
                0 => format!("{} good", job.good_runs),
                n => format!("{} good, {n} not", job.good_runs),
            },
        )];
        rows.push((
            "Last good",
            match job.last_good {
                Some(at) => format!("{}, {} stored", moment(at, zone), ByteSize(job.stored_bytes)),
                None => "none yet".to_owned(),
            },
        ));
        rows.push((
            "Verified",
            match &job.newest_verified {
                LastGood::Backup(b) => {
                    format!("{}, {} old, at {}", b.run_id, span(between(b.taken, now)), b.target)
                }
                LastGood::Unread(b) => {
                    format!("none was read back; the newest of {}, at {}", moment(b.taken, zone), b.target)
                }
                LastGood::Nothing => "NOTHING: no verified backup exists".to_owned(),
                LastGood::Unknown => "unknown: the state could not be read".to_owned(),
            },
        ));
        if job.warnings > 0 {
            rows.push((
                "Warnings",
                plural(
                    job.warnings,
                    "file changed or vanished while read",
                    "files changed or vanished while read",
                ),
            ));
        }
        let mut blocks = vec![para(format!("Job {}", job.job)), Block::Facts(rows)];
        if !job.notes.is_empty() {
            blocks.push(Block::List(job.notes.iter().take(10).map(|n| line(n, 300)).collect()));
        }
        sections.push(Section { title: None, blocks });
    }
    let command = line(&facts.command, 200);
    sections.push(section(
        "More",
        vec![Block::Commands(vec![("All runs:".to_owned(), format!("{command} history"))])],
    ));
    Body {
        tone: if bad == 0 { Tone::Good } else { Tone::Middling },
        headline: format!("Backups on {}: {}.", line(&facts.host, 64), digest_summary(facts)),
        sections,
        footer: footer(&facts.host, &facts.command),
    }
}

/// The subject's part of a check.
pub fn check_summary(facts: &CheckFacts) -> String {
    let status = line(&facts.status, 20);
    let wrong: Vec<_> = facts.findings.iter().filter(|f| f.status != "OK").collect();
    match wrong.as_slice() {
        [] => format!("{status}, all backups are fine"),
        [one] => format!("{status}, {}", finding(one)),
        [first, rest @ ..] => format!("{status}, {} (and {} more)", finding(first), rest.len()),
    }
}

fn finding(finding: &FindingFacts) -> String {
    let text = line(&finding.text, 400);
    match &finding.job {
        Some(job) => format!("{job}: {text}"),
        None => text,
    }
}

/// What the health checks found.
pub fn check(facts: &CheckFacts) -> Body {
    let items: Vec<String> =
        facts.findings.iter().take(50).map(|f| format!("{}: {}", line(&f.status, 20), finding(f))).collect();
    let command = line(&facts.command, 200);
    let look = vec![
        ("The same again:".to_owned(), format!("{command} check")),
        ("All jobs:".to_owned(), format!("{command} status")),
    ];
    Body {
        tone: match facts.status.as_str() {
            "OK" => Tone::Good,
            "WARNING" => Tone::Middling,
            _ => Tone::Bad,
        },
        headline: format!("Backup check on {}: {}.", line(&facts.host, 64), line(&facts.status, 20)),
        sections: vec![
            Section {
                title: None,
                blocks: vec![
                    para(format!("Checked on {}.", moment(facts.at, facts.timezone))),
                    Block::List(items),
                ],
            },
            section("Look closer", vec![Block::Commands(look)]),
        ],
        footer: footer(&facts.host, &facts.command),
    }
}

/// A try of a channel.
pub fn test(facts: &TestFacts) -> Body {
    Body {
        tone: Tone::Plain,
        headline: format!("This is a test from backup-agent on {}. Nothing is wrong.", line(&facts.host, 64)),
        sections: vec![Section {
            title: None,
            blocks: vec![
                para("If you can read this, the messages about backups of this host reach you."),
                Block::Facts(vec![
                    ("Channel", facts.channel.to_string()),
                    ("Tells about", line(&facts.tells, 200)),
                    ("Sent", moment(facts.at, facts.timezone)),
                ]),
            ],
        }],
        footer: footer(&facts.host, "agent"),
    }
}

/// Something about the agent itself.
pub fn agent(facts: &AgentFacts) -> Body {
    let mut blocks = vec![para(line(&facts.meaning, 600))];
    if !facts.details.is_empty() {
        let details = facts.details.iter().flat_map(|d| lines(d, 10)).take(SHOWN_LOG_LINES).collect();
        blocks.push(Block::Lines(details));
    }
    blocks.push(Block::Facts(vec![("Noticed", moment(facts.at, facts.timezone))]));
    let mut sections = vec![Section { title: None, blocks }];
    if let Some(advice) = &facts.advice {
        sections.push(section("What to do", vec![para(line(advice, 600))]));
    }
    Body {
        tone: Tone::Bad,
        headline: format!("backup-agent on {}: {}.", line(&facts.host, 64), line(&facts.title, 200)),
        sections,
        footer: footer(&facts.host, &facts.command),
    }
}
