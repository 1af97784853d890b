//! Every metric: its name, its help, and where its value comes from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::Facts;
use crate::config::{Config, JobConfig};
use crate::health;
use crate::model::{JobName, WarningCounts, WarningKind};
use crate::state::{ChannelState, ComponentSummary, JobState, JobTargetState, Probe, Run};

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its help.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    pub(super) source: Source,
}

impl Metric {
    /// The names of its labels, in the order of their values.
    pub fn labels(&self) -> impl Iterator<Item = &'static str> {
        let (first, second) = match self.source {
            Source::Build(_) => ("version", ""),
            Source::Agent(_) => ("", ""),
            Source::Health(_) => ("backup_job", "check"),
            Source::Job(_) => ("backup_job", ""),
            Source::JobBy(label, _) => ("backup_job", label),
            Source::JobComponent(_) => ("backup_job", "component"),
            Source::JobTarget(_) | Source::JobCopy(_) => ("backup_job", "target"),
            Source::Target(_) => ("target", ""),
            Source::Channel(_) => ("channel", ""),
        };
        [first, second].into_iter().filter(|label| !label.is_empty())
    }
}

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, and survives restarts.
    Counter,
    /// A value of this moment, or a point in time.
    Gauge,
}

/// What is known of one configured job.
#[derive(Debug)]
pub struct JobFacts<'a> {
    pub(super) name: &'a JobName,
    pub(super) job: &'a JobConfig,
    pub(super) state: &'a JobState,
    /// False when the state has never heard of the job.
    pub(super) seen: bool,
    pub(super) config: &'a Config,
    pub(super) progress: Option<f64>,
    pub(super) now: DateTime<Utc>,
}

impl JobFacts<'_> {
    fn last(&self) -> Option<&Run> {
        self.state.last_run.as_ref()
    }

    /// The run whose sizes are exported: the last one that stored something.
    fn measured(&self) -> Option<&Run> {
        health::measured_run(self.state)
    }
}

/// Values of labels, in the order of [`Metric::labels`], and of the sample.
pub(super) type Samples = Vec<(Vec<String>, f64)>;

/// Where values come from, and with which labels.
#[derive(Debug)]
pub(super) enum Source {
    /// The program itself; label `version`.
    Build(fn() -> (Vec<String>, f64)),
    /// The agent.
    Agent(fn(&Facts) -> Option<f64>),
    /// The last health checks.
    Health(fn(&Facts) -> Samples),
    /// A job.
    Job(fn(&JobFacts<'_>) -> Option<f64>),
    /// A job, and a further label.
    JobBy(&'static str, fn(&JobFacts<'_>) -> Vec<(String, f64)>),
    /// A job's components.
    JobComponent(fn(&JobFacts<'_>) -> Vec<(String, f64)>),
    /// A job at each of its targets.
    JobTarget(fn(&JobTargetState) -> Option<f64>),
    /// A job at each target but its primary.
    JobCopy(fn(&JobTargetState) -> Option<f64>),
    /// A target that was looked at.
    Target(fn(&Probe) -> Option<f64>),
    /// A channel.
    Channel(fn(&ChannelState) -> f64),
}

const fn gauge(name: &'static str, help: &'static str, source: Source) -> Metric {
    Metric { name, help, kind: Kind::Gauge, source }
}

const fn counter(name: &'static str, help: &'static str, source: Source) -> Metric {
    Metric { name, help, kind: Kind::Counter, source }
}

use Source::{Agent, Build, Channel, Health, Job, JobBy, JobComponent, JobCopy, JobTarget, Target};

/// Every metric.
pub static TABLE: &[Metric] = &[
    gauge(
        "backup_build_info",
        "Version of the agent; always 1.",
        Build(|| (vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)),
    ),
    gauge(
        "backup_job_info",
        "A configured job and its schedule; always 1.",
        JobBy("schedule", |j| vec![(j.job.schedule.clone().unwrap_or_default(), 1.0)]),
    ),
    gauge(
        "backup_first_seen_timestamp_seconds",
        "When the agent first saw the job.",
        Job(|j| j.seen.then(|| at(j.state.row.first_seen))),
    ),
    // The last run.
    gauge(
        "backup_last_run_timestamp_seconds",
        "End of the last attempt; 0 = never.",
        Job(|j| Some(j.last().and_then(|run| run.ended).map_or(0.0, at))),
    ),
    gauge(
        "backup_last_run_success",
        "1 if the last attempt ended as success or warning, else 0.",
        Job(|j| j.last().map(|run| flag(run.is_good()))),
    ),
    gauge(
        "backup_last_run_degraded",
        "1 if a copy, retention or a further verification of the last run failed.",
        Job(|j| j.last().map(|run| flag(!run.degraded.is_empty()))),
    ),
    gauge(
        "backup_last_success_timestamp_seconds",
        "End of the last good run; 0 = never.",
        Job(|j| Some(j.state.last_success.as_ref().and_then(|run| run.ended).map_or(0.0, at))),
    ),
    gauge(
        "backup_failing_since_timestamp_seconds",
        "End of the first of the running streak of failures, partials and interruptions; 0 = good.",
        Job(|j| Some(j.state.row.failing_since.map_or(0.0, at))),
    ),
    gauge(
        "backup_last_duration_seconds",
        "Duration of the last attempt.",
        Job(|j| j.last()?.duration().map(|duration| duration.as_secs_f64())),
    ),
    gauge(
        "backup_last_step_duration_seconds",
        "Duration of each step of the last attempt.",
        JobBy("step", |j| step_times(j.last())),
    ),
    gauge(
        "backup_last_size_bytes",
        "Bytes stored by the last run that stored a backup.",
        Job(|j| j.measured().map(|run| run.stored_bytes as f64)),
    ),
    gauge(
        "backup_last_component_size_bytes",
        "Bytes stored for each component by the last run that stored a backup.",
        JobComponent(|j| components(j.measured(), |component| component.stored_bytes)),
    ),
    gauge(
        "backup_last_source_bytes",
        "Bytes read for each component by the last run that stored a backup.",
        JobComponent(|j| components(j.measured(), |component| component.source_bytes)),
    ),
    gauge(
        "backup_source_baseline_bytes",
        "Median of the bytes read for each component by the last 7 good runs, the last run excluded.",
        JobComponent(|j| {
            let known = j.state.baselines.iter().filter(|(_, baseline)| baseline.runs > 0);
            known.map(|(name, baseline)| (name.to_string(), baseline.source_bytes as f64)).collect()
        }),
    ),
    gauge(
        "backup_last_warnings",
        "Files the last attempt met that changed, vanished or were unreadable.",
        JobBy("kind", |j| j.last().map(|run| by_kind(&run.warning_counts)).unwrap_or_default()),
    ),
    // Counters.
    counter(
        "backup_warnings_total",
        "Files met that changed, vanished or were unreadable.",
        JobBy("kind", |j| by_kind(&j.state.counters.warnings)),
    ),
    counter("backup_runs_total", "Ended runs.", Job(|j| Some(j.state.counters.runs as f64))),
    counter(
        "backup_runs_failed_total",
        "Runs that ended as failure: no new backup.",
        Job(|j| Some(j.state.counters.failed as f64)),
    ),
    counter(
        "backup_runs_partial_total",
        "Runs that ended as partial: something could not be read.",
        Job(|j| Some(j.state.counters.partial as f64)),
    ),
    counter(
        "backup_runs_interrupted_total",
        "Runs that were interrupted.",
        Job(|j| Some(j.state.counters.interrupted as f64)),
    ),
    counter(
        "backup_lock_contention_total",
        "Attempts that found the lock of the job held.",
        Job(|j| Some(j.state.contention.total as f64)),
    ),
    gauge(
        "backup_lock_last_contention_timestamp_seconds",
        "When an attempt last found the lock of the job held.",
        Job(|j| j.state.contention.last.map(at)),
    ),
    // The run that goes on.
    gauge(
        "backup_running",
        "1 while a run is recorded as running.",
        Job(|j| Some(flag(j.state.running.is_some()))),
    ),
    gauge(
        "backup_run_start_timestamp_seconds",
        "Start of the running run.",
        Job(|j| j.state.running.as_ref().map(|run| at(run.started))),
    ),
    gauge(
        "backup_run_progress_ratio",
        "How far the running run is, 0 to 1, by the size of the last good one.",
        Job(|j| {
            let run = j.state.running.as_ref()?;
            j.progress.or(run.progress).map(|ratio| ratio.clamp(0.0, 1.0))
        }),
    ),
    gauge(
        "backup_max_runtime_seconds",
        "How long a run may take.",
        Job(|j| j.job.max_runtime.map(|limit| limit.as_secs_f64())),
    ),
    // The schedule.
    gauge(
        "backup_next_due_timestamp_seconds",
        "Earliest scheduled time not yet met by a success.",
        Job(|j| if j.seen { health::next_due(j.config, j.job, j.state).map(at) } else { None }),
    ),
    gauge(
        "backup_grace_seconds",
        "How late a success may be before the job is overdue, the random start delay included.",
        Job(|j| j.job.schedule.as_ref().map(|_| health::allowance(j.job).as_secs_f64())),
    ),
    gauge(
        "backup_next_run_timestamp_seconds",
        "Next scheduled start, its random delay not included.",
        Job(|j| health::next_run(j.config, j.job, Some(&j.state.row), j.now).map(at)),
    ),
    gauge(
        "backup_paused_until_timestamp_seconds",
        "End of the pause, while the job is paused.",
        Job(|j| j.state.row.paused_until.filter(|until| *until > j.now).map(at)),
    ),
    // Copies and targets.
    gauge("backup_copies_pending", "Copies still to be made.", JobCopy(|t| Some(t.pending as f64))),
    gauge(
        "backup_copy_last_success_timestamp_seconds",
        "When a copy last succeeded.",
        JobCopy(|t| t.last_copy_success.map(at)),
    ),
    counter(
        "backup_copy_failures_total",
        "Attempts to copy that failed.",
        JobCopy(|t| Some(t.failures as f64)),
    ),
    gauge("backup_backups", "Complete backups kept at the target.", JobTarget(|t| Some(t.kept as f64))),
    gauge(
        "backup_last_verify_timestamp_seconds",
        "When a backup at the target was last read back.",
        JobTarget(|t| t.last_verify.map(at)),
    ),
    gauge(
        "backup_last_verify_success",
        "1 if the backup last read back was as it was stored.",
        JobTarget(|t| t.last_verify_ok.map(flag)),
    ),
    gauge(
        "backup_last_retention_timestamp_seconds",
        "When retention last went over the target without an error.",
        JobTarget(|t| t.last_retention.map(at)),
    ),
    gauge(
        "backup_target_size_bytes",
        "Size of the target's file system when it was last seen.",
        Target(|probe| probe.size_bytes.map(|bytes| bytes as f64)),
    ),
    gauge(
        "backup_target_free_bytes",
        "Free space at the target when it was last seen.",
        Target(|probe| probe.free_bytes.map(|bytes| bytes as f64)),
    ),
    gauge("backup_target_up", "1 if the target could be used.", Target(|probe| Some(flag(probe.up)))),
    gauge(
        "backup_target_last_probe_timestamp_seconds",
        "When the target was last looked at.",
        Target(|probe| Some(at(probe.at))),
    ),
    // Telling.
    counter("backup_notifications_total", "Messages accepted by a server.", Channel(|c| c.delivered as f64)),
    counter(
        "backup_notification_failures_total",
        "Attempts to deliver a message that failed.",
        Channel(|c| c.failures as f64),
    ),
    counter(
        "backup_notifications_refused_total",
        "Messages that were refused for good and are not tried again.",
        Channel(|c| c.refused as f64),
    ),
    gauge("backup_notifications_pending", "Messages that wait.", Channel(|c| c.pending as f64)),
    gauge(
        "backup_notification_channel_ok",
        "0 while something is wrong with the settings of a channel: a secret that cannot be read, a template.",
        Channel(|c| flag(c.problem.is_none())),
    ),
    gauge(
        "backup_last_failure_mail_timestamp_seconds",
        "When a server last accepted a failure mail or a reminder; 0 = never.",
        Job(|j| Some(j.state.row.last_failure_mail.map_or(0.0, at))),
    ),
    gauge(
        "backup_remind_seconds",
        "How often a failure that lasts is mailed again.",
        Job(|j| {
            let reminders =
                j.config.channels_for(j.name).into_iter().filter_map(|(_, channel)| channel.remind());
            reminders.map(|remind| remind.as_secs_f64()).min_by(f64::total_cmp)
        }),
    ),
    // The agent itself.
    gauge(
        "backup_health_status",
        "Answer of each check of a job, or with an empty job of the agent: 0 ok, 1 warning, 2 critical, 3 unknown.",
        Health(health_rows),
    ),
    gauge(
        "backup_health_last_check_timestamp_seconds",
        "When the checks were last made.",
        Agent(|f| f.snapshot.agent.health_checked.map(at)),
    ),
    gauge(
        "backup_scheduler_last_tick_timestamp_seconds",
        "When the scheduler last turned.",
        Agent(|f| f.snapshot.agent.scheduler_tick.map(at)),
    ),
    gauge(
        "backup_config_last_reload_success_timestamp_seconds",
        "When a configuration was last loaded.",
        Agent(|f| f.snapshot.agent.config_loaded.map(at)),
    ),
    gauge(
        "backup_config_last_reload_successful",
        "1 if the last attempt to load the configuration succeeded.",
        Agent(|f| {
            let agent = &f.snapshot.agent;
            agent.config_loaded.or(agent.config_refused).map(|_| flag(agent.config_refused.is_none()))
        }),
    ),
];

/// Unix time in seconds, to the millisecond.
fn at(moment: DateTime<Utc>) -> f64 {
    moment.timestamp_millis() as f64 / 1000.0
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn by_kind(counts: &WarningCounts) -> Vec<(String, f64)> {
    WarningKind::COUNTED.map(|kind| (kind.as_str().to_owned(), counts.get(kind) as f64)).to_vec()
}

/// A step that was entered twice counts once, with the sum.
fn step_times(run: Option<&Run>) -> Vec<(String, f64)> {
    let mut times = BTreeMap::<String, f64>::new();
    for step in run.iter().flat_map(|run| &run.steps) {
        *times.entry(step.step.to_string()).or_default() += step.ms as f64 / 1000.0;
    }
    times.into_iter().collect()
}

fn components(run: Option<&Run>, value: fn(&ComponentSummary) -> u64) -> Vec<(String, f64)> {
    run.iter()
        .flat_map(|run| &run.components)
        .map(|component| (component.name.to_string(), value(component) as f64))
        .collect()
}

/// Rows of jobs that are no longer configured, and those of checks this version does not know, are left out.
fn health_rows(facts: &Facts) -> Samples {
    let known = |check: &str| health::CHECKS.iter().any(|known| known.name == check);
    let configured =
        |job: &Option<JobName>| job.as_ref().is_none_or(|job| facts.config.job.contains_key(job));
    facts
        .snapshot
        .health
        .iter()
        .filter(|row| known(&row.check) && configured(&row.job))
        .map(|row| {
            let job = row.job.as_ref().map(JobName::to_string).unwrap_or_default();
            (vec![job, row.check.clone()], f64::from(row.status.code()))
        })
        .collect()
}
