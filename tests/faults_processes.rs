//! Processes that are killed, stopped, asked to end, hang, or hold the lock. Rows 10, 12, 13, 31, 43 and
//! 44 of the fault matrix.
#![cfg(feature = "failpoints")]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::process::Stdio;
use std::time::{Duration, Instant};

use world::invariants::Expect;
use world::{Out, Paused, Setup, World, finish, output, system, wait_for};

const KEEP: &str = "keep = { last = 2 }";
const DUMP: &str = r#"
[job.web.source.database]
type = "command"
command = ["sh", "{root}/dump.sh"]
"#;
const GOOD_DUMP: &str = "echo 'CREATE TABLE t (a int);'";
const BACKUP: [&str; 3] = ["backup", "web", "--json"];

fn is_alive(pid: &str) -> bool {
    // A zombie has ended; only its parent has not asked yet.
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !matches!(stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]), Some("Z" | "X")))
}

/// Whether util-linux `flock` can take a lock.
fn is_free(path: &std::path::Path) -> bool {
    std::process::Command::new("flock").arg("-n").arg(path).arg("true").status().unwrap().success()
}

#[test]
fn a_run_killed_at_a_random_moment_is_cleaned_up_after() {
    let world = World::with(Setup { nas: true, local: KEEP, nas_lines: KEEP, ..Setup::default() });
    world.recover();
    let begun = Instant::now();
    world.recover();
    // Checks take longer than the run; a kill after its end is no fault, but no harm either.
    let mut longest = (begun.elapsed() / 3).as_micros() as u64;
    let (mut killed, mut turn) = (0, 0);
    // The machine may have been slower when that was measured.
    while turn < 12 || killed <= 2 {
        assert!(turn < 40, "the kill came too late in all but {killed} of {turn} runs");
        let delay = RandomState::new().hash_one(turn) % longest;
        eprintln!("turn {turn}: killed after {delay} µs");
        let mut command = world.agent(&BACKUP);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(delay));
        let _ = child.kill();
        match finish(child).code {
            -9 => killed += 1,
            _ => longest = (longest * 3 / 4).max(1000),
        }
        world.after_kill(if turn % 2 == 0 { "tend" } else { "backup" });
        world.catch_up();
        turn += 1;
    }
    world.recover();
}

#[test]
fn a_dump_dies_with_the_run_that_started_it() {
    let world = World::with(Setup { more: DUMP.to_owned(), ..Setup::default() });
    world.write("dump.sh", GOOD_DUMP);
    world.recover();
    let pid = world.path("pid");
    world.write("dump.sh", format!("{GOOD_DUMP}; echo $$ > {}; exec sleep 1000", pid.display()));
    let mut command = world.agent(&BACKUP);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the dump", || fs::read_to_string(&pid).is_ok_and(|t| t.ends_with('\n')));
    let dump = fs::read_to_string(&pid).unwrap();
    let lock = world.path("state/locks/web.lock");
    assert!(is_alive(&dump) && !is_free(&lock));
    child.kill().unwrap();
    assert_eq!(finish(child).code, -9);
    wait_for("the dump's end", || !is_alive(&dump));
    assert!(is_free(&lock), "the lock outlives the run");
    world.write("dump.sh", GOOD_DUMP);
    world.after_kill("tend");
}

#[test]
fn a_signal_ends_the_run_cleanly_and_is_told() {
    let world = World::with(Setup { more: DUMP.to_owned(), ..Setup::default() });
    world.write("dump.sh", GOOD_DUMP);
    world.recover();
    let pid = world.path("pid");
    for signal in ["TERM", "INT", "HUP"] {
        eprintln!("{signal}");
        // While a dump runs.
        let _ = fs::remove_file(&pid);
        world.write("dump.sh", format!("{GOOD_DUMP}; echo $$ > {}; exec sleep 1000", pid.display()));
        let mut command = world.agent(&BACKUP);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the dump", || fs::read_to_string(&pid).is_ok_and(|t| t.ends_with('\n')));
        system("kill", &[&format!("-{signal}"), &child.id().to_string()]);
        let out = finish(child);
        world.after(&out, Expect::Interrupted);
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        assert!(!is_alive(&fs::read_to_string(&pid).unwrap()), "the dump outlives the run");
        world.write("dump.sh", GOOD_DUMP);
        world.recover();
        // In each step up to the commit point.
        for place in ["preflight", "capture", "write-frame", "publish", "local:rename", "read-back"] {
            let run = world.pause_at(place, &BACKUP);
            run.ask_to_stop(signal);
            let out = run.go_on();
            world.after(&out, Expect::Interrupted);
            assert!(world.leftovers().is_empty(), "{place}: {:?}", world.leftovers());
            world.check_nothing_stray();
            world.recover();
        }
    }
}

#[test]
fn a_signal_after_the_commit_point_keeps_the_backup() {
    let world = World::with(Setup { nas: true, local: KEEP, ..Setup::default() });
    world.recover();
    for place in ["retention", "copy", "nas:write"] {
        eprintln!("{place}");
        let run = world.pause_at(place, &BACKUP);
        run.ask_to_stop("TERM");
        // The process that makes the copy stands still: nobody waits for it.
        let out = if place == "nas:write" { run.wait() } else { run.go_on() };
        world.after(&out, Expect::Degraded);
        fs::write(world.path("pause.go"), "").unwrap();
        world.catch_up();
        world.recover();
    }
}

/// Copies that must work have time on any machine; those that hang are given up by this much sooner.
const PATIENT: &str = "copy_stall = \"1h\"\ncopy_wait = \"1h\"";
const SOON: &str = "copy_stall = \"4s\"\ncopy_wait = \"1h\"";

/// A backup whose copy hangs at a place, with other limits than [`PATIENT`].
fn hangs_at(world: &World, place: &str, limits: &str) -> Out {
    for _ in 0..3 {
        world.edit_config(PATIENT, limits);
        let (out, fired) = world.run_at(&format!("{place}=sleep"), &BACKUP);
        world.edit_config(limits, PATIENT);
        if fired {
            return out;
        }
        // The machine stood still for as long as that, before the copy was there.
        world.after(&out, Expect::Degraded);
        world.catch_up();
    }
    panic!("{place} did not fire");
}

#[test]
fn a_target_that_hangs_delays_its_own_copy_only_and_gets_it_later() {
    let world = World::with(Setup { nas: true, job: PATIENT, ..Setup::default() });
    world.recover();
    for place in ["nas:stage", "nas:write#2", "nas:fsync#1", "nas:rename", "nas:open#1"] {
        eprintln!("hangs at {place}");
        let out = hangs_at(&world, place, SOON);
        world.after(&out, Expect::Degraded);
        assert!(out.all().contains("no progress"), "{}", out.all());
        assert_eq!(world.metric("backup_copies_pending{target=\"nas\"}"), 1.0);
        world.catch_up();
    }
    world.recover();
}

#[test]
fn a_copying_process_that_is_stopped_is_given_up_and_ended() {
    let world = World::with(Setup { nas: true, job: PATIENT, ..Setup::default() });
    world.recover();
    // Long enough for it to be found and stopped first.
    let soon = "copy_stall = \"15s\"\ncopy_wait = \"1h\"";
    world.edit_config(PATIENT, soon);
    let run = world.pause_at("nas:write", &BACKUP);
    world.edit_config(soon, PATIENT);
    let children = system("pgrep", &["-P", &run.pid().to_string()]);
    let child = children.lines().next().unwrap().to_owned();
    system("kill", &["-STOP", &child]);
    let out = run.wait();
    world.after(&out, Expect::Degraded);
    wait_for("the end of the stopped process", || !is_alive(&child));
    world.catch_up();
    world.recover();
}

#[test]
fn a_machine_that_stood_still_gives_no_copy_up() {
    let world = World::with(Setup { nas: true, job: PATIENT, ..Setup::default() });
    world.recover();
    let soon = "copy_stall = \"8s\"\ncopy_wait = \"1h\"";
    world.edit_config(PATIENT, soon);
    let run = world.pause_at("nas:write", &BACKUP);
    // It notices nothing of the time in which the copy did not get on.
    run.signal("STOP");
    std::thread::sleep(Duration::from_secs(10));
    fs::write(world.path("pause.go"), "").unwrap();
    run.signal("CONT");
    let out = run.wait();
    world.edit_config(soon, PATIENT);
    world.after(&out, Expect::Success);
    world.recover();
}

#[test]
fn copies_wait_no_longer_than_the_run_may() {
    let world = World::with(Setup { nas: true, job: PATIENT, ..Setup::default() });
    let out = hangs_at(&world, "nas:write", "copy_stall = \"1h\"\ncopy_wait = \"5s\"");
    world.after(&out, Expect::Degraded);
    world.catch_up();
    world.recover();
}

fn contended(world: &World, times: f64) {
    let out = world.backup().expect(75);
    assert!(out.all().contains("locked"), "{}", out.all());
    assert_eq!(world.metric("backup_lock_contention_total"), times);
    assert!(world.metric("backup_lock_last_contention_timestamp_seconds") > 0.0);
    world.run(&["backup", "web", "--if-locked=skip"]).expect(0);
}

#[test]
fn flock_and_the_agent_exclude_one_another_both_ways() {
    let job = "lock_file = \"{root}/legacy.lock\"";
    let world = World::with(Setup { job, ..Setup::default() });
    let lock = world.path("legacy.lock");
    world.recover();
    let runs = world.history().len();

    let mut holder = std::process::Command::new("flock");
    let ready = world.path("held").display().to_string();
    holder.arg(&lock).args(["sh", "-c", &format!("touch {ready}; exec sleep 1000")]);
    let mut holder = holder.spawn().unwrap();
    wait_for("flock", || fs::exists(&ready).unwrap());
    contended(&world, 1.0);
    // A contention is no run, and no mail.
    assert_eq!(world.history().len(), runs);
    assert_eq!(world.mails().len(), 0);
    // Waiting for it helps.
    let waiting = world.agent(&["backup", "web", "--json", "--lock-wait", "10m"]);
    let waiting = std::thread::spawn(move || output(waiting));
    std::thread::sleep(Duration::from_millis(300));
    // util-linux `flock` hands its descriptor to the command: ending that command frees the lock.
    system("pkill", &["-P", &holder.id().to_string()]);
    let _ = holder.wait();
    let out = waiting.join().unwrap();
    world.after(&out, Expect::Success);

    let run = world.pause_at("capture", &BACKUP);
    assert!(!is_free(&lock), "flock got the lock of a run");
    contended(&world, 3.0);
    let out = run.go_on();
    world.after(&out, Expect::Success);
    assert!(is_free(&lock) && lock.exists(), "the lock file must stay");
    world.recover();
}

#[test]
fn there_are_never_two_runs_although_somebody_removes_the_lock_files() {
    let job = "lock_file = \"{root}/legacy.lock\"";
    let world = World::with(Setup { job, ..Setup::default() });
    world.recover();
    let (configured, private) = (world.path("legacy.lock"), world.path("state/locks/web.lock"));
    let removals: [&[&std::path::Path]; 3] = [&[&configured], &[&private], &[&configured, &private]];
    let running = |run: &Paused| {
        let history = world.history();
        let runs: Vec<_> = history.iter().filter(|r| r["outcome"].is_null()).collect();
        assert_eq!(runs.len(), 1, "{runs:?} of process {}", run.pid());
    };
    for removed in removals {
        let before = world.metric("backup_lock_contention_total");
        let run = world.pause_at("capture", &BACKUP);
        removed.iter().for_each(|path| fs::remove_file(path).unwrap());
        contended(&world, before + 1.0);
        running(&run);
        world.run(&["tend"]).expect(0);
        running(&run);
        let out = run.go_on();
        world.after(&out, Expect::Success);
        world.recover();
    }
}
