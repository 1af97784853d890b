//! Probes of targets, results of health checks, and single values with their time.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::sql::{get_word, int, ms, opt_time, time, words};
use super::{State, StateError};
use crate::model::{JobName, TargetName};

words! {
    /// Single values kept in the state. Those that hold texts of the configuration never leave the
    /// database.
    FactKey {
        /// Text of the last configuration that was valid.
        LastGoodConfig = "last-good-config",
        /// Set when the configuration was loaded; the value is its source.
        ConfigLoaded = "config-loaded",
        /// Set when a load failed; the value is the report. Cleared by the next good one.
        ConfigRefused = "config-refused",
        /// Set while the last good configuration cannot be used in place of a refused one. Cleared when it can.
        ConfigUnusable = "config-unusable",
        /// Set when the daemon started; the value is the program's version.
        AgentStarted = "agent-started",
        /// Set when the daemon ended as asked; the value is the reason.
        AgentStopped = "agent-stopped",
        /// Set by the daemon as a sign of life; the value is its pid.
        AgentHeartbeat = "agent-heartbeat",
        /// Set at each turn of the scheduler.
        SchedulerTick = "scheduler-tick",
        /// Set when findings of the checks were mailed; the value says which.
        CheckMailed = "check-mailed",
        /// Set while channels cannot be used; the value is a JSON object of reasons by channel.
        ChannelsBroken = "channels-broken",
        /// Set while targets answer and do not let backups be read back; the value is a JSON object of reasons by
        /// `RUN at TARGET`.
        NotReadBack = "not-read-back",
        /// Set when a clock far from what the state knows was met; the value says how far.
        ClockJump = "clock-jump",
        /// Set when a log file cannot be opened or written; the value says why. Cleared when it can again.
        LogTrouble = "log-trouble",
        /// Set when the text file of metrics cannot be written; the value says why. Cleared when it can again.
        TextfileTrouble = "textfile-trouble",
        /// Set when `/metrics` was fetched; the value is what the client calls itself.
        MetricsScraped = "metrics-scraped",
    }
}

/// A single value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The value.
    pub value: String,
    /// When it was set.
    pub at: DateTime<Utc>,
}

/// The last look at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it could be used.
    pub up: bool,
    /// Size of its file system, if it said.
    pub size_bytes: Option<u64>,
    /// Free for the agent, if it said.
    pub free_bytes: Option<u64>,
    /// Why it could not be used.
    pub error: Option<String>,
    /// When it last could be used.
    pub last_up: Option<DateTime<Utc>>,
}

words! {
    /// Result of one health check, as monitoring plugins count.
    HealthStatus {
        /// As it should be.
        Ok = "ok",
        /// Somebody should look.
        Warning = "warning",
        /// Somebody must look.
        Critical = "critical",
        /// Cannot be told.
        Unknown = "unknown",
    }
}

impl HealthStatus {
    /// 0 ok, 1 warning, 2 critical, 3 unknown.
    pub fn code(self) -> u8 {
        match self {
            HealthStatus::Ok => 0,
            HealthStatus::Warning => 1,
            HealthStatus::Critical => 2,
            HealthStatus::Unknown => 3,
        }
    }
}

/// Result of one health check of a job, or (without one) of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRow {
    /// The job.
    pub job: Option<JobName>,
    /// Name of the check.
    pub check: String,
    /// Its result.
    pub status: HealthStatus,
    /// A sentence.
    pub message: String,
}

pub(super) fn all_probes(tx: &Transaction<'_>) -> rusqlite::Result<Vec<(TargetName, Probe)>> {
    tx.prepare_cached("SELECT * FROM probes ORDER BY target")?
        .query_map([], |row| {
            let size = |column| -> rusqlite::Result<Option<u64>> {
                Ok(row.get::<_, Option<i64>>(column)?.map(|n| u64::try_from(n).unwrap_or(0)))
            };
            let probe = Probe {
                at: time(row, "at")?,
                up: row.get("up")?,
                size_bytes: size("size_bytes")?,
                free_bytes: size("free_bytes")?,
                error: row.get("error")?,
                last_up: opt_time(row, "last_up")?,
            };
            Ok((get_word(row, "target")?, probe))
        })?
        .collect()
}

pub(super) fn all_health(tx: &Transaction<'_>) -> rusqlite::Result<Vec<HealthRow>> {
    tx.prepare_cached("SELECT * FROM health ORDER BY job, name")?
        .query_map([], |row| {
            let job: String = row.get("job")?;
            Ok(HealthRow {
                job: if job.is_empty() { None } else { Some(get_word(row, "job")?) },
                check: row.get("name")?,
                status: get_word(row, "status")?,
                message: row.get("message")?,
            })
        })?
        .collect()
}

/// When the health loop last wrote its results. Not a [`FactKey`]: it is set with them.
pub(super) const HEALTH_CHECKED: &str = "health-checked";

pub(super) fn get_fact(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Fact>> {
    tx.prepare_cached("SELECT value, at FROM facts WHERE key = ?1")?
        .query_row([key], |row| Ok(Fact { value: row.get("value")?, at: time(row, "at")? }))
        .optional()
}

fn put_fact(tx: &Transaction<'_>, key: &str, value: &str, now: DateTime<Utc>) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO facts VALUES (?1, ?2, ?3)")?.execute(params![
        key,
        value,
        ms(now)
    ])?;
    Ok(())
}

impl State {
    /// Sets a single value.
    pub fn set_fact(&self, key: FactKey, value: &str, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write(&format!("record {key}"), |tx| put_fact(tx, key.as_str(), value, now))
    }

    /// Removes a single value.
    pub fn clear_fact(&self, key: FactKey) -> Result<(), StateError> {
        if self.fact(key)?.is_none() {
            return Ok(());
        }
        self.write(&format!("clear {key}"), |tx| {
            tx.execute("DELETE FROM facts WHERE key = ?1", [key.as_str()])?;
            Ok(())
        })
    }

    /// A single value.
    pub fn fact(&self, key: FactKey) -> Result<Option<Fact>, StateError> {
        self.read(&format!("read {key}"), |tx| get_fact(tx, key.as_str()))
    }

    /// Records that the configuration was loaded: `text` becomes the last good one, a former refusal is
    /// forgotten.
    pub fn config_loaded(&self, source: &str, text: &str, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write("keep the configuration", |tx| {
            put_fact(tx, FactKey::LastGoodConfig.as_str(), text, now)?;
            put_fact(tx, FactKey::ConfigLoaded.as_str(), source, now)?;
            for key in [FactKey::ConfigRefused, FactKey::ConfigUnusable] {
                tx.execute("DELETE FROM facts WHERE key = ?1", [key.as_str()])?;
            }
            Ok(())
        })
    }

    /// Records a look at a target.
    pub fn record_probe(
        &self,
        target: &TargetName,
        now: DateTime<Utc>,
        up: bool,
        size_bytes: Option<u64>,
        free_bytes: Option<u64>,
        error: Option<&str>,
    ) -> Result<(), StateError> {
        self.write(&format!("record the state of target {target}"), |tx| {
            tx.prepare_cached(
                "INSERT INTO probes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (target) DO UPDATE SET at = excluded.at, up = excluded.up,
                     size_bytes = coalesce(excluded.size_bytes, size_bytes),
                     free_bytes = coalesce(excluded.free_bytes, free_bytes),
                     error = excluded.error, last_up = coalesce(excluded.last_up, last_up)",
            )?
            .execute(params![
                target.as_str(),
                ms(now),
                up,
                size_bytes.map(int),
                free_bytes.map(int),
                error,
                up.then(|| ms(now))
            ])?;
            Ok(())
        })
    }

    /// The last look at each target. Sizes are those last known when it is down.
    pub fn probes(&self) -> Result<Vec<(TargetName, Probe)>, StateError> {
        self.read("read the states of the targets", all_probes)
    }

    /// Replaces all results of health checks.
    pub fn record_health(&self, rows: &[HealthRow], now: DateTime<Utc>) -> Result<(), StateError> {
        self.write("record the health checks", |tx| {
            tx.execute("DELETE FROM health", [])?;
            let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO health VALUES (?1, ?2, ?3, ?4)")?;
            for row in rows {
                let job = row.job.as_ref().map_or("", JobName::as_str);
                statement.execute(params![job, row.check, row.status.as_str(), row.message])?;
            }
            put_fact(tx, HEALTH_CHECKED, "", now)
        })
    }

    /// All results of health checks.
    pub fn health(&self) -> Result<Vec<HealthRow>, StateError> {
        self.read("read the health checks", all_health)
    }
}
