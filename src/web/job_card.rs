//! One job on the landing page.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::html::{ago, esc, when};
use super::page::class;
use super::{RunProgress, View};
use crate::config::{JobConfig, Trigger};
use crate::health::{self, Finding, since, words};
use crate::model::{ByteSize, JobName, Outcome};
use crate::state::{HealthStatus, JobState, JobTargetState, Run, RunBrief};

/// Appends the card of a job; `findings` are its own.
pub(super) fn render(out: &mut String, view: &View, name: &JobName, job: &JobConfig, findings: &[&Finding]) {
    let tz = view.config.job_timezone(job);
    let state = view.snapshot.job(name);
    let running = state
        .and_then(|state| state.running.as_ref())
        .filter(|run| !view.extra.dead_runs.contains(&run.run_id));
    let (status, word) = verdict(view.now, state, findings);
    let _ =
        write!(out, "<article class=\"card {status}\"><header><h3>{}</h3><span class=\"pills\">", esc(name));
    if running.is_some() {
        out.push_str("<span class=\"pill running\">running</span> ");
    }
    let _ = writeln!(out, "<span class=\"pill {status}\">{word}</span></span></header>");
    if let Some(run) = running {
        progress(out, run, view.progress.get(name), view.now);
    }
    facts(out, view, job, state, tz);
    if let Some(state) = state {
        history(out, &state.history, tz);
        backups(out, job, state, view.now, tz);
    }
    out.push_str("</article>\n");
}

/// The one word about a job, and its colour.
fn verdict(
    now: DateTime<Utc>,
    state: Option<&JobState>,
    findings: &[&Finding],
) -> (&'static str, &'static str) {
    let status = health::worst(findings.iter().map(|finding| finding.status));
    let bad = |check: &str| {
        findings.iter().any(|finding| finding.check == check && finding.status == HealthStatus::Critical)
    };
    let word = match status {
        _ if bad("overdue") => "overdue",
        _ if bad("last-outcome") => "failed",
        HealthStatus::Critical => "broken",
        HealthStatus::Warning => "warning",
        HealthStatus::Unknown => "unknown",
        HealthStatus::Ok => match state {
            // Nothing is wrong, but nothing is protected either: not the colour of good.
            Some(state) if state.row.paused_until.is_some_and(|until| until > now) => {
                return ("unknown", "paused");
            }
            Some(state) if state.last_success.is_none() => return ("unknown", "new"),
            _ => "good",
        },
    };
    (class(status), word)
}

fn progress(out: &mut String, run: &Run, progress: Option<&RunProgress>, now: DateTime<Utc>) {
    let step = run.step.map(|step| format!("{step}, ")).unwrap_or_default();
    let read = match progress {
        Some(RunProgress { source_bytes, expected_bytes: Some(expected) }) => {
            format!(", {} of about {}", ByteSize(*source_bytes), ByteSize(*expected))
        }
        Some(RunProgress { source_bytes, expected_bytes: None }) => {
            format!(", {} read", ByteSize(*source_bytes))
        }
        None => String::new(),
    };
    let text = format!("{step}for {}{read}", words(since(run.started, now)));
    out.push_str("<div class=\"progress\">");
    if let Some(ratio) = progress.and_then(RunProgress::ratio).or(run.progress) {
        let _ = write!(
            out,
            "<progress max=\"100\" value=\"{0:.0}\" aria-label=\"Progress\">{0:.0} %</progress>",
            ratio.clamp(0.0, 1.0) * 100.0
        );
    }
    let _ = writeln!(out, "<p>{}</p></div>", esc(text));
}

fn facts(out: &mut String, view: &View, job: &JobConfig, state: Option<&JobState>, tz: Tz) {
    let now = view.now;
    out.push_str("<dl>\n");
    let mut row = |term: &str, html: String| {
        let _ = writeln!(out, "<div><dt>{term}</dt><dd>{html}</dd></div>");
    };
    let success = state.and_then(|state| state.last_success.as_ref());
    let last = state.and_then(|state| state.last_run.as_ref());
    row(
        "Last success",
        success.map_or("never".to_owned(), |run| when(run.ended.unwrap_or(run.started), now, tz)),
    );
    if let Some(run) = last.filter(|run| !run.is_good()) {
        let outcome = run.outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
        let ended = when(run.ended.unwrap_or(run.started), now, tz);
        row("Last run", format!("{} {ended}", esc(outcome)));
    }
    let paused = state.and_then(|state| state.row.paused_until).filter(|until| *until > now);
    if let Some(until) = paused {
        row("Paused", format!("ends {}", when(until, now, tz)));
    }
    let by = match job.trigger {
        Trigger::Internal => "",
        Trigger::External => " <span class=\"exact\">by cron</span>",
    };
    row(
        "Next run",
        match health::next_run(&view.config, job, state.map(|state| &state.row), now) {
            Some(next) => format!("{}{by}", when(next, now, tz)),
            None => "only by hand".to_owned(),
        },
    );
    if let Some(run) = state.and_then(health::measured_run) {
        row(
            "Size",
            format!(
                "{} <span class=\"exact\">from {}</span>",
                esc(ByteSize(run.stored_bytes)),
                esc(ByteSize(run.source_bytes))
            ),
        );
    }
    if let Some(duration) = success.and_then(Run::duration) {
        row("Took", esc(words(duration)).to_string());
    }
    out.push_str("</dl>\n");
}

/// One mark a run, oldest first. Colour and height say the same; the sentence says it to those who see
/// neither.
fn history(out: &mut String, history: &[RunBrief], tz: Tz) {
    if history.is_empty() {
        return;
    }
    let good = history.iter().filter(|run| run.outcome.is_good()).count();
    let _ = write!(
        out,
        "<p class=\"history\" role=\"img\" aria-label=\"{good} of the last {} runs were good\">",
        history.len()
    );
    for run in history.iter().rev() {
        let class = match run.outcome {
            Outcome::Success | Outcome::Warning if run.degraded => "warning",
            Outcome::Success | Outcome::Warning => "ok",
            Outcome::Partial | Outcome::Interrupted => "warning",
            Outcome::Failure => "critical",
        };
        let degraded = if run.degraded { ", degraded" } else { "" };
        let title = format!("{}: {}{degraded}", health::moment(run.started, tz), run.outcome);
        let _ = write!(out, "<i class=\"{class}\" title=\"{}\"></i>", esc(title));
    }
    let _ = writeln!(out, "<span>{good} of {} good</span></p>", history.len());
}

fn backups(out: &mut String, job: &JobConfig, state: &JobState, now: DateTime<Utc>, tz: Tz) {
    let nothing = JobTargetState::default();
    out.push_str(
        "<div class=\"scroll\"><table><thead><tr><th>Stored at</th><th>Backups</th><th>Newest</th>\
         <th>Read back</th></tr></thead><tbody>\n",
    );
    for target in &job.targets {
        let at = state.targets.get(target).unwrap_or(&nothing);
        let mut kept = at.kept.to_string();
        if at.kept > 0 {
            let _ = write!(kept, " <span class=\"exact\">{}</span>", esc(ByteSize(at.kept_bytes)));
        }
        if at.pending > 0 {
            let _ = write!(kept, " <span class=\"pill warning\">{} to copy</span>", at.pending);
        }
        if at.corrupt > 0 {
            let _ = write!(kept, " <span class=\"pill critical\">{} damaged</span>", at.corrupt);
        }
        let read_back = match (at.last_verify, at.last_verify_ok) {
            (Some(_), Some(false)) => "<span class=\"pill critical\">damaged</span>".to_owned(),
            (Some(last), _) => ago(last, now, tz),
            (None, _) => "–".to_owned(),
        };
        let newest = at.newest.map_or("–".to_owned(), |newest| ago(newest, now, tz));
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{kept}</td><td>{newest}</td><td>{read_back}</td></tr>",
            esc(target)
        );
    }
    out.push_str("</tbody></table></div>\n");
}
