//! The scheduler against a state on disk and a clock that is moved by hand; reloads; runs on their threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::context::{Ended, Shared};
use super::reload::{self, Reloaded};
use super::scheduler::{Launch, Scheduler};
use super::{NoWatcher, Options, Source, runner, tend_loop};
use crate::clock::{Clock, ManualClock};
use crate::config::{self, Config, JobConfig, LoadOptions};
use crate::event::Progress;
use crate::lock::{FileLock, LockMode, ProcessIdentity};
use crate::model::{JobName, Outcome, RunId};
use crate::ops::copies::Host;
use crate::state::{EndedRun, FactKey, MessageKind, NewRun, RunTrigger, State};

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

#[test]
fn each_occurrence_starts_one_run_at_its_time() {
    let mut bench = Bench::new("2026-11-24T02:50:00Z", &[("web", "0 3,4 * * *")]);
    let launched = bench.turns("2026-11-24T02:50:00Z", "2026-11-24T04:30:00Z");
    let expected = [
        of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z"),
        of("web", RunTrigger::Schedule, "2026-11-24T04:00:00Z"),
    ];
    assert_eq!(launched, expected);
}

#[test]
fn the_next_turn_comes_at_the_next_occurrence_and_after_ten_seconds_at_most() {
    let mut bench = Bench::new("2026-11-24T02:50:00Z", &[("web", "0 3 * * *")]);
    assert!(bench.scheduler.turn() > Duration::from_secs(9));
    bench.turn("2026-11-24T02:52:00Z");
    bench.clock.set(at("2026-11-24T02:53:58Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:55:30Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:57:00Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:58:30Z"));
    bench.scheduler.turn();
    bench.clock.set(at("2026-11-24T02:59:58Z"));
    let pause = bench.scheduler.turn();
    assert!(pause >= Duration::from_secs(2) && pause < Duration::from_millis(2100), "{pause:?}");
}

#[test]
fn a_daemon_that_was_down_over_many_occurrences_makes_up_for_them_with_one_run() {
    let mut bench = Bench::new("2026-11-20T02:59:00Z", &[("web", "0 * * * *")]);
    assert_eq!(bench.turns("2026-11-20T02:59:00Z", "2026-11-20T03:01:00Z").len(), 1);
    let mut bench = bench.restarted("2026-11-24T12:20:00Z");
    let launched = bench.turns("2026-11-24T12:20:00Z", "2026-11-24T12:59:00Z");
    assert_eq!(launched, [of("web", RunTrigger::CatchUp, "2026-11-24T12:00:00Z")]);
    // Nor does the next start do it again.
    let mut bench = bench.restarted("2026-11-24T12:59:30Z");
    assert_eq!(bench.turn("2026-11-24T12:59:30Z"), []);
    assert_eq!(bench.turn("2026-11-24T13:00:00Z"), [of("web", RunTrigger::Schedule, "2026-11-24T13:00:00Z")]);
}

#[test]
fn a_machine_that_slept_makes_up_for_what_it_missed() {
    let mut bench = Bench::new("2026-11-24T02:00:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turn("2026-11-24T02:00:10Z"), []);
    assert_eq!(bench.turn("2026-11-24T07:30:00Z"), [of("web", RunTrigger::CatchUp, "2026-11-24T03:00:00Z")]);
}

#[test]
fn a_job_that_is_new_is_not_made_up_for() {
    let mut bench = Bench::new("2026-11-24T03:30:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turns("2026-11-24T03:30:00Z", "2026-11-24T05:00:00Z"), []);
}

#[test]
fn a_run_by_hand_after_the_occurrence_was_missed_meets_it() {
    let bench = Bench::new("2026-11-23T12:00:00Z", &[("web", "0 3 * * *")]);
    bench.by_hand("web", "2026-11-24T04:00:00Z");
    let mut bench = bench.restarted("2026-11-24T05:00:00Z");
    assert_eq!(bench.turn("2026-11-24T05:00:00Z"), []);
}

#[test]
fn a_paused_job_is_passed_over_and_goes_on_after_its_pause() {
    let mut bench = Bench::new("2026-11-24T02:00:00Z", &[("web", "0 3,4,5 * * *")]);
    let now = bench.clock.now();
    bench.shared.state.set_paused(&job("web"), Some(at("2026-11-24T04:30:00Z")), now).unwrap();
    assert_eq!(bench.turns("2026-11-24T02:58:00Z", "2026-11-24T04:59:00Z"), []);
    let passed = bench.shared.state.last_occurrence(&job("web")).unwrap();
    assert_eq!(passed, Some(at("2026-11-24T04:00:00Z")));
    let after = bench.turn("2026-11-24T05:00:00Z");
    assert_eq!(after, [of("web", RunTrigger::Schedule, "2026-11-24T05:00:00Z")]);
}

#[test]
fn a_locked_job_runs_once_its_locks_are_free() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")]);
    let locks = bench.folder.path().join("state/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let held = FileLock::try_acquire(&locks.join("web.lock"), LockMode::Private).unwrap().unwrap();
    let launched = bench.turn("2026-11-24T03:00:00Z");
    assert_eq!(launched.len(), 1);
    bench.end(&launched[0], true);
    for now in ["2026-11-24T03:00:10Z", "2026-11-24T03:01:00Z", "2026-11-24T03:02:30Z"] {
        assert_eq!(bench.turn(now), [], "{now}");
    }
    drop(held);
    let launched = bench.turn("2026-11-24T03:03:00Z");
    assert_eq!(launched, [of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z")]);
    bench.succeed(&launched[0]);
    assert_eq!(bench.turns("2026-11-24T03:04:00Z", "2026-11-24T03:10:00Z"), []);
}

#[test]
fn a_job_that_stays_locked_is_given_up_after_its_grace_and_tried_at_the_next_occurrence() {
    let lines = [("web", "0 3,5 * * *")];
    let mut bench = Bench::with("2026-11-24T02:59:00Z", &lines, |config| {
        config.job.get_mut(&job("web")).unwrap().grace = Duration::from_secs(600);
    });
    let locks = bench.folder.path().join("state/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let _held = FileLock::try_acquire(&locks.join("web.lock"), LockMode::Private).unwrap().unwrap();
    let launched = bench.turn("2026-11-24T03:00:00Z");
    bench.end(&launched[0], true);
    assert_eq!(bench.turns("2026-11-24T03:01:00Z", "2026-11-24T04:59:00Z"), []);
    assert_eq!(bench.shared.state.last_occurrence(&job("web")).unwrap(), Some(at("2026-11-24T03:00:00Z")));
    let next = bench.turn("2026-11-24T05:00:00Z");
    assert_eq!(next, [of("web", RunTrigger::Schedule, "2026-11-24T05:00:00Z")]);
}

#[test]
fn jobs_run_as_many_at_once_as_allowed_in_the_order_they_were_due() {
    let jobs = [("a", "2 3 * * *"), ("b", "0 3 * * *"), ("c", "1 3 * * *")];
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &jobs);
    let first = bench.turn("2026-11-24T03:00:00Z");
    assert_eq!(first, [of("b", RunTrigger::Schedule, "2026-11-24T03:00:00Z")]);
    assert_eq!(bench.turn("2026-11-24T03:01:30Z"), []);
    assert_eq!(bench.turn("2026-11-24T03:03:00Z"), []);
    bench.succeed(&first[0]);
    let second = bench.turn("2026-11-24T03:04:00Z");
    assert_eq!(second, [of("c", RunTrigger::Schedule, "2026-11-24T03:01:00Z")]);
    bench.succeed(&second[0]);
    let third = bench.turn("2026-11-24T03:05:00Z");
    assert_eq!(third, [of("a", RunTrigger::Schedule, "2026-11-24T03:02:00Z")]);
}

#[test]
fn jobs_that_something_else_starts_are_left_alone_and_all_jobs_run_when_asked_for_at_the_start() {
    let bench = Bench::with("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")], |config| {
        config.job.get_mut(&job("web")).unwrap().trigger = config::Trigger::External;
    });
    let Bench { folder, config, clock, .. } = bench;
    let mut bench = Bench::start(folder, config, clock, &["web"]);
    let launched = bench.turn("2026-11-24T02:59:01Z");
    assert_eq!(launched, [Launch { job: job("web"), trigger: RunTrigger::Manual, occurrence: None }]);
    bench.succeed(&launched[0]);
    assert_eq!(bench.turns("2026-11-24T02:59:30Z", "2026-11-24T03:10:00Z"), []);
}

#[test]
fn a_clock_that_is_set_back_does_not_run_an_occurrence_twice() {
    let mut bench = Bench::new("2026-11-24T02:55:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turns("2026-11-24T02:55:00Z", "2026-11-24T03:01:00Z").len(), 1);
    assert_eq!(bench.turns("2026-11-24T02:30:00Z", "2026-11-24T03:30:00Z"), []);
    let mut bench = bench.restarted("2026-11-24T02:30:00Z");
    assert_eq!(bench.turns("2026-11-24T02:30:00Z", "2026-11-24T03:30:00Z"), []);
}

#[test]
fn a_clock_that_was_a_year_ahead_does_not_stop_the_schedule_for_a_year() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")]);
    assert_eq!(bench.turns("2026-11-24T02:59:00Z", "2026-11-24T03:00:00Z").len(), 1);
    assert_eq!(bench.turns("2027-11-24T10:00:00Z", "2027-11-24T10:05:00Z").len(), 1);
    let mut bench = bench.restarted("2026-11-24T10:10:00Z");
    assert_eq!(bench.turns("2026-11-24T10:10:00Z", "2026-11-24T10:20:00Z"), []);
    let launched = bench.turns("2026-11-25T02:59:00Z", "2026-11-25T03:05:00Z");
    assert_eq!(launched.len(), 1, "{launched:?}");
    assert_eq!(launched[0].occurrence, Some(at("2026-11-25T03:00:00Z")));
}

#[test]
fn without_its_state_the_schedule_goes_on() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3,4 * * *")]);
    assert_eq!(bench.turn("2026-11-24T02:59:30Z"), []);
    std::fs::remove_file(bench.folder.path().join("state/state.db")).unwrap();
    let launched = bench.turns("2026-11-24T03:00:00Z", "2026-11-24T04:10:00Z");
    assert_eq!(launched.len(), 2, "{launched:?}");
}

#[test]
fn no_run_begins_once_the_daemon_stops_or_while_a_dead_run_is_dealt_with() {
    let mut bench = Bench::new("2026-11-24T02:59:00Z", &[("web", "0 3 * * *")]);
    bench.shared.set_reaping([job("web")].into());
    assert_eq!(bench.turn("2026-11-24T03:00:00Z"), []);
    bench.shared.reaped(&job("web"));
    assert_eq!(bench.turn("2026-11-24T03:01:00Z").len(), 1);
    let progress = Arc::clone(&bench.shared.copying);
    bench.shared.stop();
    assert!(progress.is_cancelled());
    assert!(bench.shared.begin(&job("other")).is_none());
}

#[test]
fn a_run_that_still_copies_keeps_nobody_from_starting_and_is_waited_for_at_the_end() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    let shared = &bench.shared;
    let ended = || Ended { job: job("web"), occurrence: None, trigger: RunTrigger::Schedule, locked: false };
    let first = shared.begin(&job("web")).unwrap();
    shared.end(&first, ended());
    let second = shared.begin(&job("web")).unwrap();
    // The end of the first one is not that of the second.
    shared.end(&first, ended());
    assert_eq!(shared.active().len(), 1);
    shared.end(&second, ended());
    assert!(shared.active().is_empty() && shared.is_busy());
    shared.stop();
    assert!(first.is_cancelled());
    shared.leave(&first);
    shared.leave(&second);
    assert!(!shared.is_busy());
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_on_its_thread_makes_a_backup_and_frees_its_place() {
    let bench = Bench::new("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")]);
    let launch = of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z");
    runner::start(&bench.shared, launch.clone());
    wait_for("the end of the run", || bench.shared.active().is_empty());
    let run = bench.shared.state.last_run(&job("web")).unwrap().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Success), "{run:?}");
    assert_eq!(run.scheduled_for, launch.occurrence);
    let Launch { job, trigger, occurrence } = launch;
    assert_eq!(bench.shared.take_ended(), [Ended { job, occurrence, trigger, locked: false }]);
}

#[test]
fn a_catch_up_of_a_hundred_copies_to_slow_targets_delays_no_run() {
    let mut host = Host::new(&["cloud", "nas"]);
    host.config.job.get_mut(&job("web")).unwrap().schedule = Some("0 * * * *".to_owned());
    let state = host.agent().state;
    let mut late: Vec<String> = (1..=100).map(|hours| host.backup(&state, hours).to_string()).collect();
    host.set("cloud", "slow");
    host.set("nas", "slow");
    let shared = {
        let options = options(host.config.clone(), Arc::clone(&host.clock));
        Arc::new(Shared::new(&options, reload::start(&options).unwrap().agent))
    };
    reload::touch_jobs(&shared);
    let launching = Arc::clone(&shared);
    let launch = Box::new(move |launch| runner::start(&launching, launch));
    let mut scheduler = Scheduler::new(Arc::clone(&shared), Default::default(), launch);
    let copying = std::thread::spawn({
        let shared = Arc::clone(&shared);
        move || tend_loop::copies(&shared)
    });
    let begun = || host.lines("cloud", "begun").len() + host.lines("nas", "begun").len();
    wait_for("the catch-up", || begun() == 2);

    let mut runs = Vec::new();
    for hour in ["2026-11-24T04:00:00Z", "2026-11-24T05:00:00Z"] {
        host.clock.set(at(hour));
        scheduler.turn();
        wait_for("the run", || {
            let last = state.last_run(&job("web")).unwrap().unwrap();
            last.scheduled_for == Some(at(hour)) && last.outcome == Some(Outcome::Success)
        });
        wait_for("its place", || shared.active().is_empty());
        runs.push(state.last_run(&job("web")).unwrap().unwrap().run_id.to_string());
    }
    // Not one copy was made meanwhile, and no more are made at once than before.
    assert_eq!(begun(), 2);
    assert_eq!(state.pending_count(&job("web"), &"nas".parse().unwrap()).unwrap(), 102);

    // They are made from what is stored: nothing reads the sources again.
    std::fs::remove_dir_all(host.source()).unwrap();
    host.set("cloud", "go");
    host.set("nas", "go");
    let begun = Instant::now();
    while !state.queued_copies().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(300), "the copies were not made");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The one that was under way, then those of the runs that came meanwhile, then back through the days.
    late.sort_by(|a, b| b.cmp(a));
    for target in ["cloud", "nas"] {
        let mut copied = host.lines(target, "copied");
        assert_eq!(copied.remove(0), late[0], "{target}");
        // The two runs wait for a place, each for its own.
        let rest = copied.split_off(2);
        copied.sort();
        assert_eq!(copied, runs, "{target}");
        assert_eq!(rest, late[1..], "{target}");
    }
    shared.stop();
    copying.join().unwrap();
    wait_for("the end of the runs", || !shared.is_busy());
}

#[test]
fn a_run_that_cannot_even_begin_is_recorded_as_a_failure() {
    let bench = Bench::with("2026-11-24T03:00:00Z", &[("web", "0 3 * * *")], |config| {
        config.job.get_mut(&job("web")).unwrap().lock_file = Some(PathBuf::from("/nowhere/at/all.lock"));
    });
    runner::start(&bench.shared, of("web", RunTrigger::Schedule, "2026-11-24T03:00:00Z"));
    wait_for("the end of the run", || bench.shared.active().is_empty());
    let run = bench.shared.state.last_run(&job("web")).unwrap().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Failure));
    assert!(run.error.unwrap().contains("/nowhere/at"));
}

/// A configuration file whose mails go nowhere.
fn write_config(folder: &Path, job_line: &str) -> LoadOptions {
    let file = folder.join("config.toml");
    let text = format!(
        r#"
state_dir = "{0}/state"
timezone = "UTC"
[target.local]
type = "directory"
path = "{0}/backups"
[job.web]
{job_line}
targets = ["local"]
[job.web.source.files]
type = "files"
paths = ["{0}"]
[notify.admin]
type = "email"
smtp = "smtp://127.0.0.1:1"
from = "a@example.org"
to = ["b@example.org"]
"#,
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    LoadOptions { file: Some(file), conf_d: None, env: Vec::new(), check_files: true }
}

fn from_files(load: &LoadOptions) -> Options {
    let clock = Arc::new(ManualClock::new(at("2026-11-24T03:00:00Z")));
    Options { source: Source::Files(load.clone()), ..options(Config::default(), clock) }
}

fn started(load: &LoadOptions) -> Shared {
    let options = from_files(load);
    let begun = reload::start(&options).unwrap();
    let shared = Shared::new(&options, begun.agent);
    begun.found.record(&shared);
    shared
}

fn agent_mails(state: &State) -> usize {
    state.pending_messages().unwrap().iter().filter(|message| message.kind == MessageKind::Agent).count()
}

#[test]
fn a_bad_reload_changes_nothing_and_is_told_once_and_a_good_one_is_used_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let shared = started(&load);
    let schedule = |shared: &Shared| shared.agent().config.job[&job("web")].schedule.clone();

    write_config(folder.path(), r#"schedule = "0 33 * * *""#);
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
    assert_eq!(schedule(&shared).as_deref(), Some("0 3 * * *"));
    let refused = shared.state.fact(FactKey::ConfigRefused).unwrap().unwrap();
    assert!(refused.value.contains("config.toml:8:"), "{}", refused.value);
    assert_eq!(agent_mails(&shared.state), 1);

    write_config(folder.path(), r#"schedule = "0 5 * * *""#);
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Good));
    assert_eq!(schedule(&shared).as_deref(), Some("0 5 * * *"));
    assert_eq!(shared.state.fact(FactKey::ConfigRefused).unwrap(), None);
    let kept = shared.state.fact(FactKey::LastGoodConfig).unwrap().unwrap();
    assert!(kept.value.contains("0 5 * * *"));
    let row = shared.state.job(&job("web")).unwrap().unwrap();
    assert_eq!(row.schedule.as_deref(), Some("0 5 * * *"));
}

#[test]
fn a_start_with_a_broken_configuration_uses_the_last_good_one_and_tells() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    drop(started(&load));
    write_config(folder.path(), "schedule = ");
    let shared = started(&load);
    assert_eq!(shared.agent().config.job[&job("web")].schedule.as_deref(), Some("0 3 * * *"));
    assert!(shared.state.fact(FactKey::ConfigRefused).unwrap().is_some());
    assert_eq!(agent_mails(&shared.state), 1);
}

#[test]
fn a_first_start_with_a_broken_configuration_fails_with_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), "schedule = \"0 33 * * *\"\nsplay = \"long\"");
    let Err(error) = reload::start(&from_files(&load)) else { panic!("it started") };
    let errors = error.downcast_ref::<config::ConfigErrors>().unwrap();
    assert_eq!(errors.problems.len(), 2, "{errors}");
    assert!(!folder.path().join("state").exists());
}

#[test]
fn a_moved_state_counts_from_the_next_start_on() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let shared = started(&load);
    let file = load.file.as_ref().unwrap();
    let text = std::fs::read_to_string(file).unwrap().replace("/state\"", "/elsewhere\"");
    std::fs::write(file, text).unwrap();
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Good));
    assert_eq!(shared.agent().config.state_dir, folder.path().join("state"));
}
