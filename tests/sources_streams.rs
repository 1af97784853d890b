//! The contract of stream sources, held against programs that behave badly: what is not whole is never
//! taken for whole, nothing hangs, nothing is left running, and no secret is shown.

#[path = "peers/stage.rs"]
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use backup_agent::config::SourceConfig;
use backup_agent::event::{Interrupted, Progress};
use backup_agent::manifest::{Content, Kind};
use backup_agent::model::ComponentName;
use backup_agent::source::{Capture, Part, Source, StreamSource, build};
use stage::Stage;

const CANARY: &str = "canary-passw0rd";

/// A component of a source as the tests here need it; its own is asked for where the preflight is right.
fn part(source: &dyn Source) -> Part {
    let (extension, kind) = match source.type_name() {
        "sqlite" => ("sqlite", Kind::Stream),
        "files" | "system" => ("tar", Kind::Tar),
        _ => ("sql", Kind::Stream),
    };
    Part::whole(source.name(), extension, kind, Content::Other)
}

/// Scripts in place of dump programs.
trait Scripts {
    /// A shell script as a program.
    fn program(&self, name: &str, body: &str) -> String;
    /// A `command` source around a script, with further settings.
    fn command(&self, body: &str, settings: &str) -> Box<dyn Source>;
    /// Opens a source, reads it to its end and asks whether it was whole.
    fn read(&self, source: &dyn Source) -> (Vec<u8>, anyhow::Result<()>);
    /// Opens a source.
    fn start(&self, source: &dyn Source) -> anyhow::Result<Box<dyn StreamSource>>;
    /// The process ids that scripts wrote into a file.
    fn pids(&self, name: &str) -> Vec<i32>;
}

impl Scripts for Stage {
    fn program(&self, name: &str, body: &str) -> String {
        self.file(name, &format!("#!/bin/sh\n{body}\n"), 0o755).display().to_string()
    }

    fn command(&self, body: &str, settings: &str) -> Box<dyn Source> {
        let program = self.program("dump", body);
        source(&format!("type = 'command'\ncommand = ['{program}']\nextension = 'sql'\n{settings}"))
    }

    fn read(&self, source: &dyn Source) -> (Vec<u8>, anyhow::Result<()>) {
        let mut stream = match self.start(source) {
            Ok(stream) => stream,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let mut bytes = Vec::new();
        let read = stream.reader().read_to_end(&mut bytes);
        let finished = stream.finish();
        if read.is_err() {
            assert!(finished.is_err(), "reading failed, and the stream still calls itself whole");
        }
        (bytes, finished)
    }

    fn start(&self, source: &dyn Source) -> anyhow::Result<Box<dyn StreamSource>> {
        self.open(source, &part(source))
    }

    fn pids(&self, name: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn source(toml: &str) -> Box<dyn Source> {
    let config: SourceConfig = toml::from_str(toml).unwrap();
    build(&ComponentName::new("database").unwrap(), &config).unwrap()
}

fn text(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

/// True when the process is gone, or a zombie that its new parent has not collected yet.
fn ends(pid: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")) => return true,
            Ok(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    false
}

#[test]
fn a_program_that_does_its_work_yields_all_of_its_output() {
    let stage = Stage::new();
    let source = stage
        .command("echo CREATE TABLE; echo warning: old >&2; echo '-- END'; echo", "end_marker = '-- END'");
    assert_eq!(source.preflight(&stage.context).unwrap().parts[0].file_name, "database.sql");
    assert!(source.preflight(&stage.context).unwrap().warnings.is_empty());
    let (bytes, result) = stage.read(&*source);
    result.unwrap();
    assert_eq!(bytes, b"CREATE TABLE\n-- END\n\n");
}

#[test]
fn an_exit_code_other_than_zero_fails_whatever_was_written() {
    let stage = Stage::new();
    let source =
        stage.command("echo data; echo '-- END'; echo lost connection >&2; exit 2", "end_marker = '-- END'");
    let error = stage.read(&*source).1.unwrap_err();
    assert!(text(&error).contains("exit code 2") && text(&error).contains("lost connection"), "{error:#}");
}

#[test]
fn a_death_by_signal_fails() {
    let stage = Stage::new();
    let error = stage.read(&*stage.command("echo data; kill -SEGV $$", "")).1.unwrap_err();
    assert!(text(&error).contains("SIGSEGV"), "{error:#}");
}

#[test]
fn a_dump_that_broke_off_with_exit_code_zero_fails_by_its_missing_end_marker() {
    let stage = Stage::new();
    let source = stage.command("echo '-- END'; echo INSERT INTO", "end_marker = '-- END'");
    let error = stage.read(&*source).1.unwrap_err();
    assert!(text(&error).contains("cut off") && text(&error).contains("-- END"), "{error:#}");
}

#[test]
fn nothing_written_fails_unless_it_is_allowed() {
    let stage = Stage::new();
    let error = stage.read(&*stage.command("exit 0", "")).1.unwrap_err();
    assert!(text(&error).contains("wrote nothing"), "{error:#}");
    let (bytes, result) = stage.read(&*stage.command("exit 0", "allow_empty = true"));
    result.unwrap();
    assert!(bytes.is_empty());
}

#[test]
fn at_the_deadline_the_whole_process_group_is_ended() {
    let stage = Stage::new();
    let pids = stage.dir.path().join("pids");
    let body = format!(
        "trap '' TERM\necho $$ >> {pids}\nsh -c 'trap \"\" TERM; echo $$ >> {pids}; while :; do sleep 1; done' &\necho data\nwait",
        pids = pids.display()
    );
    let start = Instant::now();
    let (bytes, result) = stage.read(&*stage.command(&body, "timeout = '1s'"));
    let error = result.unwrap_err();
    assert!(text(&error).contains("had not finished after 1s"), "{error:#}");
    assert_eq!(bytes, b"data\n");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let pids = stage.pids("pids");
    assert_eq!(pids.len(), 2, "the stub did not start both of its processes");
    assert!(pids.into_iter().all(ends), "a process outlived the deadline");
}

#[test]
fn a_stream_that_is_given_up_ends_its_program() {
    let stage = Stage::new();
    let pids = stage.dir.path().join("pids");
    let body = format!("echo $$ > {}\nwhile :; do echo data; sleep 0.01; done", pids.display());
    let mut stream = stage.start(&*stage.command(&body, "")).unwrap();
    let mut some = [0; 5];
    stream.reader().read_exact(&mut some).unwrap();
    drop(stream);
    assert!(ends(stage.pids("pids")[0]));
}

#[test]
fn a_run_that_is_cancelled_ends_the_program_soon() {
    let stage = Stage::new();
    let source = stage.command("echo data; exec sleep 60", "");
    let progress = stage.context.progress.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        progress.cancel();
    });
    let start = Instant::now();
    let error = stage.read(&*source).1.unwrap_err();
    canceller.join().unwrap();
    assert!(error.is::<Interrupted>(), "{error:#}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_flood_on_standard_error_does_not_block_and_its_end_is_kept() {
    let stage = Stage::new();
    // 100 MB in lines, then the line that matters.
    let body = "yes 'warning: the same thing again and again and again' | head -c 100000000 >&2\necho data\necho 'the last word' >&2\nexit 1";
    let (bytes, result) = stage.read(&*stage.command(body, ""));
    let error = text(&result.unwrap_err());
    assert_eq!(bytes, b"data\n");
    assert!(error.ends_with("the last word"), "{error}");
    assert!(error.lines().count() < 20, "{error}");
}

#[test]
fn a_slow_reader_holds_the_program_back_instead_of_filling_memory() {
    let stage = Stage::new();
    let pid = stage.dir.path().join("pid");
    let body = format!("echo $$ > {}\nexec head -c 200000000 /dev/zero", pid.display());
    let mut stream = stage.start(&*stage.command(&body, "")).unwrap();
    thread::sleep(Duration::from_millis(700));
    let io = fs::read_to_string(format!("/proc/{}/io", stage.pids("pid")[0])).unwrap();
    let written: u64 = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap();
    assert!((1..4 << 20).contains(&written), "{written} bytes were taken from it while nobody read");
    let n = std::io::copy(&mut stream.reader(), &mut std::io::sink()).unwrap();
    assert_eq!(n, 200_000_000);
    stream.finish().unwrap();
}

#[test]
fn a_secret_is_visible_in_no_argument_error_or_debug_text() {
    let stage = Stage::new();
    let secret = stage.file("secret", &format!("{CANARY}\n"), 0o600);
    let body = "test \"$DUMP_PASSWORD\" = canary-passw0rd || exit 9\nset >&2\necho \"login $DUMP_PASSWORD failed\" >&2\necho ready\nsleep 0.5\nexit 3";
    let settings = format!("[env_file]\nDUMP_PASSWORD = '{}'", secret.display());
    let source = stage.command(body, &settings);
    source.preflight(&stage.context).unwrap();
    let mut stream = stage.start(&*source).unwrap();
    let mut ready = [0; 6];
    stream.reader().read_exact(&mut ready).unwrap();

    let mut seen = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else { continue };
        let cmdline = String::from_utf8_lossy(&cmdline).into_owned();
        assert!(!cmdline.contains(CANARY), "{cmdline}");
        seen += usize::from(cmdline.contains(&*stage.dir.path().to_string_lossy()));
    }
    assert!(seen > 0, "the program was not running while its arguments were looked at");

    let mut rest = Vec::new();
    let _ = stream.reader().read_to_end(&mut rest);
    let error = stream.finish().unwrap_err();
    assert!(text(&error).contains("exit code 3"), "{error:#}");
    for shown in [format!("{error:#}"), format!("{error:?}")] {
        assert!(!shown.contains(CANARY) && shown.contains("[secret]"), "{shown}");
    }
}

#[test]
fn a_secret_file_that_others_can_read_is_refused_by_the_preflight() {
    let stage = Stage::new();
    let secret = stage.file("secret", CANARY, 0o644);
    let source = stage.command("echo x", &format!("[env_file]\nDUMP_PASSWORD = '{}'", secret.display()));
    let error = text(&source.preflight(&stage.context).unwrap_err());
    assert!(
        error.contains("DUMP_PASSWORD") && error.contains("chmod 600") && !error.contains(CANARY),
        "{error}"
    );
}

#[test]
fn a_missing_program_is_named_by_the_preflight() {
    let stage = Stage::new();
    let source = source("type = 'command'\ncommand = ['no-such-dump-program']");
    let error = text(&source.preflight(&stage.context).unwrap_err());
    assert!(error.contains("no-such-dump-program"), "{error}");
    assert!(stage.read(&*source).1.is_err());
}

/// Stubs in the place of a MySQL dump program.
mod mysql {
    use super::*;

    const VERSION: &str =
        "case \"$*\" in *--version*) echo 'mariadb-dump from 99.1.2-MariaDB, client 10.19'; exit 0;; esac\n";

    fn dump(stage: &Stage, body: &str) -> Box<dyn Source> {
        let program = stage.program("mariadb-dump", &format!("{VERSION}{body}"));
        let password = stage.file("password", CANARY, 0o600);
        source(&format!(
            "type = 'mysql'\nprogram = '{program}'\ndatabases = ['shop']\nuser = 'backup'\npassword_file = '{}'\ntimeout = '2s'",
            password.display()
        ))
    }

    #[test]
    fn a_dump_is_whole_with_exit_code_and_end_marker_only() {
        let stage = Stage::new();
        let good = "echo data; echo '-- Dump completed on 2026-11-24 19:00:00'";
        stage.read(&*dump(&stage, good)).1.unwrap();
        for (body, part) in [
            ("echo data", "cut off"),
            ("echo '-- Dump completed'; echo data", "cut off"),
            ("exit 0", "wrote nothing"),
            ("echo '-- Dump completed'; exit 2", "exit code 2"),
            ("echo '-- Dump completed'; kill -9 $$", "SIGKILL"),
            ("echo data; sleep 60", "had not finished after 2s"),
            (
                "echo 'Got error: 1045: \"Access denied for user\"' >&2; exit 2",
                "refused the login of user backup",
            ),
        ] {
            let error = text(&stage.read(&*dump(&stage, body)).1.unwrap_err());
            assert!(error.contains(part), "{body}: {error}");
        }
    }

    #[test]
    fn the_password_reaches_the_program_by_a_private_file_that_is_gone_afterwards() {
        let stage = Stage::new();
        let seen = stage.dir.path().join("seen");
        let body = format!(
            "file=${{1#--defaults-file=}}\nstat -c %a \"$file\" > {seen}\ncat \"$file\" >> {seen}\nprintf '%s ' \"$@\" >> {seen}.args\nenv > {seen}.env\necho '-- Dump completed'",
            seen = seen.display()
        );
        stage.read(&*dump(&stage, &body)).1.unwrap();
        let read = |suffix: &str| fs::read_to_string(format!("{}{suffix}", seen.display())).unwrap();
        assert_eq!(read(""), format!("600\n[client]\nuser=\"backup\"\npassword=\"{CANARY}\"\n"));
        assert!(!read(".args").contains(CANARY) && read(".args").contains("--single-transaction"));
        assert!(!read(".env").contains(CANARY));
        assert_eq!(
            fs::read_dir(&stage.context.scratch).unwrap().count(),
            0,
            "something stayed in the scratch folder"
        );
    }

    #[test]
    fn a_missing_dump_program_is_told_with_the_package_that_has_it() {
        let stage = Stage::new();
        let source = source("type = 'mysql'\nprogram = '/no/such/mariadb-dump'\ndatabases = ['shop']");
        let error = text(&source.preflight(&stage.context).unwrap_err());
        assert!(error.contains("/no/such/mariadb-dump") && error.contains("mariadb-client"), "{error}");
    }
}

mod sqlite {
    use rusqlite::Connection;

    use super::*;

    fn database(path: &Path, mode: &str, rows: usize) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT);
                 CREATE INDEX i ON t (x); BEGIN;"
            ))
            .unwrap();
        for i in 0..rows {
            connection.execute("INSERT INTO t (x) VALUES (?1)", [format!("{i:0100}")]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    fn sqlite(path: &Path, timeout: &str) -> Box<dyn Source> {
        source(&format!("type = 'sqlite'\npath = '{}'\ntimeout = '{timeout}'", path.display()))
    }

    fn restored(stage: &Stage, bytes: &[u8]) -> i64 {
        let path = stage.dir.path().join("restored");
        fs::write(&path, bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_database_in_use_is_copied_whole_with_or_without_a_write_ahead_log() {
        for mode in ["WAL", "DELETE"] {
            let stage = Stage::new();
            let path = stage.dir.path().join("app.db");
            let live = database(&path, mode, 5000);
            let source = sqlite(&path, "5s");
            assert_eq!(part(&*source).file_name, "database.sqlite");
            source.preflight(&stage.context).unwrap();
            // Committed, but with a log perhaps only there.
            live.execute("INSERT INTO t (x) VALUES ('last')", []).unwrap();
            let (bytes, result) = stage.read(&*source);
            result.unwrap();
            assert_eq!(restored(&stage, &bytes), 5001, "{mode}");
            assert_eq!(fs::read_dir(&stage.context.scratch).unwrap().count(), 0, "the copy stayed behind");
            live.execute("INSERT INTO t (x) VALUES ('after')", []).unwrap();
        }
    }

    #[test]
    fn a_busy_writer_cannot_make_the_copy_start_over() {
        let stage = Stage::new();
        let path = stage.dir.path().join("app.db");
        drop(database(&path, "WAL", 100_000));
        let stop = Arc::new(Progress::default());
        let writer = {
            let (path, stop) = (path.clone(), stop.clone());
            thread::spawn(move || {
                let connection = Connection::open(path).unwrap();
                let mut written = 0;
                while !stop.is_cancelled() {
                    connection.execute("INSERT INTO t (x) VALUES ('more')", []).unwrap();
                    written += 1;
                }
                written
            })
        };
        let (bytes, result) = stage.read(&*sqlite(&path, "5s"));
        stop.cancel();
        assert!(writer.join().unwrap() > 0);
        result.unwrap();
        assert!(restored(&stage, &bytes) >= 100_000);
    }

    #[test]
    fn a_writer_that_holds_its_lock_is_waited_for_until_the_timeout() {
        let stage = Stage::new();
        let path = stage.dir.path().join("app.db");
        let live = database(&path, "DELETE", 10);
        live.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let start = Instant::now();
        let error = text(&stage.read(&*sqlite(&path, "600ms")).1.unwrap_err());
        assert!(error.contains("locked by a writer for 600ms") && error.contains("app.db"), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_secs(5));

        let source = sqlite(&path, "10s");
        let release = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            live.execute_batch("COMMIT").unwrap();
        });
        let (bytes, result) = stage.read(&*source);
        release.join().unwrap();
        result.unwrap();
        assert_eq!(restored(&stage, &bytes), 10);
    }

    #[test]
    fn a_hot_journal_of_a_crashed_writer_is_rolled_back() {
        let stage = Stage::new();
        let path = stage.dir.path().join("app.db");
        let live = database(&path, "DELETE", 2000);
        // A transaction that spills into the file, copied as a crash would leave it.
        live.execute_batch("PRAGMA cache_size = 5; BEGIN; UPDATE t SET x = x || 'half'").unwrap();
        let crashed = stage.dir.path().join("crashed.db");
        fs::copy(&path, &crashed).unwrap();
        fs::copy(stage.dir.path().join("app.db-journal"), stage.dir.path().join("crashed.db-journal"))
            .unwrap();
        let (bytes, result) = stage.read(&*sqlite(&crashed, "5s"));
        result.unwrap();
        assert_eq!(restored(&stage, &bytes), 2000);
        let copy = Connection::open(stage.dir.path().join("restored")).unwrap();
        let half: i64 =
            copy.query_row("SELECT count(*) FROM t WHERE x LIKE '%half'", [], |row| row.get(0)).unwrap();
        assert_eq!(half, 0);
    }

    #[test]
    fn a_damaged_database_never_becomes_a_backup() {
        let stage = Stage::new();
        let path = stage.dir.path().join("app.db");
        drop(database(&path, "DELETE", 20_000));
        let whole = fs::read(&path).unwrap();

        let half = stage.dir.path().join("half.db");
        fs::write(&half, &whole[..whole.len() / 2]).unwrap();
        let error = text(&stage.read(&*sqlite(&half, "5s")).1.unwrap_err());
        assert!(error.contains("half.db is damaged"), "{error}");

        let mut flipped = whole.clone();
        let middle = whole.len() / 2;
        flipped[middle..middle + 4096].fill(0xa5);
        let broken = stage.dir.path().join("broken.db");
        fs::write(&broken, &flipped).unwrap();
        let error = text(&stage.read(&*sqlite(&broken, "5s")).1.unwrap_err());
        assert!(error.contains("broken.db is damaged"), "{error}");
    }

    #[test]
    fn what_is_no_database_is_told_by_the_preflight() {
        let stage = Stage::new();
        for (content, part) in
            [("", "empty file"), ("hello", "not an SQLite database"), (&*"x".repeat(9000), "not an SQLite")]
        {
            let path = stage.file("x.db", content, 0o600);
            let error = text(&sqlite(&path, "1s").preflight(&stage.context).unwrap_err());
            assert!(error.contains(part) && error.contains("x.db"), "{error}");
        }
        let missing = stage.dir.path().join("missing.db");
        let error = text(&sqlite(&missing, "1s").preflight(&stage.context).unwrap_err());
        assert!(error.contains("missing.db") && error.contains("No such file"), "{error}");
        assert!(stage.read(&*sqlite(&missing, "1s")).1.is_err());
        assert!(!missing.exists(), "a missing database was created");
    }
}

#[test]
fn what_the_system_says_about_itself_is_a_tree_of_paths_and_answers() {
    let stage = Stage::new();
    let source = source("type = 'system'\nextra_paths = ['/opt']\nexclude = ['*.tmp']");
    assert_eq!(part(&*source).file_name, "database.tar");
    let Capture::Tree(spec) = source.open(&part(&*source), &stage.context).unwrap() else {
        panic!("a tree was expected")
    };
    assert!(spec.roots.contains(&PathBuf::from("/etc")) && spec.roots.contains(&PathBuf::from("/opt")));
    assert!(spec.allow_missing_roots);
    assert_eq!(spec.exclude, ["*.tmp"]);
    let file = |name: &str| {
        let path = format!("system-state/{name}");
        spec.virtual_files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {name}"))
    };
    assert!(file("uname.txt").bytes.starts_with(b"Linux"));
    assert_eq!(file("NOTES.txt").mode, 0o600);
}
