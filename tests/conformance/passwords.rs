//! Looks for a password everywhere it might be seen.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::world::{Out, World};

/// Must be seen nowhere.
pub const CANARY: &str = "canary-7f3a-passw0rd";

/// Looks for the canary in the arguments of every process, and in the environments of those that should not
/// have it there, until told to stop. Gives how many processes it saw that dump something.
pub fn watch_processes(stop: &AtomicBool) -> usize {
    let mut dumps = 0;
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&read("cmdline")).into_owned();
            assert!(!arguments.contains(CANARY), "in a process list: {arguments}");
            let dump = ["mariadb-dump", "pg_dump", "pg_restore"].iter().any(|name| arguments.contains(name));
            if dump {
                dumps += 1;
                assert!(
                    !String::from_utf8_lossy(&read("environ")).contains(CANARY),
                    "in an environment: {arguments}"
                );
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    dumps
}

/// Looks for the canary in everything a run said and left behind, but for the dumps themselves: a dump of
/// accounts holds digests of passwords, and no password.
#[track_caller]
pub fn nowhere(world: &World, out: &Out) {
    let show = world.run(&["show", out.run_id().as_deref().unwrap_or("latest"), "--log"]);
    let mut texts =
        vec![out.all(), show.all(), world.run(&["metrics"]).all(), world.run(&["config", "show"]).all()];
    texts.extend(world.mails());
    for text in texts {
        assert!(!text.contains(CANARY), "a password is shown: {text}");
    }
    let mut folders = vec![world.path("state"), world.path("local")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
                assert!(!found, "{} holds a password", path.display());
            }
        }
    }
}
