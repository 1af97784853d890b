//! Names, as they stand in the configuration.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::InvalidValue;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
