//! The `redis` source against a real Redis server.
//!
//! Needs `redis-server` on the machine: `cargo test --features real-peers --test sources_redis`.
#![cfg(feature = "real-peers")]

mod peers;

use std::fs;

use backup_agent::config::SourceConfig;
use backup_agent::model::ComponentName;
use backup_agent::source::{Source, build};
use peers::redis::Redis;
use peers::stage::Stage;

const PASSWORD: &str = "p#w;d-'x'";

fn source(settings: &str) -> Box<dyn Source> {
    let config: SourceConfig = toml::from_str(&format!("type = 'redis'\n{settings}")).unwrap();
    build(&ComponentName::new("cache").unwrap(), &config).unwrap()
}

fn failure(result: anyhow::Result<impl std::fmt::Debug>) -> String {
    let text = format!("{:#}", result.unwrap_err());
    assert!(!text.contains("p#w") && !text.contains("wrong-passw0rd"), "the password is shown: {text}");
    text
}

/// The keys and their values.
fn digest(server: &Redis) -> String {
    server.query(&["DEBUG", "DIGEST"])
}

const DEBUG: &str = "enable-debug-command local";

#[test]
fn a_snapshot_loads_into_another_server_however_it_is_sent() {
    // With and without a file of the server's own, and with no checksums.
    for options in [
        &[DEBUG, "repl-diskless-sync yes", "repl-diskless-sync-delay 0"][..],
        &[DEBUG, "repl-diskless-sync no"],
        &[DEBUG, "repl-diskless-sync no", "rdbchecksum no"],
    ] {
        let (server, stage) = (Redis::start(None, Some(PASSWORD), options), Stage::new());
        server.query(&["DEBUG", "POPULATE", "20000", "key", "100"]);
        server.query(&["HSET", "hash", "field", "Grüße"]);
        server.query(&["-n", "3", "RPUSH", "list", "a", "b"]);
        let password = stage.file("password", PASSWORD, 0o600);
        for place in [format!("port = {}", server.port), format!("socket = '{}'", server.socket().display())]
        {
            let source = source(&format!("{place}\npassword_file = '{}'", password.display()));
            let parts = stage.parts(&*source).unwrap();
            assert_eq!(parts[0].file_name, "cache.rdb");
            let rdb = stage.capture_part(&*source, &parts[0]).unwrap();
            assert!(rdb.starts_with(b"REDIS"), "{options:?}");
            let path = stage.dir.path().join("rdb");
            fs::write(&path, &rdb).unwrap();
            let checked = std::process::Command::new("redis-check-rdb").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
            let fresh = Redis::start(Some(&path), None, &[DEBUG]);
            assert_eq!(digest(&fresh), digest(&server), "{options:?}");
            assert_eq!(fresh.query(&["-n", "3", "LRANGE", "list", "0", "-1"]), "a\nb");
        }
    }
}

#[test]
fn a_login_that_is_refused_and_a_server_that_is_away_are_told_without_the_password() {
    let (server, stage) = (Redis::start(None, Some(PASSWORD), &[]), Stage::new());
    let wrong = stage.file("wrong", "wrong-passw0rd", 0o600);
    let port = server.port;
    for (settings, expected) in [
        (format!("port = {port}"), "refused the login of user default"),
        (
            format!("port = {port}\npassword_file = '{}'", wrong.display()),
            "refused the login of user default",
        ),
        (
            format!("port = {port}\nuser = 'who'\npassword_file = '{}'", wrong.display()),
            "refused the login of user who",
        ),
        ("port = 1".to_owned(), "no Redis server answers at 127.0.0.1, port 1"),
        ("socket = '/none/socket'".to_owned(), "no Redis server answers at /none/socket"),
    ] {
        let text = failure(stage.parts(&*source(&settings)));
        assert!(text.contains(expected), "{settings}: {text}");
    }
    // One who may ask and not copy is told at the dump.
    server.query(&["ACL", "SETUSER", "narrow", "on", ">narrow-secret", "+info"]);
    let narrow = stage.file("narrow", "narrow-secret", 0o600);
    let source = source(&format!("port = {port}\nuser = 'narrow'\npassword_file = '{}'", narrow.display()));
    let parts = stage.parts(&*source).unwrap();
    let text = failure(stage.capture_part(&*source, &parts[0]));
    assert!(text.contains("may not do what a dump needs"), "{text}");
}
