//! Durations as people write them: `90s`, `1h`, `1d 12h`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Reads a duration. The error says what is wrong, without the text itself.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    use humantime::DurationError as Error;
    humantime::parse_duration(text.trim()).map_err(|error| match error {
        Error::UnknownUnit { unit, value, .. } if unit.is_empty() => {
            format!("{value} of what? Write {value}s or {value}m")
        }
        Error::UnknownUnit { unit, .. } => {
            format!("there is no unit {unit:?}; known are s, m (minutes), h, d, w, M (months) and y")
        }
        Error::NumberOverflow => "the number is too large".to_owned(),
        other => other.to_string(),
    })
}

/// The text `parse` reads back to the same duration.
pub(super) fn format(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    format(*value).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The same for a duration that may be absent.
pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(format).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse(&text).map_err(de::Error::custom)).transpose()
    }
}
