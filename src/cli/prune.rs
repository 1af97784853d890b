//! `agent prune`: what the retention policy lets expire, by the state or by the manifests at a target.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::args::{Global, Prune};
use super::common;
use super::output::{self, Table};
use super::{code, target};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TargetConfig};
use crate::event::Progress;
use crate::model::{ByteSize, RunId, TargetName, plural};
use crate::ops::isolate::At;
use crate::ops::prune::hosts::{self, Group, Rules};
use crate::ops::prune::{self, Stays};
use crate::ops::{Agent, clock, scan};
use crate::retention::Decision;
use crate::state::{State, StateError};

pub fn prune(global: &Global, args: &Prune) -> Result<u8> {
    let mut config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::known_target(&config, args.target.as_ref())?;
    if let Some(keep) = &args.keep {
        let meant = |name: &TargetName| args.target.as_ref().is_none_or(|target| target == name);
        for (_, target) in config.target.iter_mut().filter(|(name, _)| meant(name)) {
            target.keep = Some(keep.clone());
        }
    }
    if by_manifests(global, args, &config)? {
        return at_target(global, args, &config);
    }
    if let Some(job) = &args.job {
        common::known_job(&config, job)?;
    }
    let agent = if args.dry_run {
        common::open_reading(global, config)?
    } else {
        common::open_existing(global, config)?
    };
    of_jobs(&agent, args)
}

/// Whether it is the manifests that say what is there. Somebody who has jobs and lost the state must say so: the
/// target may hold the backups of others.
fn by_manifests(global: &Global, args: &Prune, config: &Config) -> Result<bool> {
    if args.host.is_some() || args.all_hosts {
        return Ok(true);
    }
    let has_state = match State::open_read_only(&config.state_dir) {
        Ok(_) => true,
        Err(StateError::NotFound { .. }) => false,
        // A state of an earlier version is one.
        Err(StateError::NeedsMigration { .. }) => true,
        Err(e) => return Err(e.into()),
    };
    let used = |name: &TargetName| config.job.values().any(|job| job.targets.contains(name));
    Ok(match &args.target {
        _ if global.backups.is_some() => !has_state,
        Some(target) => !has_state || !used(target),
        None => config.job.is_empty(),
    })
}

/// The lines of a plan, and what is said about it.
struct Answer {
    json: bool,
    values: Vec<Value>,
    said: bool,
}

impl Answer {
    /// Shown with `--json`.
    fn values(&mut self, values: impl Iterator<Item = Value>) {
        if self.json {
            self.values.extend(values);
        }
    }

    /// Shown without.
    fn table(&mut self, heading: &str, decisions: &[Decision]) {
        self.said |= !decisions.is_empty();
        if self.json {
            return;
        }
        let mut table = Table::new(&["run", "does", "size", "because"]);
        for decision in decisions {
            table.row(vec![
                decision.run_id.to_string(),
                if decision.keep { "stays" } else { "goes" }.to_owned(),
                ByteSize(decision.bytes).to_string(),
                decision.reasons.join("; "),
            ]);
        }
        if !table.is_empty() {
            self.line(&format!("{heading}\n{}", table.render(Some(1))));
        }
    }

    fn line(&mut self, text: &str) {
        self.said = true;
        if !self.json {
            output::print(text);
        }
    }

    fn end(self) -> Result<()> {
        if self.json {
            output::json(&self.values)?;
        } else if !self.said {
            output::print("there are no backups\n");
        }
        Ok(())
    }
}

fn would_go<'d>(decisions: impl Iterator<Item = &'d Decision>) -> String {
    let going: Vec<_> = decisions.filter(|decision| !decision.keep).collect();
    let bytes = ByteSize(going.iter().map(|decision| decision.bytes).sum());
    format!("{} would be removed, {bytes}\n\n", plural(going.len() as u64, "backup", "backups"))
}

/// What became of the removals, in a line; `stays` are those that nothing failed with.
fn was_done(removed: usize, stays: &[(RunId, Stays)]) -> String {
    let mut text = format!("{} removed", plural(removed as u64, "backup", "backups"));
    for (run, because) in stays {
        text.push_str(&format!("\n{run} stays: {because}"));
    }
    text.push_str("\n\n");
    text
}

fn of_jobs(agent: &Agent, args: &Prune) -> Result<u8> {
    let mut answer = Answer { json: args.json, values: Vec::new(), said: false };
    let mut failed = false;
    if let Some(why) = clock::distrust(&agent.state, agent.now())? {
        output::warn(&format!(
            "{why}: nothing is removed while that is so, nor for a day after it was noted"
        ));
    }
    for (job, config) in
        agent.config.job.iter().filter(|(name, _)| args.job.as_ref().is_none_or(|j| j == *name))
    {
        for (position, target) in config.targets.iter().enumerate() {
            if args.target.as_ref().is_some_and(|t| t != target) {
                continue;
            }
            let decisions = prune::plan(agent, job, target, None)?;
            answer.table(&format!("{job} at {target}"), &decisions);
            answer.values(decisions.iter().map(|decision| {
                json!({
                    "job": job, "target": target, "run_id": decision.run_id, "keep": decision.keep,
                    "bytes": decision.bytes, "reasons": decision.reasons,
                })
            }));
            if args.dry_run {
                if !decisions.is_empty() {
                    answer.line(&would_go(decisions.iter()));
                }
                continue;
            }
            let primary = (position == 0).then(|| agent.open_target(target)).transpose()?;
            match prune::at_target(agent, job, target, primary.as_deref(), &Progress::default()) {
                Ok(pruned) if !decisions.is_empty() => {
                    answer.line(&was_done(pruned.removed.len(), &pruned.stays));
                }
                Ok(_) => {}
                Err(e) => {
                    output::error(&e);
                    failed = true;
                }
            }
        }
    }
    answer.end()?;
    if !args.dry_run {
        common::publish(agent)?;
    }
    Ok(if failed { code::FAILURE } else { code::OK })
}

/// By the manifests, for a target whose backups no state here knows.
fn at_target(global: &Global, args: &Prune, config: &Config) -> Result<u8> {
    let name = args.target.clone().map_or_else(|| target::only_target(config), Ok)?;
    let settings = config.target.get(&name).context("the target is gone from the configuration")?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let state = state_here(global, args, config)?;
    let expected = state.as_ref().map(|state| state.target_identity(&name)).transpose()?.flatten();
    let at = At::new(&name, settings, "").expecting(expected);
    let found = scan::scan(at.clone(), &progress)?;
    for unread in &found.unread {
        output::error(&anyhow::anyhow!("{}: {}", unread.location, unread.error));
    }
    let now = SystemClock.now();
    let rules = Rules {
        keep: settings.keep.as_ref(),
        zone: config.timezone,
        now,
        clock_is_right: args.clock_is_right,
    };
    let mut plan = hosts::plan(&found, &name, state.as_ref(), &rules)?;
    // A host with jobs of its own that lost its state means its own backups, unless it says otherwise.
    let own = || config.host_name();
    let host = match (&args.host, args.all_hosts || config.job.is_empty() || global.backups.is_some()) {
        (Some(host), _) => Some(host.clone()),
        (None, true) => None,
        (None, false) => Some(own()),
    };
    let hosts: Vec<String> = plan.groups.iter().map(|group| group.host.clone()).collect();
    plan.groups.retain(|group| {
        host.as_ref().is_none_or(|host| group.host == *host)
            && args.job.as_ref().is_none_or(|job| group.job == *job)
    });
    if plan.groups.is_empty() && !hosts.is_empty() {
        let mut hosts = hosts;
        hosts.dedup();
        bail!("target {name} has no such backups; it has some of: {}", hosts.join(", "));
    }
    if let Some(why) = &plan.clock {
        output::warn(&format!("{why}: nothing is removed; when the clock is right say --clock-is-right"));
    }
    let mut answer = Answer { json: args.json, values: Vec::new(), said: false };
    let mut failed = !found.unread.is_empty();
    for group in &mut plan.groups {
        let result = of_group(group, &at, settings, state.as_ref(), &rules, args, &progress, &mut answer);
        match result {
            Ok(good) => failed |= !good,
            Err(e) if e.is::<crate::event::Interrupted>() => return Err(e),
            Err(e) => {
                output::error(&e.context(format!("{} of {}", group.job, group.host)));
                failed = true;
            }
        }
    }
    answer.end()?;
    Ok(if failed { code::FAILURE } else { code::OK })
}

/// The state of this host, which is kept right when it knows some of the backups. None is made.
fn state_here(global: &Global, args: &Prune, config: &Config) -> Result<Option<State>> {
    match State::open_read_only(&config.state_dir) {
        Err(StateError::NotFound { .. }) => Ok(None),
        Ok(state) if args.dry_run => Ok(Some(state)),
        Ok(_) | Err(StateError::NeedsMigration { .. }) => {
            Ok(Some(common::open(global, config.clone())?.state))
        }
        Err(e) => Err(e.into()),
    }
}

/// One job of one host. False when something could not be removed.
#[allow(clippy::too_many_arguments)] // the steps of one function, apart only to be read
fn of_group(
    group: &mut Group,
    at: &At,
    settings: &TargetConfig,
    state: Option<&State>,
    rules: &Rules<'_>,
    args: &Prune,
    progress: &Progress,
    answer: &mut Answer,
) -> Result<bool> {
    group.confirm(at, rules, progress)?;
    let of_installation = match &group.instance {
        Some(id) => format!(" (installation {})", id.get(..8).unwrap_or(id)),
        None => String::new(),
    };
    answer.table(
        &format!("{} of {}{of_installation} at {}", group.job, group.host, at.target),
        &group.decisions,
    );
    for note in &group.notes {
        output::warn(&format!("{} of {}: {note}", group.job, group.host));
    }
    if settings.keep.is_none() {
        answer.line(&format!("[target.{}] has no `keep`, and --keep was not said\n\n", at.target));
    }
    let mut done: HashMap<RunId, String> = HashMap::new();
    let mut good = true;
    if args.dry_run {
        answer.line(&would_go(group.decisions.iter()));
    } else {
        let (mut removed, mut stays) = (0, Vec::new());
        let mut told = |run: &RunId, result: Result<Option<Stays>>| match result {
            Ok(None) => {
                removed += 1;
                done.insert(run.clone(), "removed".to_owned());
            }
            Ok(Some(because)) => {
                done.insert(run.clone(), because.to_string());
                stays.push((run.clone(), because));
            }
            Err(e) => {
                done.insert(run.clone(), format!("failed: {e:#}"));
                output::error(&e.context(format!("run {run} was not removed")));
                good = false;
            }
        };
        let carried = group.carry_out(at, state, rules.now, progress, &mut told);
        answer.line(&was_done(removed, &stays));
        carried?;
    }
    let started: HashMap<&RunId, DateTime<Utc>> =
        group.found.iter().map(|found| (&found.run_id, found.started)).collect();
    answer.values(group.decisions.iter().map(|decision| {
        json!({
            "host": group.host, "job": group.job, "installation": group.instance, "target": at.target,
            "run_id": decision.run_id, "started": started.get(&decision.run_id), "keep": decision.keep,
            "bytes": decision.bytes, "reasons": decision.reasons, "became": done.get(&decision.run_id),
        })
    }));
    Ok(good)
}
