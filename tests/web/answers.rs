//! What programs ask for, and what every answer says and forbids.

use std::sync::atomic::Ordering;

use crate::stage::{Stage, start, start_at};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_what_it_does_not_need() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let server = start(&Stage::new()).await;
    for path in [
        "/",
        "/jobs/mail",
        "/jobs/x",
        "/runs/x",
        "/icon/ok.svg",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/nothing",
    ] {
        let answer = server.get(path).await;
        let policy = &answer.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{path}: {policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.headers.get(name).map(String::as_str), Some(value), "{path}: {name}");
        }
    }
    // The digest in the policy is the one a browser computes.
    let page = server.get("/").await;
    let css = page.body.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
    let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(css));
    assert!(page.headers["content-security-policy"].contains(&format!("'sha256-{digest}'")));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_their_content_type_and_those_of_the_process() {
    let server = start(&Stage::new()).await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.body.contains("\nbackup_run_progress_ratio{backup_job=\"web\"} 0.625\n"));
    assert!(answer.body.contains("\nprocess_open_fds "));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_json_with_findings_and_due_times() {
    let server = start(&Stage::new()).await;
    let answer = server.get("/api/v1/status").await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/json"));
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["status"], "critical");
    assert_eq!(json["jobs"]["askproai"]["next_run"], "2026-11-24T18:00:00Z");
    assert_eq!(json["jobs"]["web"]["running_ratio"], 0.625);
    assert_eq!(json["jobs"]["lab"]["schedule"], serde_json::Value::Null);
    assert_eq!(json["state"]["jobs"][0]["job"], "askproai");
    let findings = json["findings"].as_array().unwrap();
    let missing = findings.iter().find(|f| f["check"] == "files" && f["job"] == "mail").unwrap();
    assert_eq!(missing["status"], "critical");
    assert!(missing["message"].as_str().unwrap().contains("SHA256SUMS is gone"));
    // What the configuration holds beside names and times stays there.
    for secret in ["ping-url", "admin@example.org", "/var/www", "smtp"] {
        assert!(!answer.body.contains(secret), "{secret} is told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_reading_is_allowed_and_head_has_no_body() {
    let server = start(&Stage::new()).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let answer = server.ask(method, "/", "localhost").await;
        assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "GET, HEAD"), "{method}");
    }
    let get = server.get("/healthz").await;
    let head = server.ask("HEAD", "/healthz", "localhost").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.headers["content-length"], get.headers["content-length"]);
    for path in ["/favicon.ico", "/metrics/", "//", "/../etc/passwd", "/api/v1", "/%2e%2e/"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_this_hosts_is_refused_on_loopback_only() {
    let stage = Stage::new();
    let server = start(&stage).await;
    for host in ["localhost", "127.0.0.1:9736", "[::1]:9736", "db1.example.org:9736"] {
        assert_eq!(server.ask("GET", "/metrics", host).await.status, 200, "{host}");
    }
    let refused = server.ask("GET", "/api/v1/status", "evil.example").await;
    assert_eq!(refused.status, 421);
    assert!(!refused.body.contains("askproai"));
    assert_eq!(server.raw("GET /healthz HTTP/1.0\r\n\r\n").await.status, 200, "HTTP/1.0 has no Host");
    let open = start_at(&stage, "0.0.0.0:0").await;
    assert_eq!(open.ask("GET", "/metrics", "any.name.example").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_a_latch_and_alive_is_not() {
    let stage = Stage::new();
    stage.ready.store(false, Ordering::SeqCst);
    let server = start(&stage).await;
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/healthz").await.status, 200);
    stage.ready.store(true, Ordering::SeqCst);
    assert_eq!(server.get("/readyz").await.status, 200);
    stage.ready.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/readyz").await.status, 200, "what was ready once is ready");
    stage.alive.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/healthz").await.status, 503);
    assert_eq!(stage.reads.load(Ordering::SeqCst), 0, "these answers must not need the state");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_state_is_said_and_metrics_keep_the_last_that_was_read() {
    let stage = Stage::new();
    let server = start(&stage).await;
    let before = server.get("/metrics").await;
    stage.break_state();
    let page = server.get("/").await;
    assert_eq!((page.status, page.headers["retry-after"].as_str()), (503, "15"));
    assert!(page.body.contains("the state database /x/state.db is &lt;damaged&gt;"), "{}", page.body);
    let status = server.get("/api/v1/status").await;
    assert_eq!(status.status, 503);
    let json: serde_json::Value = serde_json::from_str(&status.body).unwrap();
    assert_eq!(json["error"], "the state database /x/state.db is <damaged>");
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let own = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("backup_")).map(str::to_owned).collect()
    };
    assert_eq!(own(&metrics.body), own(&before.body));
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_never_read_makes_metrics_fail_with_the_version() {
    let stage = Stage::new();
    stage.break_state();
    let server = start(&stage).await;
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.status, 503);
    assert!(metrics.body.starts_with("# The state cannot be read: the state database /x/state.db"));
    assert!(metrics.body.contains("backup_build_info{"));
    assert!(!metrics.body.contains("backup_job_info"));
}
