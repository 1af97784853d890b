//! From facts to metric families, along the table.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::table::{JobFacts, Kind, Samples, Source, TABLE};
use super::{COMPONENTS_MAX, Facts};
use crate::config::ReadBack;
use crate::model::{JobName, TargetName};
use crate::state::{JobRow, JobState, JobTargetState};

/// All families that have a sample, in the order of the table.
pub(super) fn families(facts: Option<&Facts>) -> Vec<MetricFamily> {
    let states = facts.map(job_states).unwrap_or_default();
    let jobs: Vec<JobFacts<'_>> = match facts {
        Some(facts) => job_facts(facts, &states).collect(),
        None => Vec::new(),
    };
    TABLE
        .iter()
        .filter_map(|metric| {
            let samples: Vec<Metric> = collect(&metric.source, facts, &jobs)
                .into_iter()
                .map(|(values, value)| {
                    let labels =
                        metric.labels().zip(values).map(|(name, value)| label(name, value)).collect();
                    sample(metric.kind, labels, value)
                })
                .collect();
            if samples.is_empty() {
                return None;
            }
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
            });
            family.set_metric(samples);
            Some(family)
        })
        .collect()
}

fn collect(source: &Source, facts: Option<&Facts>, jobs: &[JobFacts<'_>]) -> Samples {
    if let Source::Build(value) = source {
        return vec![value()];
    }
    let Some(facts) = facts else { return Vec::new() };
    let job_name = |job: &JobFacts<'_>| job.name.as_str().to_owned();
    match source {
        Source::Build(_) => Vec::new(),
        Source::Agent(value) => value(facts).map(|value| (Vec::new(), value)).into_iter().collect(),
        Source::Health(values) => values(facts),
        Source::Job(value) => {
            jobs.iter().filter_map(|job| Some((vec![job_name(job)], value(job)?))).collect()
        }
        Source::JobBy(_, values) => jobs
            .iter()
            .flat_map(|job| {
                values(job).into_iter().map(move |(label, value)| (vec![job_name(job), label], value))
            })
            .collect(),
        Source::JobComponent(values) => jobs
            .iter()
            .flat_map(|job| {
                limited(values(job)).into_iter().map(move |(name, value)| (vec![job_name(job), name], value))
            })
            .collect(),
        Source::JobTarget(value) => at_targets(jobs, 0, *value),
        Source::JobCopy(value) => at_targets(jobs, 1, *value),
        Source::Target(value) => used_targets(facts)
            .filter_map(|target| {
                Some((vec![target.to_string()], value(facts.snapshot.targets.get(target)?)?))
            })
            .collect(),
        Source::Channel(value) => facts
            .config
            .notify
            .keys()
            .map(|channel| {
                let state = facts.snapshot.channels.get(channel).cloned().unwrap_or_default();
                (vec![channel.to_string()], value(&state))
            })
            .collect(),
    }
}

/// A value for each job and each of its targets; `skip` 1 leaves the primary out.
fn at_targets(jobs: &[JobFacts<'_>], skip: usize, value: fn(&JobTargetState) -> Option<f64>) -> Samples {
    let nothing = JobTargetState::default();
    let mut samples = Vec::new();
    for job in jobs {
        for target in job.job.targets.iter().skip(skip) {
            let state = job.state.targets.get(target).unwrap_or(&nothing);
            samples.extend(value(state).map(|value| (vec![job.name.to_string(), target.to_string()], value)));
        }
    }
    samples
}

/// The targets some job uses.
fn used_targets(facts: &Facts) -> impl Iterator<Item = &TargetName> {
    let jobs = &facts.config.job;
    facts.config.target.keys().filter(|name| jobs.values().any(|job| job.targets.contains(name)))
}

/// At most [`COMPONENTS_MAX`] components by name; the rest as `other` (added to a component of that name).
fn limited(mut values: Vec<(String, f64)>) -> Vec<(String, f64)> {
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let rest: f64 = values.iter().skip(COMPONENTS_MAX).map(|(_, value)| value).sum();
    if values.len() > COMPONENTS_MAX {
        values.truncate(COMPONENTS_MAX);
        match values.iter_mut().find(|(name, _)| name == "other") {
            Some((_, value)) => *value += rest,
            None => values.push(("other".to_owned(), rest)),
        }
    }
    values
}

/// The states of the configured jobs. One the state never heard of gets an empty one, so that its counters
/// start at 0.
fn job_states(facts: &Facts) -> BTreeMap<&JobName, (JobState, bool)> {
    let state = |name: &JobName| match facts.snapshot.job(name) {
        Some(state) => (without_stale(state.clone(), facts), true),
        None => (JobState::new(JobRow::new(name.clone(), facts.now)), false),
    };
    facts.config.job.keys().map(|name| (name, state(name))).collect()
}

/// Where nothing is read back any more, nobody should wait for it.
fn without_stale(mut state: JobState, facts: &Facts) -> JobState {
    for (name, at) in &mut state.targets {
        let target = facts.config.target.get(name);
        if target.is_some_and(|target| target.reads_back() == ReadBack::Never) {
            at.last_verify = None;
        }
    }
    state
}

fn job_facts<'a>(
    facts: &'a Facts,
    states: &'a BTreeMap<&JobName, (JobState, bool)>,
) -> impl Iterator<Item = JobFacts<'a>> {
    facts.config.job.iter().filter_map(|(name, job)| {
        let (state, seen) = states.get(name)?;
        Some(JobFacts {
            name,
            job,
            state,
            seen: *seen,
            config: &facts.config,
            progress: facts.progress.get(name).copied(),
            now: facts.now,
        })
    })
}

fn label(name: &str, value: String) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn sample(kind: Kind, labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut metric = Metric::from_label(labels);
    match kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
    metric
}
