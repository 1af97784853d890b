//! Metrics: a view of the state, the configuration and the last health checks.
//!
//! The names are a contract with rules and dashboards. [`table`] holds every name with its help and where
//! its value comes from; nothing else is exported but `process_*`, which the HTTP endpoint adds (the process
//! that writes a text file is gone when it is read). Only configured jobs, targets and channels are
//! exported, so the series of a removed job vanish. Timestamps, never ages: whoever reads them late still
//! reads the truth.
//!
//! Collecting is synchronous and its facts come from SQLite: a server calls all of this under
//! `spawn_blocking`.

mod publish;
pub mod table;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use crate::config::Config;
use crate::model::JobName;
use crate::state::Snapshot;

pub use publish::{publish, write_textfile};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Components of a job with series of their own; the others are summed as `other`, so that no
/// configuration makes an agent a burden to its Prometheus.
pub const COMPONENTS_MAX: usize = 20;

/// What metrics are made of.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// The configuration in use.
    pub config: Arc<Config>,
    /// How far running jobs are, 0 to 1, where this process knows it better than the state.
    pub progress: BTreeMap<JobName, f64>,
    /// The current instant.
    pub now: DateTime<Utc>,
}

/// Collects the agent's own metrics from what a function gives. When it gives nothing (the state cannot be
/// read), only `backup_build_info` is left.
pub struct StateCollector<F> {
    facts: F,
    descriptions: Vec<Desc>,
}

impl<F: Fn() -> Option<Facts> + Send + Sync> StateCollector<F> {
    /// A collector that asks `facts` at each collection, on the thread that collects.
    pub fn new(facts: F) -> Result<Self> {
        let descriptions = table::TABLE
            .iter()
            .map(|metric| {
                let labels = metric.labels().map(str::to_owned).collect();
                Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, Default::default())
                    .with_context(|| format!("describing the metric {}", metric.name))
            })
            .collect::<Result<_>>()?;
        Ok(Self { facts, descriptions })
    }
}

impl<F: Fn() -> Option<Facts> + Send + Sync> Collector for StateCollector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        values::families((self.facts)().as_ref())
    }
}

/// The text format 0.0.4, for `agent metrics` and the text file: without `process_*`.
pub fn render(facts: &Facts) -> Result<String> {
    encode(Some(facts), false)
}

/// The text format 0.0.4 for the HTTP endpoint: with `process_*` of this process. Without facts, because the
/// state could not be read, it holds `backup_build_info` and `process_*` alone.
pub fn render_for_http(facts: Option<&Facts>) -> Result<String> {
    encode(facts, true)
}

fn encode(facts: Option<&Facts>, with_process: bool) -> Result<String> {
    let registry = Registry::new();
    let facts = facts.cloned();
    registry
        .register(Box::new(StateCollector::new(move || facts.clone())?))
        .context("registering the metrics of the agent")?;
    if with_process {
        registry
            .register(Box::new(ProcessCollector::for_self()))
            .context("registering the metrics of the process")?;
    }
    TextEncoder::new().encode_to_string(&registry.gather()).context("writing the metrics as text")
}
