//! A host with an agent: its folder, its configuration, the real binary, the mail server it sends to, and the
//! time that passes for it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backup_agent::clock::{Clock, SystemClock};
use chrono::{TimeDelta, Timelike};
use rusqlite::Connection;

use crate::commands::{Out, output};
use crate::prometheus::Door;
use crate::shorten::Pace;
use crate::smtp::SmtpServer;
use crate::watch::Watch;

/// Whatever is waited for comes much sooner, unless the machine has a lot of other work.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Host {
    pub name: &'static str,
    pub smtp: SmtpServer,
    pub door: Door,
    folder: tempfile::TempDir,
    pace: Pace,
    /// Once a day, last six hours ago.
    schedule: String,
    daemon: Mutex<Option<Child>>,
    told: Mutex<Expected>,
}

/// What was to be told so far.
#[derive(Default)]
struct Expected {
    /// Kinds of the agent's mails.
    agent: Vec<&'static str>,
    /// Alertmanager's: `web: overdue`.
    watch: Vec<&'static str>,
}

impl Host {
    /// A host with one job, `web`, that is due once a day, and was last due six hours ago.
    pub fn new(name: &'static str, pace: Pace) -> Self {
        let folder = tempfile::Builder::new().prefix("agent-host-").tempdir().unwrap();
        let six_hours_ago = SystemClock.now() - TimeDelta::hours(6);
        let host = Self {
            schedule: format!("{} {} * * *", six_hours_ago.minute(), six_hours_ago.hour()),
            name,
            smtp: SmtpServer::plain(),
            door: Door::new(),
            folder,
            pace,
            daemon: Mutex::default(),
            told: Mutex::default(),
        };
        for name in ["local", "nas", "src"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        for number in 0..20 {
            fs::write(host.path(&format!("src/{number}.txt")), vec![b'x'; 20_000]).unwrap();
        }
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration: lines in `[job.web]`, then further tables. `{schedule}` and `{root}` are
    /// replaced.
    pub fn configure(&self, job: &str, more: &str) {
        let text = format!(
            r#"
host = "{}"
timezone = "UTC"
state_dir = "{{root}}/state"
listen = "127.0.0.1:0"
check_interval = "2s"
[target.local]
type = "directory"
path = "{{root}}/local"
template = "{{job}}/%Y%m%dT%H%M%S"
[job.web]
schedule = "{{schedule}}"
{job}
[job.web.source.application]
type = "files"
paths = ["{{root}}/src"]
[notify.admin]
type = "email"
smtp = "{}"
from = "backup@example.org"
to = ["admin@example.org"]
{more}"#,
            self.name,
            self.smtp.url(),
        );
        let root = self.folder.path().display().to_string();
        fs::write(
            self.path("config.toml"),
            text.replace("{schedule}", &self.schedule).replace("{root}", &root),
        )
        .unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path("config.toml")).args(arguments).stdin(Stdio::null());
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "BACKUP_AGENT_FAILPOINT"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the agent to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str], code: i32) -> Out {
        let out = output(self.command(arguments));
        assert_eq!(out.code, code, "{}: agent {arguments:?}:\n{}", self.name, out.all());
        out
    }

    /// Starts the daemon. `failpoint` as in `src/failpoint.rs`, or nothing; see [`Host::go_on`].
    pub fn start(&self, failpoint: &str) {
        let log = File::create(self.path("daemon.log")).unwrap();
        let mut command = self.command(&["run"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.env("BACKUP_AGENT_FAILPOINT", failpoint);
        command.env("BACKUP_AGENT_FAILPOINT_TRACE", self.path("trace"));
        *self.daemon.lock().unwrap() = Some(command.spawn().unwrap());
        let begun = Instant::now();
        let address = loop {
            let said = self.daemon_said();
            let address = said.rsplit_once("metrics at http://").and_then(|(_, rest)| rest.split('/').next());
            if let Some(address) = address.and_then(|text| text.parse::<SocketAddr>().ok()) {
                break address;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: the daemon does not listen: {said}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        };
        self.door.lead_to(Some(address));
    }

    /// Lets a daemon that waits at its failpoint go on.
    pub fn go_on(&self) {
        fs::write(self.path("trace.go"), "").unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let daemon = self.daemon.lock().unwrap();
        let pid = rustix::process::Pid::from_child(daemon.as_ref().expect("a running daemon"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends the daemon as the kernel would.
    pub fn kill(&self) {
        if let Some(mut daemon) = self.daemon.lock().unwrap().take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.door.lead_to(None);
    }

    fn daemon_said(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Lets time pass for the jobs: whatever happened to them happened so many hours earlier. What the daemon
    /// says of itself and of targets happened when it did.
    pub fn hours_pass(&self, hours: i64) {
        let is_of_jobs = |table: &str| !["facts", "probes"].contains(&table);
        let state = self.state();
        let mut columns = state
            .prepare(
                "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
                 WHERE t.type = 'table' AND c.type = 'INTEGER'",
            )
            .unwrap();
        let columns = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let columns: Vec<(String, String)> = columns.map(Result::unwrap).collect();
        assert!(columns.len() > 20, "the state's times were not found: {columns:?}");
        let passed = TimeDelta::hours(hours).num_milliseconds();
        // Only times are as large as that: it is the year 2001 in milliseconds.
        let shift = |(table, column): &(String, String)| {
            format!(
                "UPDATE {table} SET {column} = {column} - {passed}
                 WHERE {column} > 1000000000000 AND {column} < 9000000000000;\n"
            )
        };
        let updates: String = columns.iter().filter(|(table, _)| is_of_jobs(table)).map(shift).collect();
        state.execute_batch(&format!("BEGIN IMMEDIATE; {updates} COMMIT;")).unwrap();
    }

    /// The scheduler last turned so many hours ago.
    pub fn scheduler_stood_for(&self, hours: i64) {
        let at = (SystemClock.now() - TimeDelta::hours(hours)).timestamp_millis();
        self.state()
            .execute("INSERT OR REPLACE INTO facts (key, value, at) VALUES ('scheduler-tick', '', ?1)", [at])
            .unwrap();
    }

    fn state(&self) -> Connection {
        let state = Connection::open(self.path("state/state.db")).unwrap();
        state.busy_timeout(PATIENCE).unwrap();
        state
    }

    /// Makes a backup, and lets a day and two hours pass: the next one was due six hours ago, grace included
    /// it is overdue for five.
    pub fn is_overdue(&self) {
        self.run(&["backup", "web"], 0);
        self.hours_pass(26);
    }

    /// Takes the source away, or brings it back.
    pub fn break_source(&self) {
        fs::rename(self.path("src"), self.path("away")).unwrap();
    }

    pub fn mend_source(&self) {
        fs::rename(self.path("away"), self.path("src")).unwrap();
    }

    /// The kinds of the agent's mails, in their order.
    pub fn mails(&self) -> Vec<String> {
        let kind = |data: &[u8]| {
            let text = String::from_utf8_lossy(data).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("X-Backup-Agent-Kind: "));
            line.unwrap_or("no kind").to_owned()
        };
        self.smtp.mails().iter().map(|mail| kind(&mail.data)).collect()
    }

    /// Waits until something is true.
    #[track_caller]
    pub fn until(&self, watch: &Watch, what: &str, mut ready: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !ready() {
            let patience = PATIENCE * self.pace.0;
            assert!(begun.elapsed() < patience, "{what} did not come\n{}", self.all(watch));
            std::thread::sleep(Duration::from_millis(200));
        }
        eprintln!("{}: {:.1} s for {what}", self.name, begun.elapsed().as_secs_f64());
    }

    /// Waits until an alert fires in Prometheus.
    #[track_caller]
    pub fn until_fires(&self, watch: &Watch, alert: &str) {
        self.until(watch, &format!("{alert} in Prometheus"), || watch.fires(self.name, alert));
    }

    /// Waits until an alert fires, and Alertmanager knows of it and keeps it quiet because of another one.
    #[track_caller]
    pub fn until_kept_quiet(&self, watch: &Watch, alert: &str) {
        self.until(watch, &format!("{alert}, inhibited"), || {
            watch.fires(self.name, alert) && watch.keeps_quiet(self.name, alert)
        });
    }

    /// Waits until an alert no longer fires.
    #[track_caller]
    pub fn until_over(&self, watch: &Watch, alert: &str) {
        self.until(watch, &format!("the end of {alert}"), || !watch.fires(self.name, alert));
    }

    /// Waits until Prometheus has missed the agent.
    #[track_caller]
    pub fn stays_away_for_a_scrape(&self, watch: &Watch) {
        let query = format!("up{{instance='{}'}} == 0", self.name);
        self.until(watch, "a missed scrape", || !watch.prometheus.query(&query).is_empty());
    }

    /// Waits until no alert of this host is left.
    #[track_caller]
    pub fn until_all_is_over(&self, watch: &Watch) {
        self.until(watch, "the end of all alerts", || {
            watch.prometheus.alerts(self.name).is_empty() && watch.alertmanager.alerts(self.name).is_empty()
        });
    }

    /// The agent sends one mail of this kind next, and nobody anything else.
    #[track_caller]
    pub fn agent_tells(&self, watch: &Watch, kind: &'static str) {
        self.both_tell(watch, &[kind], &[]);
    }

    /// Alertmanager sends these mails next, one each, in any order, and nobody anything else.
    #[track_caller]
    pub fn watch_tells(&self, watch: &Watch, what: &[&'static str]) {
        self.both_tell(watch, &[], what);
    }

    /// The agent sends these mails and Alertmanager those, and nobody anything else.
    #[track_caller]
    pub fn both_tell(&self, watch: &Watch, kinds: &[&'static str], what: &[&'static str]) {
        let (by_agent, by_watch) = {
            let mut told = self.told.lock().unwrap();
            told.agent.extend(kinds);
            told.watch.extend(what);
            told.watch.sort();
            (told.agent.len(), told.watch.len())
        };
        self.until(watch, &format!("the agent's {kinds:?}, Alertmanager's {what:?}"), || {
            self.mails().len() >= by_agent && watch.mails(self.name).len() >= by_watch
        });
        self.nothing_else(watch);
    }

    /// What was told so far is what was to be told, and nothing else: of the agent in this order, of
    /// Alertmanager, whose alerts begin and end on their own, in any.
    #[track_caller]
    pub fn nothing_else(&self, watch: &Watch) {
        let told = self.told.lock().unwrap();
        let by_watch = self.watch_told(watch);
        assert!(
            self.mails() == told.agent && by_watch == told.watch,
            "the agent was to tell {:?}, and told {:?}; Alertmanager was to tell {:?}, and told {by_watch:?}\n{}",
            told.agent,
            self.mails(),
            told.watch,
            self.all(watch)
        );
    }

    /// Nothing else is told for several of Alertmanager's intervals. To be called at a moment at which a wrong
    /// mail would be on its way.
    #[track_caller]
    pub fn stays_quiet(&self, watch: &Watch) {
        std::thread::sleep(self.pace.group_interval() * 3);
        self.nothing_else(watch);
    }

    fn watch_told(&self, watch: &Watch) -> Vec<String> {
        let mut told: Vec<String> =
            watch.mails(self.name).iter().map(|mail| mail.summary(self.name)).collect();
        told.sort();
        told
    }

    /// Everything known, for the message of a failed test.
    fn all(&self, watch: &Watch) -> String {
        format!(
            "{}: the agent's mails: {:?}\nAlertmanager's mails: {:?}\n{}\nthe daemon said:\n{}\nAlertmanager said:\n{}",
            self.name,
            self.mails(),
            self.watch_told(watch),
            watch.of(self.name),
            self.daemon_said(),
            watch.alertmanager_said()
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
