//! Servers that tests start for themselves, on sockets and free loopback ports, and end when they are dropped.

// Each test takes what it needs.
#![allow(dead_code)]

pub mod mariadb;
#[path = "../support/port.rs"]
pub mod port;
pub mod postgres;
pub mod redis;
pub mod sshd;
pub mod stage;
pub mod webdav;

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// Waits until a question to a server that was just started is answered: `ask` ends with 0.
fn until_it_answers(name: &str, server: &mut Child, log: &Path, mut ask: Command) {
    let log = || fs::read_to_string(log).unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while Instant::now() < until {
        if let Some(status) = server.try_wait().unwrap() {
            panic!("{name} ended: {status}\n{}", log());
        }
        if ask.output().is_ok_and(|out| out.status.success()) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{name} did not answer:\n{}", log());
}
