//! Shares as percentages: `"50%"` is 0.5.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Reads a percentage from 0 to 100 as a share from 0.0 to 1.0.
pub(super) fn parse(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').ok_or("the % sign is missing")?;
    match number.trim_end().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        Ok(_) => Err("it must lie between 0% and 100%".to_owned()),
        Err(_) => Err("there is no number before the % sign".to_owned()),
    }
}

/// The text `parse` reads back, to a hundredth of a percent.
pub(super) fn format(share: f64) -> String {
    format!("{}%", (share * 10_000.0).round() / 100.0)
}

/// The same for a share that may be absent.
pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(format).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse(&text).map_err(de::Error::custom)).transpose()
    }
}
