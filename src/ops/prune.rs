//! Retention carried out: decisions are made by [`crate::retention`], here they are acted upon.
//!
//! Here by what the state knows, in [`hosts`] by what the manifests at a target say.

pub mod hosts;

use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Agent;
use super::clock;
use super::isolate::{self, At, Reply, Request};
use super::verify::read_manifest;
use crate::config::{Keep, ReadBack};
use crate::event::{Interrupted, Progress};
use crate::manifest::Pin;
use crate::model::{JobName, Outcome, RunId, TargetName};
use crate::retention::{Counts, Decision, Policy, Status, StoredCopy, decide};
use crate::state::{CopyStatus, PresentCopy, State};
use crate::target::{Removal, Target};

/// How long a removal at a further target may make no progress.
const REMOVE_STALL: Duration = Duration::from_secs(10 * 60);

/// How long storage that says no, and not until when, is left alone.
const ASK_AGAIN: TimeDelta = TimeDelta::days(1);

/// Why a backup is still there that retention wanted to remove, though nothing failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum Stays {
    /// The storage does not let it go yet.
    Retained {
        /// Until when, where it says so.
        until: Option<DateTime<Utc>>,
    },
    /// Somebody pinned it at the target.
    Pinned {
        /// Who, when and why.
        pin: Pin,
    },
}

impl std::fmt::Display for Stays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stays::Retained { until: Some(until) } => {
                write!(f, "the storage keeps it until {}", until.format("%Y-%m-%d %H:%M UTC"))
            }
            Stays::Retained { until: None } => f.write_str("the storage does not let it go yet"),
            Stays::Pinned { pin } => write!(f, "{} pinned it at the target", pin.by),
        }
    }
}

/// What retention did for one job at one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Removed.
    pub removed: Vec<RunId>,
    /// Still there, and why.
    pub stays: Vec<(RunId, Stays)>,
}

/// Removes a backup unless it is pinned at the target, whatever this host knows of that.
pub fn remove(target: &dyn Target, location: &str, run: &RunId) -> Result<Option<Stays>> {
    if let Some(pin) = target.pin(location)? {
        // A name is free again once its backup was taken out; then the pin is that of a later run.
        let is_of_another = read_manifest(target, location).is_ok_and(|manifest| manifest.run_id != *run);
        if !is_of_another {
            return Ok(Some(Stays::Pinned { pin }));
        }
    }
    Ok(match target.remove(location, run)? {
        Removal::Removed => None,
        Removal::Retained { until } => Some(Stays::Retained { until }),
    })
}

/// The same in a child process.
fn remove_isolated(at: At, run: &RunId, progress: &Progress) -> Result<Option<Stays>> {
    let request = Request::Remove { at, run: run.clone() };
    match isolate::call(&request, REMOVE_STALL, None, progress, &mut |_| Ok(()))? {
        Reply::Removed => Ok(None),
        Reply::Stays { because } => Ok(Some(because)),
        other => bail!("an unexpected answer to a removal: {other:?}"),
    }
}

/// Records what became of a removal that was announced by [`State::copy_expiring`].
fn record_removal(
    state: &State,
    run: &RunId,
    target: &TargetName,
    stays: Option<&Stays>,
    now: DateTime<Utc>,
) -> Result<()> {
    match stays {
        None => state.copy_expired(run, target, now)?,
        Some(Stays::Retained { until }) => {
            state.copy_retained(run, target, until.unwrap_or(now + ASK_AGAIN))?;
        }
        Some(Stays::Pinned { pin }) => {
            state.copy_spared(run, target)?;
            state.pin_found(run, target, pin)?;
        }
    }
    Ok(())
}

/// A backup that was just made and read back, and is not in the state yet: run, start, outcome, stored bytes.
pub type Fresh<'a> = Option<(&'a RunId, DateTime<Utc>, Outcome, u64)>;

/// What retention would do for a job at a target, newest first.
pub fn plan(agent: &Agent, job: &JobName, target: &TargetName, fresh: Fresh<'_>) -> Result<Vec<Decision>> {
    let config = agent.target(target)?;
    let zone = agent.config.job.get(job).map_or(agent.config.timezone, |j| agent.config.job_timezone(j));
    let mut stored: Vec<StoredCopy> = Vec::new();
    for name in names(agent, job) {
        stored.extend(agent.state.present_copies(name, target)?.into_iter().map(stored_copy));
    }
    let unread = config.reads_back() == ReadBack::Never;
    let counts = if unread { Counts::Complete } else { Counts::Verified };
    stored.extend(fresh.map(|(run_id, started, outcome, bytes)| StoredCopy {
        run_id: run_id.clone(),
        started,
        outcome,
        status: if unread { Status::Complete } else { Status::Verified },
        pinned: false,
        retained_until: None,
        bytes,
    }));
    let trusted = clock::distrust(&agent.state, agent.now())?.is_none();
    Ok(decide(&stored, &policy(config.keep.as_ref()), counts, zone, agent.now(), trusted))
}

/// The job, and what it was called before: its backups are one.
fn names<'a>(agent: &'a Agent, job: &'a JobName) -> impl Iterator<Item = &'a JobName> {
    let aliases = agent.config.job.get(job).map_or(&[][..], |job| &job.aliases);
    std::iter::once(job).chain(aliases)
}

fn stored_copy(copy: PresentCopy) -> StoredCopy {
    let PresentCopy { run_id, started, outcome, status, bytes, pinned, retained_until } = copy;
    StoredCopy { run_id, started, outcome, status: status_of(status), pinned, retained_until, bytes }
}

fn status_of(status: CopyStatus) -> Status {
    match status {
        CopyStatus::Verified => Status::Verified,
        CopyStatus::Corrupt => Status::Corrupt,
        _ => Status::Complete,
    }
}

fn policy(keep: Option<&Keep>) -> Policy {
    let Some(keep) = keep else { return Policy::default() };
    Policy {
        last: keep.last,
        hourly: keep.hourly,
        daily: keep.daily,
        weekly: keep.weekly,
        monthly: keep.monthly,
        yearly: keep.yearly,
        within: keep.within,
        max_bytes: keep.max_bytes.map(|limit| limit.0),
        min_bytes: keep.min_bytes.map(|floor| floor.0),
    }
}

/// Carries retention out for a job at a target and records it. `primary` is the
/// target when it is one that this process may touch itself.
pub fn at_target(
    agent: &Agent,
    job: &JobName,
    target: &TargetName,
    primary: Option<&dyn Target>,
    progress: &Progress,
) -> Result<Pruned> {
    recorded(agent, job, target, carry_out(agent, job, target, primary, None, progress))
}

/// As [`at_target`] at the primary target, counting a backup that is about to be recorded.
pub fn with_fresh(
    agent: &Agent,
    job: &JobName,
    name: &TargetName,
    target: &dyn Target,
    fresh: Fresh<'_>,
    progress: &Progress,
) -> Result<Pruned> {
    recorded(agent, job, name, carry_out(agent, job, name, Some(target), fresh, progress))
}

fn recorded(agent: &Agent, job: &JobName, target: &TargetName, result: Result<Pruned>) -> Result<Pruned> {
    let error = result.as_ref().err().map(|e| format!("{e:#}"));
    agent.state.record_retention(job, target, error.as_deref(), agent.now())?;
    result
}

fn carry_out(
    agent: &Agent,
    job: &JobName,
    target: &TargetName,
    primary: Option<&dyn Target>,
    fresh: Fresh<'_>,
    progress: &Progress,
) -> Result<Pruned> {
    let decisions = plan(agent, job, target, fresh)?;
    let mut pruned = Pruned::default();
    let mut problems = Vec::new();
    // Removals that were cut short first: nothing is decided anew about them.
    let mut going = Vec::new();
    for name in names(agent, job) {
        going.extend(agent.state.half_removed_copies(name, target)?);
    }
    for decision in decisions.iter().filter(|decision| !decision.keep) {
        let copy = agent.state.copy(&decision.run_id, target)?;
        // Nothing that somebody else removed since.
        going.extend(copy.filter(|copy| copy.status.is_kept() || copy.status == CopyStatus::Corrupt));
    }
    for copy in going {
        let Some(location) = copy.location.clone() else { continue };
        // Recorded before anything is touched: a backup that is listed is a whole one. The removals before this one
        // may have taken hours, in which somebody pinned it.
        if !agent.state.copy_expiring(&copy.run_id, target)? {
            tracing::info!("run {} stays at target {target}: it was pinned meanwhile", copy.run_id);
            continue;
        }
        let result = match primary {
            Some(target) => remove(target, &location, &copy.run_id),
            None => remove_isolated(agent.at(target, location)?, &copy.run_id, progress),
        };
        match result {
            Ok(stays) => {
                record_removal(&agent.state, &copy.run_id, target, stays.as_ref(), agent.now())?;
                match stays {
                    None => pruned.removed.push(copy.run_id),
                    Some(because) => pruned.stays.push((copy.run_id, because)),
                }
            }
            Err(e) if e.is::<Interrupted>() => return Err(e),
            Err(e) => problems.push(format!("{e:#}")),
        }
    }
    if problems.is_empty() { Ok(pruned) } else { bail!("{}", problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::state::{EndedRun, FactKey, NewCopy, NewRun, RunTrigger};
    use crate::target::{Cache, DirectoryTarget, Mount, Scan, Sentinel, Space, Stage, StoredFile};

    /// A folder from which nothing is removed; what is said instead.
    struct Asked(DirectoryTarget, Box<dyn Fn() -> Removal + Send + Sync>);

    /// One that lets nothing go, until a time it names or does not.
    fn write_once(name: &TargetName, folder: &std::path::Path, until: Option<DateTime<Utc>>) -> Asked {
        let directory = DirectoryTarget::new(name.clone(), folder.to_owned(), Mount::Any);
        Asked(directory, Box::new(move || Removal::Retained { until }))
    }

    impl Target for Asked {
        fn name(&self) -> &TargetName {
            self.0.name()
        }
        fn probe(&self) -> Result<Option<Space>> {
            self.0.probe()
        }
        fn identify(&self, now: DateTime<Utc>) -> Result<crate::state::TargetIdentity> {
            self.0.identify(now)
        }
        fn initialise(&self, sentinel: &Sentinel) -> Result<Sentinel> {
            self.0.initialise(sentinel)
        }
        fn scan(&self, progress: &Progress) -> Result<Scan> {
            self.0.scan(progress)
        }
        fn probe_readable(&self, location: &str) -> Result<()> {
            self.0.probe_readable(location)
        }
        fn stage(&self, run: &RunId, locations: &[String]) -> Result<Box<dyn Stage>> {
            self.0.stage(run, locations)
        }
        fn open(&self, location: &str, file: &str, cache: Cache) -> Result<Box<dyn StoredFile>> {
            self.0.open(location, file, cache)
        }
        fn holds(&self, location: &str, run: &RunId) -> Result<bool> {
            self.0.holds(location, run)
        }
        fn remove(&self, _: &str, _: &RunId) -> Result<Removal> {
            Ok((self.1)())
        }
        fn pin(&self, location: &str) -> Result<Option<Pin>> {
            self.0.pin(location)
        }
        fn set_pin(&self, location: &str, run: &RunId, pin: Option<&Pin>) -> Result<()> {
            self.0.set_pin(location, run, pin)
        }
        fn unfinished(&self) -> Result<Vec<RunId>> {
            self.0.unfinished()
        }
        fn clean(&self, run: &RunId) -> Result<bool> {
            self.0.clean(run)
        }
    }

    struct At(DateTime<Utc>);

    impl Clock for At {
        fn now(&self) -> DateTime<Utc> {
            self.0
        }
    }

    /// Four verified backups, a day apart, of which one is kept; the last of 24 November 03:00.
    fn four(folder: &std::path::Path) -> (Agent, JobName, TargetName, Vec<RunId>) {
        let mut config = config::adhoc(&[], folder, None);
        let (name, target) = config.target.first_key_value().map(|(n, t)| (n.clone(), t.clone())).unwrap();
        let keep = Keep { last: Some(1), ..Keep::default() };
        config.target.insert(name.clone(), crate::config::TargetConfig { keep: Some(keep), ..target });
        let job = config.job.first_key_value().unwrap().0.clone();
        let start: DateTime<Utc> = "2026-11-21T03:00:00Z".parse().unwrap();
        let state = State::open(&config.state_dir, start).unwrap();
        let mut runs = Vec::new();
        for day in 0..4 {
            let started = start + TimeDelta::days(day);
            let run_id = RunId::generate(started);
            let run = NewRun {
                run_id: run_id.clone(),
                job: job.clone(),
                trigger: RunTrigger::Manual,
                scheduled_for: None,
                process: crate::lock::ProcessIdentity::current(),
                started,
            };
            state.begin_run(&run).unwrap();
            let copy = NewCopy {
                target: name.clone(),
                primary: true,
                status: CopyStatus::Verified,
                location: Some(format!("{day}")),
                bytes: 1000,
            };
            let ended = EndedRun::new(run_id.clone(), Outcome::Success, started + TimeDelta::minutes(1));
            state.end_run(&ended, &[copy], &[]).unwrap();
            runs.push(run_id);
        }
        let agent = Agent {
            config: Arc::new(config),
            state,
            clock: Arc::new(At(start + TimeDelta::days(3) + TimeDelta::hours(1))),
            channels: Arc::default(),
            command: "agent".to_owned(),
        };
        (agent, job, name, runs)
    }

    #[test]
    fn what_write_once_storage_does_not_let_go_is_retained_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let (mut agent, job, name, runs) = four(folder.path());
        let until = "2026-12-24T03:00:00Z".parse().unwrap();
        let target = write_once(&name, folder.path(), Some(until));
        let prune = |agent: &Agent| at_target(agent, &job, &name, Some(&target), &Progress::default());

        let pruned = prune(&agent).unwrap();
        assert!(pruned.removed.is_empty(), "{pruned:?}");
        let stays = Stays::Retained { until: Some(until) };
        let retained: Vec<_> = pruned.stays.iter().map(|(run, because)| (run, because == &stays)).collect();
        assert_eq!(retained, [(&runs[2], true), (&runs[1], true), (&runs[0], true)]);
        // They are backups as before, no removal is under way, and the pass went well.
        let copies = agent.state.present_copies(&job, &name).unwrap();
        assert!(copies.iter().all(|copy| copy.status == CopyStatus::Verified), "{copies:?}");
        assert_eq!(copies.iter().filter(|copy| copy.retained_until == Some(until)).count(), 3);
        assert!(agent.state.half_removed_copies(&job, &name).unwrap().is_empty());
        let snapshot = agent.state.snapshot(agent.now()).unwrap();
        assert_eq!(snapshot.jobs[0].targets[&name].retention_error, None);
        // It is not tried again before its time, and then it is.
        assert_eq!(prune(&agent).unwrap(), Pruned::default());
        let shown = plan(&agent, &job, &name, None).unwrap()[1].to_string();
        assert!(shown.contains("the storage keeps it until 2026-12-24"), "{shown}");
        agent.clock = Arc::new(At(until));
        agent.state.set_fact(FactKey::SchedulerTick, "", until).unwrap();
        assert_eq!(prune(&agent).unwrap().stays.len(), 3);
    }

    #[test]
    fn storage_that_does_not_say_until_when_is_asked_again_a_day_later() {
        let folder = tempfile::tempdir().unwrap();
        let (mut agent, job, name, _) = four(folder.path());
        let target = write_once(&name, folder.path(), None);
        let prune = |agent: &Agent| at_target(agent, &job, &name, Some(&target), &Progress::default());
        assert_eq!(prune(&agent).unwrap().stays.len(), 3);
        assert_eq!(prune(&agent).unwrap().stays.len(), 0);
        agent.clock = Arc::new(At(agent.now() + ASK_AGAIN));
        assert_eq!(prune(&agent).unwrap().stays.len(), 3);
    }
    #[test]
    fn a_backup_that_is_pinned_while_others_are_removed_stays_though_the_target_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, job, name, runs) = four(folder.path());
        let directory = DirectoryTarget::new(name.clone(), folder.path().to_owned(), Mount::Any);
        let (state, at, run, now) = (agent.state.clone(), name.clone(), runs[0].clone(), agent.now());
        let somebody = move || {
            let pin = Pin::new(now, "root@web1".to_owned(), None);
            state.set_pin(&run, &at, Some(&pin)).unwrap();
            Removal::Removed
        };
        let target = Asked(directory, Box::new(somebody));
        let pruned = at_target(&agent, &job, &name, Some(&target), &Progress::default()).unwrap();
        assert_eq!((pruned.removed.len(), pruned.removed.contains(&runs[0])), (2, false));
        let copy = agent.state.copy(&runs[0], &name).unwrap().unwrap();
        assert_eq!((copy.status, copy.pinned), (CopyStatus::Verified, true));
    }

    #[test]
    fn a_clock_set_ahead_under_a_daemon_does_not_make_every_backup_old() {
        let folder = tempfile::tempdir().unwrap();
        let (mut agent, job, name, _) = four(folder.path());
        let mut config = (*agent.config).clone();
        let keep = Keep { within: Some(Duration::from_secs(30 * 86_400)), ..Keep::default() };
        config.target.get_mut(&name).unwrap().keep = Some(keep);
        agent.config = Arc::new(config);
        let going = |agent: &Agent| {
            plan(agent, &job, &name, None).unwrap().iter().filter(|decision| !decision.keep).count()
        };
        let alive = |agent: &Agent| {
            clock::alive(&agent.state, FactKey::SchedulerTick, "", agent.now()).unwrap();
        };
        alive(&agent);
        agent.clock = Arc::new(At(agent.now() + TimeDelta::days(40)));
        assert_eq!(going(&agent), 0);
        alive(&agent);
        assert_eq!(going(&agent), 0);
        // A host that was off for so long prunes a day later, by itself.
        agent.clock = Arc::new(At(agent.now() + TimeDelta::days(1)));
        assert_eq!(going(&agent), 3);
    }
}
