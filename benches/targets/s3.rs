//! An S3 server of this machine, which keeps objects as files.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Peer;

const KEY: &str = "AKIAEXAMPLE";
const SECRET: &str = "local-secret-of-a-benchmark";

pub struct S3Peer {
    child: Child,
    port: u16,
    secret: PathBuf,
}

pub fn start(dir: &Path) -> Result<S3Peer> {
    let root = dir.join("s3");
    fs::create_dir_all(root.join("bench"))?;
    let secret = dir.join("secret");
    fs::write(&secret, SECRET)?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("s3s-fs")
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--access-key", KEY, "--secret-key", SECRET])
        .arg(&root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context(
            "starting s3s-fs; install it with: cargo install s3s-fs --version 0.14.1 --features binary",
        )?;
    let peer = S3Peer { child, port, secret };
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(10), "s3s-fs does not listen on port {port}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(peer)
}

impl Peer for S3Peer {
    fn name(&self) -> String {
        "S3 (s3s-fs)".to_owned()
    }

    fn table(&self) -> String {
        format!(
            "[target.away]\ntype = \"s3\"\nbucket = \"bench\"\nendpoint = \"http://127.0.0.1:{}\"\n\
             access_key_id = \"{KEY}\"\nsecret_access_key_file = \"{}\"\n",
            self.port,
            self.secret.display()
        )
    }

    fn rclone(&self, file: &Path, folder: &str) -> Command {
        let mut command = Command::new("rclone");
        // Named by the environment, so that nobody's configuration is read.
        command
            // rclone of Debian 12 ends at once where this is set.
            .env_remove("AWS_CA_BUNDLE")
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_CONFIG_AWAY_TYPE", "s3")
            .env("RCLONE_CONFIG_AWAY_PROVIDER", "Other")
            .env("RCLONE_CONFIG_AWAY_ENDPOINT", format!("http://127.0.0.1:{}", self.port))
            .env("RCLONE_CONFIG_AWAY_ACCESS_KEY_ID", KEY)
            .env("RCLONE_CONFIG_AWAY_SECRET_ACCESS_KEY", SECRET)
            .args(["copy", "--s3-no-check-bucket"])
            .arg(file)
            .arg(format!("away:bench/{folder}"));
        command
    }
}

impl Drop for S3Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
