//! When a backup was taken, by the names of its folders and files.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

/// A date, and the time of day where the name has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub date: NaiveDate,
    pub time: Option<NaiveTime>,
    /// It ends in `Z`.
    pub utc: bool,
}

/// What may stand between the parts.
const BETWEEN: &[u8] = b"-_./:T ";

/// The date in a path: `daily/2025/11/04/1900/x`, `backup-20251104_202639.tar.gz`, `2025-11-04.sql.gz`. One with
/// a time of day before one without; then the last, because names of files are closer than those of folders.
pub(super) fn named(path: &str) -> Option<Named> {
    let bytes = path.as_bytes();
    let starts = (0..bytes.len()).filter(|at| *at == 0 || !bytes[at - 1].is_ascii_digit());
    starts.filter_map(|at| at_place(&bytes[at..])).max_by_key(|found| found.time.is_some())
}

fn at_place(text: &[u8]) -> Option<Named> {
    let (year, rest) = number(text, 4)?;
    let (separator, rest) = between(rest);
    let (month, rest) = number(rest, 2)?;
    let (again, rest) = between(rest);
    let (day, rest) = number(rest, 2)?;
    // 2025-1104 is something else.
    if separator != again || !(1990..=2199).contains(&year) {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(year as i32, month, day)?;
    let only = Named { date, time: None, utc: false };
    let (_, clock) = between(rest);
    match time(clock) {
        Some((time, utc)) => Some(Named { time: Some(time), utc, ..only }),
        // Eight digits and more are a number, not a date.
        None if rest.first().is_some_and(u8::is_ascii_digit) => None,
        None => Some(only),
    }
}

/// `1900`, `19-00`, `202639`, `20:26:39`, with or without a `Z`; nothing longer.
fn time(text: &[u8]) -> Option<(NaiveTime, bool)> {
    let (hour, rest) = number(text, 2)?;
    let (_, rest) = between(rest);
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = match number(between(rest).1, 2) {
        Some((second, rest)) => (second, rest),
        None => (0, rest),
    };
    if rest.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    Some((NaiveTime::from_hms_opt(hour, minute, second)?, rest.first() == Some(&b'Z')))
}

fn number(text: &[u8], digits: usize) -> Option<(u32, &[u8])> {
    let (head, rest) = text.split_at_checked(digits)?;
    let value = std::str::from_utf8(head).ok().filter(|head| head.bytes().all(|b| b.is_ascii_digit()))?;
    Some((value.parse().ok()?, rest))
}

/// One separator, if there is one.
fn between(text: &[u8]) -> (Option<u8>, &[u8]) {
    match text.split_first() {
        Some((first, rest)) if BETWEEN.contains(first) => (Some(*first), rest),
        _ => (None, text),
    }
}

/// The moment a name means in `zone`; midnight without a time of day.
pub(super) fn moment(named: Named, zone: Tz) -> Option<DateTime<Utc>> {
    let local = NaiveDateTime::new(named.date, named.time.unwrap_or_default());
    if named.utc {
        return Some(local.and_utc());
    }
    // In the hour that a change of clocks skips: as if it had not been.
    let found = zone.from_local_datetime(&local);
    Some(found.earliest().map_or_else(|| local.and_utc(), |at| at.with_timezone(&Utc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> Option<String> {
        let found = named(path)?;
        let time = found.time.map_or_else(String::new, |time| time.format(" %H:%M:%S").to_string());
        Some(format!("{}{time}{}", found.date, if found.utc { "Z" } else { "" }))
    }

    #[test]
    fn dates_are_read_from_folders_and_names() {
        for (path, wanted) in [
            ("daily/2025/11/04/1900/application.tar.gz", "2025-11-04 19:00:00"),
            ("daily/2025/11/04/190005/application.tar.gz", "2025-11-04 19:00:05"),
            ("backup-20251104_202639.tar.gz", "2025-11-04 20:26:39"),
            ("2025/11/04/backup-20251104_202639.tar.gz", "2025-11-04 20:26:39"),
            ("shop-2025-11-04.sql.gz", "2025-11-04"),
            ("shop-2025-11-04-0315.sql.gz", "2025-11-04 03:15:00"),
            ("shop_2025-11-04_03-15-30.sql.gz", "2025-11-04 03:15:30"),
            ("x.20251104T202639Z.tar.zst", "2025-11-04 20:26:39Z"),
            ("2025/11/04/shop.tar", "2025-11-04"),
            ("2025-11-04_0315/db-2025-11-04.sql.gz", "2025-11-04 03:15:00"),
        ] {
            assert_eq!(shown(path).as_deref(), Some(wanted), "{path}");
        }
        for path in
            ["shop.tar.gz", "v2.0.1.tar.gz", "20251399.tar", "123456789012.tar", "1234/56/78.tar", "2025.tar"]
        {
            assert_eq!(shown(path), None, "{path}");
        }
    }

    #[test]
    fn a_local_time_is_that_of_the_zone() {
        let at = |path: &str| moment(named(path).unwrap(), chrono_tz::Europe::Berlin).unwrap().to_rfc3339();
        assert_eq!(at("20251104-1900.tar"), "2025-11-04T18:00:00+00:00");
        assert_eq!(at("20251104T190000Z.tar"), "2025-11-04T19:00:00+00:00");
        assert_eq!(at("20250330-0230.tar"), "2025-03-30T02:30:00+00:00");
    }
}
