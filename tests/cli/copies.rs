//! Two targets: copies, a NAS that is away, the queue, and `agent tend`.

use std::fs;
use std::time::Duration;

use backup_agent::clock::{Clock, SystemClock};
use backup_agent::lock::ProcessIdentity;
use backup_agent::model::{RunId, TargetName};
use backup_agent::state::State;
use serde_json::Value;

use crate::world::{World, below};

/// The configuration of the documents' example, with own paths and one NAS.
const TWO: &str = r#"
timezone = "Europe/Berlin"
host = "web1"
state_dir = "{}/state"
[target.local]
type = "directory"
path = "{}/local"
keep = { last = 3, daily = 7 }
[target.nas]
type = "directory"
path = "{}/nas"
template = "daily/%Y/%m/%d/%H%M"
keep = { last = 10, daily = 14, weekly = 8, monthly = 12 }
[job.askproai]
schedule = "0 3,11,19 * * *"
trigger = "external"
grace = "1h"
max_runtime = "2h"
copy_wait = "1h"
lock_file = "{}/backup-run.lock"
targets = ["local", "nas"]
[job.askproai.source.application]
type = "files"
paths = ["{}/data"]
exclude = ["/node_modules/", "storage/framework/cache/**"]
[job.askproai.health]
max_shrink = "50%"
"#;

#[test]
fn the_latest_backup_at_a_target_is_the_latest_that_arrived_there() {
    let world = World::new(TWO);
    fs::create_dir(world.path("nas")).unwrap();
    let first = world.agent("backup --json").exits(0).json()["run_id"].as_str().unwrap().to_owned();
    fs::rename(world.path("nas"), world.path("away")).unwrap();
    world.write("data/second", "there now");
    let second = world.agent("backup --json").exits(4).json()["run_id"].as_str().unwrap().to_owned();
    fs::rename(world.path("away"), world.path("nas")).unwrap();

    world.agent("restore latest --target nas --to from-nas").exits(0).says(&[&first]);
    assert!(!world.path(below("from-nas", &world, "data/second")).exists());
    world.agent("restore latest --to from-local").exits(0).says(&[&second]);
    world.agent("verify latest --target nas").exits(0).says(&[&first]);
    let asked = world.agent(&format!("restore {second} --target nas --to none")).exits(1);
    asked.says(&[&format!("the copy of run {second} at nas is still to be made"), "copies` says"]);
}

#[test]
fn every_backup_is_copied_read_back_and_as_good_at_the_second_target_as_at_the_first() {
    let world = World::new(TWO);
    fs::create_dir(world.path("nas")).unwrap();
    world.write("data/node_modules/x.js", "left out");
    world.write("data/storage/framework/cache/y", "left out");
    let made = world.agent("backup").exits(0);
    assert!(made.out.contains("copied and read back: nas\n"), "{}", made.out);
    assert_eq!(
        (world.statuses("local"), world.statuses("nas")),
        (vec!["verified".into()], vec!["verified".into()])
    );
    let (local, nas) = (world.backups("local").pop().unwrap(), world.backups("nas").pop().unwrap());
    world.sh(&format!(
        "diff -r '{}' '{}'; cd '{}'; sha256sum -c SHA256SUMS",
        local.display(),
        nas.display(),
        nas.display()
    ));
    let list = world.agent("list --json").json();
    let sizes: Vec<_> = list.as_array().unwrap().iter().map(|copy| copy["bytes"].as_u64().unwrap()).collect();
    let files = "find . -name '*.zst' -printf '%s\\n' | awk '{ all += $1 } END { print all }'";
    let files: u64 = world.sh(&format!("cd '{}'; {files}", local.display())).trim().parse().unwrap();
    assert_eq!(sizes, [files, files], "the same backup has one size");
    let verified = world.agent("verify --deep --json").exits(0).json();
    let targets: Vec<&str> =
        verified.as_array().unwrap().iter().map(|v| v["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["local", "nas"]);

    // The first target is lost: what is at the second is enough.
    fs::remove_dir_all(world.path("local")).unwrap();
    world.agent("restore latest --target nas --to r").exits(0);
    let restored = below("r", &world, "data");
    world.sh(&format!(
        "diff -r --no-dereference -x node_modules -x y data '{0}'; test -d '{0}/storage/framework/cache'; \
         test ! -e '{0}/node_modules'; test ! -e '{0}/storage/framework/cache/y'",
        restored.display()
    ));
}

#[test]
fn a_nas_that_is_away_degrades_the_run_and_tend_catches_up_newest_first() {
    let world = World::new(TWO);
    let first = world.agent("backup").exits(4);
    let reason = format!(
        "degraded copy nas: target nas: the folder {}/nas does not exist; mount it, or make it with: mkdir -p {}/nas",
        world.root(),
        world.root()
    );
    assert!(first.out.starts_with("success ") && first.out.contains(&reason), "{}", first.out);
    assert!(!first.out.contains("copied and read back"), "{}", first.out);
    for _ in 0..2 {
        world.agent("backup").exits(4);
    }
    assert_eq!(world.statuses("nas"), ["pending"; 3]);
    assert_eq!(world.agent("history").out.matches(" degraded ").count(), 3);
    world.agent("status").exits(0).says(&["degraded", "nas 0 (+3 pending)"]);
    let metrics = world.agent("metrics").exits(0).out;
    assert!(
        metrics.contains("backup_copies_pending{backup_job=\"askproai\",target=\"nas\"} 3\n"),
        "{metrics}"
    );
    assert!(metrics.contains("backup_last_run_degraded{backup_job=\"askproai\"} 1\n"), "{metrics}");

    // Still away: the queue says when it tries again, and goes on waiting.
    let tended = world.agent("tend").exits(0);
    assert!(tended.out.contains("copies that wait: 3, the next attempt at "), "{}", tended.out);
    let retried = world.agent("tend --retry").exits(1);
    assert_eq!(retried.out.matches("no copy of run ").count(), 1, "one attempt a pass: {}", retried.out);
    assert_eq!(world.statuses("nas"), ["pending"; 3]);

    world.agent("copies").exits(0).says(&[
        "NEXT ATTEMPT",
        "waits",
        "\nnas: target nas: the folder ",
        "does not exist; mount it",
    ]);
    let queue = world.agent("copies --json --target nas").exits(0).json();
    assert_eq!(queue.as_array().unwrap().len(), 3, "{queue}");
    // What was stored is copied: nothing reads the source again.
    fs::remove_dir_all(world.path("data")).unwrap();
    fs::create_dir(world.path("nas")).unwrap();
    let done = world.agent("tend --retry").exits(0);
    world.agent("copies").exits(0).says(&["no copy waits\n"]);
    assert!(done.out.contains("3 pending copies were made\n"), "{}", done.out);
    assert_eq!(world.statuses("nas"), ["verified"; 3]);
    let list = world.agent("list --target nas --json").json();
    let created: Vec<&str> =
        list.as_array().unwrap().iter().map(|c| c["created_at"].as_str().unwrap()).collect();
    let started: Vec<&str> =
        list.as_array().unwrap().iter().map(|c| c["started"].as_str().unwrap()).collect();
    assert!(started.is_sorted_by(|a, b| a > b), "{started:?}");
    assert!(created.is_sorted(), "the newest backup is copied first: {created:?}");
    let status = world.agent("status").exits(0);
    assert!(status.out.contains("nas 3") && !status.out.contains("degraded"), "{}", status.out);
    assert!(!world.agent("history").out.contains("degraded"));
    let history = world.agent("history --json").json();
    assert!(
        history.as_array().unwrap().iter().all(|run| run["degraded"] == Value::Array(vec![])),
        "{history}"
    );
    world.agent("tend").exits(0);
    assert_eq!(world.backups("nas").len(), 3);
}

#[test]
fn a_run_waits_for_its_copies_no_longer_than_it_is_told() {
    let world = World::new(&TWO.replace("copy_wait = \"1h\"", "copy_wait = \"0s\""));
    fs::create_dir(world.path("nas")).unwrap();
    let made = world.agent("backup").exits(4);
    assert!(made.out.contains("degraded copy nas: not made yet; it stays in the queue\n"), "{}", made.out);
    assert_eq!(world.statuses("nas"), ["pending"]);
    world.agent("tend").exits(0).says(&["1 pending copy was made"]);
    assert_eq!(world.statuses("nas"), ["verified"]);
}

#[test]
fn nothing_is_written_below_the_mount_point_of_a_nas_that_is_not_mounted() {
    let world = World::new(&TWO.replace("path = \"{}/nas\"", "path = \"{}/nas\"\nrequire_mount = true"));
    fs::create_dir(world.path("nas")).unwrap();
    let made = world.agent("backup").exits(4);
    assert!(made.out.contains("nas") && made.out.contains("mount"), "{}", made.out);
    assert_eq!(fs::read_dir(world.path("nas")).unwrap().count(), 0);
}

#[test]
fn a_copy_that_a_dead_process_had_begun_is_made_by_the_next_one() {
    let world = World::new(&TWO.replace("copy_wait = \"1h\"", "copy_wait = \"0s\""));
    fs::create_dir(world.path("nas")).unwrap();
    let made = world.agent("backup --json").exits(4).json();
    let run: RunId = made["run_id"].as_str().unwrap().parse().unwrap();
    let now = SystemClock.now();
    let claim = |process: &ProcessIdentity| {
        let state = State::open(&world.path("state"), now).unwrap();
        let claimer = format!("{}/{}/{}/1", process.boot_id, process.pid, process.start_ticks.unwrap());
        let nas: TargetName = "nas".parse().unwrap();
        assert!(state.claim_copy(&run, &nas, &claimer, now, Duration::from_secs(86_400)).unwrap());
        claimer
    };
    // This process lives, so the copy is its own.
    let own = claim(&ProcessIdentity::current());
    world.agent("tend --retry").exits(0);
    assert_eq!(world.statuses("nas"), ["pending"]);
    let state = State::open(&world.path("state"), now).unwrap();
    state.release_copy(&run, &"nas".parse().unwrap(), &own).unwrap();
    drop(state);
    claim(&ProcessIdentity { boot_id: "a boot before this one".to_owned(), ..ProcessIdentity::current() });
    world.agent("tend").exits(0).says(&["1 pending copy was made"]);
    assert_eq!(world.statuses("nas"), ["verified"]);
}

#[test]
fn copies_that_retention_would_remove_right_away_are_not_made_when_a_target_comes_back() {
    let world = World::new(
        &TWO.replace("keep = { last = 10, daily = 14, weekly = 8, monthly = 12 }", "keep = { last = 2 }"),
    );
    for _ in 0..5 {
        world.agent("backup").exits(4);
    }
    assert_eq!(world.statuses("nas"), ["pending"; 5]);
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("tend --retry").exits(0).says(&[
        "2 pending copies were made\n",
        "3 pending copies are not needed any more: newer ones leave them no place\n",
    ]);
    assert_eq!(world.statuses("nas"), ["verified"; 2]);
    assert_eq!(world.backups("nas").len(), 2);
    let all = world.agent("list --target nas --all --json").exits(0).json();
    let spared: Vec<&Value> =
        all.as_array().unwrap().iter().filter(|copy| copy["status"] == "expired").collect();
    assert_eq!(spared.len(), 3);
    assert!(spared.iter().all(|copy| copy["created_at"].is_null()), "they were never made: {spared:?}");
    // Their runs lack nothing any more.
    let history = world.agent("history --json").exits(0).json();
    assert!(
        history.as_array().unwrap().iter().all(|run| run["degraded"].as_array().unwrap().is_empty()),
        "{history}"
    );
}

/// Another line in the table of the second target, and a third target.
fn three(line: &str) -> String {
    let cloud = "[target.cloud]\ntype = \"directory\"\npath = \"{}/cloud\"\n[job.askproai]";
    TWO.replace("path = \"{}/nas\"", &format!("path = \"{{}}/nas\"\n{line}"))
        .replace("[job.askproai]", cloud)
        .replace("copy_wait = \"1h\"", "copy_wait = \"10m\"")
        .replace("targets = [\"local\", \"nas\"]", "targets = [\"local\", \"nas\", \"cloud\"]")
}

#[test]
fn a_target_that_comes_back_gets_its_copies_at_the_next_tend_without_being_told() {
    let world = World::new(TWO);
    world.agent("backup").exits(4);
    world.agent("tend").exits(0);
    assert_eq!(world.statuses("nas"), ["pending"]);
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("tend").exits(0).says(&["1 pending copy was made\n"]);
}

#[test]
fn a_damaged_primary_is_told_marked_and_the_copy_is_made_from_another_good_one() {
    let world = World::new(&three(""));
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("backup").exits(4);
    let archive = world.backups("local").pop().unwrap().join("application.tar.zst");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    fs::create_dir(world.path("cloud")).unwrap();
    world.agent("tend --retry").exits(0).says(&["1 pending copy was made\n"]);
    assert_eq!(world.statuses("local"), ["corrupt"]);
    assert_eq!(world.statuses("cloud"), ["verified"]);
    world.agent("check").exits(2).says(&["damaged"]);
    let (nas, cloud) = (world.backups("nas").pop().unwrap(), world.backups("cloud").pop().unwrap());
    world.sh(&format!("diff -r '{}' '{}'", nas.display(), cloud.display()));
}

#[test]
fn without_any_good_copy_to_copy_from_the_copy_waits_and_says_so() {
    let world = World::new(TWO);
    world.agent("backup").exits(4);
    let archive = world.backups("local").pop().unwrap().join("application.tar.zst");
    fs::write(&archive, "damaged").unwrap();
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("tend --retry").exits(1).says(&["application.tar.zst", "is damaged"]);
    assert_eq!(
        (world.statuses("local"), world.statuses("nas")),
        (vec!["corrupt".into()], vec!["pending".into()])
    );
    world
        .agent("tend --retry")
        .exits(1)
        .says(&["the backup at local is damaged, and there is no good one to copy"]);
    world.agent("copies").exits(0).says(&["stopped", "trying again does not mend this"]);
    assert!(world.backups("nas").is_empty());
}

#[test]
fn a_target_that_refuses_for_good_is_named_by_check_status_and_copies() {
    let world = World::new(TWO);
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("target init nas").exits(0);
    world.agent("backup").exits(0);
    let file = world.path("nas/.backup-agent-target.json");
    let other = fs::read_to_string(&file).unwrap().replace("\"id\": \"", "\"id\": \"0");
    fs::write(&file, other).unwrap();
    let made = world.agent("backup").exits(4);
    assert!(made.out.contains("degraded copy nas stopped: target nas: another "), "{}", made.out);
    assert!(made.out.contains("Trying again does not mend this: put it right, then: agent "), "{}", made.out);
    world.agent("check").exits(1).says(&["1 copy to nas stopped: target nas: another "]);
    world.agent("status").exits(0).says(&["nas 1 (+1 stopped)", "what waits to be copied, and why: `agent "]);
    world.agent("copies").exits(0).says(&["stopped", "nas: target nas: another "]);
    // Put right: the next look finds it, and the copy is made.
    world.agent("target init nas --force").exits(0);
    world.agent("tend").exits(0).says(&["1 pending copy was made\n"]);
    assert!(!world.agent("history").out.contains("degraded"));
}

#[test]
fn how_much_is_read_back_is_up_to_the_target() {
    let read_back = |word: &str| {
        let world = World::new(&three(&format!("read_back = \"{word}\"\nbandwidth_limit = \"100 MB\"")));
        fs::create_dir(world.path("nas")).unwrap();
        fs::create_dir(world.path("cloud")).unwrap();
        // Larger than what is read whole, and not to be compressed away.
        world.sh("head -c 30000000 /dev/urandom > data/large.bin");
        world
    };
    let world = read_back("never");
    let made = world.agent("backup").exits(0);
    assert!(made.out.contains("  copied: nas (not read back: "), "{}", made.out);
    assert!(made.out.contains("  copied and read back: cloud\n"), "{}", made.out);
    assert_eq!(
        (world.statuses("nas"), world.statuses("cloud")),
        (vec!["complete".into()], vec!["verified".into()])
    );
    world.agent("verify --target nas").exits(0);

    let world = read_back("sample");
    let made = world.agent("backup").exits(0);
    assert!(made.out.contains("copied and read back in samples: nas\n"), "{}", made.out);
    assert_eq!(world.statuses("nas"), ["verified"]);
    let (nas, cloud) = (world.backups("nas").pop().unwrap(), world.backups("cloud").pop().unwrap());
    world.sh(&format!("diff -r '{}' '{}'", nas.display(), cloud.display()));
}

#[test]
fn a_sample_finds_what_is_missing_cut_off_or_damaged_at_the_end_and_reads_little() {
    use backup_agent::event::Progress;
    use backup_agent::ops::verify::{Depth, verify};
    use backup_agent::target::{DirectoryTarget, Mount};

    let stream = "[job.askproai.source.dump]\ntype = \"command\"\ncommand = [\"head\", \"-c\", \"30000000\", \"/dev/urandom\"]\n[job.askproai.health]";
    let config =
        TWO.replace("[job.askproai.health]", stream).replace("copy_wait = \"1h\"", "copy_wait = \"10m\"");
    let world = World::new(&config);
    world.sh("head -c 60000000 /dev/urandom > data/large.bin; mkdir nas");
    let made = world.agent("backup --json").exits(0).json();
    let run: RunId = made["run_id"].as_str().unwrap().parse().unwrap();
    let folder = world.backups("nas").pop().unwrap();
    let location = folder.strip_prefix(world.path("nas")).unwrap().to_str().unwrap().to_owned();
    let target = DirectoryTarget::new("nas".parse().unwrap(), world.path("nas"), Mount::Any);
    let look = || verify(&target, &location, &run, Depth::Sample, &Progress::default()).unwrap();

    let good = look();
    assert!(good.problems.is_empty(), "{:?}", good.problems);
    assert!(good.files >= 3 && good.bytes < 50_000_000, "{good:?}");

    let archive = folder.join("application.tar.zst");
    let whole = fs::read(&archive).unwrap();
    for name in ["application.tar.zst", "dump.out.zst", "application.index.zst", "RESTORE.txt"] {
        let file = folder.join(name);
        let Ok(before) = fs::read(&file) else { panic!("{name} is not in {:?}", world.sh("ls -R nas")) };
        fs::write(&file, &before[..before.len() - 1]).unwrap();
        assert!(!look().problems.is_empty(), "{name} cut off");
        fs::remove_file(&file).unwrap();
        assert!(!look().problems.is_empty(), "{name} gone");
        fs::write(&file, &before).unwrap();
    }
    // The beginning of a stream and the end of an archive are always read.
    for (name, at) in [("dump.out.zst", 1000), ("application.tar.zst", whole.len() - 10)] {
        let file = folder.join(name);
        let before = fs::read(&file).unwrap();
        let mut damaged = before.clone();
        damaged[at] ^= 0x40;
        fs::write(&file, damaged).unwrap();
        assert!(!look().problems.is_empty(), "{name} damaged at {at}");
        fs::write(&file, &before).unwrap();
    }
    // A damage that is wide is met by chance.
    let mut damaged = whole.clone();
    damaged[1_000_000..50_000_000].fill(0);
    fs::write(&archive, damaged).unwrap();
    assert!(look().problems.iter().any(|problem| problem.starts_with("application.tar.zst: frame ")));
}
