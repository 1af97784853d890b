//! A host with jobs in every state, at a fixed moment: what metrics and pages are tested with.

use std::collections::BTreeMap;

use backup_agent::config::Config;
use backup_agent::event::Step;
use backup_agent::model::{Outcome, RunId, WarningCounts};
use backup_agent::state::{
    AgentState, Baseline, ChannelState, ComponentSummary, Contention, Drill, DrillResult, Fact, HealthRow,
    HealthStatus, JobCounters, JobDrills, JobRow, JobState, JobTargetState, Probe, Run, RunBrief, RunTrigger,
    SNAPSHOT_VERSION, Snapshot, StepTime,
};
use chrono::{DateTime, TimeDelta, Utc};

/// The moment everything is seen from: 11:20 in Berlin.
pub fn now() -> DateTime<Utc> {
    "2026-11-24T10:20:00Z".parse().unwrap()
}

fn minutes_ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

fn hours_ago(hours: i64) -> DateTime<Utc> {
    minutes_ago(hours * 60)
}

/// The configuration. `askproai` is good and `web` runs; `mail` fails and is overdue; `wiki` is paused;
/// `lab` has no schedule and never succeeded; `fresh` is unknown to the state.
pub fn config() -> Config {
    toml::from_str(
        r#"
        timezone = "Europe/Berlin"
        host = "db1.example.org"
        state_dir = "/var/lib/backup-agent"

        [target.local]
        type = "directory"
        path = "/var/backups"
        min_free = "20 GiB"
        [target.nas]
        type = "directory"
        path = "/mnt/nas"
        [target.offsite]
        type = "directory"
        path = "/mnt/offsite"

        [job.askproai]
        schedule = "0 3,11,19 * * *"
        splay = "10m"
        max_runtime = "2h"
        targets = ["local", "nas", "offsite"]
        source.database = { type = "command", command = ["dump"] }
        source.application = { type = "files", paths = ["/var/www"] }
        source.system-state = { type = "system" }

        [job.mail]
        schedule = "30 2 * * *"
        targets = ["local", "nas"]
        source.maildir = { type = "files", paths = ["/var/mail"] }

        [job.web]
        schedule = "@hourly"
        targets = ["local", "nas"]
        source.files = { type = "files", paths = ["/srv"] }

        [job.wiki]
        schedule = "@daily"
        trigger = "external"
        targets = ["local"]
        source.files = { type = "files", paths = ["/wiki"] }

        [job.lab]
        targets = ["local"]
        source.files = { type = "files", paths = ["/lab"] }

        [job.fresh]
        schedule = "@weekly"
        targets = ["local"]
        source.files = { type = "files", paths = ["/fresh"] }

        [notify.admin]
        type = "email"
        smtp = "smtp://127.0.0.1:25"
        from = "backup@example.org"
        to = ["admin@example.org"]

        [notify.pinger]
        type = "heartbeat"
        url_file = "/etc/backup-agent/ping-url"
        "#,
    )
    .unwrap()
}

/// The state that goes with [`config`], and a job that is no longer configured.
pub fn snapshot() -> Snapshot {
    Snapshot {
        version: SNAPSHOT_VERSION,
        written: now(),
        agent_version: "0.1.0".to_owned(),
        instance_id: "0123456789abcdef0123456789abcdef".to_owned(),
        jobs: vec![askproai(), lab(), mail(), removed(), web(), wiki()],
        targets: probes(),
        identities: BTreeMap::new(),
        channels: channels(),
        health: health(),
        agent: AgentState {
            started: Some(hours_ago(50)),
            stopped: None,
            heartbeat: Some(now()),
            scheduler_tick: Some(now() - TimeDelta::seconds(12)),
            health_checked: Some(now() - TimeDelta::seconds(40)),
            config_loaded: Some(hours_ago(50)),
            config_refused: Some(hours_ago(2)),
            config_unusable: None,
            clock_jump: Some(Fact { value: "3 h ahead of the last run".to_owned(), at: hours_ago(300) }),
            log_trouble: None,
            textfile_trouble: None,
            metrics_scraped: None,
        },
    }
}

fn askproai() -> JobState {
    let run = Run {
        steps: [
            (Step::Lock, 3),
            (Step::Preflight, 120),
            (Step::Capture, 95_000),
            (Step::Publish, 800),
            (Step::ReadBack, 14_000),
            (Step::Retention, 300),
            (Step::Record, 20),
            (Step::Copies, 41_500),
        ]
        .map(|(step, ms)| StepTime { step, ms })
        .to_vec(),
        components: vec![
            component("application", 2_400_000_000, 1_300_000_000, 48_211),
            component("database", 900_000_000, 120_000_000, 0),
            component("system-state", 30_000_000, 6_000_000, 2_104),
        ],
        source_bytes: 3_330_000_000,
        stored_bytes: 1_426_000_000,
        warning_counts: WarningCounts { changed: 2, vanished: 1, unreadable: 0, skipped: 3 },
        ..run("askproai", hours_ago(8) + TimeDelta::minutes(25), 110, Outcome::Warning)
    };
    let mut job = job("askproai", Some("0 3,11,19 * * *"));
    job.last_success = Some(run.clone());
    job.last_run = Some(run);
    job.counters = JobCounters {
        runs: 412,
        failed: 3,
        partial: 1,
        interrupted: 2,
        warnings: WarningCounts { changed: 804, vanished: 77, unreadable: 2, skipped: 0 },
    };
    job.contention = Contention { total: 5, last_24h: 1, last: Some(hours_ago(5)) };
    let base = |source_bytes, entries| Baseline { source_bytes, entries, runs: 7 };
    job.baselines = [
        ("application", base(2_390_000_000, 48_100)),
        ("database", base(890_000_000, 0)),
        ("system-state", base(30_000_000, 2_100)),
    ]
    .map(|(name, baseline)| (name.parse().unwrap(), baseline))
    .into();
    job.targets = [
        ("local", kept(10, 14_000_000_000)),
        ("nas", JobTargetState { last_copy_success: Some(hours_ago(7)), ..kept(31, 44_000_000_000) }),
        (
            "offsite",
            JobTargetState {
                pending: 2,
                oldest_pending: Some(hours_ago(9)),
                last_error: Some("the folder is not mounted".to_owned()),
                failures: 14,
                last_copy_success: Some(hours_ago(17)),
                last_verify: None,
                last_verify_ok: None,
                ..kept(29, 41_000_000_000)
            },
        ),
    ]
    .map(|(name, state)| (name.parse().unwrap(), state))
    .into();
    let drill = Drill {
        id: 7,
        job: job.row.job.clone(),
        run_id: run_id("askproai", hours_ago(32)),
        target: "nas".parse().unwrap(),
        started: hours_ago(30),
        ended: Some(hours_ago(30) + TimeDelta::seconds(95)),
        ok: Some(true),
        folder: String::new(),
        process: None,
        result: DrillResult {
            restore_ms: Some(81_400),
            bytes: 3_330_000_000,
            entries: 50_316,
            compared: 20,
            ..DrillResult::default()
        },
    };
    job.drills = JobDrills { plan: None, last: Some(drill.clone()), last_good: Some(drill) };
    job.history = (0..30)
        .map(|n| {
            let outcome = match n {
                11 => Outcome::Failure,
                19 => Outcome::Interrupted,
                n if n % 3 == 0 => Outcome::Warning,
                _ => Outcome::Success,
            };
            brief("askproai", hours_ago(8 + n * 8), outcome, n == 4)
        })
        .collect();
    job
}

fn mail() -> JobState {
    let mut job = job("mail", Some("30 2 * * *"));
    job.row.failing_since = Some(hours_ago(33));
    job.row.last_failure_mail = Some(hours_ago(9));
    job.last_success = Some(Run {
        components: vec![component("maildir", 80_000_000_000, 61_000_000_000, 900_000)],
        source_bytes: 80_000_000_000,
        stored_bytes: 61_000_000_000,
        ..run("mail", hours_ago(57), 3_000, Outcome::Success)
    });
    job.last_run = Some(Run {
        failed_step: Some(Step::Preflight),
        error: Some("the target local has 2 GiB left, <61 GiB> are needed | make room\ndetail".to_owned()),
        ..run("mail", hours_ago(9), 2, Outcome::Failure)
    });
    job.counters = JobCounters { runs: 20, failed: 2, ..JobCounters::default() };
    job.targets = [
        ("local".parse().unwrap(), kept(3, 183_000_000_000)),
        (
            "nas".parse().unwrap(),
            JobTargetState {
                last_verify_ok: Some(false),
                corrupt: 1,
                retention_error: Some("permission denied".to_owned()),
                ..kept(4, 240_000_000_000)
            },
        ),
    ]
    .into();
    job.history = (0..20)
        .map(|n| {
            let outcome = if n < 2 { Outcome::Failure } else { Outcome::Success };
            brief("mail", hours_ago(9 + n * 24), outcome, false)
        })
        .collect();
    job
}

fn web() -> JobState {
    let mut job = job("web", Some("@hourly"));
    let good = Run {
        components: vec![component("files", 40_000_000_000, 30_000_000_000, 120_000)],
        source_bytes: 40_000_000_000,
        stored_bytes: 30_000_000_000,
        ..run("web", minutes_ago(80), 1_200, Outcome::Success)
    };
    job.last_run = Some(good.clone());
    job.last_success = Some(good);
    job.running = Some(Run {
        step: Some(Step::Capture),
        progress: Some(0.25),
        outcome: None,
        ended: None,
        ..run("web", minutes_ago(20), 0, Outcome::Success)
    });
    job.counters = JobCounters { runs: 900, ..JobCounters::default() };
    job.targets = [("local".parse().unwrap(), kept(24, 500_000_000_000))].into();
    job
}

fn wiki() -> JobState {
    let mut job = job("wiki", Some("@daily"));
    let good = run("wiki", hours_ago(200), 61, Outcome::Success);
    job.last_run = Some(good.clone());
    job.last_success = Some(good);
    job.row.paused_until = Some(now() + TimeDelta::days(3));
    job
}

fn lab() -> JobState {
    let mut job = job("lab", None);
    job.row.failing_since = Some(hours_ago(1) + TimeDelta::seconds(1));
    job.last_run = Some(Run {
        warning_counts: WarningCounts { unreadable: 4, ..WarningCounts::default() },
        components: vec![component("files", 1_000, 500, 3)],
        source_bytes: 1_000,
        stored_bytes: 500,
        ..run("lab", hours_ago(1), 1, Outcome::Partial)
    });
    job.counters = JobCounters { runs: 1, partial: 1, ..JobCounters::default() };
    job
}

fn removed() -> JobState {
    let mut job = job("removed", Some("@daily"));
    job.last_run = Some(run("removed", hours_ago(300), 61, Outcome::Failure));
    job
}

fn job(name: &str, schedule: Option<&str>) -> JobState {
    let row = JobRow::new(name.parse().unwrap(), hours_ago(24 * 90));
    JobState::new(JobRow { schedule: schedule.map(str::to_owned), ..row })
}

fn run_id(job: &str, started: DateTime<Utc>) -> RunId {
    // The tail tells the jobs apart and is the same each time.
    let tail: String = job.chars().chain("000000".chars()).take(6).collect();
    format!("{}-{tail}", started.format("%Y%m%dT%H%M%SZ")).parse().unwrap()
}

fn run(job: &str, started: DateTime<Utc>, seconds: i64, outcome: Outcome) -> Run {
    let (run_id, job) = (run_id(job, started), job.parse().unwrap());
    Run {
        outcome: Some(outcome),
        ended: Some(started + TimeDelta::seconds(seconds)),
        ..Run::begun(&run_id, &job, RunTrigger::Schedule, started)
    }
}

fn brief(job: &str, started: DateTime<Utc>, outcome: Outcome, degraded: bool) -> RunBrief {
    RunBrief {
        run_id: run_id(job, started),
        started,
        ended: started + TimeDelta::minutes(2),
        outcome,
        degraded,
        duration_ms: 120_000,
        stored_bytes: 1_400_000_000,
        warnings: 0,
    }
}

fn component(name: &str, source_bytes: u64, stored_bytes: u64, entries: u64) -> ComponentSummary {
    ComponentSummary {
        name: name.parse().unwrap(),
        source_bytes,
        stored_bytes,
        entries,
        warning_counts: WarningCounts::default(),
        sha256: None,
    }
}

fn kept(count: u64, bytes: u64) -> JobTargetState {
    JobTargetState {
        kept: count,
        kept_bytes: bytes,
        newest: Some(hours_ago(8)),
        newest_verified: Some(hours_ago(8)),
        newest_verified_run: Some(run_id("kept", hours_ago(8))),
        last_verify: Some(hours_ago(7)),
        last_verify_ok: Some(true),
        last_retention: Some(hours_ago(7)),
        ..JobTargetState::default()
    }
}

fn probes() -> BTreeMap<backup_agent::model::TargetName, Probe> {
    let probe = |up, size, free| Probe {
        at: minutes_ago(4),
        up,
        size_bytes: size,
        free_bytes: free,
        error: None,
        last_up: Some(minutes_ago(4)),
    };
    [
        ("local", probe(true, Some(500_000_000_000), Some(2_200_000_000))),
        ("nas", probe(true, Some(8_000_000_000_000), Some(3_000_000_000_000))),
        (
            "offsite",
            Probe {
                error: Some("/mnt/offsite is not a mount point".to_owned()),
                last_up: Some(hours_ago(17)),
                ..probe(false, None, None)
            },
        ),
    ]
    .map(|(name, probe)| (name.parse().unwrap(), probe))
    .into()
}

fn channels() -> BTreeMap<backup_agent::model::ChannelName, ChannelState> {
    let admin = ChannelState {
        delivered: 37,
        failures: 5,
        pending: 1,
        oldest_pending: Some(minutes_ago(31)),
        last_error: Some("450 greylisted".to_owned()),
        given_up: 0,
        last_given_up: None,
        ..Default::default()
    };
    [("admin".parse().unwrap(), admin)].into()
}

fn health() -> Vec<HealthRow> {
    let row = |job: Option<&str>, check: &str, status| HealthRow {
        job: job.map(|job| job.parse().unwrap()),
        check: check.to_owned(),
        status,
        message: String::new(),
    };
    vec![
        row(None, "daemon", HealthStatus::Ok),
        row(None, "free-space", HealthStatus::Critical),
        row(None, "check-of-another-version", HealthStatus::Critical),
        row(Some("askproai"), "overdue", HealthStatus::Ok),
        row(Some("mail"), "overdue", HealthStatus::Critical),
        row(Some("removed"), "overdue", HealthStatus::Critical),
    ]
}
