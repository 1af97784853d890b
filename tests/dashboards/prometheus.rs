//! A real Prometheus on blocks made of a file.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::day::{Ended, get};
use crate::port;

pub struct Prometheus {
    address: SocketAddr,
    _process: Ended,
}

impl Prometheus {
    /// Reads OpenMetrics with timestamps from `file`; everything is kept in `folder`.
    pub fn of(file: &Path, folder: &Path) -> Self {
        let blocks = folder.join("tsdb");
        let output = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=48h"])
            .args([file, &blocks])
            .output()
            .expect("promtool is needed: install the package prometheus");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Prometheus does not say which port it took, so a free one is chosen for it.
        let address = port::free_address();
        fs::write(folder.join("prometheus.yml"), "global: {}\n").unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", blocks.display()))
            .arg("--storage.tsdb.retention.time=100y")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is needed: apt-get install prometheus");
        let prometheus = Self { address, _process: Ended(process) };
        let began = Instant::now();
        while get(address, "/-/ready").is_none() {
            assert!(began.elapsed() < Duration::from_secs(120), "prometheus does not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    /// The series an expression gives at a moment.
    pub fn at(&self, place: &str, expr: &str, time: i64) -> Vec<Value> {
        self.ask(place, &format!("/api/v1/query?time={time}&query={}", encoded(expr)))
    }

    /// The series an expression gives over a time, a value each five minutes.
    pub fn over(&self, place: &str, expr: &str, start: i64, end: i64) -> Vec<Value> {
        let query = encoded(expr);
        self.ask(place, &format!("/api/v1/query_range?start={start}&end={end}&step=300&query={query}"))
    }

    fn ask(&self, place: &str, path: &str) -> Vec<Value> {
        let answer =
            get(self.address, path).unwrap_or_else(|| panic!("{place}: refused by Prometheus: {path}"));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{place}: {answer}");
        assert!(answer.get("warnings").is_none(), "{place}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
