//! From what happened to rows of the outbox: what each channel was told before, what is due now, and the
//! rendered messages, one row a receiver.
//!
//! Every plan may be made again: the same message has the same Message-ID, and the outbox keeps it once.
//! [`periodic`] uses that: whatever should have been told about the newest run and was not, because a
//! process died in between, is queued by the next look.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::facts::{AgentFacts, CheckFacts, DigestFacts, DigestJob, RunFacts, Streak, VerifyFacts};
use super::gather::{self, JobContext};
use super::message::{Content, Kind, Rendered};
use super::ping::{self, Event, Ping};
use super::transitions::{Due, Fate, PastRun, RunEnd, Told, Trouble, after_run, digest_due, reminder};
use super::{Channel, verified};
use crate::model::{JobName, Outcome, RunId};
use crate::state::{Message, MessageKind, MessageStatus, NewMessage, Run, State, StateError};

/// How far back [`periodic`] makes up for what was not queued. Shorter than the outbox keeps messages, so
/// that nothing is told twice.
const MAKE_UP: TimeDelta = TimeDelta::days(7);

/// What is to be written into the outbox, all of it in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// New rows.
    pub messages: Vec<NewMessage>,
    /// Rows that are withdrawn: the new ones say what they would have said.
    pub supersedes: Vec<i64>,
}

impl Plan {
    /// True when nothing is to be told.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.supersedes.is_empty()
    }

    /// Writes the plan into the outbox, where no end of a run carries it.
    pub fn enqueue(&self, state: &State, now: DateTime<Utc>) -> Result<(), StateError> {
        if !self.is_empty() {
            state.supersede(&self.supersedes, &self.messages, now)?;
        }
        Ok(())
    }
}

/// What the outbox keeps of a message, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The message.
    pub message: Rendered,
    /// The troubles it tells, by which later runs are compared.
    #[serde(default)]
    pub about: Vec<Trouble>,
}

/// What is due at the end of a run; goes into the transaction that records it (`messages`, and
/// `supersedes` of [`crate::state::EndedRun`]).
///
/// A good run whose copies are still to be made says so in `facts.copies` (state `pending`); plan again,
/// and [`Plan::enqueue`], when copies failed and the run became degraded.
pub fn run_ended(
    state: &State,
    channels: &[impl AsRef<Channel>],
    facts: &RunFacts,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let runs = runs_before(state, &facts.job, Some(&facts.run_id))?;
    let since = runs.iter().map(|r| r.started).min().unwrap_or(facts.started).min(facts.started);
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref) {
        let rows = state.messages_about(&channel.name, &facts.job, since)?;
        let mended = mended(state, channel, facts, now)?;
        plan_run(&mut plan, channel, facts, &runs, &rows, mended, now);
    }
    Ok(plan)
}

/// What is due at the end of a run when the state cannot be read: every trouble is told, since nobody
/// knows what was told before.
pub fn without_state(channels: &[impl AsRef<Channel>], facts: &RunFacts, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref) {
        plan_run(&mut plan, channel, facts, &[], &[], None, now);
    }
    plan
}

/// What is due by the passing of time, for the daemon's loop and `agent tend`, for all jobs at once (a
/// digest tells of all of them): reminders, digests, and whatever about a job's newest run was not queued yet (a recovery after late copies, a degradation
/// found later, a message lost with a process that died).
pub fn periodic(
    state: &State,
    channels: &[impl AsRef<Channel>],
    jobs: &[JobContext],
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    for context in jobs {
        let Some(newest) = runs_before(state, &context.job, None)?.into_iter().next() else { continue };
        let before = runs_before(state, &context.job, Some(&newest.run_id))?;
        let runs = [std::slice::from_ref(&newest), &before[..]].concat();
        // Read from the state once, and only when something is due.
        let mut facts = None;
        let readers = channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping());
        for channel in readers.filter(|c| context.tells(&c.name)) {
            let rows = rows_of(state, channel, &context.job, &runs)?;
            let mut due = made_up(state, channel, context, &newest, &before, &rows, &mut facts, now)?;
            if due.is_empty()
                && !context.paused
                && reminder(&channel.policy, &history(&runs, &rows, now), now)
            {
                let facts = known(&mut facts, state, context, &newest)?;
                plan_reminder(&mut due, channel, facts, &before, now);
            }
            plan.messages.extend(due.messages);
            plan.supersedes.extend(due.supersedes);
        }
    }
    plan_digests(&mut plan, state, channels, jobs, now)?;
    Ok(plan)
}

/// A message to every channel with readers, whatever it subscribed to: what the health checks found.
pub fn check(channels: &[impl AsRef<Channel>], facts: &CheckFacts, now: DateTime<Utc>) -> Plan {
    to_all(channels, Content::Check(facts), now)
}

/// A message to every channel with readers, whatever it subscribed to: the agent itself is in trouble.
pub fn agent(channels: &[impl AsRef<Channel>], facts: &AgentFacts, now: DateTime<Utc>) -> Plan {
    to_all(channels, Content::Agent(facts), now)
}

/// What reading a copy back found, for the channels that tell about its job: damage once for those that hear
/// of degradations, and that the copy is whole again for those that heard of the damage.
///
/// To be queued before the result is recorded: a process that dies in between finds the same again, and
/// plans the same message.
pub fn verified(
    state: &State,
    channels: &[impl AsRef<Channel>],
    facts: &VerifyFacts,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping()) {
        let about = verified::prefix(facts);
        let mut rows = state.messages_about(&channel.name, &facts.job, DateTime::UNIX_EPOCH)?;
        rows.retain(|row| {
            row.kind == MessageKind::Verify
                && payload_of(row).is_some_and(|p| p.message.key.starts_with(&about))
        });
        // Newest first: what the channel was told last about this copy, and whether it has it or will.
        let told =
            rows.iter().find(|row| matches!(row.status, MessageStatus::Delivered | MessageStatus::Pending));
        let told = told.and_then(|row| Some(payload_of(row)?.message.kind));
        let due = match facts.ok {
            false => channel.policy.on.contains(&Kind::Degraded),
            true => channel.policy.on.contains(&Kind::Recovery) && told == Some(Kind::Verify),
        };
        if !due {
            continue;
        }
        let message = channel.render(Content::Verify(facts), now);
        add_about(
            &mut plan,
            channel,
            message,
            About { kind: MessageKind::Verify, job: &facts.job, run: &facts.run_id },
            now,
        );
    }
    Ok(plan)
}

/// What is due at the beginning of a run: a ping for each switch that wants to hear of it. What still waits
/// for that switch is withdrawn.
pub fn run_began(
    state: &State,
    channels: &[impl AsRef<Channel>],
    job: &JobName,
    run: &RunId,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref) {
        if !channel.dialect().is_some_and(|dialect| dialect.start) {
            continue;
        }
        let text = super::text::line(&format!("{job}: started, run {run}"), 300);
        let ping = Ping { event: Event::Start, exit_status: 0, run: Some(run.clone()) };
        let message = ping_message(Kind::Success, format!("{run}.start"), text, &ping);
        add_about(&mut plan, channel, message, About { kind: MessageKind::Ping, job, run }, now);
        plan.supersedes.extend(waiting_pings(state, channel, job)?);
    }
    Ok(plan)
}

fn waiting_pings(state: &State, channel: &Channel, job: &JobName) -> Result<Vec<i64>, StateError> {
    let waiting = state.pending_messages()?;
    let ours = waiting.into_iter().filter(|m| m.channel == channel.name && m.job.as_ref() == Some(job));
    Ok(ours.map(|m| m.id).collect())
}

fn ping_message(kind: Kind, key: String, text: String, ping: &Ping) -> Rendered {
    Rendered {
        kind,
        subject: super::text::line(text.lines().next().unwrap_or_default(), 300),
        text,
        html: String::new(),
        headers: Vec::new(),
        key,
        data: serde_json::to_value(ping).unwrap_or_default(),
    }
}

fn to_all(channels: &[impl AsRef<Channel>], content: Content<'_>, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    for channel in channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping()) {
        let message = channel.render(content, now);
        add(&mut plan, channel, message, None, Vec::new(), now);
    }
    plan
}

/// A job's ended runs, newest first, up to and with the newest good and undegraded one; `before` and
/// everything after it left out.
fn runs_before(state: &State, job: &JobName, before: Option<&RunId>) -> Result<Vec<Run>, StateError> {
    // Most often the run before was good: a long history is only read when there is a long streak.
    for limit in [6, 60, 600] {
        let all = state.runs(Some(job), limit)?;
        let read = all.len();
        let skip = match before.and_then(|id| all.iter().position(|r| r.run_id == *id)) {
            Some(position) => position + 1,
            None => 0,
        };
        let mut runs: Vec<Run> = all.into_iter().skip(skip).filter(|r| !r.is_running()).collect();
        if let Some(whole) = runs.iter().position(|r| r.is_good() && r.degraded.is_empty()) {
            runs.truncate(whole + 1);
            return Ok(runs);
        }
        if read < limit || limit == 600 {
            return Ok(runs);
        }
    }
    Ok(Vec::new())
}

/// The messages this channel has or will get about these runs.
fn rows_of(
    state: &State,
    channel: &Channel,
    job: &JobName,
    runs: &[Run],
) -> Result<Vec<Message>, StateError> {
    match runs.iter().map(|r| r.started).min() {
        Some(since) => state.messages_about(&channel.name, job, since),
        None => Ok(Vec::new()),
    }
}

fn payload_of(row: &Message) -> Option<Payload> {
    serde_json::from_str(&row.payload).ok()
}

/// What one channel was told, by run and message. A message to several receivers counts once.
fn told(rows: &[Message], now: DateTime<Utc>) -> BTreeMap<(&RunId, String), Told> {
    let mut told: BTreeMap<(&RunId, String), Told> = BTreeMap::new();
    for row in rows {
        let (Some(run_id), Some(payload)) = (&row.run_id, payload_of(row)) else { continue };
        let fate = match row.status {
            MessageStatus::Delivered => Fate::Delivered(row.closed_at.unwrap_or(row.created_at)),
            // On its way at this moment: whoever is told next should not hear that nobody was told.
            MessageStatus::Pending if row.claimed_until.is_some_and(|until| until > now) => {
                Fate::Delivered(now)
            }
            MessageStatus::Pending => Fate::Pending,
            MessageStatus::Failed | MessageStatus::Refused | MessageStatus::Dropped => Fate::Lost,
            MessageStatus::Superseded => continue,
        };
        let entry = told.entry((run_id, payload.message.key)).or_insert(Told {
            kind: payload.message.kind,
            at: row.created_at,
            fate,
            about: payload.about,
        });
        entry.fate = match (entry.fate, fate) {
            (Fate::Delivered(a), Fate::Delivered(b)) => Fate::Delivered(a.min(b)),
            (Fate::Delivered(at), _) | (_, Fate::Delivered(at)) => Fate::Delivered(at),
            (Fate::Pending, _) | (_, Fate::Pending) => Fate::Pending,
            (Fate::Lost, Fate::Lost) => Fate::Lost,
        };
    }
    told
}

/// The runs with what one channel was told about each.
fn history(runs: &[Run], rows: &[Message], now: DateTime<Utc>) -> Vec<PastRun> {
    let told = told(rows, now);
    runs.iter()
        .map(|run| PastRun {
            outcome: run.outcome.unwrap_or(Outcome::Interrupted),
            degraded: !run.degraded.is_empty(),
            told: told.iter().filter(|((id, _), _)| *id == &run.run_id).map(|(_, t)| t.clone()).collect(),
        })
        .collect()
}

fn end_of(facts: &RunFacts) -> RunEnd {
    RunEnd {
        outcome: facts.outcome,
        step: facts.failed_step,
        component: facts.failed_component.clone(),
        degraded: facts.degraded.clone(),
        open: facts.copies.iter().any(|c| c.state == "pending"),
    }
}

/// Plans for one channel and one run. `runs` are those before it, newest first; `mended` is a run of which
/// the channel knows only that it was degraded.
fn plan_run(
    plan: &mut Plan,
    channel: &Channel,
    facts: &RunFacts,
    runs: &[Run],
    rows: &[Message],
    mended: Option<PastRun>,
    now: DateTime<Utc>,
) {
    if channel.is_ping() {
        plan_ping(plan, channel, facts, rows, now);
        return;
    }
    let end = end_of(facts);
    let mut past = history(runs, rows, now);
    // What the same run was told to be before: degraded, and mended since; or simply the same.
    let before = earlier_self(facts, rows, now).or(mended);
    past.splice(0..0, before.clone());
    for due in after_run(&channel.policy, &past, &end, now) {
        let streak = streak(due, facts, runs, before.as_ref());
        let message = channel.render(Content::Run(due.kind, facts, streak.as_ref()), now);
        let about = if due.kind.is_trouble() { end.troubles() } else { Vec::new() };
        add(plan, channel, message, Some(facts), about, now);
        if due.supersede {
            let whole = facts.degraded.is_empty();
            plan.supersedes.extend(
                rows.iter().filter(|r| r.status == MessageStatus::Pending && is_over(r, whole)).map(|r| r.id),
            );
        }
    }
}

fn earlier_self(facts: &RunFacts, rows: &[Message], now: DateTime<Utc>) -> Option<PastRun> {
    let told: Vec<Told> = told(rows, now)
        .into_iter()
        .filter(|((id, _), told)| **id == facts.run_id && told.kind.is_trouble())
        .map(|(_, told)| told)
        .collect();
    (!told.is_empty()).then(|| PastRun { outcome: facts.outcome, degraded: facts.outcome.is_good(), told })
}

/// An earlier run that the channel was told to be degraded, and that has been mended since (its copies came
/// late), where it heard of no recovery after that: in the state there is nothing left to recover from.
fn mended(
    state: &State,
    channel: &Channel,
    facts: &RunFacts,
    now: DateTime<Utc>,
) -> Result<Option<PastRun>, StateError> {
    const KINDS: [MessageKind; 3] = [MessageKind::Degraded, MessageKind::Reminder, MessageKind::Recovery];
    let Some(row) = state.last_message(&channel.name, Some(&facts.job), &KINDS)? else { return Ok(None) };
    let Some(run_id) = row.run_id.clone().filter(|id| *id != facts.run_id) else { return Ok(None) };
    let whole = state.run(&run_id)?.is_some_and(|run| run.is_good() && run.degraded.is_empty());
    let rows = [row];
    let told: Vec<Told> = told(&rows, now).into_values().filter(|told| told.kind.is_trouble()).collect();
    let degradation = |told: &Told| told.about.iter().all(|t| matches!(t, Trouble::Degraded(_)));
    Ok((whole && !told.is_empty() && told.iter().all(degradation)).then_some(PastRun {
        outcome: Outcome::Success,
        degraded: true,
        told,
    }))
}

/// Whether a queued message about a trouble has nothing more to say after a good run: one about a
/// degradation only when the run is not degraded itself.
fn is_over(row: &Message, whole: bool) -> bool {
    payload_of(row).is_some_and(|p| {
        p.message.kind.is_trouble()
            && (whole || p.about.iter().all(|trouble| matches!(trouble, Trouble::Bad { .. })))
    })
}

/// The row of bad (or degraded) runs a message is about. `before` is what the run itself was told to be.
fn streak(due: Due, facts: &RunFacts, runs: &[Run], before: Option<&PastRun>) -> Option<Streak> {
    let failing: Vec<&Run> = runs.iter().take_while(|r| !r.is_good()).collect();
    let mended = due.kind == Kind::Recovery && before.is_some();
    let earlier = match Kind::of_bad(facts.outcome) {
        Some(_) => failing,
        None if due.kind == Kind::Recovery && !mended && !failing.is_empty() => failing,
        None => degraded(runs),
    };
    let runs = earlier.len() as u64 + u64::from(due.kind.is_trouble() || mended);
    let told = due.was_told;
    if let Some(first) = earlier.last() {
        return Some(Streak {
            since: first.ended.unwrap_or(first.started),
            runs,
            outcome: first.outcome.unwrap_or(Outcome::Interrupted),
            step: first.failed_step,
            component: None,
            error: first.error.clone().or_else(|| first.degraded.first().cloned()),
            told,
        });
    }
    let was: Vec<String> = before
        .iter()
        .flat_map(|b| b.told.iter().flat_map(|t| &t.about))
        .filter_map(|t| match t {
            Trouble::Degraded(name) => Some(name.clone()),
            Trouble::Bad { .. } => None,
        })
        .collect();
    let error = facts.error.clone().or_else(|| facts.degraded.first().cloned());
    (runs > 0).then(|| Streak {
        since: before.iter().flat_map(|b| b.told.iter().map(|t| t.at)).min().unwrap_or(facts.ended),
        runs,
        outcome: facts.outcome,
        step: facts.failed_step,
        component: facts.failed_component.clone(),
        error: error.or_else(|| (!was.is_empty()).then(|| was.join(", "))),
        told,
    })
}

fn degraded(runs: &[Run]) -> Vec<&Run> {
    runs.iter().take_while(|r| !r.is_good() || !r.degraded.is_empty()).filter(|r| r.is_good()).collect()
}

fn plan_ping(plan: &mut Plan, channel: &Channel, facts: &RunFacts, rows: &[Message], now: DateTime<Utc>) {
    let Some(dialect) = channel.dialect() else { return };
    let ping = Ping::ended(facts);
    let heard = if ping.event == Event::Success { dialect.success } else { dialect.failure };
    let key = format!("{}.ping", facts.run_id);
    if heard {
        let kind = Kind::of_bad(facts.outcome).unwrap_or(Kind::Success);
        let message = ping_message(kind, key.clone(), ping::body(facts, dialect.rich), &ping);
        add(plan, channel, message, Some(facts), Vec::new(), now);
    }
    // A dead man's switch wants to know how it is now, not how it was: neither an earlier run, nor that
    // this one has begun.
    let is_this = |r: &Message| payload_of(r).is_some_and(|p| p.message.key == key);
    plan.supersedes
        .extend(rows.iter().filter(|r| r.status == MessageStatus::Pending && !is_this(r)).map(|r| r.id));
}

fn add(
    plan: &mut Plan,
    channel: &Channel,
    message: Rendered,
    facts: Option<&RunFacts>,
    about: Vec<Trouble>,
    now: DateTime<Utc>,
) {
    let kind = if channel.is_ping() { MessageKind::Ping } else { stored_kind(message.kind) };
    push(plan, channel, Payload { message, about }, kind, facts.map(|f| (&f.job, &f.run_id)), now);
}

/// What a row is filed under.
struct About<'a> {
    kind: MessageKind,
    job: &'a JobName,
    run: &'a RunId,
}

fn add_about(plan: &mut Plan, channel: &Channel, message: Rendered, about: About<'_>, now: DateTime<Utc>) {
    let payload = Payload { message, about: Vec::new() };
    push(plan, channel, payload, about.kind, Some((about.job, about.run)), now);
}

fn push(
    plan: &mut Plan,
    channel: &Channel,
    payload: Payload,
    kind: MessageKind,
    about: Option<(&JobName, &RunId)>,
    now: DateTime<Utc>,
) {
    let text = serde_json::to_string(&payload).expect("strings and enums serialise");
    for recipient in channel.recipients() {
        plan.messages.push(NewMessage {
            channel: channel.name.clone(),
            job: about.map(|(job, _)| job.clone()),
            run_id: about.map(|(_, run)| run.clone()),
            kind,
            message_id: channel.message_id(&payload.message, &recipient),
            recipient,
            subject: payload.message.subject.clone(),
            payload: text.clone(),
            not_before: now,
        });
    }
}

fn stored_kind(kind: Kind) -> MessageKind {
    match kind {
        Kind::Failure => MessageKind::Failure,
        Kind::Partial => MessageKind::Partial,
        Kind::Degraded => MessageKind::Degraded,
        Kind::Interrupted => MessageKind::Interrupted,
        Kind::Recovery => MessageKind::Recovery,
        Kind::Success => MessageKind::Success,
        Kind::Digest => MessageKind::Digest,
        Kind::Reminder => MessageKind::Reminder,
        Kind::Test => MessageKind::Test,
        Kind::Check => MessageKind::Check,
        Kind::Agent => MessageKind::Agent,
        Kind::Verify => MessageKind::Verify,
    }
}

fn known<'a>(
    facts: &'a mut Option<RunFacts>,
    state: &State,
    context: &JobContext,
    run: &Run,
) -> Result<&'a RunFacts, StateError> {
    match facts {
        Some(facts) => Ok(facts),
        None => Ok(facts.insert(gather::recorded(state, context, run)?)),
    }
}

/// What should have been queued about the newest run and was not.
#[allow(clippy::too_many_arguments)] // one caller, and each is something else
fn made_up(
    state: &State,
    channel: &Channel,
    context: &JobContext,
    newest: &Run,
    before: &[Run],
    rows: &[Message],
    facts: &mut Option<RunFacts>,
    now: DateTime<Utc>,
) -> Result<Plan, StateError> {
    let mut plan = Plan::default();
    if newest.ended.is_none_or(|ended| (now - ended).abs() > MAKE_UP) {
        return Ok(plan);
    }
    let facts = known(facts, state, context, newest)?;
    let mended = mended(state, channel, facts, now)?;
    plan_run(&mut plan, channel, facts, before, rows, mended, now);
    // Reminders are judged apart, with the newest run's own messages in view.
    plan.messages.retain(|m| {
        m.kind != MessageKind::Reminder
            && !rows.iter().any(|r| r.message_id == m.message_id && r.recipient == m.recipient)
    });
    // What is withdrawn is withdrawn for the sake of a new message.
    if plan.messages.is_empty() {
        plan.supersedes.clear();
    }
    Ok(plan)
}

fn plan_reminder(plan: &mut Plan, channel: &Channel, facts: &RunFacts, before: &[Run], now: DateTime<Utc>) {
    let due = Due { kind: Kind::Reminder, supersede: false, was_told: true };
    let streak = streak(due, facts, before, None);
    let message = channel.render(Content::Run(Kind::Reminder, facts, streak.as_ref()), now);
    add(plan, channel, message, Some(facts), end_of(facts).troubles(), now);
}

fn plan_digests(
    plan: &mut Plan,
    state: &State,
    channels: &[impl AsRef<Channel>],
    jobs: &[JobContext],
    now: DateTime<Utc>,
) -> Result<(), StateError> {
    for channel in channels.iter().map(AsRef::as_ref).filter(|c| !c.is_ping()) {
        let jobs: Vec<&JobContext> = jobs.iter().filter(|j| j.tells(&channel.name)).collect();
        let Some(host) = jobs.first() else { continue };
        let last = state.last_message(&channel.name, None, &[MessageKind::Digest])?.map(|m| m.created_at);
        let first_seen = state.jobs()?.iter().map(|j| j.first_seen).min().unwrap_or(now);
        let Some((from, until)) = digest_due(&channel.policy, last, first_seen, now, host.timezone) else {
            continue;
        };
        let facts = DigestFacts {
            host: host.host.clone(),
            timezone: host.timezone,
            from,
            until,
            jobs: jobs.iter().map(|job| digest_job(state, job, from, until)).collect::<Result<_, _>>()?,
            command: host.command.clone(),
        };
        let message = channel.render(Content::Digest(&facts), now);
        add(plan, channel, message, None, Vec::new(), now);
    }
    Ok(())
}

fn digest_job(
    state: &State,
    context: &JobContext,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<DigestJob, StateError> {
    let runs = state.runs(Some(&context.job), 300)?;
    let (mut good_runs, mut bad_runs, mut warnings) = (0, 0, 0);
    for run in runs.iter().filter(|r| r.ended.is_some_and(|ended| ended > from && ended <= until)) {
        warnings += run.warning_counts.total();
        if run.is_good() { good_runs += 1 } else { bad_runs += 1 }
    }
    let last_good = state.last_success(&context.job)?;
    Ok(DigestJob {
        job: context.job.clone(),
        good_runs,
        bad_runs,
        last_good: last_good.as_ref().map(|r| r.started),
        stored_bytes: last_good.map_or(0, |r| r.stored_bytes),
        warnings,
        newest_verified: gather::last_good(state, context)?,
        notes: context.notes.clone(),
    })
}
