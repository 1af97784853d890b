//! When something starts, and when several things start at once.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::calendar::Calendar;
use crate::schedule::Schedule;

/// When something starts.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// By a crontab line, in a zone.
    Cron(Schedule, Tz),
    /// By calendar events of a timer, in a zone, each up to so much later.
    Calendar(Vec<Calendar>, Tz, TimeDelta),
    /// Once.
    Once(DateTime<Utc>),
    /// At each start of the machine.
    Boot,
    /// At times that cannot be told; in words.
    Sometime(String),
}

/// Two starts within so long are at the same moment.
const SAME: TimeDelta = TimeDelta::seconds(59);
/// How far ahead moments are looked for.
const AHEAD: TimeDelta = TimeDelta::days(400);
/// How many steps are made to find them, so that two lines that never meet cost a bounded time.
const STEPS: usize = 300;

impl When {
    /// The first start after `after`; none where it cannot be told or there is none.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            When::Cron(schedule, zone) => schedule.next_after(*zone, after),
            When::Calendar(calendars, zone, _) => {
                calendars.iter().filter_map(|calendar| calendar.next_after(*zone, after)).min()
            }
            When::Once(at) => Some(*at).filter(|at| *at > after),
            When::Boot | When::Sometime(_) => None,
        }
    }

    /// How much later than its time it may start.
    fn jitter(&self) -> TimeDelta {
        match self {
            When::Calendar(_, _, jitter) => *jitter,
            _ => TimeDelta::zero(),
        }
    }

    /// For people: `0 3 * * *`, `OnCalendar=daily`, `at each start of the machine`.
    pub fn words(&self, zone: Tz) -> String {
        match self {
            When::Cron(schedule, own) if *own != zone => format!("{schedule} ({own})"),
            When::Cron(schedule, _) => schedule.to_string(),
            When::Calendar(calendars, ..) => {
                let lines: Vec<&str> = calendars.iter().map(Calendar::as_str).collect();
                lines.join("; ")
            }
            When::Once(at) => format!("once, {}", at.with_timezone(&zone).format("%Y-%m-%d %H:%M")),
            When::Boot => "at each start of the machine".to_owned(),
            When::Sometime(words) => words.clone(),
        }
    }
}

/// The next moments after `now` at which both start, three at the most.
pub fn together(a: &When, b: &When, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let mut found = Vec::new();
    let end = now + AHEAD;
    let (a_late, b_late) = (a.jitter() + SAME, b.jitter() + SAME);
    let (mut x, mut y) = (a.next_after(now), b.next_after(now));
    for _ in 0..STEPS {
        let (Some(at_x), Some(at_y)) = (x, y) else { break };
        if at_x.max(at_y) > end || found.len() == 3 {
            break;
        }
        if at_x <= at_y + b_late && at_y <= at_x + a_late {
            found.push(at_x.max(at_y));
            (x, y) = (a.next_after(at_x), b.next_after(at_y));
        } else if at_x < at_y {
            // Nothing of the other one lies before `at_y`.
            x = a.next_after(at_x.max(at_y - a_late - TimeDelta::seconds(1)));
        } else {
            y = b.next_after(at_y.max(at_x - b_late - TimeDelta::seconds(1)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Europe::Berlin;

    fn cron(line: &str) -> When {
        When::Cron(Schedule::parse(line).unwrap(), Berlin)
    }

    fn calendar(line: &str, jitter: i64) -> When {
        When::Calendar(vec![Calendar::parse(line).unwrap()], Berlin, TimeDelta::minutes(jitter))
    }

    fn moments(a: &When, b: &When) -> Vec<String> {
        let now = "2026-11-24T10:20:00Z".parse().unwrap();
        let both = (together(a, b, now), together(b, a, now));
        assert_eq!(both.0, both.1, "the order does not matter");
        both.0.iter().map(|at| at.with_timezone(&Berlin).format("%m-%d %H:%M").to_string()).collect()
    }

    #[test]
    fn moments_at_which_two_start_are_found_and_no_others() {
        let three = cron("0 3,11,19 * * *");
        assert_eq!(moments(&three, &three), ["11-24 19:00", "11-25 03:00", "11-25 11:00"]);
        assert_eq!(moments(&three, &cron("0 3 * * sun")), ["11-29 03:00", "12-06 03:00", "12-13 03:00"]);
        assert_eq!(moments(&cron("0 3 1 1 *"), &cron("*/5 * * * *")), ["01-01 03:00"]);
        assert_eq!(moments(&three, &cron("5 3 * * *")), [""; 0]);
        assert_eq!(moments(&cron("* * * * *"), &cron("30 2 29 2 *")), [""; 0], "further away than a year");
        assert_eq!(moments(&three, &calendar("*-*-* 03:00:00", 0)).len(), 3);
        assert_eq!(moments(&three, &calendar("*-*-* 02:50:00", 0)).len(), 0);
        assert_eq!(moments(&three, &calendar("*-*-* 02:50:00", 15)).len(), 3, "it may start so much later");
        assert_eq!(moments(&three, &calendar("*-*-* 03:05:00", 15)).len(), 0);
        let once = When::Once("2026-11-25T02:00:30Z".parse().unwrap());
        assert_eq!(moments(&three, &once), ["11-25 03:00"]);
        assert_eq!(moments(&three, &When::Boot), [""; 0]);
    }

    #[test]
    fn two_lines_in_different_zones_meet_by_their_instants() {
        let utc = When::Cron(Schedule::parse("0 2 * * *").unwrap(), Tz::UTC);
        assert_eq!(moments(&cron("0 3 * * *"), &utc)[0], "11-25 03:00");
        assert_eq!(moments(&cron("0 2 * 1,2 *"), &utc), [""; 0]);
    }
}
