//! Which backups of a target stay and which go. Pure: copies, policy and time go in, decisions with their
//! reasons come out; nothing is deleted here.
//!
//! A backup stays when any rule keeps it. Beside the rules of the [`Policy`]:
//!
//! - Without a policy, and when the clock cannot be trusted, everything stays.
//! - The newest verified backup stays, or the newest complete one when none is verified.
//! - Backups of `partial` runs do not count for the policy: the newest two stay, older ones go.
//! - Corrupt ones do not count either; they stay while no good backup is newer, since a damaged backup
//!   may still be the best there is.
//! - Pinned ones stay.
//!
//! `max_bytes` takes places from the rules, oldest first, and nothing from the list above.
//!
//! When to ask is the caller's part: only after a new good backup at the same target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, Offset, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

use crate::model::{ByteSize, Outcome, RunId};

#[cfg(test)]
mod tests;

/// Partials that stay.
const KEEP_PARTIALS: usize = 2;
/// How far the newest backup may lie in the future before the clock is taken to have jumped back.
const FUTURE_TOLERANCE: TimeDelta = TimeDelta::days(1);

/// How much is kept. A rule that is absent or zero keeps nothing by itself; a policy without any rule keeps
/// everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many hours that have a backup, likewise below; local time counts.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    pub yearly: Option<u32>,
    /// Everything that started less than this ago.
    pub within: Option<Duration>,
    /// What all that is kept may take, in bytes; beyond it the oldest go, though a rule keeps them.
    pub max_bytes: Option<u64>,
}

impl Policy {
    /// True when there is neither a rule nor a limit, so that everything is kept.
    pub fn is_empty(&self) -> bool {
        !self.has_rules() && self.limit().is_none()
    }

    fn has_rules(&self) -> bool {
        !self.counted_rules().is_empty() || self.window().is_some()
    }

    fn limit(&self) -> Option<u64> {
        self.max_bytes.filter(|limit| *limit > 0)
    }

    fn counted_rules(&self) -> Vec<(Period, usize)> {
        [
            (Period::Single, self.last),
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
        .into_iter()
        .filter_map(|(period, limit)| Some((period, limit? as usize)).filter(|(_, limit)| *limit > 0))
        .collect()
    }

    fn window(&self) -> Option<Duration> {
        self.within.filter(|within| !within.is_zero())
    }
}

/// What is known about the bytes of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Written in full, never read back.
    Complete,
    /// Read back and found to be what was written.
    Verified,
    /// Read back and found to be something else.
    Corrupt,
}

/// Which copies use up a place of a rule such as `daily = 7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Verified ones. One that was not read back yet is kept like the others, but beyond the number.
    Verified,
    /// Complete ones too: for a target where nothing can be read back.
    Complete,
}

/// One backup at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCopy {
    /// The run that made it.
    pub run_id: RunId,
    /// Start of that run.
    pub started: DateTime<Utc>,
    /// Outcome of that run.
    pub outcome: Outcome,
    /// State of the bytes at this target.
    pub status: Status,
    /// Kept by a person, whatever the rules say.
    pub pinned: bool,
    /// Stored bytes.
    pub bytes: u64,
}

impl StoredCopy {
    fn is_good(&self) -> bool {
        self.outcome.is_good() && self.status != Status::Corrupt
    }

    fn is_verified(&self) -> bool {
        self.outcome.is_good() && self.status == Status::Verified
    }

    fn is_partial(&self) -> bool {
        self.outcome == Outcome::Partial && self.status != Status::Corrupt
    }
}

/// What happens to one copy, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The run that made it.
    pub run_id: RunId,
    /// Stored bytes, which are free again when it goes.
    pub bytes: u64,
    /// True when it stays.
    pub keep: bool,
    /// The rules that keep it, or why it goes. Never empty.
    pub reasons: Vec<String>,
}

/// One line: `keep 20261124T180000Z-k3f9qa: last 1 of 3; newest verified`.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.keep { "keep" } else { "delete" };
        write!(f, "{verb} {}: {}", self.run_id, self.reasons.join("; "))
    }
}

/// Decides about all copies at one target, newest first.
///
/// `clock_trusted` is the caller's finding that the clock is near what the state knows. Independently of it,
/// a newest copy from more than a day in the future means that the clock jumped back.
pub fn decide(
    copies: &[StoredCopy],
    policy: &Policy,
    counts: Counts,
    tz: Tz,
    now: DateTime<Utc>,
    clock_trusted: bool,
) -> Vec<Decision> {
    let mut copies: Vec<&StoredCopy> = copies.iter().collect();
    copies.sort_by(|a, b| (b.started, &b.run_id).cmp(&(a.started, &a.run_id)));

    let clock_jumped = copies.first().is_some_and(|newest| newest.started - now > FUTURE_TOLERANCE);
    let keep_all = if !clock_trusted || clock_jumped {
        Some("the clock cannot be trusted, so nothing is deleted")
    } else if policy.is_empty() {
        Some("no rule for deleting, so everything is kept")
    } else {
        None
    };
    if let Some(reason) = keep_all {
        return copies
            .into_iter()
            .map(|copy| decision(copy, vec![reason.to_owned()], String::new()))
            .collect();
    }

    let mut keeps: Vec<Vec<String>> = vec![Vec::new(); copies.len()];
    for (period, limit) in policy.counted_rules() {
        keep_periods(&copies, period, limit, counts, tz, &mut keeps);
    }
    keep_window(&copies, policy, now, &mut keeps);
    if !policy.has_rules() {
        // A limit alone: everything that fits.
        for (_, keep) in copies.iter().zip(&mut keeps).filter(|(copy, _)| copy.is_good()) {
            keep.push("within max_bytes".to_owned());
        }
    }
    // What no limit takes away.
    let mut safe: Vec<Vec<String>> = vec![Vec::new(); copies.len()];
    keep_newest(&copies, &mut safe);
    keep_partials(&copies, &mut safe);
    keep_damaged(&copies, &mut safe);
    for (copy, keep) in copies.iter().zip(&mut safe) {
        if copy.pinned {
            keep.push("pinned".to_owned());
        }
    }
    let over = policy.limit().map(|limit| over_limit(&copies, limit, &mut keeps, &safe)).unwrap_or_default();
    for (keep, safe) in keeps.iter_mut().zip(safe) {
        keep.extend(safe);
    }
    let why = |index: usize, copy: &StoredCopy| match policy.limit() {
        Some(limit) if over.contains(&index) => {
            format!("newer backups take max_bytes, {}", ByteSize(limit))
        }
        _ => why_not(copy),
    };
    let each = copies.iter().zip(keeps).enumerate();
    each.map(|(index, (copy, reasons))| decision(copy, reasons, why(index, copy))).collect()
}

/// Takes the rules' reasons from the copies that go beyond `limit` bytes, from the first that does not fit on;
/// gives their places. What is safe counts first, and the newest good backup stays as the rules say, whatever it
/// takes.
fn over_limit(
    copies: &[&StoredCopy],
    limit: u64,
    keeps: &mut [Vec<String>],
    safe: &[Vec<String>],
) -> BTreeSet<usize> {
    let newest = copies.iter().position(|copy| copy.is_good());
    let is_safe = |index: usize| !safe[index].is_empty() || Some(index) == newest;
    let mut used: u64 = copies.iter().enumerate().filter(|(i, _)| is_safe(*i)).map(|(_, c)| c.bytes).sum();
    let mut over = BTreeSet::new();
    for (index, copy) in copies.iter().enumerate() {
        if is_safe(index) || keeps[index].is_empty() {
            continue;
        }
        if over.is_empty() && used.saturating_add(copy.bytes) <= limit {
            used += copy.bytes;
        } else {
            over.insert(index);
            keeps[index].clear();
        }
    }
    over
}

fn decision(copy: &StoredCopy, keeps: Vec<String>, why_not: String) -> Decision {
    let keep = !keeps.is_empty();
    let reasons = if keep { keeps } else { vec![why_not] };
    Decision { run_id: copy.run_id.clone(), bytes: copy.bytes, keep, reasons }
}

fn why_not(copy: &StoredCopy) -> String {
    if copy.status == Status::Corrupt {
        "corrupt, and a newer backup is good".to_owned()
    } else if copy.is_partial() {
        format!("partial, and the newest {KEEP_PARTIALS} partials are newer")
    } else if copy.is_good() {
        "no rule keeps it".to_owned()
    } else {
        format!("its run ended as {}, and a newer backup is good", copy.outcome)
    }
}

/// The span of local time that one place of a rule stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Single,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    fn rule(self) -> &'static str {
        match self {
            Period::Single => "last",
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }

    /// The name of the period that `copy` lies in; copies with equal names share a place.
    fn of(self, copy: &StoredCopy, tz: Tz) -> String {
        let local = copy.started.with_timezone(&tz);
        match self {
            Period::Single => copy.run_id.to_string(),
            // With the offset: the hour that clocks go back over happens twice.
            Period::Hour => {
                format!("{} {:02}h{}", local.format("%Y-%m-%d"), local.hour(), local.offset().fix())
            }
            Period::Day => local.format("%Y-%m-%d").to_string(),
            Period::Week => {
                let week = local.iso_week();
                format!("{}-W{:02}", week.year(), week.week())
            }
            Period::Month => local.format("%Y-%m").to_string(),
            Period::Year => local.format("%Y").to_string(),
        }
    }
}

/// Keeps one copy of each period, from the newest period on, until `limit` of those that count are kept.
fn keep_periods(
    copies: &[&StoredCopy],
    period: Period,
    limit: usize,
    counts: Counts,
    tz: Tz,
    keeps: &mut [Vec<String>],
) {
    let does_count = |copy: &StoredCopy| counts == Counts::Complete || copy.is_verified();
    // Copies come newest first, so each period stands behind the newer ones.
    let mut periods: Vec<(String, usize)> = Vec::new();
    let mut place_of: BTreeMap<String, usize> = BTreeMap::new();
    for (index, copy) in copies.iter().enumerate().filter(|(_, copy)| copy.is_good()) {
        let name = period.of(copy, tz);
        match place_of.get(&name) {
            None => {
                place_of.insert(name.clone(), periods.len());
                periods.push((name, index));
            }
            Some(&place) => {
                let best = &mut periods[place].1;
                if does_count(copy) && !does_count(copies[*best]) {
                    *best = index;
                }
            }
        }
    }
    let mut used = 0;
    for (name, index) in periods {
        if used == limit {
            break;
        }
        let rule = period.rule();
        let place = if does_count(copies[index]) {
            used += 1;
            format!("{rule} {used} of {limit}")
        } else {
            format!("{rule}, not verified yet")
        };
        keeps[index].push(if period == Period::Single { place } else { format!("{place} ({name})") });
    }
}

fn keep_window(copies: &[&StoredCopy], policy: &Policy, now: DateTime<Utc>, keeps: &mut [Vec<String>]) {
    let Some(within) = policy.window() else { return };
    for (copy, keep) in copies.iter().zip(keeps).filter(|(copy, _)| copy.is_good()) {
        // A copy from the near future has no age yet.
        let age = (now - copy.started).to_std().unwrap_or_default();
        if age < within {
            keep.push(format!("within {}", humantime::format_duration(within)));
        }
    }
}

fn keep_newest(copies: &[&StoredCopy], keeps: &mut [Vec<String>]) {
    if let Some(index) = copies.iter().position(|copy| copy.is_verified()) {
        keeps[index].push("newest verified".to_owned());
    } else if let Some(index) = copies.iter().position(|copy| copy.is_good()) {
        keeps[index].push("newest complete, and none is verified".to_owned());
    }
}

fn keep_partials(copies: &[&StoredCopy], keeps: &mut [Vec<String>]) {
    let partials = copies.iter().zip(keeps).filter(|(copy, _)| copy.is_partial());
    for (place, (_, keep)) in partials.take(KEEP_PARTIALS).enumerate() {
        keep.push(format!("partial {} of {KEEP_PARTIALS}", place + 1));
    }
}

/// Corrupt copies, and those of runs that came to nothing, stay until a good one is newer.
fn keep_damaged(copies: &[&StoredCopy], keeps: &mut [Vec<String>]) {
    for (copy, keep) in copies.iter().zip(keeps).take_while(|(copy, _)| !copy.is_good()) {
        if !copy.is_partial() {
            keep.push("damaged, but no good backup is newer".to_owned());
        }
    }
}
