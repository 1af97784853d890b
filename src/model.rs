//! The small types everything else is built from: names, ids, sizes, outcomes, secrets.
//!
//! Each type checks its own form when it is made, so that the layers above never meet a job name with a
//! slash in it or a digest of the wrong length.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A value that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct InvalidValue {
    /// What was given.
    pub value: String,
    /// What the type accepts, in words.
    pub expected: &'static str,
}

fn check_name(value: &str, expected: &'static str) -> Result<(), InvalidValue> {
    let valid = !value.is_empty()
        && value.len() <= 64
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        && value.as_bytes()[0].is_ascii_alphanumeric();
    if valid { Ok(()) } else { Err(InvalidValue { value: value.to_owned(), expected }) }
}

/// One name, or two with a dot between them.
fn check_component_name(value: &str, expected: &'static str) -> Result<(), InvalidValue> {
    let (source, part) = value.split_once('.').unwrap_or((value, "x"));
    [source, part]
        .iter()
        .try_for_each(|name| check_name(name, expected))
        .map_err(|_| InvalidValue { value: value.to_owned(), expected })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        name_type!($(#[$doc])* $name, $expected, check_name);
    };
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the form and makes the name.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidValue> {
                let value = value.into();
                $check(&value, $expected)?;
                Ok(Self(value))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(value: &str) -> Result<Self, Self::Err> {
                Self::new(value)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(de::Error::custom)
            }
        }
    };
}

name_type!(
    /// The name of a job. Lower case, because names also stand in environment keys, which the
    /// configuration layer folds to lower case.
    JobName,
    "a job name (lower-case letters, digits, - and _, at most 64)"
);
name_type!(
    /// The name of a target.
    TargetName,
    "a target name (lower-case letters, digits, - and _, at most 64)"
);
name_type!(
    /// The name of a component in a backup: that of its source, or, where a source makes several, the
    /// source's and a part's with a dot between them, `database.shop`.
    ComponentName,
    "a source name (lower-case letters, digits, - and _, at most 64; for one of several components, a dot and as much again)",
    check_component_name
);
name_type!(
    /// The name of a hook.
    HookName,
    "a hook name (lower-case letters, digits, - and _, at most 64)"
);
name_type!(
    /// The name of a notification channel.
    ChannelName,
    "a channel name (lower-case letters, digits, - and _, at most 64)"
);

impl ComponentName {
    /// The source it comes from.
    pub fn source(&self) -> &str {
        self.0.split_once('.').map_or(self.as_str(), |(source, _)| source)
    }
}

/// The id of one run: UTC start and six random base32 digits, `20261124T180000Z-k3f9qa`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// A new id for a run that starts at `start`.
    pub fn generate(start: DateTime<Utc>) -> Self {
        // Crockford's digits in lower case without the look-alikes i, l, o and u.
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut bits: u32 = rand::random();
        let mut tail = String::with_capacity(6);
        for _ in 0..6 {
            tail.push(DIGITS[(bits & 31) as usize] as char);
            bits >>= 5;
        }
        Self(format!("{}-{tail}", start.format("%Y%m%dT%H%M%SZ")))
    }

    /// The id as text; it is safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RunId {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let expected = "a run id (like 20261124T180000Z-k3f9qa)";
        let bytes = value.as_bytes();
        let valid = bytes.len() == 23
            && bytes.iter().enumerate().all(|(i, b)| match i {
                8 => *b == b'T',
                15 => *b == b'Z',
                16 => *b == b'-',
                0..16 => b.is_ascii_digit(),
                _ => b.is_ascii_lowercase() || b.is_ascii_digit(),
            });
        if valid {
            Ok(Self(value.to_owned()))
        } else {
            Err(InvalidValue { value: value.to_owned(), expected })
        }
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// A SHA-256 digest; shown and stored as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(value, &mut bytes).map_err(|_| InvalidValue {
            value: value.to_owned(),
            expected: "a SHA-256 digest (64 hexadecimal digits)",
        })?;
        Ok(Self(bytes))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was read and stored.
    Success,
    /// Files changed or vanished while they were read: normal on a live system.
    Warning,
    /// Something could not be read. What could be is kept, but this is no success.
    Partial,
    /// There is no new backup.
    Failure,
    /// The run was ended from outside: a signal, a crash, a power cut.
    Interrupted,
}

impl Outcome {
    /// All outcomes, best first.
    pub const ALL: [Outcome; 5] =
        [Outcome::Success, Outcome::Warning, Outcome::Partial, Outcome::Failure, Outcome::Interrupted];

    /// True when the run counts as a good backup: `success` or `warning`.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Success | Outcome::Warning)
    }

    /// The word stored and shown for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Warning => "warning",
            Outcome::Partial => "partial",
            Outcome::Failure => "failure",
            Outcome::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Outcome::ALL
            .into_iter()
            .find(|o| o.as_str() == value)
            .ok_or_else(|| InvalidValue { value: value.to_owned(), expected: "an outcome" })
    }
}

/// What went wrong with one file, or why it was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WarningKind {
    /// The file changed while it was read; what is stored is a mixture of before and after.
    Changed,
    /// The file was listed by its folder but gone when it was opened.
    Vanished,
    /// The file could not be opened or read.
    Unreadable,
    /// A socket, FIFO or device: listed for the record, never opened, no warning.
    Skipped,
}

impl WarningKind {
    /// The kinds that count as warnings, in the order they are reported.
    pub const COUNTED: [WarningKind; 3] =
        [WarningKind::Changed, WarningKind::Vanished, WarningKind::Unreadable];

    /// The word stored and shown for it.
    pub fn as_str(self) -> &'static str {
        match self {
            WarningKind::Changed => "changed",
            WarningKind::Vanished => "vanished",
            WarningKind::Unreadable => "unreadable",
            WarningKind::Skipped => "skipped",
        }
    }
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many files of each kind a component or run met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarningCounts {
    /// Files that changed while they were read.
    pub changed: u64,
    /// Files that were gone when they were opened.
    pub vanished: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Sockets, FIFOs and devices; not a warning.
    pub skipped: u64,
}

impl WarningCounts {
    /// Counts one more of `kind`.
    pub fn add(&mut self, kind: WarningKind) {
        match kind {
            WarningKind::Changed => self.changed += 1,
            WarningKind::Vanished => self.vanished += 1,
            WarningKind::Unreadable => self.unreadable += 1,
            WarningKind::Skipped => self.skipped += 1,
        }
    }

    /// The count of `kind`.
    pub fn get(&self, kind: WarningKind) -> u64 {
        match kind {
            WarningKind::Changed => self.changed,
            WarningKind::Vanished => self.vanished,
            WarningKind::Unreadable => self.unreadable,
            WarningKind::Skipped => self.skipped,
        }
    }

    /// All that count as warnings; `skipped` does not.
    pub fn total(&self) -> u64 {
        self.changed + self.vanished + self.unreadable
    }

    /// Adds the counts of another component.
    pub fn merge(&mut self, other: &WarningCounts) {
        self.changed += other.changed;
        self.vanished += other.vanished;
        self.unreadable += other.unreadable;
        self.skipped += other.skipped;
    }
}

/// A size in bytes. Read from `1.5 GiB`, `500MB` or a plain number; shown with binary units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text = match unit {
            0 => format!("{} B", self.0),
            _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
            _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
            _ => format!("{value:.0} {}", UNITS[unit]),
        };
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let fail =
            || InvalidValue { value: value.to_owned(), expected: "a size (like 500MB, 1.5 GiB or 1048576)" };
        let text = value.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "k" | "kib" => 1 << 10,
            "mb" => 1_000_000,
            "m" | "mib" => 1 << 20,
            "gb" => 1_000_000_000,
            "g" | "gib" => 1 << 30,
            "tb" => 1_000_000_000_000,
            "t" | "tib" => 1 << 40,
            _ => return Err(fail()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(ByteSize).ok_or_else(fail);
        }
        let fraction: f64 = number.parse().map_err(|_| fail())?;
        let bytes = fraction * factor as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(ByteSize(bytes as u64)) } else { Err(fail()) }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(d)? {
            Raw::Number(n) => Ok(ByteSize(n)),
            Raw::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// A text that must not be shown: passwords, tokens. Neither `Debug` nor `Display` prints it, and it is
/// never serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_round_trip_and_refuse_other_text() {
        let start = "2026-11-24T18:00:00Z".parse().unwrap();
        let id = RunId::generate(start);
        assert!(id.as_str().starts_with("20261124T180000Z-"));
        assert_eq!(id.as_str().parse::<RunId>().unwrap(), id);
        for bad in [
            "",
            "20261124T180000Z-",
            "20261124T180000Z-K3F9QA",
            "../../etc/passwd",
            "20261124 180000Z-k3f9qa",
        ] {
            assert!(bad.parse::<RunId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1.5 GiB", 1_610_612_736),
            ("500MB", 500_000_000),
            ("1k", 1024),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for bad in ["", "GiB", "-1", "1.2.3", "12 parsecs", "99999999999999999999"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(ByteSize(1_500_000_000).to_string(), "1.40 GiB");
        assert_eq!(ByteSize(999).to_string(), "999 B");
    }

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", "../x", "A", "a/b", "-a", "a b", "ü", "a.b"] {
            assert!(JobName::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(JobName::new("askproai").unwrap().as_str(), "askproai");
    }

    #[test]
    fn a_component_has_the_name_of_its_source_and_perhaps_a_part() {
        for good in ["database", "database.shop", "a.b_c-9"] {
            assert_eq!(ComponentName::new(good).unwrap().as_str(), good);
        }
        for bad in [".", "a.", ".b", "a.b.c", "a..b", "a.B", "a.-b", "../x"] {
            assert!(ComponentName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }
}
