//! Plans against a real state database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Europe::Berlin;

use super::at;
use crate::event::Step;
use crate::model::{JobName, Outcome, RunId, Secret, TargetName};
use crate::notify::Channel;
use crate::notify::email::EmailSettings;
use crate::notify::gather::{self, JobContext};
use crate::notify::message::{Kind, Labels};
use crate::notify::plan::{self, Plan};
use crate::notify::transitions::{Policy, SuccessMode};
use crate::state::{
    CopyStatus, EndedRun, MessageKind, MessageStatus, NewCopy, NewRun, NextTry, RunTrigger, State,
};

struct World {
    _dir: tempfile::TempDir,
    state: State,
    channels: Vec<Arc<Channel>>,
    job: JobName,
    now: DateTime<Utc>,
}

impl World {
    fn new(success: SuccessMode, to: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = at("2026-11-20T10:00:00Z");
        let state = State::open(dir.path(), now).unwrap();
        let job = JobName::new("askproai").unwrap();
        state.touch_job(&job, None, now).unwrap();
        let policy = Policy {
            on: [Kind::Failure, Kind::Partial, Kind::Degraded, Kind::Interrupted, Kind::Recovery].into(),
            success,
            remind: Duration::from_secs(86_400),
        };
        let settings = EmailSettings {
            url: "smtp://127.0.0.1:25".to_owned(),
            user: Some("u".to_owned()),
            password: Some(Secret::new("p")),
            from: "backup@example.org".to_owned(),
            to: to.iter().map(|t| (*t).to_owned()).collect(),
            timeout: Duration::from_secs(5),
            ca_file: None,
        };
        let channel = Channel::email("admin".parse().unwrap(), policy, Labels::default(), &settings).unwrap();
        Self { _dir: dir, state, channels: vec![Arc::new(channel)], job, now }
    }

    fn context(&self) -> JobContext {
        JobContext {
            job: self.job.clone(),
            host: "web1".to_owned(),
            timezone: Berlin,
            command: "agent".to_owned(),
            next_run: None,
            target_paths: BTreeMap::from([(TargetName::new("local").unwrap(), "/var/backups".to_owned())]),
            not_read_back: BTreeMap::new(),
            channels: None,
            paused: false,
            notes: Vec::new(),
        }
    }

    /// A run that begins 8 hours after the one before and ends as `outcome` in `step`.
    fn run(
        &mut self,
        outcome: Outcome,
        step: Option<Step>,
        degraded: &[&str],
        copies: &[(&str, CopyStatus)],
    ) -> RunId {
        self.now += TimeDelta::hours(8);
        let run_id = RunId::generate(self.now);
        self.state
            .begin_run(&NewRun {
                run_id: run_id.clone(),
                job: self.job.clone(),
                trigger: RunTrigger::Schedule,
                scheduled_for: None,
                process: crate::lock::ProcessIdentity::current(),
                started: self.now,
            })
            .unwrap();
        let mut ended = EndedRun::new(run_id.clone(), outcome, self.now + TimeDelta::seconds(30));
        ended.failed_step = step;
        ended.error = step.map(|s| format!("it broke in {s}"));
        ended.degraded = degraded.iter().map(|d| (*d).to_owned()).collect();
        let mut facts = gather::ended(Some(&self.state), &self.context(), self.now, &ended, None);
        self.now = ended.ended;
        facts.copies = copies
            .iter()
            .map(|(target, status)| crate::notify::facts::CopyFacts {
                target: TargetName::new(*target).unwrap(),
                state: status.as_str().to_owned(),
                detail: None,
            })
            .collect();
        let plan = plan::run_ended(&self.state, &self.channels, &facts, self.now).unwrap();
        ended.supersedes = plan.supersedes;
        let copies: Vec<NewCopy> = copies
            .iter()
            .map(|(target, status)| NewCopy {
                target: TargetName::new(*target).unwrap(),
                primary: *target == "local",
                status: *status,
                location: Some("daily/1".to_owned()),
                bytes: 1,
            })
            .collect();
        self.state.end_run(&ended, &copies, &plan.messages).unwrap();
        run_id
    }

    fn good(&mut self) -> RunId {
        self.run(Outcome::Success, None, &[], &[("local", CopyStatus::Verified)])
    }

    fn fail(&mut self, step: Step) -> RunId {
        self.run(Outcome::Failure, Some(step), &[], &[])
    }

    /// Every queued message accepted.
    fn accept_all(&self) {
        for message in self.state.pending_messages().unwrap() {
            self.state.message_delivered(message.id, self.now, "ok").unwrap();
        }
    }

    fn periodic(&self) -> Plan {
        plan::periodic(&self.state, &self.channels, &[self.context()], self.now).unwrap()
    }

    /// Kinds of everything queued so far, oldest first, with `-` before superseded ones.
    fn told(&self) -> String {
        let mut all = self.state.messages(100).unwrap();
        all.reverse();
        all.iter()
            .map(|m| format!("{}{}", if m.status == MessageStatus::Superseded { "-" } else { "" }, m.kind))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn last_text(&self) -> String {
        let payload: plan::Payload =
            serde_json::from_str(&self.state.messages(1).unwrap()[0].payload).unwrap();
        payload.message.text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_failure_is_told_once_then_its_recovery() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org"]);
    world.good();
    world.fail(Step::Capture);
    assert!(world.last_text().contains("The newest verified backup is 8 h old"), "{}", world.last_text());
    assert!(world.last_text().contains("at local (/var/backups/daily/1)"), "{}", world.last_text());
    world.accept_all();
    world.fail(Step::Capture);
    assert_eq!(world.told(), "failure");
    world.fail(Step::Publish);
    world.accept_all();
    world.good();
    world.good();
    assert_eq!(world.told(), "failure failure recovery");
    let text = world.last_text();
    assert!(text.contains("after 3 bad runs") && text.contains("it broke in capture"), "{text}");
    assert!(!text.contains("You were not told"), "{text}");
}

#[test]
fn a_failure_told_under_a_clock_that_was_ahead_is_told_again_once_a_day() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org"]);
    let right = world.now;
    world.now += TimeDelta::days(365);
    world.fail(Step::Capture);
    world.accept_all();
    world.now = right;
    let periodic = |world: &World| {
        world.periodic().enqueue(&world.state, world.now).unwrap();
        world.accept_all();
    };
    for minutes in [0, 1, 60, 23 * 60] {
        world.now = right + TimeDelta::minutes(minutes);
        periodic(&world);
    }
    assert_eq!(world.told(), "failure reminder");
    world.now = right + TimeDelta::hours(10);
    world.fail(Step::Capture);
    assert_eq!(world.told(), "failure reminder");
    world.now = right + TimeDelta::hours(25);
    periodic(&world);
    assert_eq!(world.told(), "failure reminder reminder");
}

#[test]
fn a_recovery_replaces_what_is_still_queued_and_says_so() {
    let mut world = World::new(SuccessMode::Always, &["a@example.org", "b@example.org"]);
    world.fail(Step::Capture);
    world.good();
    assert_eq!(world.told(), "-failure -failure recovery recovery");
    assert!(world.last_text().contains("You were not told"), "{}", world.last_text());
    world.good();
    assert_eq!(world.told(), "-failure -failure recovery recovery success success");
}

#[test]
fn one_receiver_who_has_the_message_is_enough_to_have_told() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org", "b@example.org"]);
    world.fail(Step::Capture);
    let waiting = world.state.pending_messages().unwrap();
    world.state.message_delivered(waiting[0].id, world.now, "ok").unwrap();
    world.state.message_failed(waiting[1].id, world.now, "no such user", NextTry::Never).unwrap();
    world.fail(Step::Capture);
    assert_eq!(world.told(), "failure failure");
}

#[test]
fn a_failure_given_up_is_told_again_by_the_next_run() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org"]);
    world.fail(Step::Capture);
    let id = world.state.pending_messages().unwrap()[0].id;
    world.state.message_failed(id, world.now, "no", NextTry::Never).unwrap();
    world.fail(Step::Capture);
    assert_eq!(world.told(), "failure failure");
}

#[test]
fn a_lasting_failure_is_reminded_of_by_the_passing_of_time() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org"]);
    world.fail(Step::Capture);
    assert!(world.periodic().is_empty());
    world.accept_all();
    world.now += TimeDelta::hours(23);
    assert!(world.periodic().is_empty());
    world.now += TimeDelta::hours(1);
    let plan = world.periodic();
    assert_eq!(plan.messages.len(), 1);
    assert_eq!(plan.messages[0].kind, MessageKind::Reminder);
    assert!(
        plan.messages[0].subject.contains("still failing after 24 h and 1 run"),
        "{}",
        plan.messages[0].subject
    );
    plan.enqueue(&world.state, world.now).unwrap();
    assert!(world.periodic().is_empty());
    world.accept_all();
    world.now += TimeDelta::days(30);
    assert_eq!(world.periodic().messages.len(), 1, "also long after the last run");
    let mut paused = world.context();
    paused.paused = true;
    assert!(plan::periodic(&world.state, &world.channels, &[paused], world.now).unwrap().is_empty());
}

#[test]
fn what_died_with_its_process_is_made_up_for() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org"]);
    world.good();
    // A run recorded without its message.
    let channels = std::mem::take(&mut world.channels);
    world.fail(Step::Capture);
    world.channels = channels;
    assert_eq!(world.told(), "");
    world.periodic().enqueue(&world.state, world.now).unwrap();
    assert_eq!(world.told(), "failure");
    assert!(world.periodic().is_empty());
    world.accept_all();
    assert!(world.periodic().is_empty());
    // Not for what is long ago.
    let mut world = World::new(SuccessMode::Always, &["a@example.org"]);
    let channels = std::mem::take(&mut world.channels);
    world.good();
    world.channels = channels;
    world.now += TimeDelta::days(8);
    assert!(world.periodic().is_empty());
}

#[test]
fn a_late_copy_ends_a_degradation() {
    let mut world = World::new(SuccessMode::Never, &["a@example.org"]);
    world.good();
    let nas = TargetName::new("nas").unwrap();
    let copies = [("local", CopyStatus::Verified), ("nas", CopyStatus::Pending)];
    let first = world.run(Outcome::Success, None, &[], &copies);
    assert_eq!(world.told(), "");
    assert!(world.periodic().is_empty());
    // The copy fails after the run was recorded.
    world.state.add_degraded(&first, "copy nas: not mounted").unwrap();
    world.periodic().enqueue(&world.state, world.now).unwrap();
    assert_eq!(world.told(), "degraded");
    assert!(world.periodic().is_empty());
    world.accept_all();
    // The next run: nothing is over while its copy is still to be made, and nothing is new when it fails.
    let second = world.run(Outcome::Success, None, &[], &copies);
    assert!(world.periodic().is_empty());
    world.state.add_degraded(&second, "copy nas: still not mounted").unwrap();
    assert!(world.periodic().is_empty());
    // The NAS is back.
    for run in [&second, &first] {
        world.state.copy_done(run, &nas, "daily/1", 1, true, world.now).unwrap();
        world.state.retain_degraded(run, |text| !text.starts_with("copy nas: ")).unwrap();
        world.periodic().enqueue(&world.state, world.now).unwrap();
    }
    assert_eq!(world.told(), "degraded recovery");
    assert!(world.periodic().is_empty());
}

#[test]
fn a_digest_goes_out_once_a_day() {
    let mut world = World::new(SuccessMode::Daily, &["a@example.org"]);
    world.good();
    world.good();
    world.now = at("2026-11-21T07:01:00Z");
    let plan = world.periodic();
    assert_eq!(plan.messages.len(), 1);
    assert_eq!(plan.messages[0].subject, "[backup-digest] web1: 2 backups of 1 job good");
    plan.enqueue(&world.state, world.now).unwrap();
    assert!(world.periodic().is_empty());
    world.now += TimeDelta::days(1);
    assert_eq!(world.periodic().messages.len(), 1);
}

#[test]
fn a_digest_tells_of_all_jobs_of_its_channel_and_of_no_other() {
    let mut world = World::new(SuccessMode::Daily, &["a@example.org"]);
    world.good();
    world.now = at("2026-11-21T07:01:00Z");
    let of = |job: &str, channels: Option<&str>| JobContext {
        job: JobName::new(job).unwrap(),
        channels: channels.map(|c| vec![c.parse().unwrap()]),
        ..world.context()
    };
    let jobs = [of("askproai", None), of("second", Some("admin")), of("third", Some("other"))];
    let plan = plan::periodic(&world.state, &world.channels, &jobs, world.now).unwrap();
    assert_eq!(plan.messages.len(), 1);
    let payload: plan::Payload = serde_json::from_str(&plan.messages[0].payload).unwrap();
    let text = payload.message.text;
    assert!(
        text.contains("Job askproai") && text.contains("Job second") && !text.contains("third"),
        "{text}"
    );
    assert!(text.contains("NOTHING: no verified backup exists"), "{text}");
    let foreign = [of("askproai", Some("other"))];
    assert!(plan::periodic(&world.state, &world.channels, &foreign, world.now).unwrap().is_empty());
}

#[test]
fn planning_again_queues_nothing_twice() {
    let mut world = World::new(SuccessMode::Always, &["a@example.org"]);
    let run = world.fail(Step::Capture);
    let recorded = world.state.run(&run).unwrap().unwrap();
    let facts = gather::recorded(&world.state, &world.context(), &recorded).unwrap();
    for _ in 0..3 {
        plan::run_ended(&world.state, &world.channels, &facts, world.now)
            .unwrap()
            .enqueue(&world.state, world.now)
            .unwrap();
    }
    assert_eq!(world.told(), "failure");
}

#[test]
fn without_a_state_every_trouble_is_told_and_nothing_is_claimed_about_what_is_left() {
    let world = World::new(SuccessMode::Never, &["a@example.org"]);
    let mut ended = EndedRun::new(RunId::generate(world.now), Outcome::Failure, world.now);
    ended.error = Some("the state is damaged".to_owned());
    let facts = gather::ended(None, &world.context(), world.now, &ended, None);
    let plan = plan::without_state(&world.channels, &facts, world.now);
    assert_eq!(plan.messages.len(), 1);
    assert!(plan.messages[0].payload.contains("could not read its own state"));
    assert!(!plan.messages[0].payload.contains("NOTHING"));
}
