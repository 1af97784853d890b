//! An sshd of this machine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Peer;

pub struct SftpPeer {
    child: Child,
    port: u16,
    dir: PathBuf,
    user: String,
}

pub fn start(dir: &Path) -> Result<SftpPeer> {
    let dir = dir.join("sftp");
    fs::create_dir_all(dir.join("vault"))?;
    fs::create_dir_all("/run/sshd").context("sshd needs the folder /run/sshd; make it as root")?;
    for name in ["id", "hostkey"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(dir.join(name));
        ensure!(keygen.status().context("starting ssh-keygen")?.success(), "ssh-keygen failed");
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {0}/hostkey\nPidFile none\nAuthorizedKeysFile {0}/id.pub\n\
         StrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
        dir.display()
    );
    fs::write(dir.join("sshd_config"), text)?;
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stderr(Stdio::null())
        .spawn()
        .context("starting sshd; install the package openssh-server")?;
    let user = String::from_utf8(Command::new("id").arg("-un").output()?.stdout)?.trim().to_owned();
    let peer = SftpPeer { child, port, dir, user };
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(10), "sshd does not listen on port {port}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(peer)
}

impl SftpPeer {
    fn host_key(&self) -> String {
        let text = fs::read_to_string(self.dir.join("hostkey.pub")).unwrap_or_default();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }
}

impl Peer for SftpPeer {
    fn name(&self) -> String {
        "SFTP (sshd)".to_owned()
    }

    fn table(&self) -> String {
        format!(
            "[target.away]\ntype = \"sftp\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\n\
             path = \"{2}/vault\"\nidentity_file = \"{2}/id\"\nhost_key = \"{3}\"\n",
            self.port,
            self.user,
            self.dir.display(),
            self.host_key()
        )
    }

    fn rclone(&self, file: &Path, folder: &str) -> Command {
        let mut command = Command::new("rclone");
        // Named by the environment, so that nobody's configuration is read. Without the digest rclone asks a shell
        // of the server for afterwards: the agent reads back in a step of its own.
        command
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_CONFIG_AWAY_TYPE", "sftp")
            .env("RCLONE_CONFIG_AWAY_HOST", "127.0.0.1")
            .env("RCLONE_CONFIG_AWAY_PORT", self.port.to_string())
            .env("RCLONE_CONFIG_AWAY_USER", &self.user)
            .env("RCLONE_CONFIG_AWAY_KEY_FILE", self.dir.join("id"))
            .args(["copy", "--ignore-checksum", "--sftp-disable-hashcheck"])
            .arg(file)
            .arg(format!("away:{}", self.dir.join("vault").join(folder).display()));
        command
    }
}

impl Drop for SftpPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
