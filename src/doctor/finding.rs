//! What the doctor found, and the report of all of it.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use super::table::{self, Diagnosis, Group};
use crate::health::worst;
use crate::model::JobName;
use crate::state::HealthStatus;

/// A place in a file that a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spot {
    /// `/etc/cron.d/backup:3`, or what it is where it is no file.
    pub place: String,
    /// What stands there, or what it does.
    pub text: String,
}

/// One finding, good or bad.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// The diagnosis it belongs to.
    pub diagnosis: &'static str,
    /// How bad it is.
    pub status: HealthStatus,
    /// The job, where it is about one.
    pub job: Option<JobName>,
    /// What was found; one sentence without a full stop.
    pub what: String,
    /// Where.
    pub places: Vec<Spot>,
    /// Why it matters; only of what is not good.
    pub why: Option<&'static str>,
    /// What to do: commands as they are typed, or sentences.
    pub fix: Vec<String>,
}

impl Finding {
    fn new(diagnosis: &'static Diagnosis, status: HealthStatus, what: String) -> Self {
        Self {
            group: diagnosis.group,
            diagnosis: diagnosis.name,
            status,
            job: None,
            what,
            places: Vec::new(),
            why: (status != HealthStatus::Ok).then_some(diagnosis.why),
            fix: Vec::new(),
        }
    }

    /// As it should be.
    pub(super) fn good(diagnosis: &'static Diagnosis, what: impl Into<String>) -> Self {
        Self::new(diagnosis, HealthStatus::Ok, what.into())
    }

    /// Not as it should be, as bad as the table says.
    pub(super) fn bad(diagnosis: &'static Diagnosis, what: impl Into<String>) -> Self {
        Self::new(diagnosis, diagnosis.severity, what.into())
    }

    /// A look that came to no end.
    pub(super) fn unknown(group: Group, what: impl Into<String>) -> Self {
        Self { group, ..Self::bad(&table::NOT_ENDED, what) }
    }

    /// Milder than the table says, where `milder` holds.
    pub(super) fn warning_if(self, milder: bool) -> Self {
        if milder { Self { status: HealthStatus::Warning, ..self } } else { self }
    }

    /// What cannot be told, where `unknown` holds: another user might see more.
    pub(super) fn unknown_if(self, unknown: bool) -> Self {
        if unknown { Self { status: HealthStatus::Unknown, ..self } } else { self }
    }

    pub(super) fn of_job(self, job: &JobName) -> Self {
        Self { job: Some(job.clone()), ..self }
    }

    pub(super) fn at(mut self, place: impl Into<String>, text: impl Into<String>) -> Self {
        self.places.push(Spot { place: place.into(), text: text.into() });
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The worst of it.
    pub status: HealthStatus,
    /// 0 ok, 1 warning, 2 critical, 3 unknown.
    pub exit_code: u8,
    /// The name of the host.
    pub host: String,
    /// When it was looked.
    pub at: DateTime<Utc>,
    #[serde(skip)]
    pub(super) zone: Tz,
    /// By group, the worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(host: String, at: DateTime<Utc>, zone: Tz, mut findings: Vec<Finding>) -> Self {
        let badness = |status| match status {
            HealthStatus::Critical => 0,
            HealthStatus::Warning => 1,
            HealthStatus::Unknown => 2,
            HealthStatus::Ok => 3,
        };
        // Also by what they say, since looks end in any order.
        findings.sort_by(|a, b| {
            (a.group, badness(a.status)).cmp(&(b.group, badness(b.status))).then_with(|| a.what.cmp(&b.what))
        });
        let status = worst(findings.iter().map(|finding| finding.status));
        Self { status, exit_code: status.code(), host, at, zone, findings }
    }

    /// How many findings have a status.
    pub fn count(&self, status: HealthStatus) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }
}
