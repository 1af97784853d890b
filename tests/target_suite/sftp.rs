//! A folder at an sshd, and one at rclone's SFTP server.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backup_agent::config::TargetConfig;
use backup_agent::target::{self, Target};

use crate::peers::port;
use crate::peers::sshd::{Sshd, keygen};
use crate::suite;

/// Holds a server that serves `folder` against the suite; `lines` describes a target at a path there.
fn conforms(folder: &Path, at: &str, lines: &dyn Fn(&str) -> String) {
    suite::conforms(&|name| {
        std::fs::create_dir(folder.join(name)).unwrap();
        let config: TargetConfig = toml::from_str(&lines(&format!("{at}{name}"))).unwrap();
        Box::new(move || {
            target::open(&"vault".parse().unwrap(), &config, None, None).unwrap() as Box<dyn Target>
        })
    });
}

#[test]
fn a_folder_at_an_sshd_is_a_target() {
    let sshd = Sshd::start();
    let top = sshd.folder("vault");
    conforms(&top, &format!("{}/", top.display()), &|path| sshd.lines(Path::new(path)));
}

/// The program sftp-server, which is what other systems than Debian start.
#[test]
fn a_folder_at_an_sftp_server_of_its_own_is_a_target() {
    let sshd = Sshd::with("Subsystem sftp /usr/lib/openssh/sftp-server\n");
    let top = sshd.folder("vault");
    conforms(&top, &format!("{}/", top.display()), &|path| sshd.lines(Path::new(path)));
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_folder_at_the_sftp_server_of_rclone_is_a_target() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    keygen(&path("id"), "ed25519");
    keygen(&path("hostkey"), "ed25519");
    std::fs::create_dir(path("vault")).unwrap();
    let port = port::free();
    let mut command = Command::new("rclone");
    // Without a cache of folders: each connection has its own, and a second one would not see the first one's files.
    command.args(["serve", "sftp", "--dir-cache-time", "0s", "--vfs-cache-mode", "off", "--user", "backup"]);
    command.arg("--addr").arg(format!("127.0.0.1:{port}"));
    command.arg("--authorized-keys").arg(path("id.pub")).arg("--key").arg(path("hostkey"));
    command.arg(path("vault")).env("HOME", dir.path()).stderr(Stdio::null()).stdout(Stdio::null());
    let _server = Ended(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(120);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "rclone did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    let key = std::fs::read_to_string(path("hostkey.pub")).unwrap();
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let id = path("id").display().to_string();
    conforms(&path("vault"), "/", &|at| {
        format!(
            "type = \"sftp\"\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"backup\"\npath = \"{at}\"\nidentity_file = \"{id}\"\nhost_key = \"{key}\"\n"
        )
    });
}
