//! Looks at the machine that the health checks ask for: never at anything that can hang.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::isolate::{self, At, Reply, Request};
use super::verify::{Depth, verify};
use super::{Agent, reap};
use crate::config::{Concerns, Config, check_files};
use crate::crypt::KeyFiles;
use crate::event::Progress;
use crate::failpoint;
use crate::health::{self, Extra, Fails, Finding, SecretFile};
use crate::lock;
use crate::model::{JobName, TargetName};
use crate::mounts::Mounts;
use crate::state::{JobState, Origin, Snapshot, load_for_reading};

/// How long a look at a target may take.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// Whether a backup is whole, and what is wrong with it if not.
type Whole = Result<(), String>;

/// How long a look at a mounted primary target may take.
const LOOK_STALL: Duration = Duration::from_secs(10);

/// Answers the health checks, and records the answers. `extra` is what only a [`look`] can tell.
pub fn record(agent: &Agent, extra: &Extra) -> Result<Vec<Finding>> {
    let now = agent.now();
    let findings = health::findings(&agent.state.snapshot(now)?, &agent.config, now, extra);
    agent.state.record_health(&findings.iter().map(Finding::to_row).collect::<Vec<_>>(), now)?;
    Ok(findings)
}

/// The targets that jobs use.
pub fn used_targets(config: &Config) -> BTreeSet<TargetName> {
    config.job.values().flat_map(|job| &job.targets).cloned().collect()
}

/// Looks at a target in a child process: nobody who has something else to do touches what may be
/// a dead mount. What was found is recorded. True when it is back and copies wait for it: they are due at once,
/// however long the pause after the last attempt was to be.
pub fn probe(agent: &Agent, name: &TargetName) -> Result<bool> {
    let at = agent.at(name, "")?;
    let limit = failpoint::pause(PROBE_LIMIT);
    let deadline = Some(Instant::now() + limit);
    let reply = isolate::call(&Request::Probe { at }, limit, deadline, &Progress::default(), &mut |_| Ok(()));
    let now = agent.now();
    match reply {
        Ok(Reply::Probed { space }) => {
            let was_down = agent.state.probes()?.iter().any(|(probed, probe)| probed == name && !probe.up);
            agent.state.record_probe(name, now, true, space.map(|s| s.total), space.map(|s| s.free), None)?;
            return Ok(was_down && agent.state.retry_copies(Some(name), now)? > 0);
        }
        Ok(other) => bail!("an unexpected answer to a look at target {name}: {other:?}"),
        Err(error) => agent.state.record_probe(name, now, false, None, None, Some(&format!("{error:#}")))?,
    }
    Ok(false)
}

/// Which runs are dead, and whether the newest good backup of each job is where it should be. What seems wrong is looked
/// at once more by what the state says `now`: meanwhile a run may have ended, and its retention have removed what was
/// the newest backup before.
pub fn look(config: &Config, snapshot: &Snapshot, now: impl FnOnce() -> Option<Snapshot>) -> Extra {
    let found = look_once(config, snapshot);
    if found.dead_runs.is_empty() && found.backup_files.values().all(Result::is_ok) {
        return found;
    }
    now().map_or(found, |snapshot| look_once(config, &snapshot))
}

/// Files with secrets that jobs need and that cannot be used, as far as this user can tell. Those that lie on
/// another machine are left out: its file system may hang.
pub fn secret_files(config: &Config) -> BTreeMap<JobName, Vec<SecretFile>> {
    let mounts = Mounts::read().unwrap_or_default();
    let here = |file: &Path| {
        mounts.follow(file).is_ok_and(|(_, mount)| mount.is_none_or(|mount| !mount.is_remote()))
    };
    let mut found: BTreeMap<JobName, Vec<SecretFile>> = BTreeMap::new();
    for problem in check_files(config, &here) {
        // Whoever may not look there knows nothing of it.
        if problem.is_denied() && !rustix::process::geteuid().is_root() {
            continue;
        }
        for (name, job) in &config.job {
            let fails = match problem.concerns() {
                Concerns::Job(of) => (of == name.as_str()).then_some(Fails::Runs),
                Concerns::Drill(of) => (of == name.as_str()).then_some(Fails::Drills),
                Concerns::Encryption => {
                    let own = job.encryption.is_some();
                    (!own && config.encryption_of(job).is_some()).then_some(Fails::Runs)
                }
                Concerns::Target(of) => match job.targets.iter().position(|target| target.as_str() == of) {
                    None => None,
                    Some(0) => Some(Fails::Runs),
                    Some(at) => Some(Fails::Copies(job.targets[at].clone())),
                },
                Concerns::Channel => None,
            };
            if let Some(fails) = fails {
                let text = problem.message.clone();
                found.entry(name.clone()).or_default().push(SecretFile { fails, text });
            }
        }
    }
    found
}

/// The state once more, where it can be read.
pub fn snapshot_now(config: &Config, now: DateTime<Utc>) -> Option<Snapshot> {
    let (snapshot, origin) = load_for_reading(&config.state_dir, now).ok()?;
    (origin == Origin::Database).then_some(snapshot)
}

fn look_once(config: &Config, snapshot: &Snapshot) -> Extra {
    let mut extra = Extra { secret_files: secret_files(config), ..Extra::default() };
    for state in &snapshot.jobs {
        let job = &state.row.job;
        if let Some(run) = &state.running {
            let path = config.state_dir.join("locks").join(format!("{job}.lock"));
            if lock::is_free(&path).unwrap_or(false) && !reap::is_alive(run) {
                extra.dead_runs.insert(run.run_id.clone());
            }
        }
        match files_of(config, job, state, snapshot) {
            Some((_, Ok(found))) => {
                extra.backup_files.insert(job.clone(), found);
            }
            // A target that is away says nothing about the backups there.
            Some((target, Err(away))) => {
                extra.targets_away.insert(target, format!("{away:#}"));
            }
            None => {}
        }
    }
    extra
}

/// Whether manifest and files of the newest good backup are at the primary target; an error when that target
/// cannot be looked at.
fn files_of(
    config: &Config,
    job: &JobName,
    state: &JobState,
    snapshot: &Snapshot,
) -> Option<(TargetName, Result<Whole>)> {
    let run = state.last_success.as_ref()?;
    let (name, location) = (run.target.as_ref()?, run.location.as_ref()?);
    let target = config.target.get(name)?;
    if !config.job.contains_key(job) {
        return None;
    }
    let progress = Progress::default();
    // Another share in its place is not a backup that is gone.
    let expected = snapshot.identities.get(name).cloned();
    let at = At::new(name, target, location.clone()).expecting(expected);
    // Nothing that may hang, or costs requests, is waited for by whoever only looks.
    let report = if target.requires_mount() || target.folder().is_none() {
        let request =
            Request::Verify { at, run: run.run_id.clone(), depth: Depth::Lengths, keys: KeyFiles::default() };
        match isolate::call(&request, LOOK_STALL, None, &progress, &mut |_| Ok(())) {
            Ok(Reply::Verified { report }) => Ok(report),
            Ok(other) => Err(anyhow::anyhow!("an unexpected answer: {other:?}")),
            Err(e) => Err(e),
        }
    } else {
        at.open().and_then(|target| verify(target.as_ref(), location, &run.run_id, Depth::Lengths, &progress))
    };
    Some((name.clone(), report.map(|report| report.result())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::ProcessIdentity;
    use crate::model::{Outcome, RunId};
    use crate::ops::copies::Host;
    use crate::state::{EndedRun, NewRun, RunTrigger};

    #[test]
    fn a_run_that_ends_while_it_is_looked_at_is_no_dead_one() {
        let host = Host::new(&["nas"]);
        let agent = host.agent();
        let (now, run_id) = (agent.now(), RunId::generate(agent.now()));
        agent
            .state
            .begin_run(&NewRun {
                run_id: run_id.clone(),
                job: "web".parse().unwrap(),
                trigger: RunTrigger::Manual,
                scheduled_for: None,
                process: ProcessIdentity { boot_id: "another".to_owned(), ..ProcessIdentity::current() },
                started: now,
            })
            .unwrap();
        let before = agent.state.snapshot(now).unwrap();
        let dead_runs = || look(&agent.config, &before, || agent.state.snapshot(now).ok()).dead_runs;
        assert_eq!(dead_runs(), BTreeSet::from([run_id.clone()]));
        agent.state.end_run(&EndedRun::new(run_id, Outcome::Success, now), &[], &[]).unwrap();
        assert_eq!(dead_runs(), BTreeSet::new());
    }
}
