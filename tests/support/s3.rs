//! A real S3 server: moto, with what stands around it in `tests/s3/server.py`. It checks signatures, the policies
//! of its users, digests, the region and the clock.

#![allow(dead_code, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use backup_agent::model::Secret;
use backup_agent::target::remote::s3::{S3Settings, S3Store};
use serde_json::Value;

/// The region of its buckets.
pub const REGION: &str = "eu-central-1";

pub struct S3Server {
    child: Child,
    folder: tempfile::TempDir,
    pub endpoint: String,
    keys: Value,
}

impl S3Server {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// With TLS when given a certificate and its key.
    pub fn start_with(tls: Option<(&Path, &Path)>) -> Self {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("moto/bin/python");
        assert!(
            python.exists(),
            "{} is missing: .ci/test makes it (python3 -m venv, then pip install -r tests/s3/requirements.txt)",
            python.display()
        );
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3/server.py");
        let mut command = Command::new(python);
        command.arg(script).arg(folder.path());
        if let Some((certificate, key)) = tls {
            command.arg(certificate).arg(key);
        }
        // It asks its own server; a proxy of the machine has no place between them.
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no server: {}", log()));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", ready["port"]);
        Self { child, folder, endpoint, keys: ready["keys"].clone() }
    }

    /// Name and secret of a user's key.
    pub fn key(&self, user: &str) -> (String, String) {
        let text = |at: usize| self.keys[user][at].as_str().unwrap().to_owned();
        (text(0), text(1))
    }

    /// What it does otherwise than usual from now on; see `server.py`.
    pub fn options(&self, options: &Value) {
        let path = self.folder.path().join("options.json");
        fs::write(path.with_extension("new"), options.to_string()).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// Every request since the beginning, or since the last call of [`S3Server::forget`].
    pub fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("requests.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn forget(&self) {
        let _ = fs::remove_file(self.folder.path().join("requests.jsonl"));
    }

    /// Bytes of objects it gave.
    pub fn given(&self) -> u64 {
        let objects = self.requests().into_iter().filter(|r| r["method"] == "GET" && !r["range"].is_null());
        objects.map(|r| r["out"].as_u64().unwrap()).sum()
    }

    /// A table of the configuration; the secret goes into a file in `folder`.
    pub fn table(&self, name: &str, user: &str, bucket: &str, folder: &Path, lines: &str) -> String {
        let (id, secret) = self.key(user);
        let file = secret_file(folder, user, &secret);
        format!(
            r#"
[target.{name}]
type = "s3"
bucket = "{bucket}"
endpoint = "{}"
region = "{REGION}"
prefix = "hosts/all"
access_key_id = "{id}"
secret_access_key_file = "{}"
{lines}
"#,
            self.endpoint,
            file.display()
        )
    }

    /// The same as the library has it.
    pub fn settings(&self, bucket: &str) -> S3Settings {
        let (id, secret) = self.key("admin");
        S3Settings {
            endpoint: Some(self.endpoint.clone()),
            region: REGION.to_owned(),
            ..S3Settings::new(bucket, &id, Secret::new(secret))
        }
    }

    pub fn store(settings: S3Settings) -> S3Store {
        let _ = rustls::crypto::ring::default_provider().install_default();
        S3Store::new(settings).unwrap()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Its input ends, and with it the server; the process is this test's own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file only its owner reads.
pub fn secret_file(folder: &Path, name: &str, secret: &str) -> PathBuf {
    let path = folder.join(format!("secret-{name}"));
    fs::write(&path, format!("{secret}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
