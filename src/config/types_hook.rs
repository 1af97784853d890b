//! Commands around a run, as the configuration says it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{DurationText, SecretFile};
use crate::model::ComponentName;

/// Commands that belong together: what `before` begins, `after` ends.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// What the commands stand around; `run` unless `source` is set.
    #[serde(default)]
    pub around: Around,
    /// The one source the commands stand around, instead of `around`.
    #[serde(default)]
    pub source: Option<ComponentName>,
    /// Program and arguments, run before; no shell is involved. If it fails, the run fails, and nothing is read.
    #[serde(default)]
    pub before: Vec<String>,
    /// Program and arguments, run after, whatever happened. If it fails, the run is degraded.
    #[serde(default)]
    pub after: Vec<String>,
    /// Program and arguments, run at the end of a run that was no success.
    #[serde(default)]
    pub failure: Vec<String>,
    /// How long each of the commands may run.
    #[serde(default = "super::defaults::hook_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// The user the commands run as; needs the agent to run as root.
    #[serde(default)]
    pub run_as: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are read from files.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SecretFile>")]
    pub env_file: BTreeMap<String, PathBuf>,
}

/// What the commands of a hook stand around.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Around {
    /// The whole run, until its outcome is known.
    #[default]
    Run,
    /// The reading of the sources only: for a maintenance mode or a snapshot, which should end soon.
    Capture,
}
