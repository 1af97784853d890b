//! The status pages in Chromium: a real daemon with jobs in every state, looked at as people do.
//!
//! `SHOTS=/some/folder cargo test --features real-peers --test web_browser` keeps pictures of every page.
#![cfg(feature = "real-peers")]

mod host;
mod past;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use host::{Daemon, Host, LONG};
use past::seed;

/// Where the test command put the packages of `tests/browser`.
fn modules() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("browser/node_modules");
    assert!(
        folder.join("axe-core").is_dir(),
        "{} is missing: .ci/test puts it there (copy tests/browser/package*.json beside it, then `npm ci`)",
        folder.display()
    );
    folder
}

/// Opens the pages in Chromium; what was seen of each.
fn look(daemon: &Daemon, pages: &[&str]) -> Vec<Value> {
    let task = serde_json::json!({
        "base": format!("http://{}", daemon.address),
        "chromium": "/usr/bin/chromium",
        "pages": pages,
        "shots": std::env::var("SHOTS").ok(),
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/look.cjs");
    let mut command = Command::new("node");
    command.arg(script).arg(task.to_string()).env("NODE_PATH", modules()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

#[test]
fn every_page_is_clear_reachable_and_harmless_in_a_browser() {
    let host = Host::new();
    let (failed, busy) = seed(&host);
    // A real backup, so that something real is at the target.
    let backup = host.agent().args(["backup", "shop", "--json"]).output().unwrap();
    assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
    let daemon = host.start();
    daemon.wait_for("/", &["running</span>", "is overdue", "usable"]);
    daemon.wait_for("/jobs/media-library", &["<progress"]);

    let pages = [
        "/".to_owned(),
        "/jobs/accounting".to_owned(),
        "/jobs/shop".to_owned(),
        format!("/jobs/{LONG}"),
        format!("/runs/{failed}"),
        format!("/runs/{busy}"),
        "/jobs/nobody".to_owned(),
    ];
    let pages: Vec<&str> = pages.iter().map(String::as_str).collect();
    for seen in look(&daemon, &pages) {
        let path = seen["path"].as_str().unwrap().to_owned();
        let expected = if path == "/jobs/nobody" { 404 } else { 200 };
        assert_eq!(seen["status"], expected, "{path}");
        // The answer 404 itself is all that a browser complains of.
        let messages: Vec<&str> =
            seen["messages"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        assert!(messages.iter().all(|m| expected == 404 && m.contains("404")), "{path}: {messages:?}");
        for (how, found) in seen["violations"].as_object().unwrap() {
            assert_eq!(found.as_array().unwrap().len(), 0, "{path} {how}: {found:#}");
        }
        assert_eq!(seen["small"]["scroll"], 0, "{path} is wider than a telephone: {}", seen["small"]);
        assert_eq!(seen["tabs"]["reached"], seen["tabs"]["expected"], "{path}: {}", seen["tabs"]);
        assert_eq!(seen["tabs"]["without_outline"], serde_json::json!([]), "{path}");
        assert!(seen["bytes"].as_u64().unwrap() < 50_000, "{path}: {} bytes", seen["bytes"]);
        assert_eq!(seen["scripts"], 0, "{path}: a text became markup");
        assert!(!seen["title"].as_str().unwrap().contains("owned"), "{path}: {}", seen["title"]);
    }
    // Whatever the texts hold, JSON stays readable, bounded and without what acts on a terminal.
    let (code, body) = daemon.get("/api/v1/status");
    assert_eq!(code, 200);
    assert!(!body.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)));
    let status: Value = serde_json::from_str(&body).unwrap();
    let jobs = status["state"]["jobs"].as_array().unwrap();
    let error =
        jobs.iter().find(|j| j["job"] == "accounting").unwrap()["last_run"]["error"].as_str().unwrap();
    assert!(
        error.contains("<script>") && error.contains('\u{202e}') && error.len() < 4_200,
        "{}",
        error.len()
    );
    for path in pages.iter().copied().chain(["/api/v1/status"]) {
        let (_, body) = daemon.get(path);
        for secret in ["never-shown", "smtp://"] {
            assert!(!body.contains(secret), "{path} tells {secret}");
        }
    }
}
