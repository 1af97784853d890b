//! A real Prometheus that scrapes one target, and questions to it.

#![allow(dead_code, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is ended with the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Starts a Prometheus that asks `target` each second; its files stand in `folder`.
pub fn start_prometheus(folder: &Path, job: &str, target: SocketAddr) -> (Ended, SocketAddr) {
    // Prometheus does not say which port it took, so a free one is chosen for it.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n  - job_name: {job}\n    static_configs:\n      - targets: ['{target}']\n"
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
pub fn ask(prometheus: SocketAddr, query: &str) -> Option<f64> {
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
