//! The status pages in Chromium: a real daemon with jobs in every state, looked at as people do.
//!
//! `SHOTS=/some/folder cargo test --features real-peers --test web_browser` keeps pictures of every page.
#![cfg(feature = "real-peers")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backup_agent::clock::{Clock, SystemClock};
use backup_agent::event::Step;
use backup_agent::lock::ProcessIdentity;
use backup_agent::manifest::{FileWarning, PathText};
use backup_agent::model::{JobName, Outcome, RunId, WarningCounts, WarningKind};
use backup_agent::state::{
    ComponentSummary, CopyStatus, DrillResult, EndedRun, MessageKind, NewCopy, NewDrill, NewMessage, NewRun,
    RunTrigger, State, StepTime,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// The longest name a job may have.
const LONG: &str = "customer-portal-attachments-and-invoices-of-the-last-ten-years-1";
/// What a hostile user would call a file, and a hostile server would answer.
const HOSTILE: &str =
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(2)>";

const CONFIG: &str = r#"
state_dir = "FOLDER/state"
host = "db1.example.org"
timezone = "Europe/Berlin"
listen = "127.0.0.1:0"
check_interval = "1s"
max_parallel_jobs = 4
[target.local]
type = "directory"
path = "FOLDER/local"
template = "{job}/%Y/%m/%d/%H%M"
[target.nas]
type = "directory"
path = "FOLDER/nas"
template = "{job}/%Y/%m/%d/%H%M"
require_mount = true
[job.shop]
schedule = "0 3 1 1 *"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
drill = { schedule = "30 5 1 1 *" }
[job.accounting]
targets = ["local", "nas"]
drill = { schedule = "30 5 1 1 *" }
source.database = { type = "command", command = ["false"] }
[job.mailboxes]
schedule = "@hourly"
trigger = "external"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.media-library]
schedule = "@hourly"
targets = ["local"]
source.stream = { type = "command", command = ["sh", "-c", "while [ -e FOLDER/slow ]; do head -c 60000 /dev/zero; sleep 0.05; done"] }
[job.documents]
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.archive]
schedule = "@daily"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.fresh]
schedule = "0 3 1 1 *"
trigger = "external"
targets = ["local"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[job.LONG]
targets = ["local", "nas"]
source.files = { type = "files", paths = ["FOLDER/source"] }
[notify.admin]
type = "email"
smtp = "smtp://127.0.0.1:1"
from = "agent@example.org"
to = ["admin@example.org"]
"#;

struct Host {
    folder: tempfile::TempDir,
    now: DateTime<Utc>,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap(), now: SystemClock.now() };
        for name in ["source", "local", "nas"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        fs::write(host.path("source/a.txt"), "content\n".repeat(5_000)).unwrap();
        fs::write(host.path("slow"), "").unwrap();
        let folder = host.folder.path().to_str().unwrap();
        let text = CONFIG.replace("FOLDER", folder).replace("LONG", LONG);
        fs::write(host.path("config.toml"), text).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn agent(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path("config.toml")).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command
    }

    /// A history for every job, with what hostile names and errors may bring; the ids of the failed run and
    /// of the one with many warnings.
    fn seed(&self) -> (RunId, RunId) {
        let before = self.now - TimeDelta::days(40);
        let state = State::open(&self.path("state"), before).unwrap();
        // Known with its schedule all the time: an edited one would be due from now on only.
        for (name, schedule) in
            [("mailboxes", "@hourly"), ("media-library", "@hourly"), ("archive", "@daily")]
        {
            state.touch_job(&job(name), Some(schedule), before).unwrap();
        }
        let past = Past { state: &state, now: self.now };
        for n in (1..30).rev() {
            past.run("shop", n * 8 * 60, good(2_000 + (n * 37 % 300) as u64), &[], &[]);
            past.run("mailboxes", 4 * 24 * 60 + n * 60, good(90_000 + 900 * (30 - n) as u64), &[], &[]);
            past.run(LONG, n * 24 * 60, good(700 - (n * 11 % 90) as u64), &[], &[]);
            past.run("documents", n * 12 * 60, good(5_100 + (n * 53 % 800) as u64), &[], &[]);
        }
        for n in (1..9).rev() {
            past.run("archive", n * 24 * 60 + 9 * 24 * 60, good(40), &[], &[]);
            past.run(
                "accounting",
                n * 24 * 60,
                if n == 3 { interrupted() } else { good(310 + n as u64) },
                &[],
                &[],
            );
        }
        past.run(
            "media-library",
            180,
            End { components: vec![component("stream", 20)], ..good(20) },
            &[],
            &[],
        );
        let error = format!(
            "the command `mariadb-dump` of source database failed\nexit status 2: {HOSTILE} \u{202e}txt.exe\u{1b}[2J\u{0}\n{}",
            "Lost connection to server during query when dumping table `orders` at row 81242. ".repeat(130)
        );
        let failed = End {
            outcome: Outcome::Failure,
            error: Some(error),
            failed_step: Some(Step::Capture),
            steps: vec![(Step::Lock, 2), (Step::Preflight, 140), (Step::Capture, 61_300)],
            ..End::default()
        };
        let told = [
            message("admin", MessageKind::Failure, self.now),
            message("pager", MessageKind::Failure, self.now),
        ];
        let failed = past.run("accounting", 95, failed, &[], &told);
        let failed_log: String = (0..900)
            .map(|n| {
                format!("2026-11-24 02:30:{:02}+01:00  INFO {n} {HOSTILE} {}\n", n % 60, "x".repeat(n % 90))
            })
            .collect();
        state.set_run_log(&failed, &failed_log, self.now).unwrap();
        let drilled = DrillResult {
            restore_ms: Some(81_400),
            bytes: 3_330_000_000,
            entries: 50_316,
            compared: 20,
            databases: 2,
            tables: 61,
            checks: 3,
            ..DrillResult::default()
        };
        past.drill("shop", 3, drilled.clone());
        let problems =
            vec![format!("component database: database shop: loading {HOSTILE}: {}", "x".repeat(500)); 8];
        past.drill("accounting", 1, DrillResult { problems, restore_ms: Some(9_000), ..drilled });
        let busy = End {
            outcome: Outcome::Warning,
            warnings: hostile_files(),
            counts: WarningCounts { changed: 61, vanished: 38, unreadable: 1, skipped: 4 },
            components: vec![
                component("database", 800),
                component("files", 5_400),
                component("system-state", 6),
            ],
            ..good(6_206)
        };
        let copies = [copy("local", CopyStatus::Verified), copy("nas", CopyStatus::Pending)];
        let busy = past.run("documents", 40, busy, &copies, &[]);
        state
            .set_run_log(
                &busy,
                "2026-11-24 02:30:00+01:00  INFO run begins\n2026-11-24 02:31:00+01:00  INFO done\n",
                self.now,
            )
            .unwrap();
        let degraded =
            End { degraded: vec![format!("the copy to nas failed: {HOSTILE} is not mounted")], ..good(690) };
        past.run(LONG, 60, degraded, &copies, &[]);
        state.set_paused(&job("archive"), Some(self.now + TimeDelta::days(3)), self.now).unwrap();
        (failed, busy)
    }

    fn start(&self) -> Daemon {
        let mut command = self.agent();
        command.arg("run").stdout(Stdio::null()).stderr(Stdio::piped());
        Daemon::start(command)
    }
}

/// A running daemon; ended when dropped.
struct Daemon {
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the daemon ended:\n{said}")).unwrap();
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split(['/', ' ', ',']).next().unwrap().parse().unwrap();
            }
            said.push_str(&line);
            said.push('\n');
        };
        // Nobody reads on, but the pipe must not fill up.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, address }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn wait_for(&self, path: &str, texts: &[&str]) {
        let begun = Instant::now();
        loop {
            let (_, body) = self.get(path);
            let missing: Vec<_> = texts.iter().filter(|text| !body.contains(**text)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{missing:?} did not come to {path}:\n{body}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run ended.
#[derive(Clone)]
struct End {
    outcome: Outcome,
    error: Option<String>,
    failed_step: Option<Step>,
    steps: Vec<(Step, u64)>,
    components: Vec<ComponentSummary>,
    counts: WarningCounts,
    warnings: Vec<FileWarning>,
    degraded: Vec<String>,
    stored: u64,
}

impl Default for End {
    fn default() -> Self {
        Self {
            outcome: Outcome::Success,
            error: None,
            failed_step: None,
            steps: Vec::new(),
            components: Vec::new(),
            counts: WarningCounts::default(),
            warnings: Vec::new(),
            degraded: Vec::new(),
            stored: 0,
        }
    }
}

fn good(mib: u64) -> End {
    End {
        steps: vec![
            (Step::Lock, 1),
            (Step::Preflight, 90),
            (Step::Capture, 40_000 + mib * 3),
            (Step::Publish, 400),
            (Step::ReadBack, 9_000),
            (Step::Retention, 30),
            (Step::Record, 12),
        ],
        components: vec![component("files", mib)],
        stored: mib << 20,
        ..End::default()
    }
}

fn interrupted() -> End {
    End { outcome: Outcome::Interrupted, failed_step: Some(Step::Capture), ..End::default() }
}

fn component(name: &str, mib: u64) -> ComponentSummary {
    ComponentSummary {
        name: name.parse().unwrap(),
        source_bytes: (mib * 3) << 20,
        stored_bytes: mib << 20,
        entries: if name == "database" { 0 } else { mib * 17 },
        warning_counts: WarningCounts::default(),
        sha256: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse().unwrap()),
    }
}

fn copy(target: &str, status: CopyStatus) -> NewCopy {
    let location = status.is_kept().then(|| "documents/2026/11/24/0230".to_owned());
    NewCopy {
        target: target.parse().unwrap(),
        primary: target == "local",
        status,
        location,
        bytes: 6_206 << 20,
    }
}

fn message(channel: &str, kind: MessageKind, now: DateTime<Utc>) -> NewMessage {
    NewMessage {
        channel: channel.parse().unwrap(),
        job: Some(job("accounting")),
        run_id: None,
        kind,
        recipient: "admin@example.org".to_owned(),
        message_id: format!("{channel}-{}@example.org", kind.as_str()),
        subject: "accounting failed".to_owned(),
        payload: "{\"password\":\"never-shown\"}".to_owned(),
        not_before: now,
    }
}

/// A hundred files whose names are as bad as names can be.
fn hostile_files() -> Vec<FileWarning> {
    (0..100)
        .map(|n| {
            let path: Vec<u8> = match n % 10 {
                0 => format!("var/www/{n}/{HOSTILE}").into_bytes(),
                1 => b"srv/invalid/\xff\xfe\x80.dat".to_vec(),
                2 => "srv/\u{202e}fdp.exe\u{2066}\u{1b}]0;owned\u{7}\u{0}\n".into(),
                3 => format!("srv/{}", "long-".repeat(2_000)).into_bytes(),
                4 => "срв/文書/😀.txt".into(),
                _ => format!("var/www/app/storage/sessions/{n:040x}").into_bytes(),
            };
            let kind = [WarningKind::Changed, WarningKind::Vanished][n % 2];
            FileWarning {
                kind,
                path: PathText(path),
                detail: "size 81 → 90 bytes while it was read".to_owned(),
            }
        })
        .collect()
}

fn job(name: &str) -> JobName {
    name.parse().unwrap()
}

struct Past<'a> {
    state: &'a State,
    now: DateTime<Utc>,
}

impl Past<'_> {
    /// A drill of a job's newest good backup, some days ago.
    fn drill(&self, name: &str, days: i64, result: DrillResult) {
        let (state, started) = (self.state, self.now - TimeDelta::days(days));
        state.touch_drill_plan(&job(name), Some("30 5 1 1 *"), self.now - TimeDelta::days(40)).unwrap();
        let drill = NewDrill {
            job: job(name),
            run_id: state.last_success(&job(name)).unwrap().unwrap().run_id,
            target: "local".parse().unwrap(),
            folder: "/nowhere".to_owned(),
            process: ProcessIdentity::current(),
            started,
        };
        let id = state.begin_drill(&drill).unwrap();
        state.end_drill(id, &result, started + TimeDelta::seconds(95)).unwrap();
    }

    /// A run that began so many minutes ago.
    fn run(&self, name: &str, minutes: i64, end: End, copies: &[NewCopy], told: &[NewMessage]) -> RunId {
        let started = self.now - TimeDelta::minutes(minutes);
        let run_id = RunId::generate(started);
        let process = ProcessIdentity { pid: 1, ..ProcessIdentity::current() };
        let trigger = RunTrigger::Schedule;
        let run =
            NewRun { run_id: run_id.clone(), job: job(name), trigger, scheduled_for: None, process, started };
        self.state.begin_run(&run).unwrap();
        let took: u64 = end.steps.iter().map(|(_, ms)| ms).sum();
        let mut ended =
            EndedRun::new(run_id.clone(), end.outcome, started + TimeDelta::milliseconds(took as i64));
        ended.steps = end.steps.iter().map(|(step, ms)| StepTime { step: *step, ms: *ms }).collect();
        ended.source_bytes = end.components.iter().map(|c| c.source_bytes).sum();
        ended.stored_bytes = end.stored;
        (ended.components, ended.warning_counts, ended.warnings) = (end.components, end.counts, end.warnings);
        (ended.error, ended.failed_step, ended.degraded) = (end.error, end.failed_step, end.degraded);
        let told: Vec<NewMessage> =
            told.iter().map(|m| NewMessage { run_id: Some(run_id.clone()), ..m.clone() }).collect();
        assert!(self.state.end_run(&ended, copies, &told).unwrap());
        run_id
    }
}

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
    let (failed, busy) = host.seed();
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
