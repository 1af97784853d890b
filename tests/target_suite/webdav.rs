use std::path::Path;

use backup_agent::config::TargetConfig;
use backup_agent::target::{self, Target};

use crate::peers::webdav::{PASSWORD, USER, WebDav};
use crate::suite;

/// Each clause has a folder of its own below the server's.
fn conforms(top: &Path, server: &WebDav, url: &str) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), PASSWORD).unwrap();
    suite::conforms(&|name| {
        std::fs::create_dir(top.join(name)).unwrap();
        server.give(&top.join(name));
        let config = format!(
            "type = \"webdav\"\nurl = \"{url}/{name}\"\nuser = \"{USER}\"\npassword_file = \"{}\"",
            password.path().display()
        );
        let config: TargetConfig = toml::from_str(&config).unwrap();
        Box::new(move || -> Box<dyn Target> {
            target::open(&"dav".parse().unwrap(), &config, None, None).unwrap()
        })
    });
}

#[test]
fn a_folder_of_rclones_webdav_server_is_a_target() {
    let top = tempfile::tempdir().unwrap();
    let server = WebDav::rclone(top.path(), None);
    conforms(top.path(), &server, &format!("http://{}", server.address));
}

#[test]
fn a_folder_of_apaches_webdav_server_is_a_target() {
    let top = tempfile::tempdir().unwrap();
    let server = WebDav::apache(top.path(), None);
    conforms(top.path(), &server, &format!("http://{}", server.address));
}
