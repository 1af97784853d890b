//! The checks of the agent as a whole: daemon, targets, channels, configuration, clock.

use super::checks::{AgentView, Verdict};
use super::job::{delta, first_line};
use super::report::{Perf, Unit};
use super::{moment, since, words, worst};
use crate::config::{TargetConfig, Trigger};
use crate::model::{ByteSize, TargetName, plural};
use crate::state::HealthStatus::{Critical, Ok, Unknown, Warning};
use crate::state::Probe;

const START: &str = "Start it (`systemctl start backup-agent`) and look at its journal";

pub(super) fn daemon(view: &AgentView<'_>) -> Option<Verdict> {
    let AgentView { snapshot, config, now, .. } = *view;
    let tick_late = delta(view.limits.scheduler_late);
    // Jobs that cron starts need no daemon.
    config.job.values().find(|job| job.trigger == Trigger::Internal && job.schedule.is_some())?;
    let agent = &snapshot.agent;
    let Some(tick) = agent.scheduler_tick else {
        return Some(
            Verdict::bad("the daemon has never run: no scheduled run will start")
                .hint(format!("{START}; or say trigger = \"external\" for jobs that cron starts")),
        );
    };
    // The snapshot may be an old status.json. How far the scheduler lagged when it was written, and how
    // long nobody has written one, are judged apart, since the file is not written at each turn.
    let silence = delta(view.limits.scheduler_late.saturating_add(config.check_interval * 2));
    if snapshot.written - tick <= tick_late && now - snapshot.written <= silence {
        return Some(Verdict::ok(format!("the scheduler turned {} ago", words(since(tick, now)))));
    }
    let ago = words(since(tick, now));
    let text = match agent.stopped.filter(|stopped| agent.started.is_none_or(|started| *stopped >= started)) {
        Some(stopped) => format!("the daemon was stopped {} ago", words(since(stopped, now))),
        None if agent.heartbeat.is_some_and(|beat| now - beat <= tick_late) => {
            format!("the daemon lives, but its scheduler has not turned for {ago}")
        }
        None => format!("the daemon is not running, its scheduler last turned {ago} ago"),
    };
    Some(Verdict::bad(format!("{text}: no scheduled run will start")).hint(START))
}

/// Silent where the database was read: then it is as it should be.
pub(super) fn state(view: &AgentView<'_>) -> Option<Verdict> {
    let why = view.extra.state_broken.as_ref()?;
    Some(Verdict::bad(format!("no run can be made: {}", first_line(why))))
}

/// The targets of the configuration with what was last seen of them, and whether a job stores its runs
/// there first.
fn probed<'a>(
    view: &AgentView<'a>,
) -> impl Iterator<Item = (&'a TargetName, &'a TargetConfig, Option<&'a Probe>, bool)> {
    let AgentView { snapshot, config, .. } = *view;
    config.target.iter().filter(|(name, _)| config.job.values().any(|job| job.targets.contains(name))).map(
        |(name, target)| {
            let primary = config.job.values().any(|job| job.targets.first() == Some(name));
            (name, target, snapshot.targets.get(name), primary)
        },
    )
}

pub(super) fn targets(view: &AgentView<'_>) -> Option<Verdict> {
    let now = view.now;
    let (mut lines, mut statuses, mut up) = (Vec::new(), Vec::new(), Vec::new());
    for (name, _, probe, primary) in probed(view) {
        // What was seen just now counts more than what somebody wrote down.
        let away = view.extra.targets_away.get(name);
        if let Some(reason) = away.filter(|_| probe.is_none_or(|probe| probe.up)) {
            lines.push(format!("target {name} cannot be used: {}", first_line(reason)));
            statuses.push(if primary { Critical } else { Warning });
            continue;
        }
        let Some(probe) = probe else { continue };
        if !probe.up {
            let last = match probe.last_up {
                Some(at) => format!("down for {}", words(since(at, now))),
                None => "not usable, and never was".to_owned(),
            };
            // The sentence says already which target it is about.
            let about = format!("target {name}: ");
            let reason = probe.error.as_deref().map(first_line).map_or_else(String::new, |error| {
                format!(": {}", error.strip_prefix(about.as_str()).unwrap_or(error.as_ref()))
            });
            lines.push(format!("target {name} is {last}{reason}"));
            statuses.push(if primary { Critical } else { Warning });
        } else if now - probe.at > delta(view.limits.probe_age) {
            lines.push(format!("nobody has looked at target {name} for {}", words(since(probe.at, now))));
            statuses.push(Unknown);
        } else {
            up.push(name.as_str());
        }
    }
    match worst(statuses) {
        Ok if up.is_empty() => None,
        Ok => Some(Verdict::ok(format!("usable: {}", up.join(", ")))),
        Unknown => Some(
            Verdict::with(Unknown, lines.join("; "))
                .hint("The daemon looks by itself; without it `agent tend` does"),
        ),
        status => Some(
            Verdict::with(status, lines.join("; "))
                .hint("Is it mounted and writable? Runs go on where they can"),
        ),
    }
}

pub(super) fn free_space(view: &AgentView<'_>) -> Option<Verdict> {
    let (mut lines, mut statuses, mut perfs) = (Vec::new(), Vec::new(), Vec::new());
    for (name, target, probe, _) in probed(view) {
        let seen = probe.and_then(|probe| Some((probe, probe.free_bytes?)));
        match (seen, target.min_free) {
            (Some((probe, free)), limit) => {
                let mut perf = Perf::new(format!("{name}_free"), free as f64, Unit::Bytes);
                if let Some(size) = probe.size_bytes {
                    perf = perf.maximum(size as f64);
                }
                let left = format!("{} free at {name}", ByteSize(free));
                let share = view.limits.free_critical;
                match limit {
                    Some(limit) if free < limit.0 => {
                        lines.push(format!("only {left}, less than {limit}"));
                        statuses.push(if (free as f64) < limit.0 as f64 * share {
                            Critical
                        } else {
                            Warning
                        });
                    }
                    _ => lines.push(left),
                }
                if let Some(limit) = limit {
                    perf = perf
                        .warning(format!("{}:", limit.0))
                        .critical(format!("{:.0}:", limit.0 as f64 * share));
                }
                perfs.push(perf);
            }
            (None, Some(_)) => {
                lines.push(format!("free space at {name} is not known yet"));
                statuses.push(Unknown);
            }
            (None, None) => {}
        }
    }
    if lines.is_empty() {
        return None;
    }
    let text = lines.join("; ");
    let verdict = match worst(statuses) {
        Ok => Verdict::ok(text),
        Unknown => {
            Verdict::with(Unknown, text).hint("The daemon looks by itself; without it `agent tend` does")
        }
        status => Verdict::with(status, text).hint("Make room, or keep fewer backups there (`keep`)"),
    };
    Some(perfs.into_iter().fold(verdict, Verdict::perf))
}

pub(super) fn notify(view: &AgentView<'_>) -> Option<Verdict> {
    let AgentView { snapshot, config, now, .. } = *view;
    if config.notify.is_empty() {
        return None;
    }
    let (mut lines, mut waiting) = (Vec::new(), 0);
    for name in config.notify.keys() {
        let Some(channel) = snapshot.channels.get(name) else { continue };
        waiting += channel.pending;
        if let Some(problem) = &channel.problem {
            lines.push(format!("{name}: {}", first_line(problem)));
        }
        let reason =
            channel.last_error.as_deref().map(|error| format!(": {}", first_line(error))).unwrap_or_default();
        let messages = |count| plural(count, "message", "messages");
        let late = channel.oldest_pending.filter(|oldest| now - *oldest > delta(view.limits.message_late));
        if let Some(oldest) = late.or(channel.oldest_pending.filter(|_| channel.last_error.is_some())) {
            lines.push(format!(
                "{} for {name} not accepted for {}{reason}",
                messages(channel.pending),
                words(since(oldest, now))
            ));
        }
        if let Some(at) = channel.last_given_up.filter(|at| now - *at <= delta(view.limits.given_up_told)) {
            lines.push(format!("a message for {name} was given up {} ago", words(since(at, now))));
        }
        if let Some(at) = channel.last_refused.filter(|at| now - *at <= delta(view.limits.given_up_told)) {
            let reason = channel.refusal.as_deref().map(|text| format!(": {}", first_line(text)));
            let (ago, reason) = (words(since(at, now)), reason.unwrap_or_default());
            lines.push(format!("a message for {name} was refused {ago} ago{reason}"));
        }
    }
    let perf = Perf::new("notifications_pending", waiting as f64, Unit::None);
    let verdict = if lines.is_empty() {
        Verdict::ok(match waiting {
            0 => "nothing waits to be told".to_owned(),
            _ => format!("{} on the way", plural(waiting, "message", "messages")),
        })
    } else {
        Verdict::bad(lines.join("; ")).hint(
            "`agent notify test` tries the channel and says what it answers, `agent notify queue` shows the messages",
        )
    };
    Some(verdict.perf(perf))
}

pub(super) fn config(view: &AgentView<'_>) -> Option<Verdict> {
    let agent = &view.snapshot.agent;
    let tz = view.config.timezone;
    if let Some(refused) = agent.config_refused.and(agent.config_unusable) {
        let ago = words(since(refused, view.now));
        let text = format!(
            "the configuration was refused {ago} ago, and the last good one could not be used either: no run was made"
        );
        let hint =
            "`agent config check` says what is wrong, asked with the environment that cron or systemd gives";
        return Some(Verdict::with(Critical, text).hint(hint));
    }
    Some(match (agent.config_refused, agent.config_loaded) {
        (Some(refused), loaded) => {
            let ago = words(since(refused, view.now));
            let used = match loaded {
                Some(at) => format!("; the one of {} is used", moment(at, tz)),
                None => String::new(),
            };
            Verdict::bad(format!("the configuration was refused {ago} ago{used}"))
                .hint("`agent config check` says what is wrong with it")
        }
        (None, Some(at)) => Verdict::ok(format!("loaded {}", moment(at, tz))),
        (None, None) => return None,
    })
}

pub(super) fn outputs(view: &AgentView<'_>) -> Option<Verdict> {
    let AgentView { snapshot, config, now, .. } = *view;
    let log = config.log.run_file.is_some() || config.log.health_file.is_some();
    let wanted = [
        (log, &snapshot.agent.log_trouble, "the log files"),
        (config.metrics.textfile.is_some(), &snapshot.agent.textfile_trouble, "the text file of metrics"),
    ];
    let wanted = || wanted.iter().filter(|(wanted, ..)| *wanted);
    let lines: Vec<String> = wanted()
        .filter_map(|(_, trouble, _)| trouble.as_ref())
        .map(|trouble| format!("{}, for {}", first_line(&trouble.value), words(since(trouble.at, now))))
        .collect();
    if !lines.is_empty() {
        return Some(Verdict::bad(lines.join("; ")).hint(
            "Does the folder exist, is its disk full, may the agent write there (`ReadWritePaths` of its unit)?",
        ));
    }
    let names: Vec<&str> = wanted().map(|(.., name)| *name).collect();
    (!names.is_empty()).then(|| Verdict::ok(format!("{} can be written", names.join(" and "))))
}

pub(super) fn clock(view: &AgentView<'_>) -> Option<Verdict> {
    let jump = view.snapshot.agent.clock_jump.as_ref()?;
    // Also one that is noted as later than now: the clock jumped, and then back.
    if (view.now - jump.at).abs() > delta(view.limits.clock_told) {
        return None;
    }
    let at = moment(jump.at, view.config.timezone);
    Some(
        Verdict::bad(format!("the clock jumped: {} (noted {at})", first_line(&jump.value)))
            .hint("Runs go on, nothing is deleted for a day. Unless this host was off: check time synchronisation (`timedatectl`)"),
    )
}
