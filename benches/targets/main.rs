//! What a copy to a target over the network costs beside `rclone copy` of the same file to the same server:
//!
//! ```text
//! cargo bench --bench targets -- [s3] [sftp] [OPTION…]
//!
//! s3         a server of this machine: needs `rclone`, and `s3s-fs` (cargo install s3s-fs --version 0.14.1 --features binary)
//! sftp       sshd on loopback: needs `rclone` and the Debian packages openssh-server and openssh-client
//!
//! --mb N     size of the file, which cannot be compressed [2000]
//! --pairs N  pairs, one after the other [5]
//! --dir DIR  where file, server and copies are [target/tmp/targets]
//! ```
//!
//! The copy is what the agent's child process does with a component: it reads the file, digests it, writes it to the
//! target. Asked for: at least 0.9 of the speed of rclone, and less than 120 MB of memory whatever the size.

#[path = "../first_backup/measure.rs"]
mod measure;
mod s3;
mod sftp;

use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use backup_agent::config::{self, LoadOptions};
use backup_agent::target;
use measure::{median, percentile};
use sha2::{Digest as _, Sha256};

pub struct Options {
    what: Vec<String>,
    pub megabytes: u64,
    pub pairs: usize,
    pub dir: PathBuf,
}

/// A server that is asked by both.
pub trait Peer {
    /// What it is called.
    fn name(&self) -> String;

    /// The table of a target there, named `away`.
    fn table(&self) -> String;

    /// `rclone copy` of a file into a folder there.
    fn rclone(&self, file: &Path, folder: &str) -> Command;
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // A test runner that was told to take every target asks what tests there are: none.
    if arguments.iter().any(|argument| argument == "--list") {
        return Ok(());
    }
    // This program again, as the one that is measured.
    if let [_, verb, config, file, folder] = arguments.as_slice()
        && verb == "copy-one"
    {
        return copy_one(Path::new(config), Path::new(file), folder);
    }
    let options = options()?;
    measure::clear(&options.dir)?;
    fs::create_dir_all(&options.dir)?;
    if options.what.is_empty() || options.what.iter().any(|what| what == "s3") {
        let peer = s3::start(&options.dir)?;
        compare(&options, &peer)?;
    }
    if options.what.is_empty() || options.what.iter().any(|what| what == "sftp") {
        let peer = sftp::start(&options.dir)?;
        compare(&options, &peer)?;
    }
    measure::clear(&options.dir)
}

fn options() -> Result<Options> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets");
    let mut options = Options { what: Vec::new(), megabytes: 2000, pairs: 5, dir };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--bench" => {} // given by cargo
            "--mb" => options.megabytes = value()?.parse().context("--mb")?,
            "--pairs" => options.pairs = value()?.parse().context("--pairs")?,
            "--dir" => options.dir = std::path::absolute(value()?)?,
            "s3" | "sftp" => options.what.push(argument),
            other => bail!("unknown argument {other:?}; see the top of benches/targets/main.rs"),
        }
    }
    Ok(options)
}

fn compare(options: &Options, peer: &dyn Peer) -> Result<()> {
    let file = options.dir.join("component.tar.zst");
    fill(&file, options.megabytes)?;
    let config = options.dir.join("config.toml");
    fs::write(&config, configuration(&options.dir, &peer.table()))?;
    println!("{}: copy of {} MB, page cache warm; seconds", peer.name(), options.megabytes);
    println!(" pair   rclone copy    agent   speed   rclone MB   agent MB");
    let (mut speeds, mut peaks) = (Vec::new(), Vec::new());
    for pair in 1..=options.pairs {
        let agent = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("copy-one").arg(&config).arg(&file).arg(format!("agent-{pair}"));
            measure::run(&mut command)
        };
        let rclone = || measure::run(&mut peer.rclone(&file, &format!("rclone-{pair}")));
        // In turn, so that whatever grows or fades meanwhile meets both.
        let ((agent, _, agent_peak), (rclone, _, rclone_peak)) = if pair % 2 == 1 {
            let rclone = rclone()?;
            (agent()?, rclone)
        } else {
            (agent()?, rclone()?)
        };
        speeds.push(rclone / agent);
        peaks.push(agent_peak as f64 / 1e6);
        let (agent_mb, rclone_mb) = (agent_peak as f64 / 1e6, rclone_peak as f64 / 1e6);
        println!(
            "{pair:5}   {rclone:11.2}   {agent:6.2}   {:5.2}   {rclone_mb:9.1}   {agent_mb:8.1}",
            rclone / agent
        );
    }
    println!(
        "median speed: {:.3} of rclone's (asked: 0.9); peak memory: {:.1} MB (asked: under 120)",
        median(&speeds),
        percentile(&peaks, 100.0)
    );
    Ok(())
}

/// A file that cannot be compressed, the same each time.
fn fill(path: &Path, megabytes: u64) -> Result<()> {
    let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..megabytes * 1_000_000 / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(())
}

fn configuration(dir: &Path, table: &str) -> String {
    format!(
        "host = \"bench\"\nstate_dir = \"{0}/state\"\n{table}\n[job.web]\ntargets = [\"away\"]\n\
         [job.web.source.files]\ntype = \"files\"\npaths = [\"{0}\"]\n",
        dir.display()
    )
}

/// What the child process does with one component.
fn copy_one(config: &Path, file: &Path, folder: &str) -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let loaded = config::load(&LoadOptions::new(Some(config.to_owned())))?;
    let name = "away".parse()?;
    let target = target::open(&name, &loaded.config.target[&name], None, None)?;
    // A run of its own for each, so that none meets the other's staging folder.
    let pair: u32 =
        folder.rsplit('-').next().unwrap_or_default().parse().context("the number of the pair")?;
    let run = format!("20261124T18{:02}{:02}Z-aaaaaa", pair / 60 % 60, pair % 60).parse()?;
    let mut stage = target.stage(&run, &[folder.to_owned()])?;
    let mut output = stage.create("component.tar.zst")?;
    let mut input = fs::File::open(file)?;
    let (mut digest, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let got = input.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        output.write_all(&buffer[..got])?;
        digest.update(&buffer[..got]);
        bytes += got as u64;
    }
    output.finish(bytes)?;
    println!("{}", hex::encode(digest.finalize()));
    Ok(())
}
