//! Damage, full disks, and locks that others hold.

use std::fs;
use std::process::Command;
use std::time::{Duration as Std, Instant};

use super::*;

#[test]
fn damage_is_called_damage() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join(DATABASE_FILE),
        "no database at all, and long enough to be looked at".repeat(50),
    )
    .unwrap();
    assert!(matches!(State::open(dir.path(), at(0)), Err(StateError::Corrupt { .. })));
    assert!(matches!(State::open_read_only(dir.path()), Err(StateError::Corrupt { .. })));

    // Pages overwritten in the middle: found when they are read.
    let f = Fixture::new();
    (0..200).for_each(|m| drop(f.run(m, Outcome::Success)));
    f.state.check_integrity().unwrap();
    let Fixture { state, dir } = f;
    drop(state);
    let path = dir.path().join(DATABASE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4..bytes.len();
    bytes[middle].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = State::open(dir.path(), at(0)).and_then(|state| state.check_integrity()).unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }) && error.is_lasting(), "{error:?}");
    assert!(error.to_string().contains("move it"), "{error}");
}

#[test]
fn a_value_no_version_wrote_is_damage_not_a_panic() {
    let f = Fixture::new();
    let id = f.run(0, Outcome::Success);
    raw(f.path()).execute("UPDATE runs SET steps = 'no json'", []).unwrap();
    assert!(matches!(f.state.run(&id), Err(StateError::Corrupt { .. })));
    raw(f.path()).execute("UPDATE runs SET steps = '[]', outcome = 'splendid'", []).unwrap();
    assert!(matches!(f.state.snapshot(at(0)), Err(StateError::Corrupt { .. })));
}

#[test]
fn a_full_disk_is_told_apart_and_passes() {
    let f = Fixture::new();
    let pages: i64 = {
        let writer = f.state.inner.writer.as_ref().unwrap().lock().unwrap();
        let pages = writer.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        writer.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        pages
    };
    let id = f.begin(0);
    let error = f.state.set_run_log(&id, &"x".repeat(100_000), at(0)).unwrap_err();
    assert!(matches!(error, StateError::Full { .. }) && error.is_lasting(), "{error:?}");
    assert!(f.state.running(&job()).unwrap().is_some(), "what was there is still read");
    let writer = f.state.inner.writer.as_ref().unwrap().lock().unwrap();
    writer.query_row(&format!("PRAGMA max_page_count = {}", pages + 1000), [], |_| Ok(())).unwrap();
    drop(writer);
    f.state.set_run_log(&id, &"x".repeat(100_000), at(0)).unwrap();
}

#[test]
fn a_lock_held_too_long_is_told_apart_and_readers_do_not_wait_for_it() {
    let f = Fixture::new();
    f.run(0, Outcome::Success);
    let other = raw(f.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    f.state.inner.writer.as_ref().unwrap().lock().unwrap().busy_timeout(Std::from_millis(50)).unwrap();
    let error = f.state.touch_job(&job(), Some("@daily"), at(0)).unwrap_err();
    assert!(matches!(error, StateError::Locked { .. }) && !error.is_lasting(), "{error:?}");
    assert_eq!(f.state.snapshot(at(0)).unwrap().jobs.len(), 1);
    assert!(State::open_read_only(f.path()).unwrap().last_run(&job()).unwrap().is_some());
    other.execute_batch("ROLLBACK").unwrap();
    f.state.touch_job(&job(), Some("@daily"), at(0)).unwrap();
}

/// A small file system of its own; none where this user may not mount.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path());
        mount.output().is_ok_and(|out| out.status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let remount =
            || Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).output();
        let deadline = Instant::now() + Std::from_secs(60);
        // What another test has just forked holds our files until it becomes the program it is to be.
        loop {
            let done = remount().unwrap();
            if done.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&done.stderr));
            std::thread::sleep(Std::from_millis(50));
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_file_system_is_told_apart_at_every_size_and_leaves_whole_transactions() {
    // From too small for the first page to enough for some runs.
    for pages in [1, 4, 16, 40, 60, 80, 120] {
        let Some(disk) = Tmpfs::new(&format!("size={}k", pages * 4)) else { return };
        let error = match State::open(disk.path(), at(0)) {
            Err(error) => error,
            Ok(state) => {
                let fill = |n: i64| {
                    let new = new_run(n);
                    state.begin_run(&new)?;
                    state.set_run_log(&new.run_id, &"x".repeat(3000), at(n))?;
                    state.end_run(&EndedRun::new(new.run_id, Outcome::Success, at(n)), &[], &[])
                };
                (0..1000).find_map(|n| fill(n).err()).expect("the disk never filled")
            }
        };
        assert!(matches!(error, StateError::Full { .. }), "{pages} pages: {error:?}");
        disk.remount("size=4m");
        let state = State::open(disk.path(), at(0)).unwrap();
        state.check_integrity().unwrap();
        let ended = state.runs(None, 10_000).unwrap().iter().filter(|run| !run.is_running()).count() as u64;
        assert_eq!(state.snapshot(at(0)).unwrap().jobs.iter().map(|j| j.counters.runs).sum::<u64>(), ended);
        one_run(&state, 5000);
        write_status(&state, at(5001)).unwrap();
    }
}

#[test]
fn a_read_only_file_system_is_told_apart_and_can_be_read() {
    let Some(disk) = Tmpfs::new("size=4m") else { return };
    let state = State::open(disk.path(), at(0)).unwrap();
    one_run(&state, 0);
    write_status(&state, at(1)).unwrap();
    drop(state);
    disk.remount("ro");
    let error = State::open(disk.path(), at(0)).unwrap_err();
    assert!(matches!(error, StateError::Permission { .. }), "{error:?}");
    let (snapshot, _) = load_for_reading(disk.path(), at(2)).unwrap();
    assert_eq!(snapshot.jobs.len(), 1);
}
