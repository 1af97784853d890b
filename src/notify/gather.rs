//! Facts out of the state: for runs that ended earlier, and the part of a fresh run's facts that only the
//! state knows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::body::SHOWN_LOG_LINES;
use super::facts::{ComponentFacts, CopyFacts, GoodBackup, LastGood, RunFacts};
use crate::event::Looked;
use crate::model::{ChannelName, ComponentName, JobName, Outcome, RunId, TargetName};
use crate::state::{Copy, CopyStatus, EndedRun, Run, State, StateError};

/// What messages about one job need beside the state.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// The job.
    pub job: JobName,
    /// This host's name.
    pub host: String,
    /// The job's zone.
    pub timezone: Tz,
    /// How the program is called on this host.
    pub command: String,
    /// When the job runs next.
    pub next_run: Option<DateTime<Utc>>,
    /// Where the targets are, for people.
    pub target_paths: BTreeMap<TargetName, String>,
    /// The targets where nothing is read back, and why.
    pub not_read_back: BTreeMap<TargetName, &'static str>,
    /// The channels that tell about this job; all when absent.
    pub channels: Option<Vec<ChannelName>>,
    /// A paused job gets no reminders.
    pub paused: bool,
    /// What a digest should mention: findings of the health checks.
    pub notes: Vec<String>,
}

impl JobContext {
    /// True when a channel tells about this job.
    pub fn tells(&self, channel: &ChannelName) -> bool {
        self.channels.as_ref().is_none_or(|names| names.contains(channel))
    }
}

/// The newest verified backup of a job.
pub fn last_good(state: &State, context: &JobContext) -> Result<LastGood, StateError> {
    last_good_of(state, context, &|_| true)
}

/// The newest verified backup of a job among some of its copies.
pub fn last_good_of(
    state: &State,
    context: &JobContext,
    among: &dyn Fn(&Copy) -> bool,
) -> Result<LastGood, StateError> {
    let mut copies = state.copies(Some(&context.job), None)?;
    copies.retain(|c| c.status.is_kept() && c.outcome.is_good() && among(c));
    // One that was read back counts before any that was not. Of one run the primary's copy is the nearest.
    let newest = copies.iter().max_by_key(|c| (c.status == CopyStatus::Verified, c.started, c.primary));
    Ok(match newest {
        None => LastGood::Nothing,
        Some(copy) if copy.status == CopyStatus::Verified => LastGood::Backup(good_backup(copy, context)),
        Some(copy) => LastGood::Unread(good_backup(copy, context)),
    })
}

fn good_backup(copy: &Copy, context: &JobContext) -> GoodBackup {
    let location = copy.location.as_ref().map(|location| match context.target_paths.get(&copy.target) {
        Some(base) => format!("{}/{location}", base.trim_end_matches('/')),
        None => location.clone(),
    });
    GoodBackup { run_id: copy.run_id.clone(), taken: copy.started, target: copy.target.clone(), location }
}

/// The facts of a run that is about to be recorded. `state` is absent when it cannot be read; then it is
/// not known what is still good. Copies and log are the caller's to fill in: [`RunFacts::copies`],
/// [`RunFacts::log_tail`], and [`RunFacts::newest_verified`] when this very run was read back.
pub fn ended(
    state: Option<&State>,
    context: &JobContext,
    started: DateTime<Utc>,
    ended: &EndedRun,
    failed_component: Option<ComponentName>,
) -> RunFacts {
    let newest_verified = state.and_then(|s| last_good(s, context).ok()).unwrap_or(LastGood::Unknown);
    RunFacts {
        job: context.job.clone(),
        host: context.host.clone(),
        run_id: ended.run_id.clone(),
        outcome: ended.outcome,
        degraded: ended.degraded.clone(),
        failed_step: ended.failed_step,
        failed_component,
        error: ended.error.clone(),
        started,
        ended: ended.ended,
        timezone: context.timezone,
        components: ended
            .components
            .iter()
            .map(|c| ComponentFacts {
                name: c.name.clone(),
                source_bytes: c.source_bytes,
                stored_bytes: c.stored_bytes,
                entries: c.entries,
                warning_counts: c.warning_counts,
            })
            .collect(),
        warning_counts: ended.warning_counts,
        first_warnings: ended.warnings.clone(),
        log_tail: Vec::new(),
        newest_verified,
        next_run: context.next_run,
        copies: Vec::new(),
        command: context.command.clone(),
    }
}

/// The facts of a run that was recorded earlier.
pub fn recorded(state: &State, context: &JobContext, run: &Run) -> Result<RunFacts, StateError> {
    let end = run.ended.unwrap_or(run.started);
    let mut as_ended = EndedRun::new(run.run_id.clone(), run.outcome.unwrap_or(Outcome::Interrupted), end);
    as_ended.degraded = run.degraded.clone();
    as_ended.failed_step = run.failed_step;
    as_ended.error = run.error.clone();
    as_ended.components = run.components.clone();
    as_ended.warning_counts = run.warning_counts;
    as_ended.warnings = run.warnings.clone();
    let mut facts = ended(Some(state), context, run.started, &as_ended, None);
    facts.copies = copies(state, context, &run.run_id)?;
    if let Some(log) = state.run_log(&run.run_id)? {
        facts.log_tail = tail(&log);
    }
    Ok(facts)
}

/// Where a run's backup stands.
fn copies(state: &State, context: &JobContext, run_id: &RunId) -> Result<Vec<CopyFacts>, StateError> {
    let copy = |c: Copy| {
        let not_read_back = context.not_read_back.get(&c.target).filter(|_| c.status == CopyStatus::Complete);
        CopyFacts {
            state: c.status.as_str().to_owned(),
            detail: c.last_error.or_else(|| Some(Looked::NotAt(not_read_back?).to_string())),
            target: c.target,
        }
    };
    Ok(state.copies_of(run_id)?.into_iter().map(copy).collect())
}

/// The last lines of a log, as many as a message shows.
pub fn tail(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].iter().map(|l| (*l).to_owned()).collect()
}
