//! What is asked of the child, and what it answers.

use std::path::PathBuf;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::TargetConfig;
use crate::crypt::KeyFiles;
use crate::manifest::{Pin, StoredFile};
use crate::model::{RunId, Secret, TargetName};
use crate::ops::prune::Stays;
use crate::ops::verify::{Depth, Report};
use crate::ops::{copies, drill};
use crate::state::TargetIdentity;
use crate::target::{self, Scan, Sentinel, Space, Target};

/// What to do with one backup at one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct At {
    /// The target's name.
    pub target: TargetName,
    /// What the configuration says of it.
    pub config: TargetConfig,
    /// The backup's folder there.
    pub location: String,
    /// What must stand there, where that is known.
    pub expected: Option<TargetIdentity>,
    /// A secret that the environment gave: the configuration is written without it, and the child needs it.
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
}

impl At {
    /// A folder at a target, which may be empty where only the target is meant.
    pub fn new(target: &TargetName, config: &TargetConfig, location: impl Into<String>) -> Self {
        Self {
            target: target.clone(),
            secret: config.secret().cloned(),
            config: config.clone(),
            location: location.into(),
            expected: None,
        }
    }

    /// The same, refused whenever something else than `expected` stands there.
    pub fn expecting(self, expected: Option<TargetIdentity>) -> Self {
        Self { expected, ..self }
    }

    /// Another folder at the same target.
    pub fn below(self, location: &str) -> Self {
        Self { location: location.to_owned(), ..self }
    }

    /// The target itself.
    pub fn open(&self) -> Result<Box<dyn Target>> {
        let mut config = self.config.clone();
        config.set_secret(self.secret.clone());
        let target = target::open(&self.target, &config, self.expected.clone(), None)?;
        Ok(target::limited(target, self.config.bandwidth()))
    }
}

/// A secret on its way through the pipe to the child, the only place it is written to.
mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Secret;

    pub(super) fn serialize<S: Serializer>(
        secret: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => serializer.serialize_str(secret.expose()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
    }
}

/// What is asked of the child.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// Look whether the target is there and writable.
    Probe {
        /// The target; its location is not looked at.
        at: At,
    },
    /// Say what stands there now, whatever is expected.
    Identify {
        /// The target; its location is not looked at.
        at: At,
        /// The time to give.
        now: DateTime<Utc>,
    },
    /// Read all manifests.
    Scan {
        /// The target; its location is not looked at.
        at: At,
    },
    /// Give the target a sentinel file, unless it has one.
    Initialise {
        /// The target; its location is not looked at.
        at: At,
        /// The one to write.
        sentinel: Sentinel,
    },
    /// Copy a backup, publish it at the first free location, read it back.
    Copy {
        /// Where it is.
        from: Box<At>,
        /// Where it goes; the location is not looked at.
        to: Box<At>,
        /// The locations to try.
        locations: Vec<String>,
        /// The backup.
        run: RunId,
    },
    /// Read a backup back.
    Verify {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
        /// How closely.
        depth: Depth,
        /// Where the keys are that an encrypted backup is looked at deeply with.
        keys: KeyFiles,
    },
    /// Read the files of a backup back that another program made.
    VerifyFiles {
        /// Where it is.
        at: At,
        /// The files, with what they should be.
        files: Vec<StoredFile>,
        /// How closely.
        depth: Depth,
    },
    /// Replace a damaged copy by a fresh one, and remove the damaged one last.
    Repair {
        /// Where a good one is.
        from: Box<At>,
        /// Where the damaged one is.
        bad: Box<At>,
        /// The locations to try for the fresh one.
        locations: Vec<String>,
        /// The backup.
        run: RunId,
    },
    /// Restore a backup into a scratch folder, and compare.
    Drill {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
        /// The scratch folder.
        folder: PathBuf,
        /// How many files are compared with the live ones.
        sample: usize,
        /// Where the keys are that an encrypted backup is opened with.
        keys: KeyFiles,
    },
    /// Remove a backup, unless it is pinned there.
    Remove {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
    },
    /// Pin a backup at its target, or unpin it.
    Pin {
        /// Where it is.
        at: At,
        /// The backup.
        run: RunId,
        /// What the target is to know.
        pin: Option<Pin>,
    },
    /// Remove what a dead run or copy left unfinished.
    Clean {
        /// The target; its location is not looked at.
        at: At,
        /// The backup.
        run: RunId,
    },
}

/// What the child answers, a JSON line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Reply {
    /// Bytes read and written so far.
    Progress {
        /// Their sum.
        bytes: u64,
    },
    /// About to publish here; goes on when a line comes back.
    Publishing {
        /// The location.
        location: String,
    },
    /// The target is there.
    Probed {
        /// Its room, where it says it.
        space: Option<Space>,
    },
    /// What stands there.
    Identified {
        /// It.
        identity: TargetIdentity,
    },
    /// What the manifests say.
    Scanned {
        /// All of them.
        scan: Scan,
    },
    /// The sentinel file the target has now.
    Initialised {
        /// Its content.
        sentinel: Sentinel,
    },
    /// The copy is published, and was read back as far as its target says, and found equal.
    Copied {
        /// Where.
        location: String,
        /// Bytes stored.
        bytes: u64,
    },
    /// A damaged copy was replaced.
    Repaired {
        /// Where the good one is now.
        location: String,
        /// Bytes stored.
        bytes: u64,
        /// Why the damaged one could not be removed, when it could not.
        left: Option<String>,
    },
    /// The backup was restored and compared.
    Drilled {
        /// What that proved.
        proof: drill::Proof,
    },
    /// The backup was read back.
    Verified {
        /// What was found.
        report: Report,
    },
    /// It was removed, or there was nothing to remove.
    Removed,
    /// Why it was not removed, though nothing failed.
    Stays {
        /// Why.
        because: Stays,
    },
    /// The target knows of the pin.
    PinSet,
    /// It failed.
    Failed {
        /// The chain of errors.
        error: String,
        /// Whether trying again makes no sense until somebody changed something.
        #[serde(default)]
        permanent: bool,
        /// Whether what a copy is made from could not be read.
        #[serde(default)]
        at_source: bool,
    },
}

impl Reply {
    /// What went wrong, with the marks that the asking side cannot read from a text.
    pub(super) fn failed(error: &anyhow::Error) -> Self {
        Reply::Failed {
            error: format!("{error:#}"),
            permanent: target::is_permanent(error),
            at_source: error.is::<copies::AtSource>(),
        }
    }
}
