//! How long it takes to decide what stays and what goes among very many copies:
//!
//! ```text
//! cargo bench --bench retention [-- OPTION…]
//!
//! --copies N     copies of one job at one target [100000]
//! --expired N    copies the state remembers beside them, gone long ago [20000]
//! --times N      how often each is measured [10]
//! ```
//!
//! First the decision alone, with every rule there is; then the plan with what the state knows; then the plan for
//! an admin host, from as many manifests of 50 hosts; last `agent prune --dry-run`, the whole program.

#[path = "../first_backup/measure.rs"]
mod measure;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use backup_agent::clock::{Clock, SystemClock};
use backup_agent::config::{Config, Keep};
use backup_agent::model::{JobName, Outcome, RunId, TargetName, WarningCounts};
use backup_agent::ops::Agent;
use backup_agent::ops::prune::hosts::{self, Rules};
use backup_agent::ops::prune::plan;
use backup_agent::retention::{Counts, Policy, Status, StoredCopy, decide};
use backup_agent::state::{CopyStatus, NewCopy, State};
use backup_agent::target::{Found, Scan};
use chrono::{DateTime, TimeDelta, Utc};
use measure::{AGENT, median, percentile};

const KEEP: &str = "last=10, hourly=48, daily=30, weekly=26, monthly=24, yearly=10, within=10days, \
                    max_bytes=900 TiB, min_bytes=1 TiB";
const ZONE: chrono_tz::Tz = chrono_tz::Europe::Berlin;
/// Between two backups.
const STEP: TimeDelta = TimeDelta::minutes(20);
const BYTES: u64 = 1 << 30;

struct Options {
    copies: usize,
    expired: usize,
    times: usize,
}

fn main() -> Result<()> {
    // A test runner that was told to take every target asks what tests there are: none.
    if std::env::args().any(|argument| argument == "--list") {
        return Ok(());
    }
    let options = options()?;
    let now = SystemClock.now();
    let starts: Vec<DateTime<Utc>> =
        (0..options.copies).map(|n| now - TimeDelta::minutes(5) - STEP * n as i32).collect();
    println!("{} copies, policy {KEEP}", options.copies);
    println!("{:<34} {:>10} {:>10} {:>10}", "", "median", "95 %", "slowest");

    let copies: Vec<StoredCopy> = starts.iter().map(|at| stored(*at)).collect();
    let policy = Policy {
        last: Some(10),
        hourly: Some(48),
        daily: Some(30),
        weekly: Some(26),
        monthly: Some(24),
        yearly: Some(10),
        within: Some(Duration::from_secs(10 * 86_400)),
        max_bytes: Some(900 << 40),
        min_bytes: Some(1 << 40),
    };
    report("the decision", options.times, || {
        let decisions = decide(&copies, &policy, Counts::Verified, ZONE, now, true);
        ensure!(decisions.iter().filter(|d| d.keep).count() < options.copies.max(2000));
        Ok(decisions.len())
    })?;
    drop(copies);

    // Each write is followed by an fsync; in memory that costs nothing.
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let (agent, job, target) = known(folder.path(), &starts, options.expired, now)?;
    report("the plan, from the state", options.times, || Ok(plan(&agent, &job, &target, None)?.len()))?;
    drop(agent);

    let keep = Keep::parse(KEEP).map_err(|e| anyhow::anyhow!(e))?;
    let rules = Rules { keep: Some(&keep), zone: ZONE, now, clock_is_right: false };
    let scan = Scan { found: starts.iter().enumerate().map(found).collect(), unread: Vec::new() };
    report("the plan, from manifests", options.times, || {
        Ok(hosts::plan(&scan, &target, None, &rules)?.groups.iter().map(|g| g.decisions.len()).sum())
    })?;
    drop(scan);

    report("agent prune --dry-run", options.times, || {
        let mut command = Command::new(AGENT);
        command.arg("--config").arg(folder.path().join("config.toml")).args(["prune", "--dry-run"]);
        ensure!(command.stdout(Stdio::null()).status()?.success(), "it failed");
        Ok(options.copies)
    })?;
    println!("memory at most: {:.0} MB", peak_memory()?);
    Ok(())
}

/// Measures `work`, which gives the number of decisions it made.
fn report(name: &str, times: usize, mut work: impl FnMut() -> Result<usize>) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        let decisions = work().with_context(|| name.to_owned())?;
        took.push(begun.elapsed().as_secs_f64());
        ensure!(decisions > 0, "{name}: nothing was decided");
    }
    let slowest = took.iter().copied().fold(0.0, f64::max);
    let shown = |seconds: f64| format!("{:.1} ms", seconds * 1000.0);
    println!(
        "{name:<34} {:>10} {:>10} {:>10}",
        shown(median(&took)),
        shown(percentile(&took, 95.0)),
        shown(slowest)
    );
    Ok(())
}

fn stored(started: DateTime<Utc>) -> StoredCopy {
    StoredCopy {
        run_id: RunId::generate(started),
        started,
        outcome: Outcome::Success,
        status: Status::Verified,
        pinned: false,
        retained_until: None,
        bytes: BYTES,
    }
}

fn found((n, started): (usize, &DateTime<Utc>)) -> Found {
    Found {
        location: format!("host-{}/{n}", n % 50),
        host: format!("host-{:02}", n % 50),
        instance_id: format!("{:032x}", n % 50),
        job: "web".parse().expect("a name"),
        job_aliases: Vec::new(),
        timezone: ZONE.to_string(),
        run_id: RunId::generate(*started),
        scheduled_for: None,
        started: *started,
        ended: *started,
        outcome: Outcome::Success,
        source_bytes: BYTES,
        stored_bytes: BYTES,
        components: Vec::new(),
        warning_counts: WarningCounts::default(),
        pin: None,
    }
}

/// A state that knows the copies, and those that are gone.
fn known(
    folder: &std::path::Path,
    starts: &[DateTime<Utc>],
    expired: usize,
    now: DateTime<Utc>,
) -> Result<(Agent, JobName, TargetName)> {
    let keep = Keep::parse(KEEP).map_err(|e| anyhow::anyhow!(e))?;
    let at = folder.display();
    let text = format!(
        "state_dir = \"{at}/state\"\ntimezone = \"{ZONE}\"\n[target.nas]\ntype = \"directory\"\npath = \"{at}/nas\"\n\
         keep = {{ last = 10, hourly = 48, daily = 30, weekly = 26, monthly = 24, yearly = 10, within = \"10days\", \
         max_bytes = \"900 TiB\", min_bytes = \"1 TiB\" }}\n[job.web]\ntargets = [\"nas\"]\n\
         [job.web.source.files]\ntype = \"files\"\npaths = [\"{at}/src\"]\n"
    );
    fs::write(folder.join("config.toml"), &text)?;
    let config: Config = toml::from_str(&text)?;
    ensure!(config.target.values().all(|target| target.keep.as_ref() == Some(&keep)));
    let (job, target): (JobName, TargetName) = ("web".parse()?, "nas".parse()?);
    let state = State::open(&config.state_dir, now)?;
    let oldest = starts.last().copied().unwrap_or(now);
    let gone = (1..=expired).map(|n| oldest - STEP * n as i32);
    for (n, started) in starts.iter().copied().chain(gone).enumerate() {
        let status = if n < starts.len() { CopyStatus::Verified } else { CopyStatus::Complete };
        let run = RunId::generate(started);
        let copy = NewCopy {
            target: target.clone(),
            primary: true,
            status,
            location: Some(format!("{n}")),
            bytes: BYTES,
        };
        state.import_copy(&job, &run, started, Outcome::Success, &copy, now)?;
        if n >= starts.len() {
            state.copy_expired(&run, &target, now)?;
        }
    }
    let agent = Agent {
        config: Arc::new(config),
        state,
        clock: Arc::new(SystemClock),
        channels: Arc::default(),
        command: "agent".to_owned(),
    };
    Ok((agent, job, target))
}

/// The most memory this process ever had, in MB.
fn peak_memory() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

fn options() -> Result<Options> {
    let mut options = Options { copies: 100_000, expired: 20_000, times: 10 };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value: usize = arguments.next().with_context(|| format!("{name} needs a value"))?.parse()?;
        match name.as_str() {
            "--copies" => options.copies = value,
            "--expired" => options.expired = value,
            "--times" => options.times = value.max(1),
            _ => bail!("there is no option {name}"),
        }
    }
    ensure!(options.copies > 0, "no copies, nothing to decide");
    Ok(options)
}
