//! The checks of one job. Each answers in one sentence: what, since when; and what to do.

use std::time::Duration;

use chrono::TimeDelta;

use super::checks::{JobView, Verdict};
use super::report::{Perf, Unit};
use super::{Fails, SecretFile, allowance, measured_run, moment, next_due, shrunk, since, words, worst};
use crate::config::ReadBack;
use crate::model::{ByteSize, Outcome, TargetName, plural};
use crate::state::HealthStatus::{Critical, Warning};
use crate::state::{JobTargetState, Run};

/// Fewer files than these are never too many: a live server is never still.
const WARNINGS_LEAST: u64 = 100;
/// More than the usual number by this factor is too many.
const WARNINGS_FACTOR: u64 = 10;

/// A limit as what is subtracted from moments.
pub(super) fn delta(limit: Duration) -> TimeDelta {
    TimeDelta::from_std(limit).unwrap_or(TimeDelta::MAX)
}

pub(super) fn overdue(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, job, state, now, tz, .. } = *view;
    let due = next_due(view.config, job, state)?;
    let age = match &state.last_success {
        Some(run) => {
            let ended = run.ended.unwrap_or(run.started);
            Perf::new(format!("{name}_age"), since(ended, now).as_secs() as f64, Unit::Seconds)
        }
        None => Perf::unknown(format!("{name}_age")),
    };
    if let Some(until) = view.paused() {
        return Some(Verdict::ok(format!("paused until {}", moment(until, tz))).perf(age));
    }
    let late = now - due - TimeDelta::from_std(allowance(job)).unwrap_or(TimeDelta::MAX);
    if late <= TimeDelta::zero() {
        let text = if due > now {
            format!("next due in {}", words(since(now, due)))
        } else {
            format!("due since {}, within the grace of {}", words(since(due, now)), words(allowance(job)))
        };
        return Some(Verdict::ok(text).perf(age));
    }
    let text = format!(
        "overdue by {} (due {}, last success {})",
        words(late.to_std().unwrap_or_default()),
        moment(due, tz),
        state.last_success.as_ref().map_or("never".to_owned(), |run| moment(run.started, tz))
    );
    let under_way = state.running.as_ref().filter(|run| {
        let limit = delta(job.max_runtime.unwrap_or(view.limits.late_run));
        run.started >= due && now - run.started <= limit && !is_dead(view, run)
    });
    let verdict = match under_way {
        Some(run) => {
            Verdict::with(Warning, text).hint(format!("A run has been under way for {}", ran(view, run)))
        }
        None => Verdict::bad(text)
            .hint(format!("`agent history {name}` shows why; `agent backup {name}` makes up for it")),
    };
    Some(verdict.perf(age))
}

pub(super) fn never_succeeded(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, state, now, tz, .. } = *view;
    if let Some(run) = &state.last_success {
        let ended = run.ended.unwrap_or(run.started);
        return Some(Verdict::ok(format!("last success {} ago", words(since(ended, now)))));
    }
    if let Some(until) = view.paused() {
        return Some(Verdict::ok(format!("no good backup yet, paused until {}", moment(until, tz))));
    }
    let due = next_due(view.config, view.job, state);
    match (due, &state.last_run) {
        (Some(due), None) if due > now => Some(Verdict::ok(format!("first run due {}", moment(due, tz)))),
        _ => {
            let text = format!(
                "no good backup yet, {} after it was configured",
                words(since(state.row.first_seen, now))
            );
            Some(Verdict::bad(text).hint(format!("Run `agent backup {name}` and look at what it says")))
        }
    }
}

pub(super) fn last_outcome(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, state, now, .. } = *view;
    let run = state.last_run.as_ref()?;
    let outcome = run.outcome?;
    let ended = run.ended.unwrap_or(run.started);
    let ago = words(since(ended, now));
    let duration = run.duration().unwrap_or_default();
    let perf = Perf::new(format!("{name}_duration"), duration.as_secs_f64(), Unit::Seconds);
    // Only a streak of more than one run is longer than what `ago` says already.
    let streak = match state.row.failing_since.filter(|since| *since < ended) {
        Some(first) => format!(", failing for {}", words(since(first, now))),
        None => String::new(),
    };
    let step = run.failed_step.map(|step| format!(" at step {step}")).unwrap_or_default();
    let reason = run.error.as_deref().map(|error| format!(": {}", first_line(error))).unwrap_or_default();
    let look = format!("`agent show {} --log` tells more", run.run_id);
    let verdict = match outcome {
        Outcome::Failure => {
            Verdict::bad(format!("the run {ago} ago failed{step}{streak}{reason}")).hint(look)
        }
        Outcome::Partial => {
            let count = run.warning_counts.unreadable;
            let text = format!("the run {ago} ago could not read {}{streak}", files_word(count));
            Verdict::with(Warning, text).hint(look)
        }
        Outcome::Interrupted => {
            let text = format!("the run {ago} ago was interrupted{step}{streak}{reason}");
            Verdict::with(Warning, text).hint(look)
        }
        Outcome::Success | Outcome::Warning if !run.degraded.is_empty() => {
            let what: Vec<&str> = run.degraded.iter().map(|text| first_line(text)).collect();
            let text = format!("the backup {ago} ago is good, but {}", what.join("; "));
            Verdict::with(Warning, text).hint(look)
        }
        Outcome::Warning => Verdict::ok(format!(
            "the run {ago} ago was good, {} changed or vanished while read",
            files_word(run.warning_counts.total())
        )),
        Outcome::Success => Verdict::ok(format!("the run {ago} ago was good, took {}", words(duration))),
    };
    Some(verdict.perf(perf))
}

pub(super) fn size(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, job, state, now, .. } = *view;
    let run = measured_run(state)?;
    let perf = Perf::new(format!("{name}_size"), run.stored_bytes as f64, Unit::Bytes);
    // A source that dumps each database for itself has no component of its own name, but what it had before.
    let parts = state.baselines.keys().filter(|name| name.source() != name.as_str());
    let expected = job.source.keys().chain(parts.filter(|name| job.source.contains_key(name.source())));
    let found = shrunk(&run.components, &state.baselines, expected, view.limits.max_shrink);
    let verdict = if found.is_empty() {
        Verdict::ok(format!("{} stored from {}", ByteSize(run.stored_bytes), ByteSize(run.source_bytes)))
    } else {
        let what: Vec<String> =
            found.iter().map(|shrink| format!("{} shrank: {}", shrink.component, shrink.text)).collect();
        Verdict::bad(format!("{} (run {} ago)", what.join("; "), words(since(run.started, now))))
            .hint(format!("If that is right, `agent ack {name}` makes it the new normal"))
    };
    Some(verdict.perf(perf))
}

pub(super) fn runtime(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, job, state, now, .. } = *view;
    // A run that died takes no time any more; another check tells of it.
    let run = state.running.as_ref().filter(|run| !is_dead(view, run))?;
    let at = run.step.map(|step| format!(" (step {step})")).unwrap_or_default();
    let text = format!("a run has been going on for {}{at}", ran(view, run));
    let limit = job.max_runtime.map(|limit| (limit, delta(limit)));
    let verdict = match limit {
        Some((limit, limit_delta)) if now - run.started > limit_delta => {
            let text = format!("{text}, more than the {} it may take", words(limit));
            let hangs = now - run.started
                > limit_delta.checked_add(&delta(view.limits.hang_after)).unwrap_or(TimeDelta::MAX);
            match (hangs, run.process.as_ref().map(|process| process.pid)) {
                (false, _) => Verdict::bad(text).hint("It is about to be ended"),
                (true, Some(pid)) => Verdict::with(Critical, text).hint(format!(
                    "It should have been ended: look at process {pid} (a hung disk or share?)"
                )),
                (true, None) => Verdict::with(Critical, text)
                    .hint(format!("It should have been ended: look at `agent history {name}`")),
            }
        }
        _ => Verdict::ok(text),
    };
    Some(verdict)
}

pub(super) fn dead_run(view: &JobView<'_>) -> Option<Verdict> {
    let run = view.state.running.as_ref().filter(|run| is_dead(view, run))?;
    let at = run.step.map(|step| format!(" at step {step}")).unwrap_or_default();
    let text = format!("the run started {} ago died{at} without a word", ran(view, run));
    Some(
        Verdict::bad(text).hint("`agent tend` records it as interrupted and cleans up; so does the next run"),
    )
}

pub(super) fn contention(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, job, state, now, .. } = *view;
    let count = state.contention.last_24h;
    let limit = view.limits.max_contention;
    let perf = Perf::new(format!("{name}_contention"), count as f64, Unit::None).warning(format!("{limit}"));
    let last = state.contention.last.map(|at| words(since(at, now)));
    let verdict = match last {
        Some(last) if count > limit => {
            let lock = match &job.lock_file {
                Some(file) => format!("the lock or {}", file.display()),
                None => "the lock".to_owned(),
            };
            Verdict::bad(format!(
                "{} in a day found the lock held, the last {last} ago",
                plural(count, "run", "runs")
            ))
            .hint(format!("Look who holds {lock} (`lslocks`), or space the schedules further apart"))
        }
        _ if count > 0 => {
            Verdict::ok(format!("{count} of at most {limit} runs in a day found the lock held"))
        }
        _ => Verdict::ok("no run found the lock held in the last day"),
    };
    Some(verdict.perf(perf))
}

/// What is usual is the median of the good runs in the history, the last run left out.
pub(super) fn warnings(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, state, now, .. } = *view;
    let run = measured_run(state)?;
    let count = run.warning_counts.total();
    let mut others: Vec<u64> = state
        .history
        .iter()
        .filter(|brief| brief.run_id != run.run_id && brief.outcome.is_good())
        .map(|brief| brief.warnings)
        .collect();
    others.sort_unstable();
    let usual = others.get(others.len() / 2).copied().unwrap_or(0);
    let limit = match view.limits.max_warnings {
        Some(limit) => limit,
        // Nothing is usual yet.
        None if others.is_empty() => return None,
        None => WARNINGS_LEAST.max(usual.saturating_mul(WARNINGS_FACTOR)),
    };
    let perf = Perf::new(format!("{name}_warnings"), count as f64, Unit::None).warning(format!("{limit}"));
    let verdict = if count > limit {
        Verdict::bad(format!(
            "{} changed, vanished or could not be read in the run {} ago, usually {usual}",
            files_word(count),
            words(since(run.started, now))
        ))
        .hint(format!(
            "`agent show {}` names them: leave out what never stands still (`exclude`)",
            run.run_id
        ))
    } else {
        Verdict::ok(format!(
            "{} changed or vanished while read, at most {limit} are allowed",
            files_word(count)
        ))
    };
    Some(verdict.perf(perf))
}

pub(super) fn duplicate_trigger(view: &JobView<'_>) -> Option<Verdict> {
    Some(match view.extra.duplicates.get(view.name)? {
        None => Verdict::ok("nothing starts it twice"),
        Some(found) => {
            let severity = if found.at_once { Critical } else { Warning };
            Verdict::with(severity, found.text.clone()).hint(found.hint.clone())
        }
    })
}

/// Silent where nothing is wrong: most jobs need no such file.
pub(super) fn secret_files(view: &JobView<'_>) -> Option<Verdict> {
    let found = view.extra.secret_files.get(view.name).filter(|found| !found.is_empty())?;
    let lines = found.iter().map(|SecretFile { fails, text }| match fails {
        Fails::Runs => format!("the next run will fail: {text}"),
        Fails::Copies(target) => format!("copies to {target} will fail: {text}"),
        Fails::Drills => format!("the next drill will fail: {text}"),
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    Some(match found.iter().any(|file| file.fails == Fails::Runs) {
        true => Verdict::bad(text),
        false => Verdict::with(Warning, text),
    })
}

pub(super) fn files(view: &JobView<'_>) -> Option<Verdict> {
    let result = view.extra.backup_files.get(view.name)?;
    Some(match result {
        Ok(()) => Verdict::ok("manifest and files of the newest good backup are there"),
        Err(problem) => {
            Verdict::bad(format!("the newest good backup is not whole: {}", first_line(problem))).hint(
                format!("`agent list {0}` shows what is left; `agent backup {0}` makes a new one", view.name),
            )
        }
    })
}

/// The configured targets the state knows something of, in the order of the configuration.
fn known_targets<'a>(view: &JobView<'a>) -> impl Iterator<Item = (&'a TargetName, &'a JobTargetState)> {
    let state = view.state;
    view.job.targets.iter().filter_map(|target| Some((target, state.targets.get(target)?)))
}

pub(super) fn copies(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, job, now, .. } = *view;
    if job.targets.len() < 2 {
        return None;
    }
    let (mut lines, mut statuses, mut waiting, mut stopped) = (Vec::new(), Vec::new(), 0, false);
    for (target, state) in known_targets(view) {
        waiting += state.pending;
        if state.stopped && state.pending > 0 {
            let old = state.oldest_pending.is_some_and(|at| now - at > delta(view.limits.copies_critical));
            statuses.push(if old { Critical } else { Warning });
            stopped = true;
            let reason = state.last_error.as_deref().unwrap_or("it is refused");
            lines.push(format!(
                "{} to {target} stopped: {}",
                plural(state.pending, "copy", "copies"),
                first_line(reason)
            ));
            continue;
        }
        let Some(oldest) =
            state.oldest_pending.filter(|oldest| now - *oldest > delta(view.limits.copies_warning))
        else {
            continue;
        };
        statuses.push(if now - oldest > delta(view.limits.copies_critical) { Critical } else { Warning });
        let reason = state.last_error.as_deref().map(|e| format!(": {}", first_line(e))).unwrap_or_default();
        lines.push(format!(
            "{} to {target} waiting for {}{reason}",
            plural(state.pending, "copy", "copies"),
            words(since(oldest, now))
        ));
    }
    let perf = Perf::new(format!("{name}_copies_pending"), waiting as f64, Unit::None);
    let verdict = if !lines.is_empty() {
        let hint = match stopped {
            true => "Trying again does not mend this: put it right, then `agent tend --retry`",
            false => "Bring the target back; the daemon or `agent tend` goes on by itself",
        };
        Verdict::with(worst(statuses), lines.join("; ")).hint(hint)
    } else if waiting > 0 {
        Verdict::ok(format!("{} to be made", plural(waiting, "copy", "copies")))
    } else {
        Verdict::ok("all copies are made")
    };
    Some(verdict.perf(perf))
}

pub(super) fn verify(view: &JobView<'_>) -> Option<Verdict> {
    let JobView { name, now, .. } = *view;
    let (mut bad, mut late, mut good) = (Vec::new(), Vec::new(), Vec::new());
    let (mut damaged, mut beyond) = (0, 0);
    for (target, state) in known_targets(view) {
        damaged += state.corrupt;
        beyond += state.beyond_repair;
        let when = state.last_verify.map(|at| format!(" {} ago", words(since(at, now)))).unwrap_or_default();
        if state.last_verify_ok == Some(false) {
            bad.push(format!("the backup read back{when} at {target} is damaged"));
        } else if state.corrupt > 0 {
            bad.push(format!("{} at {target}", plural(state.corrupt, "damaged backup", "damaged backups")));
        } else if state.last_verify.is_some() {
            let never =
                view.config.target.get(target).is_some_and(|target| target.reads_back() == ReadBack::Never);
            let old = view
                .limits
                .max_verify_age
                .filter(|_| !never)
                .filter(|limit| state.last_verify.is_some_and(|at| now - at > delta(*limit)));
            match old {
                Some(limit) => late.push(format!(
                    "nothing was read back at {target} for longer than {}: last{when}",
                    words(limit)
                )),
                None => good.push(format!("{target}{when}")),
            }
        }
    }
    if !bad.is_empty() {
        let kept = view.state.newest_verified().map(|(started, run, target)| {
            format!("the newest intact one is {run} at {target}, {} old; ", words(since(started, now)))
        });
        let repair = match damaged > 0 && damaged == beyond {
            true => "no other target has a good copy of it,",
            false => "`agent repair` takes a good copy from another target,",
        };
        return Some(Verdict::bad(bad.join("; ")).hint(format!(
            "Check the disk; {}{repair} `agent backup {name}` makes a new one",
            kept.unwrap_or_default()
        )));
    }
    if !late.is_empty() {
        return Some(
            Verdict::with(Warning, late.join("; "))
                .hint(format!("`agent verify latest --job {name}` reads it back")),
        );
    }
    (!good.is_empty()).then(|| Verdict::ok(format!("read back and equal: {}", good.join(", "))))
}

pub(super) fn retention(view: &JobView<'_>) -> Option<Verdict> {
    let now = view.now;
    let mut bad = Vec::new();
    let mut last = None;
    for (target, state) in known_targets(view) {
        last = last.max(state.last_retention);
        if let Some(error) = &state.retention_error {
            bad.push(format!("old backups at {target} could not be removed: {}", first_line(error)));
        }
    }
    if !bad.is_empty() {
        let hint = format!("`agent prune {}` tries again and says why", view.name);
        return Some(Verdict::bad(bad.join("; ")).hint(hint));
    }
    last.map(|at| Verdict::ok(format!("last done {} ago", words(since(at, now)))))
}

fn is_dead(view: &JobView<'_>, run: &Run) -> bool {
    view.extra.dead_runs.contains(&run.run_id)
}

fn ran(view: &JobView<'_>, run: &Run) -> String {
    words(since(run.started, view.now))
}

fn files_word(count: u64) -> String {
    plural(count, "file", "files")
}

/// Errors may carry a program's output; one line of it is enough here.
pub(super) fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or("").trim_end_matches('.')
}
