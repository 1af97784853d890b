//! What the checks found, and troubles of the agent itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};

use super::block_on;
use crate::clock::{Clock, is_believable};
use crate::config::Config;
use crate::fsutil;
use crate::health::{self, Finding};
use crate::model::{ChannelName, RunId, TargetName, plural};
use crate::notify::facts::{AgentFacts, CheckFacts, FindingFacts};
use crate::notify::outbox::{self, Delivery};
use crate::notify::{Channel, plan};
use crate::ops::Agent;
use crate::ops::channels::channels;
use crate::state::{FactKey, HealthStatus};

/// How often the same findings of the health checks are mailed again.
const TELL_CHECK_AGAIN: TimeDelta = TimeDelta::hours(24);

fn was_told(at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    is_believable(at, now) && now - at < TELL_CHECK_AGAIN
}

/// Tells what the health checks found, unless the very same was told within the last day.
pub fn findings(agent: &Agent, summary: &str, problems: &[&Finding]) -> Result<()> {
    let now = agent.now();
    let told = agent.state.fact(FactKey::CheckMailed)?;
    let same = problems
        .iter()
        .map(|f| format!("{:?}/{}/{:?}", f.job, f.check, f.status))
        .collect::<Vec<_>>()
        .join(";");
    if told.is_some_and(|fact| fact.value == same && was_told(fact.at, now)) {
        return Ok(());
    }
    let status = |s: HealthStatus| format!("{s:?}").to_uppercase();
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
        status: status(health::worst(problems.iter().map(|f| f.status))),
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
    clock: Arc<dyn Clock>,
) -> Result<Delivery> {
    let now = clock.now();
    let told = config.state_dir.join(TOLD_FILE);
    let last = fs::read_to_string(&told).ok().and_then(|text| text.trim().parse::<DateTime<Utc>>().ok());
    if last.is_some_and(|at| was_told(at, now)) {
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
    let _ = fsutil::write_atomic(&told, format!("{}\n", now.to_rfc3339()).as_bytes(), 0o644);
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

/// Tells of backups that a target does not let us read back although it answers: since when they are whole no more, if
/// they are not, nobody knows. `read` are those that were read in this round, `unread` the others, with the reasons.
pub fn refused_to_be_read(
    agent: &Agent,
    target: &TargetName,
    read: &BTreeSet<RunId>,
    unread: &BTreeMap<RunId, String>,
) -> Result<()> {
    let key = |run: &RunId| format!("{run} at {target}");
    let fact = agent.state.fact(FactKey::NotReadBack)?;
    let known: BTreeMap<String, String> =
        fact.and_then(|fact| serde_json::from_str(&fact.value).ok()).unwrap_or_default();
    let kept: BTreeSet<String> = agent
        .state
        .copies(None, Some(target))?
        .iter()
        .filter(|copy| copy.status.is_kept() && !read.contains(&copy.run_id))
        .map(|copy| key(&copy.run_id))
        .collect();
    let mut now = known.clone();
    now.retain(|run, _| !run.ends_with(&format!(" at {target}")) || kept.contains(run));
    now.extend(unread.iter().map(|(run, reason)| (key(run), reason.clone())));
    if now == known {
        return Ok(());
    }
    let new: Vec<String> = now
        .iter()
        .filter(|(run, reason)| known.get(*run) != Some(reason))
        .map(|(run, reason)| format!("run {run}: {reason}"))
        .collect();
    if !new.is_empty() {
        agent_trouble(
            agent,
            &format!("{} at {target} cannot be read back", plural(new.len() as u64, "backup", "backups")),
            "They count as before, but nobody knows whether they are still whole, or could be restored",
            &new.join("\n"),
            &format!(
                "See that they can be read there; `{} verify ID --target {target}` tries one again",
                agent.command
            ),
        )?;
    }
    match now.is_empty() {
        true => agent.state.clear_fact(FactKey::NotReadBack)?,
        false => {
            let value = serde_json::to_string(&now).context("writing down what is not read back")?;
            agent.state.set_fact(FactKey::NotReadBack, &value, agent.now())?;
        }
    }
    Ok(())
}

/// Records which channels cannot be used as they should, for checks and metrics, and tells the others of what
/// is new.
pub(super) fn broken_channels(agent: &Agent) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_once_a_day_and_one_told_in_the_future_was_not() {
        let now: DateTime<Utc> = "2026-11-24T18:00:00Z".parse().unwrap();
        assert!(was_told(now, now) && was_told(now - TimeDelta::hours(23), now));
        assert!(!was_told(now - TELL_CHECK_AGAIN, now));
        assert!(!was_told(now + TimeDelta::days(365), now));
    }
}
