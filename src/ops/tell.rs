//! Who is told: the configuration's channels, and what of a run or of passing time goes into the outbox.
//!
//! What is due is decided and rendered in [`crate::notify`]; here it gets its context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};

use super::Agent;
use crate::config::{Config, EmailConfig, NotifyConfig, NotifyOn, SuccessMail, resolve_secret};
use crate::model::{ChannelName, ComponentName, JobName, RunId};
use crate::notify::email::EmailSettings;
use crate::notify::facts::{AgentFacts, CheckFacts, CopyFacts, FindingFacts, RunFacts};
use crate::notify::heartbeat::HeartbeatSettings;
use crate::notify::message::{Kind, Labels};
use crate::notify::outbox::{self, Delivery};
use crate::notify::transitions::{Policy, SuccessMode};
use crate::notify::{Channel, gather, plan};
use crate::state::{Copy, EndedRun, FactKey, NewMessage, Run};

/// How often the same findings of the health checks are mailed again.
const TELL_CHECK_AGAIN: TimeDelta = TimeDelta::hours(24);

/// Makes the channels of a configuration. Fails on the first one whose settings cannot work, so that this
/// shows at the start and not at the first failure.
pub fn channels(config: &Config) -> Result<Vec<Arc<Channel>>> {
    config
        .notify
        .iter()
        .map(|(name, channel)| {
            channel_of(name, channel).map(Arc::new).with_context(|| format!("notification channel {name}"))
        })
        .collect()
}

fn channel_of(name: &ChannelName, config: &NotifyConfig) -> Result<Channel> {
    match config {
        NotifyConfig::Email(email) => {
            let settings = EmailSettings {
                url: email.smtp.clone(),
                user: email.user.clone(),
                password: resolve_secret(email.password.as_ref(), email.password_file.as_deref())?,
                from: email.from.clone(),
                to: email.to.clone(),
                timeout: email.timeout,
                ca_file: email.ca_file.clone(),
            };
            Channel::email(
                name.clone(),
                policy(email),
                Labels::new(email.labels.iter().map(|(kind, label)| (kind.as_str(), label.as_str())))?,
                &settings,
            )
        }
        NotifyConfig::Heartbeat(heartbeat) => {
            let url = match (&heartbeat.url, &heartbeat.url_file) {
                (Some(url), _) => crate::model::Secret::new(url.clone()),
                (None, file) => {
                    resolve_secret(None, file.as_deref())?.context("it has neither url nor url_file")?
                }
            };
            Channel::heartbeat(name.clone(), &HeartbeatSettings { url, timeout: heartbeat.timeout })
        }
    }
}

fn policy(config: &EmailConfig) -> Policy {
    let kind = |on: &NotifyOn| match on {
        NotifyOn::Failure => Kind::Failure,
        NotifyOn::Partial => Kind::Partial,
        NotifyOn::Degraded => Kind::Degraded,
        NotifyOn::Interrupted => Kind::Interrupted,
        NotifyOn::Recovery => Kind::Recovery,
    };
    let success = match config.success {
        SuccessMail::Always => SuccessMode::Always,
        SuccessMail::Daily => SuccessMode::Daily,
        SuccessMail::Never => SuccessMode::Never,
    };
    Policy { on: config.on.iter().map(kind).collect(), success, remind: config.remind }
}

impl Agent {
    /// The channels that tell about a job. One that the configuration no longer has is told by all.
    fn channels_for(&self, job: &JobName) -> Vec<Arc<Channel>> {
        let wanted = self.config.job.get(job).and_then(|j| j.notify.as_ref());
        let all = self.channels.iter();
        all.filter(|c| wanted.is_none_or(|names| names.contains(&c.name))).cloned().collect()
    }

    /// What messages about a job say beside what the state knows.
    pub fn job_context(&self, job: &JobName) -> gather::JobContext {
        let now = self.now();
        let paused = self
            .state
            .job(job)
            .ok()
            .flatten()
            .and_then(|row| row.paused_until)
            .is_some_and(|until| until > now);
        gather::JobContext { paused, ..context_of(&self.config, &self.command, job, now) }
    }
}

/// What messages about a job say when the state cannot be asked.
fn context_of(config: &Config, command: &str, job: &JobName, now: DateTime<Utc>) -> gather::JobContext {
    let of_job = config.job.get(job);
    let timezone = of_job.map_or(config.timezone, |j| config.job_timezone(j));
    gather::JobContext {
        job: job.clone(),
        host: config.host_name(),
        timezone,
        command: command.to_owned(),
        next_run: of_job.and_then(|j| j.schedule()).and_then(|s| s.next_after(timezone, now)),
        target_paths: target_paths(config),
        channels: of_job.and_then(|j| j.notify.clone()),
        paused: false,
        notes: Vec::new(),
    }
}

fn target_paths(config: &Config) -> BTreeMap<crate::model::TargetName, String> {
    config.target.iter().map(|(name, t)| (name.clone(), t.path.display().to_string())).collect()
}

/// The messages due at the end of a run, for the transaction that records it; what they replace is put into
/// `ended`. `log_tail` are the last lines of the run's log.
pub fn plan_end(
    agent: &Agent,
    run: &Run,
    ended: &mut EndedRun,
    failed_component: Option<ComponentName>,
    log_tail: Vec<String>,
) -> Result<Vec<NewMessage>> {
    // A new backup does not make good what a drill found: only a good drill does.
    if ended.outcome.is_good() {
        ended.degraded.extend(super::drill::standing(agent, &run.job)?);
    }
    let context = agent.job_context(&run.job);
    let mut facts = gather::ended(Some(&agent.state), &context, run.started, ended, failed_component);
    facts.log_tail = log_tail;
    facts.copies = copies_of(agent, &run.job, ended);
    let due = plan::run_ended(&agent.state, &agent.channels_for(&run.job), &facts, agent.now())?;
    ended.supersedes = due.supersedes;
    Ok(due.messages)
}

/// The copies of a run that is about to be recorded, as messages show them.
fn copies_of(agent: &Agent, job: &JobName, ended: &EndedRun) -> Vec<CopyFacts> {
    let Some(config) = agent.config.job.get(job).filter(|_| ended.stored_bytes > 0) else {
        return Vec::new();
    };
    let states = std::iter::once("verified").chain(std::iter::repeat("pending"));
    let pairs = config.targets.iter().zip(states);
    pairs
        .map(|(target, state)| CopyFacts { target: target.clone(), state: state.to_owned(), detail: None })
        .collect()
}

/// Tells of a run without the state, which cannot be opened or written: through the spool, and straight.
pub fn without_state(
    config: &Config,
    facts: &RunFacts,
    now: DateTime<Utc>,
    clock: Arc<dyn crate::clock::Clock>,
) -> Result<Delivery> {
    let channels = channels(config)?;
    let due = plan::without_state(&channels, facts, now);
    block_on(outbox::tell_without_state(&config.state_dir, &due.messages, &channels, clock))
}

/// Notes that something beside the outcome failed; the next [`by_time`] tells it.
pub fn degraded(agent: &Agent, run: &RunId, text: &str) -> Result<()> {
    Ok(agent.state.add_degraded(run, text)?)
}

/// How a copy that is not there is named among what degraded a run.
pub fn copy_trouble(target: &crate::model::TargetName) -> String {
    format!("copy {target}")
}

/// A copy that was missed came late: the run is no longer degraded by it.
pub fn copy_came_after_all(agent: &Agent, copy: &Copy) -> Result<()> {
    let name = format!("{}: ", copy_trouble(&copy.target));
    agent.state.retain_degraded(&copy.run_id, |text| !text.starts_with(&name))?;
    Ok(())
}

/// Puts into the outbox what is due by the passing of time or was not queued yet: reminders, digests,
/// degradations, recoveries after late copies.
pub fn by_time(agent: &Agent) -> Result<()> {
    let now = agent.now();
    let jobs: Vec<_> = agent.config.job.keys().map(|job| agent.job_context(job)).collect();
    plan::periodic(&agent.state, &agent.channels, &jobs, now)?.enqueue(&agent.state, now)?;
    Ok(())
}

/// Sends what the outbox holds. What goes wrong is in the result, with the messages, and in the log.
pub fn deliver(agent: &Agent) -> Delivery {
    let sending = outbox::deliver(
        Some(&agent.state),
        &agent.config.state_dir,
        &agent.channels,
        Arc::clone(&agent.clock),
    );
    block_on(sending).unwrap_or_else(|e| {
        tracing::error!("delivering messages: {e:#}");
        Delivery { problems: vec![format!("{e:#}")], ..Delivery::default() }
    })
}

/// Runs network code to its end on this thread, which must not be one of a runtime's own.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime for network work")?;
    let result = runtime.block_on(future);
    // A look-up of a name may hang in the system's resolver; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result)
}

/// Tells of a run whose state failed under it.
pub fn run_without_state(agent: &Agent, job: &JobName, error: &anyhow::Error) -> Result<Delivery> {
    run_without_agent(&agent.config, &agent.command, job, error, Arc::clone(&agent.clock))
}

/// Tells of a run that could not begin, since the state could not even be opened.
pub fn run_without_agent(
    config: &Config,
    command: &str,
    job: &JobName,
    error: &anyhow::Error,
    clock: Arc<dyn crate::clock::Clock>,
) -> Result<Delivery> {
    let now = clock.now();
    let context = context_of(config, command, job, now);
    let mut ended = EndedRun::new(RunId::generate(now), crate::model::Outcome::Failure, now);
    ended.error = Some(format!("{error:#}"));
    let facts = gather::ended(None, &context, now, &ended, None);
    without_state(config, &facts, now, clock)
}

/// Tells what the health checks found, unless the very same was told within the last day.
pub fn findings(agent: &Agent, summary: &str, problems: &[&crate::health::Finding]) -> Result<()> {
    let now = agent.now();
    let told = agent.state.fact(FactKey::CheckMailed)?;
    let same = problems
        .iter()
        .map(|f| format!("{:?}/{}/{:?}", f.job, f.check, f.status))
        .collect::<Vec<_>>()
        .join(";");
    if told.is_some_and(|fact| fact.value == same && now - fact.at < TELL_CHECK_AGAIN) {
        return Ok(());
    }
    let status = |s: crate::state::HealthStatus| format!("{s:?}").to_uppercase();
    let findings = problems.iter().map(|f| FindingFacts {
        status: status(f.status),
        job: f.job.clone(),
        check: f.check.to_owned(),
        // Commands as they are to be typed on this host.
        text: f.text().replace("`agent ", &format!("`{} ", agent.command)),
    });
    let facts = CheckFacts {
        host: agent.config.host_name(),
        timezone: agent.config.timezone,
        at: now,
        status: status(crate::health::worst(problems.iter().map(|f| f.status))),
        findings: findings.collect(),
        command: agent.command.clone(),
    };
    tracing::debug!("telling: {summary}");
    plan::check(&agent.channels, &facts, now).enqueue(&agent.state, now)?;
    Ok(agent.state.set_fact(FactKey::CheckMailed, &same, now)?)
}

/// Where it is kept when it was last told that the state cannot be used: in the folder of the state, which
/// may still take a file.
const TOLD_FILE: &str = "check-told";

/// Tells that the state cannot be used, so that nothing is known of any backup: past the state, and unless
/// that was told within the last day.
pub fn state_unusable(
    config: &Config,
    command: &str,
    reason: &str,
    clock: Arc<dyn crate::clock::Clock>,
) -> Result<Delivery> {
    let now = clock.now();
    let told = config.state_dir.join(TOLD_FILE);
    let last = std::fs::read_to_string(&told).ok().and_then(|text| text.trim().parse::<DateTime<Utc>>().ok());
    if last.is_some_and(|at| at <= now && now - at < TELL_CHECK_AGAIN) {
        return Ok(Delivery::default());
    }
    let finding = FindingFacts {
        status: "UNKNOWN".to_owned(),
        job: None,
        check: "state".to_owned(),
        text: reason.to_owned(),
    };
    let facts = CheckFacts {
        host: config.host_name(),
        timezone: config.timezone,
        at: now,
        status: "UNKNOWN".to_owned(),
        findings: vec![finding],
        command: command.to_owned(),
    };
    let channels = channels(config)?;
    let due = plan::check(&channels, &facts, now);
    let delivery = block_on(outbox::tell_without_state(&config.state_dir, &due.messages, &channels, clock))?;
    // Where this cannot be kept, it is told more often than need be, which is the better mistake.
    let _ = crate::fsutil::write_atomic(&told, format!("{}\n", now.to_rfc3339()).as_bytes(), 0o644);
    Ok(delivery)
}

/// Queues a message about the agent itself to every channel with readers.
pub fn agent_trouble(agent: &Agent, title: &str, meaning: &str, details: &str, advice: &str) -> Result<()> {
    let now = agent.now();
    let facts = AgentFacts {
        host: agent.config.host_name(),
        timezone: agent.config.timezone,
        at: now,
        title: title.to_owned(),
        meaning: meaning.to_owned(),
        details: details.lines().map(str::to_owned).collect(),
        advice: Some(advice.to_owned()),
        command: agent.command.clone(),
    };
    Ok(plan::agent(&agent.channels, &facts, now).enqueue(&agent.state, now)?)
}
