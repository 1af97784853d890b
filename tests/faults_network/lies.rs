//! Servers that say one thing and do another.

use crate::kinds::WEBDAV;
use crate::lying::{Lie, LyingServer};
use crate::world::invariants::Expect;
use crate::world::{Setup, World};

const ALWAYS: u64 = u64::MAX;
const ARCHIVE: &str = "application.tar.zst";

fn world() -> (World, LyingServer, Box<dyn std::any::Any>) {
    let lines = "template = \"{host}/daily/%Y/%m/%d/%H%M%S%3f\"";
    let world = World::with(Setup { nas: true, nas_lines: lines, ..Setup::default() });
    let (address, server) = (WEBDAV.start)(&world, "nas");
    let liar = LyingServer::before(address);
    WEBDAV.use_for(&world, "nas", liar.address);
    world.recover();
    (world, liar, server)
}

/// The run is good and degraded with these words, nothing is visible, and the next attempt works.
fn is_noticed(method: &str, path: &str, lie: Lie, words: &str) {
    let (world, liar, _server) = world();
    world.change();
    liar.lie(method, path, lie, ALWAYS);
    let out = world.backup();
    world.after(&out, Expect::Degraded);
    assert!(liar.fired() > 0, "{:?}", liar.seen());
    assert!(out.all().contains(words), "{words:?} is missing in\n{}", out.all());
    assert_eq!(world.stored("nas").len(), 1, "something is visible");
    liar.repent();
    world.catch_up();
    assert_eq!(world.stored("nas").len(), 2);
    world.recover();
}

/// The run is a success all the same.
fn is_overcome(method: &str, path: &str, lie: Lie, times: u64) {
    let (world, liar, _server) = world();
    world.change();
    liar.lie(method, path, lie, times);
    let out = world.backup();
    assert!(liar.fired() > 0, "{:?}", liar.seen());
    liar.repent();
    world.after(&out, Expect::Success);
    assert_eq!(world.stored("nas").len(), 2);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn a_server_that_takes_a_body_and_drops_it_is_noticed() {
    is_noticed("PUT", ARCHIVE, Lie::DropBody(201), "does not have it");
}

#[test]
fn a_server_that_keeps_half_is_noticed() {
    is_noticed("PUT", ARCHIVE, Lie::HalveBody, "the server took");
}

#[test]
fn a_server_that_changes_a_byte_is_noticed_when_it_is_read_back() {
    is_noticed("PUT", ARCHIVE, Lie::FlipByte, "read back");
}

#[test]
fn a_server_that_tells_every_answer_shorter_is_noticed() {
    is_noticed("GET", ARCHIVE, Lie::HalveAnswer, "read back");
}

#[test]
fn a_server_that_is_overloaded_is_left_for_later() {
    is_noticed("PUT", ARCHIVE, Lie::Answer(503, String::new()), "503 Service Unavailable");
}

#[test]
fn an_upload_whose_answer_is_lost_is_made_again() {
    is_noticed("PUT", ARCHIVE, Lie::LoseAnswer, "the connection broke");
}

#[test]
fn a_rename_that_is_refused_is_no_backup() {
    is_noticed("MOVE", "", Lie::Answer(500, String::new()), "500 Internal Server Error");
}

#[test]
fn a_rename_whose_answer_is_lost_is_known_to_be_done() {
    is_overcome("MOVE", "", Lie::LoseAnswer, 1);
}

#[test]
fn a_rename_that_fails_once_is_made_again() {
    is_overcome("MOVE", "", Lie::Answer(503, String::new()), 1);
}

#[test]
fn answers_that_end_too_early_are_asked_for_again_from_there() {
    is_overcome("GET", ARCHIVE, Lie::CutAnswer, 2);
    is_overcome("GET", ARCHIVE, Lie::HalveAnswer, 1);
}

#[test]
fn listings_that_end_too_early_are_asked_for_again() {
    is_overcome("PROPFIND", "", Lie::CutAnswer, 2);
    is_overcome("PROPFIND", "", Lie::HalveAnswer, 1);
}
