//! A real Prometheus scrapes a real daemon and answers questions about it.

#![cfg(feature = "real-peers")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn configure(folder: &Path) {
    fs::create_dir_all(folder.join("source")).unwrap();
    fs::create_dir_all(folder.join("target")).unwrap();
    fs::write(folder.join("source/a.txt"), "content\n").unwrap();
    let text = r#"
state_dir = "FOLDER/state"
listen = "127.0.0.1:0"
[target.local]
type = "directory"
path = "FOLDER/target"
[job.web]
schedule = "0 3 * * *"
targets = ["local"]
[job.web.source.files]
type = "files"
paths = ["FOLDER/source"]
"#;
    fs::write(folder.join("config.toml"), text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
}

/// Starts the daemon, and gives the address it says it listens on.
fn start_agent(folder: &Path) -> (Ended, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_agent"))
        .arg("--config")
        .arg(folder.join("config.toml"))
        .args(["run", "--now"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let child = Ended(child);
    for line in lines.map_while(Result::ok) {
        if let Some(rest) = line.strip_prefix("status page http://") {
            return (child, rest.split('/').next().unwrap().parse().unwrap());
        }
    }
    panic!("the daemon ended without saying where it listens");
}

fn start_prometheus(folder: &Path, agent: SocketAddr) -> (Ended, SocketAddr) {
    // Prometheus does not say which port it took, so a free one is chosen for it.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n  - job_name: backup-agent\n    static_configs:\n      - targets: ['{agent}']\n"
    );
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is needed: apt-get install prometheus");
    (Ended(child), address)
}

/// The value of a query with one result; none while there is none.
fn ask(prometheus: SocketAddr, query: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(prometheus).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: {prometheus}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body = answer.split_once("\r\n\r\n")?.1;
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

fn wait_for(prometheus: SocketAddr, query: &str, good: impl Fn(f64) -> bool) -> f64 {
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

#[test]
fn prometheus_scrapes_the_daemon_and_knows_of_its_backup() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path());
    let (_agent, agent) = start_agent(folder.path());
    let (_prometheus, prometheus) = start_prometheus(folder.path(), agent);

    wait_for(prometheus, "up{job='backup-agent'}", |up| up == 1.0);
    wait_for(prometheus, "backup_runs_total{backup_job='web'}", |runs| runs == 1.0);
    wait_for(prometheus, "backup_last_run_success{backup_job='web'}", |good| good == 1.0);
    let age =
        wait_for(prometheus, "time() - backup_last_success_timestamp_seconds{backup_job='web'}", |_| true);
    assert!((-2.0..300.0).contains(&age), "the last success is {age} s old");
    let due = wait_for(prometheus, "backup_next_due_timestamp_seconds{backup_job='web'} - time()", |_| true);
    assert!((0.0..25.0 * 3600.0).contains(&due), "the next run is due in {due} s");
    // What the alert for an overdue backup asks; nothing is overdue.
    let overdue = "backup_next_due_timestamp_seconds + backup_grace_seconds < time()";
    assert_eq!(ask(prometheus, overdue), None);
}
