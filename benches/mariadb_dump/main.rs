//! What a backup of a MariaDB database costs beside `mariadb-dump | zstd`.
//!
//! ```text
//! cargo bench --bench mariadb_dump -- [--pairs 5] [--mb 2000] [--dir DIR]
//! ```
//!
//! Starts a server of its own with a database whose dump has about so many megabytes, and backs it up in turn by
//! the agent (`--fast`) and by hand, then says what was asked and what was seen. DIR (a temporary folder when absent)
//! needs about half as much room, and TMPDIR, where the server keeps its data, twice as much; where there is less, it
//! ends before it begins.

#[path = "../first_backup/measure.rs"]
mod measure;
#[path = "../../tests/peers/mod.rs"]
mod peers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use peers::mariadb::MariaDb;

/// What is asked: a dump costs hardly more than by hand, and little memory.
const MOST_RATIO: f64 = 1.05;
const MOST_MEMORY: f64 = 120.0;
/// Rows of about 1 kB in the dump.
const ROW: u64 = 1_000;

fn main() -> Result<()> {
    // A test runner that was told to take every target asks what tests there are: none.
    if std::env::args().any(|argument| argument == "--list") {
        return Ok(());
    }
    let (mut pairs, mut megabytes, mut dir) = (5, 2_000, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => {} // given by cargo
            "--pairs" => pairs = value()?.parse().context("--pairs")?,
            "--mb" => megabytes = value()?.parse().context("--mb")?,
            "--dir" => dir = Some(std::path::absolute(value()?)?),
            other => bail!("unknown argument {other:?}; see the top of benches/mariadb_dump/main.rs"),
        }
    }
    let temporary = tempfile::tempdir()?;
    let dir: PathBuf = dir.unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&dir)?;
    measure::room(&std::env::temp_dir(), megabytes * 2_000_000)?;
    measure::room(&dir, megabytes * 500_000)?;
    let server = MariaDb::start();
    eprintln!("filling the server …");
    fill(&server, megabytes * 1_000_000 / ROW);
    let config = configure(&server, &dir)?;

    println!("a dump of about {megabytes} MB; seconds");
    println!(" pair   mariadb-dump | zstd   agent, published   ratio   agent, whole   peak memory");
    let (mut ratios, mut peaks) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        let agent = || measure::configured(&config, "web", &dir.join("agent"));
        let by_hand = || by_hand(&server, &dir);
        // In turn, so that whatever grows or fades meanwhile meets both.
        let (agent, hand) = if pair % 2 == 1 {
            let hand = by_hand()?;
            (agent()?, hand)
        } else {
            (agent()?, by_hand()?)
        };
        let ratio = agent.published / hand;
        ratios.push(ratio);
        peaks.push(agent.memory as f64 / 1e6);
        println!(
            "{pair:5}   {hand:19.2}   {:16.2}   {ratio:5.3}   {:12.2}   {:8.1} MB",
            agent.published,
            agent.whole,
            agent.memory as f64 / 1e6
        );
    }
    measure::verdict("agent, published, to mariadb-dump | zstd", MOST_RATIO, measure::median(&ratios), "");
    measure::verdict("peak memory", MOST_MEMORY, measure::percentile(&peaks, 100.0), " MB");
    Ok(())
}

/// Text that compresses about as well as what people type, and numbers.
fn fill(server: &MariaDb, rows: u64) {
    server.load(
        b"CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, label VARCHAR(80), body TEXT, price DECIMAL(10,2), at DATETIME) ENGINE=InnoDB",
    );
    const BATCH: u64 = 100_000;
    for begin in (1..=rows).step_by(BATCH as usize) {
        let end = (begin + BATCH - 1).min(rows);
        server.load(
            format!(
                "USE shop; INSERT INTO orders (label, body, price, at)
                 SELECT CONCAT('order ', seq), CONCAT(SHA2(seq, 512), REPEAT(CONCAT(' item ', seq MOD 977, ' at a price of ', seq MOD 89), 28), SHA2(seq + 1, 256)),
                        seq MOD 10007 / 7, '2026-01-01' + INTERVAL seq SECOND
                 FROM seq_{begin}_to_{end}"
            )
            .as_bytes(),
        );
    }
}

fn configure(server: &MariaDb, dir: &Path) -> Result<PathBuf> {
    let root = dir.display();
    let text = format!(
        "state_dir = \"{root}/state\"\n[target.local]\ntype = \"directory\"\npath = \"{root}/agent\"\n[job.web]\ntargets = [\"local\"]\n\
         [job.web.source.database]\ntype = \"mysql\"\nsocket = \"{}\"\nuser = \"root\"\ndatabases = [\"shop\"]\n",
        server.socket().display()
    );
    let path = dir.join("config.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// What it is compared with, on all cores, and made durable. Gives the seconds.
fn by_hand(server: &MariaDb, dir: &Path) -> Result<f64> {
    let to = dir.join("by-hand");
    measure::clear(&to)?;
    fs::create_dir_all(&to)?;
    let script = r#"mariadb-dump --no-defaults --socket="$1" --user=root --single-transaction --quick --routines --triggers --events --hex-blob --databases shop | zstd -3 -T0 -q > "$2" && sync "$2""#;
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", script, "bash"]).arg(server.socket()).arg(to.join("shop.sql.zst"));
    measure::seconds(&mut command)
}
