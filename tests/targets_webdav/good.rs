//! What works, from the first backup to a restore on an empty state.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::lying::{Lie, LyingServer};
use crate::peers::webdav::{WebDav, certificates};
use crate::world::invariants::Expect;
use crate::world::{Setup, World, system};
use crate::{check_no_secret, use_webdav};

fn same_tree(a: &Path, b: &Path) {
    system("diff", &["-r", "--no-dereference", a.to_str().unwrap(), b.to_str().unwrap()]);
}

/// The folder of this name below another.
fn find(below: &Path, name: &str) -> PathBuf {
    system("find", &[below.to_str().unwrap(), "-type", "d", "-name", name]).lines().next().unwrap().into()
}

/// Each run has a folder of its own, also within one minute, in folders that go when they are empty.
const LINES: &str = "keep = { last = 2 }\ntemplate = \"{host}/daily/%Y/%m/%d/%H%M%S%3f\"";

/// Everything that is done with a further target.
fn copies_work(world: &World) {
    let out = world.run(&["target", "init", "nas"]).expect(0);
    assert!(out.all().contains("has a sentinel now") && out.all().contains("webdav"), "{}", out.all());
    assert!(world.path("nas/.backup-agent-target.json").exists());
    for _ in 0..3 {
        world.recover();
    }
    // Retention keeps two, and folders of days that are empty go.
    assert_eq!(world.stored("nas").len(), 2);
    let list = world.list();
    let newest = list.iter().find(|copy| copy["target"] == "nas").expect("a copy");
    assert_eq!(newest["status"], "verified");
    let out = world.run(&["verify", "latest", "--target", "nas"]).expect(0);
    assert!(!out.all().contains("corrupt"), "{}", out.all());

    // One file, and everything: restored from there, not from the primary.
    let hidden = world.path("local-hidden");
    fs::rename(world.path("local"), &hidden).unwrap();
    let (one, all) = (world.path("one"), world.path("all"));
    let file = format!("{}/media/photo.bin", world.path("src").strip_prefix("/").unwrap().display());
    let to = one.to_str().unwrap();
    world.run(&["restore", "latest", "--target", "nas", "--path", &file, "--to", to]).expect(0);
    let photo = fs::read(world.path("src/media/photo.bin")).unwrap();
    assert!(fs::read(one.join(&file)).unwrap() == photo);
    world.run(&["restore", "latest", "--target", "nas", "--to", all.to_str().unwrap()]).expect(0);
    same_tree(&world.path("src"), &find(&all, "src"));

    // A state that was lost is found again from the server alone.
    let known = ids(world);
    fs::remove_dir_all(world.path("state")).unwrap();
    let out = world.run(&["target", "scan", "nas", "--adopt"]).expect(0);
    assert!(out.all().contains("2 backups recorded"), "{}", out.all());
    assert!(ids(world).iter().all(|id| known.contains(id)) && ids(world).len() == 2);
    world.run(&["verify", "latest", "--target", "nas"]).expect(0);
    let again = world.path("again");
    world.run(&["restore", "latest", "--to", again.to_str().unwrap()]).expect(0);
    same_tree(&world.path("src"), &find(&again, "src"));
    check_no_secret(world, "");
}

fn ids(world: &World) -> Vec<String> {
    let list = world.list();
    list.iter().filter(|c| c["target"] == "nas").map(|c| c["run_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn copies_to_rclone_are_made_verified_restored_pruned_and_found_again() {
    let world = World::with(Setup { nas: true, nas_lines: LINES, ..Setup::default() });
    let server = WebDav::rclone(&world.path("nas"), None);
    use_webdav(&world, "nas", &format!("http://{}", server.address), "");
    copies_work(&world);
}

#[test]
fn copies_to_apache_over_tls_are_made_verified_restored_pruned_and_found_again() {
    let world = World::with(Setup { nas: true, nas_lines: LINES, ..Setup::default() });
    let (authority, tls) = certificates(world.root(), "DNS:localhost");
    let server = WebDav::apache(&world.path("nas"), Some(&tls));
    let url = format!("https://localhost:{}/", server.address.port());
    use_webdav(&world, "nas", &url, &format!("ca_file = \"{}\"", authority.display()));
    copies_work(&world);
}

#[test]
fn a_folder_of_a_server_is_the_primary_target() {
    let world = World::with(Setup { local: LINES, ..Setup::default() });
    let (authority, tls) = certificates(world.root(), "IP:127.0.0.1");
    let server = WebDav::rclone(&world.path("local"), Some(&tls));
    let url = format!("https://{}", server.address);
    use_webdav(&world, "local", &url, &format!("ca_file = \"{}\"", authority.display()));
    world.run(&["target", "init", "local"]).expect(0);
    for _ in 0..3 {
        world.recover();
    }
    assert_eq!(world.stored("local").len(), 2);
    let out = world.backup();
    world.after(&out, Expect::Success);
    world.run(&["verify", "latest"]).expect(0);
    let empty: Vec<_> = fs::read_dir(world.path("state/scratch")).into_iter().flatten().collect();
    assert!(empty.is_empty(), "{empty:?}");
    check_no_secret(&world, &out.all());
}

#[test]
fn whatever_rclone_reaches_is_a_target_through_its_server() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    let config = format!("[elsewhere]\ntype = alias\nremote = {}\n", world.path("nas").display());
    let server = WebDav::rclone_of("elsewhere:", &config, None);
    use_webdav(&world, "nas", &format!("http://{}", server.address), "");
    world.recover();
    assert_eq!(world.stored("nas").len(), 1);
}

#[test]
fn copies_tell_their_lengths_and_a_first_target_gets_chunks() {
    let world = World::with(Setup { nas: true, ..Setup::default() });
    let (near, far) = (WebDav::rclone(&world.path("local"), None), WebDav::rclone(&world.path("nas"), None));
    let (near, far) = ((LyingServer::before(near.address), near), (LyingServer::before(far.address), far));
    use_webdav(&world, "local", &format!("http://{}", near.0.address), "");
    use_webdav(&world, "nas", &format!("http://{}", far.0.address), "");
    world.recover();
    let archive = |server: &LyingServer| -> String {
        let mut heads = server.heads().into_iter();
        heads.find(|head| head.starts_with("PUT") && head.contains("application.tar.zst")).unwrap()
    };
    let (first, copy) = (archive(&near.0).to_lowercase(), archive(&far.0).to_lowercase());
    assert!(first.contains("transfer-encoding: chunked") && !first.contains("content-length"), "{first}");
    assert!(copy.contains("content-length: ") && !copy.contains("transfer-encoding"), "{copy}");
    assert!(copy.contains("if-none-match: *"), "{copy}");
}

#[test]
fn a_backup_that_comes_into_an_empty_folder_while_it_is_removed_stays() {
    let lines = "keep = { last = 1 }\ntemplate = \"{host}/%Y%m%dT%H%M%S%3f/b\"";
    let world = World::with(Setup { nas: true, nas_lines: lines, ..Setup::default() });
    let server = WebDav::rclone(&world.path("nas"), None);
    let liar = LyingServer::before(server.address);
    use_webdav(&world, "nas", &format!("http://{}", liar.address), "");
    world.recover();
    let old = world.newest("nas").parent().unwrap().to_owned();
    assert!(old.exists());

    // Another host publishes into the folder that is just about to be moved aside.
    let nas = world.path("nas");
    liar.lie(
        "MOVE",
        "testhost/",
        Lie::Before(Arc::new(move |path| {
            if !path.contains("/b/") {
                fs::create_dir(nas.join(path.trim_matches('/')).join("c")).unwrap();
            }
        })),
        u64::MAX,
    );
    world.change();
    world.backup().expect(0);
    let moved: Vec<String> = liar.seen().into_iter().filter(|line| line.starts_with("MOVE")).collect();
    assert!(moved.iter().any(|line| line.contains("/.empty-")), "it was not put back: {moved:?}");
    assert!(old.join("c").exists(), "what came in was removed");
    assert!(!old.join("b").exists());
    let names = fs::read_dir(world.path("nas")).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["testhost"]);
}

#[test]
fn an_empty_folder_that_was_moved_aside_by_a_process_that_died_is_removed_by_a_later_one() {
    let lines = "keep = { last = 1 }\ntemplate = \"{host}/%Y%m%dT%H%M%S%3f/b\"";
    let world = World::with(Setup { nas: true, nas_lines: lines, ..Setup::default() });
    let server = WebDav::rclone(&world.path("nas"), None);
    use_webdav(&world, "nas", &format!("http://{}", server.address), "");
    world.recover();
    world.change();
    let (out, fired) = world.run_at("webdav-aside=kill", &["backup", "web", "--json"]);
    assert!(fired, "{}", out.all());
    let left = world.leftovers();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].file_name().unwrap().to_string_lossy().starts_with(".empty-"), "{left:?}");

    // What is no such folder stays, and so does one with something in it.
    let (others, holds) = (world.path("nas/.empty-by-somebody"), world.path("nas/.empty-0123456789abcdef"));
    fs::create_dir(&others).unwrap();
    fs::create_dir_all(holds.join("b")).unwrap();
    world.change();
    world.backup();
    let mut left = world.leftovers();
    left.sort();
    assert_eq!(left, [holds.clone(), others.clone()]);
    fs::remove_dir_all(holds).unwrap();
    fs::remove_dir(others).unwrap();
    world.recover();
}
