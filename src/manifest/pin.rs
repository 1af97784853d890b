//! `PINNED`: a small file beside the manifest of a backup that a person keeps. The manifest never changes; this file
//! comes and goes, no list of sums names it, and whoever rebuilds a state from a target finds it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The file's name inside a backup.
pub const PIN_FILE: &str = "PINNED";
/// No such file is longer; of a longer one only this much is read.
pub const PIN_LONGEST: u64 = 64 << 10;
/// The version this program writes.
const VERSION: u32 = 1;

/// Why a backup is kept, and by whom. Unknown fields of later versions are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Format version.
    pub version: u32,
    /// When it was pinned.
    pub pinned: DateTime<Utc>,
    /// The user and the host it was pinned from: `root@web1`.
    pub by: String,
    /// Why, in a person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Pin {
    /// A new one.
    pub fn new(pinned: DateTime<Utc>, by: String, reason: Option<String>) -> Self {
        Self { version: VERSION, pinned, by, reason }
    }

    /// Reads a file's content. One that is damaged, or empty because somebody made it by hand, pins all the same.
    pub fn parse(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Self {
            version: VERSION,
            pinned: DateTime::UNIX_EPOCH,
            by: "somebody".to_owned(),
            reason: Some(format!("its file {PIN_FILE} says nothing readable")),
        })
    }

    /// The file's content, a line of JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_comes_back_as_it_was_and_a_file_that_says_nothing_still_pins() {
        let at = "2026-11-24T18:00:00Z".parse().unwrap();
        let pin = Pin::new(at, "root@web1".to_owned(), Some("before the move".to_owned()));
        assert_eq!(Pin::parse(&pin.to_bytes()), pin);
        let later = br#"{"version": 7, "pinned": "2026-11-24T18:00:00Z", "by": "x", "hold": true}"#;
        assert_eq!(Pin::parse(later).by, "x");
        for text in ["", "{", "[]"] {
            assert_eq!(Pin::parse(text.as_bytes()).by, "somebody", "{text:?}");
        }
    }
}
