//! Ids of runs, and digests.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::InvalidValue;

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
}
