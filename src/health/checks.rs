//! The table of checks.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::report::Perf;
use super::{Extra, Finding, agent, drill, job};
use crate::config::{Config, JobConfig, Limits};
use crate::model::JobName;
use crate::state::{HealthStatus, JobState, Snapshot};

/// One check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name: a label of `backup_health_status`.
    pub name: &'static str,
    /// What it looks at, for people.
    pub meaning: &'static str,
    /// What it answers when that is not as it should be, unless a milder or harder case is named there.
    pub severity: HealthStatus,
    /// The keys of `[health]` and `[job.NAME.health]` that move it, see [`crate::config::LIMITS`].
    pub limits: &'static [&'static str],
    /// Whether it looks at each job or at the agent.
    pub scope: Scope,
}

/// What a check looks at.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// Each configured job that the state knows.
    Job(fn(&JobView<'_>) -> Option<Verdict>),
    /// The agent as a whole.
    Agent(fn(&AgentView<'_>) -> Option<Verdict>),
}

use HealthStatus::{Critical, Warning};

/// Every check, in the order it is reported.
pub const CHECKS: &[Check] = &[
    Check {
        name: "overdue",
        meaning: "a scheduled success is missing for longer than the grace",
        severity: Critical,
        limits: &["late_run"],
        scope: Scope::Job(job::overdue),
    },
    Check {
        name: "never-succeeded",
        meaning: "there has never been a good backup",
        severity: Warning,
        limits: &[],
        scope: Scope::Job(job::never_succeeded),
    },
    Check {
        name: "last-outcome",
        meaning: "how the last run ended: a failure is critical; partial, interrupted and degraded runs \
                  are warnings, which become overdue if they last",
        severity: Critical,
        limits: &[],
        scope: Scope::Job(job::last_outcome),
    },
    Check {
        name: "size",
        meaning: "a component holds much less than it usually does",
        severity: Warning,
        limits: &["max_shrink", "on_shrink"],
        scope: Scope::Job(job::size),
    },
    Check {
        name: "warnings",
        meaning: "a run met many more files that changed, vanished or could not be read than usual",
        severity: Warning,
        limits: &["max_warnings"],
        scope: Scope::Job(job::warnings),
    },
    Check {
        name: "runtime",
        meaning: "a run takes longer than max_runtime; critical when it cannot even be ended",
        severity: Warning,
        limits: &["hang_after"],
        scope: Scope::Job(job::runtime),
    },
    Check {
        name: "dead-run",
        meaning: "a run died and was not yet marked interrupted",
        severity: Warning,
        limits: &[],
        scope: Scope::Job(job::dead_run),
    },
    Check {
        name: "contention",
        meaning: "runs keep finding the lock held by another",
        severity: Warning,
        limits: &["max_contention"],
        scope: Scope::Job(job::contention),
    },
    Check {
        name: "duplicate-trigger",
        meaning: "more than one crontab line, timer or daemon starts the backup; critical when at the same \
                  moment",
        severity: Warning,
        limits: &[],
        scope: Scope::Job(job::duplicate_trigger),
    },
    Check {
        name: "secret-files",
        meaning: "a file with a secret that the next run needs is missing, or others can read it; a warning \
                  where copies or drills need it",
        severity: Critical,
        limits: &[],
        scope: Scope::Job(job::secret_files),
    },
    Check {
        name: "files",
        meaning: "manifest and files of the newest good backup are no longer where they were stored",
        severity: Critical,
        limits: &[],
        scope: Scope::Job(job::files),
    },
    Check {
        name: "copies",
        meaning: "copies to further targets wait for hours, or are refused; critical after days",
        severity: Warning,
        limits: &["copies_warning", "copies_critical"],
        scope: Scope::Job(job::copies),
    },
    Check {
        name: "verify",
        meaning: "a stored backup was read back and is damaged, or was not read back for too long",
        severity: Critical,
        limits: &["max_verify_age"],
        scope: Scope::Job(job::verify),
    },
    Check {
        name: "drill",
        meaning: "the last drill failed: a backup did not come back as it should",
        severity: Critical,
        limits: &[],
        scope: Scope::Job(drill::drill),
    },
    Check {
        name: "drill-overdue",
        meaning: "a scheduled drill is missing for longer than its grace",
        severity: Warning,
        limits: &[],
        scope: Scope::Job(drill::overdue),
    },
    Check {
        name: "retention",
        meaning: "old backups could not be removed",
        severity: Warning,
        limits: &[],
        scope: Scope::Job(job::retention),
    },
    Check {
        name: "state",
        meaning: "the state database is damaged or of a later version, so that no run can be made",
        severity: Critical,
        limits: &[],
        scope: Scope::Agent(agent::state),
    },
    Check {
        name: "daemon",
        meaning: "the scheduler does not turn, so no scheduled run will start",
        severity: Critical,
        limits: &["scheduler_late"],
        scope: Scope::Agent(agent::daemon),
    },
    Check {
        name: "targets",
        meaning: "a target cannot be used; a warning where it only receives copies",
        severity: Critical,
        limits: &["probe_age"],
        scope: Scope::Agent(agent::targets),
    },
    Check {
        name: "free-space",
        meaning: "a target has less than min_free left; critical below a share of it",
        severity: Warning,
        limits: &["free_critical"],
        scope: Scope::Agent(agent::free_space),
    },
    Check {
        name: "notify",
        meaning: "messages are refused, given up, or wait, or a channel cannot be used as it should",
        severity: Warning,
        limits: &["message_late", "given_up_told"],
        scope: Scope::Agent(agent::notify),
    },
    Check {
        name: "config",
        meaning: "the configuration was refused and the last good one is used; critical when that cannot be \
                  used either",
        severity: Warning,
        limits: &[],
        scope: Scope::Agent(agent::config),
    },
    Check {
        name: "outputs",
        meaning: "a log file or the text file of metrics cannot be written",
        severity: Warning,
        limits: &[],
        scope: Scope::Agent(agent::outputs),
    },
    Check {
        name: "clock",
        meaning: "the clock jumped not long ago",
        severity: Warning,
        limits: &["clock_told"],
        scope: Scope::Agent(agent::clock),
    },
];

/// What a check of a job may look at.
#[derive(Debug, Clone, Copy)]
pub struct JobView<'a> {
    pub(super) name: &'a JobName,
    pub(super) job: &'a JobConfig,
    pub(super) state: &'a JobState,
    pub(super) config: &'a Config,
    pub(super) tz: Tz,
    pub(super) now: DateTime<Utc>,
    pub(super) extra: &'a Extra,
    pub(super) limits: Limits,
}

impl JobView<'_> {
    /// Until when the job is paused, if it is.
    pub(super) fn paused(&self) -> Option<DateTime<Utc>> {
        self.state.row.paused_until.filter(|until| *until > self.now)
    }
}

/// What a check of the agent may look at.
#[derive(Debug, Clone, Copy)]
pub struct AgentView<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) config: &'a Config,
    pub(super) now: DateTime<Utc>,
    pub(super) extra: &'a Extra,
    pub(super) limits: Limits,
}

/// What a check answers; none of its functions answers at all where the question has no meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// `None`: the check's own severity.
    status: Option<HealthStatus>,
    message: String,
    hint: Option<String>,
    perfdata: Vec<Perf>,
}

impl Verdict {
    fn new(status: Option<HealthStatus>, message: String) -> Self {
        Self { status, message, hint: None, perfdata: Vec::new() }
    }

    /// As it should be.
    pub(super) fn ok(message: impl Into<String>) -> Self {
        Self::new(Some(HealthStatus::Ok), message.into())
    }

    /// Not as it should be, with the severity of the table.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(None, message.into())
    }

    /// Not as it should be, milder or harder than the table says.
    pub(super) fn with(status: HealthStatus, message: impl Into<String>) -> Self {
        Self::new(Some(status), message.into())
    }

    /// Adds what to do.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Adds a figure.
    pub(super) fn perf(mut self, perf: Perf) -> Self {
        self.perfdata.push(perf);
        self
    }
}

/// All findings: each job's in the order of the configuration, then the agent's.
///
/// Only configured jobs are looked at. A job the state does not know yet gets one finding, a warning that
/// says so.
pub fn findings(snapshot: &Snapshot, config: &Config, now: DateTime<Utc>, extra: &Extra) -> Vec<Finding> {
    let mut all = Vec::new();
    for (name, job) in &config.job {
        let Some(state) = snapshot.job(name) else {
            all.push(unknown_job(name));
            continue;
        };
        let (tz, limits) = (config.job_timezone(job), config.limits_of(job));
        let view = JobView { name, job, state, config, tz, now, extra, limits };
        for check in CHECKS {
            if let Scope::Job(judge) = check.scope {
                all.extend(judge(&view).map(|verdict| finding(check, Some(name), verdict)));
            }
        }
    }
    let view = AgentView { snapshot, config, now, extra, limits: config.agent_limits() };
    for check in CHECKS {
        if let Scope::Agent(judge) = check.scope {
            all.extend(judge(&view).map(|verdict| finding(check, None, verdict)));
        }
    }
    all
}

fn finding(check: &Check, job: Option<&JobName>, verdict: Verdict) -> Finding {
    Finding {
        job: job.cloned(),
        check: check.name,
        status: verdict.status.unwrap_or(check.severity),
        message: verdict.message,
        hint: verdict.hint,
        perfdata: verdict.perfdata,
    }
}

fn unknown_job(name: &JobName) -> Finding {
    Finding {
        job: Some(name.clone()),
        check: "never-succeeded",
        status: Warning,
        message: "configured, but no agent has seen it yet".to_owned(),
        hint: Some(format!("Start the daemon, or run `agent backup {name}`")),
        perfdata: Vec::new(),
    }
}
