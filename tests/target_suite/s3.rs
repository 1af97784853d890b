use backup_agent::target::Target;
use backup_agent::target::remote::s3::S3Settings;
use backup_agent::target::remote::{Settings, target};

use crate::s3_server::S3Server;
use crate::suite;

#[test]
fn a_bucket_is_a_target() {
    let server = S3Server::start();
    for bucket in ["backups", "locked"] {
        suite::conforms(&|name| {
            // The second bucket keeps versions, which nobody must take for objects.
            let settings = S3Settings { prefix: format!("hosts/{name}"), ..server.settings(bucket) };
            Box::new(move || {
                let name = "cloud".parse().unwrap();
                let store = Box::new(S3Server::store(settings.clone()));
                let settings = Settings { name, scratch: None, expected: None, write_only: false };
                target(store, settings) as Box<dyn Target>
            })
        });
    }
}
