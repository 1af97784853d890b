//! The rules on a host whose agent is read by node_exporter: the real programs, with the durations of the rules
//! shortened.

#![cfg(feature = "real-peers")]

#[path = "support/rules.rs"]
mod files;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// A process that is ended with the test.
struct Ended(Child);

impl Ended {
    fn start(command: &mut Command) -> Self {
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

/// A port that is free now, for programs that do not say which one they took.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start_agent(folder: &Path) -> Ended {
    for name in ["source", "target", "prom"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join("source/a.txt"), "content\n").unwrap();
    let text = r#"
state_dir = "FOLDER/state"
listen = "127.0.0.1:0"
check_interval = "1s"
[metrics]
textfile = "FOLDER/prom/backup-agent.prom"
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
    let agent = env!("CARGO_BIN_EXE_agent");
    Ended::start(Command::new(agent).arg("--config").arg(folder.join("config.toml")).args(["run", "--now"]))
}

/// The scrape configuration of node_exporter and the rules as they are shipped, only faster.
fn start_prometheus(folder: &Path, exporter: SocketAddr, address: SocketAddr) -> Ended {
    let mut rules = files::read("alerts/backup-agent.rules.yml");
    let shorter = [
        ("interval: 1m", "interval: 1s"),
        ("interval: 1h", "interval: 1s"),
        ("for: 5m", "for: 1s"),
        ("for: 15m", "for: 10s"),
        ("> 1800", "> 10"),
        ("> 120", "> 8"),
    ];
    for (long, short) in shorter {
        assert!(rules.contains(long), "{long} is not in the rules");
        rules = rules.replace(long, short);
    }
    fs::write(folder.join("rules.yml"), rules).unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         rule_files: [rules.yml]\n\
         scrape_configs:\n  - job_name: node\n    static_configs:\n      - targets: ['{exporter}']\n    \
         relabel_configs:\n      - {{source_labels: [__address__], regex: '(.+):[0-9]+', target_label: instance}}\n"
    );
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    Ended::start(
        Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}")),
    )
}

/// The series that a query gives; none while Prometheus does not answer.
fn ask(prometheus: SocketAddr, query: &str) -> Option<Vec<Value>> {
    let mut stream = TcpStream::connect(prometheus).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: {prometheus}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let json: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    json["data"]["result"].as_array().cloned()
}

/// Waits until a query gives something, and gives its first series.
fn wait_for(prometheus: SocketAddr, query: &str) -> Value {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(series) = ask(prometheus, query).and_then(|all| all.first().cloned()) {
            return series;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let firing = ask(prometheus, "ALERTS");
    panic!("nothing answers {query}; alerts: {firing:?}");
}

#[test]
fn a_host_read_by_node_exporter_is_watched_like_one_that_is_scraped() {
    let folder = tempfile::tempdir().unwrap();
    let agent = start_agent(folder.path());
    let exporter = free_address();
    let _exporter = Ended::start(
        Command::new("prometheus-node-exporter")
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg(format!("--collector.textfile.directory={}", folder.path().join("prom").display()))
            .arg(format!("--web.listen-address={exporter}")),
    );
    let prometheus = free_address();
    let _prometheus = start_prometheus(folder.path(), exporter, prometheus);

    // The facts come out of the file, with the labels of node_exporter and without its port.
    wait_for(prometheus, r#"backup_runs_total{backup_job="web"} == 1"#);
    let due = wait_for(prometheus, "backup:overdue_at:timestamp_seconds > time()");
    assert_eq!(due["metric"]["job"], "node", "{due}");
    assert_eq!(due["metric"]["instance"], "127.0.0.1", "{due}");
    assert_eq!(due["metric"]["backup_job"], "web", "{due}");
    wait_for(prometheus, "backup:scheduler_lag:seconds < 10");
    // All rules are evaluated without an error, and only the watchdog fires.
    wait_for(prometheus, r#"ALERTS{alertname="Watchdog", alertstate="firing"}"#);
    wait_for(prometheus, "sum(backup:agent_seen:timestamp_seconds) > 0");
    let firing = ask(prometheus, r#"ALERTS{alertstate="firing", alertname!="Watchdog"}"#).unwrap();
    assert!(firing.is_empty(), "{firing:?}");

    // The agent dies. Its file stays as it was, and node_exporter answers.
    drop(agent);
    let down = r#"ALERTS{alertname="BackupAgentDown", alertstate="firing"}"#;
    let told = wait_for(prometheus, down);
    assert_eq!(told["metric"]["job"], "node", "{told}");
    assert_eq!(told["metric"]["instance"], "127.0.0.1", "{told}");

    // The file is gone, too: what was due is still known.
    fs::remove_file(folder.path().join("prom/backup-agent.prom")).unwrap();
    wait_for(
        prometheus,
        "absent(backup_build_info) and on () (time() - backup:agent_seen:timestamp_seconds > 8)",
    );
    wait_for(prometheus, down);
    wait_for(prometheus, "backup:overdue_at:timestamp_seconds > time()");
}
