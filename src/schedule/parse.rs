//! From the text of a cron line to sets of numbers, with errors that say what is allowed.
//!
//! The grammar is that of Debian's cron (3.0pl1, `entry.c`), read with its own `crontab -n` as the
//! reference, except that text it would silently skip is refused.

/// A line that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error(
        "{line:?} has {found} fields: five are needed, minute hour day-of-month month day-of-week, \
         without seconds, user or command"
    )]
    FieldCount {
        /// The line.
        line: String,
        /// How many fields it has.
        found: usize,
    },
    /// One field is wrong: it reads "hour 25: allowed are 0 to 23".
    #[error("{field} {value}: {problem}")]
    Field {
        /// The field, in words.
        field: &'static str,
        /// The part of the field that is wrong.
        value: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// An unknown `@` word.
    #[error("{word}: allowed are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually")]
    Macro {
        /// The word.
        word: String,
    },
    /// `@reboot`, which is no time.
    #[error(
        "@reboot: is an event and not a time, so nothing could say when a backup is overdue; give times, \
         such as @daily (a run missed while the machine was off is caught up after the start)"
    )]
    Reboot,
    /// A line that no day fits.
    #[error("{line:?} never occurs: no month it names has such a day")]
    Never {
        /// The line.
        line: String,
    },
}

/// What one field accepts.
struct FieldKind {
    name: &'static str,
    min: u32,
    max: u32,
    /// Names for the numbers from `first_name` on.
    names: &'static [&'static str],
    first_name: u32,
}

const MINUTE: FieldKind = FieldKind { name: "minute", min: 0, max: 59, names: &[], first_name: 0 };
const HOUR: FieldKind = FieldKind { name: "hour", min: 0, max: 23, names: &[], first_name: 0 };
const DAY_OF_MONTH: FieldKind =
    FieldKind { name: "day-of-month", min: 1, max: 31, names: &[], first_name: 0 };
const MONTH: FieldKind = FieldKind {
    name: "month",
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    first_name: 1,
};
const DAY_OF_WEEK: FieldKind = FieldKind {
    name: "day-of-week",
    min: 0,
    max: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    first_name: 0,
};

/// The words that stand for a line. Each is the line cron(8) itself puts in their place.
const MACROS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// One field: which numbers are in it, and whether it starts with `*`, which is what the rules for the two
/// day fields and for overlaps ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FieldSet {
    bits: u64,
    pub(super) star: bool,
}

impl FieldSet {
    /// The numbers of the field, ascending.
    pub(super) fn values(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |n| self.bits & (1 << n) != 0)
    }
}

/// The five fields of a line. Weekdays are 0 (Sunday) to 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) minute: FieldSet,
    pub(super) hour: FieldSet,
    pub(super) day_of_month: FieldSet,
    pub(super) month: FieldSet,
    pub(super) day_of_week: FieldSet,
}

pub(super) fn parse(line: &str) -> Result<Fields, ScheduleError> {
    let line = line.trim();
    let expanded = if line.starts_with('@') { expand_macro(line)? } else { line };
    // Only what C's locale calls blank separates fields in a crontab; a line break inside a value is a typo.
    let words: Vec<&str> = expanded.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let [minute, hour, day_of_month, month, day_of_week] = words[..] else {
        return Err(ScheduleError::FieldCount { line: line.to_owned(), found: words.len() });
    };
    let mut fields = Fields {
        minute: parse_field(&MINUTE, minute)?,
        hour: parse_field(&HOUR, hour)?,
        day_of_month: parse_field(&DAY_OF_MONTH, day_of_month)?,
        month: parse_field(&MONTH, month)?,
        day_of_week: parse_field(&DAY_OF_WEEK, day_of_week)?,
    };
    let week = &mut fields.day_of_week.bits;
    if *week & (1 << 7) != 0 {
        *week = (*week | 1) & !(1 << 7);
    }
    Ok(fields)
}

fn expand_macro(word: &str) -> Result<&'static str, ScheduleError> {
    if word == "@reboot" {
        return Err(ScheduleError::Reboot);
    }
    MACROS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, line)| *line)
        .ok_or_else(|| ScheduleError::Macro { word: word.to_owned() })
}

fn parse_field(kind: &'static FieldKind, text: &str) -> Result<FieldSet, ScheduleError> {
    let mut bits = 0;
    for item in text.split(',') {
        if item.is_empty() {
            return Err(kind.error(text, "an item of the list is empty; write it like 1,2,3".to_owned()));
        }
        bits |= parse_item(kind, item)?;
    }
    Ok(FieldSet { bits, star: text.starts_with('*') })
}

/// One item of a list: `*`, a number or name, a range, each range with an optional step.
fn parse_item(kind: &'static FieldKind, item: &str) -> Result<u64, ScheduleError> {
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (item, None),
    };
    let (first, last) = if range == "*" {
        (kind.min, kind.max)
    } else if let Some((first, last)) = range.split_once('-') {
        (kind.number(item, first)?, kind.number(item, last)?)
    } else {
        let number = kind.number(item, range)?;
        if step.is_some() {
            let range = format!("{number}-{}", kind.max);
            let problem =
                format!("a step needs a range, as in {range}/{} or */{}", step_hint(step), step_hint(step));
            return Err(kind.error(item, problem));
        }
        (number, number)
    };
    if first > last {
        let problem =
            format!("runs backwards, which cron never matches; write {}", kind.unwrapped(first, last));
        return Err(kind.error(item, problem));
    }
    let step = match step {
        None => 1,
        Some(text) => parse_digits(text)
            .filter(|step| *step > 0)
            .ok_or_else(|| kind.error(item, format!("the step {text:?} must be a number from 1 on")))?,
    };
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok((first..=last).step_by(step).fold(0, |bits, n| bits | 1 << n))
}

fn span(first: u32, last: u32) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn step_hint(step: Option<&str>) -> &str {
    step.filter(|s| parse_digits(s).is_some_and(|n| n > 0)).unwrap_or("2")
}

/// A number of ASCII digits only; a number too big for the type is as wrong as any other too big one.
fn parse_digits(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u32::MAX))
}

impl FieldKind {
    fn number(&self, item: &str, text: &str) -> Result<u32, ScheduleError> {
        let named = || self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match parse_digits(text) {
            Some(number) => Some(number),
            None => named().map(|index| index as u32 + self.first_name),
        };
        match number {
            Some(number) if (self.min..=self.max).contains(&number) => Ok(number),
            _ => Err(self.error(item, format!("allowed are {}", self.allowed()))),
        }
    }

    /// How to write a range that runs over the end of the field.
    fn unwrapped(&self, first: u32, last: u32) -> String {
        match (self.max, first, last) {
            (7, 7, last) => format!("0-{last}"),
            (7, first, 0) => format!("{first}-7 (Sunday is also 7)"),
            (7, first, last) => format!("{},{}", span(first, 6), span(0, last)),
            (max, first, last) => format!("{},{}", span(first, max), span(self.min, last)),
        }
    }

    fn allowed(&self) -> String {
        let range = format!("{} to {}", self.min, self.max);
        match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!("{range} and {first} to {last}"),
            _ => range,
        }
    }

    fn error(&self, value: &str, problem: String) -> ScheduleError {
        ScheduleError::Field { field: self.name, value: value.to_owned(), problem }
    }
}
