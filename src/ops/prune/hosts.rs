//! Retention by what the manifests at a target say: for a host that has other credentials than those which write
//! there, and no state of its own that knows the backups.
//!
//! Each job of each host is a group of its own, under the policy of the target. Nothing says here which backups
//! were read back, so `complete` counts as good; before anything of a group goes, the newest good backup that stays
//! is looked at, and one whose files are not there in their lengths counts as damaged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Stays, policy, record_removal, remove_isolated, status_of};
use crate::config::Keep;
use crate::crypt::KeyFiles;
use crate::event::{Interrupted, Progress};
use crate::model::{JobName, RunId, TargetName};
use crate::ops::clock;
use crate::ops::isolate::{self, At, Reply, Request};
use crate::ops::verify::Depth;
use crate::retention::{Counts, Decision, Status, StoredCopy, decide};
use crate::state::{Copy, State};
use crate::target::{Found, Scan};

/// How long a look at one backup may make no progress.
const LOOK_STALL: Duration = Duration::from_secs(120);

/// What is decided by.
pub struct Rules<'a> {
    /// The policy of the target; without one everything stays.
    pub keep: Option<&'a Keep>,
    /// The zone for backups whose manifest names none that is known here.
    pub zone: Tz,
    /// The time.
    pub now: DateTime<Utc>,
    /// Whether somebody has looked at the clock and says that it is right.
    pub clock_is_right: bool,
}

/// The backups of one job of one host, and what is decided about them.
#[derive(Debug)]
pub struct Group {
    /// The host.
    pub host: String,
    /// The job, under its newest name.
    pub job: JobName,
    /// The installation that made them, where another of the same host and job is at work at the same time.
    pub instance: Option<String>,
    /// The backups, newest first. One run may stand there more than once.
    pub found: Vec<Found>,
    /// What becomes of each run, newest first.
    pub decisions: Vec<Decision>,
    /// What was found wrong on the way, a sentence each.
    pub notes: Vec<String>,
    copies: Vec<StoredCopy>,
    zone: Tz,
}

impl Group {
    /// The runs that go.
    pub fn going(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| !decision.keep)
    }
}

/// What would be done at a target.
#[derive(Debug)]
pub struct Plan {
    /// By host and job.
    pub groups: Vec<Group>,
    /// Why the clock is not trusted, so that nothing goes.
    pub clock: Option<String>,
}

/// Decides about everything that was found at a target. `state` is that of this host, if there is one: of backups
/// that this installation made it knows more than the manifests.
pub fn plan(scan: &Scan, target: &TargetName, state: Option<&State>, rules: &Rules<'_>) -> Result<Plan> {
    let known: HashMap<RunId, Copy> = match state {
        Some(state) => {
            let copies = state.copies(None, Some(target))?.into_iter();
            copies.map(|copy| (copy.run_id.clone(), copy)).collect()
        }
        None => HashMap::new(),
    };
    let newest = scan.found.iter().map(|found| found.ended).max();
    let clock = match (clock::far_from_backup(rules.now, newest), state) {
        (None, Some(state)) => clock::distrust(state, rules.now)?,
        (problem, _) => problem,
    };
    let clock = clock.filter(|_| !rules.clock_is_right);
    let groups = grouped(&scan.found).into_iter().map(|((host, job), parts)| {
        let several = parts.len() > 1;
        parts.into_iter().map(move |found| (host.clone(), job.clone(), several, found)).collect::<Vec<_>>()
    });
    let groups = groups.flatten().map(|(host, job, several, found)| {
        let zone = found.first().and_then(|f| f.timezone.parse().ok()).unwrap_or(rules.zone);
        let instance = found.first().map(|f| f.instance_id.clone()).filter(|_| several);
        let mut seen = HashSet::new();
        let copies = found
            .iter()
            .filter(|found| seen.insert(found.run_id.clone()))
            .map(|found| stored(found, known.get(&found.run_id)))
            .collect();
        let mut group =
            Group { host, job, instance, found, decisions: Vec::new(), notes: Vec::new(), copies, zone };
        group.decide(rules, clock.is_none());
        group
    });
    Ok(Plan { groups: groups.collect(), clock })
}

/// By host and job, each list newest first. Several lists of one host and job are those of installations that were
/// at work at the same time: two machines of one name, whose backups retention must not take for those of one.
fn grouped(found: &[Found]) -> BTreeMap<(String, JobName), Vec<Vec<Found>>> {
    let mut order: Vec<&Found> = found.iter().collect();
    order.sort_by(|a, b| (b.started, &b.run_id, &b.location).cmp(&(a.started, &a.run_id, &a.location)));
    // What a job was called before, as the newest manifest that names it says.
    let mut newer_name: HashMap<(&str, &JobName), JobName> = HashMap::new();
    let mut groups: BTreeMap<(String, JobName), Vec<Vec<Found>>> = BTreeMap::new();
    for found in order {
        let host = found.host.as_str();
        let job = newer_name.get(&(host, &found.job)).unwrap_or(&found.job).clone();
        for alias in found.job_aliases.iter().filter(|alias| **alias != job) {
            newer_name.entry((host, alias)).or_insert_with(|| job.clone());
        }
        let lists = groups.entry((host.to_owned(), job)).or_default();
        match lists.iter_mut().find(|list| list.iter().any(|f| f.instance_id == found.instance_id)) {
            Some(list) => list.push(found.clone()),
            None => lists.push(vec![found.clone()]),
        }
    }
    for lists in groups.values_mut() {
        join_successors(lists);
    }
    groups
}

/// Joins the lists of installations that followed one another: a machine that was set up again.
fn join_successors(lists: &mut Vec<Vec<Found>>) {
    let span = |list: &[Found]| Some((list.last()?.started, list.first()?.started));
    lists.sort_by_key(|list| span(list).map(|(_, newest)| std::cmp::Reverse(newest)));
    let mut joined: Vec<Vec<Found>> = Vec::new();
    for list in std::mem::take(lists) {
        let place = joined.iter().position(|newer| match (span(newer), span(&list)) {
            (Some((oldest, _)), Some((_, newest))) => newest < oldest,
            _ => false,
        });
        match place {
            Some(place) => joined[place].extend(list),
            None => joined.push(list),
        }
    }
    *lists = joined;
}

fn stored(found: &Found, known: Option<&Copy>) -> StoredCopy {
    StoredCopy {
        run_id: found.run_id.clone(),
        started: found.started,
        outcome: found.outcome,
        status: known.map_or(Status::Complete, |copy| status_of(copy.status)),
        pinned: found.pin.is_some() || known.is_some_and(|copy| copy.pinned),
        retained_until: known.and_then(|copy| copy.retained_until),
        bytes: found.stored_bytes,
    }
}

impl Group {
    fn decide(&mut self, rules: &Rules<'_>, trusted: bool) {
        let any_verified = self.copies.iter().any(|copy| copy.status == Status::Verified);
        let counts = if any_verified { Counts::Verified } else { Counts::Complete };
        self.decisions = decide(&self.copies, &policy(rules.keep), counts, self.zone, rules.now, trusted);
    }

    /// Looks whether the newest good backup that stays has all its files in their lengths. One that has not counts
    /// as damaged, and it is decided anew, until one is found to be whole or nothing goes. `at` is the target.
    pub fn confirm(&mut self, at: &At, rules: &Rules<'_>, progress: &Progress) -> Result<()> {
        while self.going().next().is_some() {
            let is_good = |copy: &StoredCopy| copy.outcome.is_good() && copy.status != Status::Corrupt;
            let newest = self.copies.iter().position(is_good);
            let Some(newest) = newest else { return Ok(()) };
            let run = self.copies[newest].run_id.clone();
            let Some(found) = self.found.iter().find(|found| found.run_id == run) else { return Ok(()) };
            let at = at.clone().below(&found.location);
            let request =
                Request::Verify { at, run: run.clone(), depth: Depth::Lengths, keys: KeyFiles::default() };
            let problems = match isolate::call(&request, LOOK_STALL, None, progress, &mut |_| Ok(()))? {
                Reply::Verified { report } => report.problems,
                other => bail!("an unexpected answer to a verification: {other:?}"),
            };
            if problems.is_empty() {
                return Ok(());
            }
            self.notes.push(format!("run {run} is damaged: {}", problems.join("; ")));
            self.copies[newest].status = Status::Corrupt;
            // The clock was trusted, or nothing would go.
            self.decide(rules, true);
        }
        Ok(())
    }

    /// Removes what goes, oldest first, one after another; `done` is told of each run. What fails does not keep the
    /// others from going. A `state` that knows a copy is kept right.
    pub fn carry_out(
        &self,
        at: &At,
        state: Option<&State>,
        now: DateTime<Utc>,
        progress: &Progress,
        done: &mut dyn FnMut(&RunId, Result<Option<Stays>>),
    ) -> Result<()> {
        let mut of_run: HashMap<&RunId, Vec<&Found>> = HashMap::new();
        for found in &self.found {
            of_run.entry(&found.run_id).or_default().push(found);
        }
        let mut going: Vec<&RunId> = self.going().map(|decision| &decision.run_id).collect();
        going.reverse();
        for run in going {
            let known = state.map(|state| state.copy(run, &at.target)).transpose()?.flatten();
            if let (Some(state), Some(_)) = (state, &known)
                && !state.copy_expiring(run, &at.target)?
            {
                tracing::info!("run {run} stays at target {}: it was pinned meanwhile", at.target);
                continue;
            }
            let mut outcome = Ok(None);
            for found in of_run.get(run).into_iter().flatten() {
                let at = at.clone().below(&found.location);
                match remove_isolated(at, run, progress) {
                    Ok(None) => {}
                    other => outcome = other,
                }
            }
            if let Err(e) = &outcome
                && e.is::<Interrupted>()
            {
                return Err(Interrupted.into());
            }
            if let (Some(state), Some(_), Ok(stays)) = (state, &known, &outcome) {
                record_removal(state, run, &at.target, stays.as_ref(), now)?;
            }
            done(run, outcome);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Pin;
    use crate::model::{Outcome, WarningCounts};

    fn found(host: &str, job: &str, instance: &str, day: u32) -> Found {
        let started: DateTime<Utc> = format!("2026-11-{day:02}T03:00:00Z").parse().unwrap();
        Found {
            location: format!("{host}/{job}/{day}"),
            host: host.to_owned(),
            instance_id: instance.to_owned(),
            job: job.parse().unwrap(),
            job_aliases: Vec::new(),
            timezone: "Europe/Berlin".to_owned(),
            run_id: RunId::generate(started),
            scheduled_for: None,
            started,
            ended: started,
            outcome: Outcome::Success,
            source_bytes: 7,
            stored_bytes: 5,
            components: Vec::new(),
            warning_counts: WarningCounts::default(),
            pin: None,
        }
    }

    fn planned(found: Vec<Found>, keep: &Keep, now: &str) -> Plan {
        let rules =
            Rules { keep: Some(keep), zone: Tz::UTC, now: now.parse().unwrap(), clock_is_right: false };
        plan(&Scan { found, unread: Vec::new() }, &"nas".parse().unwrap(), None, &rules).unwrap()
    }

    /// The groups as `host/job: days that stay`.
    fn shown(plan: &Plan) -> Vec<String> {
        let days = |group: &Group| -> Vec<String> {
            let stays: HashSet<_> = group.decisions.iter().filter(|d| d.keep).map(|d| &d.run_id).collect();
            let stays = group.found.iter().filter(|f| stays.contains(&f.run_id));
            stays.map(|f| f.started.format("%-d").to_string()).collect()
        };
        plan.groups.iter().map(|g| format!("{}/{}: {}", g.host, g.job, days(g).join(" "))).collect()
    }

    #[test]
    fn each_job_of_each_host_is_kept_by_itself() {
        let mut all = Vec::new();
        for day in 20..25 {
            all.push(found("web1", "files", "a", day));
            all.push(found("web1", "db", "a", day));
        }
        // A host that is silent for long keeps what it has.
        all.extend([found("old", "files", "b", 1), found("old", "files", "b", 2)]);
        let keep = Keep { last: Some(2), ..Keep::default() };
        let plan = planned(all, &keep, "2026-11-25T00:00:00Z");
        assert_eq!(shown(&plan), ["old/files: 2 1", "web1/db: 24 23", "web1/files: 24 23"]);
        assert!(plan.groups.iter().all(|group| group.instance.is_none()));
    }

    #[test]
    fn a_renamed_job_is_one_and_two_machines_of_one_name_are_two() {
        let mut renamed = found("web1", "www", "a", 24);
        renamed.job_aliases = vec!["files".parse().unwrap()];
        let keep = Keep { last: Some(1), ..Keep::default() };
        let all = vec![renamed, found("web1", "files", "a", 23), found("web1", "files", "a", 22)];
        assert_eq!(shown(&planned(all, &keep, "2026-11-25T00:00:00Z")), ["web1/www: 24"]);
        // Set up again on the 23rd: one after the other.
        let all = vec![found("web1", "files", "b", 24), found("web1", "files", "a", 22)];
        assert_eq!(shown(&planned(all, &keep, "2026-11-25T00:00:00Z")), ["web1/files: 24"]);
        // Both at work: the one must not push the other out.
        let all = ["b", "a", "b", "a"].iter().zip(21..).map(|(i, day)| found("localhost", "files", i, day));
        let plan = planned(all.collect(), &keep, "2026-11-25T00:00:00Z");
        assert_eq!(shown(&plan), ["localhost/files: 24", "localhost/files: 23"]);
        assert!(plan.groups.iter().all(|group| group.instance.is_some()));
    }

    #[test]
    fn pins_at_the_target_hold_and_a_clock_that_is_far_off_lets_nothing_go() {
        let mut all: Vec<Found> = (20..25).map(|day| found("web1", "files", "a", day)).collect();
        let pinned = "2026-11-21T00:00:00Z".parse().unwrap();
        all[0].pin = Some(Pin::new(pinned, "root@admin".to_owned(), None));
        let keep = Keep { last: Some(1), ..Keep::default() };
        assert_eq!(shown(&planned(all.clone(), &keep, "2026-11-25T00:00:00Z")), ["web1/files: 24 20"]);
        for (now, says) in [("2027-11-25T00:00:00Z", "long after"), ("2025-11-25T00:00:00Z", "before")] {
            let plan = planned(all.clone(), &keep, now);
            assert_eq!(plan.groups[0].going().count(), 0, "{now}");
            assert!(plan.clock.as_ref().is_some_and(|why| why.contains(says)), "{:?}", plan.clock);
        }
    }

    #[test]
    fn a_run_that_stands_there_twice_is_one() {
        let newest = found("web1", "files", "a", 24);
        let twice = Found { location: "elsewhere".to_owned(), ..newest.clone() };
        let keep = Keep { last: Some(2), ..Keep::default() };
        let all = vec![newest, twice, found("web1", "files", "a", 23), found("web1", "files", "a", 22)];
        let plan = planned(all, &keep, "2026-11-25T00:00:00Z");
        assert_eq!(plan.groups[0].decisions.len(), 3);
        assert_eq!(shown(&plan), ["web1/files: 24 24 23"]);
    }
}
