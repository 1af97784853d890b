//! Several processes, and several users.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration as Std;

use super::*;

/// The folder for [`in_another_process`].
const CHILD_DIR: &str = "BACKUP_AGENT_TEST_STATE_DIR";
/// What the child does there.
const CHILD_JOB: &str = "BACKUP_AGENT_TEST_STATE_DOES";

/// What it says when it has written something.
const WRITING: &str = "one is written";

/// This test binary again, for what needs a process of its own.
fn child(dir: &Path, does: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "state::tests::processes::in_another_process", "--nocapture"]);
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
                if n == 0 {
                    println!("\n{WRITING}");
                }
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

fn output(mut command: Command) -> String {
    let out = command.output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
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
    for wait in [50, 110, 233] {
        let mut process: Child = child(dir.path(), "runs").spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.is_ok_and(|line| line == WRITING)), "the child never came to write");
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
    assert!(ended > 2, "{ended} runs ended");
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
