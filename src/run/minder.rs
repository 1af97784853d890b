//! The watch over a run: it ends one that takes too long, and records how far it is.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Running;
use crate::config::JobConfig;
use crate::ops::Agent;

/// Ends a run that takes too long, and records how far it is. Lives as long as the run.
pub(super) struct Minder {
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

/// How often the progress of a run is recorded.
const RECORD_PROGRESS: Duration = Duration::from_secs(5);

impl Minder {
    /// Begins to watch.
    pub(super) fn start(agent: &Agent, run: &Running<'_>, job: &JobConfig) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let deadline = job.max_runtime.map(|limit| Instant::now() + limit);
        let (state, run_id, progress) = (agent.state.clone(), run.run_id.clone(), Arc::clone(run.progress));
        let expected: u64 = run.baselines().values().map(|b| b.source_bytes).sum();
        let thread = thread::spawn(move || {
            let mut late = false;
            let mut recorded = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(250)) {
                if !late && deadline.is_some_and(|d| Instant::now() >= d) {
                    late = true;
                    progress.cancel();
                }
                if expected > 0 && recorded.elapsed() >= RECORD_PROGRESS {
                    recorded = Instant::now();
                    // Only for those who watch from outside: a busy database is no reason to stop.
                    let _ = state.set_progress(&run_id, progress.source_bytes() as f64 / expected as f64);
                }
            }
            late
        });
        Self { stop, thread }
    }

    /// Stops minding; true when the run had to be ended.
    pub(super) fn stop(self) -> bool {
        let _ = self.stop.send(());
        self.thread.join().unwrap_or(false)
    }
}
