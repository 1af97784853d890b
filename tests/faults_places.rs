//! Faults at every place a backup passes: each write, fsync, close and rename fails once, the process dies
//! at each, and each part panics. Rows 1, 5 to 11, 15, 32 and 42 of the fault matrix.
#![cfg(feature = "failpoints")]

#[path = "support/world.rs"]
mod world;

use world::invariants::Expect;
use world::{Setup, World};

/// A world in which every step has something to do: a copy to be made, and backups to be removed.
/// Each run has a folder name of its own, or the places would depend on whether a minute or a day has passed.
fn settled() -> World {
    let keep = "keep = { last = 2 }\ntemplate = \"daily/%Y%m%dT%H%M%S%3f\"";
    let world = World::with(Setup { nas: true, local: keep, nas_lines: keep, ..Setup::default() });
    for _ in 0..3 {
        world.recover();
    }
    world
}

/// The name of a place without its number.
fn name(place: &str) -> &str {
    place.split('#').next().unwrap()
}

/// Whether only the process that makes copies comes along a place.
fn is_in_child(place: &str) -> bool {
    // Reading a backup back opens five files.
    place.starts_with("nas:")
        || place.strip_prefix("local:open#").is_some_and(|n| n.parse::<u32>().unwrap() > 5)
}

/// What an error at a place comes to; `None` where it hits the record of the run itself.
fn expected(place: &str) -> Option<Expect> {
    match name(place) {
        "begun-run" | "end-run" | "ended-run" | "deliver" | "delivered" => None,
        "retention" | "retention-done" | "copy" | "copy-made" => Some(Expect::Degraded),
        "local:remove-rename" | "local:remove-renamed" | "local:remove" => Some(Expect::Degraded),
        _ if is_in_child(place) => Some(Expect::Degraded),
        _ => Some(Expect::Failure),
    }
}

/// One part of all places, so that tests run beside one another.
fn share(world: &World, part: usize, of: usize) -> Vec<String> {
    let all = world.places();
    assert!(all.len() > 80, "the places are not there: {all:?}");
    all.into_iter().enumerate().filter(|(i, _)| i % of == part).map(|(_, place)| place).collect()
}

fn fails_at_each_place(part: usize) {
    let world = settled();
    for place in share(&world, part, 2) {
        // Shown when the test fails.
        eprintln!("error at {place}");
        let action = if place.contains(":write") { "enospc" } else { "eio" };
        let failpoint = format!("{place}={action}");
        match expected(&place) {
            Some(expect) => {
                let out = world.backup_at(&failpoint);
                world.after(&out, expect);
                if expect == Expect::Failure {
                    let left = world.leftovers();
                    assert!(left.is_empty(), "{place}: a failed run left {left:?}");
                    world.check_nothing_stray();
                }
            }
            None => {
                let mails = world.mails().len();
                // Once the end is recorded, a good run stays one: it is degraded.
                let recorded = matches!(name(&place), "ended-run" | "deliver" | "delivered");
                let out = world.backup_at(&failpoint).expect(if recorded { 4 } else { 1 });
                world.check_backups();
                assert!(world.mails().len() > mails, "{place}: nobody is told: {}", out.all());
            }
        }
        world.catch_up();
        if !is_in_child(&place) || place.contains("remove") {
            world.recover();
        }
    }
    world.recover();
}

#[test]
fn an_error_at_any_place_is_a_failure_or_degrades_first_half() {
    fails_at_each_place(0);
}

#[test]
fn an_error_at_any_place_is_a_failure_or_degrades_second_half() {
    fails_at_each_place(1);
}

#[test]
fn an_error_while_a_taken_name_is_passed_over_fails_the_run() {
    let world = World::with(Setup { local: "template = \"daily/taken\"", ..Setup::default() });
    world.recover();
    // The name, then the name with the run's seconds, or with its id.
    let out = world.backup_at("local:rename#2=eio");
    world.after(&out, Expect::Failure);
    assert_eq!(world.leftovers(), Vec::<String>::new());
    world.recover();
}

fn dies_at_each_place(part: usize) {
    let world = settled();
    for (turn, place) in share(&world, part, 2).into_iter().enumerate() {
        eprintln!("killed at {place}");
        let out = world.backup_at(&format!("{place}=kill"));
        if is_in_child(&place) {
            // Only the process that makes the copy died.
            world.after(&out, Expect::Degraded);
        } else {
            assert_eq!(out.code, -9, "{}", out.all());
            world.after_kill(if turn % 2 == 0 { "tend" } else { "backup" });
        }
        world.catch_up();
        if place.contains("remove") {
            world.recover(); // the next retention ends what was cut short
        }
        world.check_nothing_stray();
    }
    world.recover();
}

#[test]
fn a_process_killed_at_any_place_is_cleaned_up_after_first_half() {
    dies_at_each_place(0);
}

#[test]
fn a_process_killed_at_any_place_is_cleaned_up_after_second_half() {
    dies_at_each_place(1);
}

#[test]
fn a_panic_in_any_part_fails_the_run_and_is_told() {
    let world = settled();
    let steps = ["preflight", "capture", "publish", "read-back", "walk", "compress", "write-frame"];
    for place in steps.into_iter().chain(["local:write#2", "local:fsync#1", "local:rename", "publish-done"]) {
        eprintln!("panic at {place}");
        let out = world.backup_at(&format!("{place}=panic"));
        world.after(&out, Expect::Failure);
        assert!(out.all().contains("internal error"), "{}", out.all());
        world.recover();
    } // After the commit point the backup stays, whatever panics.
    for place in ["retention", "local:remove", "nas:write", "nas:remove"] {
        eprintln!("panic at {place}");
        let out = world.backup_at(&format!("{place}=panic"));
        world.after(&out, Expect::Degraded);
        world.catch_up();
        world.recover();
    }
    // Where the record itself is written nothing catches it; the next start finds what is left.
    for place in ["begun-run", "end-run"] {
        eprintln!("panic at {place}");
        let out = world.backup_at(&format!("{place}=panic"));
        assert_eq!(out.code, 101, "{}", out.all());
        world.after_kill("tend");
    }
}
