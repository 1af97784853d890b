//! A MariaDB server of a test's own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{port, until_it_answers};

/// A server of its own, ended with this value.
pub struct MariaDb {
    dir: tempfile::TempDir,
    pub child: Child,
    pub port: u16,
}

impl MariaDb {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let user =
            if fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0) {
                "root".to_owned()
            } else {
                std::env::var("USER").unwrap()
            };
        // A server that starts removes temporary tables it finds in its folder for them: also those of
        // another that starts at the same moment. So each has a folder of its own.
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=socket", "--skip-test-db"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--user={user}"))
            .env("TMPDIR", dir.path())
            .output()
            .expect("mariadb-install-db is needed: install the package mariadb-server");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let port = port::free();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("mariadbd")
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", dir.path().join("socket").display()))
            .arg(format!("--pid-file={}", dir.path().join("pid").display()))
            .arg(format!("--port={port}"))
            .arg(format!("--user={user}"))
            .args(["--bind-address=127.0.0.1", "--event-scheduler=ON", "--innodb-buffer-pool-size=32M"])
            .args(["--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=0"])
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mariadbd is needed: install the package mariadb-server");
        let mut server = Self { dir, child, port };
        let mut ask = server.client();
        ask.args(["-e", "SELECT 1"]);
        until_it_answers("mariadbd", &mut server.child, &server.dir.path().join("log"), ask);
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command.arg("--no-defaults").arg(format!("--socket={}", self.socket().display())).args([
            "--user=root",
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]);
        command
    }

    /// Runs SQL through the client's standard input, as a restore does.
    pub fn load(&self, sql: &[u8]) {
        let mut child =
            self.client().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    pub fn query(&self, sql: &str) -> String {
        let out = self.client().args(["-e", sql]).output().unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
