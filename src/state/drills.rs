//! Drills: trial restores, recorded before they begin so that what one leaves behind can be found, and since
//! when a job has its schedule of them.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::sql::{get_json, get_word, int, json, ms, opt_time, time, uint};
use super::{State, StateError};
use crate::lock::ProcessIdentity;
use crate::model::{ComponentName, JobName, RunId, TargetName};

/// How many drills of each job are remembered.
const KEPT: u32 = 100;

/// A drill about to begin.
#[derive(Debug, Clone)]
pub struct NewDrill {
    /// The job.
    pub job: JobName,
    /// The backup that is restored.
    pub run_id: RunId,
    /// The target it is restored from.
    pub target: TargetName,
    /// The scratch folder, which is not there yet.
    pub folder: String,
    /// The process that does it.
    pub process: ProcessIdentity,
    /// Its start.
    pub started: DateTime<Utc>,
}

/// What came of a drill.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillResult {
    /// Milliseconds until everything was restored, dumps loaded into databases included: the measured time to
    /// recover. None when it did not come to that.
    pub restore_ms: Option<u64>,
    /// Content bytes restored.
    pub bytes: u64,
    /// Entries restored.
    pub entries: u64,
    /// Files compared with the live source.
    pub compared: u64,
    /// Files of the sample that changed at the source since the backup.
    pub changed: u64,
    /// Databases that dumps were loaded into.
    #[serde(default)]
    pub databases: u64,
    /// Their tables.
    #[serde(default)]
    pub tables: u64,
    /// Checks of the configuration that were made.
    pub checks: u64,
    /// What is wrong, a sentence each; empty for a good drill.
    pub problems: Vec<String>,
}

/// A drill, under way or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// Its number.
    pub id: i64,
    /// The job.
    pub job: JobName,
    /// The backup that is restored.
    pub run_id: RunId,
    /// The target it is restored from.
    pub target: TargetName,
    /// Its start.
    pub started: DateTime<Utc>,
    /// Its end; none while it goes on, or when it died.
    pub ended: Option<DateTime<Utc>>,
    /// Whether the backup came back as it should; none without an end.
    pub ok: Option<bool>,
    /// The scratch folder. Not for people without rights.
    #[serde(skip)]
    pub folder: String,
    /// The process that does it.
    #[serde(skip)]
    pub process: Option<ProcessIdentity>,
    /// What came of it.
    #[serde(flatten)]
    pub result: DrillResult,
}

impl Drill {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |column| -> rusqlite::Result<Option<u64>> {
            Ok(row.get::<_, Option<i64>>(column)?.map(|n| u64::try_from(n).unwrap_or(0)))
        };
        Ok(Self {
            id: row.get("id")?,
            job: get_word(row, "job")?,
            run_id: get_word(row, "run_id")?,
            target: get_word(row, "target")?,
            started: time(row, "started")?,
            ended: opt_time(row, "ended")?,
            ok: row.get("ok")?,
            folder: row.get("folder")?,
            process: Some(ProcessIdentity {
                boot_id: row.get("boot_id")?,
                pid: row.get("pid")?,
                start_ticks: count("start_ticks")?,
            }),
            result: DrillResult {
                restore_ms: count("restore_ms")?,
                bytes: uint(row, "bytes")?,
                entries: uint(row, "entries")?,
                compared: uint(row, "compared")?,
                changed: uint(row, "changed")?,
                databases: uint(row, "databases")?,
                tables: uint(row, "tables")?,
                checks: uint(row, "checks")?,
                problems: get_json(row, "problems")?,
            },
        })
    }

    /// Whole time it took, once it ended.
    pub fn duration(&self) -> Option<std::time::Duration> {
        (self.ended? - self.started).to_std().ok()
    }
}

/// A database that a drill made, or was about to make: nothing else is ever dropped by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchDatabase {
    /// Its name at the server.
    pub name: String,
    /// The drill's number.
    pub drill: i64,
    /// The job.
    pub job: JobName,
    /// The source whose dump is in it, which says where the server is.
    pub source: ComponentName,
    /// When it was last tried to drop what a drill had left.
    pub tried: Option<DateTime<Utc>>,
}

/// Since when a job's drills have their schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPlan {
    /// The crontab line.
    pub schedule: String,
    /// Since when it is this one.
    pub since: DateTime<Utc>,
}

/// What is known of a job's drills.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobDrills {
    /// Their schedule, once the agent saw one.
    pub plan: Option<DrillPlan>,
    /// The last that ended.
    pub last: Option<Drill>,
    /// The last good one.
    pub last_good: Option<Drill>,
}

fn one(tx: &Transaction<'_>, job: &JobName, filter: &str) -> rusqlite::Result<Option<Drill>> {
    tx.prepare_cached(&format!("SELECT * FROM drills WHERE job = ?1 AND {filter} ORDER BY id DESC LIMIT 1"))?
        .query_row([job.as_str()], Drill::from_row)
        .optional()
}

pub(super) fn of_job(tx: &Transaction<'_>, job: &JobName) -> rusqlite::Result<JobDrills> {
    let plan = tx
        .prepare_cached("SELECT schedule, since FROM drill_plans WHERE job = ?1")?
        .query_row([job.as_str()], |row| {
            Ok(DrillPlan { schedule: row.get("schedule")?, since: time(row, "since")? })
        })
        .optional()?;
    Ok(JobDrills {
        plan,
        last: one(tx, job, "ended IS NOT NULL")?,
        last_good: one(tx, job, "ended IS NOT NULL AND ok = 1")?,
    })
}

impl State {
    /// Records that a drill begins; gives its number.
    pub fn begin_drill(&self, drill: &NewDrill) -> Result<i64, StateError> {
        self.write(&format!("record the drill of job {}", drill.job), |tx| {
            tx.execute(
                "INSERT INTO drills (job, run_id, target, started, folder, pid, boot_id, start_ticks)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    drill.job.as_str(),
                    drill.run_id.as_str(),
                    drill.target.as_str(),
                    ms(drill.started),
                    drill.folder,
                    drill.process.pid,
                    drill.process.boot_id,
                    drill.process.start_ticks.map(int),
                ],
            )?;
            let id = tx.last_insert_rowid();
            tx.execute(
                "DELETE FROM drills WHERE job = ?1 AND ended IS NOT NULL AND id NOT IN
                     (SELECT id FROM drills WHERE job = ?1 ORDER BY id DESC LIMIT ?2)
                     AND id <> coalesce((SELECT max(id) FROM drills WHERE job = ?1 AND ok = 1), -1)",
                params![drill.job.as_str(), KEPT],
            )?;
            Ok(id)
        })
    }

    /// Records what came of a drill. The first record of an end stays.
    pub fn end_drill(&self, id: i64, result: &DrillResult, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write("record the end of a drill", |tx| {
            tx.execute(
                "UPDATE drills SET ended = ?2, ok = ?3, restore_ms = ?4, bytes = ?5, entries = ?6,
                     compared = ?7, changed = ?8, checks = ?9, problems = ?10, databases = ?11, tables = ?12
                 WHERE id = ?1 AND ended IS NULL",
                params![
                    id,
                    ms(now),
                    result.problems.is_empty(),
                    result.restore_ms.map(int),
                    int(result.bytes),
                    int(result.entries),
                    int(result.compared),
                    int(result.changed),
                    int(result.checks),
                    json(&result.problems)?,
                    int(result.databases),
                    int(result.tables),
                ],
            )?;
            Ok(())
        })
    }

    /// Records a database that a drill is about to make.
    pub fn begin_scratch_database(&self, database: &ScratchDatabase) -> Result<(), StateError> {
        self.write("record a database that a drill makes", |tx| {
            tx.execute(
                "INSERT INTO scratch_databases (name, drill, job, source) VALUES (?1, ?2, ?3, ?4)",
                params![database.name, database.drill, database.job.as_str(), database.source.as_str()],
            )?;
            Ok(())
        })
    }

    /// Records that it was tried in vain to drop a database that a drill had left.
    pub fn tried_scratch_database(&self, name: &str, now: DateTime<Utc>) -> Result<(), StateError> {
        self.write("record that a drill's database could not be dropped", |tx| {
            tx.execute("UPDATE scratch_databases SET tried = ?2 WHERE name = ?1", params![name, ms(now)])?;
            Ok(())
        })
    }

    /// Records that a drill's database is gone.
    pub fn end_scratch_database(&self, name: &str) -> Result<(), StateError> {
        self.write("record that a drill's database is gone", |tx| {
            tx.execute("DELETE FROM scratch_databases WHERE name = ?1", [name])?;
            Ok(())
        })
    }

    /// Databases that drills made and did not drop yet.
    pub fn scratch_databases(&self) -> Result<Vec<ScratchDatabase>, StateError> {
        self.read("read the databases that drills made", |tx| {
            tx.prepare_cached("SELECT * FROM scratch_databases ORDER BY name")?
                .query_map([], |row| {
                    Ok(ScratchDatabase {
                        name: row.get("name")?,
                        drill: row.get("drill")?,
                        job: get_word(row, "job")?,
                        source: get_word(row, "source")?,
                        tried: opt_time(row, "tried")?,
                    })
                })?
                .collect()
        })
    }

    /// Forgets a drill that did not take place after all (it was asked to stop), its folder gone.
    pub fn forget_drill(&self, id: i64) -> Result<(), StateError> {
        self.write("forget a drill that was stopped", |tx| {
            tx.execute("DELETE FROM drills WHERE id = ?1 AND ended IS NULL", [id])?;
            Ok(())
        })
    }

    /// Drills without an end: those that go on, and those that died.
    pub fn open_drills(&self) -> Result<Vec<Drill>, StateError> {
        self.read("read the drills that did not end", |tx| {
            tx.prepare_cached("SELECT * FROM drills WHERE ended IS NULL ORDER BY id")?
                .query_map([], Drill::from_row)?
                .collect()
        })
    }

    /// What is known of a job's drills.
    pub fn drills(&self, job: &JobName) -> Result<JobDrills, StateError> {
        self.read(&format!("read the drills of job {job}"), |tx| of_job(tx, job))
    }

    /// The last drill of a backup that ended.
    pub fn drill_of_run(&self, run_id: &RunId) -> Result<Option<Drill>, StateError> {
        self.read(&format!("read the drills of run {run_id}"), |tx| {
            tx.query_row(
                "SELECT * FROM drills WHERE run_id = ?1 AND ended IS NOT NULL ORDER BY id DESC LIMIT 1",
                [run_id.as_str()],
                Drill::from_row,
            )
            .optional()
        })
    }

    /// Notes a job's schedule of drills, or that it has none. Writes only what is new.
    pub fn touch_drill_plan(
        &self,
        job: &JobName,
        schedule: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        let known = self.drills(job)?.plan.map(|plan| plan.schedule);
        if known.as_deref() == schedule {
            return Ok(());
        }
        self.write(&format!("note when job {job} is drilled"), |tx| {
            match schedule {
                Some(schedule) => tx.execute(
                    "INSERT INTO drill_plans VALUES (?1, ?2, ?3)
                     ON CONFLICT (job) DO UPDATE SET schedule = excluded.schedule, since = excluded.since",
                    params![job.as_str(), schedule, ms(now)],
                )?,
                None => tx.execute("DELETE FROM drill_plans WHERE job = ?1", [job.as_str()])?,
            };
            Ok(())
        })
    }
}
