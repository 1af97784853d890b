//! What is removed, and what must stay, with a real folder as the primary target.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::TimeDelta;

use super::*;
use crate::event::Silent;
use crate::manifest::Pin;
use crate::ops::copies::Host;
use crate::run::{End, Request, run_job};
use crate::state::{FoundBackup, RunTrigger};

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
    assert_eq!(agent.state.adopt(&local(), &[found], agent.now()).unwrap(), [listed.run_id.clone()]);
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
