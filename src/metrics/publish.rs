//! What is written for those who watch from outside, after each change: `status.json`, and the text file of
//! metrics where one is configured.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::{Facts, render};
use crate::config::Config;
use crate::fsutil;
use crate::lock::{FileLock, LockMode};
use crate::log;
use crate::state::{FactKey, State, write_status};

/// Serialises those who write the text file, so that an older one never replaces a newer one. In the state
/// folder, never removed.
const LOCK_FILE: &str = "textfile.lock";
/// How long a writer waits for another; after that a file that is a moment old is better than none.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Writes `status.json` and the text file. `progress` is what this process knows of running jobs, 0 to 1.
///
/// A text file that cannot be written is no error: it is given back, and like trouble with the log files it is
/// kept in the state, where the health check `outputs` finds it.
///
/// # Errors
/// The state cannot be read or written.
pub fn publish(
    state: &State,
    config: &Arc<Config>,
    progress: std::collections::BTreeMap<crate::model::JobName, f64>,
    now: DateTime<Utc>,
) -> Result<Option<String>> {
    note(state, FactKey::LogTrouble, log::trouble().as_deref(), now)?;
    let Some(path) = &config.metrics.textfile else {
        note(state, FactKey::TextfileTrouble, None, now)?;
        write_status(state, now)?;
        return Ok(None);
    };
    let lock = state.dir().join(LOCK_FILE);
    let _one_at_a_time =
        FileLock::acquire_wait(&lock, LockMode::Private, Instant::now() + LOCK_WAIT, &|| false);
    let snapshot = Arc::new(write_status(state, now)?);
    let facts = Facts { snapshot, config: Arc::clone(config), progress, now };
    let trouble = write_textfile(path, &facts).err().map(|error| format!("{error:#}"));
    if note(state, FactKey::TextfileTrouble, trouble.as_deref(), now)? {
        write_status(state, now)?;
    }
    Ok(trouble)
}

/// Keeps a trouble in the state with the time it began; true when that changed something.
fn note(state: &State, key: FactKey, trouble: Option<&str>, now: DateTime<Utc>) -> Result<bool> {
    let known = state.fact(key)?;
    if known.as_ref().map(|fact| fact.value.as_str()) == trouble {
        return Ok(false);
    }
    match trouble {
        Some(text) => state.set_fact(key, text, now)?,
        None => state.clear_fact(key)?,
    }
    Ok(true)
}

/// Writes the text format to a file for node_exporter's textfile collector: whole or not at all, readable by
/// all. The collector reads names that end in `.prom` only, and so not the unfinished file.
pub fn write_textfile(path: &Path, facts: &Facts) -> Result<()> {
    // A run and a health check may end in the same moment; they would share the temporary file.
    static WRITER: Mutex<()> = Mutex::new(());
    let text = render(facts)?;
    let _guard = WRITER.lock().unwrap_or_else(|e| e.into_inner());
    fsutil::write_atomic(path, text.as_bytes(), 0o644).with_context(|| {
        format!("the text file of metrics cannot be written (metrics.textfile = {})", path.display())
    })
}
