//! The state database: what the agent knows across restarts, and what everybody else reads.
//!
//! SQLite in WAL mode with `synchronous=FULL`. Daemon, cron and a person at a shell write the same file,
//! so every write is one `BEGIN IMMEDIATE` transaction with a busy timeout and no I/O but its own in it.
//! Reads go through a connection of their own: a write that waits for another process never holds up
//! `/metrics`. No clock is read here; each function is given `now`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `open` | making, opening and migrating the file; whose it is |
//! | `schema` | the tables, one step a version |
//! | `jobs` | first seen, pauses, acknowledged baselines, scheduled occurrences |
//! | `run`, `runs` | what a run is; begin, steps, end, logs |
//! | `history` | runs found, listed, counted; baselines |
//! | `adopt` | backups found at a target become known again |
//! | `copies` | backups at targets, and the queue of those still to be made |
//! | `drills` | trial restores, and since when they are planned |
//! | `verifies` | what was read back lately, and copies that were repaired |
//! | `imports` | archives that another program made |
//! | `outbox` | messages until somebody accepted them |
//! | `counters` | persisted counters and lock contention |
//! | `facts` | probes of targets, health results, single values |
//! | `records` | all that is known of one job's latest runs, or of one run, for a page |
//! | `snapshot` | everything the watchers need, in one read transaction |
//! | `targets` | what each target was when it was last the right one |
//! | `status_file` | `status.json`, the same for those who may not open the database |

mod adopt;
mod copies;
mod counters;
mod drills;
mod error;
mod facts;
mod history;
mod ids;
mod imports;
mod jobs;
mod open;
mod outbox;
mod records;
mod run;
mod runs;
mod schema;
mod snapshot;
mod sql;
mod status_file;
mod targets;
mod verifies;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use adopt::FoundBackup;
pub use copies::{Copy, CopyFailure, CopyStatus, NewCopy, PinChange, PresentCopy};
pub use counters::{Contention, Counter, names};
pub use drills::{Drill, DrillPlan, DrillResult, JobDrills, NewDrill, ScratchDatabase};
pub use error::StateError;
pub use facts::{Fact, FactKey, HealthRow, HealthStatus, Probe};
pub use history::{Baseline, OutcomeCounts, RunBrief};
pub use imports::{ImportedFile, ImportedRun};
pub use jobs::JobRow;
pub use outbox::{Message, MessageKind, MessageStatus, NewMessage, NextTry};
pub use records::{JobRecord, RunRecord};
pub use run::{ComponentSummary, EndedRun, NewRun, Run, RunTrigger, StepTime, WARNINGS_KEPT};
pub use schema::VERSION;
pub use snapshot::{
    AgentState, ChannelState, JobCounters, JobState, JobTargetState, SNAPSHOT_VERSION, Snapshot,
};
pub use status_file::{Origin, STATUS_FILE, Unreadable, load_for_reading, read_status, write_status};
pub use targets::TargetIdentity;

/// File name of the database inside the state folder.
pub const DATABASE_FILE: &str = "state.db";

/// Nothing in the queues of messages and copies waits for longer than this, and no message is claimed for longer. What
/// is to wait for longer by what is written down was written under a clock that was ahead, and is due.
pub const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(30);

/// A handle to the state database. Cheap to clone; may be used from any thread, but its functions block
/// for the length of a commit, so call them off the async executor.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    path: PathBuf,
    instance_id: String,
    /// Device and inode of the open file.
    identity: (u64, u64),
    writer: Option<Mutex<Connection>>,
    reader: Mutex<Connection>,
    /// Whether the folder goes with the last handle.
    temporary: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.temporary {
            // What stays is a small database in the folder for temporary files.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl State {
    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The random id of this installation, 32 hexadecimal digits, made with the database.
    pub fn instance_id(&self) -> &str {
        &self.inner.instance_id
    }

    /// True for a handle from [`State::open_read_only`]; every write through it fails with
    /// [`StateError::ReadOnly`].
    pub fn is_read_only(&self) -> bool {
        self.inner.writer.is_none()
    }

    /// True for a state that is gone with its last handle; see [`State::open_temporary`].
    pub fn is_temporary(&self) -> bool {
        self.inner.temporary
    }

    /// SQLite would go on with the file it has open, wherever that is now.
    fn check_identity(&self, doing: &str) -> Result<(), StateError> {
        if open::identity(&self.inner.path).is_ok_and(|found| found == self.inner.identity) {
            return Ok(());
        }
        Err(StateError::Replaced { path: self.inner.path.clone(), doing: doing.to_owned() })
    }

    /// One read transaction: everything `f` reads is of the same moment.
    fn read<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        self.check_identity(doing)?;
        // A panic while the lock was held rolled its transaction back, so the connection is usable.
        let mut connection = self.inner.reader.lock().unwrap_or_else(|e| e.into_inner());
        let result = connection.transaction().and_then(|tx| f(&tx));
        result.map_err(|e| StateError::from_sql(&self.inner.path, doing, e))
    }

    /// One write transaction: all of what `f` does, or nothing.
    fn write<T>(
        &self,
        doing: &str,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        let writer = self
            .inner
            .writer
            .as_ref()
            .ok_or_else(|| StateError::ReadOnly { path: self.inner.path.clone(), doing: doing.to_owned() })?;
        self.check_identity(doing)?;
        let mut connection = writer.lock().unwrap_or_else(|e| e.into_inner());
        let result = connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|tx| {
            let value = f(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        result.map_err(|e| StateError::from_sql(&self.inner.path, doing, e))
    }
}

#[cfg(test)]
mod tests;
