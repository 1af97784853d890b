//! The queue, with targets that are slow, away, or refuse; see [`super::stand_in`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::stand_in::Host;
use super::*;
use crate::clock::Clock;
use crate::event::Silent;
use crate::state::CopyStatus;

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what} did not happen");
        thread::sleep(Duration::from_millis(10));
    }
}

fn pass(agent: &Agent) -> Drained {
    drain(agent, &Pass::default(), &Silent, &Progress::default()).unwrap()
}

/// Statuses and due times at a target, newest first.
fn queue(agent: &Agent, target: &str) -> Vec<Copy> {
    let mut copies = agent.state.queued_copies().unwrap();
    copies.retain(|copy| copy.target.as_str() == target);
    copies
}

#[test]
fn a_claim_names_its_process_and_its_pass() {
    assert_eq!(process_of(&claimer()), Some(ProcessIdentity::current()));
    assert_ne!(claimer(), claimer());
    assert_eq!(process_of("somebody"), None);
}

#[test]
fn a_copy_whose_maker_died_is_free_again_at_once_and_one_whose_maker_lives_is_not() {
    let host = Host::new(&["nas"]);
    let agent = host.agent();
    let run = host.backup(&agent.state, 1);
    let nas = "nas".parse().unwrap();
    let claimed_by = |claimer: &str| {
        assert!(agent.state.claim_copy(&run, &nas, claimer, agent.now(), LEASE).unwrap());
        let cancelled = Progress::default();
        cancelled.cancel();
        drain(&agent, &Pass::default(), &Silent, &cancelled).unwrap();
        !agent.state.claimed_copies(agent.now()).unwrap().is_empty()
    };
    let dead = format!("{}/{}/1/00000000", crate::lock::boot_id(), std::process::id());
    assert!(!claimed_by(&dead));
    let own = claimer();
    let at_work = at_work::begin(own.as_str());
    assert!(claimed_by(&own));
    drop(at_work);
    assert!(!claimed_by(&own), "a pass of this process that is over");
}

#[test]
fn a_copy_whose_end_the_state_did_not_take_is_made_by_the_next_pass_and_holds_up_no_other() {
    for manner in ["", "cut"] {
        let host = Host::new(&["nas"]);
        let agent = host.agent();
        host.backup(&agent.state, 2);
        host.backup(&agent.state, 1);
        if !manner.is_empty() {
            host.set("nas", manner);
        }
        // Made, failed, or given back: nothing of it is taken.
        let state = rusqlite::Connection::open(host.config.state_dir.join("state.db")).unwrap();
        let refuse = "CREATE TRIGGER refuse BEFORE UPDATE OF claimer ON copies WHEN NEW.claimer IS NULL
                      BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END";
        state.execute_batch(refuse).unwrap();
        let error = drain(&agent, &Pass::default(), &Silent, &Progress::default()).unwrap_err();
        assert!(format!("{error:#}").contains("disk is full"), "{error:#}");
        assert_eq!(agent.state.claimed_copies(agent.now()).unwrap().len(), 1);

        state.execute_batch("DROP TRIGGER refuse").unwrap();
        if !manner.is_empty() {
            host.unset("nas", manner);
        }
        assert_eq!(pass(&agent).made, 2);
        assert!(queue(&agent, "nas").is_empty());
    }
}

#[test]
fn copies_are_made_newest_first_at_each_target_and_a_slow_target_holds_back_no_other() {
    let host = Host::new(&["fast", "slow"]);
    let agent = host.agent();
    let mut runs: Vec<String> =
        [5, 1, 3, 2, 4].iter().map(|hours| host.backup(&agent.state, *hours).to_string()).collect();
    runs.sort_by(|a, b| b.cmp(a));
    host.set("slow", "slow");
    thread::scope(|scope| {
        let passing = scope.spawn(|| pass(&agent));
        wait_for("all copies to the fast target", || host.lines("fast", "copied").len() == 5);
        assert_eq!(host.lines("fast", "copied"), runs);
        // One at a time, and the newest first.
        assert_eq!(host.lines("slow", "begun"), runs[..1]);
        assert!(!passing.is_finished());
        host.set("slow", "go");
        let drained = passing.join().unwrap();
        assert_eq!((drained.made, drained.failed.len()), (10, 0), "{drained:?}");
    });
    assert_eq!(host.lines("slow", "copied"), runs);
}

#[test]
fn no_more_copies_are_made_at_once_than_allowed_in_all_and_at_a_target() {
    for (in_all, at_target, expected) in
        [(2, 1, [1, 1, 0]), (9, 1, [1, 1, 1]), (9, 2, [2, 2, 2]), (1, 9, [1, 0, 0])]
    {
        let mut host = Host::new(&["a", "b", "c"]);
        host.config.max_parallel_copies = in_all;
        for target in ["a", "b", "c"] {
            host.set(target, "slow");
            host.config.target.get_mut(target).unwrap().max_parallel_copies = at_target;
        }
        let agent = host.agent();
        for hours in 1..4 {
            host.backup(&agent.state, hours);
        }
        let begun = || ["a", "b", "c"].map(|target| host.lines(target, "begun").len());
        let progress = Progress::default();
        thread::scope(|scope| {
            let passing = scope.spawn(|| drain(&agent, &Pass::default(), &Silent, &progress).unwrap());
            wait_for("the first copies", || begun() == expected);
            thread::sleep(Duration::from_millis(300));
            assert_eq!(begun(), expected, "{in_all} in all, {at_target} at a target");
            // Another pass, of a run or another process, finds no place at the targets that are full.
            if at_target == 1 && in_all == 9 {
                assert_eq!(pass(&agent), Drained::default());
                assert_eq!(begun(), expected);
            }
            progress.cancel();
            assert_eq!(passing.join().unwrap().made, 0);
        });
        assert!(
            agent.state.claimed_copies(agent.now()).unwrap().is_empty(),
            "what was stopped is given back"
        );
    }
}

#[test]
fn how_far_copies_are_is_counted_together() {
    let host = Host::new(&["a", "b"]);
    let agent = host.agent();
    host.backup(&agent.state, 1);
    host.set("a", "slow");
    host.set("b", "slow");
    let progress = Progress::default();
    thread::scope(|scope| {
        scope.spawn(|| drain(&agent, &Pass::default(), &Silent, &progress).unwrap());
        wait_for("bytes", || progress.stored_bytes() > 10);
        host.set("a", "go");
        host.set("b", "go");
    });
}

#[test]
fn a_run_waits_for_a_copy_of_its_own_that_others_leave_no_place_for() {
    let host = Host::new(&["nas"]);
    let agent = host.agent();
    host.backup(&agent.state, 2);
    host.set("nas", "slow");
    thread::scope(|scope| {
        let late = scope.spawn(|| pass(&agent));
        wait_for("the late copy", || host.lines("nas", "begun").len() == 1);
        let run = host.backup(&agent.state, 1);
        let own = scope.spawn({
            let (agent, run) = (&agent, run.clone());
            move || {
                let pass = Pass { only: Some(&run), ..Pass::default() };
                drain(agent, &pass, &Silent, &Progress::default()).unwrap()
            }
        });
        thread::sleep(Duration::from_millis(300));
        assert!(!own.is_finished());
        // Not for longer than it is told to.
        let pass = Pass {
            only: Some(&run),
            deadline: Some(Instant::now() + Duration::from_secs(1)),
            finish: false,
            fast: true,
        };
        assert_eq!(drain(&agent, &pass, &Silent, &Progress::default()).unwrap(), Drained::default());
        host.set("nas", "go");
        // Whichever of the two makes it.
        let made = own.join().unwrap().made + late.join().unwrap().made;
        assert_eq!(made, 2);
    });
}

#[test]
fn a_target_that_is_down_is_tried_once_for_all_its_copies_and_all_are_due_when_it_is_back() {
    let host = Host::new(&["nas"]);
    let agent = host.agent();
    for hours in 1..=100 {
        host.backup(&agent.state, hours);
    }
    host.set("nas", "down");
    let mut tries = 0;
    // The daemon looks into the queue twice a minute.
    for _ in 0..120 {
        tries += pass(&agent).failed.len();
        host.clock.advance(TimeDelta::seconds(30));
    }
    // 2, 4, 8, 16, 32 minutes, more or less.
    assert!((4..=7).contains(&tries), "{tries} attempts in an hour");
    assert_eq!(host.lines("nas", "probed").len(), tries, "one look for each attempt");
    // Nothing is due right after an attempt, whenever chance let that be.
    while pass(&agent).failed.is_empty() {
        host.clock.advance(TimeDelta::seconds(30));
    }
    assert_eq!(pass(&agent), Drained::default());
    host.unset("nas", "down");
    assert!(crate::ops::looks::probe(&agent, &"nas".parse().unwrap()).unwrap());
    assert_eq!(pass(&agent).made, 100);
    assert!(queue(&agent, "nas").is_empty());
}

#[test]
fn backups_that_expired_before_they_were_copied_hold_up_no_others() {
    let host = Host::new(&["nas"]);
    let agent = host.agent();
    let local: TargetName = "local".parse().unwrap();
    for hours in 1..=4 {
        let run = host.backup(&agent.state, hours);
        if hours % 2 == 1 {
            agent.state.copy_expired(&run, &local, agent.now()).unwrap();
        }
    }
    let drained = pass(&agent);
    assert_eq!((drained.made, drained.failed.len()), (2, 2), "{drained:?}");
    assert!(drained.failed.iter().all(|(_, _, why)| why.contains("expired at every other target")));
    assert!(queue(&agent, "nas").is_empty());
}

#[test]
fn a_copy_that_fails_while_its_target_comes_back_is_due_at_once() {
    let host = Host::new(&["nas"]);
    let agent = host.agent();
    host.backup(&agent.state, 1);
    let nas: TargetName = "nas".parse().unwrap();
    host.set("nas", "slow");
    thread::scope(|scope| {
        let making = scope.spawn(|| pass(&agent));
        wait_for("the attempt", || host.lines("nas", "begun").len() == 1);
        host.clock.advance(TimeDelta::seconds(1));
        host.set("nas", "down");
        assert!(!crate::ops::looks::probe(&agent, &nas).unwrap());
        host.unset("nas", "down");
        assert!(crate::ops::looks::probe(&agent, &nas).unwrap());
        host.set("nas", "cut");
        host.set("nas", "go");
        assert_eq!(making.join().unwrap().failed.len(), 1);
    });
    let waiting = queue(&agent, "nas");
    assert_eq!((waiting[0].attempts, waiting[0].next_attempt), (1, Some(agent.now())));
    // The next time nobody found it away in between.
    assert_eq!(pass(&agent).failed.len(), 1);
    assert!(queue(&agent, "nas")[0].next_attempt > Some(agent.now()));
}

#[test]
fn a_target_that_answers_and_takes_nothing_is_tried_ever_less_and_every_copy_gets_its_turn() {
    let host = Host::new(&["nas"]);
    let agent = host.agent();
    for hours in 1..=100 {
        host.backup(&agent.state, hours);
    }
    host.set("nas", "cut");
    let mut tries = 0;
    for _ in 0..240 {
        tries += pass(&agent).failed.len();
        host.clock.advance(TimeDelta::seconds(30));
    }
    // One a minute at first, one in half an hour at the end; without a pause of the target it were 240.
    assert!((8..=28).contains(&tries), "{tries} attempts in two hours");
    let begun: std::collections::BTreeSet<String> = host.lines("nas", "begun").into_iter().collect();
    assert!(begun.len() > 2, "one bad copy must not keep others back: {begun:?}");
}

#[test]
fn a_target_that_refuses_is_told_at_once_left_alone_and_tried_when_its_settings_changed() {
    let mut host = Host::new(&["nas"]);
    let agent = host.agent();
    let run = host.backup(&agent.state, 1);
    host.backup(&agent.state, 2);
    host.set("nas", "refuse");
    let drained = pass(&agent);
    assert_eq!(drained.failed.len(), 1, "{drained:?}");
    let waiting = queue(&agent, "nas");
    assert_eq!(waiting.iter().map(|copy| copy.permanent).collect::<Vec<_>>(), [true, false]);
    for copy in &waiting {
        let pause = copy.next_attempt.unwrap() - agent.now();
        assert!(pause > TimeDelta::minutes(40) && pause < TimeDelta::minutes(80), "{pause}");
    }
    let degraded = agent.state.run(&run).unwrap().unwrap().degraded;
    assert_eq!(
        degraded,
        [
            "copy nas stopped: wrong credentials. Trying again does not mend this: put it right, then: agent tend --retry"
        ]
    );
    let snapshot = agent.state.snapshot(agent.now()).unwrap();
    let at = &snapshot.job(&"web".parse().unwrap()).unwrap().targets[&"nas".parse::<TargetName>().unwrap()];
    assert_eq!((at.stopped, at.next_attempt), (true, waiting.iter().filter_map(|c| c.next_attempt).min()));
    // Days later it is tried once a day.
    let mut tries = 0;
    for _ in 0..14 * 24 {
        host.clock.advance(TimeDelta::hours(1));
        tries += pass(&agent).failed.len();
    }
    assert!((14..=24).contains(&tries), "{tries} attempts in two weeks");

    assert_eq!(pass(&agent), Drained::default());
    host.unset("nas", "refuse");
    assert_eq!(pass(&agent), Drained::default(), "nobody knows of it");
    host.config.target.get_mut("nas").unwrap().template = "other/%Y%m%d%H%M".to_owned();
    let agent = Agent { config: Arc::new(host.config.clone()), ..agent };
    assert_eq!(pass(&agent).made, 2);
    assert!(agent.state.run(&run).unwrap().unwrap().degraded.is_empty());
}

#[test]
fn one_copy_that_is_made_ends_what_kept_the_others_from_a_target() {
    for manner in ["refuse", "cut", "down"] {
        let host = Host::new(&["nas"]);
        let agent = host.agent();
        for hours in 1..=3 {
            host.backup(&agent.state, hours);
        }
        host.set("nas", manner);
        assert_eq!(pass(&agent).failed.len(), 1);
        assert_eq!(pass(&agent), Drained::default(), "{manner}");
        host.unset("nas", manner);
        // A new backup is always tried.
        host.backup(&agent.state, 0);
        let made = pass(&agent).made;
        // The one that failed by itself has its own pause.
        assert_eq!(made, if manner == "refuse" { 4 } else { 3 }, "{manner}");
    }
}

#[test]
fn a_target_that_is_not_read_back_has_complete_copies() {
    let mut host = Host::new(&["nas"]);
    host.config.target.get_mut("nas").unwrap().read_back = crate::config::ReadBack::Never;
    let agent = host.agent();
    let run = host.backup(&agent.state, 1);
    assert_eq!(pass(&agent).made, 1);
    let copy = agent.state.copy(&run, &"nas".parse().unwrap()).unwrap().unwrap();
    assert_eq!((copy.status, copy.verified_at), (CopyStatus::Complete, None));
    let waited = host.clock.now();
    assert_eq!(copy.created_at, Some(waited));
}
