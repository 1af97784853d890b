//! Targets known again by their sentinel: another share under the same path is refused, and nothing is written
//! there. Row 30 of the fault matrix. They mount file systems, and so need root.
#![cfg(feature = "real-peers")]

#[path = "support/mount.rs"]
mod mount;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::Path;

use mount::Mount;
use serde_json::Value;
use world::{Setup, World, below_no_mount, system};

const SENTINEL: &str = ".backup-agent-target.json";

fn sentinel_id(folder: &Path) -> String {
    let sentinel: Value = serde_json::from_slice(&fs::read(folder.join(SENTINEL)).unwrap()).unwrap();
    sentinel["id"].as_str().unwrap().to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn another_share_in_place_of_a_further_target_degrades_the_run_and_gets_nothing_written() {
    let nas_lines = "require_mount = true\nkeep = { last = 1 }";
    let world = World::with(Setup { nas: true, nas_lines, base: Some(below_no_mount()), ..Setup::default() });
    let nas = world.path("nas");
    let first = Mount::new(&nas, "size=20m");
    let out = world.run(&["target", "init", "nas"]).expect(0);
    assert!(out.all().contains("has a sentinel now"), "{}", out.all());
    let id = sentinel_id(&nas);
    assert!(out.all().contains(&id) && out.all().contains("tmpfs"), "{}", out.all());
    world.recover();

    // Another share is mounted over it: one without a sentinel, then one with a sentinel of its own.
    let second = Mount::new(&nas, "size=20m");
    let out = world.backup();
    assert_eq!(out.code, 4, "{}", out.all());
    assert!(out.all().contains("it has no .backup-agent-target.json"), "{}", out.all());
    assert!(names(&nas).is_empty(), "{:?}", names(&nas));
    let foreign =
        r#"{"version": 1, "id": "feedfeedfeedfeed", "created": "2026-11-01T00:00:00Z", "host": "web9"}"#;
    fs::write(nas.join(SENTINEL), foreign).unwrap();
    let out = world.run(&["tend", "--retry"]).expect(1);
    assert!(out.all().contains("another share is mounted") && out.all().contains("web9"), "{}", out.all());
    let out = world.run(&["prune", "--target", "nas"]);
    assert_eq!(names(&nas), [SENTINEL], "{}", out.all());
    let out = world.run(&["target", "init", "nas"]).expect(1);
    assert!(out.all().contains("--force"), "{}", out.all());
    let verify = world.run(&["verify", "latest", "--target", "nas"]);
    assert_ne!(verify.code, 0, "{}", verify.all());
    assert!(world.list().iter().all(|copy| copy["status"] != "corrupt"), "a share that is away is no damage");

    // The right one again: everything catches up, and retention goes on.
    drop(second);
    assert_eq!(sentinel_id(&nas), id);
    world.catch_up();
    world.recover();
    // Taken from now on when somebody says so.
    let _third = Mount::new(&nas, "size=20m");
    world.run(&["target", "init", "nas"]).expect(1);
    let out = world.run(&["target", "init", "nas", "--force", "--json"]).expect(0);
    assert_eq!(out.json()["sentinel"]["host"], "testhost");
    assert_ne!(sentinel_id(&nas), id);
    world.backup().expect(0);
    drop(first);
}

#[test]
fn another_share_in_place_of_the_primary_target_fails_the_run_and_gets_nothing_written() {
    let local = "require_mount = true";
    let world = World::with(Setup { local, base: Some(below_no_mount()), ..Setup::default() });
    let path = world.path("local");
    let _first = Mount::new(&path, "size=20m");
    // Without a sentinel it works, and says what is missing.
    let out = world.backup().expect(0);
    assert!(out.all().contains("target init local"), "{}", out.all());
    world.run(&["target", "init", "local"]).expect(0);
    let out = world.backup().expect(0);
    assert!(!out.all().contains("target init"), "{}", out.all());
    let second = Mount::new(&path, "size=20m");
    let out = world.backup().expect(1);
    assert!(out.all().contains("another share, or none, is mounted"), "{}", out.all());
    assert!(names(&path).is_empty(), "{:?}", names(&path));
    assert_eq!(world.history()[0]["failed_step"], "preflight");
    drop(second);
    world.recover();
}

#[test]
fn another_kind_of_file_system_is_noticed_even_without_a_sentinel() {
    let local = "require_mount = true";
    let world = World::with(Setup { local, base: Some(below_no_mount()), ..Setup::default() });
    let path = world.path("local");
    let _first = Mount::new(&path, "size=20m");
    world.backup().expect(0);
    // A folder of the disk bound over it: mounted, but no file system in memory.
    let disk = world.path("disk");
    fs::create_dir(&disk).unwrap();
    system("mount", &["--bind", disk.to_str().unwrap(), path.to_str().unwrap()]);
    let _bound = Mount::made(&path);
    let out = world.backup().expect(1);
    assert!(out.all().contains("nothing is written there"), "{}", out.all());
    assert!(names(&disk).is_empty(), "{:?}", names(&disk));
}

#[test]
#[cfg(feature = "failpoints")]
fn a_share_exchanged_during_the_run_is_noticed_before_anything_is_published_on_the_other() {
    let local = "require_mount = true";
    let world = World::with(Setup { local, base: Some(below_no_mount()), ..Setup::default() });
    let path = world.path("local");
    let _first = Mount::new(&path, "size=20m");
    world.run(&["target", "init", "local"]).expect(0);
    for place in ["capture", "publish"] {
        let run = world.pause_at(place, &["backup", "web", "--json"]);
        let second = Mount::new(&path, "size=20m");
        let out = run.go_on();
        assert_eq!(out.code, 1, "{place}: {}", out.all());
        assert!(names(&path).is_empty(), "{place}: {:?}", names(&path));
        drop(second);
        world.recover();
    }
}

#[test]
fn a_second_host_takes_the_sentinel_of_the_first() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    world.run(&["target", "init", "nas"]).expect(0);
    let id = sentinel_id(&world.path("nas"));
    world.edit_config("host = \"testhost\"", "host = \"otherhost\"");
    let state = world.path("state").display().to_string();
    world.edit_config(&format!("state_dir = \"{state}\""), &format!("state_dir = \"{state}2\""));
    let out = world.run(&["target", "init", "nas"]).expect(0);
    assert!(out.all().contains("testhost made") && out.all().contains(&id), "{}", out.all());
    assert_eq!(sentinel_id(&world.path("nas")), id);
    let out = world.run(&["target", "init", "nosuch"]).expect(2);
    assert!(out.all().contains("there is no target nosuch"), "{}", out.all());
}
