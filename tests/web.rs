//! The HTTP server over real sockets.

mod sample;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backup_agent::config::Config;
use backup_agent::health::Extra;
use backup_agent::model::JobName;
use backup_agent::state::Snapshot;
use backup_agent::web::{self, Context, RunProgress};
use chrono::{DateTime, Utc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the tests show; each part can be broken.
struct Stage {
    snapshot: Mutex<Result<Snapshot, String>>,
    config: Arc<Config>,
    /// How long reading the state takes.
    delay: Mutex<Duration>,
    reads: AtomicUsize,
    ready: AtomicBool,
    alive: AtomicBool,
}

impl Stage {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            snapshot: Mutex::new(Ok(sample::snapshot())),
            config: Arc::new(sample::config()),
            delay: Mutex::default(),
            reads: AtomicUsize::new(0),
            ready: AtomicBool::new(true),
            alive: AtomicBool::new(true),
        })
    }

    fn break_state(&self) {
        *self.snapshot.lock().unwrap() = Err("the state database /x/state.db is <damaged>".to_owned());
    }
}

impl Context for Stage {
    fn snapshot(&self) -> anyhow::Result<Snapshot> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        std::thread::sleep(delay);
        self.snapshot.lock().unwrap().clone().map_err(anyhow::Error::msg)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    fn progress(&self, job: &JobName) -> Option<RunProgress> {
        (job.as_str() == "web")
            .then_some(RunProgress { source_bytes: 25_000_000_000, expected_bytes: Some(40_000_000_000) })
    }

    fn extra(&self) -> Extra {
        let missing = Err("SHA256SUMS is gone".to_owned());
        let backup_files =
            BTreeMap::from([("mail".parse().unwrap(), missing), ("askproai".parse().unwrap(), Ok(()))]);
        Extra { backup_files, ..Extra::default() }
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    fn alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    fn now(&self) -> DateTime<Utc> {
        sample::now()
    }
}

/// A running server.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn start(stage: &Arc<Stage>) -> Server {
    start_at(stage, "127.0.0.1:0").await
}

async fn start_at(stage: &Arc<Stage>, address: &str) -> Server {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stage = Arc::clone(stage);
    let task = tokio::spawn(web::serve(listener, stage, async {
        let _ = stopped.await;
    }));
    Server { address, stop: Some(stop), task }
}

/// An answer, taken apart.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Server {
    /// Sends the text and reads until the server closes.
    async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
        parse(&String::from_utf8(bytes).unwrap())
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "localhost").await
    }

    async fn ask(&self, method: &str, path: &str, host: &str) -> Answer {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_every_job_and_lets_no_text_become_html() {
    let server = start(&Stage::new()).await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    // To look at it in a browser.
    if let Some(path) = std::env::var_os("SAVE_PAGE") {
        std::fs::write(path, &page.body).unwrap();
    }
    for text in [
        "db1.example.org",
        "<h3>askproai</h3>",
        "<span class=\"pill critical\">overdue</span>",
        "<span class=\"pill running\">running</span>",
        "<progress max=\"100\" value=\"62\"",
        "23.3 GiB of about 37.3 GiB",
        "7 h 33 min ago",
        "in 7 h 40 min",
        "2026-11-24 03:46 CET",
        "never",
        "only by hand",
        "by cron",
        "paused",
        "2 to copy",
        "<span class=\"pill critical\">damaged</span>",
        "28 of the last 30 runs were good",
        "SHA256SUMS is gone",
        "href=\"/metrics\"",
        "href=\"/api/v1/status\"",
        // From an error text of the sample.
        "&lt;61 GiB&gt; are needed",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
    assert!(!page.body.contains("<61"), "an error text became HTML");
    assert!(!page.body.contains("<script"));
    assert!(!page.body.contains("style=\""), "the policy forbids style attributes");
    assert!(!page.body.contains("<h3>removed"), "a job that is not configured is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_what_it_does_not_need() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let server = start(&Stage::new()).await;
    for path in ["/", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/nothing"] {
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

/// A disk that hangs takes four threads and not one more; health is answered at once, and so is the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_hangs_does_not_hang_the_server() {
    let stage = Stage::new();
    *stage.delay.lock().unwrap() = Duration::from_secs(10);
    let server = Arc::new(start(&stage).await);
    let asked: Vec<_> = (0..12)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get("/api/v1/status").await.status })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    assert_eq!(server.get("/healthz").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for status in asked {
        assert_eq!(status.await.unwrap(), 503);
    }
    assert_eq!(stage.reads.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(&Stage::new()).await;
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(server.raw(&request).await.status, 431);
    let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(server.raw(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")).await.status, 431);
}

/// An idle connection is closed, an answer under way is finished, a client that says nothing is not waited
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_drains_and_does_not_wait_for_ever() {
    let stage = Stage::new();
    let mut server = start(&stage).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent.write_all(b"GET / HT").await.unwrap();
    let idle = TcpStream::connect(server.address).await.unwrap();
    *stage.delay.lock().unwrap() = Duration::from_millis(500);
    let address = server.address;
    let busy = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        parse(&String::from_utf8(bytes).unwrap()).status
    });
    while stage.reads.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    server.task.await.unwrap().unwrap();
    assert_eq!(busy.await.unwrap(), 200);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
    drop((silent, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_answers_many_requests() {
    let server = start(&Stage::new()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut bytes = vec![0; 4096];
        let n = stream.read(&mut bytes).await.unwrap();
        assert!(String::from_utf8_lossy(&bytes[..n]).ends_with("ok\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clients_than_places_are_all_answered() {
    let server = Arc::new(start(&Stage::new()).await);
    // These hold their places without saying a word.
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get("/healthz").await.status })
        })
        .collect();
    for status in asked {
        assert_eq!(status.await.unwrap(), 200);
    }
}
