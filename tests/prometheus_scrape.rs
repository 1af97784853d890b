//! A real Prometheus scrapes a real daemon and answers questions about it.

#![cfg(feature = "real-peers")]

#[path = "support/prometheus_once.rs"]
mod prometheus;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use prometheus::{Ended, agent, ask, configure_agent, start_prometheus, wait_for};

/// Starts the daemon, and gives the address it says it listens on.
fn start_agent(folder: &Path) -> (Ended, SocketAddr) {
    let mut child = agent(folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let child = Ended(child);
    for line in lines.map_while(Result::ok) {
        if let Some(rest) = line.strip_prefix("status page http://") {
            return (child, rest.split('/').next().unwrap().parse().unwrap());
        }
    }
    panic!("the daemon ended without saying where it listens");
}

#[test]
fn prometheus_scrapes_the_daemon_and_knows_of_its_backup() {
    let folder = tempfile::tempdir().unwrap();
    configure_agent(folder.path(), "");
    let (_agent, agent) = start_agent(folder.path());
    let (_prometheus, prometheus) = start_prometheus(folder.path(), "backup-agent", agent);

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
