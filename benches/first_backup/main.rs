//! The figures of this project, measured on whole runs of the release binary:
//!
//! ```text
//! cargo bench --bench first_backup -- [speed] [encrypted] [memory] [files] [daemon] [restore] [one-file] [OPTION…]
//!
//! speed    first backup against tar + zstd + sha256sum + sync, in pairs, page cache warm
//! encrypted  first backup with and without encryption to one public key, in pairs; peak memory of both
//! memory   peak memory for 1 GB of source and for a larger one
//! files    peak memory for 1,000,000 empty files
//! daemon   /metrics while a backup runs; start to ready
//! restore  a whole restore against tar -I zstd -xf, with and without sync, in pairs
//! one-file one file of 4 kB out of a large archive
//!
//! --pairs N      pairs of `speed`, `encrypted` and `restore` [5]
//! --big N        how many times as large the larger source of `memory` and `one-file` is [4]
//! --dir DIR      where trees and backups go [target/tmp]; about three times the source is needed
//! ```
//!
//! Without a name, all of them. Close what else uses the machine: two cores are compared with two cores.

mod corpus;
mod daemon;
mod measure;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use corpus::{Shape, WEB_APPLICATION};
use measure::{median, percentile};

struct Options {
    what: Vec<String>,
    pairs: usize,
    big: u64,
    dir: PathBuf,
}

/// A measurement, and its name on the command line.
type Measurement = (&'static str, fn(&Options) -> Result<()>);

const MEASUREMENTS: [Measurement; 7] = [
    ("speed", speed),
    ("encrypted", encrypted),
    ("memory", memory),
    ("files", files),
    ("daemon", watched),
    ("restore", restore),
    ("one-file", one_file),
];

fn main() -> Result<()> {
    // A test runner that was told to take every target asks what tests there are: none.
    if std::env::args().any(|argument| argument == "--list") {
        return Ok(());
    }
    let options = options()?;
    std::fs::create_dir_all(&options.dir)?;
    for (name, measure) in MEASUREMENTS {
        if options.what.is_empty() || options.what.iter().any(|wanted| wanted == name) {
            measure(&options).with_context(|| format!("measuring {name}"))?;
            println!();
        }
    }
    Ok(())
}

fn options() -> Result<Options> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("first_backup");
    let mut options = Options { what: Vec::new(), pairs: 5, big: 4, dir };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => {} // given by cargo
            "--pairs" => options.pairs = value()?.parse().context("--pairs")?,
            "--big" => options.big = value()?.parse().context("--big")?,
            "--dir" => options.dir = std::path::absolute(value()?)?,
            name if MEASUREMENTS.iter().any(|(known, _)| *known == name) => options.what.push(argument),
            other => bail!("unknown argument {other:?}; see the top of benches/first_backup/main.rs"),
        }
    }
    Ok(options)
}

fn speed(options: &Options) -> Result<()> {
    let source = corpus::make(&options.dir, "web", WEB_APPLICATION)?;
    let bytes = corpus::warm(&source)?;
    println!("first backup of {} MB, page cache warm; seconds", bytes / 1_000_000);
    println!(" pair   tar+zstd+sha256sum+sync   agent, published   ratio   read-back   agent, whole");
    let (mut ratios, mut whole_ratios, mut sizes) = (Vec::new(), Vec::new(), (0, 0));
    for pair in 1..=options.pairs {
        let agent = || measure::backup(&source, &options.dir.join("agent"));
        let by_hand = || measure::by_hand(&source, &options.dir.join("by-hand"));
        // In turn, so that whatever grows or fades meanwhile meets both.
        let (agent, (hand, hand_bytes)) = if pair % 2 == 1 {
            let hand = by_hand()?;
            (agent()?, hand)
        } else {
            (agent()?, by_hand()?)
        };
        let ratio = agent.published / hand;
        ratios.push(ratio);
        whole_ratios.push(agent.whole / hand);
        sizes = (agent.stored, hand_bytes);
        println!(
            "{pair:5}   {hand:23.2}   {:16.2}   {ratio:5.2}   {:9.2}   {:12.2}",
            agent.published, agent.read_back, agent.whole
        );
    }
    println!("median ratio: {:.3} published, {:.3} with read-back", median(&ratios), median(&whole_ratios));
    println!(
        "stored: {} MB by the agent, {} MB by hand ({:+.1} %)",
        sizes.0 / 1_000_000,
        sizes.1 / 1_000_000,
        (sizes.0 as f64 / sizes.1 as f64 - 1.0) * 100.0
    );
    clean(options)
}

fn encrypted(options: &Options) -> Result<()> {
    let source = corpus::make(&options.dir, "web", WEB_APPLICATION)?;
    let bytes = corpus::warm(&source)?;
    let (clear, sealed) = (options.dir.join("agent"), options.dir.join("sealed"));
    let plain_config = measure::configuration(&options.dir, "plain", &source, &clear, false)?;
    let sealed_config = measure::configuration(&options.dir, "sealed", &source, &sealed, true)?;
    println!("first backup of {} MB, page cache warm; seconds until published, and whole", bytes / 1_000_000);
    println!(" pair   in clear   encrypted   ratio    whole    whole   ratio   peak memory");
    let (mut ratios, mut whole_ratios, mut sizes) = (Vec::new(), Vec::new(), (0, 0));
    for pair in 1..=options.pairs {
        let in_clear = || measure::configured(&plain_config, "web", &clear);
        let encrypted = || measure::configured(&sealed_config, "web", &sealed);
        let (plain, sealed) = if pair % 2 == 1 {
            let plain = in_clear()?;
            (plain, encrypted()?)
        } else {
            let sealed = encrypted()?;
            (in_clear()?, sealed)
        };
        ratios.push(sealed.published / plain.published);
        whole_ratios.push(sealed.whole / plain.whole);
        sizes = (plain.stored, sealed.stored);
        println!(
            "{pair:5}   {:8.2}   {:9.2}   {:5.2}   {:6.2}   {:6.2}   {:5.2}   {:.1} and {:.1} MB",
            plain.published,
            sealed.published,
            sealed.published / plain.published,
            plain.whole,
            sealed.whole,
            sealed.whole / plain.whole,
            plain.memory as f64 / 1e6,
            sealed.memory as f64 / 1e6
        );
    }
    println!("median ratio: {:.3} published, {:.3} with read-back", median(&ratios), median(&whole_ratios));
    println!("stored: {} bytes in clear, {} encrypted", sizes.0, sizes.1);
    measure::clear(&sealed)?;
    clean(options)
}

fn memory(options: &Options) -> Result<()> {
    println!("peak memory, `--fast`");
    for (name, times) in [("web", 1), ("big", options.big)] {
        let source = corpus::make(&options.dir, name, WEB_APPLICATION.times(times))?;
        let run = measure::backup(&source, &options.dir.join("agent"))?;
        println!("{:6.1} GB: {:6.1} MB", gigabytes(&source)?, run.memory as f64 / 1e6);
    }
    clean(options)
}

fn gigabytes(source: &Path) -> Result<f64> {
    Ok(corpus::warm(source)? as f64 / 1e9)
}

fn files(options: &Options) -> Result<()> {
    const FEW: u64 = 100_000;
    const MANY: u64 = 1_000_000;
    println!("peak memory for empty files");
    let mut peaks = Vec::new();
    for (name, count) in [("few", FEW), ("many", MANY)] {
        let shape = Shape { empty_files: count, ..Shape::default() };
        let source = corpus::make(&options.dir, name, shape)?;
        let run = measure::backup(&source, &options.dir.join("agent"))?;
        println!("{count:8} files: {:6.1} MB in {:.1} s", run.memory as f64 / 1e6, run.whole);
        peaks.push(run.memory as f64);
    }
    println!("growth: {:.1} bytes a file", (peaks[1] - peaks[0]) / (MANY - FEW) as f64);
    clean(options)
}

fn watched(options: &Options) -> Result<()> {
    let source = corpus::make(&options.dir, "web", WEB_APPLICATION)?;
    corpus::warm(&source)?;
    let folder = options.dir.join("daemon");
    let show = |what: &str, times: &[f64]| {
        println!(
            "{what}: median {:.1} ms, 99 % within {:.1} ms, longest {:.1} ms ({} times)",
            median(times),
            percentile(times, 99.0),
            percentile(times, 100.0),
            times.len()
        );
    };
    show("start to ready", &daemon::starts(&folder, &source, 10)?);
    show("/metrics while a backup runs", &daemon::metrics_under_load(&folder, &source)?);
    measure::clear(&folder)
}

fn restore(options: &Options) -> Result<()> {
    let source = corpus::make(&options.dir, "web", WEB_APPLICATION)?;
    let backups = options.dir.join("agent");
    measure::backup(&source, &backups)?;
    println!("restore of {:.1} GB, page cache warm; seconds", gigabytes(&source)?);
    println!(" pair   tar -I zstd   and sync   agent   ratio   to tar and sync   peak memory");
    let (mut ratios, mut synced_ratios) = (Vec::new(), Vec::new());
    for pair in 1..=options.pairs {
        let agent = || measure::restore(&backups, &options.dir.join("restored"));
        let by_hand = || measure::restore_by_hand(&backups, &options.dir.join("by-hand"));
        let ((seconds, memory), (plain, synced)) = if pair % 2 == 1 {
            let hand = by_hand()?;
            (agent()?, hand)
        } else {
            (agent()?, by_hand()?)
        };
        ratios.push(seconds / plain);
        synced_ratios.push(seconds / synced);
        println!(
            "{pair:5}   {plain:11.2}   {synced:8.2}   {seconds:5.2}   {:5.2}   {:15.2}   {:8.1} MB",
            seconds / plain,
            seconds / synced,
            memory as f64 / 1e6
        );
    }
    println!("median ratio: {:.3} to tar, {:.3} to tar and sync", median(&ratios), median(&synced_ratios));
    measure::clear(&options.dir.join("restored"))?;
    clean(options)
}

fn one_file(options: &Options) -> Result<()> {
    let source = corpus::make(&options.dir, "big", WEB_APPLICATION.times(options.big))?;
    let wanted = corpus::file_of_about(&source, 4096)?.context("no file of about 4 kB in the tree")?;
    let backups = options.dir.join("agent");
    measure::backup(&source, &backups)?;
    let mut times = Vec::new();
    for _ in 0..11 {
        times.push(measure::restore_one(&backups, &wanted, &options.dir.join("restored"))? * 1000.0);
    }
    println!(
        "one file of 4 kB out of {:.1} GB: median {:.0} ms, longest {:.0} ms",
        gigabytes(&source)?,
        median(&times),
        percentile(&times, 100.0)
    );
    measure::clear(&options.dir.join("restored"))?;
    clean(options)
}

/// The backups; the trees are kept for the next time.
fn clean(options: &Options) -> Result<()> {
    measure::clear(&options.dir.join("agent"))?;
    measure::clear(&options.dir.join("by-hand"))
}
