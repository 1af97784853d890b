//! How soon the agent answers those who watch it, with 50 jobs and 10,000 runs of history:
//!
//! ```text
//! cargo bench --bench status [-- OPTION…]
//!
//! --jobs N       jobs [50]
//! --runs N       runs of all jobs together [10000]
//! --asks N       how often each question is asked [20]
//! --dir DIR      where the state is made [target/tmp]
//! ```
//!
//! `/metrics` and the page are asked of a running daemon, each time so late after the one before that the state
//! is read anew; `agent check` is the whole program, from start to exit. Close what else uses the machine.

// What stands there is shared with the other benchmark, which uses all of it.
#[allow(dead_code)]
#[path = "../first_backup/daemon.rs"]
mod daemon;
mod fill;
#[path = "../first_backup/measure.rs"]
mod measure;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use backup_agent::config::{self, LoadOptions};
use backup_agent::health;
use backup_agent::metrics::{self, Facts};
use backup_agent::state::load_for_reading;
use daemon::{Daemon, get};
use measure::{AGENT, median, percentile};

/// The daemon answers several who ask at once from one reading; it is not asked that soon.
const PAUSE: Duration = Duration::from_millis(1100);

struct Options {
    jobs: usize,
    runs: usize,
    asks: usize,
    dir: PathBuf,
}

fn main() -> Result<()> {
    // A test runner that was told to take every target asks what tests there are: none.
    if std::env::args().any(|argument| argument == "--list") {
        return Ok(());
    }
    let options = options()?;
    measure::clear(&options.dir)?;
    fs::create_dir_all(&options.dir)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = options.dir.join("config.toml");
    fs::write(&config, fill::configuration(&options.dir, &address.to_string(), options.jobs))?;
    let begun = Instant::now();
    fill::state(&options.dir, options.jobs, options.runs).context("making the state")?;
    let size = fs::metadata(options.dir.join("state/state.db"))
        .map(|file| format!(", {:.1} MB", file.len() as f64 / 1e6))
        .unwrap_or_default();
    println!(
        "{} jobs, {} runs{size}, made in {:.1} s",
        options.jobs,
        options.runs,
        begun.elapsed().as_secs_f64()
    );

    println!("{:<14} {:>10} {:>10} {:>10} {:>12}", "", "median", "95 %", "slowest", "answer");
    let begun = Instant::now();
    let mut daemon = Daemon::start(&config, address, false)?;
    daemon.wait_until_ready(begun)?;
    for path in ["/metrics", "/", "/api/v1/status"] {
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..options.asks {
            thread::sleep(PAUSE);
            let asked = Instant::now();
            let answer = get(address, path).with_context(|| format!("asking for {path}"))?;
            times.push(milliseconds(asked));
            ensure!(answer.starts_with("HTTP/1.1 200"), "{path} answered {:?}", answer.lines().next());
            bytes = answer.len();
        }
        report(path, &times, bytes);
    }
    drop(daemon);
    let (times, bytes) = checks(&config, options.asks)?;
    report("agent check", &times, bytes);
    parts(&config, options.asks)
}

/// What an answer consists of, measured in this process.
fn parts(config: &Path, count: usize) -> Result<()> {
    let load = LoadOptions::new(Some(config.to_owned()));
    let config = Arc::new(config::load(&load)?.config);
    #[allow(clippy::disallowed_methods)] // a benchmark is about this moment
    let now = chrono::Utc::now();
    let [mut loaded, mut read, mut found, mut rendered] = [const { Vec::new() }; 4];
    let mut bytes = [0; 2];
    for _ in 0..count {
        let begun = Instant::now();
        config::load(&load)?;
        loaded.push(milliseconds(begun));
        let begun = Instant::now();
        let (snapshot, _) = load_for_reading(&config.state_dir, now).map_err(anyhow::Error::msg)?;
        read.push(milliseconds(begun));
        let begun = Instant::now();
        bytes[0] = health::findings(&snapshot, &config, now, &health::Extra::default()).len();
        found.push(milliseconds(begun));
        let (snapshot, config) = (Arc::new(snapshot), Arc::clone(&config));
        let facts = Facts { snapshot, config, progress: Default::default(), now };
        let begun = Instant::now();
        bytes[1] = metrics::render_for_http(Some(&facts))?.len();
        rendered.push(milliseconds(begun));
    }
    println!();
    report("configuration", &loaded, 0);
    report("state", &read, 0);
    report("checks", &found, bytes[0]);
    report("exposition", &rendered, bytes[1]);
    Ok(())
}

fn checks(config: &Path, count: usize) -> Result<(Vec<f64>, usize)> {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..count {
        let asked = Instant::now();
        let mut command = Command::new(AGENT);
        command.arg("--config").arg(config).arg("check").stdin(Stdio::null());
        let output = command.output()?;
        times.push(milliseconds(asked));
        // The jobs are overdue and no daemon runs: that is found, too.
        ensure!(output.status.code() == Some(2), "agent check: {}", String::from_utf8_lossy(&output.stderr));
        bytes = output.stdout.len();
    }
    Ok((times, bytes))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn report(what: &str, times: &[f64], bytes: usize) {
    let slowest = percentile(times, 100.0);
    println!(
        "{what:<14} {:>7.1} ms {:>7.1} ms {slowest:>7.1} ms {:>9.1} kB",
        median(times),
        percentile(times, 95.0),
        bytes as f64 / 1000.0
    );
}

fn options() -> Result<Options> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("status");
    let mut options = Options { jobs: 50, runs: 10_000, asks: 20, dir };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--jobs" => options.jobs = value()?.parse()?,
            "--runs" => options.runs = value()?.parse()?,
            "--asks" => options.asks = value()?.parse()?,
            "--dir" => options.dir = PathBuf::from(value()?).join("status"),
            other => bail!("unknown option {other}"),
        }
    }
    Ok(options)
}
