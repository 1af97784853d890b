//! The checks of a job's drills.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::checks::{JobView, Verdict};
use super::job::first_line;
use super::report::{Perf, Unit};
use super::{moment, since, words};
use crate::config::{Config, JobConfig};
use crate::model::{ByteSize, plural};
use crate::schedule::Schedule;
use crate::state::{JobDrills, JobState};

pub(super) fn drill(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, state, now, .. } = *view;
    // Without drills in the configuration the last one says nothing about today.
    view.job.drill.as_ref()?;
    let last = state.drills.last.as_ref()?;
    let ago = words(since(last.ended.unwrap_or(last.started), now));
    if last.ok != Some(true) {
        let first = last.result.problems.first().map_or("it failed", String::as_str);
        let more = match last.result.problems.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let text = format!(
            "the drill {ago} ago of run {} at {} failed: {}{more}",
            last.run_id,
            last.target,
            first_line(first)
        );
        return Some(
            Verdict::bad(text)
                .hint(format!("`agent show {}` tells more, `agent drill {name}` tries again", last.run_id)),
        );
    }
    let restore = Duration::from_millis(last.result.restore_ms.unwrap_or_default());
    let compared = match last.result.compared {
        0 => String::new(),
        n => format!(", {} equal to the live ones", plural(n, "file", "files")),
    };
    let loaded = match last.result.databases {
        0 => String::new(),
        n => format!(", {} loaded", plural(n, "database", "databases")),
    };
    let text = format!(
        "the backup came back in {} in the drill {ago} ago: {}, {}{compared}{loaded}",
        words(restore),
        plural(last.result.entries, "entry", "entries"),
        ByteSize(last.result.bytes)
    );
    Some(Verdict::ok(text).perf(Perf::new(format!("{name}_recovery"), restore.as_secs_f64(), Unit::Seconds)))
}

/// When the next drill is due, or has been since: the first occurrence of its schedule after the last one.
/// None without a schedule, or before the agent has seen it.
pub fn next_drill(config: &Config, job: &JobConfig, state: &JobState) -> Option<DateTime<Utc>> {
    next(job, &state.drills, config.job_timezone(job))
}

fn next(job: &JobConfig, drills: &JobDrills, tz: Tz) -> Option<DateTime<Utc>> {
    let line = job.drill.as_ref()?.schedule.as_deref()?;
    let since = drills.plan.as_ref()?.since;
    let from = drills.last.as_ref().map_or(since, |last| last.started.max(since));
    Schedule::parse(line).ok()?.next_after(tz, from)
}

pub(super) fn overdue(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, state, now, tz, .. } = *view;
    let drill = view.job.drill.as_ref()?;
    let due = next(view.job, &state.drills, tz)?;
    if due > now {
        return Some(Verdict::ok(format!("next due {}", moment(due, tz))));
    }
    let late = now - due - TimeDelta::from_std(drill.grace).unwrap_or(TimeDelta::MAX);
    if late <= TimeDelta::zero() || view.paused().is_some() {
        return Some(Verdict::ok(format!("due since {}", moment(due, tz))));
    }
    let last = state.drills.last.as_ref().map_or("never".to_owned(), |last| moment(last.started, tz));
    let text = format!(
        "the drill due {} is overdue by {} (the last one: {last})",
        moment(due, tz),
        words(late.to_std().unwrap_or_default())
    );
    Some(Verdict::bad(text).hint(format!(
        "The daemon makes drills, or cron with `agent drill --due`; `agent drill {name}` makes one now"
    )))
}
