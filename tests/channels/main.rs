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

/// The state failed after a good run was recorded: the backup is good, and that is what is told.
#[cfg(feature = "failpoints")]
#[test]
fn a_state_that_fails_after_a_good_run_degrades_it_and_is_told_so() {
    let server = http::HttpServer::plain();
    let hook = format!("[notify.hook]\ntype = \"webhook\"\nurl = \"{}\"\n", server.url("/hook"));
    for place in ["ended-run", "deliver"] {
        let world = World::new(&config(&hook));
        let before = server.requests().len();
        let mut program = world.program();
        program.env("BACKUP_AGENT_FAILPOINT", format!("{place}=error"));
        let ran = world.run(program.args(["--config", "config.toml"]), "backup");
        assert_eq!(ran.code, 4, "{place}: {ran:?}");
        let told: Vec<_> = server.requests()[before..].iter().map(http::Request::json).collect();
        assert_eq!(told.len(), 1, "{place}: {told:#?}");
        assert_eq!(told[0]["kind"], "degraded", "{place}: {:#}", told[0]);
        assert!(told[0]["run"]["degraded"][0].as_str().unwrap().starts_with("state: "), "{:#}", told[0]);
        // Once the state works again that is over, and said once.
        world.agent("backup").exits(0);
        world.agent("tend").exits(0);
        let kinds: Vec<_> = server.requests()[before..].iter().map(|r| r.json()["kind"].clone()).collect();
        assert_eq!(kinds, ["degraded", "recovery"], "{place}");
    }
}
