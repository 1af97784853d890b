//! Backups known by nothing but their manifests: `agent target scan`, and folders without a state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::isolate::{self, At, Reply, Request};
use super::{Agent, touch_job};
use crate::event::Progress;
use crate::health;
use crate::model::{JobName, RunId, TargetName};
use crate::state::{Copy, CopyStatus, FoundBackup, State};
use crate::target::{Found, Scan};

/// How long a target may show no further folder.
const STALL: Duration = Duration::from_secs(120);

/// Reads all manifests at a target, in a child process.
pub fn scan(at: At, progress: &Progress) -> Result<Scan> {
    match isolate::call(&Request::Scan { at }, STALL, None, progress, &mut |_| Ok(()))? {
        Reply::Scanned { scan } => Ok(scan),
        other => bail!("an unexpected answer to a look through a target: {other:?}"),
    }
}

/// What the state knows of a backup that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// A copy there, under this status.
    As(CopyStatus),
    /// Nothing.
    Unknown,
}

impl Known {
    /// The word shown for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Known::As(status) => status.as_str(),
            Known::Unknown => "unknown",
        }
    }

    /// True when it would be recorded.
    pub fn is_new(self) -> bool {
        matches!(self, Known::Unknown | Known::As(CopyStatus::Expired))
    }
}

/// What the state, when there is one, knows of each backup found at a target, in their order.
pub fn known(state: Option<&State>, target: &TargetName, scan: &Scan) -> Result<Vec<Known>> {
    let copies: Vec<Copy> = state.map_or(Ok(Vec::new()), |state| state.copies(None, Some(target)))?;
    let by_run: BTreeMap<&RunId, CopyStatus> = copies.iter().map(|c| (&c.run_id, c.status)).collect();
    let of = |found: &Found| by_run.get(&found.run_id).map_or(Known::Unknown, |status| Known::As(*status));
    Ok(scan.found.iter().map(of).collect())
}

/// The backups of one job of one host at a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Freshness {
    /// The host.
    pub host: String,
    /// The job.
    pub job: JobName,
    /// How many backups.
    pub backups: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Start of the run of the newest one.
    pub newest: DateTime<Utc>,
    /// Start of the newest good run (`success` or `warning`).
    pub newest_good: Option<DateTime<Utc>>,
}

/// Sums by host and job, in the order of their names.
pub fn freshness(scan: &Scan) -> Vec<Freshness> {
    let mut sums: BTreeMap<(&str, &JobName), Freshness> = BTreeMap::new();
    // Newest first, so the first of each is its newest.
    for found in &scan.found {
        let sum = sums.entry((&found.host, &found.job)).or_insert_with(|| Freshness {
            host: found.host.clone(),
            job: found.job.clone(),
            backups: 0,
            bytes: 0,
            newest: found.started,
            newest_good: None,
        });
        sum.backups += 1;
        sum.bytes += found.stored_bytes;
        if found.outcome.is_good() {
            sum.newest_good = sum.newest_good.max(Some(found.started));
        }
    }
    sums.into_values().collect()
}

/// What is not as fresh as it should be, a sentence each: jobs whose newest good backup is older than `max_age`, and
/// what of `expected` (`HOST` or `HOST/JOB`) has none at all. Where there is nothing, that is not fresh either.
pub fn stale(sums: &[Freshness], expected: &[String], max_age: Duration, now: DateTime<Utc>) -> Vec<String> {
    let mut stale = Vec::new();
    for sum in sums {
        let of = format!("{} of {}", sum.job, sum.host);
        match sum.newest_good.map(|at| health::since(at, now)) {
            None => stale.push(format!("{of} has no good backup")),
            Some(age) if age > max_age => {
                stale.push(format!("{of}: the newest good backup is {} old", health::words(age)));
            }
            Some(_) => {}
        }
    }
    for wanted in expected {
        let (host, job) = wanted.split_once('/').map_or((wanted.as_str(), None), |(h, j)| (h, Some(j)));
        if !sums.iter().any(|sum| sum.host == host && job.is_none_or(|job| sum.job.as_str() == job)) {
            let what = job.map_or_else(|| host.to_owned(), |job| format!("{job} of {host}"));
            stale.push(format!("{what} has no backup at all"));
        }
    }
    if sums.is_empty() && stale.is_empty() {
        stale.push("there are no backups".to_owned());
    }
    stale
}

/// Records the backups of `host` (of this host or installation without one) that the state does not know.
/// Gives the runs whose backups were new.
pub fn adopt(agent: &Agent, target: &TargetName, scan: &Scan, host: Option<&str>) -> Result<Vec<RunId>> {
    let own = agent.config.host_name();
    let wanted = |found: &&Found| match host {
        Some(host) => found.host == host,
        None => found.host == own || found.instance_id == agent.state.instance_id(),
    };
    let found: Vec<&Found> = scan.found.iter().filter(wanted).collect();
    let jobs: BTreeSet<&JobName> = found.iter().map(|found| &found.job).collect();
    for job in jobs {
        // Retention and `latest` would take the backups of two machines for those of one.
        if host.is_some_and(|host| host != own) && agent.state.has_own_runs(job)? {
            bail!(
                "this host has made backups of a job {job} itself: those of {} are not mixed with them; look into \
                 them with a configuration and a state_dir of their own, or with --backups DIR",
                host.unwrap_or_default()
            );
        }
        // Before its runs, so that an old one is overdue at once.
        if let Some(config) = agent.config.job.get(job) {
            touch_job(agent, job, config)?;
        }
    }
    let backups: Vec<FoundBackup> = found
        .into_iter()
        .map(|found| {
            let first = agent.config.job.get(&found.job).and_then(|job| job.targets.first());
            as_found(found, first.is_none_or(|first| first == target))
        })
        .collect();
    let adopted = agent.state.adopt(target, &backups, agent.now())?;
    bring_pins(&agent.state, target, scan)?;
    Ok(adopted)
}

/// Takes over the pins that stand at a target, of backups the state knows; those it no longer has are to be written
/// anew.
fn bring_pins(state: &State, target: &TargetName, scan: &Scan) -> Result<()> {
    let mut pinned: BTreeSet<&RunId> = BTreeSet::new();
    for (run, pin) in scan.found.iter().filter_map(|found| Some((&found.run_id, found.pin.as_ref()?))) {
        state.pin_found(run, target, pin)?;
        pinned.insert(run);
    }
    let found: BTreeSet<&RunId> = scan.found.iter().map(|found| &found.run_id).collect();
    let copies = state.copies(None, Some(target))?;
    let lost = copies.iter().filter(|copy| copy.pinned && copy.pin_stored);
    for copy in lost.filter(|copy| found.contains(&copy.run_id) && !pinned.contains(&copy.run_id)) {
        state.pin_missing(&copy.run_id, target)?;
    }
    Ok(())
}

/// Copies that the state knows at a target and that were not found there. What was made after `begun`, when the
/// looking began, may have come too late to be seen.
pub fn missing(state: &State, target: &TargetName, scan: &Scan, begun: DateTime<Utc>) -> Result<Vec<Copy>> {
    let found: BTreeSet<&RunId> = scan.found.iter().map(|found| &found.run_id).collect();
    let mut copies = state.copies(None, Some(target))?;
    copies.retain(|copy| {
        (copy.status.is_kept() || copy.status == CopyStatus::Corrupt)
            && !copy.imported
            && !found.contains(&copy.run_id)
            && copy.created_at.is_none_or(|created| created < begun)
    });
    Ok(copies)
}

/// Records that copies are gone which somebody else removed. Refused when not everything could be read: what is
/// missing may be what was not.
pub fn forget(agent: &Agent, target: &TargetName, scan: &Scan, missing: &[Copy]) -> Result<()> {
    if !scan.unread.is_empty() {
        bail!(
            "target {target}: not everything could be read, so that nothing is forgotten: what seems to be gone may \
             stand there"
        );
    }
    for copy in missing {
        agent.state.copy_expired(&copy.run_id, target, agent.now())?;
    }
    Ok(())
}

fn as_found(found: &Found, primary: bool) -> FoundBackup {
    FoundBackup {
        run_id: found.run_id.clone(),
        job: found.job.clone(),
        scheduled_for: found.scheduled_for,
        started: found.started,
        ended: found.ended,
        outcome: found.outcome,
        location: found.location.clone(),
        primary,
        source_bytes: found.source_bytes,
        stored_bytes: found.stored_bytes,
        components: found.components.clone(),
        warning_counts: found.warning_counts,
    }
}

/// A state that holds what the manifests say and nothing else, for a folder whose own state is not there. It
/// is gone with the last handle. None when there is no backup. Of backups of several hosts those of `own` are taken;
/// when it has none, those of the host whose run `wanted` means (as [`State::find_runs`] reads it); without such a
/// one they are refused: which `latest` is meant could not be told.
pub fn state_of(at: At, own: &str, wanted: Option<&str>, now: DateTime<Utc>) -> Result<Option<State>> {
    let (target, config) = (at.target.clone(), at.config.clone());
    let mut scan = scan(at, &Progress::default())?;
    if scan.found.iter().any(|found| found.host == own) {
        scan.found.retain(|found| found.host == own);
    } else if let Some(id) = wanted.filter(|id| !id.is_empty()) {
        let means = |run: &RunId| run.as_str().starts_with(id) || run.as_str().get(17..) == Some(id);
        let meant = scan.found.iter().filter(|found| means(&found.run_id));
        let hosts: BTreeSet<String> = meant.map(|found| found.host.clone()).collect();
        if hosts.len() == 1 {
            scan.found.retain(|found| hosts.contains(&found.host));
        }
    }
    for unread in &scan.unread {
        tracing::warn!("{}: {}", config.address(&unread.location), unread.error);
    }
    let hosts: BTreeSet<&str> = scan.found.iter().map(|found| found.host.as_str()).collect();
    if hosts.is_empty() {
        return Ok(None);
    }
    if hosts.len() > 1 {
        let folders: Vec<String> = hosts
            .iter()
            .map(|host| match folder_of(&scan, host) {
                Some(folder) => format!("{host} (--backups {})", config.address(folder)),
                None => (*host).to_owned(),
            })
            .collect();
        bail!(
            "{} holds backups of several hosts: name the folder of one, the id of a run, or say which with `host = …` in a \
             configuration; there are: {}",
            config.address(""),
            folders.join(", ")
        );
    }
    let state = State::open_temporary(now)?;
    let backups: Vec<FoundBackup> = scan.found.iter().map(|found| as_found(found, true)).collect();
    state.adopt(&target, &backups, now)?;
    bring_pins(&state, &target, &scan)?;
    Ok(Some(state))
}

/// The folder that holds all backups of a host and none of another, where there is one.
fn folder_of<'s>(scan: &'s Scan, host: &str) -> Option<&'s str> {
    let (own, others): (Vec<&Found>, Vec<&Found>) = scan.found.iter().partition(|found| found.host == host);
    let first = own.first()?.location.as_str();
    let is_below = |found: &Found, folder: &str| {
        found.location.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    first
        .match_indices('/')
        .map(|(at, _)| &first[..at])
        .find(|folder| own.iter().all(|f| is_below(f, folder)) && !others.iter().any(|f| is_below(f, folder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, WarningCounts};

    fn found(host: &str, location: &str, hour: u32, outcome: Outcome) -> Found {
        let started: DateTime<Utc> = format!("2026-11-24T{hour:02}:00:00Z").parse().unwrap();
        Found {
            location: location.to_owned(),
            host: host.to_owned(),
            instance_id: host.to_owned(),
            job: "web".parse().unwrap(),
            job_aliases: Vec::new(),
            timezone: "UTC".to_owned(),
            run_id: RunId::generate(started),
            scheduled_for: None,
            started,
            ended: started,
            outcome,
            source_bytes: 7,
            stored_bytes: 5,
            components: Vec::new(),
            warning_counts: WarningCounts::default(),
            pin: None,
        }
    }

    #[test]
    fn freshness_is_summed_by_host_and_counts_good_runs_apart() {
        let scan = Scan {
            found: vec![
                found("web2", "b", 9, Outcome::Partial),
                found("web1", "c", 8, Outcome::Success),
                found("web2", "a", 7, Outcome::Warning),
            ],
            unread: Vec::new(),
        };
        let sums = freshness(&scan);
        assert_eq!(
            sums.iter().map(|s| (s.host.as_str(), s.backups)).collect::<Vec<_>>(),
            [("web1", 1), ("web2", 2)]
        );
        assert_eq!(
            (sums[1].newest, sums[1].newest_good),
            (scan.found[0].started, Some(scan.found[2].started))
        );
        assert_eq!(sums[1].bytes, 10);
    }

    #[test]
    fn what_is_not_fresh_is_named_and_so_is_what_is_not_there_at_all() {
        let found = vec![
            found("web1", "a", 9, Outcome::Success),
            found("web2", "b", 9, Outcome::Partial),
            found("web3", "c", 1, Outcome::Warning),
        ];
        let sums = freshness(&Scan { found, unread: Vec::new() });
        let now: DateTime<Utc> = "2026-11-24T10:00:00Z".parse().unwrap();
        let judged = |sums: &[Freshness], expect: &[&str]| {
            let expect: Vec<String> = expect.iter().map(|e| (*e).to_owned()).collect();
            stale(sums, &expect, Duration::from_secs(2 * 3600), now)
        };
        assert_eq!(
            judged(&sums, &["web1", "web1/web", "web1/db", "web4"]),
            [
                "web of web2 has no good backup",
                "web of web3: the newest good backup is 9 h old",
                "db of web1 has no backup at all",
                "web4 has no backup at all",
            ]
        );
        assert!(judged(&sums[..1], &[]).is_empty());
        assert_eq!(judged(&[], &[]), ["there are no backups"]);
    }

    #[test]
    fn the_folder_of_a_host_is_named_where_it_has_one_of_its_own() {
        let scan = Scan {
            found: vec![
                found("web1", "web1/daily/1", 9, Outcome::Success),
                found("web1", "web1/daily/2", 8, Outcome::Success),
                found("web10", "web10/daily/1", 7, Outcome::Success),
                found("old", "daily/1", 6, Outcome::Success),
                found("older", "daily/2", 5, Outcome::Success),
            ],
            unread: Vec::new(),
        };
        assert_eq!(folder_of(&scan, "web1"), Some("web1"));
        assert_eq!(folder_of(&scan, "web10"), Some("web10"));
        assert_eq!(folder_of(&scan, "old"), None);
        assert_eq!(folder_of(&scan, "nobody"), None);
    }
}
