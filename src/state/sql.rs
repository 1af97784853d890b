//! Small conversions between rows and values.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row, RowIndex};
use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer};

/// Milliseconds since 1970, the form of every timestamp in the database.
pub(super) fn ms(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}

/// [`crate::clock::waits`] as a condition: `column` and `now` are what stands there in SQL. Null where the column is.
pub(super) fn waits(column: &str, now: &str, longest: TimeDelta) -> String {
    format!("({column} > {now} AND {column} <= {now} + {})", longest.num_milliseconds())
}

pub(super) fn opt_ms(time: Option<DateTime<Utc>>) -> Option<i64> {
    time.map(ms)
}

/// SQLite has no unsigned integers; what does not fit (8 EiB) is cut to the largest that does.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn bad(message: String) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, message.into())
}

pub(super) fn from_ms(value: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(value).ok_or_else(|| bad(format!("{value} is no timestamp")))
}

pub(super) fn time(row: &Row<'_>, column: impl RowIndex) -> Result<DateTime<Utc>> {
    from_ms(row.get(column)?)
}

pub(super) fn opt_time(row: &Row<'_>, column: impl RowIndex) -> Result<Option<DateTime<Utc>>> {
    row.get::<_, Option<i64>>(column)?.map(from_ms).transpose()
}

pub(super) fn uint(row: &Row<'_>, column: impl RowIndex) -> Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// Any type that serde reads from one string: names, ids, words of an enum.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T> {
    T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(text))
        .map_err(|e| bad(e.to_string()))
}

pub(super) fn get_word<T: DeserializeOwned>(row: &Row<'_>, column: impl RowIndex) -> Result<T> {
    word(row.get_ref(column)?.as_str().map_err(Error::from)?)
}

pub(super) fn opt_word<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<Option<T>> {
    row.get_ref(column)?.as_str_or_null().map_err(Error::from)?.map(word).transpose()
}

pub(super) fn get_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(Error::from)?;
    serde_json::from_str(text).map_err(|e| bad(format!("column {column}: {e}")))
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::ToSqlConversionFailure(e.into()))
}

/// An enum whose variants are stored, shown and serialised as one word each.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word stored and shown for it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(super) use words;
