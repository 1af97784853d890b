//! A host with a daemon. What the tests share.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backup_agent::model::JobName;
use backup_agent::state::{Run, State};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with sources, targets, a state and a configuration.
pub struct Host {
    pub folder: tempfile::TempDir,
}

/// A source that takes as long as the file `slow` beside it says, and says when it has begun.
pub const SLOW: &str = r#"
[job.web.source.dump]
type = "command"
command = ["sh", "-c", "echo begun > FOLDER/begun; while [ -e FOLDER/slow ]; do sleep 0.05; done; echo done"]
"#;

impl Host {
    pub fn new(job_lines: &str) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["source", "local", "nas"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        fs::write(host.path("source/a.txt"), "content\n").unwrap();
        host.configure("127.0.0.1:0", job_lines, SLOW);
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn configure(&self, listen: &str, job_lines: &str, more: &str) {
        let text = format!(
            r#"
state_dir = "FOLDER/state"
timezone = "UTC"
listen = "{listen}"
check_interval = "2s"
shutdown_timeout = "10m"
[metrics]
textfile = "FOLDER/agent.prom"
[target.local]
type = "directory"
path = "FOLDER/local"
[target.nas]
type = "directory"
path = "FOLDER/nas"
[job.web]
targets = ["local", "nas"]
{job_lines}
[job.web.source.files]
type = "files"
paths = ["FOLDER/source"]
[notify.admin]
type = "email"
smtp = "smtp://127.0.0.1:1"
from = "agent@example.org"
to = ["admin@example.org"]
{more}"#
        );
        let text = text.replace("FOLDER", self.folder.path().to_str().unwrap());
        fs::write(self.path("config.toml"), text).unwrap();
    }

    /// Makes the source of the next runs wait until [`Host::go_on`].
    pub fn hold(&self) {
        fs::write(self.path("slow"), "").unwrap();
    }

    pub fn go_on(&self) {
        fs::remove_file(self.path("slow")).unwrap();
    }

    pub fn state(&self) -> State {
        State::open_read_only(&self.path("state")).unwrap()
    }

    pub fn last_run(&self) -> Option<Run> {
        self.state().last_run(&job()).unwrap()
    }

    pub fn last_ended_run(&self) -> Run {
        let runs = self.state().runs(Some(&job()), 100).unwrap();
        runs.into_iter().find(|run| run.outcome.is_some()).expect("a run that ended")
    }

    pub fn ended_runs(&self) -> usize {
        self.state().runs(Some(&job()), 100).unwrap().iter().filter(|run| run.outcome.is_some()).count()
    }

    pub fn start(&self, arguments: &[&str]) -> Daemon {
        self.start_with(arguments, |_| {})
    }

    pub fn start_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.args(["--config", self.path("config.toml").to_str().unwrap(), "run"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        change(&mut command);
        Daemon::spawn(command)
    }
}

pub fn job() -> JobName {
    "web".parse().unwrap()
}

/// A running daemon and all it has said. Killed when dropped.
pub struct Daemon {
    pub child: Child,
    pub said: Arc<Mutex<String>>,
    pub readers: Vec<std::thread::JoinHandle<()>>,
}

impl Daemon {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = Arc::<Mutex<String>>::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.into_iter().map(|output| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    said.push_str(&line);
                    said.push('\n');
                }
            })
        });
        let readers = readers.collect();
        Self { child, said, readers }
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < PATIENCE, "{what} did not happen; the daemon said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The address it last said it listens at.
    pub fn address(&self) -> SocketAddr {
        let last = || {
            let said = self.said();
            let (_, after) = said.rsplit_once("metrics at http://")?;
            after.split('/').next()?.parse::<SocketAddr>().ok()
        };
        self.wait_for("listening", || last().is_some());
        last().unwrap()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // What it said last is still on its way; a child of it may keep the pipe open.
                let closing = Instant::now();
                while closing.elapsed() < Duration::from_secs(20)
                    && self.readers.iter().any(|r| !r.is_finished())
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it did not end; it said:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.end()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a GET, and how long it took.
pub fn get(address: SocketAddr, path: &str) -> (u16, String, Duration) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let took = begun.elapsed();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned(), took)
}

pub fn metric(address: SocketAddr, series: &str) -> Option<f64> {
    let (_, body, _) = get(address, "/metrics");
    body.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// Folders a run left unfinished.
pub fn partials(host: &Host) -> Vec<PathBuf> {
    let found = [host.path("local"), host.path("nas")].into_iter().flat_map(|target| all_below(&target));
    found.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".partial-")).collect()
}

pub fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(all_below(&entry.path()));
        }
    }
    found
}
