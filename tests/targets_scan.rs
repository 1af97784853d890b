//! Everything is known again from the manifests alone: after the state was lost, on a new host with nothing but
//! the folder, and for several hosts that share one target.
#![cfg(feature = "real-peers")]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::Path;

use serde_json::Value;
use world::{AGENT, Out, Setup, World, output, system};

fn ids(list: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = list.iter().map(|c| c["run_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn bare(arguments: &[&str]) -> Out {
    let mut command = std::process::Command::new(AGENT);
    command.args(arguments).env("HOME", "/nonexistent").env_remove("BACKUP_AGENT_CONFIG");
    output(command)
}

fn same_tree(a: &Path, b: &Path) {
    system("diff", &["-r", "--no-dereference", a.to_str().unwrap(), b.to_str().unwrap()]);
}

#[test]
fn an_empty_state_and_a_scan_bring_list_freshness_retention_and_restore_back() {
    let world = World::with(Setup { local: "keep = { last = 2 }", ..Setup::default() });
    for _ in 0..2 {
        world.change();
        world.backup().expect(0);
    }
    let before = world.list();
    let freshness = world.metric("backup_last_success_timestamp_seconds");
    fs::remove_dir_all(world.path("state")).unwrap();

    // Looking needs no state, and makes none.
    let out = world.run(&["target", "scan", "local", "--json"]).expect(0);
    let found = out.json();
    assert_eq!(ids(found["backups"].as_array().unwrap()), ids(&before));
    assert!(found["backups"].as_array().unwrap().iter().all(|b| b["known"] == "unknown"));
    assert_eq!(found["hosts"][0]["backups"], 2);
    assert!(!world.path("state/state.db").exists());
    let out = world.run(&["target", "scan", "local"]).expect(0);
    assert!(out.all().contains("2 backups not known to the state") && out.all().contains("testhost"));

    let out = world.run(&["target", "scan", "local", "--adopt"]).expect(0);
    assert!(out.all().contains("2 backups recorded"), "{}", out.all());
    let out = world.run(&["target", "scan", "local", "--adopt"]).expect(0);
    assert!(out.all().contains("0 backups recorded"), "{}", out.all());
    let after = world.list();
    assert_eq!(ids(&after), ids(&before));
    for (a, b) in after.iter().zip(&before) {
        assert_eq!(
            (&a["location"], &a["bytes"], &a["started"]),
            (&b["location"], &b["bytes"], &b["started"])
        );
        assert_eq!(a["status"], "complete", "nothing is verified that was not read back");
    }
    // As fresh as the manifests say, not as the scan.
    let again = world.metric("backup_last_success_timestamp_seconds");
    assert!((again - freshness).abs() < 60.0 && again <= freshness, "{again} {freshness}");
    assert_eq!(world.history()[0]["trigger"], "found");
    world.run(&["verify", "latest"]).expect(0);
    assert_eq!(world.list()[0]["status"], "verified");
    let out_dir = world.path("restored");
    world.run(&["restore", "latest", "--to", out_dir.to_str().unwrap()]).expect(0);
    same_tree(&world.path("src"), &find(&out_dir, "src"));
    // Retention counts the old ones again: of three the oldest goes.
    world.backup().expect(0);
    let left = world.list();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!ids(&left).contains(&before[1]["run_id"].as_str().unwrap().to_owned()));
}

/// The folder of this name below another.
fn find(below: &Path, name: &str) -> std::path::PathBuf {
    system("find", &[below.to_str().unwrap(), "-type", "d", "-name", name]).lines().next().unwrap().into()
}

#[test]
fn a_state_that_lost_its_newest_runs_gets_them_in_the_order_of_time() {
    let world = World::new();
    let first = world.backup().expect(0).run_id().unwrap();
    let kept = world.path("kept");
    system("cp", &["-a", world.path("state").to_str().unwrap(), kept.to_str().unwrap()]);
    let second = world.backup().expect(0).run_id().unwrap();
    fs::remove_dir_all(world.path("state")).unwrap();
    fs::rename(&kept, world.path("state")).unwrap();
    world.run(&["target", "scan", "local", "--adopt"]).expect(0);
    let third = world.backup().expect(0).run_id().unwrap();
    let history: Vec<_> = world.history().iter().map(|r| r["run_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(history, [third, second, first]);
}

#[test]
fn a_new_host_restores_with_nothing_but_the_folder() {
    let world = World::new();
    world.backup().expect(0);
    let (folder, to) = (world.path("local"), world.path("back"));
    let folder = folder.to_str().unwrap();
    fs::remove_dir_all(world.path("state")).unwrap();
    let before = system("find", &[folder]);
    let list = bare(&["--backups", folder, "list", "--json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    bare(&["--backups", folder, "verify", "latest"]).expect(0);
    bare(&["--backups", folder, "restore", "latest", "--to", to.to_str().unwrap()]).expect(0);
    same_tree(&world.path("src"), &find(&to, "src"));
    let scan = bare(&["--backups", folder, "target", "scan"]).expect(0);
    assert!(scan.all().contains("testhost"), "{}", scan.all());
    assert_eq!(system("find", &[folder]), before, "looking changed the folder");
    let empty = world.path("empty");
    fs::create_dir(&empty).unwrap();
    let out = bare(&["--backups", empty.to_str().unwrap(), "list"]).expect(2);
    assert!(out.all().contains("nor any manifest"), "{}", out.all());
    let out = bare(&["--backups", folder, "pause", "files", "--until", "2h"]).expect(2);
    assert!(!out.all().is_empty());
}

#[test]
fn hosts_that_share_a_target_are_told_apart_and_not_mixed() {
    let world = World::with(Setup { local: "template = \"{host}/daily/%Y/%m/%d/%H%M\"", ..Setup::default() });
    world.backup().expect(0);
    fs::remove_dir_all(world.path("state")).unwrap();
    world.edit_config("host = \"testhost\"", "host = \"web2\"");
    world.backup().expect(0);
    let scan = world.run(&["target", "scan", "local", "--json"]).json();
    let hosts: Vec<_> =
        scan["hosts"].as_array().unwrap().iter().map(|h| h["host"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["testhost", "web2"]);
    // Only those of this host are adopted, and another's are not mixed with them.
    let out = world.run(&["target", "scan", "local", "--adopt"]).expect(0);
    assert!(out.all().contains("0 backups recorded"), "{}", out.all());
    let out = world.run(&["target", "scan", "local", "--adopt", "--host", "testhost"]).expect(1);
    assert!(out.all().contains("not mixed"), "{}", out.all());
    assert_eq!(world.list().len(), 1);
    // A host that never made one may take over from another.
    fs::remove_dir_all(world.path("state")).unwrap();
    let out = world.run(&["target", "scan", "local", "--adopt", "--host", "testhost"]).expect(0);
    assert!(out.all().contains("1 backup recorded"), "{}", out.all());
    // Without a configuration the folder of one is named.
    let folder = world.path("local");
    fs::remove_dir_all(folder.join(".backup-agent")).unwrap_or_default();
    let out = bare(&["--backups", folder.to_str().unwrap(), "list"]).expect(1);
    assert!(out.all().contains("several hosts") && out.all().contains("local/web2"), "{}", out.all());
    let web2 = folder.join("web2");
    bare(&["--backups", web2.to_str().unwrap(), "list"]).expect(0);
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_found() {
    let world = World::new();
    world.backup().expect(0);
    let damaged = world.path("local/daily/2020/01/01/0000");
    fs::create_dir_all(&damaged).unwrap();
    fs::write(damaged.join("manifest.json"), "{").unwrap();
    let out = world.run(&["target", "scan", "local"]).expect(1);
    assert!(out.all().contains("daily/2020/01/01/0000: ") && out.all().contains("damaged"), "{}", out.all());
    assert!(out.all().contains("testhost"), "{}", out.all());
    world.run(&["target", "scan", "nosuch"]).expect(2);
    let out = world.run(&["target", "scan"]).expect(2);
    assert!(out.all().contains("which target?"), "{}", out.all());
}

#[test]
fn a_pinned_backup_stays_whatever_retention_says_until_it_is_unpinned() {
    let world = World::with(Setup { local: "keep = { last = 1 }", ..Setup::default() });
    let first = world.backup().expect(0).run_id().unwrap();
    let out = world.run(&["pin", &first]).expect(0);
    assert!(out.all().contains("pinned: retention never removes it"), "{}", out.all());
    for _ in 0..2 {
        world.backup().expect(0);
    }
    let list = world.list();
    assert_eq!(list.len(), 2, "{list:?}");
    let pinned: Vec<_> = list.iter().filter(|c| c["pinned"] == true).collect();
    assert_eq!(pinned.len(), 1);
    assert_eq!(pinned[0]["run_id"], first.as_str());
    let out = world.run(&["list"]).expect(0);
    assert!(out.all().contains("verified, pinned"), "{}", out.all());
    let out = world.run(&["prune", "--dry-run"]).expect(0);
    assert!(
        out.all().contains("pinned") && out.all().contains("0 backups would be removed"),
        "{}",
        out.all()
    );
    world.run(&["pin", &first, "--target", "nas"]).expect(1);
    world.run(&["unpin", &first]).expect(0);
    let out = world.run(&["prune"]).expect(0);
    assert!(out.all().contains("1 backup removed"), "{}", out.all());
    let out = world.run(&["unpin", &first]).expect(1);
    assert!(out.all().contains("has no backup"), "{}", out.all());
}

#[test]
fn a_limit_of_bytes_lets_the_oldest_go() {
    let world = World::with(Setup { local: "keep = { max_bytes = \"100 GiB\" }", ..Setup::default() });
    for _ in 0..3 {
        world.backup().expect(0);
    }
    assert_eq!(world.list().len(), 3);
    let bytes = world.list()[0]["bytes"].as_u64().unwrap();
    world.edit_config("\"100 GiB\"", &format!("\"{}\"", bytes * 5 / 2));
    let out = world.run(&["prune", "--dry-run"]).expect(0);
    assert!(out.all().contains("newer backups take max_bytes"), "{}", out.all());
    world.run(&["prune"]).expect(0);
    assert_eq!(world.list().len(), 2);
    world.backup().expect(0);
    assert_eq!(world.list().len(), 2, "the new one counts");
}
