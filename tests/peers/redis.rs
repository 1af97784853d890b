//! A Redis server of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::port;

/// A server, ended with this value.
pub struct Redis {
    dir: tempfile::TempDir,
    child: Child,
    pub port: u16,
    password: Option<String>,
}

impl Redis {
    /// A server with further options: `--requirepass`, a file to load.
    pub fn start(rdb: Option<&Path>, password: Option<&str>, options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("redis").tempdir_in("/tmp").unwrap();
        if let Some(rdb) = rdb {
            fs::copy(rdb, dir.path().join("dump.rdb")).unwrap();
        }
        let port = port::free();
        // In a file: arguments are in the process list, where tests look for passwords.
        let mut config = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\nunixsocket {dir}/socket\nsave \"\"\nlogfile {dir}/log\n",
            dir = dir.path().display()
        );
        if let Some(password) = password {
            config.push_str(&format!("requirepass \"{password}\"\n"));
        }
        config.push_str(&options.join("\n"));
        fs::write(dir.path().join("redis.conf"), config).unwrap();
        let child = Command::new("redis-server")
            .arg(dir.path().join("redis.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is needed: install the package redis-server");
        let server = Self { dir, child, port, password: password.map(str::to_owned) };
        let until = Instant::now() + Duration::from_secs(120);
        while server.query(&["PING"]) != "PONG" {
            assert!(Instant::now() < until, "redis-server did not answer");
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn query(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(args);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        let out = command.output().expect("redis-cli is needed: install the package redis-tools");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
