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
//! - What the storage itself does not let go yet (write-once storage) stays until it does. It neither fills
//!   `min_bytes` nor takes from `max_bytes`.
//!
//! `max_bytes` takes places from the rules, oldest first, and nothing from the list above. `min_bytes` gives
//! copies back that rules and `max_bytes` would let go, newest first, until the good ones that stay have so many
//! bytes. One backup more than the limit is better than none that is old enough.
//!
//! When to ask is the caller's part: only after a new good backup at the same target.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, FixedOffset, Offset, TimeDelta, Timelike, Utc};
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
    /// What the good ones that stay have at least, in bytes: below it nothing good goes, though no rule keeps it.
    /// By itself it lets nothing go.
    pub min_bytes: Option<u64>,
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

    fn floor(&self) -> Option<u64> {
        self.min_bytes.filter(|floor| *floor > 0)
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

impl Counts {
    fn accept(self, copy: &StoredCopy) -> bool {
        copy.is_good() && (self == Counts::Complete || copy.is_verified())
    }
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
    /// Until when the storage refuses to remove it, where that is known.
    pub retained_until: Option<DateTime<Utc>>,
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
        return copies.into_iter().map(|copy| decision(copy, vec![reason.to_owned()], String::new)).collect();
    }

    let mut keeps: Vec<Vec<String>> = vec![Vec::new(); copies.len()];
    let rules = policy.counted_rules();
    if !rules.is_empty() {
        // Asking a zone's history is what costs most, so each copy is asked once for all rules.
        let local: Vec<DateTime<FixedOffset>> = copies
            .iter()
            .map(|copy| copy.started.with_timezone(&tz))
            .map(|at| at.with_timezone(&at.offset().fix()))
            .collect();
        for (period, limit) in rules {
            keep_periods(&copies, &local, period, limit, counts, &mut keeps);
        }
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
    if let Some(floor) = policy.floor() {
        keep_floor(&copies, floor, counts, &mut keeps);
    }
    let why = |index: usize, copy: &StoredCopy| match policy.limit() {
        Some(limit) if over.contains(&index) => {
            format!("newer backups take max_bytes, {}", ByteSize(limit))
        }
        _ => why_not(copy),
    };
    let each = copies.iter().zip(keeps).enumerate();
    each.map(|(index, (copy, mut reasons))| {
        if reasons.is_empty()
            && let Some(until) = copy.retained_until.filter(|until| *until > now)
        {
            let until = until.with_timezone(&tz).format("%Y-%m-%d %H:%M");
            reasons.push(format!("the storage keeps it until {until}; {}", why(index, copy)));
        }
        decision(copy, reasons, || why(index, copy))
    })
    .collect()
}

/// Takes the rules' reasons from the copies that go beyond `limit` bytes, from the first that does not fit on;
/// gives their places. What is safe counts first, and the newest good backup stays as the rules say, whatever it
/// takes.
fn over_limit(
    copies: &[&StoredCopy],
    limit: u64,
    keeps: &mut [Vec<String>],
    safe: &[Vec<String>],
) -> HashSet<usize> {
    let newest = copies.iter().position(|copy| copy.is_good());
    let is_safe = |index: usize| !safe[index].is_empty() || Some(index) == newest;
    let each = copies.iter().enumerate().filter(|(index, _)| is_safe(*index));
    let mut used = each.fold(0_u64, |sum, (_, copy)| sum.saturating_add(copy.bytes));
    let mut over = HashSet::new();
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

/// Gives good copies a reason to stay, newest first, until those that count have `floor` bytes together.
fn keep_floor(copies: &[&StoredCopy], floor: u64, counts: Counts, keeps: &mut [Vec<String>]) {
    let counted = |copy: &StoredCopy| if counts.accept(copy) { copy.bytes } else { 0 };
    let kept = copies.iter().zip(keeps.iter()).filter(|(copy, keep)| copy.is_good() && !keep.is_empty());
    let mut bytes = kept.fold(0_u64, |sum, (copy, _)| sum.saturating_add(counted(copy)));
    for (copy, keep) in copies.iter().zip(keeps).filter(|(copy, keep)| copy.is_good() && keep.is_empty()) {
        if bytes >= floor {
            return;
        }
        bytes = bytes.saturating_add(counted(copy));
        keep.push(format!("the others have less than min_bytes, {}", ByteSize(floor)));
    }
}

fn decision(copy: &StoredCopy, keeps: Vec<String>, why_not: impl FnOnce() -> String) -> Decision {
    let keep = !keeps.is_empty();
    let reasons = if keep { keeps } else { vec![why_not()] };
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

    /// A number that is the same for two local times when they share a place.
    fn of(self, local: &DateTime<FixedOffset>) -> i64 {
        match self {
            Period::Single => 0,
            // With the offset: the hour that clocks go back over happens twice.
            Period::Hour => {
                let hour = i64::from(local.num_days_from_ce()) * 24 + i64::from(local.hour());
                hour * 1_000_000 + i64::from(local.offset().local_minus_utc())
            }
            Period::Day => i64::from(local.num_days_from_ce()),
            Period::Week => {
                let week = local.iso_week();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Period::Month => i64::from(local.year()) * 12 + i64::from(local.month0()),
            Period::Year => i64::from(local.year()),
        }
    }

    /// What people call the period that a local time lies in.
    fn name(self, local: &DateTime<FixedOffset>) -> String {
        match self {
            Period::Single => String::new(),
            Period::Hour => format!("{} {:02}h{}", local.format("%Y-%m-%d"), local.hour(), local.offset()),
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

/// Keeps one copy of each period, from the newest period on, until `limit` of those that count are kept. `local`
/// are the starts of the copies in the zone of the job.
fn keep_periods(
    copies: &[&StoredCopy],
    local: &[DateTime<FixedOffset>],
    period: Period,
    limit: usize,
    counts: Counts,
    keeps: &mut [Vec<String>],
) {
    // Copies come newest first, so each period stands behind the newer ones.
    let mut periods: Vec<usize> = Vec::new();
    let mut place_of: HashMap<i64, usize> = HashMap::new();
    for (index, copy) in copies.iter().enumerate().filter(|(_, copy)| copy.is_good()) {
        if period == Period::Single {
            periods.push(index);
            continue;
        }
        match place_of.entry(period.of(&local[index])) {
            Entry::Vacant(free) => {
                free.insert(periods.len());
                periods.push(index);
            }
            Entry::Occupied(place) => {
                let best = &mut periods[*place.get()];
                if counts.accept(copy) && !counts.accept(copies[*best]) {
                    *best = index;
                }
            }
        }
    }
    let mut used = 0;
    for index in periods {
        if used == limit {
            break;
        }
        let rule = period.rule();
        let place = if counts.accept(copies[index]) {
            used += 1;
            format!("{rule} {used} of {limit}")
        } else {
            format!("{rule}, not verified yet")
        };
        keeps[index].push(match period {
            Period::Single => place,
            _ => format!("{place} ({})", period.name(&local[index])),
        });
    }
}

fn keep_window(copies: &[&StoredCopy], policy: &Policy, now: DateTime<Utc>, keeps: &mut [Vec<String>]) {
    let Some(within) = policy.window() else { return };
    let reason = format!("within {}", humantime::format_duration(within));
    for (copy, keep) in copies.iter().zip(keeps).filter(|(copy, _)| copy.is_good()) {
        // A copy from the near future has no age yet.
        let age = (now - copy.started).to_std().unwrap_or_default();
        if age < within {
            keep.push(reason.clone());
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
