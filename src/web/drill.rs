//! The last drill of a job: whether its backup came back, how long that took, and when the next one is due.

use std::time::Duration;

use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::parts::Mark;
use super::text::clip;
use super::when::{When, took};
use crate::config::{Config, JobConfig};
use crate::health;
use crate::model::{ByteSize, RunId, TargetName, plural};
use crate::state::{Drill, JobState};

/// Problems the page lists, and bytes of each.
const PROBLEMS: usize = 5;
const ROOM: usize = 400;

/// What is known of a job's drills.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "drill.html")]
pub(super) struct Drills {
    last: Option<Last>,
    /// The newest measured time to recover.
    recovery: Option<String>,
    next: Option<When>,
    /// Whether the configuration says when.
    scheduled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    mark: Mark,
    at: When,
    run: RunId,
    target: TargetName,
    /// What came back, in words.
    what: String,
    problems: Vec<String>,
    more: usize,
}

impl Drills {
    /// None for a job that has no drills and never had one.
    pub(super) fn new(
        config: &Config,
        job: Option<&JobConfig>,
        state: Option<&JobState>,
        now: DateTime<Utc>,
        tz: Tz,
    ) -> Option<Self> {
        let drills = state.map(|state| &state.drills);
        let last = drills.and_then(|drills| drills.last.as_ref());
        let scheduled = job.and_then(|job| job.drill.as_ref()).is_some_and(|drill| drill.schedule.is_some());
        if last.is_none() && job.is_none_or(|job| job.drill.is_none()) {
            return None;
        }
        let measured = [last, drills.and_then(|drills| drills.last_good.as_ref())];
        let recovery = measured.into_iter().flatten().find_map(|drill| drill.result.restore_ms);
        let next = job.zip(state).and_then(|(job, state)| health::next_drill(config, job, state));
        Some(Self {
            last: last.map(|drill| Last::new(drill, now, tz)),
            recovery: recovery.map(|ms| took(Duration::from_millis(ms))),
            next: next.map(|at| When::new(at, now, tz)),
            scheduled,
        })
    }

    /// For a card: the outcome, how long it took, and when.
    pub(super) fn brief(&self) -> Option<(Mark, String, &When)> {
        let last = self.last.as_ref()?;
        let text = match (&self.recovery, last.mark.class) {
            (Some(recovery), "ok") => format!("in {recovery},"),
            _ => String::new(),
        };
        Some((last.mark, text, &last.at))
    }
}

impl Last {
    fn new(drill: &Drill, now: DateTime<Utc>, tz: Tz) -> Self {
        let mark = match drill.ok {
            Some(true) => Mark { class: "ok", word: "came back" },
            _ => Mark { class: "critical", word: "failed" },
        };
        let result = &drill.result;
        let mut what = vec![plural(result.entries, "entry", "entries"), ByteSize(result.bytes).to_string()];
        for (count, one, many) in [
            (result.databases, "database loaded", "databases loaded"),
            (result.compared, "file compared with the live one", "files compared with the live ones"),
            (result.checks, "check", "checks"),
        ] {
            what.extend((count > 0).then(|| plural(count, one, many)));
        }
        let shown = result.problems.iter().take(PROBLEMS);
        Self {
            mark,
            at: When::new(drill.ended.unwrap_or(drill.started), now, tz),
            run: drill.run_id.clone(),
            target: drill.target.clone(),
            what: what.join(", "),
            problems: shown.map(|text| clip(text, ROOM).into_owned()).collect(),
            more: result.problems.len().saturating_sub(PROBLEMS),
        }
    }
}
