//! The real binary, a failing job, and an SMTP server nobody of us wrote (aiosmtpd): the mail of the failure
//! and that of the recovery arrive, once each.

#![cfg(feature = "real-peers")]

#[path = "support/port.rs"]
mod port;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server, ended with the test. Each mail it takes becomes a file in `new` of a maildir.
struct Server {
    child: Child,
    address: SocketAddr,
    maildir: PathBuf,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let address = port::free_address();
        let maildir = folder.join("maildir");
        let child = Command::new("aiosmtpd")
            .args(["-n", "-l", &address.to_string(), "-c", "aiosmtpd.handlers.Mailbox"])
            .arg(&maildir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("aiosmtpd is needed: apt-get install python3-aiosmtpd");
        let server = Self { child, address, maildir };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(90), "aiosmtpd did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// The subjects of all mails taken so far, unfolded, sorted.
    fn subjects(&self) -> Vec<String> {
        let mut subjects: Vec<String> = fs::read_dir(self.maildir.join("new"))
            .into_iter()
            .flatten()
            .map(|entry| subject(&fs::read_to_string(entry.unwrap().path()).unwrap()))
            .collect();
        subjects.sort();
        subjects
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn subject(mail: &str) -> String {
    let mut lines = mail.lines().skip_while(|line| !line.starts_with("Subject: "));
    let mut subject = lines.next().expect("a mail without a subject").to_owned();
    lines.take_while(|line| line.starts_with(' ')).for_each(|line| subject.push_str(line));
    subject
}

fn backup(folder: &Path) -> Option<i32> {
    let agent = env!("CARGO_BIN_EXE_agent");
    let status =
        Command::new(agent).arg("--config").arg(folder.join("config.toml")).arg("backup").output().unwrap();
    status.status.code()
}

#[test]
fn a_failure_and_its_recovery_arrive_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    fs::create_dir(folder.path().join("target")).unwrap();
    let text = r#"
host = "web1"
state_dir = "FOLDER/state"
[target.local]
type = "directory"
path = "FOLDER/target"
[job.web]
targets = ["local"]
[job.web.source.files]
type = "files"
paths = ["FOLDER/source"]
[notify.admin]
type = "email"
smtp = "smtp://ADDRESS"
from = "agent@example.org"
to = ["admin@example.org"]
"#;
    let text = text
        .replace("FOLDER", folder.path().to_str().unwrap())
        .replace("ADDRESS", &server.address.to_string());
    fs::write(folder.path().join("config.toml"), text).unwrap();

    assert_eq!(backup(folder.path()), Some(1));
    assert_eq!(backup(folder.path()), Some(1), "the same failure again");
    let subjects = server.subjects();
    assert_eq!(subjects.len(), 1, "a failure that repeats is told once: {subjects:?}");
    assert!(subjects[0].starts_with("Subject: [backup-failure] web on web1: "), "{subjects:?}");

    fs::create_dir(folder.path().join("source")).unwrap();
    fs::write(folder.path().join("source/a.txt"), "content\n").unwrap();
    assert_eq!(backup(folder.path()), Some(0));
    assert_eq!(backup(folder.path()), Some(0));
    let subjects = server.subjects();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert!(subjects[1].starts_with("Subject: [backup-recovery] web on web1: "), "{subjects:?}");
}
