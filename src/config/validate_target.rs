//! Rules about targets.

use std::collections::BTreeMap;

use base64::Engine as _;

use super::types::*;
use super::validate::Rules;
use crate::model::TargetName;

/// Less than this a second stands still as far as anybody can tell.
const LEAST_BANDWIDTH: u64 = 64_000;

impl Rules<'_> {
    /// Checks all targets, alone and beside one another.
    pub(super) fn targets(&mut self) {
        let config = self.config;
        let mut by_address: BTreeMap<String, &TargetName> = BTreeMap::new();
        for (name, target) in &config.target {
            // Not `canonicalize`: a check must not touch a NAS that hangs.
            let address = target.address("").trim_end_matches('/').to_owned();
            if let Some(other) = by_address.insert(address, name) {
                let (key, what) = match target.place {
                    Place::Directory(_) => ("path", "path; one folder"),
                    Place::Sftp(_) => ("path", "folder; one folder"),
                    Place::Azblob(_) => ("container", "container and prefix; one place"),
                    Place::S3(_) => ("bucket", "bucket and prefix; one place"),
                    Place::Webdav(_) => ("url", "address; one folder"),
                };
                self.say(
                    &["target", name.as_str(), key],
                    format!("[target.{other}] has the same {what} can be one target only"),
                );
            }
            self.place(name.as_str(), &target.place);
            self.write_only(name, target);
            if target.import_only
                && let Some((job, _)) = config.job.iter().find(|(_, job)| job.targets.contains(name))
            {
                self.say(
                    &["target", name.as_str(), "import_only"],
                    format!("the job {job} stores backups here: give it another target, or leave `import_only` out"),
                );
            }
            self.object_lock(name.as_str(), target);
            if let Some(problem) = target.keep.as_ref().and_then(Keep::problem) {
                self.say(&["target", name.as_str(), "keep"], problem);
            }
            self.verify(name.as_str(), &target.verify);
            if target.bandwidth_limit.is_some_and(|limit| limit.0 < LEAST_BANDWIDTH) {
                self.say(
                    &["target", name.as_str(), "bandwidth_limit"],
                    "this is less than 64 KB a second, at which hardly a backup ever ends; leave `bandwidth_limit` out for no limit",
                );
            }
            let jobs: Vec<&str> = config
                .job
                .iter()
                .filter(|(_, job)| job.targets.contains(name))
                .map(|(job, _)| job.as_str())
                .collect();
            if jobs.len() > 1 && !target.template.contains("{job}") {
                let message = format!(
                    "the jobs {} share this target, so `template` must contain {{job}}, such as \"{{job}}/{}\"",
                    jobs.join(", "),
                    target.template
                );
                self.say(&["target", name.as_str(), "template"], message);
            }
        }
    }

    /// Where nothing can be read or removed, nothing must be asked for that needs it.
    fn write_only(&mut self, name: &TargetName, target: &TargetConfig) {
        if !target.write_only() {
            return;
        }
        let key = ["target", name.as_str(), "write_only"];
        if target.keep.is_some() {
            self.say(
                &["target", name.as_str(), "keep"],
                "nothing can be removed where `write_only` is set; run `agent prune` from a host whose credentials may remove",
            );
        }
        let drilled =
            |job: &JobConfig| job.drill.as_ref().and_then(|drill| drill.target.as_ref()) == Some(name);
        for (job, _) in self.config.job.iter().filter(|(_, job)| drilled(job)) {
            self.say(
                &["job", job.as_str(), "drill", "target"],
                format!("[target.{name}] is `write_only`: nothing can be restored from it"),
            );
        }
        let primary = self.config.job.iter().find(|(_, job)| job.targets.first() == Some(name));
        if let Some((job, _)) = primary {
            self.say(
                &key,
                format!(
                    "it is the first target of the job {job}: a backup is read back there before it counts; make another target the first"
                ),
            );
        }
    }

    /// A lock needs to know how long it lasts.
    fn object_lock(&mut self, name: &str, target: &TargetConfig) {
        let Place::S3(s3) = &target.place else { return };
        let key = ["target", name, "lock_for"];
        match (s3.object_lock, s3.lock_for) {
            (None, Some(_)) => self.say(&key, "this has no effect without `object_lock`"),
            (Some(_), Some(period)) if period.is_zero() => {
                self.say(&key, "objects must be locked for some time, such as \"14days\"");
            }
            (Some(_), None) if target.lock_period().is_none() => self.say(
                &["target", name, "object_lock"],
                "nothing says how long objects are locked: give `lock_for`, or a `keep` with `daily` or `within`",
            ),
            _ => {}
        }
    }

    /// Checks what belongs to one kind.
    fn place(&mut self, name: &str, place: &Place) {
        let key = |last: &'static str| ["target", name, last];
        match place {
            Place::Directory(directory) => {
                if directory.path.parent().is_none() {
                    self.say(&key("path"), "a target cannot be the root folder; name a folder of its own");
                }
            }
            Place::Sftp(sftp) => {
                // What begins with a dash would be taken for an option by the SSH client.
                let bad = |text: &str| {
                    text.is_empty()
                        || text.starts_with('-')
                        || text.contains(|c: char| c.is_whitespace() || c.is_control())
                };
                if bad(&sftp.host) || sftp.host.contains(['/', '@']) {
                    self.say(
                        &key("host"),
                        "this is no host name; the login name belongs into `user`, the port into `port`",
                    );
                }
                if sftp.user.as_deref().is_some_and(bad) {
                    self.say(&key("user"), "this is no login name");
                }
                if sftp.path.is_empty() || sftp.path.contains(|c: char| c.is_control()) {
                    self.say(
                        &key("path"),
                        "name a folder on the other machine, such as \"/srv/backups/web1\"",
                    );
                }
                if let Some(Err(why)) = sftp.host_key.as_deref().map(check_host_key) {
                    self.say(
                        &key("host_key"),
                        format!("{why}; `agent target host-key {name}` prints the line"),
                    );
                }
                for (last, file) in [
                    ("identity_file", &sftp.identity_file),
                    ("known_hosts_file", &sftp.known_hosts_file),
                    ("ssh_config_file", &sftp.ssh_config_file),
                ] {
                    let text = file.as_ref().map(|file| file.to_string_lossy());
                    if text.is_some_and(|text| text.contains(|c: char| c == '"' || c.is_control())) {
                        self.say(&key(last), "the SSH client cannot be given a path with quotes in it");
                    }
                }
                if sftp.host_key.is_some() && sftp.known_hosts_file.is_some() {
                    self.say(
                        &key("host_key"),
                        "either `host_key` or `known_hosts_file` says which key is accepted, not both",
                    );
                }
            }
            Place::S3(s3) => {
                self.not_zero(&key("timeout"), s3.http.timeout);
                self.bucket(&key("bucket"), &s3.bucket, &key("prefix"), &s3.prefix);
                let endpoint = s3.endpoint.as_deref().map(reqwest::Url::parse);
                if let Some(Ok(url)) = endpoint
                    && (!url.username().is_empty() || url.query().is_some())
                {
                    self.say(
                        &key("endpoint"),
                        "an endpoint is an address such as https://s3.example.org only",
                    );
                }
                if s3.secret_access_key_file.is_none() && s3.secret_access_key.is_none() {
                    self.say(
                        &key("secret_access_key_file"),
                        format!(
                            "[target.{name}] needs the secret of its access key: name a file that holds it"
                        ),
                    );
                }
            }
            Place::Azblob(azblob) => {
                self.built_with(name, "azblob", cfg!(feature = "azblob"));
                self.bucket(&key("container"), &azblob.container, &key("prefix"), &azblob.prefix);
                if azblob.account_key_file.is_none() && azblob.account_key.is_none() {
                    self.say(
                        &key("account_key_file"),
                        format!("[target.{name}] needs a key of the account: name a file that holds it"),
                    );
                }
            }
            Place::Webdav(webdav) => {
                let has_password = webdav.password_file.is_some() || webdav.password.is_some();
                if webdav.user.is_some() != has_password {
                    self.say(&key("user"), "`user` and `password_file` belong together");
                }
                self.not_zero(&key("timeout"), webdav.http.timeout);
                if let Ok(url) = reqwest::Url::parse(&webdav.url) {
                    if !url.username().is_empty() || url.password().is_some() {
                        self.say(
                            &key("url"),
                            "a login does not belong in the address; use `user` and `password_file`",
                        );
                    }
                    if url.query().is_some() || url.fragment().is_some() {
                        self.say(
                            &key("url"),
                            "this is the address of a folder: nothing may stand after the path",
                        );
                    }
                }
            }
        }
    }
}

/// Looks whether `text` is a host key as in known_hosts without the name; a comment may follow. The error says what
/// is wrong.
pub fn check_host_key(text: &str) -> Result<(), String> {
    let mut words = text.split_whitespace();
    let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
        return Err("this is no host key: it has a type and a key, such as `ssh-ed25519 AAAA…`".to_owned());
    };
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"];
    if !known.iter().any(|prefix| kind.starts_with(prefix)) || text.contains(char::is_control) {
        return Err(format!("{kind:?} is no type of a host key; leave the name of the host out"));
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|_| "the key after its type is cut or damaged".to_owned())?;
    // Fields with their lengths before them, to the very end; the first is the type once more.
    let mut fields = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((length, behind)) = rest.split_first_chunk::<4>()
        && let Some((field, behind)) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)
    {
        fields.push(field);
        rest = behind;
    }
    let own = fields.first().filter(|_| rest.is_empty() && fields.len() > 1);
    match own {
        Some(own) if *own == kind.as_bytes() => Ok(()),
        _ => Err(format!("the key is cut, or none of type {kind}")),
    }
}

impl Rules<'_> {
    fn bucket(&mut self, key: &[&str], bucket: &str, prefix_key: &[&str], prefix: &str) {
        if bucket.is_empty() || bucket.contains(|c: char| c == '/' || c.is_whitespace()) {
            self.say(key, "this is no name of a bucket; what stands before the keys belongs into `prefix`");
        }
        if prefix.split('/').any(|part| matches!(part, "." | "..")) {
            self.say(prefix_key, "the parts `.` and `..` have no place in a prefix");
        }
    }

    fn built_with(&mut self, name: &str, feature: &str, is: bool) {
        if !is {
            self.say(
                &["target", name, "type"],
                format!("this program was built without {feature}; build it with `cargo build --release --features {feature}`"),
            );
        }
    }
}
