//! Retention policies as people write them: in the configuration, and on the command line.

use std::fmt::Write as _;

use super::types::Keep;

impl Keep {
    /// Reads `last=3, daily=7, within=30days, max_bytes=1 TiB`: the keys of the configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut table = String::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} has no value; write it as \"last=3, daily=7\""))?;
            let (key, value) = (key.trim(), value.trim());
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if key.is_empty() || !key.chars().all(bare) {
                return Err(format!("{key:?} is no key of a policy"));
            }
            // A number stands for itself, everything else is a text: a duration, a size.
            let value = match value.parse::<u32>() {
                Ok(number) if !key.ends_with("_bytes") => number.to_string(),
                _ => toml::Value::String(value.to_owned()).to_string(),
            };
            let line = format!("{key} = {value}");
            // Alone first, so that the error is that of this part.
            toml::from_str::<Self>(&line).map_err(|e| format!("{part:?}: {}", e.message()))?;
            let _ = writeln!(table, "{line}");
        }
        let keep: Self = toml::from_str(&table).map_err(|e| e.message().to_owned())?;
        keep.problem().map_or(Ok(keep), Err)
    }

    /// Why this is no policy anybody means.
    pub(super) fn problem(&self) -> Option<String> {
        let numbers = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        let no_rule = numbers.iter().all(|number| number.unwrap_or(0) == 0)
            && self.within.is_none_or(|within| within.is_zero())
            && self.max_bytes.is_none_or(|limit| limit.0 == 0);
        let floor = self.min_bytes.map_or(0, |floor| floor.0);
        if no_rule && floor > 0 {
            return Some(
                "`min_bytes` only holds back what the other keys let go, and there is none; add one, such as \
                 { last = 3, daily = 7, min_bytes = … }, or leave `keep` out to keep everything"
                    .to_owned(),
            );
        }
        if no_rule {
            return Some(
                "this keeps no backup at all; give at least one number above 0, such as { last = 3, daily = 7 }, \
                 or leave `keep` out to keep everything"
                    .to_owned(),
            );
        }
        match self.max_bytes.filter(|limit| limit.0 > 0) {
            Some(limit) if limit.0 < floor => {
                Some("`min_bytes` is more than `max_bytes`: both cannot hold".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::ByteSize;

    #[test]
    fn a_policy_on_the_command_line_has_the_keys_of_the_configuration() {
        let keep = Keep::parse("last=3, daily = 7,within=30days, max_bytes=1 TiB, min_bytes=5000").unwrap();
        assert_eq!((keep.last, keep.daily, keep.weekly), (Some(3), Some(7), None));
        assert_eq!(keep.within, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!((keep.max_bytes, keep.min_bytes), (Some(ByteSize(1 << 40)), Some(ByteSize(5000))));
    }

    #[test]
    fn what_is_no_policy_is_refused_with_the_reason() {
        for (text, says) in [
            ("", "keeps no backup"),
            ("last=0", "keeps no backup"),
            ("last", "has no value"),
            ("newest=3", "newest"),
            ("last=-1", "last"),
            ("min_bytes=1 GiB", "only holds back"),
            ("max_bytes=1 GiB, min_bytes=2 GiB", "more than"),
            ("last = 3] #=1", "last"),
            ("a b=1", "no key"),
        ] {
            let error = Keep::parse(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
