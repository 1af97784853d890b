//! What the loops share: the agent in use, the runs in progress, and ways to wake one another. Also what the
//! pages show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Options, Watcher};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Progress;
use crate::health::Extra;
use crate::manifest::FileWarning;
use crate::model::{JobName, RunId};
use crate::ops::Agent;
use crate::state::{JobRecord, RunRecord, RunTrigger, Snapshot, State};
use crate::web::{self, RunProgress};

/// A scheduler that has not turned for so long does not turn any more.
const TURNS_WITHIN: Duration = Duration::from_secs(90);
/// A page may show the state as it was so long ago: many readers then cost no more than one.
const SNAPSHOT_AGE: Duration = Duration::from_secs(1);

/// What all loops share.
pub(super) struct Shared {
    pub clock: Arc<dyn Clock>,
    pub watcher: Arc<dyn Watcher>,
    pub state: State,
    agent: RwLock<Arc<Agent>>,
    runs: Mutex<Runs>,
    /// Jobs whose dead runs are being dealt with; they are not started meanwhile.
    reaping: Mutex<BTreeSet<JobName>>,
    extra: Mutex<Extra>,
    snapshot: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    /// When `/metrics` was last fetched, and by whom, since that was last written down.
    scraped: Mutex<Option<(DateTime<Utc>, String)>>,
    turned: Mutex<Option<Instant>>,
    ready: AtomicBool,
    stopping: AtomicBool,
    /// Cancelled to end the copy that is being made by the loop of late copies.
    pub copying: Arc<Progress>,
    /// Cancelled to end the reading back, or the drill, that is under way.
    pub proving: Arc<Progress>,
    pub scheduler: Wake,
    pub messages: Wake,
    pub copies: Wake,
    pub health: Wake,
    pub reaper: Wake,
    pub verifier: Wake,
    pub drills: Wake,
}

#[derive(Default)]
struct Runs {
    active: BTreeMap<JobName, Active>,
    /// Runs whose outcome is recorded: they copy and tell, and hold up nobody.
    trailing: Vec<Arc<Progress>>,
    ended: Vec<Ended>,
}

struct Active {
    progress: Arc<Progress>,
    /// Bytes the sources will hold, if the last good run is anything to go by.
    expected: Option<u64>,
}

/// A run that ended, as far as the scheduler cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub job: JobName,
    /// The occurrence it answered.
    pub occurrence: Option<DateTime<Utc>>,
    pub trigger: RunTrigger,
    /// True when it did not begin because the job was locked.
    pub locked: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change leaves the data whole: a panic elsewhere is no reason to stop.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    pub(super) fn new(options: &Options, agent: Agent) -> Self {
        Self {
            clock: Arc::clone(&options.clock),
            watcher: Arc::clone(&options.watcher),
            state: agent.state.clone(),
            agent: RwLock::new(Arc::new(agent)),
            runs: Mutex::default(),
            reaping: Mutex::default(),
            extra: Mutex::default(),
            snapshot: Mutex::default(),
            scraped: Mutex::default(),
            turned: Mutex::default(),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            copying: Arc::default(),
            proving: Arc::default(),
            scheduler: Wake::default(),
            messages: Wake::default(),
            copies: Wake::default(),
            health: Wake::default(),
            reaper: Wake::default(),
            verifier: Wake::default(),
            drills: Wake::default(),
        }
    }

    /// The agent in use. Whoever has a longer task keeps it, and so finishes with what it began with.
    pub(super) fn agent(&self) -> Arc<Agent> {
        Arc::clone(&self.agent.read().unwrap_or_else(|e| e.into_inner()))
    }

    pub(super) fn exchange_agent(&self, agent: Agent) {
        *self.agent.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(agent);
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Takes the place of a job's run. None when one is in progress already, or nothing may begin any more.
    pub(super) fn begin(&self, job: &JobName) -> Option<Arc<Progress>> {
        let mut runs = lock(&self.runs);
        // Asked under the lock, so that no run begins after all of them were cancelled.
        if self.is_stopping() || runs.active.contains_key(job) {
            return None;
        }
        let progress = Arc::<Progress>::default();
        runs.active.insert(job.clone(), Active { progress: Arc::clone(&progress), expected: None });
        Some(progress)
    }

    pub(super) fn expect(&self, job: &JobName, bytes: u64) {
        if let Some(active) = lock(&self.runs).active.get_mut(job) {
            active.expected = Some(bytes);
        }
    }

    /// Frees the place of a run whose outcome is known; the run itself may go on with its copies. Calling it
    /// again for the same run changes nothing.
    pub(super) fn end(&self, progress: &Arc<Progress>, ended: Ended) {
        let mut runs = lock(&self.runs);
        // By now the place may be that of the job's next run.
        if !runs.active.get(&ended.job).is_some_and(|active| Arc::ptr_eq(&active.progress, progress)) {
            return;
        }
        runs.active.remove(&ended.job);
        runs.trailing.push(Arc::clone(progress));
        runs.ended.push(ended);
        drop(runs);
        [&self.scheduler, &self.messages, &self.copies, &self.health].into_iter().for_each(Wake::wake);
    }

    /// Nothing works for the run any more.
    pub(super) fn leave(&self, progress: &Arc<Progress>) {
        lock(&self.runs).trailing.retain(|trailing| !Arc::ptr_eq(trailing, progress));
    }

    /// True while a run is in progress, or still copies and tells.
    pub(super) fn is_busy(&self) -> bool {
        let runs = lock(&self.runs);
        !runs.active.is_empty() || !runs.trailing.is_empty()
    }

    pub(super) fn take_ended(&self) -> Vec<Ended> {
        std::mem::take(&mut lock(&self.runs).ended)
    }

    /// The jobs whose runs are in progress.
    pub(super) fn active(&self) -> BTreeSet<JobName> {
        lock(&self.runs).active.keys().cloned().collect()
    }

    pub(super) fn set_reaping(&self, jobs: BTreeSet<JobName>) {
        *lock(&self.reaping) = jobs;
    }

    pub(super) fn reaped(&self, job: &JobName) {
        lock(&self.reaping).remove(job);
        self.scheduler.wake();
        self.messages.wake();
        self.health.wake();
    }

    pub(super) fn is_reaping(&self, job: &JobName) -> bool {
        lock(&self.reaping).contains(job)
    }

    pub(super) fn change_extra(&self, change: impl FnOnce(&mut Extra)) {
        change(&mut lock(&self.extra));
    }

    pub(super) fn take_scraped(&self) -> Option<(DateTime<Utc>, String)> {
        lock(&self.scraped).take()
    }

    pub(super) fn turned(&self) {
        *lock(&self.turned) = Some(Instant::now());
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// No run begins any more; those in progress are asked to stop, and every loop wakes to see it.
    pub(super) fn stop(&self) {
        let runs = lock(&self.runs);
        self.stopping.store(true, Ordering::SeqCst);
        runs.active.values().for_each(|active| active.progress.cancel());
        runs.trailing.iter().for_each(|progress| progress.cancel());
        drop(runs);
        self.copying.cancel();
        self.proving.cancel();
        [
            &self.scheduler,
            &self.messages,
            &self.copies,
            &self.health,
            &self.reaper,
            &self.verifier,
            &self.drills,
        ]
        .into_iter()
        .for_each(Wake::wake);
    }
}

impl web::Context for Shared {
    fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        // Read under the lock: those who come meanwhile wait for this answer instead of asking again.
        let mut kept = lock(&self.snapshot);
        if let Some((_, snapshot)) = kept.as_ref().filter(|(taken, _)| taken.elapsed() < SNAPSHOT_AGE) {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = Arc::new(self.state.snapshot(self.now())?);
        *kept = Some((Instant::now(), Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.agent().config)
    }

    fn progress(&self, job: &JobName) -> Option<RunProgress> {
        let runs = lock(&self.runs);
        let active = runs.active.get(job)?;
        Some(RunProgress { source_bytes: active.progress.source_bytes(), expected_bytes: active.expected })
    }

    fn warnings(&self, runs: &[RunId]) -> anyhow::Result<BTreeMap<RunId, Vec<FileWarning>>> {
        Ok(self.state.warnings_of(runs)?)
    }

    fn job_record(&self, job: &JobName, limit: usize) -> anyhow::Result<JobRecord> {
        Ok(self.state.job_record(job, limit)?)
    }

    fn run_record(&self, run: &RunId) -> anyhow::Result<Option<RunRecord>> {
        Ok(self.state.run_record(run)?)
    }

    fn command(&self) -> String {
        self.agent().command.clone()
    }

    fn extra(&self) -> Extra {
        lock(&self.extra).clone()
    }

    fn scraped(&self, by: &str) {
        *lock(&self.scraped) = Some((self.now(), by.to_owned()));
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn alive(&self) -> bool {
        lock(&self.turned).is_some_and(|turned| turned.elapsed() < TURNS_WITHIN)
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}

/// Something to wait for: a time, or somebody.
#[derive(Default)]
pub(super) struct Wake {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    /// Ends the wait that goes on, or the next one.
    pub(super) fn wake(&self) {
        *lock(&self.woken) = true;
        self.changed.notify_all();
    }

    /// Waits until woken, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let woken = lock(&self.woken);
        let result = self.changed.wait_timeout_while(woken, timeout, |woken| !*woken);
        *result.unwrap_or_else(|e| e.into_inner()).0 = false;
    }
}
