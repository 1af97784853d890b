//! Lines as they look in each place, and what hostile texts make of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use chrono::DateTime;
use tracing::Level;

use super::*;
use crate::model::RunId;

fn log() -> RunLog {
    RunLog::new(&"web".parse().unwrap(), &RunId::generate("2026-11-24T18:00:00Z".parse().unwrap()))
}

/// Lines without their time.
fn bare(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let time = "2026-11-24 19:00:00+01:00 ".len();
    lines.into_iter().map(|line| line.as_ref()[time..].trim_start().to_owned()).collect()
}

fn subscribe() -> tracing::subscriber::DefaultGuard {
    tracing_subscriber::registry().with(RunLayer.with_filter(RUN_LEVEL)).set_default()
}

#[test]
fn events_inside_the_span_of_a_run_go_to_its_log_and_no_other() {
    let _guard = subscribe();
    let (one, two) = (log(), log());
    tracing::info!("before");
    one.span().in_scope(|| {
        tracing::info!(files = 3, name = "a", "walked");
        tracing::debug!("too fine");
        tracing::info_span!("inner").in_scope(|| tracing::warn!("deep"));
    });
    two.span().in_scope(|| tracing::error!("other"));
    assert_eq!(bare(one.tail(10)), ["INFO walked files=3 name=a", "WARN deep"]);
    assert_eq!(bare(two.tail(10)), ["ERROR other"]);
    assert!(one.text().contains(" WARN deep\n"), "{}", one.text());
}

#[test]
fn a_span_entered_on_another_thread_reaches_the_log() {
    let _guard = subscribe();
    let log = log();
    let span = log.span();
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    std::thread::spawn(move || {
        tracing::dispatcher::with_default(&dispatch, || span.in_scope(|| tracing::info!("from afar")));
    })
    .join()
    .unwrap();
    assert_eq!(bare(log.tail(1)), ["INFO from afar"]);
}

#[test]
fn a_long_log_keeps_its_beginning_and_its_end_and_says_what_is_missing() {
    let log = log();
    (0..5000).for_each(|n| log.push(Level::INFO, &format!("line {n}")));
    let text = log.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 500 + 1 + 1500);
    assert!(lines[0].ends_with(" line 0") && lines[499].ends_with(" line 499"));
    assert_eq!(lines[500], "… 3000 lines left out");
    assert!(lines[501].ends_with(" line 3500") && lines[2000].ends_with(" line 4999"));
    assert_eq!(bare(log.tail(2)), ["INFO line 4998", "INFO line 4999"]);
}

#[test]
fn a_log_of_huge_lines_stays_within_its_bytes() {
    let log = log();
    (0..2000).for_each(|_| log.push(Level::INFO, &"ä".repeat(100_000)));
    assert!(log.text().len() <= (256 << 10) + 4096, "{}", log.text().len());
    assert!(log.tail(1)[0].ends_with('…'));
}

#[test]
fn line_breaks_and_control_characters_cannot_forge_an_entry() {
    let log = log();
    log.push(Level::ERROR, "stderr:\n2026-11-24 19:00:00 INFO all good\x1b[2J\r\n");
    let lines = log.tail(10);
    assert_eq!(lines.len(), 2);
    assert!(lines[1].contains("ERROR 2026-11-24 19:00:00 INFO all good\\u{1b}[2J"), "{lines:?}");
}

/// What is written when `f` logs.
fn written(settings: &Settings, colour: bool, journal: bool, f: impl FnOnce()) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let writer = Arc::new(file.reopen().unwrap());
    let (subscriber, control) = subscriber(settings, colour, journal, writer).unwrap();
    control.files.reopen();
    tracing::subscriber::with_default(subscriber, f);
    fs::read_to_string(file.path()).unwrap()
}

fn settings(format: Format, level: &str) -> Settings {
    Settings { format, level: Some(level.to_owned()), ..Settings::default() }
}

fn text(level: &str) -> Settings {
    settings(Format::Text, level)
}

#[test]
fn a_line_of_a_run_carries_job_and_run_id_once_whatever_the_level_and_the_directives() {
    for level in ["info", "warn", "backup_agent::log=warn"] {
        let log = log();
        let line =
            written(&text(level), false, false, || log.span().in_scope(|| tracing::warn!(n = 1, "slow")));
        assert_eq!(line.matches("20261124T180000Z-").count(), 1, "{line}");
        assert!(line.contains(" WARN [web 20261124T180000Z-") && line.ends_with("] slow n=1\n"), "{line}");
    }
}

#[test]
fn a_line_of_a_job_without_a_run_names_the_job_by_its_field() {
    let line = written(&text("info"), false, false, || tracing::warn!(job = "web", "locked"));
    assert!(line.ends_with(" WARN [web] locked\n"), "{line}");
}

#[test]
fn the_innermost_run_is_the_one_a_line_is_about() {
    let (outer, inner) = (log(), log());
    let run = inner.run().to_string();
    let line = written(&text("info"), false, false, || {
        outer.span().in_scope(|| inner.span().in_scope(|| tracing::info!("copied")));
    });
    assert!(line.contains(&format!("[web {run}] copied")), "{line}");
    assert_eq!((outer.tail(9).len(), inner.tail(9).len()), (0, 1));
}

#[test]
fn a_line_for_programs_is_one_object_with_job_and_run_beside_the_message() {
    let log = log();
    let json = written(&settings(Format::Json, "info"), true, false, || {
        log.span().in_scope(|| tracing::info!(n = 1, level = "forged", "fine\nreally"));
    });
    assert_eq!(json.lines().count(), 1, "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["message"], &json["n"], &json["level"], &json["job"]),
        (&"fine\nreally".into(), &1.into(), &"INFO".into(), &"web".into())
    );
    assert!(json["run"].as_str().unwrap().starts_with("20261124T180000Z-"), "{json}");
    assert!(DateTime::parse_from_rfc3339(json["timestamp"].as_str().unwrap()).is_ok(), "{json}");
}

#[test]
fn the_journal_gets_a_priority_and_neither_time_nor_colour() {
    let say = || {
        tracing::error!("one");
        tracing::warn!("two");
        tracing::info!("three");
        tracing::debug!("four");
    };
    assert_eq!(written(&text("debug"), true, true, say), "<3>one\n<4>two\n<6>three\n<7>four\n");
    let json = written(&settings(Format::Json, "info"), true, true, || tracing::warn!("two"));
    assert!(json.starts_with("<4>{\"") && json.ends_with("}\n"), "{json}");
}

#[test]
fn only_a_standard_error_that_is_the_named_stream_is_the_journal() {
    use std::os::fd::AsFd;
    let stderr = io::stderr();
    let found = fs::File::from(stderr.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
    assert!(is_journal(Some(&format!("{}:{}", found.dev(), found.ino())), &stderr));
    for other in [None, Some(""), Some("1"), Some("a:b"), Some("1:1")] {
        assert!(!is_journal(other, &stderr), "{other:?}");
    }
}

#[test]
fn hostile_texts_stay_one_line_and_cannot_repaint_or_turn_it() {
    let hostile = "a\n2026-11-24 19:00:00+01:00  INFO [web x] all good\r\x1b[2J\u{202e}gpj\u{2028}b";
    let log = log();
    let line = written(&text("info"), false, false, || {
        log.span().in_scope(|| tracing::error!(path = hostile, "cannot read {hostile}"));
    });
    assert_eq!(line.lines().count(), 1, "{line:?}");
    assert!(
        !line.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}' || c == '\u{2028}'),
        "{line:?}"
    );
    assert!(line.contains("\\n2026") && line.contains("\\u{1b}[2J"), "{line}");
    assert_eq!(log.text().lines().count(), 1);
    let long = written(&text("info"), false, false, || tracing::info!("{}", "x".repeat(1 << 20)));
    assert!(long.len() < 5000 && long.ends_with("…\n"), "{}", long.len());
}

/// Log files in a folder, and what is told of them.
struct InFolder {
    folder: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
    files: Arc<LogFiles>,
}

impl InFolder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::<Mutex<Vec<String>>>::default();
        let settings = Settings {
            run_file: Some(folder.path().join("run.log")),
            health_file: Some(folder.path().join("health.log")),
            ..Settings::default()
        };
        let files = LogFiles::new(&settings, {
            let told = Arc::clone(&told);
            move |text| told.lock().unwrap().push(text.to_owned())
        });
        Self { folder, told, files: Arc::new(files) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn log(&self, f: impl FnOnce()) {
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines(Style::JournalText))
            .with_writer(IntoFiles(Arc::clone(&self.files)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
    }
}

#[test]
fn health_checks_have_a_file_of_their_own_and_both_are_made_with_mode_0640() {
    let here = InFolder::new();
    here.files.reopen();
    here.log(|| {
        tracing::info!("a run");
        tracing::warn!(target: HEALTH, "a check");
    });
    assert_eq!(
        (here.read("run.log").as_str(), here.read("health.log").as_str()),
        ("<6>a run\n", "<4>a check\n")
    );
    for name in ["run.log", "health.log"] {
        assert_eq!(fs::metadata(here.path(name)).unwrap().permissions().mode() & 0o7777, 0o640);
    }
    assert_eq!((here.files.trouble(), here.told.lock().unwrap().len()), (None, 0));
}

#[test]
fn a_file_that_was_rotated_away_is_written_until_it_is_opened_anew() {
    let here = InFolder::new();
    here.log(|| tracing::info!("one"));
    fs::rename(here.path("run.log"), here.path("run.log.1")).unwrap();
    here.log(|| tracing::info!("two"));
    here.files.reopen();
    here.log(|| tracing::info!("three"));
    assert_eq!(
        (here.read("run.log.1"), here.read("run.log")),
        ("<6>one\n<6>two\n".into(), "<6>three\n".into())
    );
}

#[test]
fn a_file_that_cannot_be_opened_is_told_once_and_the_old_one_stays_in_use() {
    let here = InFolder::new();
    here.log(|| tracing::info!("one"));
    fs::rename(here.path("run.log"), here.path("old.log")).unwrap();
    fs::create_dir(here.path("run.log")).unwrap();
    here.files.reopen();
    here.files.reopen();
    let trouble = here.files.trouble().unwrap();
    assert!(trouble.contains("run.log cannot be opened: "), "{trouble}");
    assert_eq!(here.told.lock().unwrap().len(), 1);
    here.log(|| tracing::info!("two"));
    assert_eq!(here.read("old.log"), "<6>one\n<6>two\n");
    fs::remove_dir(here.path("run.log")).unwrap();
    here.files.reopen();
    assert_eq!(here.files.trouble(), None);
}

#[test]
fn a_pipe_or_a_device_is_no_log_file_and_holds_nobody_up() {
    let here = InFolder::new();
    let pipe = here.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    for path in [pipe.as_path(), std::path::Path::new("/dev/null")] {
        here.files.set_paths(&Settings { run_file: Some(path.to_owned()), ..Settings::default() });
        here.log(|| tracing::info!("one"));
        let trouble = here.files.trouble().unwrap();
        assert!(trouble.contains("cannot be opened"), "{trouble}");
    }
}

#[test]
fn colour_is_only_where_it_was_asked_for_and_a_quiet_terminal_keeps_the_log_of_the_run() {
    let shout = || tracing::error!("red");
    assert!(written(&text("info"), true, false, shout).contains('\x1b'));
    assert!(!written(&text("info"), false, false, shout).contains('\x1b'));
    let log = log();
    assert_eq!(written(&text("off"), false, false, || log.span().in_scope(shout)), "");
    assert_eq!(bare(log.tail(1)), ["ERROR red"]);
}

#[test]
fn a_level_sets_this_program_and_leaves_others_at_warnings() {
    assert_eq!(filter(Some("debug")).unwrap().to_string(), "backup_agent=debug,agent=debug,warn");
    assert_eq!(filter(Some("off")).unwrap().to_string(), "off");
    assert_eq!(
        filter(Some("backup_agent=trace")).unwrap().to_string(),
        "backup_agent_span=error,backup_agent=trace"
    );
    for bad in ["loud=very", "", "a=b=c"] {
        let error = filter(Some(bad)).unwrap_err().to_string();
        assert!(error.contains("give error, warn, info"), "{bad:?}: {error}");
    }
}
