//! Targets seen from elsewhere: retention and freshness by the manifests on an admin host, pins that a lost state and
//! another host find again, and another share in the place of the right one for those who read.
#![cfg(feature = "real-peers")]

#[path = "support/mount.rs"]
mod mount;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::PathBuf;

use mount::Mount;
use serde_json::Value;
use world::{AGENT, Out, Setup, World, below_no_mount, output, system};

fn bare(arguments: &[&str]) -> Out {
    let mut command = std::process::Command::new(AGENT);
    command.args(arguments).env("HOME", "/nonexistent").env_remove("BACKUP_AGENT_CONFIG");
    output(command)
}

/// The configuration of a host that makes no backups, with a state folder that is not there.
fn admin(world: &World, lines: &str) -> String {
    let root = world.root().display();
    let text = format!(
        "host = \"admin\"\ntimezone = \"UTC\"\nstate_dir = \"{root}/admin-state\"\n[target.store]\n\
         type = \"directory\"\npath = \"{root}/local\"\n{lines}\n"
    );
    world.write("admin.toml", text);
    world.path("admin.toml").display().to_string()
}

/// Backups of two hosts at one target, three each; gives the ids of the first host's, oldest first.
fn two_hosts() -> (World, Vec<String>) {
    let world = World::with(Setup { local: "template = \"{host}/%Y/%m/%d/%H%M\"", ..Setup::default() });
    let ids = (0..3).map(|_| world.backup().expect(0).run_id().unwrap()).collect();
    fs::rename(world.path("state"), world.path("state1")).unwrap();
    world.edit_config("host = \"testhost\"", "host = \"web2\"");
    for _ in 0..3 {
        world.backup().expect(0);
    }
    fs::rename(world.path("state"), world.path("state2")).unwrap();
    (world, ids)
}

fn of_host<'v>(answer: &'v [Value], host: &str) -> Vec<&'v Value> {
    answer.iter().filter(|value| value["host"] == host).collect()
}

#[test]
fn an_admin_host_without_a_state_prunes_what_all_hosts_have_at_a_target() {
    let (world, ids) = two_hosts();
    let config = admin(&world, "keep = { last = 1 }");
    let prune = |more: &[&str]| {
        let arguments: Vec<&str> =
            ["--config", &config, "prune", "--target", "store"].iter().chain(more).copied().collect();
        bare(&arguments)
    };
    let out = prune(&["--dry-run"]).expect(0);
    for text in
        ["web of testhost at store", "web of web2 at store", "2 backups would be removed", "no rule keeps it"]
    {
        assert!(out.all().contains(text), "{text}: {}", out.all());
    }
    let plan = prune(&["--dry-run", "--json"]).expect(0).json();
    assert_eq!(plan.as_array().unwrap().len(), 6);
    assert_eq!(world.stored("local").len(), 6, "a dry run removed something");

    // One host, then one with a backup pinned there, which this host has never heard of.
    let out = prune(&["--host", "testhost", "--json"]).expect(0).json();
    let done = of_host(out.as_array().unwrap(), "testhost");
    assert_eq!(done.len(), 3);
    assert_eq!(done.iter().filter(|d| d["became"] == "removed").count(), 2);
    assert!(done.iter().any(|d| d["run_id"] == ids[2].as_str() && d["keep"] == true));
    assert_eq!(world.stored("local").len(), 4);
    fs::write(oldest(&world).join("PINNED"), "").unwrap();
    let out = prune(&[]).expect(0);
    assert!(out.all().contains("1 backup removed") && out.all().contains("pinned"), "{}", out.all());
    assert_eq!(world.stored("local").len(), 3);
    assert!(!world.path("admin-state").exists(), "an admin host got a state");
    let out = prune(&["--host", "nobody"]).expect(1);
    assert!(out.all().contains("it has some of: testhost, web2"), "{}", out.all());

    // The hosts themselves go on: what is gone there is gone in their states with their next retention.
    fs::rename(world.path("state2"), world.path("state")).unwrap();
    world.edit_config("template =", "keep = { last = 1 }\ntemplate =");
    world.backup().expect(0);
    assert!(world.list().iter().all(|copy| copy["status"] == "verified"), "{:?}", world.list());
}

/// The folder of the oldest backup of web2.
fn oldest(world: &World) -> PathBuf {
    let mut folders = world.stored("local/web2");
    folders.sort();
    folders.remove(0)
}

#[test]
fn a_policy_may_be_said_and_without_one_everything_stays() {
    let (world, _) = two_hosts();
    let folder = world.path("local").display().to_string();
    let out = bare(&["--backups", &folder, "prune"]).expect(0);
    assert!(out.all().contains("has no `keep`, and --keep was not said"), "{}", out.all());
    bare(&["--backups", &folder, "prune", "--keep", "last=none"]).expect(2);
    let out = bare(&["--backups", &folder, "prune", "--keep", "last=2", "--host", "web2"]).expect(0);
    assert!(out.all().contains("1 backup removed"), "{}", out.all());
    assert_eq!(world.stored("local").len(), 5);
    // A host with jobs that lost its state must say what it means.
    let out = world.run(&["prune", "--keep", "last=1"]).expect(1);
    assert!(out.all().contains("nothing has been recorded there yet"), "{}", out.all());
    let out = world.run(&["prune", "--keep", "last=1", "--target", "local"]).expect(0);
    assert!(out.all().contains("web of web2") && !out.all().contains("testhost"), "{}", out.all());
    assert_eq!(world.stored("local").len(), 4);
    world.run(&["prune", "--keep", "last=1", "--target", "local", "--all-hosts"]).expect(0);
    assert_eq!(world.stored("local").len(), 2);
}

#[test]
fn a_newest_backup_that_is_damaged_does_not_let_the_others_go() {
    let (world, ids) = two_hosts();
    let config = admin(&world, "keep = { last = 1 }");
    let of_newest = |f: &PathBuf| fs::read_to_string(f.join("manifest.json")).unwrap().contains(&ids[2]);
    let newest = world.stored("local/testhost").into_iter().find(of_newest).unwrap();
    let archive = newest.join("application.tar.zst");
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    let out = bare(&["--config", &config, "prune", "--host", "testhost", "--json"]).expect(0);
    assert!(out.all().contains("is damaged: application.tar.zst has"), "{}", out.all());
    let kept: Vec<String> = out
        .json()
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["keep"] == true)
        .map(|d| d["run_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kept, [ids[2].clone(), ids[1].clone()], "the damaged one, and the newest good one");
}

#[test]
fn what_cannot_be_removed_is_an_error_and_the_rest_goes() {
    let (world, _) = two_hosts();
    let config = admin(&world, "keep = { last = 1 }");
    let bound = oldest(&world);
    system("mount", &["--bind", bound.to_str().unwrap(), bound.to_str().unwrap()]);
    let out = bare(&["--config", &config, "prune"]);
    system("umount", &[bound.to_str().unwrap()]);
    assert_eq!(out.code, 1, "{}", out.all());
    assert!(out.all().contains("was not removed"), "{}", out.all());
    assert_eq!(world.stored("local").len(), 3, "{}", out.all());
    bare(&["--config", &config, "prune"]).expect(0);
    assert_eq!(world.stored("local").len(), 2);
}

#[test]
fn a_state_of_the_same_installation_is_kept_right() {
    let (world, _) = two_hosts();
    fs::rename(world.path("state2"), world.path("state")).unwrap();
    let out = world.run(&["prune", "--target", "local", "--all-hosts", "--keep", "last=1"]).expect(0);
    assert!(out.all().contains("web of testhost") && out.all().contains("web of web2"), "{}", out.all());
    assert_eq!(world.list().len(), 1);
    assert_eq!(world.stored("local").len(), 2);
    let scan = world.run(&["target", "scan", "local"]).expect(0);
    assert!(!scan.all().contains("not there"), "{}", scan.all());
}

#[test]
fn freshness_is_told_by_host_and_job_as_a_monitoring_plugin() {
    let (world, _) = two_hosts();
    let config = admin(&world, "");
    let ask = |more: &[&str]| {
        let arguments: Vec<&str> =
            ["--config", &config, "target", "scan", "--max-age"].iter().chain(more).copied().collect();
        bare(&arguments)
    };
    let out = ask(&["26h"]).expect(0);
    assert!(
        out.stdout.starts_with("BACKUP OK - 2 jobs at store fresh, the oldest is web of "),
        "{}",
        out.all()
    );
    assert!(out.stdout.contains("HOST ") && out.stdout.contains("testhost "), "{}", out.all());
    let out = ask(&["26h", "--expect", "web3", "--expect", "web2/db", "--expect", "testhost/web"]).expect(2);
    assert!(
        out.stdout.starts_with(
            "BACKUP CRITICAL - store: web3 has no backup at all; db of web2 has no backup at all"
        ),
        "{}",
        out.all()
    );
    let out = ask(&["1ms", "--job", "web", "--host", "web2"]).expect(2);
    assert!(out.stdout.contains("web of web2: the newest good backup is"), "{}", out.all());
    let out = ask(&["26h", "--json"]).expect(0).json();
    assert_eq!(out["status"], "ok");
    assert!(out["hosts"].as_array().unwrap().iter().all(|host| host["age_seconds"].as_u64().unwrap() < 3600));
    fs::create_dir_all(world.path("local/web9")).unwrap();
    fs::write(world.path("local/web9/manifest.json"), "{").unwrap();
    let out = ask(&["26h"]).expect(1);
    assert!(
        out.stdout.starts_with("BACKUP WARNING") && out.stdout.contains("not read: web9"),
        "{}",
        out.all()
    );
    fs::rename(world.path("local"), world.path("gone")).unwrap();
    let out = ask(&["26h"]).expect(3);
    assert!(out.stdout.starts_with("BACKUP UNKNOWN - "), "{}", out.all());
}

#[test]
fn a_job_that_was_renamed_takes_its_backups_with_it_here_and_elsewhere() {
    let world = World::with(Setup { local: "keep = { last = 2 }", ..Setup::default() });
    let old: Vec<String> = (0..2).map(|_| world.backup().expect(0).run_id().unwrap()).collect();
    world.edit_config("[job.web]", "[job.www]\naliases = [\"web\"]");
    world.edit_config("[job.web.source", "[job.www.source");
    let new = world.run(&["backup", "www", "--json"]).expect(0).run_id().unwrap();
    let ids: Vec<_> = world.list().iter().map(|c| c["run_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [new.clone(), old[1].clone()]);
    let config = admin(&world, "keep = { last = 1 }");
    let out = bare(&["--config", &config, "prune", "--json"]).expect(0).json();
    let became: Vec<_> = out.as_array().unwrap().iter().map(|d| (&d["job"], &d["became"])).collect();
    assert_eq!(became, [(&"www".into(), &Value::Null), (&"www".into(), &"removed".into())]);
}

#[test]
fn a_pin_stands_at_every_target_and_survives_a_lost_state() {
    let world = World::with(Setup { nas: true, local: "keep = { last = 1 }", ..Setup::default() });
    let first = world.backup().expect(0).run_id().unwrap();
    world.run(&["pin", &first, "--reason", "before the move"]).expect(0);
    let pin = |target: &str, run: &str| {
        let folders = world.stored(target);
        let holds = |f: &&PathBuf| fs::read_to_string(f.join("manifest.json")).unwrap().contains(run);
        folders.iter().find(holds).unwrap().join("PINNED")
    };
    for target in ["local", "nas"] {
        let text: Value = serde_json::from_slice(&fs::read(pin(target, &first)).unwrap()).unwrap();
        assert_eq!(text["reason"], "before the move");
        assert!(text["by"].as_str().unwrap().ends_with("@testhost"), "{text}");
    }
    // Nothing that reads the backup minds.
    world.run(&["verify", &first]).expect(0);
    system(
        "sh",
        &[
            "-c",
            &format!(
                "cd {} && sha256sum -c --quiet SHA256SUMS",
                pin("nas", &first).parent().unwrap().display()
            ),
        ],
    );
    let shown = world.run(&["show", &first]).expect(0);
    assert!(
        shown.all().contains("pinned at nas by ") && shown.all().contains(": before the move"),
        "{}",
        shown.all()
    );

    fs::remove_dir_all(world.path("state")).unwrap();
    let out = world.run(&["target", "scan", "local", "--adopt"]).expect(0);
    assert!(out.all().contains(", pinned"), "{}", out.all());
    for _ in 0..2 {
        world.backup().expect(0);
    }
    let pinned: Vec<_> = world.list().into_iter().filter(|copy| copy["pinned"] == true).collect();
    assert_eq!(pinned.len(), 1, "{pinned:?}");
    assert_eq!(
        (&pinned[0]["run_id"], &pinned[0]["pin"]["reason"]),
        (&first.as_str().into(), &"before the move".into())
    );
    world.run(&["unpin", &first]).expect(0);
    assert!(!pin("local", &first).exists());
    world.backup().expect(0);
    assert_eq!(world.list().iter().filter(|copy| copy["target"] == "local").count(), 1);
}

#[test]
fn a_target_that_is_away_is_told_of_a_pin_when_it_is_back_and_copies_made_later_carry_it() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    let first = world.backup().expect(0).run_id().unwrap();
    fs::rename(world.path("nas"), world.path("away")).unwrap();
    let out = world.run(&["pin", &first]).expect(0);
    assert!(
        out.all().contains("target nas does not know of it yet") && out.all().contains(" tend`"),
        "{}",
        out.all()
    );
    assert!(world.run(&["show", &first]).all().contains("(the target does not know yet)"));
    let second = world.backup().run_id().unwrap();
    world.run(&["pin", &second]).expect(0);
    let out = world.run(&["tend"]).expect(1);
    assert!(out.all().contains("target nas was not told yet whether run "), "{}", out.all());
    fs::rename(world.path("away"), world.path("nas")).unwrap();
    let out = world.run(&["tend", "--retry"]).expect(0);
    assert!(out.all().contains("1 pending copy was made"), "{}", out.all());
    assert!(out.all().contains("targets were told which backups are pinned: 1 copy"), "{}", out.all());
    assert!(world.stored("nas").iter().all(|folder| folder.join("PINNED").exists()));
    assert_eq!(world.stored("nas").len(), 2);
    // Somebody took one away by hand: it is written anew.
    fs::remove_file(world.stored("nas")[0].join("PINNED")).unwrap();
    world.run(&["target", "scan", "nas", "--adopt"]).expect(0);
    world.run(&["tend"]).expect(0);
    assert!(world.stored("nas").iter().all(|folder| folder.join("PINNED").exists()));
}

#[test]
fn a_pin_from_another_host_holds_though_the_state_knows_nothing_of_it() {
    let world = World::with(Setup { local: "keep = { last = 1 }", ..Setup::default() });
    let first = world.backup().expect(0).run_id().unwrap();
    let config = admin(&world, "");
    let out =
        bare(&["--config", &config, "pin", &first, "--target", "store", "--reason", "evidence"]).expect(0);
    assert!(out.all().contains("pinned: retention never removes it"), "{}", out.all());
    let out = world.backup();
    assert_eq!(out.code, 0, "a pin degrades nothing: {}", out.all());
    let list = world.list();
    assert_eq!(list.len(), 2, "{list:?}");
    assert!(list[1]["pinned"] == true && list[1]["status"] == "verified", "{list:?}");
    assert_eq!(list[1]["pin"]["reason"], "evidence");
    let out = world.run(&["prune", "--dry-run"]).expect(0);
    assert!(out.all().contains("0 backups would be removed"), "{}", out.all());
}

#[test]
fn a_new_host_with_a_configuration_of_the_target_alone_lists_verifies_and_restores() {
    let (world, ids) = two_hosts();
    let config = admin(&world, "");
    let out = bare(&["--config", &config, "list"]).expect(1);
    assert!(out.all().contains("several hosts"), "{}", out.all());
    // The id of a run says which host is meant.
    let out = bare(&["--config", &config, "pin", &ids[1], "--reason", "evidence"]).expect(0);
    assert!(out.all().contains("pinned: retention never removes it"), "{}", out.all());
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("host = \"admin\"", "host = \"testhost\"")).unwrap();
    let list = bare(&["--config", &config, "list", "--json"]).expect(0);
    assert!(list.stderr.contains("this is what the manifests at target store say"), "{}", list.all());
    assert_eq!(list.json().as_array().unwrap().len(), 3);
    bare(&["--config", &config, "verify", "latest"]).expect(0);
    let to = world.path("back").display().to_string();
    bare(&["--config", &config, "restore", &ids[0], "--target", "store", "--to", &to]).expect(0);
    let tree = system("find", &[&to, "-type", "d", "-name", "src"]);
    system("diff", &["-r", "--no-dereference", world.path("src").to_str().unwrap(), tree.trim()]);
    assert!(!world.path("admin-state").exists());
}

#[test]
fn what_somebody_else_removed_is_named_and_forgotten_when_that_was_meant() {
    let world = World::new();
    for _ in 0..2 {
        world.backup().expect(0);
    }
    fs::remove_dir_all(world.stored("local").into_iter().min().unwrap()).unwrap();
    let out = world.run(&["target", "scan", "local"]).expect(1);
    assert!(out.all().contains("1 backup known to the state and not there"), "{}", out.all());
    assert_eq!(
        world.run(&["target", "scan", "local", "--json"]).json()["missing"].as_array().unwrap().len(),
        1
    );
    let out = world.run(&["target", "scan", "local", "--forget"]).expect(0);
    assert!(out.all().contains("1 backup forgotten"), "{}", out.all());
    assert_eq!(world.list().len(), 1);
    world.run(&["target", "scan", "local"]).expect(0);
}

#[test]
fn another_share_is_named_to_those_who_read_and_is_no_backup_that_is_gone() {
    let local = "require_mount = true";
    let world = World::with(Setup { local, base: Some(below_no_mount()), ..Setup::default() });
    let _first = Mount::new(&world.path("local"), "size=20m");
    world.run(&["target", "init", "local"]).expect(0);
    world.backup().expect(0);
    let _second = Mount::new(&world.path("local"), "size=20m");
    let tar = world.path("out.tar").display().to_string();
    let to = world.path("back").display().to_string();
    for verb in [
        vec!["ls", "latest"],
        vec!["cat", "latest", "src/version.txt"],
        vec!["restore", "latest", "--to", &to],
        vec!["export", "latest", "--to", &tar],
        vec!["verify", "latest"],
    ] {
        let out = world.run(&verb);
        assert_ne!(out.code, 0, "{verb:?}");
        assert!(out.all().contains("another share, or none, is mounted"), "{verb:?}: {}", out.all());
    }
    let check = world.run(&["check"]);
    assert!(check.all().contains("another share, or none, is mounted"), "{}", check.all());
    assert!(!check.all().contains("manifest.json"), "{}", check.all());
    let doctor = world.run(&["doctor"]);
    assert!(doctor.all().contains("another share, or none,"), "{}", doctor.all());
}
