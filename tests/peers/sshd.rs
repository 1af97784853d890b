//! A real sshd from Debian on the loopback, with keys of its own, ended by its process id.

#![allow(dead_code, missing_docs)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::port;

/// The server, the keys of both sides, and a folder for targets.
pub struct Sshd {
    dir: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
    more: String,
}

impl Sshd {
    /// One that offers SFTP to the user of the test.
    pub fn start() -> Self {
        Self::with("Subsystem sftp internal-sftp\n")
    }

    /// One with these lines in its configuration.
    pub fn with(more: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("agent-sshd-").tempdir().unwrap();
        for name in ["hostkey", "id"] {
            keygen(&dir.path().join(name), "ed25519");
        }
        fs::copy(dir.path().join("id.pub"), dir.path().join("authorized_keys")).unwrap();
        // Others than root must be able to read what belongs to them below it.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut sshd = Self { dir, port: 0, child: None, more: more.to_owned() };
        sshd.run();
        sshd
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a folder for a target and gives its path.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Its host key as the configuration wants it.
    pub fn host_key(&self) -> String {
        let text = fs::read_to_string(self.path("hostkey.pub")).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// The lines of a target at the folder `path`, without its `[target.X]`.
    pub fn lines(&self, path: &Path) -> String {
        format!(
            "type = \"sftp\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\npath = \"{}\"\nidentity_file = \"{}\"\nhost_key = \"{}\"\n",
            self.port,
            user(),
            path.display(),
            self.path("id").display(),
            self.host_key()
        )
    }

    /// Starts it, or starts it again on the same port.
    pub fn run(&mut self) {
        let _ = fs::create_dir_all("/run/sshd"); // it refuses to start without
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if self.port == 0 {
                self.port = port::free();
            }
            let text = format!(
                "ListenAddress 127.0.0.1:{}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
                 UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
                 UseDNS no\nMaxStartups 100\n{}",
                self.port,
                self.path("hostkey").display(),
                self.path("authorized_keys").display(),
                self.more
            );
            fs::write(self.path("sshd_config"), text).unwrap();
            let log = fs::File::create(self.path("log")).unwrap();
            // A group of its own, so that the servers of its connections can be ended with it.
            let mut command = Command::new("/usr/sbin/sshd");
            command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config")).stdin(Stdio::null()).stderr(log);
            let mut child =
                std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().unwrap();
            loop {
                if child.try_wait().unwrap().is_some() {
                    break; // somebody else has the port
                }
                if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                    self.child = Some(child);
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(self.path("log")).unwrap());
            self.port = 0;
        }
    }

    /// Ends it, and every connection in the middle of whatever it does.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Each connection leads a session of its own.
        for pid in children(child.id()) {
            signal(pid);
        }
        signal(child.id());
        child.wait().unwrap();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(pid: u32) {
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Every process below another, the deepest first.
fn children(of: u32) -> Vec<u32> {
    let path = format!("/proc/{of}/task/{of}/children");
    let mut found = Vec::new();
    for child in fs::read_to_string(path).unwrap_or_default().split_whitespace() {
        let pid = child.parse().unwrap();
        found.extend(children(pid));
        found.push(pid);
    }
    found
}

/// The user of the test.
pub fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A pair of keys without a passphrase.
pub fn keygen(path: &Path, kind: &str) {
    let done = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "test", "-t", kind, "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(done.success());
}
