//! The report for a terminal.

use std::fmt::Write as _;

use super::finding::{Finding, Report};
use crate::state::HealthStatus;

/// Where text stands under the word of a finding's status.
const INDENT: &str = "            ";

impl Report {
    /// The report in lines of about `width` characters, a line break at its end. `tint` colours the word of
    /// a status, given with its width. `all` also lists what is good.
    pub fn render(&self, width: usize, all: bool, tint: &dyn Fn(&str, usize) -> String) -> String {
        let mut text = String::new();
        let mut group = None;
        for finding in &self.findings {
            if finding.status == HealthStatus::Ok && !all {
                continue;
            }
            if group != Some(finding.group) {
                let gap = if group.is_some() { "\n" } else { "" };
                let _ = writeln!(text, "{gap}{}", finding.group.title());
                group = Some(finding.group);
            }
            one(&mut text, finding, width, tint);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let count = |status, one: &str, many: &str| match self.count(status) {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {many}")),
        };
        let counts: Vec<String> = [
            count(HealthStatus::Critical, "critical", "critical"),
            count(HealthStatus::Warning, "warning", "warnings"),
            count(HealthStatus::Unknown, "could not be told", "could not be told"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let good = self.count(HealthStatus::Ok);
        let summary = if counts.is_empty() { "all is well".to_owned() } else { counts.join(", ") };
        let at = self.at.with_timezone(&self.zone).format("%Y-%m-%d %H:%M");
        let _ = writeln!(text, "{}, {at}: {summary}; {good} looked at and good", self.host);
        text
    }
}

fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Ok => "good",
        HealthStatus::Warning => "warning",
        HealthStatus::Critical => "critical",
        HealthStatus::Unknown => "unknown",
    }
}

fn one(text: &mut String, finding: &Finding, width: usize, tint: &dyn Fn(&str, usize) -> String) {
    let name = match finding.status {
        HealthStatus::Ok => String::new(),
        _ => format!("  [{}]", finding.diagnosis),
    };
    let what = wrapped(&format!("{}{name}", finding.what), width.saturating_sub(INDENT.len()));
    let _ = writeln!(text, "  {}{}", tint(word(finding.status), 10), what.join(&format!("\n{INDENT}")));
    if finding.status == HealthStatus::Ok {
        return;
    }
    for spot in &finding.places {
        let _ = writeln!(text, "{INDENT}at   {}", spot.place);
        if !spot.text.is_empty() {
            // Whatever stands in a crontab is shown as it is, whole.
            let _ = writeln!(text, "{INDENT}       {}", spot.text.replace('\n', " "));
        }
    }
    let hanging = |text: &mut String, label: &str, line: &str| {
        let lines = wrapped(line, width.saturating_sub(INDENT.len() + 5));
        let _ = writeln!(text, "{INDENT}{label:5}{}", lines.join(&format!("\n{INDENT}     ")));
    };
    if let Some(why) = finding.why {
        hanging(text, "why", why);
    }
    for (at, fix) in finding.fix.iter().enumerate() {
        let label = if at == 0 { "do" } else { "" };
        // A command is copied: it is not broken.
        if fix.starts_with(|c: char| c.is_uppercase()) {
            hanging(text, label, fix);
        } else {
            let _ = writeln!(text, "{INDENT}{label:5}{fix}");
        }
    }
}

/// Lines of at most `width` characters, broken at blanks where there are some.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}
