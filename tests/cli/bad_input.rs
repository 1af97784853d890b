//! Bad input: each a clear error, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::world::{SIMPLE, World};

/// Sets the version number an SQLite database carries for its program.
fn set_user_version(world: &World, version: u32) {
    world.sh(&format!("sqlite3 state/state.db 'PRAGMA user_version = {version}' >/dev/null"));
}

#[test]
fn a_source_that_is_missing_or_empty_fails_and_leaves_the_older_backup() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    world.sh("mv data elsewhere");
    let missing = world.agent("backup").exits(1);
    let expected = format!(
        "component application: {}/data cannot be backed up: No such file or directory",
        world.root()
    );
    assert!(missing.out.starts_with("failure ") && missing.out.contains(&expected), "{}", missing.out);
    world.sh("mkdir data");
    let empty = world.agent("backup").exits(1);
    let expected = format!(
        "component application: not one file was found in {}/data: is it mounted, or is everything excluded? \
         (`allow_empty = true` if that is right)",
        world.root()
    );
    assert!(empty.out.contains(&expected), "{}", empty.out);
    assert_eq!(world.backups("local").len(), 1);
    assert_eq!(world.sh("find local -name '.partial-*'"), "");
    world.agent("verify").exits(0);
    let metrics = world.agent("metrics").out;
    assert!(metrics.contains("backup_runs_failed_total{backup_job=\"web\"} 2\n"), "{metrics}");
    // Without a configuration too.
    world.bare("backup --source data --to b").exits(1).says(&["not one file was found in "]);
    world
        .bare("backup --source nothing --to b")
        .exits(1)
        .says(&["nothing cannot be backed up: No such file"]);
    world.bare("backup --source b/x --source elsewhere --to b").exits(1);
    world
        .bare("backup --source elsewhere --to elsewhere")
        .exits(2)
        .says(&["lies in the folder of backups", "choose another --to"]);
    world.bare("backup --source elsewhere").exits(2).says(&["--to <DIR>"]);
    world
        .bare("--backups elsewhere list")
        .exits(2)
        .says(&["elsewhere holds no backups made by `agent backup --to`"]);
    world.bare("run --backups b").exits(2).says(&["agent run --now"]);
}

#[test]
fn a_target_that_may_not_be_written_is_named_with_the_folder() {
    let world = World::new(SIMPLE);
    fs::set_permissions(world.path("local"), fs::Permissions::from_mode(0o755)).unwrap();
    // The user has a state of his own, and no right to the target.
    let config = world.read("config.toml").replace("/state\"", "/own/state\"");
    world.write("nobody.toml", &config);
    fs::create_dir(world.path("own")).unwrap();
    fs::set_permissions(world.path("own"), fs::Permissions::from_mode(0o777)).unwrap();
    world.sh("chmod -R a+rX data");
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(world.path("local"), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let refused = world.run(world.as_nobody().args(["--config", "nobody.toml"]), "backup").exits(1);
    let target = "target local: ";
    assert!(refused.out.contains(target) && refused.out.contains("Permission denied"), "{}", refused.out);
    assert!(refused.out.contains(&format!("{}/local", world.root())), "{}", refused.out);
    // And without a configuration.
    let refused = world.run(&mut world.as_nobody(), "backup --source data --to local/b").exits(1);
    refused.says(&["error: making folder local/b: Permission denied"]);
}

#[test]
fn a_state_of_another_user_is_named_with_who_may_use_it() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    let list = world.run(world.as_nobody().args(["--config", "config.toml"]), "list");
    if rustix::process::geteuid().is_root() {
        list.exits(1)
            .says(&["no permission for the state database ", "run as the owner of its folder, or as root"]);
    }
}

#[test]
fn a_state_database_of_a_later_version_is_left_alone() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    let version: u32 = world.sh("sqlite3 state/state.db 'PRAGMA user_version'").trim().parse().unwrap();
    set_user_version(&world, version + 1);
    let before = fs::read(world.path("state/state.db")).unwrap();
    let problem =
        format!("has version {}, this program knows versions up to {version}: update the agent", version + 1);
    for verb in ["backup", "list", "tend", "prune", "history"] {
        world.agent(verb).exits(1).says(&[&problem]);
    }
    assert_eq!(before, fs::read(world.path("state/state.db")).unwrap());
    set_user_version(&world, version);
    world.agent("backup").exits(0);
    assert_eq!(world.backups("local").len(), 2);
}

#[test]
fn a_damaged_state_database_is_said_and_can_be_moved_aside() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    world.sh("rm -f state/state.db-*; head -c 100000 /dev/urandom > state/state.db");
    world
        .agent("backup")
        .exits(1)
        .says(&["state.db", "move it and its -wal and -shm aside, and a new one is begun"]);
    assert_eq!(world.backups("local").len(), 1);
    world.sh("mv state/state.db damaged");
    world.agent("backup").exits(0);
    assert_eq!(world.backups("local").len(), 2);
}

#[test]
fn a_program_that_is_missing_or_fails_is_told_with_what_it_said() {
    let command = |line: &str| {
        World::new(&SIMPLE.replace(
            "[job.web.source.application]",
            &format!(
                "[job.web.source.dump]\ntype = \"command\"\ncommand = {line}\n[job.web.source.application]"
            ),
        ))
    };
    let world = command(r#"["no-such-program"]"#);
    world.agent("backup").exits(1).says(&["component dump: ", "no-such-program"]);
    let world = command(r#"["sh", "-c", "echo half; echo the disk is on fire >&2; exit 3"]"#);
    let failed = world.agent("backup").exits(1);
    assert!(failed.out.contains("the disk is on fire") && failed.out.contains('3'), "{}", failed.out);
    assert_eq!(world.backups("local").len(), 0);
    let world = command(r#"["true"]"#);
    world.agent("backup").exits(1).says(&["component dump: "]);
}

#[test]
fn an_unreadable_file_makes_the_backup_partial_or_a_warning_as_the_job_says() {
    let world = World::new(&SIMPLE.replace("/state\"", "/own/state\"").replace("/local\"", "/own/local\""));
    world.sh("mkdir -p own/local; chmod 777 own own/local; chmod -R a+rX data; echo secret > data/secret; chmod 000 data/secret");
    let nobody = |config: &str, args: &str| world.run(world.as_nobody().args(["--config", config]), args);
    let partial = nobody("config.toml", "backup").exits(3);
    assert!(partial.out.starts_with("partial ") && partial.out.contains(", 1 unreadable"), "{}", partial.out);
    assert!(partial.out.contains(" show "), "where to look is said: {}", partial.out);
    let runs = nobody("config.toml", "history --json").exits(0).json();
    let run = runs[0]["run_id"].as_str().unwrap();
    nobody("config.toml", &format!("show {run}")).exits(0).says(&["unreadable", "data/secret: "]);
    // It is kept and can be restored, and is no success.
    nobody("config.toml", "show latest").exits(1).says(&["there is no good backup yet"]);
    nobody("config.toml", &format!("restore {run} --to own/r")).exits(0);
    world.write("warn.toml", &format!("{}unreadable = \"warn\"\n", world.read("config.toml")));
    let warned = nobody("warn.toml", "backup").exits(0);
    assert!(warned.out.starts_with("warning ") && warned.out.contains(", 1 unreadable"), "{}", warned.out);
}
