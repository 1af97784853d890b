//! The scheduler against a state on disk and a clock that is moved by hand; reloads; runs on their threads. What the
//! tests share.

mod reloads;
mod runs;
mod schedule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::context::{Ended, Shared};
use super::scheduler::{Launch, Scheduler};
use super::{NoWatcher, Options, Source, reload};
use crate::clock::{Clock, ManualClock};
use crate::config::{self, Config, JobConfig};
use crate::event::Progress;
use crate::lock::ProcessIdentity;
use crate::model::{JobName, Outcome, RunId};
use crate::state::{EndedRun, NewRun, RunTrigger};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn job(name: &str) -> JobName {
    name.parse().unwrap()
}

/// One daemon without its threads: a scheduler whose runs are only written down.
struct Bench {
    folder: Arc<tempfile::TempDir>,
    config: Config,
    clock: Arc<ManualClock>,
    shared: Arc<Shared>,
    scheduler: Scheduler,
    launched: Arc<Mutex<Vec<Launch>>>,
    progress: Arc<Mutex<BTreeMap<JobName, Arc<Progress>>>>,
}

fn options(config: Config, clock: Arc<ManualClock>) -> Options {
    Options {
        source: Source::Fixed(Box::new(config)),
        clock,
        command: "agent".to_owned(),
        now: false,
        interactive: false,
        watcher: Arc::new(NoWatcher),
    }
}

impl Bench {
    /// Jobs by name and cron line, first seen at `now`.
    fn new(now: &str, jobs: &[(&str, &str)]) -> Self {
        Self::with(now, jobs, |_| {})
    }

    fn with(now: &str, jobs: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let (source, to) = (folder.path().join("source"), folder.path().join("backups"));
        std::fs::create_dir_all(&source).unwrap();
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(source.join("a"), "content").unwrap();
        let mut config = config::adhoc(&[source], &to, Some(&folder.path().join("state")));
        config.timezone = chrono_tz::UTC;
        let (_, template) = config.job.pop_first().unwrap();
        for (name, line) in jobs {
            let schedule = Some((*line).to_owned());
            config.job.insert(job(name), JobConfig { schedule, ..template.clone() });
        }
        change(&mut config);
        Self::start(folder, config, Arc::new(ManualClock::new(at(now))), &[])
    }

    fn start(
        folder: Arc<tempfile::TempDir>,
        config: Config,
        clock: Arc<ManualClock>,
        at_once: &[&str],
    ) -> Self {
        let options = options(config.clone(), Arc::clone(&clock));
        let begun = reload::start(&options).unwrap();
        let shared = Arc::new(Shared::new(&options, begun.agent));
        reload::touch_jobs(&shared);
        let launched = Arc::<Mutex<Vec<Launch>>>::default();
        let progress = Arc::<Mutex<BTreeMap<JobName, Arc<Progress>>>>::default();
        let launch = {
            let (shared, launched, progress) =
                (Arc::clone(&shared), Arc::clone(&launched), Arc::clone(&progress));
            Box::new(move |launch: Launch| {
                let begun = shared.begin(&launch.job).expect("a job was started while it runs");
                progress.lock().unwrap().insert(launch.job.clone(), begun);
                launched.lock().unwrap().push(launch);
            })
        };
        let at_once = at_once.iter().map(|name| job(name)).collect();
        let scheduler = Scheduler::new(Arc::clone(&shared), at_once, launch);
        Self { folder, config, clock, shared, scheduler, launched, progress }
    }

    /// The daemon ends, and begins again at `now`.
    fn restarted(self, now: &str) -> Self {
        self.clock.set(at(now));
        Self::start(Arc::clone(&self.folder), self.config.clone(), Arc::clone(&self.clock), &[])
    }

    /// Turns at `now`; what was started.
    fn turn(&mut self, now: &str) -> Vec<Launch> {
        self.clock.set(at(now));
        self.scheduler.turn();
        std::mem::take(&mut *self.launched.lock().unwrap())
    }

    /// Turns each minute from `from` to `until`; what was started.
    fn turns(&mut self, from: &str, until: &str) -> Vec<Launch> {
        let (mut now, until) = (at(from), at(until));
        let mut launched = Vec::new();
        while now <= until {
            let some = self.turn(&now.to_rfc3339());
            for launch in &some {
                self.succeed(launch);
            }
            launched.extend(some);
            now += TimeDelta::minutes(1);
        }
        launched
    }

    /// The run that was started begins and ends well.
    fn succeed(&self, launch: &Launch) {
        let now = self.clock.now();
        let run_id = RunId::generate(now);
        let state = &self.shared.state;
        let run = NewRun {
            run_id: run_id.clone(),
            job: launch.job.clone(),
            trigger: launch.trigger,
            scheduled_for: launch.occurrence,
            process: ProcessIdentity::current(),
            started: now,
        };
        // A state that takes nothing is part of some tests.
        if state.begin_run(&run).is_ok() {
            state.end_run(&EndedRun::new(run_id, Outcome::Success, now), &[], &[]).unwrap();
        }
        self.end(launch, false);
    }

    fn end(&self, launch: &Launch, locked: bool) {
        let Launch { job, trigger, occurrence } = launch.clone();
        let progress = self.progress.lock().unwrap().remove(&job).unwrap();
        self.shared.end(&progress, Ended { job, occurrence, trigger, locked });
        self.shared.leave(&progress);
    }

    /// `agent backup` by hand.
    fn by_hand(&self, name: &str, now: &str) {
        self.clock.set(at(now));
        let run_id = RunId::generate(at(now));
        let state = &self.shared.state;
        state
            .begin_run(&NewRun {
                run_id: run_id.clone(),
                job: job(name),
                trigger: RunTrigger::Manual,
                scheduled_for: None,
                process: ProcessIdentity::current(),
                started: at(now),
            })
            .unwrap();
        state.end_run(&EndedRun::new(run_id, Outcome::Success, at(now)), &[], &[]).unwrap();
    }
}

fn of(name: &str, trigger: RunTrigger, occurrence: &str) -> Launch {
    Launch { job: job(name), trigger, occurrence: Some(at(occurrence)) }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}
