//! The freshness loop: looks at targets and backups, answers the health checks, and writes down what it found
//! for everybody who asks: the state, `status.json`, and the text file of metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::context::Shared;
use super::tend_loop::Trouble;
use crate::health::Finding;
use crate::lock;
use crate::log;
use crate::metrics;
use crate::model::{JobName, RunId, TargetName};
use crate::ops::{Agent, clock, looks, reap, starts};
use crate::state::{FactKey, HealthStatus};
use crate::web::Context as _;

/// How long the loop waits for looks that were begun; what comes later counts at the next turn.
const PROBE_WAIT: Duration = Duration::from_secs(5);
/// The shortest time between two turns, however often the loop is woken.
const REST: Duration = Duration::from_secs(1);

/// Turns every `check_interval`, and when something has changed.
pub(super) fn run(shared: &Arc<Shared>) {
    let looking = Looking::default();
    let mut trouble = Trouble::default();
    let mut textfile = Trouble::default();
    let mut known = BTreeMap::new();
    let mut looked: Option<Instant> = None;
    while !shared.is_stopping() {
        let agent = shared.agent();
        let interval = agent.config.check_interval;
        if looked.is_none_or(|at| at.elapsed() >= interval) {
            looked = Some(Instant::now());
            looking.begin(shared, &agent);
            looking.wait(PROBE_WAIT);
        }
        trouble.note("the health checks", turn(shared, &agent, &mut known, &mut textfile));
        thread::sleep(REST.min(interval));
        shared.health.wait(interval.saturating_sub(looked.map_or(interval, |at| at.elapsed())));
    }
}

/// Answers the checks, and writes the answers down.
fn turn(
    shared: &Shared,
    agent: &Agent,
    known: &mut BTreeMap<(Option<JobName>, &'static str), HealthStatus>,
    textfile: &mut Trouble,
) -> Result<()> {
    let now = agent.now();
    let dead = agent
        .state
        .all_running()?
        .into_iter()
        .filter(|run| lock::is_free(&agent.lock_path(&run.job)).unwrap_or(false) && !reap::is_alive(run));
    let mut dead: BTreeSet<RunId> = dead.map(|run| run.run_id).collect();
    if !dead.is_empty() {
        // One that ended between the two questions is none of them.
        let running: BTreeSet<RunId> = agent.state.all_running()?.into_iter().map(|run| run.run_id).collect();
        dead.retain(|run| running.contains(run));
    }
    shared.change_extra(|extra| extra.dead_runs = dead);
    let findings = looks::record(agent, &shared.extra())?;
    log_changes(&findings, &agent.command, known);
    clock::alive(&agent.state, FactKey::AgentHeartbeat, &std::process::id().to_string(), now)?;
    if let Some((at, by)) = shared.take_scraped() {
        agent.state.set_fact(FactKey::MetricsScraped, &by, at)?;
    }
    let progress =
        agent.config.job.keys().filter_map(|job| Some((job.clone(), shared.progress(job)?.ratio()?)));
    let trouble = metrics::publish(&agent.state, &agent.config, progress.collect(), now)?;
    textfile.note("metrics", trouble.map_or(Ok(()), |text| Err(anyhow::anyhow!(text))));
    Ok(())
}

/// The log tells what became wrong, and what became right again.
fn log_changes(
    findings: &[Finding],
    command: &str,
    known: &mut BTreeMap<(Option<JobName>, &'static str), HealthStatus>,
) {
    let before = std::mem::take(known);
    for finding in findings {
        let key = (finding.job.clone(), finding.check);
        let was = before.get(&key).copied().unwrap_or(HealthStatus::Ok);
        let job = finding.job.as_ref().map(JobName::as_str);
        match (was, finding.status) {
            (was, is) if was == is => {}
            (_, HealthStatus::Ok) => {
                tracing::info!(target: log::HEALTH, job, "check {}: in order again: {}", finding.check, finding.message)
            }
            (_, is) => {
                // As the program is called here, so that it can be typed.
                let text = finding.text().replace("`agent ", &format!("`{command} "));
                tracing::warn!(target: log::HEALTH, job, "check {} is {is}: {text}", finding.check)
            }
        }
        known.insert(key, finding.status);
    }
}

/// The looks at targets and backups that are under way. Each may hang, so each has a thread, and none is begun
/// a second time before it has ended.
#[derive(Clone, Default)]
struct Looking(Arc<Mutex<BTreeSet<Look>>>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Target(TargetName),
    Backups,
}

impl Looking {
    fn under_way(&self) -> std::sync::MutexGuard<'_, BTreeSet<Look>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn begin(&self, shared: &Arc<Shared>, agent: &Arc<Agent>) {
        let targets = looks::used_targets(&agent.config).into_iter().map(Look::Target);
        for look in targets.chain([Look::Backups]) {
            if !self.under_way().insert(look.clone()) {
                continue;
            }
            let ended = LookEnded { looking: self.clone(), look };
            let (shared, agent) = (Arc::clone(shared), Arc::clone(agent));
            let spawned = thread::Builder::new().name("look".to_owned()).spawn(move || {
                let result = match &ended.look {
                    Look::Target(name) => looks::probe(&agent, name).map(|copies_wait| {
                        if copies_wait {
                            shared.copies.wake();
                        }
                    }),
                    Look::Backups => backups(&shared, &agent),
                };
                if let Err(error) = result {
                    tracing::warn!(target: log::HEALTH, "{error:#}");
                }
            });
            if let Err(error) = spawned {
                tracing::error!("no thread to look at targets: {error}");
            }
        }
    }

    fn wait(&self, limit: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < limit && !self.under_way().is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

struct LookEnded {
    looking: Looking,
    look: Look,
}

impl Drop for LookEnded {
    fn drop(&mut self) {
        self.looking.under_way().remove(&self.look);
    }
}

/// Looks whether the newest backup of each job is where it was stored, and whether anything starts a job twice.
fn backups(shared: &Shared, agent: &Agent) -> Result<()> {
    let now = agent.now();
    let found = looks::look(&agent.config, &agent.state.snapshot(now)?, || agent.state.snapshot(now).ok());
    let duplicates = starts::duplicates(&agent.config, &agent.command, now);
    shared.change_extra(|extra| {
        extra.backup_files = found.backup_files;
        extra.targets_away = found.targets_away;
        extra.duplicates = duplicates;
    });
    Ok(())
}
