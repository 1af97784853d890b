//! Connections that are cut, reset, or stall, whatever is spoken on them.

use std::fs;
use std::time::{Duration, Instant};

use crate::fault_proxy::{FaultProxy, Harm, Way};
use crate::kinds::{JOB, Kind, S3, SFTP, TIMEOUT, WEBDAV};
use crate::world::invariants::Expect;
use crate::world::{Setup, World};

/// Times enough that a fault stays until it is healed.
const ALWAYS: u64 = u64::MAX;
/// What a login and a listing need passes; the archive is three times as long.
const IN_THE_ARCHIVE: u64 = 100_000;
/// The longest time a run may take with a fault, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(180);

/// Each run has a folder of its own, also within one minute.
const LINES: &str = "template = \"{host}/daily/%Y/%m/%d/%H%M%S%3f\"";
fn further_target(kind: &Kind) -> (World, FaultProxy, Box<dyn std::any::Any>) {
    let world = World::with(Setup { nas: true, nas_lines: LINES, job: JOB, ..Setup::default() });
    in_haste(&world);
    let (address, server) = (kind.start)(&world, "nas");
    let proxy = FaultProxy::to(address);
    kind.use_for(&world, "nas", proxy.address);
    world.recover();
    (world, proxy, server)
}

/// Pauses between attempts pass five times as fast: there are as many attempts.
fn in_haste(world: &World) {
    world.env.borrow_mut().push(("BACKUP_AGENT_FAILPOINT_HASTE", "5"));
}

/// Other texts in the configuration.
type Limits = [(&'static str, &'static str)];

/// Does something while the configuration has other limits.
fn with_limits<T>(world: &World, limits: &Limits, something: impl FnOnce() -> T) -> T {
    let path = world.path("config.toml");
    let before = fs::read_to_string(&path).unwrap();
    let hasty = limits.iter().fold(before.clone(), |text, (from, to)| text.replace(from, to));
    fs::write(&path, hasty).unwrap();
    let done = something();
    fs::write(&path, before).unwrap();
    done
}

/// A run with a fault at its further target, and the next attempt without.
fn degrades(world: &World, proxy: &FaultProxy, what: &str, limits: &Limits, fired: impl Fn() -> bool) {
    // Shown when the test fails.
    eprintln!("{what}");
    let before = world.stored("nas").len();
    world.change();
    let begun = Instant::now();
    let out = with_limits(world, limits, || world.backup());
    assert!(begun.elapsed() < LIMIT, "{what}: it took {:?}", begun.elapsed());
    world.after(&out, Expect::Degraded);
    assert!(fired(), "{what}: the fault did not fire\n{}", out.all());
    assert_eq!(world.stored("nas").len(), before, "{what}: something is visible");
    proxy.heal();
    world.catch_up();
    assert_eq!(world.stored("nas").len(), before + 1, "{what}: the copy was not made");
    world.recover();
}

fn harm_in_the_archive_degrades_and_the_next_attempt_works(kind: &Kind) {
    let (world, proxy, _server) = further_target(kind);
    for harm in [Harm::Cut, Harm::Reset, Harm::Stall] {
        proxy.harm(harm, Way::Up, IN_THE_ARCHIVE, ALWAYS);
        degrades(&world, &proxy, &format!("{harm:?} in the archive"), kind.hasty, || proxy.fired() > 0);
    }
}

fn harm_of_each_answer_degrades_and_the_next_attempt_works(kind: &Kind) {
    let (world, proxy, _server) = further_target(kind);
    for harm in [Harm::Cut, Harm::Reset, Harm::Stall] {
        proxy.harm(harm, Way::Down, 10, ALWAYS);
        degrades(&world, &proxy, &format!("{harm:?} of each answer"), kind.hasty, || proxy.fired() > 0);
    }
    let before = proxy.connections();
    proxy.go_away();
    degrades(&world, &proxy, "away", kind.hasty, || proxy.connections() > before);
}

/// A few faults on the way pass unnoticed: what was asked is asked again, and a read goes on where it broke.
fn small_harm_is_overcome(kind: &Kind) {
    let (world, proxy, _server) = further_target(kind);
    for (harm, way, after, times) in [
        (Harm::Reset, Way::Down, 10, 1),
        (Harm::Cut, Way::Down, IN_THE_ARCHIVE, ALWAYS),
        (Harm::Reset, Way::Down, IN_THE_ARCHIVE, 2),
        (Harm::Stall, Way::Down, IN_THE_ARCHIVE, 1),
    ] {
        eprintln!("{harm:?} {way:?} after {after}, {times} times");
        world.change();
        proxy.harm(harm, way, after, times);
        // Given up once, and nothing else is.
        let limits: &Limits = if harm == Harm::Stall { &[(TIMEOUT, "timeout = \"5s\"")] } else { &[] };
        let out = with_limits(&world, limits, || world.backup());
        assert!(proxy.fired() > 0, "the fault did not fire\n{}", out.all());
        proxy.heal();
        world.after(&out, Expect::Success);
    }
}

fn a_restore_goes_on_where_it_broke(kind: &Kind) {
    let (world, proxy, _server) = further_target(kind);
    fs::rename(world.path("local"), world.path("hidden")).unwrap();
    for (harm, way) in [(Harm::Cut, Way::Down), (Harm::Reset, Way::Down)] {
        proxy.harm(harm, way, IN_THE_ARCHIVE, ALWAYS);
        let to = world.path(&format!("restored-{harm:?}"));
        let to_text = to.to_str().unwrap();
        world.run(&["restore", "latest", "--target", "nas", "--to", to_text]).expect(0);
        assert!(proxy.fired() > 1, "it fired {} times", proxy.fired());
        let photo = to.join(world.path("src/media/photo.bin").strip_prefix("/").unwrap());
        assert!(fs::read(photo).unwrap() == fs::read(world.path("src/media/photo.bin")).unwrap());
    }
    // One that cannot go on ends, says so, and leaves nothing that looks whole.
    proxy.harm(Harm::Stall, Way::Down, 10, ALWAYS);
    let begun = Instant::now();
    let to = world.path("restored-not");
    let arguments = ["restore", "latest", "--target", "nas", "--to", to.to_str().unwrap()];
    let out = with_limits(&world, kind.hasty, || world.run(&arguments));
    assert_ne!(out.code, 0, "{}", out.all());
    assert!(begun.elapsed() < LIMIT);
    assert!(proxy.fired() > 0);
}

/// A copy that counts as damaged is told, and retention may remove it.
fn a_server_that_goes_while_it_is_read_is_no_damage(kind: &Kind) {
    let (world, proxy, _server) = further_target(kind);
    let verify = ["verify", "latest", "--target", "nas"];
    world.run(&verify).expect(0);
    let status = || {
        let list = world.list();
        list.iter().find(|copy| copy["target"] == "nas").unwrap()["status"].as_str().unwrap().to_owned()
    };
    let (before, mails) = (status(), world.mails().len());
    proxy.harm(Harm::Leave, Way::Down, IN_THE_ARCHIVE, ALWAYS);
    let out = world.run(&verify);
    assert!(proxy.fired() > 0, "the fault did not fire\n{}", out.all());
    assert_ne!(out.code, 0, "{}", out.all());
    assert!(out.stderr.contains("reading "), "{}", out.all());
    assert_eq!((status(), world.mails().len()), (before, mails), "{}", out.all());
    proxy.heal();
    world.run(&verify).expect(0);
}

fn a_primary_target_fails_the_run(kind: &Kind) {
    let world = World::with(Setup { local: LINES, ..Setup::default() });
    in_haste(&world);
    let (address, _server) = (kind.start)(&world, "local");
    let proxy = FaultProxy::to(address);
    kind.use_for(&world, "local", proxy.address);
    world.recover();
    for harm in [Harm::Cut, Harm::Reset, Harm::Stall] {
        eprintln!("{harm:?}");
        let before = world.stored("local").len();
        world.change();
        proxy.harm(harm, Way::Up, IN_THE_ARCHIVE, ALWAYS);
        let begun = Instant::now();
        let out = with_limits(&world, kind.hasty, || world.backup());
        let fired = proxy.fired();
        assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
        proxy.heal();
        world.after(&out, Expect::Failure);
        assert!(fired > 0, "the fault did not fire\n{}", out.all());
        assert_eq!(world.stored("local").len(), before, "something is visible");
        world.recover();
    }
}

/// A server that says nothing for longer than the copy may stand still: the process that makes it is ended.
fn a_copy_that_stands_still_is_given_up(kind: &Kind) {
    let (world, proxy, _server) = further_target(kind);
    proxy.harm(Harm::Stall, Way::Up, IN_THE_ARCHIVE, ALWAYS);
    let limits = [(TIMEOUT, "timeout = \"2m\""), (JOB, "copy_stall = \"6s\"")];
    degrades(&world, &proxy, "stall", &limits, || proxy.fired() > 0);
}

#[test]
fn webdav_harm_in_the_archive_degrades_and_the_next_attempt_works() {
    harm_in_the_archive_degrades_and_the_next_attempt_works(&WEBDAV);
}

#[test]
fn webdav_harm_of_each_answer_degrades_and_the_next_attempt_works() {
    harm_of_each_answer_degrades_and_the_next_attempt_works(&WEBDAV);
}

#[test]
fn webdav_small_harm_is_overcome() {
    small_harm_is_overcome(&WEBDAV);
}

#[test]
fn webdav_a_restore_goes_on_where_it_broke() {
    a_restore_goes_on_where_it_broke(&WEBDAV);
}

#[test]
fn webdav_a_primary_target_fails_the_run() {
    a_primary_target_fails_the_run(&WEBDAV);
}

#[test]
fn webdav_a_copy_that_stands_still_is_given_up() {
    a_copy_that_stands_still_is_given_up(&WEBDAV);
}

#[test]
fn sftp_harm_in_the_archive_degrades_and_the_next_attempt_works() {
    harm_in_the_archive_degrades_and_the_next_attempt_works(&SFTP);
}

#[test]
fn sftp_harm_of_each_answer_degrades_and_the_next_attempt_works() {
    harm_of_each_answer_degrades_and_the_next_attempt_works(&SFTP);
}

#[test]
fn s3_harm_in_the_archive_degrades_and_the_next_attempt_works() {
    harm_in_the_archive_degrades_and_the_next_attempt_works(&S3);
}

#[test]
fn s3_harm_of_each_answer_degrades_and_the_next_attempt_works() {
    harm_of_each_answer_degrades_and_the_next_attempt_works(&S3);
}

#[test]
fn webdav_a_server_that_goes_while_it_is_read_is_no_damage() {
    a_server_that_goes_while_it_is_read_is_no_damage(&WEBDAV);
}

#[test]
fn sftp_a_server_that_goes_while_it_is_read_is_no_damage() {
    a_server_that_goes_while_it_is_read_is_no_damage(&SFTP);
}

#[test]
fn s3_a_server_that_goes_while_it_is_read_is_no_damage() {
    a_server_that_goes_while_it_is_read_is_no_damage(&S3);
}

#[test]
fn s3_small_harm_is_overcome() {
    small_harm_is_overcome(&S3);
}

#[test]
fn s3_a_restore_goes_on_where_it_broke() {
    a_restore_goes_on_where_it_broke(&S3);
}

#[test]
fn s3_a_primary_target_fails_the_run() {
    a_primary_target_fails_the_run(&S3);
}

#[test]
fn s3_a_copy_that_stands_still_is_given_up() {
    a_copy_that_stands_still_is_given_up(&S3);
}
