//! The daemon from outside: how soon it is ready, and how soon it answers while it backs up.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::measure::{self, AGENT};

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon, ended with this value.
pub struct Daemon {
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    /// With its log beside the configuration; `now` has it make every backup at once.
    pub fn start(config: &Path, address: SocketAddr, now: bool) -> Result<Self> {
        let log = fs::File::create(config.with_extension("log"))?;
        let mut command = Command::new(AGENT);
        command.arg("run").arg("--config").arg(config);
        if now {
            command.arg("--now");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { child, address })
    }

    /// How long it took since `begun` until `/readyz` answered with 200.
    pub fn wait_until_ready(&mut self, begun: Instant) -> Result<Duration> {
        loop {
            if get(self.address, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(begun.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended with {status}");
            }
            ensure!(begun.elapsed() < PATIENCE, "the daemon was not ready after {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer as it came, head and body.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A configuration in `folder` that backs up `source`, and the address it listens on.
fn configuration(folder: &Path, source: &Path) -> Result<(PathBuf, SocketAddr)> {
    measure::clear(folder)?;
    fs::create_dir_all(folder.join("target"))?;
    // Between this and the daemon's own bind somebody else may take the port; the start then fails loudly.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let at = folder.display();
    let text = format!(
        "state_dir = \"{at}/state\"\nlisten = \"{address}\"\n\n\
         [target.local]\ntype = \"directory\"\npath = \"{at}/target\"\n\n\
         [job.app]\nschedule = \"0 3 1 1 *\"\ntargets = [\"local\"]\n\n\
         [job.app.source.application]\ntype = \"files\"\npaths = [\"{}\"]\n",
        source.display()
    );
    let file = folder.join("config.toml");
    fs::write(&file, text)?;
    Ok((file, address))
}

/// From start to an answer of 200 at `/readyz`, in milliseconds; each with the state of the one before.
pub fn starts(folder: &Path, source: &Path, count: usize) -> Result<Vec<f64>> {
    let (config, address) = configuration(folder, source)?;
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        let mut daemon = Daemon::start(&config, address, false)?;
        times.push(daemon.wait_until_ready(begun)?.as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// Times of answers of `/metrics` in milliseconds, on connections of their own, while a backup runs.
pub fn metrics_under_load(folder: &Path, source: &Path) -> Result<Vec<f64>> {
    let (config, address) = configuration(folder, source)?;
    let begun = Instant::now();
    let mut daemon = Daemon::start(&config, address, true)?;
    daemon.wait_until_ready(begun)?;
    let mut times = Vec::new();
    let mut seen = false;
    while begun.elapsed() < Duration::from_secs(300) {
        let asked = Instant::now();
        let answer = get(address, "/metrics").context("asking for /metrics")?;
        let took = asked.elapsed().as_secs_f64() * 1000.0;
        ensure!(answer.starts_with("HTTP/1.1 200"), "/metrics answered {:?}", answer.lines().next());
        let running = answer.lines().any(|line| line.starts_with("backup_running{") && line.ends_with(" 1"));
        match (running, seen) {
            (true, _) => {
                seen = true;
                times.push(took);
            }
            (false, true) => return Ok(times),
            (false, false) => ensure!(begun.elapsed() < PATIENCE, "no backup began"),
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("the backup did not end")
}
