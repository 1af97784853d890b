//! A message as data: what a webhook gets as JSON, and what templates may speak of. One form for both.
//!
//! Every key is always there, `null` where it has no meaning, so that a template that names an unknown one
//! is wrong everywhere and not only on the day of a failure. Every text is made harmless and bounded.
//! Times stand twice: for programs (RFC 3339, UTC), and for people in the host's zone (`…_text`).

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use super::body::{SHOWN_LOG_LINES, SHOWN_WARNINGS, newest_verified};
use super::facts::{
    AgentFacts, CheckFacts, CopyFacts, DigestFacts, LastGood, RunFacts, Streak, TestFacts, VerifyFacts,
};
use super::message::{Content, Kind};
use super::text::{between, line, lines, moment, verbatim};
use crate::model::WarningKind;

/// What stands beside the facts themselves.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What stands in brackets in subjects.
    pub label: &'a str,
    /// The built-in subject.
    pub subject: &'a str,
    /// The built-in text.
    pub text: &'a str,
    /// Where people reach the status page.
    pub status_url: Option<&'a str>,
}

/// How much a message matters.
pub fn severity(kind: Kind) -> &'static str {
    match kind {
        Kind::Failure
        | Kind::Partial
        | Kind::Interrupted
        | Kind::Reminder
        | Kind::Check
        | Kind::Agent
        | Kind::Verify => "critical",
        Kind::Degraded => "warning",
        Kind::Recovery | Kind::Success | Kind::Digest => "ok",
        Kind::Test => "info",
    }
}

/// The page a message is about, where the status page can be reached.
pub fn link(status_url: Option<&str>, content: &Content<'_>) -> Option<String> {
    let base = status_url?.trim_end_matches('/');
    Some(match content.run_id() {
        Some(run) => format!("{base}/runs/{run}"),
        None => format!("{base}/"),
    })
}

/// The message as data.
pub fn of(content: &Content<'_>, frame: Frame<'_>, now: DateTime<Utc>) -> Value {
    let kind = content.kind();
    // A reminder of a degradation is a warning, like what it reminds of.
    let severity = match content {
        Content::Run(Kind::Reminder, facts, _) if facts.outcome.is_good() => severity(Kind::Degraded),
        _ => severity(kind),
    };
    let (run, streak) = match content {
        Content::Run(_, facts, streak) => {
            (run(facts, now), streak.map_or(Value::Null, |s| streak_view(s, facts.timezone)))
        }
        _ => (Value::Null, Value::Null),
    };
    let only = |value: Option<Value>| value.unwrap_or(Value::Null);
    json!({
        "kind": kind.as_str(),
        "severity": severity,
        "label": frame.label,
        "host": line(content.host(), 64),
        "job": content.job().map(|job| job.as_str()),
        "run_id": content.run_id().map(|run| run.as_str()),
        "created": stamp(now),
        "created_text": moment(now, content.timezone()),
        "subject": frame.subject,
        "text": frame.text,
        "command": line(content.command(), 200),
        "status_url": frame.status_url,
        "link": link(frame.status_url, content),
        "run": run,
        "streak": streak,
        "digest": only(if let Content::Digest(facts) = content { Some(digest(facts, now)) } else { None }),
        "check": only(if let Content::Check(facts) = content { Some(check(facts)) } else { None }),
        "verify": only(if let Content::Verify(facts) = content { Some(verify(facts)) } else { None }),
        "agent": only(if let Content::Agent(facts) = content { Some(agent(facts)) } else { None }),
        "test": only(if let Content::Test(facts) = content { Some(test(facts)) } else { None }),
    })
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn run(facts: &RunFacts, now: DateTime<Utc>) -> Value {
    let zone = facts.timezone;
    let counts: serde_json::Map<String, Value> = WarningKind::COUNTED
        .iter()
        .map(|kind| (kind.as_str().to_owned(), facts.warning_counts.get(*kind).into()))
        .collect();
    let first_warnings: Vec<Value> = facts
        .first_warnings
        .iter()
        .take(SHOWN_WARNINGS)
        .map(|w| {
            json!({ "kind": w.kind.as_str(), "path": line(&w.path.display(), 200), "detail": line(&w.detail, 200) })
        })
        .collect();
    let components: Vec<Value> = facts
        .components
        .iter()
        .take(30)
        .map(|c| {
            json!({
                "name": c.name.as_str(), "source_bytes": c.source_bytes, "stored_bytes": c.stored_bytes,
                "entries": c.entries, "warnings": c.warning_counts.total(),
            })
        })
        .collect();
    let skip = facts.log_tail.len().saturating_sub(SHOWN_LOG_LINES);
    json!({
        "outcome": facts.outcome.as_str(),
        "started": stamp(facts.started),
        "started_text": moment(facts.started, zone),
        "ended": stamp(facts.ended),
        "ended_text": moment(facts.ended, zone),
        "duration_seconds": between(facts.started, facts.ended).as_secs(),
        "failed_step": facts.failed_step.map(|step| step.to_string()),
        "failed_component": facts.failed_component.as_ref().map(|c| c.as_str()),
        "error": facts.error.as_deref().map(|error| lines(error, 12).join("\n")),
        "degraded": facts.degraded.iter().take(20).map(|text| line(text, 400)).collect::<Vec<_>>(),
        "source_bytes": facts.components.iter().map(|c| c.source_bytes).sum::<u64>(),
        "stored_bytes": facts.components.iter().map(|c| c.stored_bytes).sum::<u64>(),
        "warnings_total": facts.warning_counts.total(),
        "warnings": counts,
        "first_warnings": first_warnings,
        "components": components,
        "copies": facts.copies.iter().take(30).map(copy).collect::<Vec<_>>(),
        "newest_verified": last_good(&newest_verified(facts), zone, now),
        "next_run": facts.next_run.map(stamp),
        "next_run_text": facts.next_run.map(|at| moment(at, zone)),
        "log_tail": facts.log_tail[skip..].iter().map(|l| verbatim(l)).collect::<Vec<_>>(),
    })
}

fn copy(copy: &CopyFacts) -> Value {
    json!({
        "target": copy.target.as_str(),
        "state": line(&copy.state, 40),
        "detail": copy.detail.as_deref().map(|d| line(d, 300)),
    })
}

/// `null` for none; `known` is false when the agent could not read its state.
fn last_good(newest: &LastGood, zone: Tz, now: DateTime<Utc>) -> Value {
    match newest {
        LastGood::Backup(b) => json!({
            "known": true,
            "run_id": b.run_id.as_str(),
            "taken": stamp(b.taken),
            "taken_text": moment(b.taken, zone),
            "age_seconds": between(b.taken, now).as_secs(),
            "target": b.target.as_str(),
            "location": b.location.as_deref().map(|l| line(l, 300)),
        }),
        LastGood::Unread(_) | LastGood::Nothing => Value::Null,
        LastGood::Unknown => json!({
            "known": false, "run_id": null, "taken": null, "taken_text": null, "age_seconds": null,
            "target": null, "location": null,
        }),
    }
}

fn streak_view(streak: &Streak, zone: Tz) -> Value {
    json!({
        "since": stamp(streak.since),
        "since_text": moment(streak.since, zone),
        "runs": streak.runs,
        "outcome": streak.outcome.as_str(),
        "step": streak.step.map(|step| step.to_string()),
        "component": streak.component.as_ref().map(|c| c.as_str()),
        "error": streak.error.as_deref().map(|error| line(error, 300)),
        "told": streak.told,
    })
}

fn digest(facts: &DigestFacts, now: DateTime<Utc>) -> Value {
    let zone = facts.timezone;
    let jobs: Vec<Value> = facts
        .jobs
        .iter()
        .map(|job| {
            json!({
                "job": job.job.as_str(),
                "good_runs": job.good_runs,
                "bad_runs": job.bad_runs,
                "last_good": job.last_good.map(stamp),
                "last_good_text": job.last_good.map(|at| moment(at, zone)),
                "stored_bytes": job.stored_bytes,
                "warnings": job.warnings,
                "newest_verified": last_good(&job.newest_verified, zone, now),
                "notes": job.notes.iter().take(10).map(|n| line(n, 300)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "from": stamp(facts.from), "from_text": moment(facts.from, zone),
        "until": stamp(facts.until), "until_text": moment(facts.until, zone),
        "jobs": jobs,
    })
}

fn check(facts: &CheckFacts) -> Value {
    let findings: Vec<Value> = facts
        .findings
        .iter()
        .take(50)
        .map(|f| {
            json!({
                "status": line(&f.status, 20), "job": f.job.as_ref().map(|job| job.as_str()),
                "check": line(&f.check, 40), "text": line(&f.text, 400),
            })
        })
        .collect();
    json!({ "status": line(&facts.status, 20), "findings": findings })
}

fn verify(facts: &VerifyFacts) -> Value {
    json!({
        "ok": facts.ok,
        "target": facts.target.as_str(),
        "location": line(&facts.location, 300),
        "taken": stamp(facts.taken),
        "taken_text": moment(facts.taken, facts.timezone),
        "problems": facts.problems.iter().take(20).map(|p| line(p, 400)).collect::<Vec<_>>(),
        "newest_verified": last_good(&facts.newest_verified, facts.timezone, facts.at),
    })
}

fn agent(facts: &AgentFacts) -> Value {
    let details: Vec<String> =
        facts.details.iter().flat_map(|d| lines(d, 10)).take(SHOWN_LOG_LINES).collect();
    json!({
        "title": line(&facts.title, 200),
        "meaning": line(&facts.meaning, 600),
        "details": details,
        "advice": facts.advice.as_deref().map(|a| line(a, 600)),
    })
}

fn test(facts: &TestFacts) -> Value {
    json!({ "channel": facts.channel.as_str(), "tells": line(&facts.tells, 200) })
}
