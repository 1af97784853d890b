//! Looks at the machine that the health checks ask for: never at anything that can hang.

use std::time::Duration;

use super::isolate::{self, At, Reply, Request};
use super::verify::{Depth, verify};
use super::{open_target, reap};
use crate::config::Config;
use crate::event::Progress;
use crate::health::Extra;
use crate::lock;
use crate::model::JobName;
use crate::state::{JobState, Snapshot};

/// How long a look at a mounted primary target may take.
const LOOK_STALL: Duration = Duration::from_secs(10);

/// Which runs are dead, and whether the newest good backup of each job is where it should be.
pub fn look(config: &Config, snapshot: &Snapshot) -> Extra {
    let mut extra = Extra::default();
    for state in &snapshot.jobs {
        let job = &state.row.job;
        if let Some(run) = &state.running {
            let path = config.state_dir.join("locks").join(format!("{job}.lock"));
            if lock::is_free(&path).unwrap_or(false) && !reap::is_alive(run) {
                extra.dead_runs.insert(run.run_id.clone());
            }
        }
        if let Some(found) = files_of(config, job, state) {
            extra.backup_files.insert(job.clone(), found);
        }
    }
    extra
}

/// Whether manifest and files of the newest good backup are at the primary target.
fn files_of(config: &Config, job: &JobName, state: &JobState) -> Option<Result<(), String>> {
    let run = state.last_success.as_ref()?;
    let (name, location) = (run.target.as_ref()?, run.location.as_ref()?);
    let target = config.target.get(name)?;
    if !config.job.contains_key(job) {
        return None;
    }
    let progress = Progress::default();
    let report = if target.require_mount {
        let at =
            At { target: name.clone(), config: target.clone(), location: location.clone(), expected: None };
        let request = Request::Verify { at, run: run.run_id.clone(), depth: Depth::Lengths };
        match isolate::call(&request, LOOK_STALL, None, &progress, &mut |_| Ok(())) {
            Ok(Reply::Verified { report }) => Ok(report),
            Ok(other) => Err(anyhow::anyhow!("an unexpected answer: {other:?}")),
            Err(e) => Err(e),
        }
    } else {
        verify(open_target(name, target).as_ref(), location, &run.run_id, Depth::Lengths, &progress)
    };
    Some(match report {
        Ok(report) => report.result(),
        Err(e) => Err(format!("{e:#}")),
    })
}
