//! The HTTP server over real sockets.

mod sample;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backup_agent::config::Config;
use backup_agent::health::Extra;
use backup_agent::manifest::{FileWarning, PathText};
use backup_agent::model::{JobName, Outcome, RunId, WarningKind};
use backup_agent::state::{JobRecord, Run, RunRecord, Snapshot};
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
        Arc::new(Self::plain())
    }

    fn plain() -> Self {
        Self {
            snapshot: Mutex::new(Ok(sample::snapshot())),
            config: Arc::new(sample::config()),
            delay: Mutex::default(),
            reads: AtomicUsize::new(0),
            ready: AtomicBool::new(true),
            alive: AtomicBool::new(true),
        }
    }

    fn break_state(&self) {
        *self.snapshot.lock().unwrap() = Err("the state database /x/state.db is <damaged>".to_owned());
    }
}

impl Context for Stage {
    fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        std::thread::sleep(delay);
        self.snapshot.lock().unwrap().clone().map(Arc::new).map_err(anyhow::Error::msg)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    fn progress(&self, job: &JobName) -> Option<RunProgress> {
        (job.as_str() == "web")
            .then_some(RunProgress { source_bytes: 25_000_000_000, expected_bytes: Some(40_000_000_000) })
    }

    fn warnings(&self, runs: &[RunId]) -> anyhow::Result<BTreeMap<RunId, Vec<FileWarning>>> {
        let warning = |path: &str| FileWarning {
            kind: WarningKind::Changed,
            path: PathText::from(path),
            detail: "size 1 → 2".to_owned(),
        };
        Ok(runs.iter().map(|run| (run.clone(), vec![warning("var/log/<b>.log")])).collect())
    }

    fn job_record(&self, job: &JobName, limit: usize) -> anyhow::Result<JobRecord> {
        let snapshot = self.snapshot.lock().unwrap().clone().map_err(anyhow::Error::msg)?;
        let state = snapshot.job(job);
        let runs = state.and_then(|state| state.last_run.clone()).into_iter().take(limit).collect();
        Ok(JobRecord { runs, copies: Vec::new() })
    }

    fn run_record(&self, run: &RunId) -> anyhow::Result<Option<RunRecord>> {
        let snapshot = self.snapshot.lock().unwrap().clone().map_err(anyhow::Error::msg)?;
        let known = snapshot.jobs.iter().filter_map(|state| state.last_run.clone());
        let log = Some("2026-11-24 03:00:00+01:00  INFO <first>\n".to_owned());
        Ok(known.into_iter().find(|known| known.run_id == *run).map(|run| RunRecord {
            run,
            copies: Vec::new(),
            messages: Vec::new(),
            log,
        }))
    }

    fn command(&self) -> String {
        "agent --config /x".to_owned()
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
        "<h3><a href=\"/jobs/askproai\">askproai</a></h3>",
        "<use href=\"#i-critical\"/></svg>overdue</span>",
        "<use href=\"#i-running\"/></svg>running</span>",
        "<progress max=\"100\" value=\"62\"",
        "<h1>1 job needs attention</h1>",
        "mail is overdue",
        "Next run: web in 40 min.",
        "<code>agent --config /x history mail</code>",
        "var/log/&lt;b&gt;.log",
        "2 files changed, 1 vanished in the last run",
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
    assert!(!page.body.contains("<h3><a href=\"/jobs/removed"), "a job that is not configured has a card");
    assert!(page.body.len() < 50_000, "{} bytes", page.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_a_page_with_its_schedule_runs_and_checks() {
    let server = start(&Stage::new()).await;
    let page = server.get("/jobs/mail").await;
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    for text in [
        "<h1>mail</h1>",
        "overdue</span>",
        "<code>30 2 * * *</code> <span class=\"exact\">Europe/Berlin",
        "<dt>Overdue from</dt>",
        "20, of which 2 failed",
        "18 of the last 20 runs were good",
        "<a href=\"/runs/20261124T012000Z-mail00\">9 h ago</a>",
        "the target local has 2 GiB left, &lt;61 GiB&gt; are needed",
        "cleaning up: permission denied",
        "<th scope=\"row\">last-outcome</th>",
        "agent --config /x restore latest --job mail",
        "--until 2026-11-25T08:00",
        "<title>mail: overdue – backups on db1.example.org</title>",
        "href=\"/icon/critical.svg\"",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
    let gone = server.get("/jobs/removed").await;
    assert_eq!(gone.status, 200);
    assert!(gone.body.contains("The configuration has no such job any more"), "{}", gone.body);
    assert!(!gone.body.contains("agent --config /x backup removed"), "a job that is gone cannot be run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_a_page_with_its_error_steps_and_log() {
    let server = start(&Stage::new()).await;
    let page = server.get("/runs/20261124T012000Z-mail00").await;
    assert_eq!(page.status, 200);
    for text in [
        "Failed in preflight",
        "are needed | make room\ndetail",
        "<code>agent --config /x backup mail</code>",
        "<a href=\"/jobs/mail\">mail</a>",
        "<pre>2026-11-24 03:00:00+01:00  INFO &lt;first&gt;</pre>",
        "No message about this run is kept",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
    let page = server.get("/runs/20261124T024500Z-askpro").await;
    for text in [
        "good, with warnings</span>",
        "<th scope=\"row\">read-back</th>",
        "1 min 35 s",
        "<th scope=\"row\">system-state</th>",
        "Files: 2 files changed, 1 vanished, 3 skipped",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_page_that_leads_back_and_repeats_nothing() {
    let server = start(&Stage::new()).await;
    let long = format!("/jobs/{}", "a".repeat(5_000));
    for path in [
        "/jobs/nobody",
        "/jobs/<script>alert(1)</script>",
        "/jobs/%3Cscript%3E",
        "/jobs/../../etc/passwd",
        "/jobs/",
        "/runs/20261124T180000Z-nobody",
        "/runs/'\"><b>",
        &long,
    ] {
        let answer = server.get(path).await;
        // Some are no paths at all, which the server says before anything looks at them.
        assert!(answer.status == 404 || answer.status == 400, "{path}: {}", answer.status);
        if answer.status == 404 {
            assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8", "{path}");
            assert!(answer.body.contains("<a href=\"/\">To the start page</a>"), "{}", answer.body);
            assert!(answer.body.len() < 15_000, "{path}");
            for text in ["script", "nobody", "passwd", "aaaa", "<b>\""] {
                assert!(!answer.body.contains(text), "{path}: {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reloads_only_for_those_who_asked() {
    let server = start(&Stage::new()).await;
    for path in ["/", "/jobs/web", "/runs/20261124T012000Z-mail00"] {
        let page = server.get(path).await;
        assert_eq!(page.headers.get("refresh"), None, "{path}");
        assert!(page.body.contains(&format!("<a href=\"{path}?watch\">Reload every minute</a>")), "{path}");
        let page = server.get(&format!("{path}?watch")).await;
        assert_eq!(page.headers["refresh"], "60", "{path}");
        assert!(page.body.contains(&format!("<a href=\"{path}\">Stop reloading</a>")), "{path}");
        assert_eq!(server.get(&format!("{path}?other=<script>")).await.headers.get("refresh"), None);
    }
}

/// Fifty jobs, each with a name of 64 characters and thirty runs behind it.
fn many_jobs(bad: usize) -> (Config, Snapshot) {
    let (mut config, mut snapshot) = (sample::config(), sample::snapshot());
    let (job, state) =
        (config.job["askproai"].clone(), snapshot.job(&"askproai".parse().unwrap()).unwrap().clone());
    config.job.clear();
    snapshot.jobs.clear();
    for n in 0..50 {
        let name: JobName = format!("{n:02}-{}", "n".repeat(61)).parse().unwrap();
        let mut state = state.clone();
        state.row.job = name.clone();
        state.targets.values_mut().for_each(|at| (at.pending, at.oldest_pending) = (0, None));
        if n < bad {
            let error = Some(format!("<{}>", "the disk is full ".repeat(1_000)));
            let last = state.last_run.take().unwrap();
            state.last_run = Some(Run { outcome: Some(Outcome::Failure), error, ..last });
        }
        config.job.insert(name, job.clone());
        snapshot.jobs.push(state);
    }
    (config, snapshot)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_jobs_are_one_page_of_reasonable_size() {
    for (bad, cards, most) in [(0, 0, 70_000), (3, 3, 80_000), (50, 10, 100_000)] {
        let (config, snapshot) = many_jobs(bad);
        let stage = Stage { config: Arc::new(config), snapshot: Mutex::new(Ok(snapshot)), ..Stage::plain() };
        let server = start(&Arc::new(stage)).await;
        let page = server.get("/").await.body;
        if let Some(path) = std::env::var_os("SAVE_PAGE") {
            std::fs::write(format!("{}-{bad}", path.display()), &page).unwrap();
        }
        assert_eq!(page.matches("<article").count(), cards, "{bad} bad jobs");
        assert_eq!(page.matches("href=\"/jobs/").count(), 50, "{bad} bad jobs");
        assert!(page.len() < most, "{bad} bad jobs: {} bytes", page.len());
        let job = server.get(&format!("/jobs/00-{}", "n".repeat(61))).await.body;
        assert!(job.len() < 50_000, "{} bytes", job.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_at_all_is_not_called_fine() {
    let mut config = sample::config();
    config.job.clear();
    let snapshot = Snapshot { jobs: Vec::new(), health: Vec::new(), ..sample::snapshot() };
    let stage = Stage { config: Arc::new(config), snapshot: Mutex::new(Ok(snapshot)), ..Stage::plain() };
    let page = start(&Arc::new(stage)).await.get("/").await.body;
    assert!(page.contains("<h1>Nothing is backed up: no job is configured</h1>"), "{page}");
    assert!(!page.contains("fine"), "{page}");
}

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

/// Where packages come from is the business of whoever installs them.
#[test]
fn the_lock_file_of_the_browser_tests_pins_packages_and_names_no_server() {
    let lock = include_str!("browser/package-lock.json");
    let lock: serde_json::Value = serde_json::from_str(lock).unwrap();
    for (name, package) in lock["packages"].as_object().unwrap().iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["integrity"].as_str().unwrap().starts_with("sha512-"), "{name}");
        assert!(package.get("resolved").is_none(), "{name}");
    }
    assert!(!lock.to_string().contains("://"));
}
