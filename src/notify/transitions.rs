//! Which messages are due: pure decisions from what a channel was already told.
//!
//! The rules, for one job and one channel:
//!
//! | before | this run | told |
//! | --- | --- | --- |
//! | good, or nothing told | bad | at once |
//! | told | bad in the same way | nothing, until `remind` has passed: then a reminder |
//! | told | bad in another way: outcome, step, component | at once |
//! | told or queued | good | one recovery; what is still queued is superseded by it |
//! | not told | good | nothing, or a success message where each good run is told |
//! | good | degraded | once; reminders; once more when something else fails as well |
//! | degradation told | good, copies still to be made | nothing yet |
//! | failure told | degraded | a recovery (there is a backup again), and the degradation |
//!
//! A message that is queued counts as told: it will come, and say that it is late. One that was given up
//! does not: the next bad run tells again.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::message::Kind;
use crate::clock::is_believable;
use crate::event::Step;
use crate::model::{ComponentName, Outcome};

/// The local hour after which the digest of the day before is due.
pub const DIGEST_HOUR: u32 = 8;

/// Whether good runs are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SuccessMode {
    /// Each one.
    Always,
    /// A digest once a day.
    Daily,
    /// Not.
    #[default]
    Never,
}

/// What a channel wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Of failure, partial, degraded, interrupted, recovery: those that are told.
    pub on: BTreeSet<Kind>,
    /// Good runs.
    pub success: SuccessMode,
    /// How often a trouble that lasts is told again; zero for never.
    pub remind: Duration,
}

/// What a trouble is, so far as it decides whether it was told before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// A run that was no success.
    Bad {
        /// The word for how it ended.
        outcome: String,
        /// Where.
        step: Option<Step>,
        /// With which component.
        component: Option<ComponentName>,
    },
    /// One thing that failed beside a good backup, by the name before its first `": "`.
    Degraded(String),
}

/// How a run ended, so far as it decides what is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// How.
    pub outcome: Outcome,
    /// The step that failed.
    pub step: Option<Step>,
    /// The component that failed.
    pub component: Option<ComponentName>,
    /// What failed beside the outcome; see [`super::facts::RunFacts::degraded`].
    pub degraded: Vec<String>,
    /// Copies of this run are still to be made, so that it is not known yet whether a degradation is over.
    pub open: bool,
}

impl RunEnd {
    /// The troubles of this run; none when all is well. Degradations of a bad run are not counted apart:
    /// its message lists them.
    pub fn troubles(&self) -> Vec<Trouble> {
        if Kind::of_bad(self.outcome).is_some() {
            return vec![Trouble::Bad {
                outcome: self.outcome.to_string(),
                step: self.step,
                component: self.component.clone(),
            }];
        }
        self.degraded.iter().map(|d| Trouble::Degraded(degradation_name(d).to_owned())).collect()
    }
}

fn degradation_name(text: &str) -> &str {
    text.split(": ").next().unwrap_or(text)
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Queued, to be tried again.
    Pending,
    /// Accepted by somebody, at this time.
    Delivered(DateTime<Utc>),
    /// Refused for good, or given up: nobody has it.
    Lost,
}

/// A message a channel has, or will get, about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What it is; only those that tell a trouble matter here.
    pub kind: Kind,
    /// When it was queued.
    pub at: DateTime<Utc>,
    /// What became of it. With several receivers: delivered when one has it, else pending when one may
    /// still get it.
    pub fate: Fate,
    /// The troubles it told.
    pub about: Vec<Trouble>,
}

/// A run of the past with what one channel was told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRun {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether something failed beside the outcome.
    pub degraded: bool,
    /// The messages about it for one channel, reminders included.
    pub told: Vec<Told>,
}

impl PastRun {
    fn is_bad(&self) -> bool {
        Kind::of_bad(self.outcome).is_some()
    }

    fn is_whole(&self) -> bool {
        !self.is_bad() && !self.degraded
    }
}

/// The runs of a job that belong to a trouble that is not over; newest first.
struct Running<'a> {
    /// The bad runs in a row, up to the newest run.
    bad: Vec<&'a PastRun>,
    /// The degraded runs since the last good and undegraded one.
    degraded: Vec<&'a PastRun>,
}

impl<'a> Running<'a> {
    fn new(history: &'a [PastRun]) -> Self {
        Self {
            bad: history.iter().take_while(|r| r.is_bad()).collect(),
            degraded: history.iter().take_while(|r| !r.is_whole()).filter(|r| !r.is_bad()).collect(),
        }
    }
}

/// The messages about these runs' troubles.
fn messages<'a>(runs: &'a [&'a PastRun]) -> impl Iterator<Item = &'a Told> {
    runs.iter().flat_map(|r| r.told.iter()).filter(|t| t.kind.is_trouble())
}

/// One message that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// What it is.
    pub kind: Kind,
    /// Messages about this job's trouble that are still queued for this channel are to be withdrawn in
    /// the same transaction: this one says all.
    pub supersede: bool,
    /// False when nobody got any message about the trouble so far; a recovery then tells both.
    pub was_told: bool,
}

fn due(kind: Kind) -> Due {
    Due { kind, supersede: false, was_told: true }
}

/// What is due after a run. `history` are the job's ended runs before it, newest first, back to the last
/// good and undegraded one (more do no harm), with what this channel was told.
pub fn after_run(policy: &Policy, history: &[PastRun], end: &RunEnd, now: DateTime<Utc>) -> Vec<Due> {
    let running = Running::new(history);
    let bad = Kind::of_bad(end.outcome);
    let degraded = !end.degraded.is_empty();
    let mut out = Vec::new();

    // The end of a trouble. A good but degraded run ends a failure; a good and whole one ends both.
    let mut over: Vec<&Told> = Vec::new();
    if bad.is_none() {
        over.extend(messages(&running.bad));
        if !degraded && !end.open {
            over.extend(messages(&running.degraded));
        }
    }
    over.retain(|t| t.fate != Fate::Lost);
    // A channel that hears of failures but not of recoveries still gets a queued failure: it is what it
    // asked for.
    if !over.is_empty() && policy.on.contains(&Kind::Recovery) {
        let was_told = over.iter().any(|t| matches!(t.fate, Fate::Delivered(_)));
        let supersede = over.iter().any(|t| t.fate == Fate::Pending);
        out.push(Due { kind: Kind::Recovery, supersede, was_told });
    }

    let (kind, before) = match bad {
        Some(kind) => (Some(kind), &running.bad),
        None => (degraded.then_some(Kind::Degraded), &running.degraded),
    };
    match kind {
        Some(kind) if policy.on.contains(&kind) => {
            let known: BTreeSet<&Trouble> =
                messages(before).filter(|t| t.fate != Fate::Lost).flat_map(|t| &t.about).collect();
            if end.troubles().iter().any(|t| !known.contains(t)) {
                out.push(due(kind));
            } else if reminder_due(policy, messages(before), now) {
                out.push(due(Kind::Reminder));
            }
        }
        _ => {}
    }
    // A degraded run is still a good one for those who want to hear of each.
    if bad.is_none() && out.is_empty() && policy.success == SuccessMode::Always {
        out.push(due(Kind::Success));
    }
    out
}

/// True when a trouble that lasts is to be told again now, without a new run: what the daemon and
/// `agent tend` ask for each job that is not paused. `history` as for [`after_run`], the last run
/// included; the reminder is about that run.
pub fn reminder(policy: &Policy, history: &[PastRun], now: DateTime<Utc>) -> bool {
    let Some(last) = history.first() else { return false };
    let running = Running::new(history);
    let (kind, runs) = match Kind::of_bad(last.outcome) {
        Some(kind) => (kind, &running.bad),
        None if last.degraded => (Kind::Degraded, &running.degraded),
        None => return false,
    };
    policy.on.contains(&kind) && reminder_due(policy, messages(runs), now)
}

/// `remind` has passed since the newest message that somebody has. While one is queued there is no
/// reminder: nobody would learn more from two late messages than from one. A message that was lost counts
/// from when it was queued, so that the trouble is tried again. When nothing is known of when they were told but
/// what a clock that was ahead says, it is time.
fn reminder_due<'a>(policy: &Policy, told: impl Iterator<Item = &'a Told>, now: DateTime<Utc>) -> bool {
    let (mut newest, mut pending, mut any) = (None, false, false);
    for message in told {
        any = true;
        pending |= message.fate == Fate::Pending;
        let at = match message.fate {
            Fate::Delivered(at) => at,
            Fate::Pending | Fate::Lost => message.at,
        };
        newest = newest.max(Some(at).filter(|at| is_believable(*at, now)));
    }
    if !any || pending || policy.remind.is_zero() {
        return false;
    }
    newest.is_none_or(|newest| (now - newest).to_std().is_ok_and(|passed| passed >= policy.remind))
}

/// The time a digest is to cover, when one is due: once a day, at the first look after 08:00 in the zone
/// of the host, from the last digest (or `first_seen`) to now. The hour is one at which somebody reads
/// mail, so that a missing digest is noticed in the morning.
///
/// `last` is the end of the time the last digest covered; one that cannot be believed is a day ago. A digest is queued whether or not there were
/// runs: a mail that says "0 good" is the point of it.
pub fn digest_due(
    policy: &Policy,
    last: Option<DateTime<Utc>>,
    first_seen: DateTime<Utc>,
    now: DateTime<Utc>,
    zone: Tz,
) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    if policy.success != SuccessMode::Daily {
        return None;
    }
    let from = Some(last.unwrap_or(first_seen)).filter(|from| is_believable(*from, now));
    let from = from.unwrap_or(now - TimeDelta::days(1));
    // The day a moment belongs to begins at 08:00; a digest is due when the day is another one. Local
    // dates, not 24 hours: a day of 23 or 25 hours has one digest too.
    let day = |at: DateTime<Utc>| {
        let local = at.with_timezone(&zone).naive_local();
        let date = local.date();
        if local.hour() < DIGEST_HOUR { date.pred_opt().unwrap_or(date) } else { date }
    };
    (from < now && day(from) < day(now)).then_some((from, now))
}
