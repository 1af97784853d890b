//! The scheduler: at each turn it asks which jobs are due, and starts as many as may run at once, in the order
//! in which they were due.
//!
//! It keeps next to nothing: what is due follows from schedule, state and time, so that a restart, a jump of
//! the clock, a night asleep and a changed configuration need no case of their own. **A job that is locked**
//! (by `agent backup`, or by a script that uses the same `lock_file`) counts as one contention; its occurrence
//! stays due, and the run begins as soon as the locks are free. When they are not free within grace and splay,
//! the occurrence is given up, and the check for overdue jobs tells of it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::context::Shared;
use super::due::{self, Due, Facts, Start};
use crate::config::{JobConfig, Trigger};
use crate::failpoint;
use crate::health;
use crate::lock;
use crate::model::JobName;
use crate::ops::{Agent, clock};
use crate::state::{FactKey, JobRow, RunTrigger, StateError};

/// The longest time between two turns. A clock that jumps, a pause that is lifted and a lock that is let go
/// are noticed this late.
const TURN: Duration = Duration::from_secs(10);
/// A turn that comes so much later than the last one means that the machine slept or the clock jumped.
const GAP: TimeDelta = TimeDelta::minutes(2);
/// How often the state is told that the scheduler turns; each time is a write.
const RECORD: TimeDelta = TimeDelta::seconds(15);
/// How long a job that was locked is left alone before its locks are looked at again.
const LOCKED_PAUSE: TimeDelta = TimeDelta::seconds(30);
/// How many runs are looked at for one that has met an occurrence. Those dated into the future by a wrong
/// clock are passed over.
const RUNS: usize = 50;

/// A run to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    /// The job.
    pub job: JobName,
    /// Why now.
    pub trigger: RunTrigger,
    /// The occurrence it answers.
    pub occurrence: Option<DateTime<Utc>>,
}

pub(super) struct Scheduler {
    shared: Arc<Shared>,
    launch: Box<dyn FnMut(Launch) + Send>,
    /// Jobs that are to run once, whatever their schedule says.
    at_once: BTreeSet<JobName>,
    /// See [`Facts::since`].
    since: DateTime<Utc>,
    last_turn: DateTime<Utc>,
    recorded: Option<DateTime<Utc>>,
    /// Occurrences dealt with by this process: should the state not take them, they still are.
    handled: BTreeMap<JobName, DateTime<Utc>>,
    /// Jobs that were locked, and when to look again.
    locked: BTreeMap<JobName, DateTime<Utc>>,
    /// What kept the state from being read or written, as it was last logged.
    trouble: Option<String>,
}

/// A job that may start.
struct Candidate {
    at: DateTime<Utc>,
    launch: Launch,
}

impl Scheduler {
    /// A scheduler that begins to watch the clock now. `at_once` are the jobs to run at the start; `launch`
    /// starts a run and returns.
    pub(super) fn new(
        shared: Arc<Shared>,
        at_once: BTreeSet<JobName>,
        launch: Box<dyn FnMut(Launch) + Send>,
    ) -> Self {
        let now = shared.now();
        Self {
            shared,
            launch,
            at_once,
            since: now,
            last_turn: now,
            recorded: None,
            handled: BTreeMap::new(),
            locked: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Turns until the daemon stops.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while !shared.is_stopping() {
            let turn = AssertUnwindSafe(|| {
                // For tests: a scheduler that stands still, in a daemon that lives on.
                let _ = failpoint::hit("turn");
                self.turn()
            });
            let pause = match catch_unwind(turn) {
                Ok(pause) => {
                    shared.turned();
                    pause
                }
                // Not noted as a turn: if it goes on, /healthz and the service manager see it.
                Err(_) => {
                    tracing::error!("internal error in the scheduler; it goes on, please report it");
                    TURN
                }
            };
            shared.scheduler.wait(pause);
        }
    }

    /// One turn: starts what is due. Returns how long to wait for the next one.
    pub(super) fn turn(&mut self) -> Duration {
        let now = self.shared.now();
        let agent = self.shared.agent();
        self.watch_clock(now);
        self.note_ended(now);
        let rows = self.read_rows(&agent);

        let mut next = now + TURN;
        let mut candidates = Vec::new();
        let active = self.shared.active();
        for (name, job) in &agent.config.job {
            if active.contains(name) || self.shared.is_reaping(name) {
                continue;
            }
            if self.at_once.contains(name) {
                let launch = Launch { job: name.clone(), trigger: RunTrigger::Manual, occurrence: None };
                candidates.push(Candidate { at: self.since, launch });
                continue;
            }
            if job.trigger != Trigger::Internal {
                continue;
            }
            candidates.extend(self.candidate(&agent, name, job, rows.get(name), now, &mut next));
        }
        candidates.sort_by_key(|candidate| candidate.at);
        let mut free = agent.config.max_parallel_jobs.max(1).saturating_sub(active.len());
        for Candidate { at, launch } in candidates {
            if at > now {
                next = next.min(at);
            } else if free > 0 {
                free -= 1;
                self.at_once.remove(&launch.job);
                (self.launch)(launch);
            }
        }
        self.record_turn(now);
        // A millisecond more than needed, so that rounding never makes two turns of one.
        (next - now).to_std().unwrap_or_default().min(TURN) + Duration::from_millis(1)
    }

    /// What a job's schedule asks for.
    fn candidate(
        &mut self,
        agent: &Agent,
        name: &JobName,
        job: &JobConfig,
        row: Option<&JobRow>,
        now: DateTime<Utc>,
        next: &mut DateTime<Utc>,
    ) -> Option<Candidate> {
        let schedule = job.schedule()?;
        let splay_key = format!("{}/{name}", agent.state.instance_id());
        let facts = Facts {
            schedule: &schedule,
            tz: agent.config.job_timezone(job),
            splay: job.splay,
            splay_key: &splay_key,
            first_seen: row.map_or(self.since, |row| row.first_seen),
            schedule_changed_at: row.and_then(|row| row.schedule_changed_at),
            due_before: row.and_then(|row| row.due_before),
            paused_until: row.and_then(|row| row.paused_until),
            since: self.since,
            now,
        };
        if let Some(start) = due::next_start(&facts) {
            *next = (*next).min(start);
        }
        let mut attempts: Vec<DateTime<Utc>> = self.handled.get(name).copied().into_iter().collect();
        attempts.extend(row.and_then(|row| row.last_occurrence));
        // Runs are only asked for when the cheaper facts leave something due.
        due::due(&facts, &attempts)?;
        match agent.state.runs(Some(name), RUNS) {
            Ok(runs) => attempts.extend(runs.iter().map(|run| run.started)),
            Err(error) => self.report(Some(&error)),
        }
        match due::due(&facts, &attempts) {
            None => {
                self.locked.remove(name);
                None
            }
            Some(Due::PassedOver(occurrence)) => {
                tracing::info!(job = name.as_str(), "paused: the run of {occurrence} is passed over");
                self.deal_with(agent, name, occurrence, now);
                None
            }
            Some(Due::Run(start)) => {
                let start = if self.locked.contains_key(name) {
                    self.unlocked(agent, name, job, start, now)?
                } else {
                    start
                };
                let launch =
                    Launch { job: name.clone(), trigger: start.trigger, occurrence: Some(start.occurrence) };
                Some(Candidate { at: start.at, launch })
            }
        }
    }

    /// For a job that was locked: the start once its locks are free, nothing while they are not.
    fn unlocked(
        &mut self,
        agent: &Agent,
        name: &JobName,
        job: &JobConfig,
        start: Start,
        now: DateTime<Utc>,
    ) -> Option<Start> {
        let patience = TimeDelta::from_std(health::allowance(job)).unwrap_or(TimeDelta::MAX);
        let noticed = start.occurrence.max(self.since.min(now));
        if now - noticed > patience {
            tracing::warn!(
                job = name.as_str(),
                "it stayed locked for the whole grace of its run of {}: that is given up; the next one is tried as usual",
                start.occurrence
            );
            self.deal_with(agent, name, start.occurrence, now);
            self.locked.remove(name);
            return None;
        }
        let free = |path: &std::path::Path| lock::is_free(path).unwrap_or(true);
        let is_free = free(&agent.lock_path(name)) && job.lock_file.as_deref().is_none_or(free);
        if *self.locked.get(name)? > now || !is_free {
            return None;
        }
        Some(Start { at: now, ..start })
    }

    /// No run is started for `occurrence` any more.
    fn deal_with(&mut self, agent: &Agent, name: &JobName, occurrence: DateTime<Utc>, now: DateTime<Utc>) {
        self.handled.insert(name.clone(), occurrence);
        if let Err(error) = agent.state.occurrence_done(name, occurrence, now) {
            self.report(Some(&error));
        }
    }

    fn note_ended(&mut self, now: DateTime<Utc>) {
        for ended in self.shared.take_ended() {
            let Some(occurrence) = ended.occurrence else { continue };
            if ended.locked {
                self.locked.insert(ended.job, now + LOCKED_PAUSE);
            } else {
                self.locked.remove(&ended.job);
                self.handled.insert(ended.job, occurrence);
            }
        }
    }

    /// Notices when the clock was moved, or stood still while the machine slept.
    fn watch_clock(&mut self, now: DateTime<Utc>) {
        let passed = now - self.last_turn;
        self.last_turn = now;
        if passed > GAP {
            tracing::info!(
                "{} passed unseen: the machine slept, or its clock was set",
                health::words(passed.to_std().unwrap_or_default())
            );
            self.since = now;
        } else if passed < -GAP {
            tracing::warn!(
                "the clock was set back by {}",
                health::words((-passed).to_std().unwrap_or_default())
            );
            self.since = now;
            // What waits counted from the clock that was ahead.
            if let Err(error) = self.shared.state.retry_messages(now) {
                self.report(Some(&error));
            }
            self.shared.messages.wake();
        }
    }

    fn read_rows(&mut self, agent: &Agent) -> BTreeMap<JobName, JobRow> {
        match agent.state.jobs() {
            Ok(rows) => {
                self.report(None);
                rows.into_iter().map(|row| (row.job.clone(), row)).collect()
            }
            // The schedules are known without it: runs go on, and say what they meet.
            Err(error) => {
                self.report(Some(&error));
                BTreeMap::new()
            }
        }
    }

    fn record_turn(&mut self, now: DateTime<Utc>) {
        if self.recorded.is_some_and(|at| (now - at).abs() < RECORD) {
            return;
        }
        self.recorded = Some(now);
        if let Err(error) = clock::alive(&self.shared.state, FactKey::SchedulerTick, "", now) {
            self.report(Some(&error));
        }
    }

    /// Logs what is wrong with the state, once for as long as it is the same.
    fn report(&mut self, error: Option<&StateError>) {
        let text = error.map(|error| error.to_string());
        if let Some(text) = text.as_ref().filter(|_| text != self.trouble) {
            tracing::error!("the scheduler goes on without the state: {text}");
        }
        self.trouble = text;
    }
}
