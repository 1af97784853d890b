//! What proves that backups come back: reading them back on a schedule, and trial restores.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{AbsolutePath, CronLine, DurationText, SecretFile, SizeText};
use crate::model::{ByteSize, ComponentName, TargetName};

/// When the backups at a target are read back, and how much a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// Whether that is done at all.
    pub enabled: bool,
    /// When a round through all backups begins, as a crontab line.
    #[schemars(with = "CronLine")]
    pub schedule: String,
    /// Bytes read in 24 hours, at most; a round may take several days. No limit when absent.
    #[schemars(with = "Option<SizeText>")]
    pub budget: Option<ByteSize>,
    /// Replace a damaged copy at once, from a good one at another target.
    pub repair: bool,
}

/// Trial restores of a job's backups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillConfig {
    /// When the daemon makes one, as a crontab line; without it only `agent drill` does.
    #[serde(default)]
    #[schemars(with = "Option<CronLine>")]
    pub schedule: Option<String>,
    /// How late one may be before that is reported.
    #[serde(default = "super::defaults::drill_grace", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub grace: Duration,
    /// The target to restore from; the primary when absent.
    #[serde(default)]
    pub target: Option<TargetName>,
    /// How many restored files are compared with the live source.
    #[serde(default = "super::defaults::drill_sample")]
    pub sample: u32,
    /// The folder in which the scratch folder is made; `drill` in the state folder when absent.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub scratch: Option<PathBuf>,
    /// A file with the private key that opens encrypted backups: of age, or of SSH.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub identity_file: Option<PathBuf>,
    /// What must be true of the restored files.
    #[serde(default)]
    pub check: BTreeMap<ComponentName, DrillCheck>,
}

/// One check of restored files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum DrillCheck {
    /// A program that must exit with 0.
    Command(CommandCheck),
    /// A query whose answer is known.
    Sql(SqlCheck),
}

/// A program that must exit with 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandCheck {
    /// Program and arguments; `{folder}` is the scratch folder. No shell is involved.
    pub command: Vec<String>,
    /// How long it may run.
    #[serde(default = "super::defaults::check_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// A query whose answer is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlCheck {
    /// The source whose database is asked.
    pub source: ComponentName,
    /// One query; it can change nothing.
    pub query: String,
    /// The whole answer: columns divided by tabs, rows by line ends.
    #[serde(default)]
    pub expect: Option<String>,
    /// The answer is one number, and at least this.
    #[serde(default)]
    pub at_least: Option<i64>,
    /// How long it may run.
    #[serde(default = "super::defaults::check_timeout", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}
