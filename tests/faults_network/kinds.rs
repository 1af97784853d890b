//! The kinds of target that a network can harm.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use backup_agent::target::remote::Store as _;
use backup_agent::target::remote::s3::{S3Settings, S3Store};

use crate::peers::sshd::Sshd;
use crate::peers::webdav::{PASSWORD, USER, WebDav};
use crate::s3::S3Server;
use crate::world::World;

/// A server's address, and what ends it when it is dropped.
pub type Started = (SocketAddr, Box<dyn Any>);

/// How one kind is started, and configured.
pub struct Kind {
    /// What stands in the configuration, and what to write instead when a server is to be given up soon: what must
    /// work has time on any machine.
    pub hasty: &'static [(&'static str, &'static str)],
    /// Starts a server that stores in a folder of the world. It ends with what is given.
    pub start: fn(&World, &str) -> Started,
    /// The keys of a target whose server is reached at an address; what it needs is written into the world.
    pub keys: fn(&World, SocketAddr) -> String,
}

/// The line of every job here.
pub const JOB: &str = "copy_stall = \"90s\"";
/// The line of a target's table.
pub const TIMEOUT: &str = "timeout = \"20s\"";

pub const WEBDAV: Kind = Kind {
    hasty: &[(JOB, "copy_stall = \"20s\""), (TIMEOUT, "timeout = \"2s\"")],
    start: |world, folder| {
        let server = WebDav::rclone(&world.path(folder), None);
        (server.address, Box::new(server))
    },
    keys: |world, address| {
        let password = world.path("password");
        fs::write(&password, PASSWORD).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        format!(
            "type = \"webdav\"\nurl = \"http://{address}\"\nuser = \"{USER}\"\npassword_file = \"{}\"\n{TIMEOUT}",
            password.display()
        )
    },
};

/// The lines of the configuration, with the server's own port, wait in a file of the world.
const LINES: &str = "sftp-lines";

pub const SFTP: Kind = Kind {
    // There is no other limit of a server's silence that is short. A login must have its time on a busy machine.
    hasty: &[(JOB, "copy_stall = \"12s\"")],
    start: |world, folder| {
        let server = Sshd::start();
        fs::write(world.path(LINES), server.lines(&world.path(folder))).unwrap();
        (SocketAddr::from(([127, 0, 0, 1], server.port)), Box::new(server))
    },
    keys: |world, address| {
        let lines = fs::read_to_string(world.path(LINES)).unwrap();
        let at = |line: &str| match line.starts_with("port = ") {
            true => format!("port = {}\n", address.port()),
            false => format!("{line}\n"),
        };
        lines.lines().map(at).collect()
    },
};

/// The lines of the configuration, with the server's own address, wait in a file of the world.
const S3_LINES: &str = "s3-lines";

pub const S3: Kind = Kind {
    hasty: &[(JOB, "copy_stall = \"6s\""), (TIMEOUT, "timeout = \"2s\"")],
    start: |world, folder| {
        let server = S3Server::start();
        let table = server.table("nas", "admin", "backups", world.root(), TIMEOUT);
        let lines = table.trim().strip_prefix("[target.nas]").unwrap().trim();
        fs::write(world.path(S3_LINES), lines).unwrap();
        let store =
            S3Server::store(S3Settings { prefix: "hosts/all".to_owned(), ..server.settings("backups") });
        let folder = world.path(folder);
        *world.mirror.borrow_mut() = Some(Box::new(move || mirror(&store, &folder)));
        let address = server.endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        (address, Box::new(server))
    },
    keys: |world, address| {
        let lines = fs::read_to_string(world.path(S3_LINES)).unwrap();
        let at = |line: &str| match line.starts_with("endpoint = ") {
            true => format!("endpoint = \"http://{address}\"\n"),
            false => format!("{line}\n"),
        };
        lines.lines().map(at).collect()
    },
};

/// Lets a folder hold what a bucket holds. An object is never written over by another of its length.
fn mirror(store: &S3Store, folder: &Path) {
    let mut found = BTreeSet::new();
    let mut below = vec![String::new()];
    while let Some(key) = below.pop() {
        for entry in store.list(&key).unwrap() {
            let key = if key.is_empty() { entry.name } else { format!("{key}/{}", entry.name) };
            let Some(length) = entry.length else {
                below.push(key);
                continue;
            };
            let path = folder.join(&key);
            if fs::metadata(&path).ok().is_none_or(|meta| meta.len() != length) {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let mut bytes = Vec::new();
                store.open(&key).unwrap().unwrap().stream(0).unwrap().read_to_end(&mut bytes).unwrap();
                fs::write(&path, bytes).unwrap();
            }
            found.insert(path);
        }
    }
    remove_others(folder, &found);
}

fn remove_others(folder: &Path, keep: &BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            remove_others(&path, keep);
            let _ = fs::remove_dir(&path); // one that is not empty stays
        } else if !keep.contains(&path) {
            fs::remove_file(path).unwrap();
        }
    }
}

impl Kind {
    /// Makes a target of the world, `local` or `nas`, one of this kind, reached at an address.
    pub fn use_for(&self, world: &World, target: &str, address: SocketAddr) {
        let directory = format!("type = \"directory\"\npath = \"{}\"", world.path(target).display());
        world.edit_config(&directory, &(self.keys)(world, address));
    }
}
