//! One suite for every source that gets its data from a program: what a good dump, a failing, a lying, a
//! hanging and a talkative program come to, and that passwords are seen nowhere.
//!
//! Success is with real servers (MariaDB, PostgreSQL, Redis), started here; faults are programs on PATH in the
//! place of the real ones, which know the good dump and spoil it. Sources without a program stand in the same
//! table with the faults they can have.
#![cfg(feature = "real-peers")]

mod cases;
mod passwords;
#[path = "../peers/mod.rs"]
mod peers;
mod servers;
#[path = "../support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cases::{CASES, Case, FAULTS, Fault, LIMIT, SOON};
use passwords::{CANARY, nowhere};
use peers::postgres::bin;
use servers::real_backup;
use world::invariants::Expect;
use world::{Out, Setup, World, output, system, wait_for};

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A world with one source of a case beside the files, and its folder of programs.
fn world_of(case: &Case, dumps: &Path) -> (World, PathBuf) {
    let more = format!("[job.web.source.{}]\n{}\n", case.name, case.lines)
        .replace("{stubs}", "{root}/stubs")
        .replace("{secret}", "{root}/secret");
    let world = World::with(Setup { more, ..Setup::default() });
    world.write("secret", CANARY);
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let stubs = world.path("stubs");
    fs::create_dir(&stubs).unwrap();
    std::os::unix::fs::symlink(bin().join("pg_restore"), stubs.join("pg_restore")).unwrap();
    let good = fs::read(dumps.join(case.dump)).unwrap();
    world.write("good", &good);
    world.write("half", &good[..good.len() / 2]);
    (world, stubs)
}

fn set_fault(world: &World, stubs: &Path, case: &Case, fault: &Fault) {
    let (last, others) = case.programs.split_last().unwrap();
    for (name, text) in others {
        script(&stubs.join(name), text);
    }
    let root = world.root().display();
    let (name, answers) = last;
    let text = format!("good={root}/good half={root}/half pids={root}/pids\n{answers}\n{}", fault.script);
    script(&stubs.join(name), &text);
}

fn backup_with(world: &World, stubs: &Path) -> Out {
    let mut command = world.agent(&["backup", "web", "--json"]);
    command.env("PATH", format!("{}:{}", stubs.display(), std::env::var("PATH").unwrap()));
    output(command)
}

#[test]
fn every_source_passes_good_dumps_and_no_others_and_shows_its_password_nowhere() {
    let (_, dumps) = real_backup();
    std::thread::scope(|scope| {
        for case in CASES {
            let dumps = dumps.path();
            scope.spawn(move || conforms(case, dumps));
        }
    });
}

fn conforms(case: &Case, dumps: &Path) {
    let (world, stubs) = world_of(case, dumps);
    for fault in FAULTS {
        let what = format!("{}: a program that {}", case.name, fault.name);
        set_fault(&world, &stubs, case, fault);
        let hangs = fault.says.iter().any(|text| text.contains("had not finished"));
        if hangs {
            world.edit_config(LIMIT, SOON);
        }
        let begun = Instant::now();
        let out = backup_with(&world, &stubs);
        assert!(begun.elapsed() < Duration::from_secs(120), "{what} held up the run");
        if hangs {
            world.edit_config(SOON, LIMIT);
        }
        world.after(&out, fault.expect);
        let said = out.all();
        let told = fault.says.is_empty() || fault.says.iter().any(|text| said.contains(text));
        // A dump cut in the middle of its first bytes is told as what it looks like.
        assert!(told, "{what}: {said}");
        if fault.expect == Expect::Failure {
            assert!(said.contains(&format!("component {}", case.name)), "{what}: {said}");
            assert!(world.leftovers().is_empty(), "{what}: {:?}", world.leftovers());
        }
        nowhere(&world, &out);
        if let Ok(pids) = fs::read_to_string(world.path("pids")) {
            for pid in pids.lines() {
                let gone = || {
                    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
                };
                wait_for("the end of the process group", gone);
            }
            fs::remove_file(world.path("pids")).unwrap();
        }
    }
}

#[test]
fn sources_without_a_program_pass_good_data_and_no_other() {
    let more = "[job.web.source.queue]\ntype = 'sqlite'\npath = '{root}/queue.sqlite'\ntimeout = '10m'\n";
    let world = World::with(Setup { more: more.to_owned(), ..Setup::default() });
    let path = world.path("queue.sqlite");
    system(
        "sqlite3",
        &[
            path.to_str().unwrap(),
            "CREATE TABLE t (n); INSERT INTO t SELECT value FROM generate_series(1, 9000)",
        ],
    );
    let good = fs::read(&path).unwrap();
    let out = world.backup();
    world.after(&out, Expect::Success);
    for (what, bytes, says) in [
        ("cut off", good[..good.len() / 2].to_vec(), "damaged"),
        ("empty", Vec::new(), "empty file"),
        (
            "something else",
            b"not a database, but long enough to be one".repeat(20),
            "is not an SQLite database",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let out = world.backup();
        world.after(&out, Expect::Failure);
        assert!(out.all().contains(says), "{what}: {}", out.all());
    }
    fs::write(&path, good).unwrap();
    world.recover();
}
