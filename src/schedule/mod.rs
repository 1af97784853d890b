//! When runs are due. Pure: cron lines, zones and instants go in, instants come out.
//!
//! A [`Schedule`] is one crontab(5) line with the meaning Debian's cron gives it (`parse.rs` says where
//! this is stricter). The calendar arithmetic is the crate `cron`'s, behind a translation (`next.rs`):
//! the crate numbers weekdays differently, combines the two day fields differently and handles clock
//! changes differently, so it only ever sees explicit lists and local time without a zone.
//!
//! Clock changes, for every line:
//!
//! - An occurrence in a gap (clocks go forward) happens at the first instant after the gap; several in one
//!   gap become one.
//! - An occurrence in an overlap (clocks go back) happens once, at the first of the two instants; twice
//!   when the minute or hour field starts with `*`.

mod due;
mod next;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

pub use due::{catch_up_due, due_after_edit, next_due, splay_delay};
pub use parse::ScheduleError;

use parse::Fields;

/// A parsed cron line. Two schedules are equal when their lines mean the same.
#[derive(Clone)]
pub struct Schedule {
    line: String,
    fields: Fields,
    /// The line in the terms of the crate `cron`: one schedule, or two whose earlier occurrence counts
    /// (day of month OR day of week).
    parts: Vec<cron::Schedule>,
}

impl Schedule {
    /// Reads a line of five fields (`0 3,11,19 * * *`) or one of `@hourly`, `@daily`, `@midnight`,
    /// `@weekly`, `@monthly`, `@yearly`, `@annually`.
    ///
    /// Refused with the field, the value and what is allowed: whatever Debian's cron refuses; what it
    /// accepts but ignores (text after a complete range, `5-10-12`); ranges that run backwards (`22-2`,
    /// `fri-sun`), which it accepts and never runs; and lines that no day fits (`0 0 31 2 *`).
    pub fn parse(line: &str) -> Result<Self, ScheduleError> {
        let fields = parse::parse(line)?;
        let parts = next::translate(&fields);
        let schedule = Self { line: line.trim().to_owned(), fields, parts };
        if !schedule.ever_occurs() {
            return Err(ScheduleError::Never { line: schedule.line });
        }
        Ok(schedule)
    }

    /// The first occurrence strictly after `after`, in the local time of `tz`. `None` only beyond the
    /// year 2100, where the calendar tables end.
    pub fn next_after(&self, tz: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        next::next_after(self, tz, after)
    }

    /// The first `n` occurrences strictly after `after`, in order and without repetitions.
    pub fn upcoming(&self, tz: Tz, after: DateTime<Utc>, n: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(tz, after), |&last| self.next_after(tz, last)).take(n).collect()
    }

    /// The most recent occurrence at or before `now`; `None` when there was none since 1970.
    pub fn last_at_or_before(&self, tz: Tz, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        next::last_at_or_before(self, tz, now)
    }

    /// The line as it was written, without white space around it.
    pub fn as_str(&self) -> &str {
        &self.line
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.line)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.line).finish()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Schedule {}

impl FromStr for Schedule {
    type Err = ScheduleError;
    fn from_str(line: &str) -> Result<Self, Self::Err> {
        Self::parse(line)
    }
}
