//! A PostgreSQL server of a test's own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{port, until_it_answers};

/// The operating system's user that PostgreSQL runs as: it refuses root.
pub const USER: &str = "postgres";

/// A server, whose socket lets the user `postgres` in without a password (peer), and whose port asks for one.
pub struct Postgres {
    dir: tempfile::TempDir,
    child: Child,
    pub port: u16,
}

/// The newest folder of PostgreSQL's programs.
pub fn bin() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is needed: install the package postgresql")
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL is needed: install the package postgresql")
}

/// A program as the user `postgres`.
fn as_postgres(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}")).arg("--clear-groups");
    command.arg(program.as_ref()).env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

impl Postgres {
    pub fn start() -> Self {
        // Below /tmp whatever TMPDIR says: another user must get there, and a socket's path is short.
        let dir = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = dir.path().join("home");
        let made = Command::new("install")
            .args(["-d", "-o", USER, "-m", "755"])
            .arg(&home)
            .status()
            .expect("install");
        assert!(made.success(), "these tests run as root, who makes a folder for the user {USER}");
        let data = home.join("data");
        let out = as_postgres(bin().join("initdb"))
            .args([
                "--no-sync",
                "--auth-local=peer",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .arg(format!("--pgdata={}", data.display()))
            .output()
            .expect("setpriv");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let port = port::free();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = as_postgres(bin().join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", &format!("unix_socket_directories={}", home.display())])
            .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=20"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("setpriv");
        let mut server = Self { dir, child, port };
        let mut ask = server.psql("postgres");
        ask.args(["-c", "SELECT 1"]);
        until_it_answers("postgres", &mut server.child, &server.dir.path().join("log"), ask);
        server
    }

    /// The folder of the socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// One of PostgreSQL's programs, logged in as the superuser.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = as_postgres(bin().join(program));
        command.env("PGHOST", self.socket()).env("PGPORT", self.port.to_string());
        command
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = self.tool("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        // Not as an argument: a name with an equals sign would be a connection string.
        command.env("PGDATABASE", database);
        command
    }

    pub fn query(&self, database: &str, sql: &str) -> String {
        let out = self.psql(database).args(["-c", sql]).output().unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs SQL through standard input.
    pub fn load(&self, database: &str, sql: &[u8]) {
        let mut child = self
            .psql(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(sql).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT ends it with its children at once; SIGKILL would leave them behind for a while.
        let _ = Command::new("kill").arg("-QUIT").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
