//! Who is told: the configuration's channels, and what of a run or of passing time goes into the outbox.
//!
//! What is due is decided and rendered in [`crate::notify`]; here it gets its context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};

use super::Agent;
use super::channels::channels;
use crate::config::{Config, TargetConfig};
use crate::event::Looked;
use crate::model::{ChannelName, ComponentName, JobName, RunId, TargetName};
use crate::notify::facts::{AgentFacts, CheckFacts, CopyFacts, FindingFacts, RunFacts, VerifyFacts};
use crate::notify::outbox::{self, Delivery};
use crate::notify::{Channel, gather, plan};
use crate::state::{Copy, CopyStatus, EndedRun, FactKey, NewMessage, Run};

/// How often the same findings of the health checks are mailed again.
const TELL_CHECK_AGAIN: TimeDelta = TimeDelta::hours(24);

impl Agent {
    /// The channels that tell about a job. One that the configuration no longer has is told by all.
    fn channels_for(&self, job: &JobName) -> Vec<Arc<Channel>> {
        let wanted = self.config.job.get(job).and_then(|j| j.notify.as_ref());
        let all = self.channels.iter();
        all.filter(|c| wanted.is_none_or(|names| names.contains(&c.name)))
            .filter(|c| c.tells(job))
            .cloned()
            .collect()
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
        not_read_back: not_read_back(config),
        channels: Some(config.channels_for(job).into_iter().map(|(name, _)| name.clone()).collect()),
        paused: false,
        notes: Vec::new(),
    }
}

fn not_read_back(config: &Config) -> BTreeMap<TargetName, &'static str> {
    config.target.iter().filter_map(|(name, t)| Some((name.clone(), t.not_read_back()?))).collect()
}

fn target_paths(config: &Config) -> BTreeMap<TargetName, String> {
    config.target.iter().map(|(name, t)| (name.clone(), t.address(""))).collect()
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
    let copy = |(place, target): (usize, &TargetName)| {
        let not_read_back = agent.config.target.get(target).and_then(TargetConfig::not_read_back);
        let state = match (place, not_read_back) {
            (0, None) => CopyStatus::Verified,
            (0, Some(_)) => CopyStatus::Complete,
            _ => CopyStatus::Pending,
        };
        let detail = not_read_back.filter(|_| state == CopyStatus::Complete);
        CopyFacts {
            target: target.clone(),
            state: state.as_str().to_owned(),
            detail: detail.map(|why| Looked::NotAt(why).to_string()),
        }
    };
    config.targets.iter().enumerate().map(copy).collect()
}

/// Tells of a run without the state, which cannot be opened or written: through the spool, and straight.
pub fn without_state(
    config: &Config,
    facts: &RunFacts,
    now: DateTime<Utc>,
    clock: Arc<dyn crate::clock::Clock>,
) -> Result<Delivery> {
    let wanted = config.channels_for(&facts.job);
    let mut channels = channels(config);
    channels.retain(|channel| wanted.iter().any(|(name, _)| **name == channel.name));
    let due = plan::without_state(&channels, facts, now);
    block_on(outbox::tell_without_state(&config.state_dir, &due.messages, &channels, clock))
}

/// Notes that something beside the outcome failed; the next [`by_time`] tells it.
pub fn degraded(agent: &Agent, run: &RunId, text: &str) -> Result<()> {
    Ok(agent.state.add_degraded(run, text)?)
}

/// How a copy that is not there is named among what degraded a run.
pub fn copy_trouble(target: &TargetName) -> String {
    format!("copy {target}")
}

/// The same for a copy that nobody makes until somebody changed something.
fn copy_stop(target: &TargetName) -> String {
    format!("{} stopped", copy_trouble(target))
}

/// True for what degraded a run because its copy to a target is not there.
pub fn is_copy_trouble(text: &str, target: &TargetName) -> bool {
    [copy_trouble(target), copy_stop(target)]
        .iter()
        .any(|name| text.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(": ")))
}

/// Why a copy is not there, as it degrades its run: by another name when it is for good, so that it is told even to
/// those who know already that the copy is late.
pub fn copy_missing(agent: &Agent, copy: &Copy, error: Option<&str>) -> String {
    match error {
        Some(error) if copy.permanent => format!(
            "{}: {error}. Trying again does not mend this: put it right, then: {} tend --retry",
            copy_stop(&copy.target),
            agent.command
        ),
        error => {
            let why = error.unwrap_or("not made yet; it stays in the queue");
            format!("{}: {why}", copy_trouble(&copy.target))
        }
    }
}

/// Nothing is copied to a target until somebody changed something: that degrades the run at once, however late the
/// copy is.
pub fn copy_stopped(agent: &Agent, copy: &Copy, error: &str) -> Result<()> {
    let text = copy_missing(agent, &Copy { permanent: true, ..copy.clone() }, Some(error));
    agent
        .state
        .retain_degraded(&copy.run_id, |known| !is_copy_trouble(known, &copy.target) || *known == text)?;
    degraded(agent, &copy.run_id, &text)
}

/// A copy that was missed came late: the run is no longer degraded by it.
pub fn copy_came_after_all(agent: &Agent, copy: &Copy) -> Result<()> {
    agent.state.retain_degraded(&copy.run_id, |text| !is_copy_trouble(text, &copy.target))?;
    Ok(())
}

/// Puts into the outbox what is due by the passing of time or was not queued yet: reminders, digests,
/// degradations, recoveries after late copies.
pub fn by_time(agent: &Agent) -> Result<()> {
    let now = agent.now();
    broken_channels(agent)?;
    let jobs: Vec<_> = agent.config.job.keys().map(|job| agent.job_context(job)).collect();
    plan::periodic(&agent.state, &agent.channels, &jobs, now)?.enqueue(&agent.state, now)?;
    Ok(())
}

/// Records which channels cannot be used as they should, for checks and metrics, and tells the others of what
/// is new.
fn broken_channels(agent: &Agent) -> Result<()> {
    let now = agent.now();
    let found: BTreeMap<&ChannelName, String> = agent
        .channels
        .iter()
        .map(|channel| (&channel.name, channel.problems().join("; ")))
        .filter(|(_, problems)| !problems.is_empty())
        .collect();
    let value = serde_json::to_string(&found).context("writing down which channels cannot be used")?;
    let known = agent.state.fact(FactKey::ChannelsBroken)?;
    if known.as_ref().map_or("{}", |fact| fact.value.as_str()) == value {
        return Ok(());
    }
    let before: BTreeMap<ChannelName, String> =
        known.and_then(|fact| serde_json::from_str(&fact.value).ok()).unwrap_or_default();
    for (name, problems) in &found {
        if before.get(*name) == Some(problems) {
            continue;
        }
        let facts = AgentFacts {
            host: agent.config.host_name(),
            timezone: agent.config.timezone,
            at: now,
            title: format!("the channel {name} does not work as it should"),
            meaning:
                "Backups are made as ever. Messages for this channel wait for three days at most, or have \
                      their built-in texts; other channels are told as ever"
                    .to_owned(),
            details: vec![problems.clone()],
            advice: Some(format!(
                "Put it right, look at it with `{0} config check`, try it with `{0} notify test {name}`. A daemon \
                 is told by `systemctl reload backup-agent`",
                agent.command
            )),
            command: agent.command.clone(),
        };
        let others: Vec<&Arc<Channel>> = agent.channels.iter().filter(|c| c.name != **name).collect();
        plan::agent(&others, &facts, now).enqueue(&agent.state, now)?;
    }
    match found.is_empty() {
        true => agent.state.clear_fact(FactKey::ChannelsBroken)?,
        false => agent.state.set_fact(FactKey::ChannelsBroken, &value, now)?,
    }
    Ok(())
}

/// Tells the switches that want to hear of it that a run begins: queued here, and sent by a thread of its
/// own, since a backup does not wait for the network. [`Beginning::wait`] before the end is told, so that a
/// switch hears of the end last.
pub fn begun(agent: &Agent, job: &JobName, run: &RunId) -> Beginning {
    let queued = || {
        let now = agent.now();
        let due = plan::run_began(&agent.state, &agent.channels_for(job), job, run, now)?;
        due.enqueue(&agent.state, now)?;
        anyhow::Ok(!due.is_empty())
    };
    match queued() {
        Ok(false) => Beginning(None),
        Ok(true) => {
            let agent = agent.clone();
            let sending = move || drop(deliver(&agent));
            Beginning(thread::Builder::new().name("tell".to_owned()).spawn(sending).ok())
        }
        Err(e) => {
            // No reason to make no backup; and should nothing come of it, the switch raises the alarm.
            tracing::warn!("the beginning of run {run} is not told: {e:#}");
            Beginning(None)
        }
    }
}

/// The beginning of a run on its way to those who want to hear of it.
#[derive(Debug)]
pub struct Beginning(Option<thread::JoinHandle<()>>);

impl Beginning {
    /// Waits until it was sent, or given up for now: no longer than a channel's timeout.
    pub fn wait(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("telling the beginning of the run ended unexpectedly");
        }
    }
}

/// Queues what reading a copy back found, where it is news. To be called before the result is recorded.
pub fn verified(agent: &Agent, copy: &Copy, location: &str, problems: &[String]) -> Result<()> {
    use crate::state::CopyStatus;
    let ok = problems.is_empty();
    // Damage is news at a copy that counted, soundness at one that did not.
    if ok != (copy.status == CopyStatus::Corrupt) {
        return Ok(());
    }
    let now = agent.now();
    let context = agent.job_context(&copy.job);
    let other = |c: &Copy| !(c.run_id == copy.run_id && c.target == copy.target);
    let facts = VerifyFacts {
        job: copy.job.clone(),
        host: context.host.clone(),
        timezone: context.timezone,
        at: now,
        ok,
        run_id: copy.run_id.clone(),
        taken: copy.started,
        target: copy.target.clone(),
        location: location.to_owned(),
        problems: problems.to_vec(),
        newest_verified: gather::last_good_of(&agent.state, &context, &other)?,
        before: copy.verified_at,
        command: agent.command.clone(),
    };
    let channels = agent.channels_for(&copy.job);
    Ok(plan::verified(&agent.state, &channels, &facts, now)?.enqueue(&agent.state, now)?)
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

/// Tells of a run whose end was recorded before the state failed: what is told is how it ended, not the
/// state's trouble. A good one is told as degraded.
pub fn ended_without_state(
    agent: &Agent,
    job: &JobName,
    started: DateTime<Utc>,
    ended: &EndedRun,
    error: &anyhow::Error,
) -> Result<Delivery> {
    let now = agent.now();
    let context = context_of(&agent.config, &agent.command, job, now);
    let mut ended = ended.clone();
    if ended.outcome.is_good() {
        ended.degraded.push(format!("state: {error:#}"));
    }
    let mut facts = gather::ended(None, &context, started, &ended, None);
    if ended.outcome.is_good() {
        facts.copies = copies_of(agent, job, &ended);
    }
    without_state(&agent.config, &facts, now, Arc::clone(&agent.clock))
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
    let channels = channels(config);
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
