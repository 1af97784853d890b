//! The small types everything else is built from: names, ids, sizes, outcomes, secrets.
//!
//! Each type checks its own form when it is made, so that the layers above never meet a job name with a
//! slash in it or a digest of the wrong length.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `names` | names of jobs, targets, components, hooks and channels |
//! | `ids` | ids of runs, digests |
//! | `outcome` | how a run ended, and what files made trouble in it |
//! | `size` | sizes in bytes |
//! | `secret` | what must not be shown |

mod ids;
mod names;
mod outcome;
mod secret;
mod size;

pub use self::ids::{RunId, Sha256};
pub use self::names::{ChannelName, ComponentName, HookName, JobName, TargetName};
pub use self::outcome::{Outcome, WarningCounts, WarningKind};
pub use self::secret::Secret;
pub use self::size::ByteSize;

/// A number and its noun: `1 copy`, `3 copies`.
pub fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A value that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct InvalidValue {
    /// What was given.
    pub value: String,
    /// What the type accepts, in words.
    pub expected: &'static str,
}
