//! Calendar events of systemd timers, as systemd.time(7) describes them.
//!
//! Understood: the words (`daily`, `weekly`, …), weekdays with lists and ranges, dates and times with lists,
//! ranges, `*` and repetitions (`0/15`), days from the end of the month (`~1`), and a time zone at the end.
//! Fractions of seconds are cut.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeZone, Utc, Weekday};
use chrono_tz::Tz;

/// How many days ahead an event is looked for: a leap day on a given weekday is further away than anybody's
/// backup.
const DAYS_MAX: u32 = 1500;
const WORDS: &[(&str, &str)] = &[
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
];
const WEEKDAYS: [(&str, &str); 7] = [
    ("mon", "monday"),
    ("tue", "tuesday"),
    ("wed", "wednesday"),
    ("thu", "thursday"),
    ("fri", "friday"),
    ("sat", "saturday"),
    ("sun", "sunday"),
];

/// One calendar event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    text: String,
    weekdays: Option<Vec<u32>>,
    years: Option<Vec<u32>>,
    months: Vec<u32>,
    days: Vec<u32>,
    /// Days are counted from the end of the month.
    from_end: bool,
    times: Vec<NaiveTime>,
    zone: Option<Tz>,
}

impl Calendar {
    /// Reads an expression; nothing when it is none, or none that is understood.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
        let zone = match words.last() {
            Some(&"UTC") => Some(Tz::UTC),
            Some(last) if last.contains('/') || last.chars().all(char::is_alphabetic) => last.parse().ok(),
            _ => None,
        };
        if zone.is_some() {
            words.pop();
        }
        if let [word] = words[..]
            && let Some((_, long)) = WORDS.iter().find(|(short, _)| word.eq_ignore_ascii_case(short))
        {
            words = long.split_ascii_whitespace().collect();
        }
        let weekdays = match words.first() {
            Some(word) if word.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                let days = weekdays(words.remove(0).trim_end_matches(','))?;
                Some(days)
            }
            _ => None,
        };
        let (date, time) = match words[..] {
            [] if weekdays.is_some() => ("*-*-*", "00:00:00"),
            [one] if one.contains(':') => ("*-*-*", one),
            [one] => (one, "00:00:00"),
            [date, time] => (date, time),
            _ => return None,
        };
        let (years, months, days, from_end) = self::date(date)?;
        Some(Self {
            text: text.to_owned(),
            weekdays,
            years,
            months,
            days,
            from_end,
            times: times(time)?,
            zone,
        })
    }

    /// The first time strictly after `after`, in the local time of `zone` unless the expression names one.
    pub fn next_after(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let zone = self.zone.unwrap_or(zone);
        let mut day = after.with_timezone(&zone).date_naive();
        for _ in 0..DAYS_MAX {
            if self.fits(day) {
                let found = self.times.iter().filter_map(|time| {
                    // In a gap of the clock the event happens at its end.
                    let local = day.and_time(*time);
                    let instant = zone.from_local_datetime(&local).earliest();
                    let instant = instant.or_else(|| {
                        zone.from_local_datetime(&(local + chrono::TimeDelta::hours(1))).earliest()
                    });
                    instant.map(|at| at.to_utc()).filter(|at| *at > after)
                });
                if let Some(first) = found.min() {
                    return Some(first);
                }
            }
            day = day.checked_add_days(Days::new(1))?;
        }
        None
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn fits(&self, day: NaiveDate) -> bool {
        let number = if self.from_end { days_in_month(day) - day.day() + 1 } else { day.day() };
        self.months.contains(&day.month())
            && self.days.contains(&number)
            && self.years.as_ref().is_none_or(|years| years.contains(&day.year().unsigned_abs()))
            && self.weekdays.as_ref().is_none_or(|days| days.contains(&weekday_number(day.weekday())))
    }
}

fn weekday_number(day: Weekday) -> u32 {
    day.num_days_from_monday()
}

fn days_in_month(day: NaiveDate) -> u32 {
    let next = day.with_day(1).and_then(|first| first.checked_add_months(chrono::Months::new(1)));
    next.and_then(|next| next.pred_opt()).map_or(31, |last| last.day())
}

fn weekdays(text: &str) -> Option<Vec<u32>> {
    let number = |word: &str| {
        WEEKDAYS
            .iter()
            .position(|(short, long)| word.eq_ignore_ascii_case(short) || word.eq_ignore_ascii_case(long))
            .and_then(|at| u32::try_from(at).ok())
    };
    let mut found = Vec::new();
    for part in text.split(',') {
        match part.split_once("..").or_else(|| part.split_once('-')) {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                // `Sat..Mon` goes round the end of the week.
                found.extend((0..7).map(|n| (first + n) % 7).take(((last + 7 - first) % 7 + 1) as usize));
            }
            None => found.push(number(part)?),
        }
    }
    Some(found)
}

type Date = (Option<Vec<u32>>, Vec<u32>, Vec<u32>, bool);

fn date(text: &str) -> Option<Date> {
    let (front, day, from_end) = match text.rsplit_once('~') {
        Some((front, day)) => (front, day, true),
        None => {
            let (front, day) = text.rsplit_once('-')?;
            (front, day, false)
        }
    };
    let (year, month) = front.split_once('-').unwrap_or(("*", front));
    let years = if year == "*" { None } else { Some(numbers(year, 1970, 2200)?) };
    Some((years, numbers(month, 1, 12)?, numbers(day, 1, 31)?, from_end))
}

fn times(text: &str) -> Option<Vec<NaiveTime>> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() {
        return None;
    }
    let second = second.split('.').next()?;
    let (hours, minutes, seconds) = (numbers(hour, 0, 23)?, numbers(minute, 0, 59)?, numbers(second, 0, 59)?);
    let mut found = Vec::new();
    for hour in hours {
        for minute in &minutes {
            found.extend(seconds.iter().filter_map(|second| NaiveTime::from_hms_opt(hour, *minute, *second)));
        }
    }
    found.sort_unstable();
    Some(found)
}

/// Lists of numbers, ranges `a..b`, `*`, and repetitions `a/step`, `a..b/step`.
fn numbers(text: &str, min: u32, max: u32) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<usize>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range.split_once("..") {
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None if range == "*" => (min, max),
            None => {
                let first = range.parse().ok()?;
                (first, if step.is_some() { max } else { first })
            }
        };
        if first < min || last > max || first > last {
            return None;
        }
        found.extend((first..=last).step_by(step.unwrap_or(1)));
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[&str] = &[
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "semiannually",
        "yearly",
        "hourly",
        "minutely",
        "*-*-* 03,11,19:00:00",
        "03:00",
        "*:0/15",
        "Mon..Fri *-*-* 03:30",
        "Sat,Sun 02:00",
        "Sat..Mon 02:00",
        "Thu",
        "Sat *-*-1..7 18:00:00",
        "*-*~1 02:00",
        "*-02~3..5 01:00",
        "2027-01-01",
        "12-24 08:05:40",
        "*-1..6-1/10 10:00",
        "Mon *-*-* 03:00:00 Europe/Berlin",
        "03:00 UTC",
        "*-*-* 1..5/2:10",
    ];

    /// The answers of systemd itself, where it is installed.
    #[test]
    fn events_come_when_systemd_says_they_do() {
        let Some(program) = crate::process::find_program("systemd-analyze") else { return };
        // 2026-11-24, a Tuesday.
        for now in ["2026-11-24 10:00:30", "2027-02-26 23:59:59"] {
            let mut command = std::process::Command::new(&program);
            command.args(["calendar", "--iterations=3", &format!("--base-time={now} UTC")]);
            let output = command.args(LINES).env("TZ", "UTC").env("LC_ALL", "C").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                return; // an older systemd, without --base-time
            }
            let answers: Vec<&str> = text.split("\n\n").collect();
            assert_eq!(answers.len(), LINES.len(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
            let base = chrono::NaiveDateTime::parse_from_str(now, "%Y-%m-%d %H:%M:%S").unwrap().and_utc();
            for (line, answer) in LINES.iter().zip(answers) {
                let calendar = Calendar::parse(line).unwrap_or_else(|| panic!("{line} is not understood"));
                let said: Vec<String> = answer
                    .lines()
                    .filter(|l| l.contains("Next elapse:") || l.contains("Iter. #"))
                    .map(|l| l.split_once(": ").unwrap().1.trim_end_matches(" UTC")[4..].to_owned())
                    .collect();
                let mut at = base;
                for said in said.iter().filter(|said| said.starts_with("20")) {
                    at = calendar.next_after(Tz::UTC, at).unwrap();
                    assert_eq!(at.format("%Y-%m-%d %H:%M:%S").to_string(), *said, "{line} after {now}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        for line in [
            "",
            "now",
            "25:00",
            "*-13-01",
            "Foo 03:00",
            "03:00:00:00",
            "*-*-* 03:00 Moon/Base",
            "a b c d",
            "*:0/0",
        ] {
            assert_eq!(Calendar::parse(line), None, "{line}");
        }
    }
}
