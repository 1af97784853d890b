//! The clock, the time zone, and whether Prometheus asks.

use std::fs;

use chrono::{DateTime, TimeDelta, Utc};

use super::finding::Finding;
use super::{Patient, Visit, table};
use crate::config::Trigger as StartedBy;
use crate::health::{moment, since, words};
use crate::ops::starts::zone_of;
use crate::sys;

/// A clock may be so far behind what was written before: two machines never agree to the second.
const BEHIND: TimeDelta = TimeDelta::minutes(2);
/// Prometheus asks at least this often.
const SCRAPED: TimeDelta = TimeDelta::minutes(15);

pub(super) fn look(visit: &Visit) -> Vec<Finding> {
    let mut findings = vec![synchronised()];
    findings.extend(behind(visit));
    findings.push(zone(visit));
    findings.extend(scraped(visit));
    findings
}

fn synchronised() -> Finding {
    match sys::is_clock_synchronised() {
        Ok(true) => Finding::good(&table::CLOCK_UNSYNCHRONISED, "the clock is kept in step"),
        Ok(false) => {
            Finding::bad(&table::CLOCK_UNSYNCHRONISED, "the kernel says that its clock is not kept in step")
                .fix("timedatectl set-ntp true")
                .fix("Or install chrony; a guest whose host keeps its clock may leave it so")
        }
        Err(error) => Finding::bad(
            &table::CLOCK_UNSYNCHRONISED,
            format!("the kernel does not say whether its clock is kept in step: {error}"),
        )
        .unknown_if(true),
    }
}

/// The latest moment the state knows must not lie ahead.
fn behind(visit: &Visit) -> Option<Finding> {
    let Patient { state, now, config, .. } = &visit.patient;
    let state = state.as_ref().ok()?;
    let agent = &state.agent;
    let runs = state.jobs.iter().filter_map(|job| job.last_run.as_ref()?.ended);
    let known = [agent.heartbeat, agent.scheduler_tick, agent.started].into_iter().flatten().chain(runs);
    let latest: DateTime<Utc> = known.max()?;
    Some(if latest > *now + BEHIND {
        let ahead = words(since(*now, latest));
        Finding::bad(
            &table::CLOCK_BEHIND,
            format!("the state knows of {}, and the clock shows {ahead} less", moment(latest, config.timezone)),
        )
        .fix("Set the clock (`timedatectl`); if it is right now, it was wrong then, and the next good run settles it")
    } else {
        Finding::good(&table::CLOCK_BEHIND, "the clock fits what the state has seen")
    })
}

fn zone(visit: &Visit) -> Finding {
    let Patient { config, root, .. } = &visit.patient;
    let host = zone_of(root);
    // What a person reads, and what programs use, can differ.
    let named = fs::read_to_string(root.join("etc/timezone")).ok().map(|text| text.trim().to_owned());
    if let (Some(host), Some(named)) = (host, &named)
        && named.parse::<chrono_tz::Tz>().is_ok_and(|named| named != host)
    {
        return Finding::bad(
            &table::TIME_ZONE,
            format!("/etc/timezone says {named}, and /etc/localtime is {host}: programs do not agree"),
        )
        .fix(format!("timedatectl set-timezone {named}"));
    }
    let external = config.job.iter().find_map(|(name, job)| {
        let zone = config.job_timezone(job);
        let differs = host.is_some_and(|host| host != zone);
        (job.trigger == StartedBy::External && job.schedule.is_some() && differs).then_some((name, zone))
    });
    match (external, host) {
        (Some((name, zone)), Some(host)) => Finding::bad(
            &table::TIME_ZONE,
            format!("job {name} is scheduled in {zone}, and cron, which starts it, goes by {host}"),
        )
        .of_job(name)
        .fix(format!("Set timezone = \"{host}\", and `schedule` to what cron's line says"))
        .fix(format!("Or give the host the zone: timedatectl set-timezone {zone}")),
        (_, Some(host)) => Finding::good(
            &table::TIME_ZONE,
            format!("schedules are in {}, the host is in {host}", config.timezone),
        ),
        (_, None) => Finding::good(&table::TIME_ZONE, format!("schedules are in {}", config.timezone)),
    }
}

fn scraped(visit: &Visit) -> Option<Finding> {
    let Patient { state, now, config, .. } = &visit.patient;
    let agent = &state.as_ref().ok()?.agent;
    if let Some(file) = &config.metrics.textfile {
        // Written by runs, checks and the daemon; whether node_exporter reads it is not to be seen here.
        let shown = file.display();
        let written = fs::metadata(file).and_then(|meta| meta.modified()).ok().map(DateTime::<Utc>::from);
        return Some(match written {
            Some(at) if *now - at <= SCRAPED * 4 => Finding::good(
                &table::NOT_SCRAPED,
                format!("{shown} was written {} ago", words(since(at, *now))),
            ),
            Some(at) => Finding::bad(
                &table::NOT_SCRAPED,
                format!("{shown} was last written {} ago", words(since(at, *now))),
            )
            .fix(format!("Let cron run `{} check --record`, or start the daemon", visit.patient.command)),
            None => {
                Finding::bad(&table::NOT_SCRAPED, format!("{shown} (metrics.textfile) was never written"))
                    .fix(format!(
                        "Make its folder, and let cron run `{} check --record`",
                        visit.patient.command
                    ))
            }
        });
    }
    // Only a daemon answers to Prometheus.
    agent.heartbeat.filter(|beat| *now - *beat <= SCRAPED)?;
    let never = || Finding::bad(&table::NOT_SCRAPED, "nobody has ever fetched /metrics from this agent");
    let finding = match &agent.metrics_scraped {
        Some(fact) if *now - fact.at <= SCRAPED => {
            let ago = words(since(fact.at, *now));
            return Some(Finding::good(
                &table::NOT_SCRAPED,
                format!("{} fetched the metrics {ago} ago", fact.value),
            ));
        }
        Some(fact) => Finding::bad(
            &table::NOT_SCRAPED,
            format!("the metrics were last fetched {} ago, by {}", words(since(fact.at, *now)), fact.value),
        ),
        None => never(),
    };
    Some(
        finding.fix(format!(
            "Add {} to the targets of Prometheus (deploy/prometheus-scrape.yml)",
            config.listen
        )),
    )
}
