use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration as Std;

use rusqlite::Connection;

use super::*;

/// The folder for [`in_another_process`].
const CHILD_DIR: &str = "BACKUP_AGENT_TEST_STATE_DIR";
/// What the child does there.
const CHILD_JOB: &str = "BACKUP_AGENT_TEST_STATE_DOES";

/// This test binary again, for what needs a process of its own.
fn child(dir: &Path, does: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "state::tests::open::in_another_process", "--nocapture"]);
    command.env(CHILD_DIR, dir).env(CHILD_JOB, does).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// No test by itself: what [`child`] runs.
#[test]
fn in_another_process() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    match std::env::var(CHILD_JOB).unwrap().as_str() {
        "runs" => {
            let state = State::open(dir, at(0)).unwrap();
            for n in 0.. {
                one_run(&state, n);
            }
        }
        "look" => {
            let (snapshot, origin) = load_for_reading(dir, at(0)).unwrap();
            println!("\njobs={} origin={origin:?}", snapshot.jobs.len());
        }
        "open" => match State::open(dir, at(0)) {
            Ok(_) => println!("\nopened"),
            Err(e) => println!("\n{e:?}"),
        },
        other => panic!("{other}"),
    }
}

fn one_run(state: &State, n: i64) {
    let run_id = RunId::generate(at(n));
    let new = NewRun {
        run_id: run_id.clone(),
        job: job(),
        trigger: RunTrigger::Cron,
        scheduled_for: None,
        process: crate::lock::ProcessIdentity {
            boot_id: String::new(),
            pid: std::process::id(),
            start_ticks: None,
        },
        started: at(n),
    };
    state.begin_run(&new).unwrap();
    let message = mail(MessageKind::Success, run_id.as_str(), "a@x");
    assert!(
        state.end_run(&EndedRun::new(run_id, Outcome::Success, at(n)), &[primary(1)], &[message]).unwrap()
    );
}

fn output(mut command: Command) -> String {
    let out = command.output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Puts `text` where it counts on some other program having the lock.
fn raw(dir: &Path) -> Connection {
    Connection::open(dir.join(DATABASE_FILE)).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

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

#[test]
fn many_handles_write_at_once_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = dir.path();
            // Each opens for itself, so that they also race for making the file and the tables.
            scope.spawn(move || {
                let state = State::open(path, at(0)).unwrap();
                (0..25).for_each(|n| one_run(&state, thread * 100 + n));
            });
        }
    });
    let state = State::open(dir.path(), at(0)).unwrap();
    assert_eq!(state.runs(None, 1000).unwrap().len(), 100);
    assert_eq!(state.snapshot(at(0)).unwrap().jobs[0].counters.runs, 100);
}

#[test]
fn a_database_being_made_is_never_taken_for_another_programs() {
    for _ in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // A reader may come before there is anything to read, but must not call it foreign.
                    match State::open_read_only(dir.path()) {
                        Ok(_) | Err(StateError::NotFound { .. }) => {}
                        Err(e) => panic!("{e:?}"),
                    }
                    State::open(dir.path(), at(0)).unwrap()
                });
            }
        });
    }
}

#[test]
fn a_process_killed_while_it_writes_leaves_whole_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let mut ended = 0;
    for wait in [150, 210, 333] {
        let mut process: Child = child(dir.path(), "runs").spawn().unwrap();
        std::thread::sleep(Std::from_millis(wait));
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9), "it was killed, and did not fail before");
        let state = State::open(dir.path(), at(0)).unwrap();
        state.check_integrity().unwrap();
        let runs = state.runs(None, 1_000_000).unwrap();
        ended = runs.iter().filter(|run| !run.is_running()).count() as u64;
        assert!(runs.len() as u64 - ended <= 3, "at most one running row a kill");
        let snapshot = state.snapshot(at(0)).unwrap();
        let kept = snapshot.jobs.iter().flat_map(|j| j.targets.values()).map(|t| t.kept).sum::<u64>();
        let counted = snapshot.jobs.iter().map(|j| j.counters.runs).sum::<u64>();
        assert_eq!((counted, kept), (ended, ended));
        assert_eq!(state.pending_messages().unwrap().len() as u64, ended);
    }
    assert!(ended > 0, "the child never came to write");
}

#[test]
fn a_migration_keeps_a_copy_of_what_was_before() {
    use crate::state::open::migrate;
    use crate::state::schema::STEPS;
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
    use crate::state::open::migrate;
    use crate::state::schema::STEPS;
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
fn root_leaves_files_that_the_owner_of_the_folder_can_go_on_with() {
    if !is_root() {
        return;
    }
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let state = State::open(dir.path(), at(0)).unwrap();
    one_run(&state, 0);
    write_status(&state, at(0)).unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for path in names {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{}", path.display());
    }
}

#[test]
fn root_gives_away_what_it_left_before_the_folder_had_its_owner() {
    if !is_root() {
        return;
    }
    let f = Fixture::new();
    f.run(0, Outcome::Success);
    std::os::unix::fs::chown(f.path(), Some(65534), Some(65534)).unwrap();
    State::open(f.path(), at(1)).unwrap();
    for name in [DATABASE_FILE, "state.db-wal", "state.db-shm"] {
        assert_eq!(fs::metadata(f.path().join(name)).unwrap().uid(), 65534, "{name}");
    }
    assert!(as_nobody(f.path(), "open").is_none_or(|out| out.contains("opened")));
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

/// Runs as an ordinary user what `child` does; none where that cannot be tried here.
fn as_nobody(dir: &Path, does: &str) -> Option<String> {
    let mut command = child(dir, does);
    command.uid(65534).gid(65534).current_dir("/");
    match is_root() {
        true => Some(output(command)).filter(|out| out.contains("in_another_process") || out.contains('=')),
        false => None,
    }
}

#[test]
fn an_ordinary_user_reads_the_status_file_but_not_the_database() {
    let f = Fixture::new();
    fs::set_permissions(f.path(), fs::Permissions::from_mode(0o755)).unwrap();
    f.run(0, Outcome::Success);
    write_status(&f.state, at(2)).unwrap();
    let Some(looked) = as_nobody(f.path(), "look") else { return };
    assert!(looked.contains("jobs=1 origin=StatusFile(\"no permission"), "{looked}");
    let opened = as_nobody(f.path(), "open").unwrap();
    assert!(opened.contains("Permission {"), "{opened}");
    fs::set_permissions(f.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let opened = as_nobody(f.path(), "open").unwrap();
    assert!(opened.contains("Permission {"), "{opened}");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = State::open(&dir.path().join("file/below"), at(0)).unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
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
        let done =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).status();
        assert!(done.unwrap().success());
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
                let mut new = NewRun {
                    run_id: RunId::generate(at(0)),
                    job: job(),
                    trigger: RunTrigger::Cron,
                    scheduled_for: None,
                    process: crate::lock::ProcessIdentity {
                        boot_id: String::new(),
                        pid: 1,
                        start_ticks: None,
                    },
                    started: at(0),
                };
                let mut fill = |n: i64| {
                    new.run_id = RunId::generate(at(n));
                    state.begin_run(&new)?;
                    state.set_run_log(&new.run_id, &"x".repeat(3000), at(n))?;
                    state.end_run(&EndedRun::new(new.run_id.clone(), Outcome::Success, at(n)), &[], &[])
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
