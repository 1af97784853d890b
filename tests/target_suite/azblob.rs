//! Azure Blob Storage, as its emulator speaks it.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backup_agent::config::load_text;
use backup_agent::model::TargetName;
use backup_agent::target;

use crate::peers::port;
use crate::suite::{self, Opener};

/// The account every Azurite has, and its published key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// An emulator, ended when it is dropped.
struct Emulator(Child);

impl Emulator {
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let emulator = Self(child.unwrap_or_else(|e| panic!("{command:?}: {e}; .ci/test installs it")));
        let end = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{command:?} does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the test command put what the tests need.
fn beside_build(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(name)
}

/// Opens the target `[target.away]` of a configuration.
fn opener(toml: String) -> Opener {
    let _ = rustls::crypto::ring::default_provider().install_default(); // as the program does at its start
    let name: TargetName = "away".parse().unwrap();
    let config = load_text(&toml, &[]).unwrap_or_else(|e| panic!("{e}\n{toml}")).config.target[&name].clone();
    Box::new(move || target::open(&name, &config, None, None).unwrap())
}

#[test]
fn a_container_of_azure_blob_storage_is_a_target() {
    let folder = tempfile::tempdir().unwrap();
    let port = port::free();
    let program = beside_build("azurite").join("node_modules/.bin/azurite-blob");
    let _azurite = Emulator::start(
        Command::new(program)
            .args(["--silent", "--skipApiVersionCheck", "--inMemoryPersistence"])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .current_dir(folder.path()),
        port,
    );
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, KEY).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    make_container(port, "backups");
    suite::conforms(&|name| {
        opener(format!(
            "[target.away]\ntype = \"azblob\"\ncontainer = \"backups\"\naccount_name = \"{ACCOUNT}\"\n\
             account_key_file = {key_file:?}\nendpoint = \"http://127.0.0.1:{port}/{ACCOUNT}\"\nprefix = \"{name}\"\n"
        ))
    });
}

/// Makes a container by a request that is signed with the key of the account, by Python.
fn make_container(port: u16, name: &str) {
    let script = r#"
import base64, datetime, hashlib, hmac, sys, urllib.request
account, key, port, name = sys.argv[1:]
date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
version = "2021-12-02"
resource = f"/{account}/{account}/{name}\nrestype:container"
to_sign = "PUT\n\n\n\n\n\n\n\n\n\n\n\n" + f"x-ms-date:{date}\nx-ms-version:{version}\n" + resource
signature = base64.b64encode(hmac.new(base64.b64decode(key), to_sign.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f"http://127.0.0.1:{port}/{account}/{name}?restype=container", method="PUT", data=b"")
for header, value in {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {account}:{signature}"}.items():
    request.add_header(header, value)
request.add_header("Content-Length", "0")
request.add_unredirected_header("Content-type", "")
urllib.request.urlopen(request).read()
"#;
    let out =
        Command::new("python3").args(["-c", script, ACCOUNT, KEY, &port.to_string(), name]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
