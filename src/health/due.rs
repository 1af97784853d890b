//! When a job is due, overdue, and run next. The rule stands in [`crate::schedule`]; here it meets the
//! state and the configuration, once for checks, metrics and pages.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::config::{Config, JobConfig};
use crate::schedule;
use crate::state::{JobRow, JobState};

/// The earliest scheduled time that no success has met yet; `None` without a schedule.
///
/// Nothing is due before the end of a pause: the occurrences in it were passed over on purpose.
pub fn next_due(config: &Config, job: &JobConfig, state: &JobState) -> Option<DateTime<Utc>> {
    schedule::next_due(
        &job.schedule()?,
        config.job_timezone(job),
        state.last_success.as_ref().map(|run| run.started),
        state.row.first_seen,
        state.row.schedule_changed_at.max(state.row.paused_until),
    )
}

/// How late a success may be: the grace, and the random delay a start may have.
pub fn allowance(job: &JobConfig) -> Duration {
    job.grace.saturating_add(job.splay)
}

/// The moment from which the job is overdue.
pub fn overdue_at(config: &Config, job: &JobConfig, state: &JobState) -> Option<DateTime<Utc>> {
    next_due(config, job, state)?.checked_add_signed(chrono::TimeDelta::from_std(allowance(job)).ok()?)
}

/// The next occurrence of the schedule at which a run is started, by the daemon or by whatever else starts
/// this job; its random delay left out.
pub fn next_run(
    config: &Config,
    job: &JobConfig,
    row: Option<&JobRow>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    // An occurrence at the very end of a pause belongs to the time after it.
    let pause = row.and_then(|row| row.paused_until).map(|until| until - chrono::TimeDelta::milliseconds(1));
    job.schedule()?.next_after(config.job_timezone(job), pause.map_or(now, |until| until.max(now)))
}
