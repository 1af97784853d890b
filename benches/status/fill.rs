//! A state as it is after years: written through the program's own interface, so that it is what the program
//! would have written.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use backup_agent::event::Step;
use backup_agent::lock::ProcessIdentity;
use backup_agent::manifest::FileWarning;
use backup_agent::model::{JobName, Outcome, RunId, Sha256, TargetName, WarningCounts, WarningKind};
use backup_agent::state::{
    ComponentSummary, CopyStatus, EndedRun, NewCopy, NewRun, RunTrigger, State, StepTime,
};
use chrono::{DateTime, TimeDelta, Utc};

const TARGETS: [&str; 3] = ["local", "nas", "offsite"];
/// Backups of a job that retention has kept at each target.
const KEPT: usize = 40;

/// Jobs that cron would start, each with two components and three targets.
pub fn configuration(folder: &Path, address: &str, jobs: usize) -> String {
    let at = folder.display();
    let mut text = format!("state_dir = \"{at}/state\"\nlisten = \"{address}\"\n");
    for target in TARGETS {
        let _ = write!(
            text,
            "\n[target.{target}]\ntype = \"directory\"\npath = \"{at}/{target}\"\n\
             # There is nothing to be read back: only the state is made.\n\
             verify = {{ enabled = false }}\n\
             template = \"daily/{{job}}/%Y/%m/%d/%H%M\"\n"
        );
    }
    for job in 0..jobs {
        let _ = write!(
            text,
            "\n[job.{name}]\nschedule = \"0 3,11,19 * * *\"\ntrigger = \"external\"\n\
             targets = [\"local\", \"nas\", \"offsite\"]\n\
             source.application = {{ type = \"files\", paths = [\"{at}/data\"] }}\n\
             source.database = {{ type = \"command\", command = [\"true\"] }}\n",
            name = name(job)
        );
    }
    text
}

fn name(job: usize) -> String {
    format!("job-{job:02}")
}

/// `runs` of all jobs together, eight hours apart, the last ones a day ago.
pub fn state(folder: &Path, jobs: usize, runs: usize) -> Result<()> {
    for target in TARGETS {
        fs::create_dir_all(folder.join(target))?;
    }
    fs::create_dir_all(folder.join("data"))?;
    // Each write is followed by an fsync; in memory that costs nothing. Moved to the disk afterwards.
    let memory = tempfile::tempdir_in("/dev/shm")?;
    let dir = memory.path().join("state");
    let each = runs / jobs.max(1);
    #[allow(clippy::disallowed_methods)] // a benchmark is about this moment
    let last = Utc::now() - TimeDelta::days(1);
    let start = last - TimeDelta::hours(8) * i32::try_from(each)?;
    let state = State::open(&dir, start)?;
    for job in 0..jobs {
        let job: JobName = name(job).parse()?;
        state.touch_job(&job, Some("0 3,11,19 * * *"), start)?;
        for n in 0..each {
            let back = each - 1 - n;
            run(&state, &job, last - TimeDelta::hours(8) * i32::try_from(back)?, n, back < KEPT)?;
        }
    }
    drop(state);
    let moved = Command::new("cp").arg("-a").arg(&dir).arg(folder).status()?;
    ensure!(moved.success(), "the state could not be copied to {}", folder.display());
    Ok(())
}

fn run(state: &State, job: &JobName, started: DateTime<Utc>, n: usize, kept: bool) -> Result<()> {
    let run_id = RunId::generate(started);
    let new = NewRun {
        run_id: run_id.clone(),
        job: job.clone(),
        trigger: RunTrigger::Cron,
        scheduled_for: Some(started),
        process: ProcessIdentity::current(),
        started,
    };
    state.begin_run(&new)?;
    let outcome = match n % 20 {
        7 => Outcome::Failure,
        3 | 11 | 19 => Outcome::Warning,
        _ => Outcome::Success,
    };
    let mut ended = EndedRun::new(run_id.clone(), outcome, started + TimeDelta::minutes(4));
    ended.steps = [Step::Preflight, Step::Capture, Step::Publish, Step::ReadBack, Step::Retention]
        .map(|step| StepTime { step, ms: 1_000 * (n as u64 % 50 + 1) })
        .to_vec();
    if outcome == Outcome::Failure {
        ended.failed_step = Some(Step::Capture);
        ended.error = Some("database: mysqldump exited with 2: Lost connection to server".to_owned());
        state.end_run(&ended, &[], &[])?;
        return Ok(());
    }
    if outcome == Outcome::Warning {
        ended.warning_counts = WarningCounts { changed: 60, ..WarningCounts::default() };
        ended.warnings = (0..50)
            .map(|file| FileWarning {
                kind: WarningKind::Changed,
                path: format!("var/www/application/storage/framework/sessions/{file:040}").as_str().into(),
                detail: "its size changed while it was read".into(),
            })
            .collect();
    }
    let part = |name: &str, bytes: u64| -> Result<ComponentSummary> {
        Ok(ComponentSummary {
            name: name.parse()?,
            source_bytes: bytes,
            stored_bytes: bytes / 3,
            entries: 1_000,
            warning_counts: ended.warning_counts,
            sha256: Some(Sha256([7; 32])),
        })
    };
    ended.components =
        vec![part("application", 2_000_000_000 + n as u64 * 1_000)?, part("database", 300_000_000)?];
    ended.source_bytes = ended.components.iter().map(|component| component.source_bytes).sum();
    ended.stored_bytes = ended.source_bytes / 3;
    let mut copies = Vec::new();
    for (place, target) in TARGETS.into_iter().enumerate() {
        copies.push(NewCopy {
            target: target.parse::<TargetName>()?,
            primary: place == 0,
            status: if place == 0 { CopyStatus::Verified } else { CopyStatus::Complete },
            location: Some(format!("daily/{job}/{}", started.format("%Y/%m/%d/%H%M"))),
            bytes: ended.stored_bytes,
        });
    }
    state.end_run(&ended, &copies, &[])?;
    if !kept {
        for copy in &copies {
            state.copy_expired(&run_id, &copy.target, ended.ended)?;
        }
    }
    Ok(())
}
