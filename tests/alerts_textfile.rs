//! The rules on a host whose agent is read by node_exporter: the real programs, with the durations of the rules
//! shortened.

#![cfg(feature = "real-peers")]

#[path = "support/rules.rs"]
mod files;
#[path = "support/prometheus_once.rs"]
mod prometheus;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use prometheus::{Ended, agent, configure_agent, run_prometheus, series, start_node_exporter};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// An agent that writes its facts into a file.
fn start_agent(folder: &Path) -> Ended {
    fs::create_dir(folder.join("prom")).unwrap();
    let textfile = "check_interval = \"1s\"\n[metrics]\ntextfile = \"FOLDER/prom/backup-agent.prom\"";
    configure_agent(folder, textfile);
    Ended::start(&mut agent(folder))
}

/// The scrape configuration of node_exporter and the rules as they are shipped, only faster.
fn start_prometheus(folder: &Path, exporter: SocketAddr) -> (Ended, SocketAddr) {
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
    run_prometheus(folder, &config)
}

/// Waits until a query gives something, and gives its first series.
fn wait_for(prometheus: SocketAddr, query: &str) -> Value {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(first) = series(prometheus, query).and_then(|all| all.first().cloned()) {
            return first;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let firing = series(prometheus, "ALERTS");
    panic!("nothing answers {query}; alerts: {firing:?}");
}

#[test]
fn a_host_read_by_node_exporter_is_watched_like_one_that_is_scraped() {
    let folder = tempfile::tempdir().unwrap();
    let agent = start_agent(folder.path());
    let (_exporter, exporter) = start_node_exporter(&folder.path().join("prom"));
    let (_prometheus, prometheus) = start_prometheus(folder.path(), exporter);

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
    // On a machine with other work an agent may be late by the few seconds that are left of the rules' minutes here.
    let start = Instant::now();
    loop {
        let firing = series(prometheus, r#"ALERTS{alertstate="firing", alertname!="Watchdog"}"#);
        if firing.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{firing:?}");
        std::thread::sleep(Duration::from_millis(500));
    }

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
