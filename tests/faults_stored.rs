//! Backups damaged after they were made, or on their way: what reads back, what retention counts, and what
//! removal does when it is refused. Rows 37 to 41 of the fault matrix.

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::Path;

#[cfg(any(feature = "failpoints", feature = "real-peers"))]
use world::invariants::Expect;
#[cfg(feature = "real-peers")]
use world::system;
use world::{Setup, World};

const ARCHIVE: &str = "application.tar.zst";

fn flip_a_bit(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path, length: usize) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..length]).unwrap();
}

/// Where the frames of a zstd file begin.
fn frames(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).unwrap();
    let magic = 0xfd2f_b528_u32.to_le_bytes();
    (0..bytes.len() - 4).filter(|i| bytes[*i..*i + 4] == magic).collect()
}

/// A name, and what is done to a backup's folder.
type Damage = (&'static str, fn(&Path));
const DAMAGES: [Damage; 11] = [
    ("a bit flipped in the archive", |b| flip_a_bit(&b.join(ARCHIVE))),
    ("a bit flipped in the index", |b| flip_a_bit(&b.join("application.index.zst"))),
    ("the archive cut at a frame boundary", |b| {
        let last = *frames(&b.join(ARCHIVE)).last().unwrap();
        assert!(last > 0, "the archive has one frame only");
        cut(&b.join(ARCHIVE), last);
    }),
    ("the archive cut inside a frame", |b| cut(&b.join(ARCHIVE), 1000)),
    ("the archive empty", |b| cut(&b.join(ARCHIVE), 0)),
    ("the archive missing", |b| fs::remove_file(b.join(ARCHIVE)).unwrap()),
    ("the manifest missing", |b| fs::remove_file(b.join("manifest.json")).unwrap()),
    ("the manifest cut", |b| cut(&b.join("manifest.json"), 200)),
    ("the manifest edited", |b| {
        let text = fs::read_to_string(b.join("manifest.json")).unwrap();
        let edited = text.replacen("\"sha256\": \"", "\"sha256\": \"0000", 1);
        assert_ne!(text, edited);
        fs::write(b.join("manifest.json"), edited).unwrap();
    }),
    ("SHA256SUMS edited", |b| {
        let text = fs::read_to_string(b.join("SHA256SUMS")).unwrap();
        fs::write(b.join("SHA256SUMS"), text.replacen(char::is_numeric, "x", 1)).unwrap();
    }),
    ("the whole folder gone", |b| fs::remove_dir_all(b).unwrap()),
];

#[test]
fn every_damage_is_found_by_verify_told_by_check_and_not_counted_by_retention() {
    let world = World::with(Setup { local: "keep = { last = 2 }", ..Setup::default() });
    for (name, damage) in DAMAGES {
        eprintln!("{name}");
        world.recover();
        world.recover();
        let list = world.list();
        let newest = list[0]["run_id"].as_str().unwrap();
        world.run(&["verify", newest]).expect(0);
        damage(&world.folder(&list[0]));
        world.damage(newest, "local");

        let out = world.run(&["verify", newest]).expect(1);
        assert!(out.stdout.contains("corrupt"), "{name}: {}", out.all());
        assert_eq!(world.list()[0]["status"], "corrupt", "{name}");
        assert_eq!(world.metric("backup_last_verify_success{target=\"local\"}"), 0.0, "{name}");
        let check = world.run(&["check"]);
        assert!(check.code == 2 && check.stdout.contains("CRITICAL"), "{name}: {}", check.all());
        world.check_backups();

        // Two verified backups stay, the damaged one is not one of them.
        world.run(&["prune"]).expect(0);
        world.recover();
        let verified =
            |list: Vec<serde_json::Value>| list.iter().filter(|c| c["status"] == "verified").count();
        assert_eq!(verified(world.list()), 2, "{name}: {:?}", world.list());
    }
}

#[test]
fn a_damaged_backup_is_not_restored_as_if_it_were_good() {
    let world = World::new();
    for (name, damage) in DAMAGES {
        eprintln!("{name}");
        world.recover();
        let newest = world.list()[0].clone();
        let run = newest["run_id"].as_str().unwrap();
        damage(&world.folder(&newest));
        world.damage(run, "local");
        let to = tempfile::tempdir_in(world.root()).unwrap();
        let out = world.run(&["restore", run, "--to", to.path().to_str().unwrap()]);
        // The index and SHA256SUMS are not needed to restore everything.
        let harmless = name.contains("index") || name.contains("SHA256SUMS");
        assert_eq!(out.code, if harmless { 0 } else { 1 }, "{name}: {}", out.all());
        world.run(&["verify", run]).expect(1);
    }
    world.recover();
}

#[test]
fn the_only_good_backup_stays_when_all_newer_ones_are_damaged() {
    let world = World::with(Setup { local: "keep = { last = 3 }", ..Setup::default() });
    for _ in 0..3 {
        world.recover();
    }
    let list = world.list();
    for copy in &list[..2] {
        let run = copy["run_id"].as_str().unwrap();
        flip_a_bit(&world.folder(copy).join(ARCHIVE));
        world.damage(run, "local");
        world.run(&["verify", run]).expect(1);
    }
    world.edit_config("keep = { last = 3 }", "keep = { last = 1 }");
    world.run(&["prune"]).expect(0);
    let kept: Vec<_> = world.list().into_iter().filter(|c| c["status"] == "verified").collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["run_id"], list[2]["run_id"]);
    world.check_backups();
    world.recover();
}

#[test]
#[cfg(feature = "failpoints")]
fn a_backup_damaged_before_it_is_read_back_is_a_failure_and_is_taken_away() {
    let world = World::new();
    world.recover();
    for (name, damage) in DAMAGES {
        // Without its manifest nobody knows whose folder it is; it is not a backup then.
        eprintln!("{name}");
        let before = world.stored("local");
        let run = world.pause_at("read-back", &["backup", "web", "--json"]);
        let new = world.stored("local").into_iter().find(|f| !before.contains(f)).expect("published");
        damage(&new);
        let out = run.go_on();
        world.after(&out, Expect::Failure);
        assert!(out.all().contains("read back"), "{name}: {}", out.all());
        assert!(!new.exists(), "{name}: the damaged backup is still there");
        world.recover();
    }
}

#[test]
#[cfg(feature = "failpoints")]
fn a_backup_that_expires_while_it_is_read_is_no_damage() {
    let world = World::with(Setup { local: "keep = { last = 2 }", ..Setup::default() });
    world.recover();
    world.recover();
    let oldest = world.list()[1]["run_id"].as_str().unwrap().to_owned();
    let mails = world.mails().len();
    let reading = world.pause_at("local:open", &["verify", &oldest]);
    world.edit_config("keep = { last = 2 }", "keep = { last = 1 }");
    world.run(&["prune"]).expect(0);
    let out = reading.go_on().expect(1);
    assert!(out.stderr.contains("was removed while it was read"), "{}", out.all());
    assert_eq!(world.mails().len(), mails, "{:?}", world.mails());
    assert!(world.list().iter().all(|copy| copy["status"] == "verified"));
    world.recover();
}

#[test]
#[cfg(feature = "failpoints")]
fn a_primary_damaged_before_it_is_copied_does_not_become_a_copy() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    world.recover();
    for (name, damage) in DAMAGES.iter().filter(|(name, _)| !name.contains("SHA256SUMS")) {
        eprintln!("{name}");
        let run = world.pause_at("copy", &["backup", "web", "--json"]);
        let newest = world.list().into_iter().find(|c| c["target"] == "local").unwrap();
        let id = newest["run_id"].as_str().unwrap();
        damage(&world.folder(&newest));
        world.damage(id, "local");
        world.damage(id, "nas");
        let out = run.go_on().expect(4);
        assert!(out.all().contains("copy nas"), "{name}: {}", out.all());
        let copies: Vec<_> = world.list().into_iter().filter(|c| c["run_id"] == id).collect();
        let nas = copies.iter().find(|c| c["target"] == "nas").unwrap();
        assert_eq!(nas["status"], "pending", "{name}");
        world.run(&["verify", id]).expect(1);
        assert!(world.stored("nas").iter().all(|f| !f.ends_with(nas["location"].as_str().unwrap_or("-"))));
    }
}

#[test]
#[cfg(feature = "real-peers")]
fn a_removal_that_is_refused_degrades_and_is_made_up_for() {
    // Memory does not know the attribute on every kernel.
    let keep = "keep = { last = 2 }";
    let world = World::with(Setup { base: Some(std::env::temp_dir()), local: keep, ..Setup::default() });
    for what in ["", "manifest.json", ARCHIVE] {
        world.recover();
        world.recover();
        let oldest = world.list().last().unwrap().clone();
        let stuck = world.folder(&oldest).join(what);
        system("chattr", &["+i", stuck.to_str().unwrap()]);
        let out = world.backup();
        let by_hand = |path: &Path| system("chattr", &["-R", "-i", path.to_str().unwrap()]);
        // Whatever the assertions say, the folder must be removable afterwards.
        by_hand(&world.path("local"));
        world.after(&out, Expect::Degraded);
        assert!(out.all().contains("retention local"), "{}", out.all());
        world.recover();
        assert!(world.list().iter().all(|c| c["run_id"] != oldest["run_id"]));
    }
}
