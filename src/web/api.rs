//! `/api/v1/status`: everything the page shows, as JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::View;
use crate::health::{self, Finding};
use crate::model::JobName;
use crate::state::{HealthStatus, Snapshot};

/// The answer of `/api/v1/status`. Fields are added, never changed. Instants are RFC 3339 in UTC, sizes
/// bytes. It holds no secrets: nothing of the configuration but names and times.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    /// Version of this form: 1.
    pub version: u32,
    /// When it was made.
    pub now: DateTime<Utc>,
    /// The name of the host.
    pub host: String,
    /// Version of the running agent.
    pub agent_version: &'static str,
    /// Whether the agent has started completely.
    pub ready: bool,
    /// The worst of the findings: `ok`, `unknown`, `warning`, `critical`.
    pub status: HealthStatus,
    /// Every check with its answer, of this moment.
    pub findings: Vec<Finding>,
    /// The configured jobs: what follows from schedule and time.
    pub jobs: BTreeMap<&'a JobName, Due<'a>>,
    /// The state, as in `status.json`. Also has the jobs that are no longer configured.
    pub state: &'a Snapshot,
}

/// What follows from a job's schedule and the time.
#[derive(Debug, Serialize)]
pub struct Due<'a> {
    /// Its cron line.
    pub schedule: Option<&'a str>,
    /// IANA zone of the schedule.
    pub timezone: &'static str,
    /// The earliest scheduled time not yet met by a success.
    pub next_due: Option<DateTime<Utc>>,
    /// The moment from which it is overdue.
    pub overdue_at: Option<DateTime<Utc>>,
    /// The next scheduled start.
    pub next_run: Option<DateTime<Utc>>,
    /// Bytes read by the run in progress, if it runs in the agent itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_source_bytes: Option<u64>,
    /// How far that run is, 0 to 1, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_ratio: Option<f64>,
}

/// The answer when the state cannot be read (503).
#[derive(Debug, Serialize)]
pub struct Problem {
    /// Why.
    pub error: String,
}

impl<'a> Status<'a> {
    pub(super) fn new(view: &'a View, ready: bool) -> Self {
        let View { snapshot, config, extra, progress, now, .. } = view;
        let findings = health::findings(snapshot, config, *now, extra);
        let jobs = config.job.iter().map(|(name, job)| {
            let state = snapshot.job(name);
            let ratio = progress.get(name).and_then(|progress| progress.ratio());
            let due = Due {
                schedule: job.schedule.as_deref(),
                timezone: config.job_timezone(job).name(),
                next_due: state.and_then(|state| health::next_due(config, job, state)),
                overdue_at: state.and_then(|state| health::overdue_at(config, job, state)),
                next_run: health::next_run(config, job, state.map(|state| &state.row), *now),
                running_source_bytes: progress.get(name).map(|progress| progress.source_bytes),
                running_ratio: ratio.or_else(|| state?.running.as_ref()?.progress),
            };
            (name, due)
        });
        Self {
            version: 1,
            now: *now,
            host: config.host_name(),
            agent_version: env!("CARGO_PKG_VERSION"),
            ready,
            status: health::worst(findings.iter().map(|finding| finding.status)),
            findings,
            jobs: jobs.collect(),
            state: snapshot,
        }
    }
}
