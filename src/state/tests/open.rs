//! How the database is made, opened, migrated, and refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::state::open::migrate;
use crate::state::schema::STEPS;

#[test]
fn the_database_is_private_durable_and_marked_as_ours() {
    let f = Fixture::new();
    let mode = |name: &str| fs::metadata(f.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(DATABASE_FILE), mode("state.db-wal"), mode("state.db-shm")), (0o600, 0o600, 0o600));
    let writer = f.state.inner.writer.as_ref().unwrap().lock().unwrap();
    let pragma = |name: &str| {
        writer.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, rusqlite::types::Value>(0))
    };
    use rusqlite::types::Value::{Integer, Text};
    assert_eq!(pragma("journal_mode").unwrap(), Text("wal".into()));
    assert_eq!(pragma("synchronous").unwrap(), Integer(2));
    assert_eq!(pragma("application_id").unwrap(), Integer(0x626b_6167));
    assert_eq!(pragma("user_version").unwrap(), Integer(VERSION.into()));
}

#[test]
fn a_new_state_folder_can_be_entered_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b");
    State::open(&deep, at(0)).unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o755, 0o755);
}

#[test]
fn the_instance_id_is_made_once() {
    let f = Fixture::new();
    let id = f.state.instance_id().to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(State::open(f.path(), at(9)).unwrap().instance_id(), id);
    assert_eq!(State::open_read_only(f.path()).unwrap().instance_id(), id);
}

#[test]
fn a_reader_makes_nothing_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(State::open_read_only(dir.path()), Err(StateError::NotFound { .. })));
    assert!(matches!(State::open_read_only(&dir.path().join("none")), Err(StateError::NotFound { .. })));
    fs::write(dir.path().join(DATABASE_FILE), "").unwrap();
    assert!(matches!(State::open_read_only(dir.path()), Err(StateError::NotFound { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let f = Fixture::new();
    f.run(0, Outcome::Success);
    let reader = State::open_read_only(f.path()).unwrap();
    assert!(reader.is_read_only());
    assert!(reader.last_run(&job()).unwrap().is_some());
    f.run(10, Outcome::Failure);
    assert_eq!(
        reader.last_run(&job()).unwrap().unwrap().outcome,
        Some(Outcome::Failure),
        "it follows the writer"
    );
    let error = reader.touch_job(&job(), Some("@daily"), at(0)).unwrap_err();
    assert!(matches!(error, StateError::ReadOnly { .. }), "{error}");
}

#[test]
fn a_reader_opens_a_database_whose_writers_are_gone() {
    let f = Fixture::new();
    f.run(0, Outcome::Success);
    let Fixture { state, dir } = f;
    drop(state);
    assert!(!dir.path().join("state.db-wal").exists(), "the last writer cleaned up");
    assert_eq!(State::open_read_only(dir.path()).unwrap().runs(None, 9).unwrap().len(), 1);
}

#[test]
fn a_later_version_is_refused_with_both_versions_named() {
    let f = Fixture::new();
    raw(f.path()).pragma_update(None, "user_version", 99).unwrap();
    for result in [State::open(f.path(), at(0)), State::open_read_only(f.path())] {
        let error = result.unwrap_err();
        assert!(matches!(error, StateError::TooNew { found: 99, known: VERSION, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("version 99") && text.contains(&format!("up to {VERSION}")), "{text}");
        assert!(error.is_lasting());
    }
}

#[test]
fn a_database_of_another_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    raw(dir.path()).execute_batch("CREATE TABLE photos (id INTEGER)").unwrap();
    let error = State::open(dir.path(), at(0)).unwrap_err();
    assert!(matches!(error, StateError::Foreign { .. }), "{error}");
    assert!(State::open_read_only(dir.path()).is_err());
}

#[test]
fn a_migration_keeps_a_copy_of_what_was_before() {
    let f = Fixture::new();
    let id = f.run(0, Outcome::Success);
    let path = f.path().join(DATABASE_FILE);
    let next = [STEPS, &["ALTER TABLE runs ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'"]].concat();
    {
        let mut writer = f.state.inner.writer.as_ref().unwrap().lock().unwrap();
        migrate(&mut writer, &path, &next, at(0)).unwrap();
        migrate(&mut writer, &path, &next, at(60 * 48)).unwrap();
        let mood: String = writer.query_row("SELECT mood FROM runs", [], |row| row.get(0)).unwrap();
        assert_eq!(mood, "calm");
    }
    let copies: Vec<_> = fs::read_dir(f.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".v"))
        .collect();
    let kept = format!("{DATABASE_FILE}.v{VERSION}-20261124");
    assert_eq!(copies, std::slice::from_ref(&kept));
    let kept = f.path().join(kept);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let old = Connection::open(kept).unwrap();
    let version: u32 = old.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let run: String = old.query_row("SELECT run_id FROM runs", [], |row| row.get(0)).unwrap();
    assert_eq!((version, run.as_str()), (VERSION, id.as_str()));
    assert!(
        matches!(State::open(f.path(), at(0)), Err(StateError::TooNew { .. })),
        "the older program refuses it"
    );
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let f = Fixture::new();
    let path = f.path().join(DATABASE_FILE);
    let next = [STEPS, &["CREATE TABLE mood (a); CREATE TABLE mood (b);"]].concat();
    {
        let mut writer = f.state.inner.writer.as_ref().unwrap().lock().unwrap();
        migrate(&mut writer, &path, &next, at(0)).unwrap_err();
    }
    f.run(0, Outcome::Success);
    State::open(f.path(), at(0)).unwrap();
}

#[test]
fn a_database_moved_aside_while_it_is_open_is_no_longer_written() {
    let f = Fixture::new();
    f.run(0, Outcome::Success);
    let path = f.path().join(DATABASE_FILE);
    fs::rename(&path, f.path().join("aside")).unwrap();
    let write = || f.state.touch_job(&job(), Some("@daily"), at(1));
    assert!(matches!(write(), Err(StateError::Replaced { .. })));
    fs::write(&path, "").unwrap();
    let error = write().unwrap_err();
    assert!(matches!(error, StateError::Replaced { .. }) && error.is_lasting(), "{error}");
}

#[test]
fn a_linked_folder_is_followed_and_a_linked_database_is_not() {
    let f = Fixture::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(f.path(), &link).unwrap();
    State::open(&link, at(0)).unwrap();
    std::os::unix::fs::symlink(f.path().join(DATABASE_FILE), elsewhere.path().join(DATABASE_FILE)).unwrap();
    let error = State::open(elsewhere.path(), at(0)).unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("symbolic link"));
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = State::open(&dir.path().join("file/below"), at(0)).unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
}
