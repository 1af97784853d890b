//! From sets of numbers to instants.
//!
//! The crate `cron` is asked about local time dressed as UTC, where no clock ever changes; what it answers
//! is mapped to instants here. The mapping of local times to their first instant never decreases, and
//! neither does the mapping to their last one, so the first local time that maps beyond `after` gives the
//! next occurrence, and asking again from there never steps back.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use super::Schedule;
use super::parse::{FieldSet, Fields};

/// The years the crate `cron` knows.
const FIRST_YEAR: i32 = 1970;

impl Schedule {
    /// True when at least one local time fits the line.
    pub(super) fn ever_occurs(&self) -> bool {
        // A leap day on a given weekday comes back within 28 years, or 40 across 1900 or 2100.
        self.next_local(start_of_year(2000)).is_some()
    }

    /// The first fitting local time strictly after `local`.
    fn next_local(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let dressed = local.and_utc();
        self.parts.iter().filter_map(|part| part.after(&dressed).next()).min().map(|found| found.naive_utc())
    }

    /// True when the line runs by the wall clock alone, so that an overlap runs it twice.
    fn follows_wall_clock(&self) -> bool {
        self.fields.minute.star || self.fields.hour.star
    }
}

/// The line in the crate's terms: seconds first, weekdays from 1 (Sunday), explicit lists.
pub(super) fn translate(fields: &Fields) -> Vec<cron::Schedule> {
    let any_day_of_month: Vec<u32> = (1..=31).collect();
    let any_weekday: Vec<u32> = (0..=6).collect();
    let days: Vec<u32> = fields.day_of_month.values().collect();
    let weekdays: Vec<u32> = fields.day_of_week.values().collect();
    let either = !fields.day_of_month.star && !fields.day_of_week.star;
    let day_pairs = if either {
        vec![(&days, &any_weekday), (&any_day_of_month, &weekdays)]
    } else {
        vec![(&days, &weekdays)]
    };
    day_pairs
        .into_iter()
        .map(|(days, weekdays)| {
            let crate_weekdays = weekdays.iter().map(|day| day + 1);
            let line = format!(
                "0 {} {} {} {} {}",
                list(fields.minute),
                list(fields.hour),
                join(days.iter().copied()),
                list(fields.month),
                join(crate_weekdays)
            );
            line.parse().expect("explicit lists of numbers in range are valid for the crate cron")
        })
        .collect()
}

fn list(set: FieldSet) -> String {
    join(set.values())
}

fn join(values: impl Iterator<Item = u32>) -> String {
    values.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}

pub(super) fn next_after(schedule: &Schedule, tz: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // Whole seconds are enough, since occurrences are whole seconds. Earlier than the first known year
    // there is nothing to find.
    let earliest = start_of_year(FIRST_YEAR).and_utc() - TimeDelta::days(2);
    let after = DateTime::from_timestamp(after.timestamp(), 0)?.max(earliest);
    if after > start_of_year(2101).and_utc() {
        return None;
    }
    let local = tz.from_utc_datetime(&after.naive_utc()).naive_local();
    let first = scan(schedule, local, after, |local| instants(tz, local).0);
    let next = if schedule.follows_wall_clock() {
        // Within the first pass of an overlap, local times before this one still have their second
        // instant ahead of them; the overlap is no longer than the two instants lie apart.
        let (early, late) = instants(tz, local);
        let last = scan(schedule, local - (late - early), after, |local| instants(tz, local).1);
        first.into_iter().chain(last).min()
    } else {
        first
    };
    debug_assert!(next.is_none_or(|next| next > after), "{schedule} in {tz}: {next:?} is not after {after}");
    next
}

/// The first instant beyond `after` among those `map` gives for the local times after `local`.
fn scan(
    schedule: &Schedule,
    mut local: NaiveDateTime,
    after: DateTime<Utc>,
    map: impl Fn(NaiveDateTime) -> DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    loop {
        local = schedule.next_local(local)?;
        let instant = map(local);
        if instant > after {
            return Some(instant);
        }
    }
}

/// The first and the last instant of a local time: the same but in an overlap; the end of the gap in a gap.
fn instants(tz: Tz, local: NaiveDateTime) -> (DateTime<Utc>, DateTime<Utc>) {
    match tz.from_local_datetime(&local) {
        MappedLocalTime::Single(instant) => (instant.to_utc(), instant.to_utc()),
        MappedLocalTime::Ambiguous(a, b) => (a.min(b).to_utc(), a.max(b).to_utc()),
        MappedLocalTime::None => {
            let end = end_of_gap(tz, local);
            (end, end)
        }
    }
}

/// The first instant whose local time is beyond `local`, which lies in a gap.
pub(super) fn end_of_gap(tz: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    let is_beyond =
        |seconds: i64| tz.from_utc_datetime(&(local + TimeDelta::seconds(seconds))).naive_local() > local;
    // No zone is further than a day from UTC, so the jump lies between these.
    let (mut before, mut beyond) = (-86_400, 86_400);
    while beyond - before > 1 {
        let middle = (before + beyond) / 2;
        if is_beyond(middle) { beyond = middle } else { before = middle }
    }
    (local + TimeDelta::seconds(beyond)).and_utc()
}

pub(super) fn last_at_or_before(schedule: &Schedule, tz: Tz, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let within = |from: DateTime<Utc>| schedule.next_after(tz, from).filter(|found| *found <= now);
    // Widen the window until an occurrence lies in it, then halve it until that is the only one.
    let floor = start_of_year(FIRST_YEAR).and_utc();
    let mut width = TimeDelta::hours(1);
    let mut found = loop {
        let from = now.checked_sub_signed(width).unwrap_or(floor).max(floor);
        match within(from) {
            Some(found) => break found,
            None if from <= floor => return None,
            None => width = width * 2,
        }
    };
    let mut end = now;
    while end - found > TimeDelta::seconds(1) {
        let middle = found + (end - found) / 2;
        match within(middle) {
            Some(later) => found = later,
            None => end = middle,
        }
    }
    // The two may lie one second apart with the later one an occurrence.
    Some(within(found).unwrap_or(found))
}

fn start_of_year(year: i32) -> NaiveDateTime {
    chrono::NaiveDate::from_ymd_opt(year, 1, 1)
        .expect("the first of January exists")
        .and_time(chrono::NaiveTime::MIN)
}
