//! What the jobs of the host have behind them.

use backup_agent::event::Step;
use backup_agent::lock::ProcessIdentity;
use backup_agent::manifest::{FileWarning, PathText};
use backup_agent::model::{JobName, Outcome, RunId, WarningCounts, WarningKind};
use backup_agent::state::{
    ComponentSummary, CopyStatus, DrillResult, EndedRun, MessageKind, NewCopy, NewDrill, NewMessage, NewRun,
    RunTrigger, State, StepTime,
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::host::{Host, LONG};

/// What a hostile user would call a file, and a hostile server would answer.
const HOSTILE: &str =
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(2)>";

/// A history for every job, with what hostile names and errors may bring; the ids of the failed run and
/// of the one with many warnings.
pub fn seed(host: &Host) -> (RunId, RunId) {
    let before = host.now - TimeDelta::days(40);
    let state = State::open(&host.path("state"), before).unwrap();
    // Known with its schedule all the time: an edited one would be due from now on only.
    for (name, schedule) in [("mailboxes", "@hourly"), ("media-library", "@hourly"), ("archive", "@daily")] {
        state.touch_job(&job(name), Some(schedule), before).unwrap();
    }
    let past = Past { state: &state, now: host.now };
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
    past.run("media-library", 180, End { components: vec![component("stream", 20)], ..good(20) }, &[], &[]);
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
    let told =
        [message("admin", MessageKind::Failure, host.now), message("pager", MessageKind::Failure, host.now)];
    let failed = past.run("accounting", 95, failed, &[], &told);
    let failed_log: String = (0..900)
        .map(|n| format!("2026-11-24 02:30:{:02}+01:00  INFO {n} {HOSTILE} {}\n", n % 60, "x".repeat(n % 90)))
        .collect();
    state.set_run_log(&failed, &failed_log, host.now).unwrap();
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
        components: vec![component("database", 800), component("files", 5_400), component("system-state", 6)],
        ..good(6_206)
    };
    let copies = [copy("local", CopyStatus::Verified), copy("nas", CopyStatus::Pending)];
    let busy = past.run("documents", 40, busy, &copies, &[]);
    state
        .set_run_log(
            &busy,
            "2026-11-24 02:30:00+01:00  INFO run begins\n2026-11-24 02:31:00+01:00  INFO done\n",
            host.now,
        )
        .unwrap();
    let degraded =
        End { degraded: vec![format!("the copy to nas failed: {HOSTILE} is not mounted")], ..good(690) };
    past.run(LONG, 60, degraded, &copies, &[]);
    state.set_paused(&job("archive"), Some(host.now + TimeDelta::days(3)), host.now).unwrap();
    (failed, busy)
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
