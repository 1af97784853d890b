//! What a copy to a further target takes of the machine:
//!
//! ```text
//! cargo bench --bench copies [-- OPTION…]
//!
//! --size BYTES   the one component of the backup, such as 20GB [2GB]; about twice as much room is needed
//! --targets N    further folders that get a copy at the same time [1]
//! --limit BYTES  bandwidth_limit of each of them [none]
//! --dir DIR      where backups and copies go [target/tmp]
//! ```
//!
//! Memory is that of the process that makes copies and of its children, each at its peak, together: asked is less than
//! 120 MB for one copy of a component of 20 GB. The speed is printed beside that of `cp` and `sync` of the same backup.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use backup_agent::model::ByteSize;

/// The program under test, built with optimisation.
const AGENT: &str = env!("CARGO_BIN_EXE_agent");
/// What memory may be taken, in bytes.
const ASKED: u64 = 120_000_000;

struct Options {
    size: u64,
    targets: usize,
    limit: Option<String>,
    dir: PathBuf,
}

fn main() -> Result<()> {
    // A test runner that was told to take every target asks what tests there are: none.
    if std::env::args().any(|argument| argument == "--list") {
        return Ok(());
    }
    let options = options()?;
    clear(&options.dir)?;
    let config = configure(&options)?;
    println!("making a backup with one component of {}", ByteSize(options.size));
    let made = Command::new(AGENT)
        .arg("--config")
        .arg(&config)
        .args(["backup", "--fast", "--json"])
        .stdout(Stdio::piped())
        .output()?;
    // 4: good, and its copies still to be made.
    ensure!(made.status.code() == Some(4), "the backup: {}", String::from_utf8_lossy(&made.stdout));

    let by_hand = by_hand(&options.dir)?;
    let mut command = Command::new(AGENT);
    command.arg("--config").arg(&config).args(["tend", "--copy-wait", "7days"]);
    let (seconds, memory) = measured(command)?;
    for number in 0..options.targets {
        let found = stored(&options.dir.join(format!("copy{number}")))?;
        ensure!(found >= options.size, "{} of {} arrived", ByteSize(found), ByteSize(options.size));
    }
    let bytes = options.size as f64 * options.targets as f64;
    println!("{:<28} {:>12} {:>12}", "", "asked", "seen");
    println!(
        "{:<28} {:>12} {:>12}",
        "memory, all processes",
        ByteSize(ASKED).to_string(),
        ByteSize(memory).to_string()
    );
    println!("{:<28} {:>12} {:>9.1} MB/s", "copy, read back", "", bytes / 1e6 / seconds);
    println!("{:<28} {:>12} {:>9.1} MB/s", "cp and sync", "", options.size as f64 / 1e6 / by_hand);
    fs::remove_dir_all(&options.dir)?;
    ensure!(options.targets > 1 || memory < ASKED, "more memory than asked");
    Ok(())
}

fn options() -> Result<Options> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("copies");
    let mut options = Options { size: 2_000_000_000, targets: 1, limit: None, dir };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => {} // given by cargo
            "--size" => options.size = value()?.parse::<ByteSize>().map_err(anyhow::Error::msg)?.0,
            "--targets" => options.targets = value()?.parse().context("--targets")?,
            "--limit" => options.limit = Some(value()?),
            "--dir" => options.dir = std::path::absolute(value()?)?,
            other => bail!("unknown argument {other:?}; see the top of benches/copies/main.rs"),
        }
    }
    Ok(options)
}

fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("clearing up"),
        _ => Ok(fs::create_dir_all(folder)?),
    }
}

/// One job whose source is a stream that cannot be compressed; nothing is copied before it is asked for.
fn configure(options: &Options) -> Result<PathBuf> {
    let root = options.dir.display();
    let mut text =
        format!("state_dir = \"{root}/state\"\nmax_parallel_copies = {}\n", options.targets.max(1));
    let mut names = vec!["\"local\"".to_owned()];
    let limit =
        options.limit.as_ref().map_or_else(String::new, |limit| format!("bandwidth_limit = \"{limit}\"\n"));
    for number in 0..options.targets {
        names.push(format!("\"copy{number}\""));
        text.push_str(&format!(
            "[target.copy{number}]\ntype = \"directory\"\npath = \"{root}/copy{number}\"\n{limit}"
        ));
        fs::create_dir(options.dir.join(format!("copy{number}")))?;
    }
    fs::create_dir(options.dir.join("local"))?;
    text.push_str(&format!(
        "[target.local]\ntype = \"directory\"\npath = \"{root}/local\"\n\
         [job.big]\ntargets = [{}]\ncopy_wait = \"0s\"\n\
         [job.big.source.stream]\ntype = \"command\"\ncommand = [\"head\", \"-c\", \"{}\", \"/dev/urandom\"]\n",
        names.join(", "),
        options.size
    ));
    let file = options.dir.join("config.toml");
    fs::write(&file, text)?;
    Ok(file)
}

/// Seconds that `cp` and `sync` take for the same.
fn by_hand(dir: &Path) -> Result<f64> {
    let to = dir.join("by-hand");
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    let begun = Instant::now();
    let script = r#"cp -r "$1/local" "$2" && sync -f "$2""#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(dir).arg(&to).status()?;
    ensure!(status.success(), "cp ended with {status}");
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_dir_all(&to)?;
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    Ok(seconds)
}

/// Seconds, and the largest sum over time of the peaks of the process and its living children.
fn measured(mut command: Command) -> Result<(f64, u64)> {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let mut most = 0;
    let status = loop {
        let peaks = family(child.id());
        most = most.max(peaks.values().sum());
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok((begun.elapsed().as_secs_f64(), most))
}

/// Peak resident memory of a process and of its children, by process.
fn family(parent: u32) -> BTreeMap<u32, u64> {
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.map(|pid| (pid, status(pid)))
        .filter(|(pid, text)| *pid == parent || number(text, "PPid:") == Some(u64::from(parent)))
        .map(|(pid, text)| (pid, number(&text, "VmHWM:").unwrap_or(0) * 1024))
        .collect()
}

/// Bytes of all files below a folder.
fn stored(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { stored(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
