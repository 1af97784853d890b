//! Channels as receivers see them: the real binary against real servers on loopback.

mod bad_input;
#[path = "../support/http.rs"]
mod http;
mod queue;
mod shapes;
#[path = "../support/smtp.rs"]
mod smtp;
mod templates;
mod verify;
#[allow(dead_code)]
#[path = "../cli/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use world::{SIMPLE, World};

/// A configuration with a job and these channels.
fn config(channels: &str) -> String {
    format!("status_url = \"https://web1.example.org/\"\n{SIMPLE}\n{channels}\n")
}

/// Writes a file below a world that only its owner can read.
fn secret(world: &World, name: &str, text: &str) {
    let path = world.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Lets the next backups fail.
fn break_source(world: &World) {
    world.sh("mv data elsewhere");
}

/// Lets them succeed again.
fn mend_source(world: &World) {
    world.sh("mv elsewhere data");
}

/// Everything the program writes down or shows about itself, so that no secret is found in it.
fn everything_shown(world: &World) -> String {
    let mut text = String::new();
    for command in ["notify queue", "notify queue --json", "metrics", "check", "config show", "status"] {
        let ran = world.agent(command);
        text.push_str(&format!("{}\n{}\n", ran.out, ran.err));
    }
    text.push_str(
        &world.sh("cat state/status.json; strings -a state/state.db state/state.db-wal 2>/dev/null || true"),
    );
    text
}
