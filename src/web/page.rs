//! The landing page: made whole on the server, without script, readable in a terminal browser and on a
//! phone.

use std::fmt::Write as _;

use super::html::{ago, esc};
use super::{View, job_card, style};
use crate::health::{self, Finding};
use crate::model::ByteSize;
use crate::state::{HealthStatus, Probe};

/// How often a browser that is left open asks again, in seconds.
const REFRESH: u32 = 60;

/// The page.
pub(super) fn render(view: &View) -> String {
    let findings = health::findings(&view.snapshot, &view.config, view.now, &view.extra);
    let status = health::worst(findings.iter().map(|finding| finding.status));
    let mut body = String::new();
    problems(&mut body, &findings);
    body.push_str("<section aria-labelledby=\"jobs\"><h2 id=\"jobs\">Jobs</h2>\n");
    if view.config.job.is_empty() {
        body.push_str("<p class=\"empty\">No job is configured: nothing is backed up.</p>\n");
    }
    body.push_str("<div class=\"cards\">\n");
    for (name, job) in &view.config.job {
        let own: Vec<&Finding> =
            findings.iter().filter(|finding| finding.job.as_ref() == Some(name)).collect();
        job_card::render(&mut body, view, name, job, &own);
    }
    body.push_str("</div></section>\n");
    targets(&mut body, view);
    let host = view.config.host_name();
    let headline =
        match (status, findings.iter().filter(|finding| finding.status != HealthStatus::Ok).count()) {
            (HealthStatus::Ok, _) => "Everything in order".to_owned(),
            (_, 1) => "1 problem".to_owned(),
            (_, n) => format!("{n} problems"),
        };
    document(&host, class(status), &headline, &body, &footer(view))
}

/// The page when there is nothing to show.
pub(super) fn unreadable(host: &str, reason: &str) -> String {
    let body = format!(
        "<section class=\"problems\" aria-label=\"Problem\"><ul><li class=\"critical\">\
         <strong>The state cannot be read</strong> {}\
         <span class=\"hint\">Backups may still run; `agent status` and the journal say more.</span></li></ul></section>\n",
        esc(reason)
    );
    document(host, "critical", "Nothing to show", &body, &links())
}

fn document(host: &str, status: &str, headline: &str, body: &str, footer: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"refresh\" content=\"{REFRESH}\">\n\
         <title>{headline} – backups on {host}</title>\n<style>{css}</style>\n</head>\n<body>\n\
         <header><div><p class=\"kicker\">Backups on</p><h1>{host}</h1></div>\
         <p class=\"verdict {status}\">{headline}</p></header>\n\
         <main>\n{body}</main>\n<footer>\n{footer}</footer>\n</body>\n</html>\n",
        css = style::CSS,
        host = esc(host),
        headline = esc(headline),
    )
}

fn problems(out: &mut String, findings: &[Finding]) {
    let report = health::Report::new(findings.to_vec());
    let problems = report.problems();
    if problems.is_empty() {
        return;
    }
    out.push_str("<section class=\"problems\" aria-labelledby=\"problems\"><h2 id=\"problems\">What needs a look</h2><ul>\n");
    for finding in problems {
        let who = finding.job.as_ref().map_or("agent".to_owned(), ToString::to_string);
        let _ = write!(
            out,
            "<li class=\"{0}\"><span class=\"pill {0}\">{1}</span> <strong>{2}</strong> {3}",
            class(finding.status),
            finding.status,
            esc(who),
            esc(&finding.message)
        );
        if let Some(hint) = &finding.hint {
            let _ = write!(out, "<span class=\"hint\">{}</span>", code(hint));
        }
        out.push_str("</li>\n");
    }
    out.push_str("</ul></section>\n");
}

/// A hint with what stands between backticks set as code.
fn code(hint: &str) -> String {
    let mut html = String::new();
    for (n, part) in hint.split('`').enumerate() {
        let _ = match n % 2 {
            0 => write!(html, "{}", esc(part)),
            _ => write!(html, "<code>{}</code>", esc(part)),
        };
    }
    html
}

fn targets(out: &mut String, view: &View) {
    let tz = view.config.timezone;
    let known: Vec<(&str, &Probe)> = view
        .config
        .target
        .keys()
        .filter_map(|name| Some((name.as_str(), view.snapshot.targets.get(name)?)))
        .collect();
    if known.is_empty() {
        return;
    }
    out.push_str(
        "<section aria-labelledby=\"targets\"><h2 id=\"targets\">Targets</h2><div class=\"scroll\"><table>\
         <thead><tr><th>Target</th><th>State</th><th>Free</th><th>Looked at</th></tr></thead><tbody>\n",
    );
    for (name, probe) in known {
        let (status, word) = if probe.up { ("ok", "usable") } else { ("critical", "down") };
        let free = match (probe.free_bytes, probe.size_bytes) {
            (Some(free), Some(size)) => format!("{} of {}", ByteSize(free), ByteSize(size)),
            (Some(free), None) => ByteSize(free).to_string(),
            _ => "–".to_owned(),
        };
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td><span class=\"pill {status}\">{word}</span></td><td>{}</td><td>{}</td></tr>",
            esc(name),
            esc(free),
            ago(probe.at, view.now, tz)
        );
    }
    out.push_str("</tbody></table></div></section>\n");
}

fn footer(view: &View) -> String {
    format!(
        "<p>As of {} · refreshed every {REFRESH} s · backup-agent {}</p>\n{}",
        esc(view.now.with_timezone(&view.config.timezone).format("%Y-%m-%d %H:%M:%S %Z")),
        esc(env!("CARGO_PKG_VERSION")),
        links()
    )
}

fn links() -> String {
    "<nav aria-label=\"For programs\"><a href=\"/metrics\">Metrics</a> <a href=\"/api/v1/status\">Status as JSON</a></nav>\n"
        .to_owned()
}

/// The class of a status in the style sheet.
pub(super) fn class(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Ok => "ok",
        HealthStatus::Warning => "warning",
        HealthStatus::Critical => "critical",
        HealthStatus::Unknown => "unknown",
    }
}
