//! What a target was when it was last known to be the right one.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{State, StateError};
use crate::model::TargetName;

/// What tells one file system from another that is mounted in its place.
///
/// Device numbers are not in it: those of network shares change with every mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetIdentity {
    /// The id in the target's sentinel file; none where it has no such file.
    pub id: Option<String>,
    /// The type of its file system, such as `nfs`, `cifs`, `ext4`.
    pub file_system: String,
    /// When this was recorded.
    pub recorded: DateTime<Utc>,
}

/// What the keys begin with.
const PREFIX: &str = "target-identity:";

fn key(target: &TargetName) -> String {
    format!("{PREFIX}{target}")
}

/// All that is recorded.
pub(super) fn all_identities(tx: &Transaction<'_>) -> rusqlite::Result<BTreeMap<TargetName, TargetIdentity>> {
    let rows: Vec<(String, String)> = tx
        .prepare_cached("SELECT substr(key, ?2), value FROM meta WHERE substr(key, 1, ?2 - 1) = ?1")?
        .query_map(params![PREFIX, PREFIX.len() as i64 + 1], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let known = rows
        .into_iter()
        .filter_map(|(name, text)| Some((name.parse().ok()?, serde_json::from_str(&text).ok()?)));
    Ok(known.collect())
}

impl State {
    /// What a target was when it was initialised or first used; none when it never was.
    pub fn target_identity(&self, target: &TargetName) -> Result<Option<TargetIdentity>, StateError> {
        let text: Option<String> = self.read(&format!("read what target {target} was"), |tx| {
            tx.query_row("SELECT value FROM meta WHERE key = ?1", [key(target)], |row| row.get(0)).optional()
        })?;
        // A text of a later version that this one does not understand is as good as none.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Records what a target is from now on.
    pub fn set_target_identity(
        &self,
        target: &TargetName,
        identity: &TargetIdentity,
    ) -> Result<(), StateError> {
        self.write(&format!("record what target {target} is"), |tx| {
            let text = super::sql::json(identity)?;
            tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key(target), text])?;
            Ok(())
        })
    }
}
