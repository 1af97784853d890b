//! Locks: between two runs, and between a run and util-linux `flock`, both ways.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::world::{Guard, SIMPLE, World, until};

fn world() -> World {
    let config =
        SIMPLE.replace("targets = [\"local\"]", "targets = [\"local\"]\nlock_file = \"{}/legacy.lock\"");
    World::new(&config)
}

/// A source that takes its time: until the file `go` is there.
fn slow() -> World {
    let world = world();
    let config = world.read("config.toml");
    world.write(
        "config.toml",
        &format!(
            "{config}\n[job.web.source.slow]\ntype = \"command\"\n\
             command = [\"sh\", \"-c\", \"touch {0}/begun; until [ -e {0}/go ]; do sleep 0.05; done; echo done\"]\n",
            world.root()
        ),
    );
    world
}

/// A backup in the background, ended with the test.
fn backup(world: &World, args: &[&str]) -> Guard {
    let mut program = world.program();
    program.args(["--config", "config.toml", "backup"]).args(args);
    Guard(program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A backup that reads its source, which waits.
fn begun(world: &World) -> Guard {
    let run = backup(world, &[]);
    until("the run reads its source", || world.path("begun").exists());
    run
}

#[test]
fn a_script_under_flock_keeps_the_agent_out() {
    let world = world();
    let holder = world
        .shell("exec flock -n legacy.lock sh -c 'touch held; until [ -e release ]; do sleep 0.05; done'")
        .spawn()
        .unwrap();
    let _holder = Guard(holder);
    until("the script holds the lock", || world.path("held").exists());

    let refused = world.agent("backup").exits(75);
    assert!(refused.out.starts_with("locked   job web: "), "{}", refused.out);
    assert!(refused.out.contains("legacy.lock"), "{}", refused.out);
    world.agent("backup --if-locked skip").exits(0).says(&["locked "]);
    let skipped = world.agent("backup --if-locked skip --json").exits(0).json();
    assert_eq!((skipped["exit_code"].as_i64(), skipped["outcome"].as_str()), (Some(0), None));
    let begun = Instant::now();
    world.agent("backup --lock-wait 1s").exits(75);
    assert!(begun.elapsed() >= Duration::from_millis(900));
    // Found taken is counted, and is no run.
    assert_eq!(world.agent("history --json").json().as_array().unwrap().len(), 0);
    let metrics = world.agent("metrics").exits(0).out;
    assert!(metrics.contains("backup_lock_contention_total{backup_job=\"web\"} 4\n"), "{metrics}");

    // Whoever waits gets it as soon as the script ends.
    let mut waiting = backup(&world, &["--lock-wait", "1h"]);
    std::thread::sleep(Duration::from_millis(300));
    world.write("release", "");
    assert_eq!(waiting.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_agent_keeps_a_script_under_flock_out_and_a_second_run_too() {
    let world = slow();
    let mut run = begun(&world);
    let script = world.shell("flock -n legacy.lock true").status().unwrap();
    assert_eq!(script.code(), Some(1), "flock got a lock that the agent holds");
    let second = world.agent("backup").exits(75);
    let holder = format!(" (process {}, since ", run.0.id());
    assert!(second.out.contains(&holder), "the holder is named: {}", second.out);
    let status = world.agent("status").exits(0);
    assert!(status.out.contains("running"), "{}", status.out);
    let metrics = world.agent("metrics").out;
    assert!(metrics.contains("backup_running{backup_job=\"web\"} 1\n"), "{metrics}");
    world.write("go", "");
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    world.sh("flock -n legacy.lock true");
    let metrics = world.agent("metrics").out;
    assert!(metrics.contains("backup_running{backup_job=\"web\"} 0\n"), "{metrics}");
}

#[test]
fn a_run_that_is_asked_to_stop_ends_as_interrupted_and_leaves_nothing_behind() {
    let world = slow();
    world.write("go", "");
    world.agent("backup").exits(0);
    world.sh("rm go begun");
    let mut run = begun(&world);
    world.sh(&format!("kill -TERM {}", run.0.id()));
    assert_eq!(run.0.wait().unwrap().code(), Some(130));
    assert_eq!(world.sh("find local -name '.partial-*'"), "");
    assert_eq!(world.backups("local").len(), 1, "the older backup is untouched");
    let history = world.agent("history --json").json();
    assert_eq!(history[0]["outcome"], "interrupted");
}

#[test]
fn a_run_that_was_killed_is_seen_told_apart_and_cleaned_up_after() {
    let world = slow();
    let mut run = begun(&world);
    run.0.kill().unwrap();
    run.0.wait().unwrap();
    assert_ne!(world.sh("find local -name '.partial-*'"), "", "this test wants leftovers");
    // Those who only look report it and change nothing.
    world.agent("check").exits(1).says(&["WARNING web dead-run: ", " died at step capture without a word"]);
    assert_eq!(world.agent("history --json").json()[0]["outcome"], serde_json::Value::Null);
    world.agent("tend").exits(0).says(&["had died: marked interrupted, its leftovers removed"]);
    assert_eq!(world.sh("find local -name '.partial-*'"), "");
    assert_eq!(world.agent("history --json").json()[0]["outcome"], "interrupted");
    world.write("go", "");
    world.agent("backup").exits(0);
}
