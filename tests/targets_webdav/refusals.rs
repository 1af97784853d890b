//! What is refused, with what to do, and without the password.

use std::fs;

use crate::fault_proxy::FaultProxy;
use crate::lying::{Lie, LyingServer};
use crate::peers::webdav::{PASSWORD, WebDav, certificates};
use crate::world::invariants::Expect;
use crate::world::{Setup, World, system};
use crate::{check_no_secret, use_webdav};

/// One backup that is good, and whose copy is refused with all of these words. Nothing is left at the target, and the
/// next attempt works once `mend` did.
fn is_refused(world: &World, words: &[&str], mend: impl FnOnce()) {
    let out = world.backup();
    world.after(&out, Expect::Degraded);
    for word in words {
        assert!(out.all().contains(word), "{word:?} is missing in\n{}", out.all());
    }
    assert!(world.stored("nas").is_empty());
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    check_no_secret(world, &out.all());
    mend();
    world.catch_up();
    assert_eq!(world.stored("nas").len(), 1);
}

fn world() -> World {
    World::with(Setup { nas: true, ..Setup::default() })
}

#[test]
fn a_wrong_password_is_told_at_once() {
    let world = world();
    let server = WebDav::apache(&world.path("nas"), None);
    use_webdav(&world, "nas", &format!("http://{}", server.address), "");
    fs::write(world.path("password"), "wrong-canary\n").unwrap();
    let begun = std::time::Instant::now();
    is_refused(&world, &["401 Unauthorized", "check the login and the password"], || {
        fs::write(world.path("password"), PASSWORD).unwrap();
    });
    assert!(begun.elapsed().as_secs() < 120);
}

#[test]
fn an_unknown_authority_is_refused_until_it_is_named() {
    let world = world();
    let (authority, tls) = certificates(world.root(), "IP:127.0.0.1");
    let server = WebDav::rclone(&world.path("nas"), Some(&tls));
    use_webdav(&world, "nas", &format!("https://{}", server.address), "");
    is_refused(&world, &["an authority this machine does not know", "`ca_file`"], || {
        let line = format!("timeout = \"60s\"\nca_file = \"{}\"", authority.display());
        world.edit_config("timeout = \"60s\"", &line);
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let world = world();
    let (authority, tls) = certificates(world.root(), "IP:127.0.0.1");
    let server = WebDav::rclone(&world.path("nas"), Some(&tls));
    let other = FaultProxy::between([127, 0, 0, 2].into(), server.address);
    let (wrong, right) = (format!("https://{}", other.address), format!("https://{}", server.address));
    use_webdav(&world, "nas", &wrong, &format!("ca_file = \"{}\"", authority.display()));
    is_refused(&world, &["made for another host name"], || world.edit_config(&wrong, &right));
    assert!(other.connections() > 0);
}

#[test]
fn a_folder_that_is_not_there_is_not_made() {
    let world = world();
    let server = WebDav::rclone(&world.path("nas"), None);
    let wrong = format!("http://{}/web1", server.address);
    use_webdav(&world, "nas", &wrong, "");
    is_refused(&world, &["there is no folder", "/web1"], || {
        assert!(!world.path("nas/web1").exists());
        world.edit_config(&wrong, &format!("http://{}", server.address));
    });
}

#[test]
fn a_full_server_is_told_and_what_was_begun_is_removed() {
    let world = world();
    let nas = world.path("nas");
    system("mount", &["-t", "tmpfs", "-o", "size=200k", "tmpfs", nas.to_str().unwrap()]);
    let _mounted = Mounted(nas.clone());
    let server = WebDav::apache(&nas, None);
    use_webdav(&world, "nas", &format!("http://{}", server.address), "");
    is_refused(&world, &["507", "make room"], || {
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        system("mount", &["-o", "remount,size=50m", nas.to_str().unwrap()]);
    });
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_redirect_to_another_host_takes_no_password_along() {
    let world = world();
    let server = WebDav::rclone(&world.path("nas"), None);
    let liar = LyingServer::before(server.address);
    let elsewhere = LyingServer::before(server.address);
    use_webdav(&world, "nas", &format!("http://{}", liar.address), "");
    let to = format!("Location: http://{}/dav/?token=hidden\r\n", elsewhere.address);
    liar.lie("PROPFIND", "", Lie::Answer(302, to), 1);
    let shown = format!("302 Found to http://{}/dav/", elsewhere.address);
    is_refused(&world, &[&shown, "would take the password along"], || {});
    assert_eq!(liar.fired(), 1);
    assert!(elsewhere.heads().is_empty(), "{:?}", elsewhere.heads());
}

#[test]
fn a_web_page_is_no_webdav_server() {
    let world = world();
    let server = WebDav::rclone(&world.path("nas"), None);
    let liar = LyingServer::before(server.address);
    use_webdav(&world, "nas", &format!("http://{}", liar.address), "");
    liar.lie("PROPFIND", "", Lie::Answer(405, String::new()), 1);
    is_refused(&world, &["no WebDAV is served there"], || {});
    assert_eq!(liar.fired(), 1);
}

#[test]
fn a_server_without_ranges_still_gives_single_files() {
    let world = world();
    let server = WebDav::rclone(&world.path("nas"), None);
    let liar = LyingServer::before(server.address);
    use_webdav(&world, "nas", &format!("http://{}", liar.address), "");
    liar.lie("GET", "", Lie::WithoutHeader("range"), u64::MAX);
    world.recover();
    let file = format!("{}/media/photo.bin", world.path("src").strip_prefix("/").unwrap().display());
    let to = world.path("one");
    let to_text = to.to_str().unwrap();
    world.run(&["restore", "latest", "--target", "nas", "--path", &file, "--to", to_text]).expect(0);
    assert!(fs::read(to.join(&file)).unwrap() == fs::read(world.path("src/media/photo.bin")).unwrap());
    let ranges = liar.heads().iter().filter(|head| head.to_lowercase().contains("\r\nrange: ")).count();
    assert!(ranges > 0, "no range was asked for");
}
