//! Drills with the real binary: backups restored for trial, and what is found when they do not come back.

#[path = "cli/world.rs"]
mod world;

use std::fs;

use rusqlite::Connection;
use world::{Guard, TWO, World, until};

/// Beside the files of both targets, a database, and somebody to tell.
const MORE: &str = r#"
[job.web.source.queue]
type = "sqlite"
path = "{}/queue.sqlite"
[notify.admin]
type = "email"
smtp = "smtp://127.0.0.1:9"
from = "backup@localhost"
to = ["root@localhost"]
"#;

fn configuration(more: &str) -> String {
    format!("{TWO}{MORE}{more}")
}

fn new(more: &str) -> World {
    let world = World::new(&configuration(more));
    fs::create_dir(world.path("nas")).unwrap();
    fs::create_dir(world.path("scratch")).unwrap();
    let database = Connection::open(world.path("queue.sqlite")).unwrap();
    database
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE jobs (id, name); INSERT INTO jobs VALUES (1, 'a'), (2, 'b')")
        .unwrap();
    world.agent("backup").exits(0);
    world
}

fn nothing_left(world: &World) {
    let left = world.sh("ls -A scratch; ls -A state/drill 2>/dev/null || true");
    assert_eq!(left, "", "scratch folders are left behind");
}

fn metric(world: &World, name: &str) -> Option<f64> {
    let text = world.agent("metrics").exits(0).out;
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{backup_job=\"web\"}}")))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn check(world: &World, name: &str) -> String {
    let answer = world.agent("check --json").json();
    let found = answer["findings"].as_array().unwrap().iter().find(|f| f["check"] == name);
    found.map_or("none".to_owned(), |f| {
        format!("{} {}", f["status"].as_str().unwrap(), f["message"].as_str().unwrap())
    })
}

const CHECKS: &str = r#"
[job.web.drill]
scratch = "{}/scratch"
[job.web.drill.check.page]
type = "command"
command = ["sh", "-c", "test -s \"$1{}/data/index.php\" && test -n \"$BACKUP_DRILL_FOLDER\" && echo \"$BACKUP_DRILL_JOB\" > {}/checked", "sh", "{folder}/application"]
[job.web.drill.check.rows]
type = "sql"
source = "queue"
query = "SELECT id, name FROM jobs ORDER BY id"
expect = "1\ta\n2\tb\n"
[job.web.drill.check.count]
type = "sql"
source = "queue"
query = "SELECT count(*) FROM jobs"
at_least = 2
"#;

#[test]
fn a_backup_comes_back_is_counted_compared_and_asked_and_nothing_is_left() {
    let world = new(CHECKS);
    // Changed since: not compared. The others are.
    world.write("data/app/Models/User.php", "<?php class Changed {}\n");
    let drilled = world.agent("drill --json").exits(0).json();
    let drill = &drilled[0];
    assert_eq!((drill["ok"].as_bool(), drill["target"].as_str()), (Some(true), Some("local")), "{drill}");
    assert_eq!((drill["compared"].as_u64(), drill["changed"].as_u64()), (Some(3), Some(1)), "{drill}");
    assert_eq!(drill["checks"], 3);
    assert!(drill["restore_ms"].is_u64() && drill["entries"].as_u64().unwrap() > 8, "{drill}");
    assert_eq!(world.read("checked"), "web\n");
    nothing_left(&world);
    assert_eq!(metric(&world, "backup_last_drill_success"), Some(1.0));
    assert!(metric(&world, "backup_last_drill_timestamp_seconds").unwrap() > 1.7e9);
    assert!(metric(&world, "backup_last_drill_duration_seconds").is_some());
    assert!(check(&world, "drill").starts_with("ok the backup came back in "), "{}", check(&world, "drill"));
    world.agent("status").exits(0).says(&["RECOVERY"]);
    world.agent("show latest").exits(0).says(&["drill    came back from local in ", "3 checks"]);

    // From the other target, told apart.
    world
        .agent("drill web --target nas")
        .exits(0)
        .says(&["came back from nas in ", "(1 more have changed since)"]);
    world.agent("drill --target elsewhere").exits(2).says(&["no target elsewhere"]);
}

#[test]
fn a_backup_that_does_not_come_back_fails_the_drill_is_told_once_and_taken_back_by_a_good_one() {
    let world = new("[job.web.drill]\nscratch = \"{}/scratch\"\n");
    let backup = world.backups("local").pop().unwrap();
    let archive = backup.join("application.tar.zst");
    let good = fs::read(&archive).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&archive, bad).unwrap();
    world.agent("drill").exits(1).says(&["FAILED: did not come back from local", "component application"]);
    nothing_left(&world);
    assert_eq!(metric(&world, "backup_last_drill_success"), Some(0.0));
    assert!(check(&world, "drill").starts_with("critical the drill "), "{}", check(&world, "drill"));
    world.agent("tend");
    let queued = || {
        let queue = world.agent("notify queue --json").json();
        let kinds: Vec<String> =
            queue.as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap().to_owned()).collect();
        kinds
            .iter()
            .filter(|kind| ["degraded", "recovery"].contains(&kind.as_str()))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(queued(), ["degraded"]);

    // A new backup does not make good what the drill found, and the same is not told again.
    world.agent("backup");
    world.agent("tend");
    assert_eq!(queued(), ["degraded"]);
    world.agent("status").says(&["degraded"]);

    // The newest backup comes back.
    world.agent("drill").exits(0);
    world.agent("tend");
    let history = world.agent("history --json").json();
    assert!(
        history.as_array().unwrap().iter().all(|run| run["degraded"] == serde_json::json!([])),
        "{history}"
    );
    assert_eq!(metric(&world, "backup_last_drill_success"), Some(1.0));
    // The first message never went out, so it is withdrawn or followed by the recovery: nothing stays open.
    assert!(!check(&world, "drill").starts_with("critical"));
}

#[test]
fn each_kind_of_wrong_is_named() {
    let world = new(&CHECKS.replace("at_least = 2", "at_least = 3").replace("2\\tb", "2\\tc"));
    let failed = world.agent("drill").exits(1);
    for text in
        ["check count: the answer is 2, less than 3", "check rows: the answer is \"1\\ta\\n2\\tb\", not "]
    {
        assert!(failed.out.contains(text), "{text}: {}", failed.out);
    }
    assert!(!failed.out.contains("check page"), "{}", failed.out);

    // A live file of the same size and time with another content.
    world.configure(&configuration("[job.web.drill]\nscratch = \"{}/scratch\"\nsample = 100\n"));
    world.sh("cp -p data/index.php keep; printf '<?php echo \"hallo\";\\n' > data/index.php; touch -r keep data/index.php; cmp -s keep data/index.php && exit 1; test $(stat -c %s keep) = $(stat -c %s data/index.php)");
    world.agent("drill").exits(1).says(&["data/index.php came back with another content than the live file"]);

    world.configure(&configuration("[job.web.drill]\n[job.web.drill.check.slow]\ntype = \"command\"\ncommand = [\"sleep\", \"60\"]\ntimeout = \"300ms\"\n[job.web.drill.check.gone]\ntype = \"command\"\ncommand = [\"/no/such/program\"]\n"));
    world.sh("cp -p keep data/index.php");
    world.agent("drill").exits(1).says(&["check slow: ", "check gone: ", "/no/such/program"]);
    nothing_left(&world);
    world.configure(&configuration("[job.web.drill]\nscratch = \"{}/not-there\"\n"));
    world.agent("drill").exits(1).says(&["the folder", "for drills does not exist"]);
}

/// A small file system of its own, in place of a folder.
struct Small<'a>(&'a World);

impl<'a> Small<'a> {
    fn new(world: &'a World, options: &str) -> Self {
        world.sh(&format!("mount -t tmpfs -o {options} tmpfs scratch"));
        Self(world)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazily: whatever still stands there must not keep the test's folder.
        let _ = self.0.shell("umount -l scratch").status();
    }
}

#[test]
fn a_drill_without_room_fails_is_told_and_leaves_nothing() {
    let world = new("[job.web.drill]\nscratch = \"{}/scratch\"\n");
    {
        let _small = Small::new(&world, "size=16m");
        world.agent("drill").exits(1).says(&[
            "FAILED: was not restored from local",
            "there is no room for a drill: ",
            "/scratch, 16.0 MiB are free; set `drill.scratch` to a folder with more",
        ]);
        nothing_left(&world);
        assert_eq!(metric(&world, "backup_last_drill_success"), Some(0.0));
        assert_eq!(metric(&world, "backup_last_drill_duration_seconds"), None);
        assert!(
            check(&world, "drill").contains("there is no room for a drill"),
            "{}",
            check(&world, "drill")
        );
        world.agent("tend");
        let queue = world.agent("notify queue --json").json();
        let told = |kind: &str| queue.as_array().unwrap().iter().any(|m| m["kind"] == kind);
        assert!(told("degraded"), "{queue}");
    }
    {
        // Room for bytes, and none for files: that shows in the middle of the restore.
        let _small = Small::new(&world, "size=1g,nr_inodes=6");
        world.agent("drill").exits(1).says(&["FAILED", "No space left on device"]);
        nothing_left(&world);
    }
    world.agent("drill").exits(0);
    nothing_left(&world);
}

#[test]
fn what_a_dead_drill_left_is_removed_and_counts_as_failed() {
    let world = new(
        "[job.web.drill]\nscratch = \"{}/scratch\"\n[job.web.drill.check.hang]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", \"touch {}/hangs; sleep 1000\"]\n",
    );
    let mut drill = world.program();
    drill.args(["--config", "config.toml", "drill"]).stdout(std::process::Stdio::null());
    let drill = Guard(drill.stderr(std::process::Stdio::null()).spawn().unwrap());
    until("the check runs", || world.path("hangs").exists());
    world.agent("drill").exits(1).says(&["a drill of job web is under way"]);
    drop(drill); // SIGKILL
    assert_ne!(world.sh("ls -A scratch"), "");
    world.agent("drill --due").exits(0);
    nothing_left(&world);
    assert!(check(&world, "drill").contains("was cut short"), "{}", check(&world, "drill"));
    let queue = world.agent("notify queue --json").json();
    let told = queue.as_array().unwrap().iter().any(|m| m["kind"] == "degraded");
    assert!(told, "nobody was told of a drill that died: {queue}");
}

#[test]
fn the_daemon_drills_when_it_is_due_and_an_overdue_drill_is_reported() {
    let world = new("[job.web.drill]\nschedule = \"@daily\"\ngrace = \"1h\"\n");
    world.agent("drill --due").exits(0);
    assert_eq!(metric(&world, "backup_last_drill_success"), None);
    assert!(check(&world, "drill-overdue").starts_with("ok "), "{}", check(&world, "drill-overdue"));
    let state = Connection::open(world.path("state/state.db")).unwrap();
    state.execute("UPDATE drill_plans SET since = since - 3 * 86400000", []).unwrap();
    assert!(
        check(&world, "drill-overdue").starts_with("warning the drill due "),
        "{}",
        check(&world, "drill-overdue")
    );
    let mut daemon = world.program();
    daemon.args(["--config", "config.toml", "run"]).stdout(std::process::Stdio::null());
    let log = fs::File::create(world.path("daemon.log")).unwrap();
    let _daemon = Guard(daemon.stderr(log).spawn().unwrap());
    until("the drill", || metric(&world, "backup_last_drill_success") == Some(1.0));
    assert!(check(&world, "drill-overdue").starts_with("ok next due "), "{}", check(&world, "drill-overdue"));
    nothing_left(&world);
}

#[test]
fn a_file_that_does_not_come_back_is_told_once_with_the_reason() {
    let world = new("[job.web.drill]\nscratch = \"{}/scratch\"\n");
    let archive = world.backups("local")[0].join("application.tar.zst");
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(archive, bytes).unwrap();
    let drill = world.agent("drill --json").exits(1).json();
    let problems: Vec<&str> =
        drill[0]["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
    let lost: Vec<&str> = problems
        .iter()
        .filter_map(|problem| problem.split_once(" was not restored: ")?.0.rsplit(' ').next())
        .collect();
    assert!(!lost.is_empty(), "{problems:?}");
    for path in lost {
        let told = problems.iter().filter(|problem| {
            problem.contains(&format!(" {path} ")) || problem.contains(&format!(" {path}:"))
        });
        assert_eq!(told.count(), 1, "{path}: {problems:#?}");
    }
    assert!(!problems.iter().any(|problem| problem.contains("it is not there")), "{problems:#?}");
}
