//! Programs run and measured from outside: wall time, peak memory, what they print.

// Each benchmark takes what it needs.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The program under test, built with optimisation.
pub const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// One run of the agent.
#[derive(Debug, Clone, Copy)]
pub struct Backup {
    /// From start to exit.
    pub whole: f64,
    /// The read-back of what was published, in seconds.
    pub read_back: f64,
    /// From start until the backup was published and durable: without read-back and retention.
    pub published: f64,
    /// Bytes stored.
    pub stored: u64,
    /// Peak resident memory in bytes.
    pub memory: u64,
}

/// A first backup of `source` into a new folder `to`, with all cores.
pub fn backup(source: &Path, to: &Path) -> Result<Backup> {
    clear(to)?;
    let mut command = Command::new(AGENT);
    command.args(["backup", "--fast", "--json", "--source"]).arg(source).arg("--to").arg(to);
    measured(command)
}

/// Writes a configuration with one job, `web`, that stores `source` at `to`, to a new public key when `sealed`.
pub fn configuration(dir: &Path, name: &str, source: &Path, to: &Path, sealed: bool) -> Result<PathBuf> {
    let state = dir.join(format!("{name}-state"));
    clear(&state)?;
    let mut text = format!(
        "timezone = \"UTC\"\nstate_dir = {state:?}\n[target.local]\ntype = \"directory\"\npath = {to:?}\n\
         [job.web]\ntargets = [\"local\"]\n[job.web.source.application]\ntype = \"files\"\npaths = [{source:?}]\n"
    );
    if sealed {
        let key = dir.join(format!("{name}-key.txt"));
        let _ = fs::remove_file(&key); // of an earlier time
        let mut command = Command::new(AGENT);
        let (_, said, _) = run(command.args(["key", "generate", "--output"]).arg(&key))?;
        let public = said.lines().find_map(|line| line.strip_prefix("public key: "));
        let public = public.context("`agent key generate` names no public key")?;
        text.push_str(&format!("[encryption]\nrecipients = [\"{public}\"]\n"));
    }
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, text)?;
    Ok(file)
}

/// A backup of a job of a configuration, whose target is the new folder `to`, with all cores.
pub fn configured(config: &Path, job: &str, to: &Path) -> Result<Backup> {
    clear(to)?;
    fs::create_dir_all(to)?;
    let mut command = Command::new(AGENT);
    command.arg("--config").arg(config).args(["backup", job, "--fast", "--json"]);
    measured(command)
}

/// The seconds that a command takes that must succeed.
pub fn seconds(command: &mut Command) -> Result<f64> {
    Ok(run(command)?.0)
}

fn measured(mut command: Command) -> Result<Backup> {
    let (seconds, output, memory) = run(&mut command)?;
    let answer: serde_json::Value =
        serde_json::from_str(&output).context("reading what `agent backup --json` said")?;
    ensure!(answer["outcome"] == "success", "the backup ended as {}", answer["outcome"]);
    let step = |name: &str| -> f64 {
        let steps = answer["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        steps.iter().filter(|s| s["step"] == name).filter_map(|s| s["ms"].as_f64()).sum::<f64>() / 1000.0
    };
    let read_back = step("read-back");
    Ok(Backup {
        whole: seconds,
        read_back,
        published: seconds - read_back - step("retention"),
        stored: answer["stored_bytes"].as_u64().context("no stored_bytes")?,
        memory,
    })
}

/// What it is compared with: tar and zstd on all cores, a digest over the result, and an fsync. Gives the
/// seconds and the bytes stored.
pub fn by_hand(source: &Path, to: &Path) -> Result<(f64, u64)> {
    clear(to)?;
    fs::create_dir_all(to)?;
    let file = to.join("application.tar.zst");
    let script = r#"tar -I 'zstd -3 -T0' -C "$1" -cf "$2" . && sha256sum "$2" > "$2.sha256" && sync "$2""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(source).arg(&file);
    let (seconds, _, _) = run(&mut command)?;
    Ok((seconds, fs::metadata(&file)?.len()))
}

/// A whole restore into a new folder `to`; gives seconds and peak memory.
pub fn restore(backups: &Path, to: &Path) -> Result<(f64, u64)> {
    clear(to)?;
    let mut command = Command::new(AGENT);
    command.arg("--backups").arg(backups).args(["restore", "latest", "--to"]).arg(to);
    let (seconds, _, memory) = run(&mut command)?;
    Ok((seconds, memory))
}

/// What it is compared with: seconds until tar ended, and until what it wrote was durable.
pub fn restore_by_hand(backups: &Path, to: &Path) -> Result<(f64, f64)> {
    clear(to)?;
    fs::create_dir_all(to)?;
    let script = r#"archive=$(find "$1" -name '*.tar.zst') && tar -I zstd -C "$2" -xf "$archive""#;
    let begun = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(backups).arg(to);
    let (plain, _, _) = run(&mut command)?;
    let (_, _, _) = run(Command::new("sync").arg("-f").arg(to))?;
    Ok((plain, begun.elapsed().as_secs_f64()))
}

/// One file out of a backup, into a new folder; gives the seconds.
pub fn restore_one(backups: &Path, wanted: &Path, to: &Path) -> Result<f64> {
    clear(to)?;
    let mut command = Command::new(AGENT);
    command
        .arg("--backups")
        .arg(backups)
        .args(["restore", "latest", "--path"])
        .arg(wanted)
        .arg("--to")
        .arg(to);
    let (seconds, _, _) = run(&mut command)?;
    let back = to.join(wanted.strip_prefix("/")?);
    ensure!(fs::read(back)? == fs::read(wanted)?, "another content came back");
    Ok(seconds)
}

/// Nothing that another measurement left to be written may fall into this one.
pub fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("clearing up"),
        _ => {}
    }
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    Ok(())
}

/// Seconds, standard output, and peak resident memory of the process (not of its children).
pub fn run(command: &mut Command) -> Result<(f64, String, u64)> {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    // The output is small, so that a pipe holds it until the end.
    let mut memory = 0;
    let status = loop {
        // The kernel keeps the peak; the last look before the end is at most this pause too early.
        memory = memory.max(peak(&status_file).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let seconds = begun.elapsed().as_secs_f64();
    let output = child.wait_with_output()?;
    if !status.success() {
        bail!("{command:?} ended with {status}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok((seconds, String::from_utf8(output.stdout)?, memory))
}

fn peak(status_file: &str) -> Option<u64> {
    let text = fs::read_to_string(status_file).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// The value that so many in a hundred do not exceed.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
