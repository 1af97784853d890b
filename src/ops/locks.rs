//! The two locks of a job: the agent's own, and the one a legacy script takes with `flock`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Agent, reap};
use crate::config::JobConfig;
use crate::event::Progress;
use crate::lock::{FileLock, LockMode};
use crate::model::JobName;

/// How often a run is looked for that is waited for by its record.
const POLL: Duration = Duration::from_millis(200);

/// Both locks, held. Dropping them lets go.
#[derive(Debug)]
pub struct Locks {
    _private: FileLock,
    _configured: Option<FileLock>,
}

/// Who holds a lock that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The lock file.
    pub path: PathBuf,
    /// Who, in words.
    pub holder: String,
}

/// Takes both locks, in this order always: the private one, then the configured one. `wait` is how long to
/// wait for them; not at all when absent.
pub fn acquire(
    agent: &Agent,
    name: &JobName,
    job: &JobConfig,
    wait: Option<Duration>,
    progress: &Progress,
) -> Result<std::result::Result<Locks, Held>> {
    let path = agent.lock_path(name);
    let folder = path.parent().context("the lock has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
    let deadline = wait.map(|wait| Instant::now() + wait);
    let take = |path: &PathBuf, mode| match deadline {
        None => FileLock::try_acquire(path, mode),
        Some(deadline) => FileLock::acquire_wait(path, mode, deadline, &|| progress.is_cancelled()),
    };
    let Some(private) = take(&path, LockMode::Private)? else {
        return Ok(Err(Held { path, holder: own_holder(agent, name) }));
    };
    // A lock file that somebody removed under a run excludes nobody any more; its record does.
    while agent.state.running(name)?.is_some_and(|run| reap::is_alive(&run)) {
        if deadline.is_none_or(|deadline| Instant::now() >= deadline) || progress.is_cancelled() {
            return Ok(Err(Held { path, holder: own_holder(agent, name) }));
        }
        std::thread::sleep(POLL);
    }
    let Some(configured) = &job.lock_file else {
        return Ok(Ok(Locks { _private: private, _configured: None }));
    };
    match take(configured, LockMode::Configured)? {
        Some(lock) => Ok(Ok(Locks { _private: private, _configured: Some(lock) })),
        None => {
            let holder = "another program (a script that uses flock, or another agent)".to_owned();
            Ok(Err(Held { path: configured.clone(), holder }))
        }
    }
}

/// Takes a lock beside those of jobs; `name` has a dot, which no job's name has. None when it is held.
pub fn beside(agent: &Agent, name: &str) -> Result<Option<FileLock>> {
    let folder = agent.config.state_dir.join("locks");
    std::fs::create_dir_all(&folder).with_context(|| format!("making folder {}", folder.display()))?;
    Ok(FileLock::try_acquire(&folder.join(format!("{name}.lock")), LockMode::Private)?)
}

fn own_holder(agent: &Agent, name: &JobName) -> String {
    match agent.state.running(name) {
        Ok(Some(run)) => {
            let pid = run.process.map_or_else(|| "?".to_owned(), |p| p.pid.to_string());
            format!(
                "run {} (process {pid}, since {} UTC)",
                run.run_id,
                run.started.format("%Y-%m-%d %H:%M:%S")
            )
        }
        _ => "another process of the agent".to_owned(),
    }
}
