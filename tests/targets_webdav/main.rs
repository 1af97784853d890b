//! WebDAV servers as targets, with real ones: rclone's and Apache's.
#![cfg(feature = "real-peers")]

#[path = "../support/fault_proxy.rs"]
mod fault_proxy;
mod good;
#[path = "../support/lying.rs"]
mod lying;
#[path = "../peers/mod.rs"]
mod peers;
mod proxies;
mod refusals;
#[path = "../support/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use peers::webdav::{PASSWORD, USER};
use world::World;

/// Makes a target of the world, `local` or `nas`, one at a WebDAV server, which should serve the folder of that name:
/// so what the world looks at is what the server stores. `lines` are further keys.
fn use_webdav(world: &World, target: &str, url: &str, lines: &str) {
    let password = world.path("password");
    fs::write(&password, PASSWORD).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    world.edit_config(
        &format!("type = \"directory\"\npath = \"{}\"", world.path(target).display()),
        &format!(
            "type = \"webdav\"\nurl = \"{url}\"\nuser = \"{USER}\"\npassword_file = \"{}\"\ntimeout = \"60s\"\n{lines}",
            password.display()
        ),
    );
}

/// The password is nowhere the program writes to.
#[track_caller]
fn check_no_secret(world: &World, said: &str) {
    let plain = format!("{USER}:{PASSWORD}");
    let basic = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &plain);
    let mut all = vec![("what it said".to_owned(), said.as_bytes().to_vec())];
    all.extend(world.mails().into_iter().map(|mail| ("a mail".to_owned(), mail.into_bytes())));
    all.push(("metrics".to_owned(), world.run(&["metrics"]).stdout.into_bytes()));
    let mut folders: Vec<_> = ["state", "local", "nas"].map(|name| world.path(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => all.push((path.display().to_string(), fs::read(&path).unwrap_or_default())),
            }
        }
    }
    for (place, bytes) in all {
        for secret in [PASSWORD, &basic] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "the password is in {place}");
        }
    }
}
