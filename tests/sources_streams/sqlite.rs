//! SQLite databases in use, busy, damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use backup_agent::event::Progress;
use backup_agent::source::Source;
use rusqlite::Connection;

use crate::scripts::{Scripts, part, source, text};
use crate::stage::Stage;

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
        let source = sqlite(&path, "2m");
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
    let (bytes, result) = stage.read(&*sqlite(&path, "2m"));
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
    assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_secs(60));

    let source = sqlite(&path, "2m");
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
    fs::copy(stage.dir.path().join("app.db-journal"), stage.dir.path().join("crashed.db-journal")).unwrap();
    let (bytes, result) = stage.read(&*sqlite(&crashed, "2m"));
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
    let error = text(&stage.read(&*sqlite(&half, "2m")).1.unwrap_err());
    assert!(error.contains("half.db is damaged"), "{error}");

    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle..middle + 4096].fill(0xa5);
    let broken = stage.dir.path().join("broken.db");
    fs::write(&broken, &flipped).unwrap();
    let error = text(&stage.read(&*sqlite(&broken, "2m")).1.unwrap_err());
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
