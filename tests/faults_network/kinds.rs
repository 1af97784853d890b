//! The kinds of target that a network can harm.

use std::any::Any;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use crate::peers::sshd::Sshd;
use crate::peers::webdav::{PASSWORD, USER, WebDav};
use crate::world::World;

/// A server's address, and what ends it when it is dropped.
pub type Started = (SocketAddr, Box<dyn Any>);

/// How one kind is started, and configured.
pub struct Kind {
    /// Starts a server that stores in a folder of the world. It ends with what is given.
    pub start: fn(&World, &str) -> Started,
    /// The keys of a target whose server is reached at an address; what it needs is written into the world.
    pub keys: fn(&World, SocketAddr) -> String,
}

pub const WEBDAV: Kind = Kind {
    start: |world, folder| {
        let server = WebDav::rclone(&world.path(folder), None);
        (server.address, Box::new(server))
    },
    keys: |world, address| {
        let password = world.path("password");
        fs::write(&password, PASSWORD).unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        format!(
            "type = \"webdav\"\nurl = \"http://{address}\"\nuser = \"{USER}\"\npassword_file = \"{}\"\ntimeout = \"2s\"",
            password.display()
        )
    },
};

/// The lines of the configuration, with the server's own port, wait in a file of the world.
const LINES: &str = "sftp-lines";

pub const SFTP: Kind = Kind {
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

impl Kind {
    /// Makes a target of the world, `local` or `nas`, one of this kind, reached at an address.
    pub fn use_for(&self, world: &World, target: &str, address: SocketAddr) {
        let directory = format!("type = \"directory\"\npath = \"{}\"", world.path(target).display());
        world.edit_config(&directory, &(self.keys)(world, address));
    }
}
