use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn take(path: &Path, mode: LockMode) -> Option<FileLock> {
    FileLock::try_acquire(path, mode).unwrap_or_else(|error| panic!("{error}"))
}

/// True when util-linux `flock -n` gets the lock.
fn flock_gets(path: &Path) -> bool {
    Command::new("flock").arg("-n").arg(path).arg("true").status().expect("util-linux flock runs").success()
}

/// A process that holds a lock until it is killed; made by util-linux `flock`.
struct Foreign(Child);

impl Foreign {
    fn hold(path: &Path) -> Self {
        // `--no-fork` puts the lock into the very process that is killed; the line says that it is held.
        let mut child = Command::new("flock")
            .args(["-n", "--no-fork"])
            .arg(path)
            .args(["sh", "-c", "echo held; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux flock runs");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn util_linux_flock_and_the_agent_exclude_one_another_both_ways() {
    let dir = folder();
    let path = dir.path().join("backup-run.lock");

    let held = take(&path, LockMode::Configured).expect("the lock is free");
    assert!(!flock_gets(&path), "flock got a lock the agent holds");
    assert!(!is_free(&path).unwrap());
    drop(held);
    assert!(flock_gets(&path));

    let foreign = Foreign::hold(&path);
    assert!(take(&path, LockMode::Configured).is_none(), "the agent got a lock flock holds");
    assert!(!is_free(&path).unwrap());
    drop(foreign);
    assert!(is_free(&path).unwrap());
    assert!(take(&path, LockMode::Configured).is_some());
    assert!(path.exists(), "the lock file was removed");
}

#[test]
fn a_lock_file_removed_while_it_is_held_is_noticed() {
    let dir = folder();
    let path = dir.path().join("lock");
    let held = take(&path, LockMode::Private).unwrap();
    assert!(held.is_in_place().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(!held.is_in_place().unwrap(), "a removed file");
    fs::write(&path, "").unwrap();
    assert!(!held.is_in_place().unwrap(), "another file of the same name");
    let newcomer = take(&path, LockMode::Private).expect("the new file is free");
    assert!(newcomer.is_in_place().unwrap());
}

#[test]
fn of_many_takers_exactly_one_holds_a_file_in_place_though_others_remove_it() {
    let dir = folder();
    let path = dir.path().join("lock");
    let (holders, overlaps, taken) = (AtomicUsize::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let begun = Instant::now();
    // For so long, and until some locks were taken: a machine with other work may stand still meanwhile.
    let goes_on = || {
        let few = taken.load(Ordering::SeqCst) <= 10;
        begun.elapsed() < Duration::from_millis(400) || few && begun.elapsed() < Duration::from_secs(60)
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while goes_on() {
                    let Some(lock) = take(&path, LockMode::Private) else { continue };
                    taken.fetch_add(1, Ordering::SeqCst);
                    if holders.fetch_add(1, Ordering::SeqCst) > 0 {
                        overlaps.fetch_add(1, Ordering::SeqCst);
                    }
                    std::thread::sleep(Duration::from_micros(300));
                    // The holder itself removes the file, as some scripts do on their way out: whoever opened
                    // it before must not take a lock on what is no longer there.
                    holders.fetch_sub(1, Ordering::SeqCst);
                    let _ = fs::remove_file(&path);
                    drop(lock);
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 10, "hardly a lock was taken");
    assert_eq!(overlaps.load(Ordering::SeqCst), 0, "two held the lock at once");
}

#[test]
fn waiting_ends_with_the_lock_the_deadline_or_a_cancellation() {
    let dir = folder();
    let path = dir.path().join("lock");
    let wait = |milliseconds, cancel: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        FileLock::acquire_wait(&path, LockMode::Private, deadline, cancel).unwrap()
    };
    let held = take(&path, LockMode::Private).unwrap();
    assert!(wait(0, &|| false).is_none());
    let start = Instant::now();
    assert!(wait(300, &|| false).is_none());
    assert!(start.elapsed() >= Duration::from_millis(300));
    let start = Instant::now();
    assert!(wait(60_000, &|| true).is_none());
    assert!(start.elapsed() < Duration::from_secs(10));
    let releaser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(held);
    });
    assert!(wait(60_000, &|| false).is_some());
    releaser.join().unwrap();
}

#[test]
fn children_do_not_inherit_a_lock() {
    let dir = folder();
    let path = dir.path().join("lock");
    let held = take(&path, LockMode::Private).unwrap();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    drop(held);
    // What another test forks at this moment has everything that is open until it becomes another program.
    let begun = Instant::now();
    let free = loop {
        let free = is_free(&path).unwrap();
        if free || begun.elapsed() > Duration::from_secs(60) {
            break free;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(free, "a child kept the lock");
}

#[test]
fn modes_are_private_for_our_own_and_untouched_for_a_configured_file() {
    let dir = folder();
    let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let own = dir.path().join("own");
    drop(take(&own, LockMode::Private));
    assert_eq!(mode_of(&own), 0o600);
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "4711\n").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o666)).unwrap();
    drop(take(&theirs, LockMode::Configured));
    assert_eq!(mode_of(&theirs), 0o666);
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "4711\n");
    let new = dir.path().join("new");
    drop(take(&new, LockMode::Configured));
    assert_eq!(mode_of(&new) & 0o444, 0o444, "others can read it, which is enough for flock");
}

#[test]
fn links_are_followed_for_a_configured_file_only() {
    let dir = folder();
    let (real, link, dangling) =
        (dir.path().join("real"), dir.path().join("link"), dir.path().join("dangling"));
    fs::write(&real, "").unwrap();
    symlink(&real, &link).unwrap();
    symlink(dir.path().join("nowhere"), &dangling).unwrap();

    let held = take(&link, LockMode::Configured).unwrap();
    assert!(!flock_gets(&real), "the lock is on the file the link leads to");
    drop(held);
    let error = FileLock::try_acquire(&link, LockMode::Private).unwrap_err().to_string();
    assert!(error.contains("it is a symbolic link"), "{error}");
    let error = FileLock::try_acquire(&dangling, LockMode::Configured).unwrap_err().to_string();
    assert!(error.contains("a symbolic link to a file that does not exist"), "{error}");
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn a_folder_can_be_locked_as_flock_does_but_a_fifo_cannot() {
    let dir = folder();
    let held = take(dir.path(), LockMode::Configured).unwrap();
    assert!(!flock_gets(dir.path()));
    drop(held);
    let error = FileLock::try_acquire(dir.path(), LockMode::Private).unwrap_err().to_string();
    assert!(error.contains("it is a folder"), "{error}");

    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let error = FileLock::try_acquire(&fifo, LockMode::Configured).unwrap_err().to_string();
    assert!(error.contains("it is a FIFO"), "{error}");
}

#[test]
fn a_missing_folder_is_named() {
    let dir = folder();
    let path = dir.path().join("missing/lock");
    let error = FileLock::try_acquire(&path, LockMode::Private).unwrap_err();
    assert!(matches!(error, LockError::NoFolder { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("the folder {} does not exist", dir.path().join("missing").display()))
    );
}

#[test]
fn a_probe_makes_no_file_and_disturbs_no_taker() {
    let dir = folder();
    let path = dir.path().join("lock");
    assert!(is_free(&path).unwrap());
    assert!(!path.exists());
    assert!(is_free(&dir.path().join("missing/lock")).unwrap());

    drop(take(&path, LockMode::Private));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let missed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                is_free(&path).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let missed = (0..200).filter(|_| take(&path, LockMode::Private).is_none()).count();
        stop.store(true, Ordering::Relaxed);
        missed
    });
    assert_eq!(missed, 0, "a probe made the lock look held");
}

#[test]
fn a_process_is_known_by_boot_number_and_start() {
    let me = ProcessIdentity::current();
    assert_eq!(me.boot_id.len(), 36);
    assert!(me.start_ticks.is_some() && me.is_alive());
    assert!(!ProcessIdentity { boot_id: "another".into(), ..me.clone() }.is_alive(), "another boot");
    assert!(!ProcessIdentity { start_ticks: Some(1), ..me.clone() }.is_alive(), "a reused number");
    assert!(ProcessIdentity { start_ticks: None, ..me.clone() }.is_alive(), "an unknown start");

    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let other = ProcessIdentity { pid: child.id(), start_ticks: start_ticks(child.id()), ..me };
    assert!(other.is_alive());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!other.is_alive());
}

#[test]
fn dropping_the_lock_leaves_the_very_file() {
    let dir = folder();
    let path = dir.path().join("lock");
    drop(take(&path, LockMode::Private));
    let before = fs::metadata(&path).unwrap().ino();
    drop(take(&path, LockMode::Private));
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
}
