//! A host with jobs, and its daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backup_agent::clock::{Clock, SystemClock};
use chrono::{DateTime, Utc};

const PATIENCE: Duration = Duration::from_secs(120);
/// The longest name a job may have.
pub const LONG: &str = "customer-portal-attachments-and-invoices-of-the-last-ten-years-1";

const CONFIG: &str = r#"
state_dir = "FOLDER/state"
host = "db1.example.org"
timezone = "Europe/Berlin"
listen = "127.0.0.1:0"
check_interval = "1s"
max_parallel_jobs = 4
[target.local]
type = "directory"
path = "FOLDER/local"
template = "{job}/%Y/%m/%d/%H%M"
[target.nas]
type = "directory"
path = "FOLDER/nas"
template = "{job}/%Y/%m/%d/%H%M"
require_mount = true
[job.shop]
schedule = "0 3 1 1 *"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
drill = { schedule = "30 5 1 1 *" }
[job.accounting]
targets = ["local", "nas"]
drill = { schedule = "30 5 1 1 *" }
source.database = { type = "command", command = ["false"] }
[job.mailboxes]
schedule = "@hourly"
trigger = "external"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.media-library]
schedule = "@hourly"
targets = ["local"]
source.stream = { type = "command", command = ["sh", "-c", "while [ -e FOLDER/slow ]; do head -c 60000 /dev/zero; sleep 0.05; done"] }
[job.documents]
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.archive]
schedule = "@daily"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.fresh]
schedule = "0 3 1 1 *"
trigger = "external"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.LONG]
targets = ["local", "nas"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[notify.admin]
type = "email"
smtp = "smtp://127.0.0.1:1"
from = "agent@example.org"
to = ["admin@example.org"]
"#;

pub struct Host {
    pub folder: tempfile::TempDir,
    pub now: DateTime<Utc>,
}

impl Host {
    pub fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap(), now: SystemClock.now() };
        for name in ["source", "local", "nas"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        fs::write(host.path("source/a.txt"), "content\n".repeat(5_000)).unwrap();
        fs::write(host.path("slow"), "").unwrap();
        let folder = host.folder.path().to_str().unwrap();
        let text = CONFIG.replace("FOLDER", folder).replace("LONG", LONG);
        fs::write(host.path("config.toml"), text).unwrap();
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn agent(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path("config.toml")).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command
    }

    pub fn start(&self) -> Daemon {
        let mut command = self.agent();
        command.arg("run").stdout(Stdio::null()).stderr(Stdio::piped());
        Daemon::start(command)
    }
}

/// A running daemon; ended when dropped.
pub struct Daemon {
    pub child: Child,
    pub address: SocketAddr,
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the daemon ended:\n{said}")).unwrap();
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(['/', ' ', ',']).next().unwrap().parse().unwrap();
            }
            said.push_str(&line);
            said.push('\n');
        };
        // Nobody reads on, but the pipe must not fill up.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, address }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn wait_for(&self, path: &str, texts: &[&str]) {
        let begun = Instant::now();
        loop {
            let (_, body) = self.get(path);
            let missing: Vec<_> = texts.iter().filter(|text| !body.contains(**text)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{missing:?} did not come to {path}:\n{body}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
