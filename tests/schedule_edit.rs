//! An edited schedule neither makes nor clears an overdue by itself.

use std::sync::Arc;

use backup_agent::clock::{Clock, ManualClock};
use backup_agent::config::{Config, adhoc};
use backup_agent::health;
use backup_agent::model::JobName;
use backup_agent::ops::{Agent, touch_job};
use backup_agent::state::State;
use chrono::{DateTime, TimeDelta, Utc};

struct Fixture {
    _dir: tempfile::TempDir,
    agent: Agent,
    clock: Arc<ManualClock>,
    job: JobName,
}

impl Fixture {
    fn new(schedule: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = adhoc(&[], dir.path(), None);
        config.timezone = chrono_tz::UTC;
        let clock = Arc::new(ManualClock::new(at("2026-11-24T00:00:00Z")));
        let state = State::open(&config.state_dir, clock.now()).unwrap();
        let agent = Agent {
            config: Arc::new(config),
            state,
            clock: clock.clone(),
            channels: Arc::default(),
            command: "agent".to_owned(),
        };
        let mut fixture = Self { _dir: dir, agent, clock, job: JobName::new("default").unwrap() };
        fixture.edit(schedule);
        fixture
    }

    fn edit(&mut self, schedule: &str) {
        let mut config = Config::clone(&self.agent.config);
        config.job.get_mut(&self.job).unwrap().schedule = Some(schedule.to_owned());
        self.agent.config = Arc::new(config);
        touch_job(&self.agent, &self.job, &self.agent.config.job[&self.job]).unwrap();
    }

    fn due(&self) -> Option<DateTime<Utc>> {
        let snapshot = self.agent.state.snapshot(self.clock.now()).unwrap();
        health::next_due(&self.agent.config, &self.agent.config.job[&self.job], snapshot.job(&self.job)?)
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn an_edit_does_not_clear_an_overdue() {
    let mut f = Fixture::new("0 3 * * *");
    f.clock.advance(TimeDelta::hours(30));
    assert_eq!(f.due(), Some(at("2026-11-24T03:00:00Z")));
    f.edit("0 4 * * *");
    assert_eq!(f.due(), Some(at("2026-11-24T03:00:00Z")), "the edit cleared it");
    f.clock.advance(TimeDelta::hours(1));
    f.edit("0 5 * * *");
    assert_eq!(f.due(), Some(at("2026-11-24T03:00:00Z")), "a second edit cleared it");
}

#[test]
fn an_edit_does_not_make_an_overdue() {
    let mut f = Fixture::new("0 3 1 * *");
    f.clock.advance(TimeDelta::hours(30));
    f.edit("0 4 * * *");
    // By the new line it would have been due at 04:00 of both days; it counts from the edit.
    assert_eq!(f.due(), Some(at("2026-11-26T04:00:00Z")));
}

#[test]
fn a_pause_that_was_ended_leaves_nothing_due_behind() {
    let f = Fixture::new("0 3 * * *");
    f.clock.advance(TimeDelta::hours(1));
    f.agent.state.set_paused(&f.job, Some(at("2026-12-24T00:00:00Z")), f.clock.now()).unwrap();
    f.clock.advance(TimeDelta::days(3));
    f.agent.state.set_paused(&f.job, Some(f.clock.now()), f.clock.now()).unwrap();
    assert_eq!(f.due(), Some(at("2026-11-27T03:00:00Z")));
}
