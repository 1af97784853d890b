//! A day in the life of a host, lived by the real agent at the times of that day: `libfaketime` moves the clock
//! of each call and of the daemon. What it exports is kept as Prometheus would have scraped it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveTime, Utc};

use crate::smtp::SmtpServer;

/// Between two scrapes: below the five minutes for which Prometheus takes a value as current.
const SCRAPE: i64 = 240;
const PATIENCE: Duration = Duration::from_secs(120);

const CONFIG: &str = r#"
timezone = "UTC"
host = "web1"
state_dir = "{root}/state"
listen = "127.0.0.1:0"

[target.local]
type = "directory"
path = "{root}/local"
template = "{job}/%Y/%m/%d/%H%M"
[target.nas]
type = "directory"
path = "{root}/nas"
template = "{job}/%Y/%m/%d/%H%M"

[notify.admin]
type = "email"
smtp = "{smtp}"
from = "backup@example.org"
to = ["admin@example.org"]

[job.web]
schedule = "0 3,11,19 * * *"
targets = ["local", "nas"]
max_runtime = "2h"
lock_file = "{root}/web.lock"
copy_wait = "1h"
source.application = { type = "files", paths = ["{root}/data"] }
source.database = { type = "command", command = ["{root}/dump"] }

[job.mail]
schedule = "30 2 * * *"
targets = ["local"]
source.maildir = { type = "command", command = ["{root}/mail"] }

# Nobody starts it any more.
[job.wiki]
schedule = "@hourly"
trigger = "external"
targets = ["local"]
source.files = { type = "files", paths = ["{root}/data"] }

[job.lab]
schedule = "@daily"
trigger = "external"
targets = ["local"]
source.files = { type = "files", paths = ["{root}/data"] }

[job.archive]
targets = ["local"]
source.tape = { type = "command", command = ["{root}/tape"] }
"#;

/// What the day left behind.
pub struct Day {
    /// What was exported: when, and the text of `/metrics`.
    scrapes: Vec<(i64, String)>,
    /// Its last scrape.
    pub end: i64,
    /// Also the time until which there are values.
    pub start: i64,
}

/// A process that is ended with the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A host, and the time there.
pub struct Host {
    folder: tempfile::TempDir,
    library: PathBuf,
    now: DateTime<Utc>,
    scrapes: Vec<(i64, String)>,
}

fn midnight() -> DateTime<Utc> {
    "2025-11-24T00:00:00Z".parse().unwrap()
}

fn at(time: &str) -> DateTime<Utc> {
    midnight().date_naive().and_time(time.parse::<NaiveTime>().unwrap()).and_utc()
}

fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).expect("libfaketime is needed: apt-get install faketime")
}

impl Host {
    /// With `{root}` and `{smtp}` in the configuration filled in.
    pub fn new(config: &str, smtp: &SmtpServer) -> Self {
        let folder = tempfile::Builder::new().prefix("agent-day-").tempdir().unwrap();
        let root = folder.path().display().to_string();
        for name in ["local", "nas", "offsite", "data"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let config = config.replace("{root}", &root).replace("{smtp}", &smtp.url());
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let host = Self { folder, library: faketime(), now: midnight(), scrapes: Vec::new() };
        host.script("dump", "head -c 200000 /dev/zero; echo '-- end'");
        host.script("mail", "echo letters");
        host.script("tape", "echo reel");
        host.grow(1);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, body: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Files of the application.
    fn grow(&self, version: usize) {
        fs::write(self.path(&format!("data/upload-{version}.bin")), vec![b'x'; 50_000 * version]).unwrap();
    }

    /// The agent, at the time that is now.
    fn agent(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path("config.toml")).args(line.split_whitespace());
        // Only what the clock shows is changed; waiting takes as long as it does.
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME", self.now.format("@%Y-%m-%d %H:%M:%S").to_string())
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("TZ", "UTC");
        command
    }

    /// Lets the time pass until then; Prometheus scrapes meanwhile.
    fn pass_until(&mut self, then: DateTime<Utc>) {
        while self.now + Duration::from_secs(3600) < then {
            self.now += Duration::from_secs(3600);
            self.scrape();
        }
        self.now = then;
    }

    fn scrape(&mut self) {
        let output = self.agent("metrics").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.scrapes.push((self.now.timestamp(), String::from_utf8(output.stdout).unwrap()));
    }

    /// Runs the agent at that time, and lets it be scraped half a minute later.
    #[track_caller]
    pub fn run(&mut self, time: &str, line: &str, code: i32) {
        self.pass_until(at(time));
        let output = self.agent(line).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{time} agent {line}: {said}");
        self.now += Duration::from_secs(30);
        self.scrape();
    }

    /// The daemon for long enough that it has looked at everything, and what it exports then.
    pub fn daemon(&mut self, time: &str) -> &str {
        self.pass_until(at(time));
        let log = self.path("daemon.log");
        let stderr = fs::File::create(&log).unwrap();
        let _child = Ended(self.agent("run").stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
        let began = Instant::now();
        let address = loop {
            let said = fs::read_to_string(&log).unwrap();
            let address =
                said.split_once("status page at http://").and_then(|(_, rest)| rest.split_once('/'));
            if let Some((address, _)) = address {
                break address.parse().unwrap();
            }
            assert!(began.elapsed() < PATIENCE, "the daemon does not say where it listens: {said}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = loop {
            let text = get(address, "/metrics").unwrap_or_default();
            // What an earlier daemon saw is exported from the beginning.
            let wanted = [
                ("backup_health_last_check_timestamp_seconds", ""),
                ("backup_scheduler_last_tick_timestamp_seconds", ""),
                ("backup_target_last_probe_timestamp_seconds", "target=\"local\""),
                ("backup_target_last_probe_timestamp_seconds", "target=\"nas\""),
            ];
            let is_new = |(name, labels, seen): (&str, &str, f64), wanted: &(&str, &str)| {
                (name, labels) == *wanted && seen >= self.now.timestamp() as f64
            };
            let complete =
                wanted.iter().all(|one| text.lines().filter_map(sample).any(|line| is_new(line, one)));
            if complete {
                break text;
            }
            assert!(began.elapsed() < PATIENCE, "the daemon did not look at everything: {text}");
            std::thread::sleep(Duration::from_millis(100));
        };
        self.now += Duration::from_secs(30);
        self.scrapes.push((self.now.timestamp(), text));
        &self.scrapes[self.scrapes.len() - 1].1
    }
}

/// The body of an answer with code 200.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}

/// Lives the day through.
pub fn live() -> Day {
    let smtp = SmtpServer::plain();
    let mut host = Host::new(CONFIG, &smtp);
    host.daemon("00:00:10");
    host.run("00:30:00", "backup wiki", 0);
    host.run("01:00:00", "backup archive", 0);
    host.run("02:30:00", "backup mail", 0);
    host.run("03:00:00", "backup web", 0);
    host.run("04:00:00", "verify --job web --target local", 0);
    host.run("04:20:00", "drill web", 0);
    host.run("04:30:00", "backup wiki", 0);
    host.daemon("06:00:00");

    // At 11 another program holds the lock.
    host.grow(2);
    let lock = fs::File::create(host.path("web.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    host.run("11:00:00", "backup web", 75);
    drop(lock);
    host.run("11:10:00", "backup web", 0);

    // At 14 the mail server's dump breaks, and somebody is told.
    host.script("mail", "echo 'no such mailbox' >&2; exit 3");
    host.run("14:00:00", "backup mail", 1);
    assert_eq!(smtp.mails().len(), 1, "the failure is mailed");

    // In the evening the share is gone.
    host.grow(3);
    fs::rename(host.path("nas"), host.path("nas-unplugged")).unwrap();
    host.run("19:00:00", "backup web", 4);
    host.run("22:00:00", "pause lab --until 3days", 0);

    // And at the end of the day a run that takes long.
    host.script("tape", "echo reel; exec sleep 3000");
    host.pass_until(at("23:30:00"));
    let long = host.agent("backup archive").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let long = Ended(long);
    let began = Instant::now();
    // How far it is, is written down some seconds after its begin.
    loop {
        host.now += Duration::from_secs(1);
        host.scrape();
        if host.scrapes.last().unwrap().1.contains("\nbackup_run_progress_ratio{backup_job=\"archive\"} ") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the long run does not come on");
        std::thread::sleep(Duration::from_millis(500));
    }
    host.daemon("23:50:00");
    drop(long);

    let end = at("23:58:00").timestamp();
    Day { start: host.scrapes[0].0, scrapes: host.scrapes, end }
}

/// A host of the fleet; all of them live the same day.
struct Copy {
    instance: &'static str,
    /// When it is heard of for the last time.
    until: i64,
    /// Its disk fills up: this much is gone each second.
    fills: f64,
}

impl Day {
    /// Every metric that was exported, with its labels.
    pub fn names(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut names = BTreeMap::<String, BTreeSet<String>>::new();
        for (name, labels, _) in self.scrapes.iter().flat_map(|(_, text)| text.lines().filter_map(sample)) {
            let known = names.entry(name.to_owned()).or_default();
            known.extend(labels.split("\",").filter_map(|l| Some(l.split_once('=')?.0.to_owned())));
        }
        names
    }

    /// The day as OpenMetrics with timestamps, for three hosts: `web1`, which lived it; `db2`, which is the
    /// same and goes down at 17:00; and `db3`, whose disk fills up. As a scrape does, it adds the labels of
    /// the scrape and `up`, and drops empty labels; as rules do, `ALERTS` for the host that is down.
    pub fn write(&self, path: &Path) {
        let hosts = [
            Copy { instance: "web1", until: self.end, fills: 0.0 },
            Copy { instance: "db2", until: at("17:00:00").timestamp(), fills: 0.0 },
            Copy { instance: "db3", until: self.end, fills: 20_000.0 },
        ];
        let mut out = String::new();
        let ends = self.scrapes.iter().skip(1).map(|(at, _)| *at).chain([self.end + 1]);
        let mut next = self.start;
        for ((_, text), end) in self.scrapes.iter().zip(ends) {
            while next < end {
                for host in &hosts {
                    host.scrape(text, next, next - self.start, &mut out);
                }
                next += SCRAPE;
            }
        }
        out.push_str("# EOF\n");
        fs::write(path, out).unwrap();
    }
}

impl Copy {
    fn scrape(&self, text: &str, at: i64, elapsed: i64, out: &mut String) {
        let own = format!("job=\"backup-agent\",instance=\"{}\"", self.instance);
        let up = at <= self.until;
        let _ = writeln!(out, "up{{{own}}} {} {at}", u8::from(up));
        if !up {
            let alert = "alertname=\"BackupAgentDown\",alertstate=\"firing\",severity=\"warning\"";
            let _ = writeln!(out, "ALERTS{{{alert},{own}}} 1 {at}");
            return;
        }
        for (name, labels, value) in text.lines().filter_map(sample) {
            let labels = labels.replace("backup_job=\"\"", "").trim_start_matches(',').to_owned();
            let comma = if labels.is_empty() { "" } else { "," };
            let filled = match name {
                "backup_target_free_bytes" => 1e11 - self.fills * elapsed as f64,
                "backup_target_size_bytes" => 2e11,
                _ => value,
            };
            let _ = writeln!(out, "{name}{{{own}{comma}{labels}}} {filled} {at}");
        }
    }
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    Some((name, labels.strip_suffix('}')?, value.parse().ok()?))
}
