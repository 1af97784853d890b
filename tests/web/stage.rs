//! What the server shows, and the server itself. What the tests share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backup_agent::config::Config;
use backup_agent::health::Extra;
use backup_agent::manifest::{FileWarning, PathText};
use backup_agent::model::{JobName, RunId, WarningKind};
use backup_agent::state::{JobRecord, RunRecord, Snapshot};
use backup_agent::web::{self, Context, RunProgress};
use chrono::{DateTime, Utc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::sample;

/// What the tests show; each part can be broken.
pub struct Stage {
    pub snapshot: Mutex<Result<Snapshot, String>>,
    pub config: Arc<Config>,
    /// How long reading the state takes; what is under way takes no longer when this becomes less.
    pub delay: Mutex<Duration>,
    pub reads: AtomicUsize,
    pub ready: AtomicBool,
    pub alive: AtomicBool,
}

impl Stage {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::plain())
    }

    pub fn plain() -> Self {
        Self {
            snapshot: Mutex::new(Ok(sample::snapshot())),
            config: Arc::new(sample::config()),
            delay: Mutex::default(),
            reads: AtomicUsize::new(0),
            ready: AtomicBool::new(true),
            alive: AtomicBool::new(true),
        }
    }

    pub fn break_state(&self) {
        *self.snapshot.lock().unwrap() = Err("the state database /x/state.db is <damaged>".to_owned());
    }
}

impl Context for Stage {
    fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        while begun.elapsed() < *self.delay.lock().unwrap() {
            std::thread::sleep(Duration::from_millis(10));
        }
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
pub struct Server {
    pub address: SocketAddr,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<anyhow::Result<()>>,
}

pub async fn start(stage: &Arc<Stage>) -> Server {
    start_at(stage, "127.0.0.1:0").await
}

pub async fn start_at(stage: &Arc<Stage>, address: &str) -> Server {
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
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Server {
    /// Sends the text and reads until the server closes.
    pub async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(120), stream.read_to_end(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        parse(&String::from_utf8(bytes).unwrap())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "localhost").await
    }

    pub async fn ask(&self, method: &str, path: &str, host: &str) -> Answer {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }
}

pub fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}
