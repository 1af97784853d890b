//! Drills: a backup restored into a scratch folder and scratch databases, counted, compared, asked, and removed
//! again.
//!
//! | file | what it does |
//! | --- | --- |
//! | `prove` | restores and compares, in the child process that touches the target |
//! | `databases` | dumps loaded into databases that are dropped again |
//! | `checks` | what the configuration wants to be true of the restored files and databases |
//! | `scratch` | the folder it all happens in, and those that dead drills left |

mod checks;
mod databases;
mod prove;
mod scratch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

pub use prove::{Proof, prove};

use super::Agent;
use super::isolate::{self, At, Reply, Request};
use super::{at_work, keys, locks};
use crate::clock::is_believable;
use crate::config::DrillConfig;
use crate::crypt::KeyFiles;
use crate::event::{Interrupted, Progress, is_interruption};
use crate::lock::{FileLock, ProcessIdentity};
use crate::model::{JobName, RunId, TargetName};
use crate::schedule::Schedule;
use crate::state::{Copy, Drill, DrillResult, NewDrill, RunTrigger};
use databases::Databases;

/// How long a restore may make no progress.
const STALL: Duration = Duration::from_secs(300);
/// How many runs back a failed drill is looked for when a good one takes it back.
const RUNS_BACK: usize = 200;
/// How what a drill found is named among what degraded a run.
const NAME: &str = "drill";

/// Makes a drill of a job's newest good backup, at `target` or where the configuration says. What is wrong
/// with the backup stands in the record that is returned, and is recorded and told; an error means that there
/// was no drill.
pub fn drill(
    agent: &Agent,
    job: &JobName,
    target: Option<&TargetName>,
    keys: &KeyFiles,
    progress: &Arc<Progress>,
) -> Result<Drill> {
    let _lock = lock(agent, job)?;
    reap(agent)?;
    let wanted = wanted(agent, job)?;
    let keys = keys_of(agent, job, &wanted, keys)?;
    let copy = newest(agent, job, target.or(wanted.target.as_ref()))?;
    let location = copy.location.clone().context("the backup has no folder")?;
    let base = scratch::base(agent, &wanted)?;
    let folder = scratch::name(&base, &copy.run_id);
    let name = folder.to_str().context("the path of the scratch folder must be UTF-8")?.to_owned();
    let _at_work = at_work::begin(name.as_str());
    let id = agent.state.begin_drill(&NewDrill {
        job: job.clone(),
        run_id: copy.run_id.clone(),
        target: copy.target.clone(),
        folder: name,
        process: ProcessIdentity::current(),
        started: agent.now(),
    })?;
    let at = agent.at(&copy.target, location)?;
    let mut databases = Databases::new(agent, job, &wanted, id, &folder, progress);
    let outcome = scratch::make(&folder)
        .and_then(|()| conduct(agent, job, (&copy, at, &keys), &folder, &wanted, &mut databases, progress));
    // The databases first: their logins need the folder.
    let mut left = databases.remove();
    left.extend(scratch::remove(&folder).err().map(|e| format!("the scratch folder is left behind: {e:#}")));
    let outcome = outcome.map(|mut result| {
        result.problems.extend(left);
        result
    });
    let result = match outcome {
        Ok(result) => result,
        Err(e) if progress.is_cancelled() || is_interruption(&e) => {
            agent.state.forget_drill(id)?;
            return Err(Interrupted.into());
        }
        // Removed by retention while it was being restored: that says nothing about backups.
        Err(e) if !still_there(agent, &copy)? => {
            agent.state.forget_drill(id)?;
            return Err(e.context(format!("run {} expired during its drill", copy.run_id)));
        }
        Err(e) => DrillResult { problems: vec![format!("{e:#}")], ..DrillResult::default() },
    };
    agent.state.end_drill(id, &result, agent.now())?;
    tell(agent, job, (&copy.run_id, &copy.target), &result)?;
    agent.state.drills(job)?.last.context("the drill was recorded and is not there")
}

fn lock(agent: &Agent, job: &JobName) -> Result<FileLock> {
    locks::beside(agent, &format!("{job}.drill"))?
        .with_context(|| format!("a drill of job {job} is under way"))
}

/// What the configuration says about a job's drills; the defaults where it says nothing.
fn wanted(agent: &Agent, job: &JobName) -> Result<DrillConfig> {
    Ok(agent.job(job)?.drill.clone().unwrap_or_default())
}

/// The keys that open the job's backups: those given, else those of the configuration. None for an encrypted job
/// is no drill that failed, but none at all.
fn keys_of(agent: &Agent, job: &JobName, wanted: &DrillConfig, given: &KeyFiles) -> Result<KeyFiles> {
    let config = agent.job(job)?;
    let mut keys = keys::files(&agent.config, Some(config), given);
    if keys.is_empty() {
        keys.identities.extend(wanted.identity_file.clone());
    }
    if keys.is_empty() && agent.config.encryption_of(config).is_some() {
        bail!(
            "backups of job {job} are encrypted: give the file with the private key, with --identity FILE or as              `identity_file` in [job.{job}.drill]"
        );
    }
    Ok(keys)
}

/// The newest good backup of the job at a target, the primary unless another is named.
fn newest(agent: &Agent, job: &JobName, target: Option<&TargetName>) -> Result<Copy> {
    let target = match target {
        Some(target) => target,
        None => agent.job(job)?.targets.first().with_context(|| format!("job {job} has no target"))?,
    };
    agent.target(target)?;
    let copies = agent.state.copies(Some(job), Some(target))?;
    copies
        .into_iter()
        .find(|c| c.status.is_kept() && c.outcome.is_good() && !c.imported && c.location.is_some())
        .with_context(|| format!("job {job} has no good backup at {target} that could be restored"))
}

fn still_there(agent: &Agent, copy: &Copy) -> Result<bool> {
    let found = agent.state.copy(&copy.run_id, &copy.target)?;
    Ok(found.is_some_and(|copy| copy.status != crate::state::CopyStatus::Expired))
}

/// Everything between the making of the folder and its removal.
fn conduct(
    agent: &Agent,
    job: &JobName,
    (copy, at, keys): (&Copy, At, &KeyFiles),
    folder: &Path,
    wanted: &DrillConfig,
    databases: &mut Databases<'_>,
    progress: &Progress,
) -> Result<DrillResult> {
    let request = Request::Drill {
        at,
        run: copy.run_id.clone(),
        folder: folder.to_path_buf(),
        sample: wanted.sample as usize,
        keys: keys.clone(),
    };
    let proof = match isolate::call(&request, STALL, None, progress, &mut |_| Ok(()))? {
        Reply::Drilled { proof } => proof,
        other => bail!("an unexpected answer to a drill: {other:?}"),
    };
    let mut result = DrillResult {
        restore_ms: proof.restore_ms,
        bytes: proof.bytes,
        entries: proof.entries,
        compared: proof.compared,
        changed: proof.changed,
        problems: proof.problems.clone(),
        ..DrillResult::default()
    };
    databases.load(&proof, &mut result)?;
    // Without restored files every check fails, which says nothing more.
    if proof.restore_ms.is_some() {
        let sources = &agent.job(job)?.source;
        for (name, check) in &wanted.check {
            result.checks += 1;
            let subject = checks::Subject { folder, proof: &proof, databases, sources, copy };
            match checks::check(check, &subject, progress) {
                Ok(()) => {}
                Err(e) if progress.is_cancelled() => return Err(e),
                Err(e) => result.problems.push(format!("check {name}: {e:#}")),
            }
        }
    }
    Ok(result)
}

/// A failed drill degrades the newest run, and is told with it; a good one takes that back.
fn tell(agent: &Agent, job: &JobName, copy: (&RunId, &TargetName), result: &DrillResult) -> Result<()> {
    let own = |text: &str| text.starts_with(NAME);
    let runs = agent.state.runs(Some(job), RUNS_BACK)?;
    let ended = || runs.iter().filter(|run| run.ended.is_some() && run.trigger != RunTrigger::Import);
    for run in ended().filter(|run| run.degraded.iter().any(|text| own(text))) {
        agent.state.retain_degraded(&run.run_id, |text| !own(text))?;
    }
    if let (Some(text), Some(newest)) = (degradation(copy, result), ended().next()) {
        agent.state.add_degraded(&newest.run_id, &text)?;
    }
    Ok(())
}

fn degradation((run, target): (&RunId, &TargetName), result: &DrillResult) -> Option<String> {
    let first = result.problems.first()?;
    let more = match result.problems.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    Some(format!("{NAME}: run {run} did not come back from {target} as it should: {first}{more}"))
}

/// Deals with drills that died, or whose end the state did not take: what they left is removed, and they count as failed, since nobody knows what
/// they would have found. Gives how many there were.
pub fn reap(agent: &Agent) -> Result<usize> {
    let mut reaped = 0;
    for drill in agent.state.open_drills()? {
        if drill.process.as_ref().is_some_and(|process| at_work::goes_on(process, &drill.folder)) {
            continue;
        }
        let how = match drill.process.as_ref().is_some_and(at_work::is_own) {
            true => "what the drill found is not known: the state did not take it",
            false => "the drill was cut short: its process ended",
        };
        let mut problems = vec![how.to_owned()];
        problems.extend(databases::reap(agent, Some(drill.id))?);
        problems.extend(scratch::remove(Path::new(&drill.folder)).err().map(|e| format!("{e:#}")));
        let result = DrillResult { problems, ..DrillResult::default() };
        agent.state.end_drill(drill.id, &result, agent.now())?;
        tell(agent, &drill.job, (&drill.run_id, &drill.target), &result)?;
        reaped += 1;
    }
    databases::reap(agent, None)?;
    Ok(reaped)
}

/// What a new run is degraded by as long as no good drill followed a failed one: it alone makes nothing good
/// again.
pub fn standing(agent: &Agent, job: &JobName) -> Result<Option<String>> {
    let last = agent.state.drills(job)?.last.filter(|drill| drill.ok == Some(false));
    let Some(last) = last.filter(|_| agent.config.job.get(job).is_some_and(|job| job.drill.is_some())) else {
        return Ok(None);
    };
    let first = last.result.problems.first().map_or("it failed", String::as_str);
    Ok(Some(format!("{NAME}: the last one, of run {} at {}, failed: {first}", last.run_id, last.target)))
}

/// Notes each job's schedule of drills, and gives those whose drill is due.
pub fn due(agent: &Agent) -> Result<Vec<JobName>> {
    let now = agent.now();
    let mut due = Vec::new();
    for (name, job) in &agent.config.job {
        let line = job.drill.as_ref().and_then(|drill| drill.schedule.as_deref());
        agent.state.touch_drill_plan(name, line, now)?;
        let Some(line) = line else { continue };
        let drills = agent.state.drills(name)?;
        let since = drills.plan.map_or(now, |plan| plan.since);
        let last = drills.last.map(|drill| drill.started);
        if is_due(line, agent.config.job_timezone(job), since, last, now)? {
            due.push(name.clone());
        }
    }
    Ok(due)
}

fn is_due(
    line: &str,
    zone: chrono_tz::Tz,
    since: DateTime<Utc>,
    last: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<bool> {
    let from = last.filter(|last| is_believable(*last, now)).map_or(since, |last| last.max(since));
    let next = Schedule::parse(line)?.next_after(zone, from);
    Ok(next.is_some_and(|next| next <= now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::copies::Host;

    #[test]
    fn a_drill_of_this_process_that_is_over_without_an_end_counts_as_failed_and_one_at_work_goes_on() {
        let host = Host::new(&[]);
        let agent = host.agent();
        let run_id = host.backup(&agent.state, 1);
        let folder = host.source().join("backup-agent-drill-1").display().to_string();
        let begun = NewDrill {
            job: "web".parse().unwrap(),
            run_id,
            target: "local".parse().unwrap(),
            folder: folder.clone(),
            process: ProcessIdentity::current(),
            started: agent.now(),
        };
        let at_work = at_work::begin(folder.as_str());
        agent.state.begin_drill(&begun).unwrap();
        assert_eq!(reap(&agent).unwrap(), 0);
        drop(at_work);
        assert_eq!(reap(&agent).unwrap(), 1);
        let last = agent.state.drills(&begun.job).unwrap().last.unwrap();
        assert_eq!(last.ok, Some(false));
        assert_eq!(reap(&agent).unwrap(), 0);
    }

    #[test]
    fn a_drill_is_due_once_an_occurrence_and_never_for_one_before_its_schedule() {
        let at = |text: &str| format!("2026-11-{text}:00Z").parse::<DateTime<Utc>>().unwrap();
        let due = |since, last: Option<&str>, now| {
            is_due("0 6 * * *", chrono_tz::UTC, at(since), last.map(at), at(now)).unwrap()
        };
        assert!(!due("20T10:00", None, "21T05:59"));
        assert!(due("20T10:00", None, "21T06:00"));
        assert!(!due("20T10:00", Some("21T06:01"), "21T23:00"));
        assert!(due("20T10:00", Some("21T06:01"), "23T23:00"));
        assert!(!due("22T10:00", Some("21T06:01"), "22T23:00"));
        assert!(due("20T10:00", Some("29T06:01"), "21T06:00"), "a drill dated ahead by a wrong clock");
    }
}
