//! What `agent check` prints: monitoring-plugin output, or JSON.
//!
//! Plugin output follows the Monitoring Plugins guidelines: a first line with the status and the worst of
//! it, ` | ` and performance data, then a line for each check. Exit codes: 0 OK, 1 WARNING, 2 CRITICAL,
//! 3 UNKNOWN. The worst answer wins, in the order critical, warning, unknown, ok (see [`super::worst`]).

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{Finding, rank, worst};
use crate::state::HealthStatus;

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For Nagios, Icinga, and people.
    Plugin,
    /// For programs: `{"status", "exit_code", "summary", "findings": […]}`.
    Json,
}

/// The answer of `agent check`.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    findings: Vec<Finding>,
    /// Why there are no findings.
    unreadable: Option<String>,
    /// Something to know that changes nothing, such as that `status.json` was read.
    note: Option<String>,
}

impl Report {
    /// An answer from findings.
    pub fn new(findings: Vec<Finding>) -> Self {
        Self { findings, unreadable: None, note: None }
    }

    /// The answer when the state or the configuration could not be read: UNKNOWN, and why.
    pub fn unreadable(reason: impl fmt::Display) -> Self {
        Self { findings: Vec::new(), unreadable: Some(reason.to_string()), note: None }
    }

    /// Adds a line that changes nothing, such as where the facts come from.
    pub fn note(self, text: impl Into<String>) -> Self {
        Self { note: Some(text.into()), ..self }
    }

    /// The worst answer.
    pub fn status(&self) -> HealthStatus {
        match self.unreadable {
            Some(_) => HealthStatus::Unknown,
            None => worst(self.findings.iter().map(|finding| finding.status)),
        }
    }

    /// 0 to 3, as monitoring plugins exit.
    pub fn exit_code(&self) -> u8 {
        self.status().code()
    }

    /// The findings that are not ok, the worst first.
    pub fn problems(&self) -> Vec<&Finding> {
        let mut problems: Vec<&Finding> =
            self.findings.iter().filter(|finding| finding.status != HealthStatus::Ok).collect();
        problems.sort_by_key(|finding| std::cmp::Reverse(rank(finding.status)));
        problems
    }

    /// The text to print, with a line break at its end; empty when `quiet` and everything is ok, so that
    /// cron sends no mail.
    pub fn render(&self, format: Format, quiet: bool) -> String {
        if quiet && self.status() == HealthStatus::Ok {
            return String::new();
        }
        match format {
            Format::Plugin => self.plugin(),
            Format::Json => self.json(),
        }
    }

    /// The first line without status and performance data.
    pub fn summary(&self) -> String {
        if let Some(reason) = &self.unreadable {
            return reason.clone();
        }
        let problems = self.problems();
        let Some(first) = problems.first() else { return self.good() };
        let more = match problems.len() - 1 {
            0 => String::new(),
            n => format!("; {n} more"),
        };
        format!("{}{}{more}", subject(first), first.message)
    }

    fn good(&self) -> String {
        let successes: Vec<&Finding> =
            self.findings.iter().filter(|finding| finding.check == "never-succeeded").collect();
        match successes.len() {
            0 => "no job is configured".to_owned(),
            1..=3 => successes
                .iter()
                .map(|finding| format!("{}{}", subject(finding), finding.message))
                .collect::<Vec<_>>()
                .join("; "),
            n => format!("{n} jobs in order"),
        }
    }

    fn plugin(&self) -> String {
        let perfdata: Vec<String> =
            self.findings.iter().flat_map(|finding| &finding.perfdata).map(Perf::to_string).collect();
        let mut text = format!("BACKUP {} - {}", upper(self.status()), one_line(&self.summary()));
        if !perfdata.is_empty() {
            let _ = write!(text, " | {}", perfdata.join(" "));
        }
        text.push('\n');
        let lines = self.problems().into_iter().chain(
            // The good ones after the problems, so that a screen that shows a few lines shows those.
            self.findings.iter().filter(|finding| finding.status == HealthStatus::Ok),
        );
        for finding in lines {
            let line = format!(
                "{} {}{}: {}",
                upper(finding.status),
                finding.job.as_ref().map(|job| format!("{job} ")).unwrap_or_default(),
                finding.check,
                finding.text()
            );
            let _ = writeln!(text, "{}", one_line(&line));
        }
        if let Some(note) = &self.note {
            let _ = writeln!(text, "({})", one_line(note));
        }
        text
    }

    fn json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            status: HealthStatus,
            exit_code: u8,
            summary: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            note: Option<&'a str>,
            findings: &'a [Finding],
        }
        let document = Document {
            status: self.status(),
            exit_code: self.exit_code(),
            summary: self.summary(),
            note: self.note.as_deref(),
            findings: &self.findings,
        };
        let mut text = serde_json::to_string_pretty(&document).expect("findings have only string keys");
        text.push('\n');
        text
    }
}

fn subject(finding: &Finding) -> String {
    finding.job.as_ref().map(|job| format!("{job}: ")).unwrap_or_default()
}

fn upper(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Ok => "OK",
        HealthStatus::Warning => "WARNING",
        HealthStatus::Critical => "CRITICAL",
        HealthStatus::Unknown => "UNKNOWN",
    }
}

/// A text in one line without the character that begins performance data.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '|' => '/',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A plain number.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Seconds => "s",
            Unit::Bytes => "B",
        }
    }
}

/// One figure of performance data: `'label'=value[unit];[warn];[crit];[min];[max]`. The minimum is 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perf {
    /// What it is.
    pub label: String,
    /// Its value; none when it cannot be told.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: Unit,
    /// Range outside of which it is a warning (`10:` below ten, `10` above ten).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Range outside of which it is critical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical: Option<String>,
    /// The most it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
}

impl Perf {
    /// A figure.
    pub fn new(label: impl Into<String>, value: f64, unit: Unit) -> Self {
        let value = Some(value);
        Self { label: label.into(), value, unit, warning: None, critical: None, maximum: None }
    }

    /// A figure that cannot be told.
    pub fn unknown(label: impl Into<String>) -> Self {
        let unit = Unit::None;
        Self { label: label.into(), value: None, unit, warning: None, critical: None, maximum: None }
    }

    /// Adds the range outside of which it is a warning.
    pub fn warning(self, range: String) -> Self {
        Self { warning: Some(range), ..self }
    }

    /// Adds the range outside of which it is critical.
    pub fn critical(self, range: String) -> Self {
        Self { critical: Some(range), ..self }
    }

    /// Adds the most it can be.
    pub fn maximum(self, maximum: f64) -> Self {
        Self { maximum: Some(maximum), ..self }
    }
}

impl fmt::Display for Perf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
        if plain && !self.label.is_empty() {
            write!(f, "{}=", self.label)?;
        } else {
            // Quotes double inside quotes; an equals sign is allowed in no label, and | ends the text.
            let label: String = self
                .label
                .chars()
                .map(|c| if c.is_control() || "=|".contains(c) { '_' } else { c })
                .collect();
            write!(f, "'{}'=", label.replace('\'', "''"))?;
        }
        let Some(value) = self.value.filter(|value| value.is_finite()) else { return f.write_str("U") };
        // Display of f64 never uses an exponent; milliseconds are enough.
        let number = |value: f64| format!("{}", (value * 1000.0).round() / 1000.0);
        write!(f, "{}{}", number(value), self.unit.suffix())?;
        let warning = self.warning.as_deref().unwrap_or("");
        let critical = self.critical.as_deref().unwrap_or("");
        write!(f, ";{warning};{critical};0")?;
        match self.maximum {
            Some(maximum) => write!(f, ";{}", number(maximum)),
            None => Ok(()),
        }
    }
}
