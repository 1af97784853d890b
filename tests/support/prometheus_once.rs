//! A real Prometheus that scrapes one target, questions to it, and an agent it hears of.

#![allow(dead_code, missing_docs)]

#[path = "port.rs"]
mod port;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// A process that is ended with the test.
pub struct Ended(pub Child);

impl Ended {
    /// Starts a program that has nothing to say.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program is installed"))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Configures an agent with one job below `folder`; `more` comes before its tables.
pub fn configure_agent(folder: &Path, more: &str) {
    for name in ["source", "target"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join("source/a.txt"), "content\n").unwrap();
    let text = format!(
        r#"
state_dir = "FOLDER/state"
listen = "127.0.0.1:0"
{more}
[target.local]
type = "directory"
path = "FOLDER/target"
[job.web]
schedule = "0 3 * * *"
targets = ["local"]
[job.web.source.files]
type = "files"
paths = ["FOLDER/source"]
"#
    );
    fs::write(folder.join("config.toml"), text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
}

/// The agent of [`configure_agent`], to be started: a daemon that makes a backup at once.
pub fn agent(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.arg("--config").arg(folder.join("config.toml")).args(["run", "--now"]);
    command
}

/// Starts a node_exporter that reads the text files in `folder`, and nothing else.
pub fn start_node_exporter(folder: &Path) -> (Ended, SocketAddr) {
    let address = port::free_address();
    let exporter = Ended::start(
        Command::new("prometheus-node-exporter")
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg(format!("--collector.textfile.directory={}", folder.display()))
            .arg(format!("--web.listen-address={address}")),
    );
    (exporter, address)
}

/// Starts a Prometheus with this configuration; its files stand in `folder`.
pub fn run_prometheus(folder: &Path, config: &str) -> (Ended, SocketAddr) {
    let address = port::free_address();
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    let prometheus = Ended::start(
        Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}")),
    );
    (prometheus, address)
}

/// Starts a Prometheus that asks `target` each second; its files stand in `folder`.
pub fn start_prometheus(folder: &Path, job: &str, target: SocketAddr) -> (Ended, SocketAddr) {
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n  - job_name: {job}\n    static_configs:\n      - targets: ['{target}']\n"
    );
    run_prometheus(folder, &config)
}

/// The series that a query gives; none while Prometheus does not answer.
pub fn series(prometheus: SocketAddr, query: &str) -> Option<Vec<Value>> {
    let mut stream = TcpStream::connect(prometheus).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: {prometheus}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let json: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    json["data"]["result"].as_array().cloned()
}

/// The value of a query with one result; none while there is none.
pub fn ask(prometheus: SocketAddr, query: &str) -> Option<f64> {
    series(prometheus, query)?.first()?["value"][1].as_str()?.parse().ok()
}

/// Waits until the value of a query is as it should be, and gives it.
#[track_caller]
pub fn wait_for(prometheus: SocketAddr, query: &str, good: impl Fn(f64) -> bool) -> f64 {
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < PATIENCE {
        last = ask(prometheus, query);
        if let Some(value) = last.filter(|value| good(*value)) {
            return value;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("{query} did not become what it should: {last:?}");
}
