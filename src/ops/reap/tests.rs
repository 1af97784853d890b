//! What is removed, and what must stay, with a real folder as the primary target.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::clock::Clock;
use crate::config::HookConfig;
use crate::event::Silent;
use crate::lock::ProcessIdentity;
use crate::manifest::Pin;
use crate::ops::copies::Host;
use crate::run::{End, Request, run_job};
use crate::state::{FoundBackup, NewRun, RunTrigger, State};

fn web() -> JobName {
    "web".parse().unwrap()
}

fn local() -> TargetName {
    "local".parse().unwrap()
}

/// A real backup, an hour after the last.
fn backup(host: &Host, agent: &Agent) -> Run {
    host.clock.advance(TimeDelta::hours(1));
    let request = Request {
        job: web(),
        trigger: RunTrigger::Schedule,
        scheduled_for: None,
        fast: false,
        lock_wait: None,
    };
    let End::Ran(ran) = run_job(agent, &request, &Silent, &Arc::default()).unwrap() else { panic!("locked") };
    assert_eq!(ran.outcome, Outcome::Success, "{ran:?}");
    agent.state.run(&ran.run_id).unwrap().unwrap()
}

/// Changes what the state says, as only time or a fault can.
fn change(host: &Host, sql: &str, run: &Run) {
    let state = rusqlite::Connection::open(host.config.state_dir.join("state.db")).unwrap();
    assert_eq!(state.execute(sql, [run.run_id.as_str()]).unwrap(), 1, "{sql}");
}

fn location(run: &Run) -> &str {
    run.location.as_deref().unwrap()
}

#[test]
fn the_backup_of_a_failed_run_goes_unless_it_is_listed_or_pinned_again() {
    let host = Host::new(&[]);
    let agent = host.agent();
    let [stray, listed, pinned] = [(); 3].map(|()| backup(&host, &agent));
    let target = agent.open_target(&local()).unwrap();
    for run in [&stray, &listed, &pinned] {
        change(&host, "UPDATE runs SET outcome = 'failure' WHERE run_id = ?1", run);
        change(&host, "DELETE FROM copies WHERE run_id = ?1", run);
    }
    let manifest = read_manifest(target.as_ref(), location(&listed)).unwrap();
    let found = FoundBackup {
        run_id: listed.run_id.clone(),
        job: web(),
        scheduled_for: None,
        started: listed.started,
        ended: manifest.ended,
        outcome: manifest.outcome,
        location: location(&listed).to_owned(),
        primary: true,
        source_bytes: 1,
        stored_bytes: 1,
        components: Vec::new(),
        warning_counts: Default::default(),
    };
    let adopted = agent.state.adopt(&local(), &[found], agent.now()).unwrap();
    assert!(adopted.contains(&listed.run_id));
    let pin = Pin::new(agent.now(), "root@other".to_owned(), None);
    target.set_pin(location(&pinned), &pinned.run_id, Some(&pin)).unwrap();

    leftovers(&agent, &web(), target.as_ref()).unwrap();
    let stands = |run: &Run| target.holds(location(run), &run.run_id).unwrap();
    assert_eq!([&stray, &listed, &pinned].map(stands), [false, true, true]);
}

#[test]
fn what_a_repair_stages_stays_until_the_repair_is_over() {
    let host = Host::new(&[]);
    let agent = host.agent();
    let (damaged, failed) = (backup(&host, &agent), backup(&host, &agent));
    change(&host, "UPDATE copies SET status = 'corrupt' WHERE run_id = ?1", &damaged);
    change(&host, "DELETE FROM copies WHERE run_id = ?1", &failed);
    let target = agent.open_target(&local()).unwrap();
    let folder = host.source().parent().unwrap().join("local");
    let staged = |run: &Run| -> PathBuf { folder.join(format!(".partial-{}", run.run_id)) };
    for run in [&damaged, &failed] {
        fs::create_dir(staged(run)).unwrap();
    }
    let repairing = repair::lock(&agent).unwrap();
    leftovers(&agent, &web(), target.as_ref()).unwrap();
    assert_eq!([&damaged, &failed].map(|run| staged(run).exists()), [true, false]);
    drop(repairing);
    leftovers(&agent, &web(), target.as_ref()).unwrap();
    assert!(!staged(&damaged).exists());
}

/// A run whose process is gone.
fn dead_run(agent: &Agent, job: &str) -> RunId {
    let run_id = RunId::generate(agent.now());
    let process = ProcessIdentity { start_ticks: Some(1), ..ProcessIdentity::current() };
    let run = NewRun {
        run_id: run_id.clone(),
        job: job.parse().unwrap(),
        trigger: RunTrigger::Cron,
        scheduled_for: None,
        process,
        started: agent.now(),
    };
    agent.state.begin_run(&run).unwrap();
    agent.state.set_step(&run_id, Step::Capture, agent.now()).unwrap();
    run_id
}

/// A clock by which a run ends well in the moment somebody asks for the time.
struct Meanwhile(State, RunId, DateTime<Utc>);

impl Clock for Meanwhile {
    fn now(&self) -> DateTime<Utc> {
        self.0.end_run(&EndedRun::new(self.1.clone(), Outcome::Success, self.2), &[], &[]).unwrap();
        self.2
    }
}

#[test]
fn a_run_that_ends_while_another_is_dealt_with_keeps_its_end_and_its_hooks_do_not_run_again() {
    let mut host = Host::new(&[]);
    let mut other = host.config.job[&web()].clone();
    let ran = host.source().join("ran");
    let hook = format!("after = [\"touch\", \"{0}\"]\nfailure = [\"touch\", \"{0}\"]", ran.display());
    let hook: HookConfig = toml::from_str(&hook).unwrap();
    other.hook.insert("site".parse().unwrap(), hook);
    host.config.job.insert("shop".parse().unwrap(), other);
    let agent = host.agent();
    // The newest is dealt with first.
    let ends = dead_run(&agent, "shop");
    let dead = dead_run(&agent, "web");
    let clock = Arc::new(Meanwhile(agent.state.clone(), ends.clone(), agent.now()));
    let reaped = all(&Agent { clock, ..agent.clone() }).unwrap();
    assert_eq!(reaped, [(dead, Fate::Interrupted)]);
    assert_eq!(agent.state.run(&ends).unwrap().unwrap().outcome, Some(Outcome::Success));
    assert!(!ran.exists(), "a hook of a run that ended well ran again");
    // As it does when the run is dead.
    dead_run(&agent, "shop");
    assert_eq!(all(&agent).unwrap().len(), 1);
    assert!(ran.exists());
}

#[test]
fn what_runs_that_are_over_put_down_in_clear_is_removed_and_that_of_a_run_at_work_is_not() {
    let host = Host::new(&[]);
    let agent = host.agent();
    let folder = |name: &str| {
        let folder = host.config.state_dir.join("scratch").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("shop.sqlite"), "all customers").unwrap();
        folder
    };
    // By the next run of the job alone.
    let dead = folder(dead_run(&agent, "web").as_str());
    assert_eq!(of_job(&agent, &web()).unwrap().len(), 1);
    assert!(!dead.exists());

    let ended = dead_run(&agent, "web");
    agent.state.interrupt_run(&ended, agent.now(), "killed", &[]).unwrap();
    let unknown = RunId::generate(agent.now());
    let gone = [&ended, &dead_run(&agent, "web"), &unknown].map(|run| folder(run.as_str()));
    let at_work = RunId::generate(agent.now());
    let _at_work = at_work::begin(at_work.as_str());
    let run = NewRun {
        run_id: at_work.clone(),
        job: "shop".parse().unwrap(),
        trigger: RunTrigger::Cron,
        scheduled_for: None,
        process: ProcessIdentity::current(),
        started: agent.now(),
    };
    agent.state.begin_run(&run).unwrap();
    let stay = [folder(at_work.as_str()), folder("shop"), folder("something-else")];
    all(&agent).unwrap();
    assert_eq!(gone.map(|folder| folder.exists()), [false; 3]);
    assert_eq!(stay.map(|folder| folder.exists()), [true; 3]);
}
