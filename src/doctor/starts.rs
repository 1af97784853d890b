//! What starts the jobs, and how often.

use chrono::TimeDelta;

use super::finding::Finding;
use super::{Patient, Visit, table};
use crate::config::{JobConfig, Trigger as StartedBy};
use crate::health::moment;
use crate::model::JobName;
use crate::ops::starts::{self, Doubled};
use crate::triggers::{self, Call, Depth, Found, Place, Refused, Trigger, When};

/// A daemon whose last sign of life is older is taken for dead.
const ALIVE: TimeDelta = TimeDelta::minutes(10);
/// So many times are compared to see whether two schedules are one.
const COMPARED: usize = 12;
/// Longer lines are cut.
const TEXT_MAX: usize = 160;

pub(super) fn search(patient: &Patient) -> Found {
    triggers::search(&starts::question(&patient.config, &patient.command, &patient.root, Depth::Whole))
}

pub(super) fn look(visit: &Visit) -> Vec<Finding> {
    let Patient { config, command, .. } = &visit.patient;
    let mut findings = Vec::new();
    for (name, job) in &config.job {
        let all = starts::of_job(config, command, name, job, &visit.found);
        findings.extend(of_job(visit, name, job, &all).into_iter().map(|finding| finding.of_job(name)));
    }
    findings.extend(tend(visit));
    findings.extend(visit.found.refused.iter().map(refused));
    findings.extend(unread(&visit.found));
    findings
}

fn of_job(visit: &Visit, name: &JobName, job: &JobConfig, all: &[Trigger]) -> Vec<Finding> {
    let Patient { config, now, .. } = &visit.patient;
    let zone = config.job_timezone(job);
    let active: Vec<&Trigger> = all.iter().filter(|trigger| trigger.ignored.is_none()).collect();
    let is_agent = |trigger: &&&Trigger| !matches!(trigger.call, Call::Legacy(_));
    let agents: Vec<&Trigger> = active.iter().filter(is_agent).copied().collect();
    let mut findings = Vec::new();

    if let Some(found) = starts::doubled(all, *now) {
        findings.push(doubled(visit, name, job, &found));
    } else if let Some(only) = agents.first() {
        let who = match only.place {
            Place::Daemon => "the daemon".to_owned(),
            _ => only.position(),
        };
        let more = if agents.len() > 1 { " and other lines of that file" } else { "" };
        let text = format!("{name} is started by {who}{more}, {}", only.when.words(zone));
        findings.push(Finding::good(&table::DUPLICATE_TRIGGER, text));
    }

    for trigger in all.iter().filter(|trigger| trigger.ignored.is_some()) {
        let why = trigger.ignored.as_deref().unwrap_or_default();
        // A timer that was disabled is what this program itself advises, and an earlier program that nothing
        // starts is what is wanted.
        if matches!(trigger.place, Place::Timer { .. }) || !is_agent(&&trigger) {
            continue;
        }
        findings.push(
            Finding::bad(
                &table::IGNORED_TRIGGER,
                format!("{} does not start {name}: {why}", trigger.position()),
            )
            .warning_if(!agents.is_empty())
            .at(trigger.position(), cut(&trigger.text))
            .fix(match agents.is_empty() {
                true => format!("Put that right: {why}"),
                false => format!("Remove it, since something else starts {name}"),
            }),
        );
    }

    if job.trigger == StartedBy::External && agents.is_empty() {
        let schedule = job.schedule.as_deref().unwrap_or("30 2 * * *");
        let mut finding = Finding::bad(
            &table::NO_TRIGGER,
            format!(
                "nothing starts {name}: it says trigger = \"external\", and no line was found that calls it"
            ),
        )
        .fix(format!(
            "echo '{schedule} root {} backup {name}' > /etc/cron.d/backup-{name}",
            visit.patient.command
        ))
        .fix("Or say trigger = \"internal\" and run the daemon");
        if let Some(legacy) = active.first() {
            finding = finding.at(legacy.position(), "starts an earlier program only");
        }
        findings.push(finding);
    }

    if job.trigger == StartedBy::External
        && let Some(wanted) = job.schedule()
    {
        let wanted = When::Cron(wanted, zone);
        findings.extend(times(visit, name, &wanted, &agents));
    }
    findings
}

/// Everything that starts one job, when they meet, and how each is ended.
fn doubled(visit: &Visit, name: &JobName, job: &JobConfig, found: &Doubled) -> Finding {
    let zone = visit.patient.config.job_timezone(job);
    let count = found.triggers.len();
    let times = found.times(zone);
    let what = if times.is_empty() {
        format!("{name} is started by {count} things, though never at the same moment")
    } else {
        format!("{name} is started {} at the same moment: next {}", times_word(found), times.join(", "))
    };
    let mut finding = Finding::bad(&table::DUPLICATE_TRIGGER, what).warning_if(times.is_empty());
    for trigger in &found.triggers {
        let user = trigger.user.as_deref().map(|user| format!(" as {user}")).unwrap_or_default();
        let place = match &trigger.place {
            Place::Daemon => format!("the agent's daemon, {}", section(visit, name)),
            Place::Timer { name, .. } => format!("{name}{user}, {}", trigger.position()),
            Place::At { number } => format!("at job {number}{user}, {}", trigger.position()),
            _ => format!("{}{user}", trigger.position()),
        };
        let when = match &trigger.place {
            Place::Crontab | Place::CronD | Place::UserCrontab { .. } | Place::Daemon => String::new(),
            _ => format!("{}: ", trigger.when.words(zone)),
        };
        finding = finding.at(place, format!("{when}{}", cut(&trigger.text)));
    }
    let keep = keep(&found.triggers);
    finding = finding.fix(format!(
        "Keep {}, and end the {}:",
        match &found.triggers[keep].place {
            Place::Daemon => "the agent's daemon".to_owned(),
            _ => found.triggers[keep].position(),
        },
        if count == 2 { "other" } else { "others" }
    ));
    for (_, trigger) in found.triggers.iter().enumerate().filter(|(at, _)| *at != keep) {
        finding = finding.fix(trigger.end());
    }
    finding
}

/// Where the configuration describes a job: the line of its section, or the file alone.
fn section(visit: &Visit, name: &JobName) -> String {
    let Patient { config_files, command, .. } = &visit.patient;
    let head = format!("[job.{name}]");
    let at = config_files.iter().find_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().position(|line| line.trim_start().starts_with(&head))?;
        Some(format!("{}:{}", file.display(), line + 1))
    });
    at.unwrap_or_else(|| starts::config_file(command).display().to_string())
}

/// How many of them meet at most: `twice`, `3 times`.
fn times_word(found: &Doubled) -> String {
    let most = found
        .moments
        .iter()
        .map(|(at, ..)| {
            let there = found.moments.iter().filter(|(other, ..)| other == at);
            let mut who: Vec<usize> = there.flat_map(|(_, a, b)| [*a, *b]).collect();
            who.sort_unstable();
            who.dedup();
            who.len()
        })
        .max()
        .unwrap_or(2);
    if most == 2 { "twice".to_owned() } else { format!("{most} times") }
}

/// Which one stays: the daemon, else the first line that calls the agent.
fn keep(triggers: &[Trigger]) -> usize {
    let daemon = triggers.iter().position(|trigger| trigger.place == Place::Daemon);
    let agent = || triggers.iter().position(|trigger| !matches!(trigger.call, Call::Legacy(_)));
    daemon.or_else(agent).unwrap_or(0)
}

/// Whether what starts a job from outside does so when its schedule says.
fn times(visit: &Visit, name: &JobName, wanted: &When, agents: &[&Trigger]) -> Option<Finding> {
    let Patient { config, now, .. } = &visit.patient;
    let known = agents.iter().all(|trigger| matches!(trigger.when, When::Cron(..) | When::Calendar(..)));
    if agents.is_empty() || !known {
        return None;
    }
    let (mut expected, mut real) = (*now, *now);
    for _ in 0..COMPARED {
        let next = agents.iter().filter_map(|trigger| trigger.when.next_after(real)).min();
        let (Some(due), Some(next)) = (wanted.next_after(expected), next) else { return None };
        if due != next {
            let zone = config.timezone;
            let mut finding = Finding::bad(
                &table::TRIGGER_TIMES,
                format!(
                    "{name} is expected at {} and started at {}",
                    moment(due, zone),
                    moment(next, zone)
                ),
            )
            .at(format!("[job.{name}]"), format!("schedule = \"{}\"", wanted.words(zone)))
            .fix(format!("Write the times of the line into `schedule` of [job.{name}], or those of `schedule` into the line"));
            for trigger in agents {
                finding = finding.at(trigger.position(), cut(&trigger.text));
            }
            return Some(finding);
        }
        (expected, real) = (due, next);
    }
    None
}

/// Whether somebody does what is due beside runs.
fn tend(visit: &Visit) -> Option<Finding> {
    let Patient { config, command, state, now, .. } = &visit.patient;
    let alive =
        state.as_ref().ok().and_then(|state| state.agent.heartbeat).is_some_and(|at| *now - at < ALIVE);
    let external =
        config.job.values().all(|job| job.trigger == StartedBy::External || job.schedule.is_none());
    if alive || !external || config.job.is_empty() {
        return None;
    }
    let runs = |trigger: &&Trigger| {
        trigger.ignored.is_none()
            && matches!(&trigger.call, Call::Other(verb) if verb == "tend" || verb == "run")
    };
    Some(match visit.found.triggers.iter().find(runs) {
        Some(trigger) => {
            Finding::good(&table::NO_TEND, format!("late copies and messages: {}", trigger.position()))
        }
        None => Finding::bad(&table::NO_TEND, "no daemon lives, and nothing runs `agent tend`")
            .fix(format!("echo '*/15 * * * * root {command} tend' > /etc/cron.d/backup-agent-tend")),
    })
}

fn refused(file: &Refused) -> Finding {
    let path = file.path.display();
    Finding::bad(&table::REFUSED_CRONTAB, format!("cron does not start what stands in {path}: {}", file.why))
        .fix(file.fix.clone())
}

fn unread(found: &Found) -> Option<Finding> {
    let mut places: Vec<_> = found.unread.iter().collect();
    places.sort_by(|a, b| a.path.cmp(&b.path));
    places.dedup();
    if places.is_empty() {
        return None;
    }
    let denied = places.iter().all(|place| place.denied);
    let mut finding = Finding::bad(
        &table::UNREAD_TRIGGERS,
        format!("{} of the places that start programs could not be looked at", places.len()),
    );
    for place in &places {
        finding = finding.at(place.path.display().to_string(), place.why.clone());
    }
    Some(finding.fix(if denied { "Ask again as root" } else { "Look at them by hand" }))
}

fn cut(text: &str) -> String {
    let text = text.trim();
    if text.chars().count() <= TEXT_MAX {
        return text.to_owned();
    }
    text.chars().take(TEXT_MAX).chain(['…']).collect()
}
