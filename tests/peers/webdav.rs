//! WebDAV servers of a test's own: rclone's, and Apache with mod_dav.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::port::free_address;

pub const USER: &str = "backup";
/// Looked for wherever the program writes to.
pub const PASSWORD: &str = "canary-dav-7Qz9";

/// A server, ended with this value.
pub struct WebDav {
    child: Child,
    pub address: SocketAddr,
    /// The account it works as, where that is another than the test's.
    account: Option<(u32, u32)>,
    dir: tempfile::TempDir,
}

/// A certificate and its key.
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl WebDav {
    /// `rclone serve webdav` of a folder.
    pub fn rclone(folder: &Path, tls: Option<&Tls>) -> Self {
        Self::rclone_of(&folder.display().to_string(), "", tls)
    }

    /// The same of any remote, with rclone's configuration.
    pub fn rclone_of(remote: &str, config: &str, tls: Option<&Tls>) -> Self {
        let dir = tempfile::Builder::new().prefix("rclone").tempdir_in("/tmp").unwrap();
        fs::write(dir.path().join("rclone.conf"), config).unwrap();
        let address = free_address();
        let mut command = Command::new("rclone");
        command.args(["serve", "webdav", remote, "--addr", &address.to_string()]);
        // What tests do to the folder behind its back is seen at once.
        command.args(["--dir-cache-time", "0s", "--vfs-cache-mode", "off"]);
        command.env("RCLONE_CONFIG", dir.path().join("rclone.conf"));
        command.env("RCLONE_USER", USER).env("RCLONE_PASS", PASSWORD);
        if let Some(tls) = tls {
            command.arg("--cert").arg(&tls.certificate).arg("--key").arg(&tls.key);
        }
        Self::start(command, address, dir, "rclone is needed: install the package rclone")
    }

    /// Apache with mod_dav, which keeps to the letter. As root it changes to www-data, so the folder is made its own.
    pub fn apache(folder: &Path, tls: Option<&Tls>) -> Self {
        let dir = tempfile::Builder::new().prefix("apache").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let address = free_address();
        let at = dir.path().display().to_string();
        let hash = Command::new("openssl").args(["passwd", "-apr1", PASSWORD]).output().unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        fs::write(dir.path().join("users"), format!("{USER}:{hash}")).unwrap();
        fs::create_dir(dir.path().join("locks")).unwrap();
        let account = www_data();
        if let Some((uid, gid)) = account {
            for path in [folder, &dir.path().join("locks")] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
            let mut above = folder.parent();
            while let Some(path) = above.filter(|path| path.parent().is_some()) {
                let mode = fs::metadata(path).unwrap().permissions().mode();
                if mode & 0o001 == 0 {
                    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o011)).unwrap();
                }
                above = path.parent();
            }
        }
        let modules: String =
            ["mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav"]
                .iter()
                .chain(&["dav_fs", "dir", "ssl", "unixd"])
                // Some are built in.
                .filter(|name| Path::new(&format!("/usr/lib/apache2/modules/mod_{name}.so")).exists())
                .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
                .collect();
        let ssl = tls.map_or_else(String::new, |tls| {
            let (certificate, key) = (tls.certificate.display(), tls.key.display());
            format!("SSLEngine on\nSSLCertificateFile {certificate}\nSSLCertificateKeyFile {key}\n")
        });
        let config = format!(
            r#"
ServerRoot "{at}"
ServerName localhost
Listen {address}
PidFile "{at}/pid"
ErrorLog "{at}/error.log"
{modules}
User www-data
Group www-data
DocumentRoot "{folder}"
DavLockDB "{at}/locks/db"
{ssl}
<Directory />
    Require all denied
</Directory>
<Directory "{folder}">
    Dav On
    AuthType Basic
    AuthName backups
    AuthUserFile "{at}/users"
    Require valid-user
</Directory>
"#,
            folder = folder.display(),
        );
        fs::write(dir.path().join("apache.conf"), config).unwrap();
        let mut command = Command::new("apache2");
        command.arg("-f").arg(dir.path().join("apache.conf")).arg("-DFOREGROUND");
        let mut server = Self::start(command, address, dir, "apache2 is needed: install the package apache2");
        server.account = account;
        server
    }

    fn start(mut command: Command, address: SocketAddr, dir: tempfile::TempDir, needed: &str) -> Self {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{needed}: {e}"));
        let mut server = Self { child, address, account: None, dir };
        let until = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(address).is_err() {
            let log = || fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended: {}", log());
            assert!(Instant::now() < until, "the server did not answer: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl WebDav {
    /// Lets the server write into a folder that the test made in its own.
    pub fn give(&self, folder: &Path) {
        if let Some((uid, gid)) = self.account {
            chown(folder, Some(uid), Some(gid)).unwrap();
        }
    }
}

impl Drop for WebDav {
    fn drop(&mut self) {
        // Not by force at first: Apache ends its workers then.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The account of Debian's web servers; none unless root runs the tests.
fn www_data() -> Option<(u32, u32)> {
    let id = |option: &str, account: &[&str]| -> Option<u32> {
        let out = Command::new("id").arg(option).args(account).output().ok()?;
        String::from_utf8_lossy(&out.stdout).trim().parse().ok()
    };
    (id("-u", &[])? == 0).then_some(())?;
    Some((id("-u", &["www-data"])?, id("-g", &["www-data"])?))
}

/// Makes an authority and a certificate for some names with openssl; gives the authority's file and the rest.
pub fn certificates(dir: &Path, names: &str) -> (PathBuf, Tls) {
    let run = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl runs");
        assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let authority = ["req", "-x509", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
    run(&[&authority[..], &curve].concat());
    let extensions = format!("subjectAltName={names}");
    let server = ["req", "-x509", "-subj", "/CN=dav", "-CA", "ca.pem", "-CAkey", "ca.key"];
    let files = ["-keyout", "server.key", "-out", "server.pem", "-addext", &extensions];
    let usage = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"];
    run(&[&server[..], &curve, &files, &usage].concat());
    // Apache reads it as another account does.
    let tls = Tls { certificate: dir.join("server.pem"), key: dir.join("server.key") };
    (dir.join("ca.pem"), tls)
}
