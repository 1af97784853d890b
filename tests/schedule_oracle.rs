//! Schedules compared with two oracles that share no code with them: the crate `croner`, and a matcher that
//! looks at every minute.
//!
//! The lines are random but repeatable; a failure names the line, the zone and the seed.

use std::collections::BTreeSet;
use std::str::FromStr;

use backup_agent::schedule::{Schedule, ScheduleError};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;

const SEED: u64 = 0x0B5E_55ED;

/// A small generator (splitmix64), so that the same seed gives the same lines whatever the versions of
/// dependencies.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn within(&mut self, low: u32, high: u32) -> u32 {
        low + (self.next() % u64::from(high - low + 1)) as u32
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.within(1, n) == 1
    }
}

/// A field as text and as the numbers it means, both made by the generator: nothing is parsed here.
struct Field {
    text: String,
    values: BTreeSet<u32>,
}

impl Field {
    fn star(&self) -> bool {
        self.text.starts_with('*')
    }

    fn has(&self, value: u32) -> bool {
        self.values.contains(&value)
    }
}

/// `names` stand for the numbers from `low` on.
fn field(random: &mut Random, low: u32, high: u32, names: &[&str], star_steps: bool) -> Field {
    let whole = |step: usize| (low..=high).step_by(step).collect();
    match random.within(0, 9) {
        0..=2 => Field { text: "*".to_owned(), values: whole(1) },
        3 if star_steps => {
            let step = random.within(1, high - low);
            Field { text: format!("*/{step}"), values: whole(step as usize) }
        }
        _ => {
            let mut texts = Vec::new();
            let mut values = BTreeSet::new();
            for _ in 0..random.within(1, 3) {
                let (a, b) = (random.within(low, high), random.within(low, high));
                let (a, b) = (a.min(b), a.max(b));
                let word = |random: &mut Random, number: u32| match names.get((number - low) as usize) {
                    Some(name) if random.one_in(2) => {
                        if random.one_in(2) {
                            name.to_uppercase()
                        } else {
                            (*name).to_owned()
                        }
                    }
                    _ => number.to_string(),
                };
                let (first, last) = (word(random, a), word(random, b));
                match random.within(0, 3) {
                    0 => {
                        texts.push(format!("{first}-{last}"));
                        values.extend(a..=b);
                    }
                    1 => {
                        let step = random.within(1, 9);
                        texts.push(format!("{first}-{last}/{step}"));
                        values.extend((a..=b).step_by(step as usize));
                    }
                    _ => {
                        texts.push(first);
                        values.insert(a);
                    }
                }
            }
            Field { text: texts.join(","), values }
        }
    }
}

struct Line {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Line {
    fn random(random: &mut Random, day_star_steps: bool) -> Self {
        let minute = field(random, 0, 59, &[], true);
        let hour = field(random, 0, 23, &[], true);
        let day = field(random, 1, 31, &[], day_star_steps);
        let month = field(random, 1, 12, &MONTHS, true);
        let mut weekday = field(random, 0, 7, &WEEKDAYS, day_star_steps);
        weekday.values = weekday.values.iter().map(|day| day % 7).collect();
        Self { minute, hour, day, month, weekday }
    }

    fn text(&self) -> String {
        [&self.minute, &self.hour, &self.day, &self.month, &self.weekday]
            .map(|field| field.text.as_str())
            .join(" ")
    }

    fn day_matches(&self, date: NaiveDate) -> bool {
        let (day, weekday) =
            (self.day.has(date.day()), self.weekday.has(date.weekday().num_days_from_sunday()));
        let days = if self.day.star() || self.weekday.star() { day && weekday } else { day || weekday };
        days && self.month.has(date.month())
    }

    fn matches(&self, local: NaiveDateTime) -> bool {
        self.minute.has(local.minute()) && self.hour.has(local.hour()) && self.day_matches(local.date())
    }

    fn follows_wall_clock(&self) -> bool {
        self.minute.star() || self.hour.star()
    }
}

/// The local time of every minute of a window that starts outside of any overlap.
struct Window {
    tz: Tz,
    start: DateTime<Utc>,
    local: Vec<NaiveDateTime>,
}

impl Window {
    fn new(tz: Tz, start: &str, days: i64) -> Self {
        let start: DateTime<Utc> = start.parse().unwrap();
        let minute = |n| (start + TimeDelta::minutes(n)).with_timezone(&tz).naive_local();
        Self { tz, start, local: (0..days * 1440).map(minute).collect() }
    }

    /// What the rules ask for, minute by minute: skipped minutes count for the first one after them, repeated
    /// ones count again only for lines that follow the wall clock. The first minute is not judged.
    fn expected(&self, line: &Line) -> Vec<DateTime<Utc>> {
        let mut found = Vec::new();
        let mut latest = self.local[0];
        for (n, pair) in self.local.windows(2).enumerate() {
            let (before, local) = (pair[0], pair[1]);
            let mut skipped = before + TimeDelta::minutes(1);
            let mut due = false;
            while skipped < local {
                due |= line.matches(skipped) && skipped > latest;
                skipped += TimeDelta::minutes(1);
            }
            due |= line.matches(local) && (local > latest || line.follows_wall_clock());
            latest = latest.max(local);
            if due {
                found.push(self.start + TimeDelta::minutes(n as i64 + 1));
            }
        }
        found
    }
}

/// Fails with the first difference, since the lists are long.
fn assert_same(found: &[DateTime<Utc>], expected: &[DateTime<Utc>], context: impl Fn() -> String) {
    let length = found.len().max(expected.len());
    if let Some(n) = (0..length).find(|n| found.get(*n) != expected.get(*n)) {
        panic!("{}: occurrence {n} is {:?} instead of {:?}", context(), found.get(n), expected.get(n));
    }
}

#[test]
fn every_minute_around_clock_changes_agrees_with_the_rules() {
    let windows = [
        // An hour, forward and back.
        Window::new(Tz::Europe__Berlin, "2026-03-27T12:00:00Z", 5),
        Window::new(Tz::Europe__Berlin, "2026-10-23T12:00:00Z", 5),
        Window::new(Tz::America__New_York, "2027-03-12T12:00:00Z", 5),
        Window::new(Tz::America__New_York, "2027-11-05T12:00:00Z", 5),
        // Half an hour.
        Window::new(Tz::Australia__Lord_Howe, "2026-04-03T12:00:00Z", 5),
        Window::new(Tz::Australia__Lord_Howe, "2026-10-02T12:00:00Z", 5),
        // A whole day skipped.
        Window::new(Tz::Pacific__Apia, "2011-12-28T12:00:00Z", 6),
        Window::new(Tz::Pacific__Kwajalein, "1993-08-18T12:00:00Z", 6),
        // Three hours back.
        Window::new(Tz::Antarctica__Casey, "2018-03-09T12:00:00Z", 5),
        // A change at midnight, so that a day has no 00:00.
        Window::new(Tz::America__Asuncion, "2023-09-29T12:00:00Z", 5),
        // No change at all.
        Window::new(Tz::UTC, "2026-02-26T12:00:00Z", 5),
    ];
    let mut random = Random(SEED);
    let mut occurrences = 0;
    for round in 0..400 {
        let line = Line::random(&mut random, true);
        let text = line.text();
        let Ok(schedule) = Schedule::parse(&text) else { continue };
        let window = &windows[round % windows.len()];
        let first_judged_after = window.start;
        let end = window.start + TimeDelta::minutes(window.local.len() as i64);
        let expected = window.expected(&line);
        let found: Vec<_> =
            std::iter::successors(schedule.next_after(window.tz, first_judged_after), |last| {
                schedule.next_after(window.tz, *last)
            })
            .take_while(|found| *found < end)
            .collect();
        occurrences += found.len();
        assert_same(&found, &expected, || {
            format!("{text:?} in {} from {} (seed {SEED:#x}, round {round})", window.tz, window.start)
        });
    }
    assert!(occurrences > 10_000, "only {occurrences} occurrences were compared");
}

#[test]
fn asking_from_any_minute_gives_the_first_later_occurrence() {
    let mut random = Random(SEED ^ 1);
    for (tz, start) in [
        (Tz::Europe__Berlin, "2026-10-24T12:00:00Z"),
        (Tz::Europe__Berlin, "2026-03-28T12:00:00Z"),
        (Tz::Australia__Lord_Howe, "2026-04-04T06:00:00Z"),
        (Tz::Pacific__Apia, "2011-12-29T12:00:00Z"),
    ] {
        let window = Window::new(tz, start, 2);
        for _ in 0..25 {
            let mut line = Line::random(&mut random, true);
            // Any day, so that something happens within the two days.
            for every in [&mut line.day, &mut line.weekday, &mut line.month] {
                *every = Field { text: "*".to_owned(), values: (0..=31).collect() };
            }
            let text = line.text();
            let schedule = Schedule::parse(&text).unwrap();
            let expected = window.expected(&line);
            for minute in (0..1440).step_by(7) {
                let after = window.start
                    + TimeDelta::minutes(minute)
                    + TimeDelta::seconds(random.within(0, 59).into());
                let next = expected.iter().find(|found| **found > after).copied();
                let Some(next) = next else { continue };
                assert_eq!(schedule.next_after(tz, after), Some(next), "{text:?} in {tz} after {after}");
                let last = expected.iter().rev().find(|found| **found <= after).copied();
                if let Some(last) = last {
                    assert_eq!(
                        schedule.last_at_or_before(tz, after),
                        Some(last),
                        "{text:?} in {tz} at {after}"
                    );
                }
            }
        }
    }
}

#[test]
fn croner_finds_the_same_times_over_years() {
    let mut random = Random(SEED ^ 2);
    let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    let end = start + TimeDelta::days(3 * 365);
    let mut compared = 0;
    for round in 0..400 {
        // Without steps on a star in the day fields, where croner says OR and cron says AND.
        // Without ranges that end in `sun`, which croner takes for 7 and cron for 0.
        let text = Line::random(&mut random, false).text();
        if text.to_lowercase().contains("-sun") {
            continue;
        }
        let Ok(schedule) = Schedule::parse(&text) else { continue };
        let oracle = croner::Cron::from_str(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let expected: Vec<_> = oracle.iter_after(start).take(300).take_while(|found| *found < end).collect();
        let found: Vec<_> =
            schedule.upcoming(Tz::UTC, start, 300).into_iter().take_while(|found| *found < end).collect();
        assert_same(&found, &expected, || format!("{text:?} (seed {:#x}, round {round})", SEED ^ 2));
        compared += found.len();
    }
    assert!(compared > 20_000, "only {compared} occurrences were compared");
}

#[test]
fn exactly_the_lines_that_no_day_fits_are_refused() {
    let days: Vec<NaiveDate> = NaiveDate::from_ymd_opt(2000, 1, 1)
        .unwrap()
        .iter_days()
        .take_while(|day| day.year() < 2041)
        .collect();
    let mut random = Random(SEED ^ 3);
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..2000 {
        let mut line = Line::random(&mut random, true);
        // Late days in few months, with weekdays that mostly start with a star: the lines that may be impossible.
        let (day, month) = (random.within(28, 31), [2, 2, 4, 6, 1][random.within(0, 4) as usize]);
        line.day = Field { text: day.to_string(), values: BTreeSet::from([day]) };
        line.month = Field { text: month.to_string(), values: BTreeSet::from([month]) };
        if !line.weekday.star() && !random.one_in(5) {
            line.weekday = Field { text: "*".to_owned(), values: (0..7).collect() };
        }
        let text = line.text();
        let occurs = days.iter().any(|date| line.day_matches(*date));
        match Schedule::parse(&text) {
            Ok(_) => {
                accepted += 1;
                assert!(occurs, "{text:?} was accepted and never occurs");
            }
            Err(ScheduleError::Never { .. }) => {
                refused += 1;
                assert!(!occurs, "{text:?} was refused and does occur");
            }
            Err(error) => panic!("{text:?}: {error}"),
        }
    }
    assert!(refused > 100 && accepted > 100, "{refused} refused, {accepted} accepted");
}
