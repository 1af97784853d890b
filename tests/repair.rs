//! Reading back on a schedule, and damaged copies replaced by good ones: the real binary, real damage.

#[path = "cli/world.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use world::{Guard, TWO, World, until};

fn two(more: &str) -> World {
    let world = World::new(&format!("{TWO}{more}"));
    fs::create_dir(world.path("nas")).unwrap();
    world
}

/// Flips one bit in the middle of a backup's archive, past the reach of file systems and mtimes.
fn rot(backup: &Path) {
    let file = backup.join("application.tar.zst");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn only(world: &World, target: &str) -> PathBuf {
    let mut found = world.backups(target);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// As if every copy was last read back days ago.
fn days_pass(world: &World, days: i64) {
    let state = rusqlite::Connection::open(world.path("state/state.db")).unwrap();
    let ms = days * 86_400_000;
    state
        .execute(
            "UPDATE copies SET verified_at = verified_at - ?1, created_at = created_at - ?1, queued_at = queued_at - ?1",
            [ms],
        )
        .unwrap();
    state.execute("UPDATE verify_reads SET at = at - ?1", [ms]).unwrap();
}

fn sums_hold(world: &World, backup: &Path) {
    world.sh(&format!("cd '{}' && sha256sum --quiet -c SHA256SUMS", backup.display()));
}

#[test]
fn bit_rot_is_found_on_schedule_and_repaired_from_the_other_target() {
    let world = two("");
    world.agent("backup").exits(0);
    world.agent("verify --due").exits(0);
    days_pass(&world, 8);
    let bad = only(&world, "nas");
    rot(&bad);
    world.agent("verify --due").exits(1).says(&[
        "verified ",
        "at local",
        "corrupt  ",
        "at nas",
        "has digest",
    ]);
    assert_eq!(world.statuses("nas"), ["corrupt"]);
    // Each once a round.
    assert_eq!(world.agent("verify --due").exits(0).out, "");
    let metrics = world.agent("metrics").out;
    assert!(
        metrics.contains("backup_last_verify_success{backup_job=\"web\",target=\"nas\"} 0\n"),
        "{metrics}"
    );
    world.agent("check").says(&["is damaged", "repair` takes a good copy from another target"]);

    let repaired = world.agent("repair").exits(0);
    assert!(
        repaired.out.contains("copied from local to ") && repaired.out.contains("read back"),
        "{repaired:?}"
    );
    let fresh = only(&world, "nas");
    assert_ne!(fresh, bad, "the fresh copy was made beside the damaged one");
    sums_hold(&world, &fresh);
    assert_eq!(world.statuses("nas"), ["verified"]);
    world.agent("verify --all --deep").exits(0);
    let metrics = world.agent("metrics").out;
    assert!(
        metrics.contains("backup_last_verify_success{backup_job=\"web\",target=\"nas\"} 1\n"),
        "{metrics}"
    );
    world.agent("restore latest --target nas --to r").exits(0);
    world.agent("repair").exits(0).says(&["no copy is known to be damaged"]);
}

#[test]
fn a_backup_that_is_gone_is_made_again_in_its_place_also_at_the_primary() {
    let world = two("");
    world.agent("backup").exits(0);
    let gone = only(&world, "local");
    fs::remove_dir_all(&gone).unwrap();
    world.agent("verify").exits(1).says(&["corrupt", "manifest"]);
    world.agent("repair latest --target local").exits(0);
    assert_eq!(only(&world, "local"), gone);
    sums_hold(&world, &gone);

    // Where it stands elsewhere afterwards, what looks after the newest backup finds it there.
    rot(&gone);
    world.agent("verify").exits(1);
    world.agent("repair").exits(0);
    assert_ne!(only(&world, "local"), gone);
    let checked = world.agent("check --json").json();
    let files = checked["findings"].as_array().unwrap().iter().find(|f| f["check"] == "files").unwrap();
    assert_eq!(files["status"], "ok", "{files}");
}

#[test]
fn without_a_good_copy_the_damaged_one_stays() {
    let world = World::new(&TWO.replace(", \"nas\"]", "]"));
    world.agent("backup").exits(0);
    let bad = only(&world, "local");
    rot(&bad);
    world.agent("verify").exits(1);
    world.agent("repair").exits(1).says(&["there is no good copy of run", "--keep-going"]);
    assert_eq!(only(&world, "local"), bad);
    assert_eq!(world.statuses("local"), ["corrupt"]);
    world.agent("check").exits(2).says(&["no other target has a good copy of it"]);
}

#[test]
fn a_source_that_turns_out_to_be_damaged_counts_as_such_and_nothing_is_lost() {
    let world = two("");
    world.agent("backup").exits(0);
    let (local, nas) = (only(&world, "local"), only(&world, "nas"));
    rot(&nas);
    world.agent("verify --target nas").exits(1);
    rot(&local);
    world.agent("check").exits(2).says(&["repair` takes a good copy from another target"]);
    world.agent("repair").exits(1).says(&["from local:", "is damaged", "stays"]);
    // Now it is known that there is none.
    let told = world.agent("check").exits(2).says(&["no other target has a good copy of it, `agent "]);
    assert!(!told.out.contains("repair`"), "{}", told.out);
    assert_eq!((only(&world, "local"), only(&world, "nas")), (local, nas));
    assert_eq!(
        (world.statuses("local"), world.statuses("nas")),
        (vec!["corrupt".into()], vec!["corrupt".into()])
    );
    assert!(!world.sh("find local nas -name '.partial-*'").contains("partial"));
}

#[test]
fn damage_that_was_none_is_taken_back() {
    let world = two("");
    world.agent("backup").exits(0);
    // The share was not mounted, and the folder below it is empty.
    fs::rename(world.path("nas"), world.path("away")).unwrap();
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("verify").exits(1);
    assert_eq!(world.statuses("nas"), ["corrupt"]);
    fs::remove_dir(world.path("nas")).unwrap();
    fs::rename(world.path("away"), world.path("nas")).unwrap();
    let before = only(&world, "nas");
    world.agent("repair").exits(0).says(&["is as it was written"]);
    assert_eq!(only(&world, "nas"), before);
    assert_eq!(world.statuses("nas"), ["verified"]);
}

#[test]
fn a_target_that_is_away_is_no_damage() {
    let world = two("");
    world.agent("backup").exits(0);
    days_pass(&world, 8);
    fs::rename(world.path("nas"), world.path("away")).unwrap();
    world.agent("verify --due").exits(1).says(&["failed", "does not exist"]);
    assert_eq!(world.statuses("nas"), ["verified"]);
}

#[cfg(feature = "failpoints")]
#[test]
fn backups_that_a_target_does_not_let_us_read_are_told_once_and_are_no_damage() {
    let world = two(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"smtp://127.0.0.1:1\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n",
    );
    world.agent("backup").exits(0);
    world.agent("backup").exits(0);
    days_pass(&world, 8);
    let refused = || {
        let mut program = world.program();
        program
            .args(["--config", "config.toml", "verify", "--due"])
            .env("BACKUP_AGENT_FAILPOINT", "nas:open=eacces");
        let out = program.output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let told = || {
        let state = rusqlite::Connection::open(world.path("state/state.db")).unwrap();
        let titles =
            "SELECT count(*) FROM outbox WHERE subject LIKE '%2 backups at nas cannot be read back%'";
        state.query_row(titles, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let first = refused();
    assert_eq!(
        first.matches("Permission denied").count(),
        2,
        "one does not keep the other from being tried: {first}"
    );
    assert_eq!(first.matches("verified").count(), 2, "{first}");
    assert_eq!((told(), world.statuses("nas")), (1, vec!["verified".to_owned(); 2]));
    refused();
    assert_eq!(told(), 1, "told once");
    let kept = || {
        let state = rusqlite::Connection::open(world.path("state/state.db")).unwrap();
        let kept = "SELECT count(*) FROM facts WHERE key = 'not-read-back'";
        state.query_row(kept, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(kept(), 1);
    world.agent("verify --due").exits(0);
    assert_eq!(kept(), 0, "they could be read: another time is news again");
}

#[test]
fn a_budget_spreads_a_round_over_days_the_longest_unread_first() {
    let world = two("[target.local.verify]\nbudget = \"1 kB\"\n[target.nas.verify]\nenabled = false\n");
    for _ in 0..3 {
        world.agent("backup").exits(0);
        days_pass(&world, 1);
    }
    days_pass(&world, 8);
    let oldest = |world: &World| -> String {
        let list = world.agent("list --target local --json").json();
        let copies = list.as_array().unwrap();
        let key = |c: &&serde_json::Value| c["verified_at"].as_str().unwrap().to_owned();
        copies.iter().min_by_key(key).unwrap()["run_id"].as_str().unwrap().to_owned()
    };
    for _ in 0..3 {
        let next = oldest(&world);
        let read = world.agent("verify --due").exits(0).out;
        assert_eq!(read.lines().count(), 1, "each is larger than the budget, so one a day: {read}");
        assert!(read.contains(&next), "{next}: {read}");
        assert_eq!(world.agent("verify --due").exits(0).out, "");
        let state = rusqlite::Connection::open(world.path("state/state.db")).unwrap();
        state.execute("UPDATE verify_reads SET at = at - 86400001", []).unwrap();
    }
    assert_eq!(world.agent("verify --due").exits(0).out, "", "the round is over");
}

#[test]
fn a_target_may_heal_by_itself() {
    let world = two("[target.nas.verify]\nrepair = true\n");
    world.agent("backup").exits(0);
    days_pass(&world, 8);
    rot(&only(&world, "nas"));
    world.agent("verify --due").exits(1).says(&["corrupt", "repaired", "copied from local"]);
    assert_eq!(world.statuses("nas"), ["verified"]);
    sums_hold(&world, &only(&world, "nas"));
}

#[cfg(feature = "failpoints")]
#[test]
fn a_repair_that_died_after_publishing_is_finished_by_the_next() {
    let world = two("");
    world.agent("backup").exits(0);
    rot(&only(&world, "nas"));
    world.agent("verify").exits(1);
    let mut dying = world.program();
    dying.args(["--config", "config.toml"]).env("BACKUP_AGENT_FAILPOINT", "repair-made=kill");
    assert_ne!(world.run(&mut dying, "repair").code, 0);
    assert_eq!(world.statuses("nas"), ["corrupt"]);
    world.agent("repair").exits(0);
    assert_eq!(world.statuses("nas"), ["verified"]);
    sums_hold(&world, &only(&world, "nas"));
}

#[test]
fn the_daemon_reads_back_what_is_due() {
    let world = two("");
    world.agent("backup").exits(0);
    days_pass(&world, 8);
    rot(&only(&world, "nas"));
    let mut daemon = world.program();
    daemon.args(["--config", "config.toml", "run"]).stdout(std::process::Stdio::null());
    let log = fs::File::create(world.path("daemon.log")).unwrap();
    let _daemon = Guard(daemon.stderr(log).spawn().unwrap());
    until("the damage is found", || world.statuses("nas") == ["corrupt"]);
    until("the other was read", || world.read("daemon.log").matches("was read back").count() == 2);
}
