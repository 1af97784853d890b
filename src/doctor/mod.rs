//! `agent doctor`: what is wrong with the surroundings of backups, before it costs one.
//!
//! Health checks look at what backups did; the doctor looks at what will make them fail: things that start
//! them twice, programs that are missing, locks that do not lock, targets that are not mounted, mail that
//! cannot leave, a clock that is wrong. Every look that may hang has a thread of its own and a deadline:
//! what does not end is reported as that.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `table` | THE table of diagnoses |
//! | `finding` | what is found, and the report |
//! | `starts` | what starts the jobs |
//! | `programs` | sources and the programs they need |
//! | `permissions` | files with secrets, the state folder |
//! | `places` | locks and targets, and the file systems they lie on |
//! | `channels` | mail servers and addresses |
//! | `surroundings` | clock and time zone, Prometheus |
//! | `rotation` | log files |
//! | `render` | the report for a terminal |

mod channels;
mod finding;
mod permissions;
mod places;
mod programs;
mod render;
mod rotation;
mod starts;
mod surroundings;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

pub use finding::{Finding, Report, Spot};
pub use table::{DIAGNOSES, Diagnosis, Group};

use crate::config::Config;
use crate::event::Progress;
use crate::mounts::Mounts;
use crate::state::Snapshot;
use crate::triggers::Found;

/// How long all looks together may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the doctor knows before it looks.
#[derive(Debug)]
pub struct Patient {
    /// The configuration, whose files with secrets were not looked at yet.
    pub config: Arc<Config>,
    /// The files it was read from.
    pub config_files: Vec<PathBuf>,
    /// What its reader found odd.
    pub warnings: Vec<String>,
    /// How this program is called here.
    pub command: String,
    /// The folder that stands for `/` where crontabs, timers, log rotation and the time zone are looked for.
    pub root: PathBuf,
    /// The state, or why it cannot be read.
    pub state: Result<Snapshot, String>,
    /// The present moment.
    pub now: DateTime<Utc>,
}

/// What the looks share.
struct Visit {
    patient: Patient,
    mounts: Mounts,
    found: Found,
    /// Cancelled at the deadline, so that programs that were started end.
    progress: Arc<Progress>,
}

type Look = Box<dyn FnOnce(&Visit) -> Vec<Finding> + Send>;

/// Looks at everything, for at most about half a minute.
pub fn examine(patient: Patient) -> Report {
    let (host, at, zone) = (patient.config.host_name(), patient.now, patient.config.timezone);
    let mounts = Mounts::read().unwrap_or_default();
    let found = starts::search(&patient);
    let visit = Arc::new(Visit { patient, mounts, found, progress: Arc::default() });
    let mut looks: Vec<(Group, String, Look)> = vec![
        (Group::Starts, "what starts backups".to_owned(), Box::new(starts::look)),
        (Group::Permissions, "permissions".to_owned(), Box::new(permissions::look)),
        (Group::Locks, "locks".to_owned(), Box::new(places::locks)),
        (Group::Surroundings, "the surroundings".to_owned(), Box::new(surroundings::look)),
        (Group::Logs, "log files".to_owned(), Box::new(rotation::look)),
    ];
    looks.extend(programs::looks(&visit));
    looks.extend(places::looks(&visit));
    looks.extend(channels::looks(&visit));

    let mut waiting: Vec<(Group, String)> =
        looks.iter().map(|(group, what, _)| (*group, what.clone())).collect();
    let (send, answers) = channel();
    let mut findings = Vec::new();
    for (group, what, look) in looks {
        let (send, visit, key) = (send.clone(), Arc::clone(&visit), (group, what.clone()));
        let spawned = thread::Builder::new().name("look".to_owned()).spawn(move || {
            // Who waits has gone when this comes too late.
            let _ = send.send((key, look(&visit)));
        });
        if let Err(error) = spawned {
            waiting.retain(|key| *key != (group, what.clone()));
            findings.push(Finding::unknown(group, format!("{what}: no thread to look: {error}")));
        }
    }
    drop(send);
    let end = Instant::now() + DEADLINE;
    while !waiting.is_empty() {
        match answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((key, found)) => {
                waiting.retain(|waiting| *waiting != key);
                findings.extend(found);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    visit.progress.cancel();
    findings.extend(waiting.into_iter().map(|(group, what)| {
        Finding::unknown(group, format!("the look at {what} did not end within {} s", DEADLINE.as_secs()))
    }));
    Report::new(host, at, zone, findings)
}
