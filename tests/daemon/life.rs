//! One daemon a state, what the service manager hears of it, and what it costs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::host::{Host, PATIENCE, get};

#[test]
fn a_second_daemon_with_the_same_state_is_refused() {
    let host = Host::new("");
    let first = host.start(&[]);
    first.address();
    let mut second = host.start(&[]);
    assert_eq!(second.end().code(), Some(1));
    assert!(second.said().contains("a daemon already runs"), "{}", second.said());
    assert_eq!(get(first.address(), "/readyz").0, 200);
}

#[test]
fn the_service_manager_is_told_of_readiness_reloads_life_and_the_end() {
    let host = Host::new(r#"schedule = "0 3 * * *""#);
    let socket = host.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = host.start_with(&[], |command| {
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000");
    });
    let wait = |what: &str| {
        let begun = Instant::now();
        let mut all = String::new();
        while begun.elapsed() < PATIENCE {
            let mut buffer = [0; 4096];
            let Ok(got) = manager.recv(&mut buffer) else { break };
            all.push_str(std::str::from_utf8(&buffer[..got]).unwrap());
            all.push('\n');
            if all.contains(what) {
                return;
            }
        }
        panic!("{what} was not told: {all}");
    };
    wait("READY=1");
    wait("WATCHDOG=1");
    daemon.signal("HUP");
    wait("RELOADING=1");
    wait("READY=1");
    daemon.signal("TERM");
    wait("STOPPING=1");
    assert_eq!(daemon.end().code(), Some(0));
}

#[test]
fn an_idle_daemon_leaves_the_processor_alone() {
    let host = Host::new(r#"schedule = "0 3 * * *""#);
    host.configure("127.0.0.1:0", r#"schedule = "0 3 * * *""#, "");
    let daemon = host.start(&[]);
    daemon.address();
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|n| n.parse().unwrap())
            .collect();
        fields.iter().sum()
    };
    // Hundredths of a second in five; checks every two seconds are part of it. At first it may not be idle yet.
    let mut used = Vec::new();
    while used.iter().all(|ticks| *ticks > 25) {
        assert!(used.len() < 12, "hundredths of a second in 5 s each: {used:?}");
        let before = ticks();
        std::thread::sleep(Duration::from_secs(5));
        used.push(ticks() - before);
    }
}
