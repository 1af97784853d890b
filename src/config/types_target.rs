//! The part of the configuration that says where backups are stored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{AbsolutePath, DurationText, HttpUrl, SecretFile, SizeText, TemplateText};
use super::types_drill::VerifyConfig;
use crate::event::Looked;
use crate::model::{ByteSize, Secret};

/// One place where backups are stored: what every kind has, and what its own kind adds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("unevaluatedProperties" = false))]
pub struct TargetConfig {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// Folder of one backup below the target's own: strftime in the job's zone, `{job}` and `{host}`.
    #[serde(default = "super::defaults::template")]
    #[schemars(with = "TemplateText")]
    pub template: String,
    /// What retention keeps here; everything when absent.
    #[serde(default)]
    pub keep: Option<Keep>,
    /// Free space below which the target is reported.
    #[serde(default)]
    #[schemars(with = "Option<SizeText>")]
    pub min_free: Option<ByteSize>,
    /// When backups here are read back, and how much a day.
    #[serde(default)]
    pub verify: VerifyConfig,
    /// How much of a backup is read back once it is stored here, and in the rounds of `verify`.
    #[serde(default)]
    pub read_back: ReadBack,
    /// Bytes a second sent to the target, and read back from it.
    #[serde(default)]
    #[schemars(with = "Option<SizeText>")]
    pub bandwidth_limit: Option<ByteSize>,
    /// Archives of another program are here, for `agent import`; no job may store backups here.
    #[serde(default)]
    pub import_only: bool,
    /// How many copies are made here at once; more helps only where a single connection is slow.
    #[serde(default = "super::defaults::copies_at_target")]
    #[schemars(range(min = 1))]
    pub max_parallel_copies: usize,
}

/// How much of a stored backup is read back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadBack {
    /// Every byte, its digest compared.
    #[default]
    Full,
    /// Small files whole; of large ones the length, and pieces chosen by chance.
    Sample,
    /// Nothing: a backup there counts as `complete`, never as `verified`.
    Never,
}

/// Where a target is. `type` says the kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Place {
    /// A folder: local, or a mounted NAS.
    Directory(DirectoryPlace),
    /// A folder on another machine, over SSH.
    Sftp(SftpPlace),
    /// A bucket of an S3-compatible object store.
    S3(S3Place),
    /// A folder of a WebDAV server.
    Webdav(WebdavPlace),
    /// A container of Azure Blob Storage, where the program was built with it.
    Azblob(AzblobPlace),
}

/// A folder: local, or a mounted NAS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DirectoryPlace {
    /// The folder, absolute.
    #[schemars(with = "AbsolutePath")]
    pub path: PathBuf,
    /// Refuse to write unless `path` stands on a mounted file system of its own.
    #[serde(default)]
    pub require_mount: bool,
}

/// A folder on another machine, over SSH. Logs in with a key, never with a password.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SftpPlace {
    /// Name or address of the machine, or an alias of the SSH client's configuration.
    pub host: String,
    /// Port, when it is not 22.
    #[serde(default)]
    pub port: Option<u16>,
    /// Login name; the SSH client's own choice when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// The folder there; without a leading slash it is below the folder of the login.
    pub path: String,
    /// The private key; the SSH client's own choice when absent.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub identity_file: Option<PathBuf>,
    /// The only host key that is accepted, as in known_hosts without the name: `ssh-ed25519 AAAA…`.
    #[serde(default)]
    pub host_key: Option<String>,
    /// Known host keys; the SSH client's own files when absent. An unknown key is refused.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub known_hosts_file: Option<PathBuf>,
    /// The SSH client's configuration, for jump hosts, aliases and ciphers; its own files when absent.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub ssh_config_file: Option<PathBuf>,
    /// The account may only add files: nothing there is read, listed, renamed or removed by this host.
    #[serde(default)]
    pub write_only: bool,
}

/// A bucket of an S3-compatible object store.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct S3Place {
    /// The bucket, which exists.
    pub bucket: String,
    /// Address of the store; that of AWS for the region when absent.
    #[serde(default)]
    #[schemars(with = "Option<HttpUrl>")]
    pub endpoint: Option<String>,
    /// The region requests are signed for.
    #[serde(default = "super::defaults::s3_region")]
    pub region: String,
    /// Put before every key, such as `web1`.
    #[serde(default)]
    pub prefix: String,
    /// The bucket stands in the path of a request, not in its host name. As the endpoint needs it when absent:
    /// in the path, unless it is AWS.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// Name of the access key.
    pub access_key_id: String,
    /// File with the secret access key; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub secret_access_key_file: Option<PathBuf>,
    /// The secret access key itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub secret_access_key: Option<Secret>,
    /// The credentials may only write: nothing there is read, listed or removed by this host.
    #[serde(default)]
    pub write_only: bool,
    /// Lock what is written, so that nobody removes it before its time: the bucket must have Object Lock.
    #[serde(default)]
    pub object_lock: Option<ObjectLock>,
    /// How long it is locked; as long as `keep` keeps daily backups when absent.
    #[serde(default, with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub lock_for: Option<Duration>,
    /// How its server is reached.
    #[serde(flatten)]
    pub http: HttpConfig,
}

/// Who may remove a locked object before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectLock {
    /// Those with a permission of its own.
    Governance,
    /// Nobody, not even the owner of the account.
    Compliance,
}

/// A folder of a WebDAV server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WebdavPlace {
    /// Address of the folder, which exists.
    #[schemars(with = "HttpUrl")]
    pub url: String,
    /// Login name.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub password_file: Option<PathBuf>,
    /// The password itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub password: Option<Secret>,
    /// How its server is reached.
    #[serde(flatten)]
    pub http: HttpConfig,
}

/// How a server that speaks HTTP is reached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HttpConfig {
    /// Certificates (PEM) that are trusted besides those of the system.
    #[serde(default)]
    #[schemars(with = "Option<AbsolutePath>")]
    pub ca_file: Option<PathBuf>,
    /// The longest time without a byte from or to the server. Several times that for an answer that comes after work:
    /// a large file stored, a folder renamed or removed.
    #[serde(default = "super::defaults::silence", with = "super::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
}

/// A container of Azure Blob Storage.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AzblobPlace {
    /// The container, which exists.
    pub container: String,
    /// Name of the storage account.
    pub account_name: String,
    /// File with a key of the account; others must not be able to read it.
    #[serde(default)]
    #[schemars(with = "Option<SecretFile>")]
    pub account_key_file: Option<PathBuf>,
    /// The key itself; only from the environment, never from a file.
    #[serde(default, skip_serializing, deserialize_with = "super::secrets::deserialize")]
    #[schemars(schema_with = "super::schema::environment_only")]
    pub account_key: Option<Secret>,
    /// Address of the account's blobs, when it is not that of Azure.
    #[serde(default)]
    #[schemars(with = "Option<HttpUrl>")]
    pub endpoint: Option<String>,
    /// Put before every key, such as `web1`.
    #[serde(default)]
    pub prefix: String,
}

impl TargetConfig {
    /// The folder of this machine it is; none for a target over the network.
    pub fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(directory) => Some(&directory.path),
            _ => None,
        }
    }

    /// Whether its folder must stand on a mounted file system of its own.
    pub fn requires_mount(&self) -> bool {
        matches!(&self.place, Place::Directory(directory) if directory.require_mount)
    }

    /// Where it is, for people: a path, or an address without any secret. `below` is relative to it, and may be
    /// empty.
    pub fn address(&self, below: &str) -> String {
        self.place.address(below)
    }

    /// Whether this host may only write there.
    pub fn write_only(&self) -> bool {
        match &self.place {
            Place::S3(s3) => s3.write_only,
            Place::Sftp(sftp) => sftp.write_only,
            _ => false,
        }
    }

    /// How long what is written here is locked; none without Object Lock, or where nothing says how long.
    pub fn lock_period(&self) -> Option<Duration> {
        let Place::S3(s3) = &self.place else { return None };
        s3.object_lock?;
        s3.lock_for.or_else(|| self.keep.as_ref()?.lock_period())
    }

    /// A secret that the environment gave, which is not written down with the rest.
    pub fn secret(&self) -> Option<&Secret> {
        match &self.place {
            Place::Directory(_) | Place::Sftp(_) => None,
            Place::Azblob(azblob) => azblob.account_key.as_ref(),
            Place::S3(s3) => s3.secret_access_key.as_ref(),
            Place::Webdav(webdav) => webdav.password.as_ref(),
        }
    }

    /// The file with the secret it logs in with, and the key that names it; none where the SSH client logs in, or the
    /// environment gives the secret.
    pub fn secret_file(&self) -> Option<(&'static str, &Path)> {
        let (key, file) = match &self.place {
            _ if self.secret().is_some() => return None,
            Place::Directory(_) | Place::Sftp(_) => return None,
            Place::Azblob(azblob) => ("account_key_file", &azblob.account_key_file),
            Place::S3(s3) => ("secret_access_key_file", &s3.secret_access_key_file),
            Place::Webdav(webdav) => ("password_file", &webdav.password_file),
        };
        Some((key, file.as_deref()?))
    }

    /// How much is read back of what is stored here.
    pub fn reads_back(&self) -> ReadBack {
        if self.write_only() { ReadBack::Never } else { self.read_back }
    }

    /// Why nothing is read back of what is stored here; none where it is.
    pub fn not_read_back(&self) -> Option<&'static str> {
        match self.reads_back() {
            ReadBack::Never if self.write_only() => Some("the target is write-only"),
            ReadBack::Never => Some("the target has read_back = \"never\""),
            ReadBack::Full | ReadBack::Sample => None,
        }
    }

    /// How closely a backup that was just stored here was looked at.
    pub fn looked_at(&self) -> Looked {
        match (self.not_read_back(), self.read_back) {
            (Some(why), _) => Looked::NotAt(why),
            (None, ReadBack::Sample) => Looked::AtSamples,
            (None, _) => Looked::AtAll,
        }
    }

    /// The bytes a second one transfer may take: the limit is shared out among those that go on at once.
    pub fn bandwidth(&self) -> Option<u64> {
        self.bandwidth_limit.map(|limit| (limit.0 / self.max_parallel_copies.max(1) as u64).max(1))
    }

    /// The files of this machine it is used with: keys, passwords, certificates.
    pub fn files(&self) -> Vec<&Path> {
        let named = match &self.place {
            Place::Directory(_) => [None, None],
            Place::Sftp(sftp) => [&sftp.identity_file, &sftp.known_hosts_file].map(Option::as_deref),
            Place::S3(s3) => [&s3.secret_access_key_file, &s3.http.ca_file].map(Option::as_deref),
            Place::Webdav(webdav) => [&webdav.password_file, &webdav.http.ca_file].map(Option::as_deref),
            Place::Azblob(azblob) => [azblob.account_key_file.as_deref(), None],
        };
        named.into_iter().flatten().collect()
    }

    /// Puts back what [`TargetConfig::secret`] gave.
    pub fn set_secret(&mut self, secret: Option<Secret>) {
        match &mut self.place {
            Place::Directory(_) | Place::Sftp(_) => {}
            Place::Azblob(azblob) => azblob.account_key = secret,
            Place::S3(s3) => s3.secret_access_key = secret,
            Place::Webdav(webdav) => webdav.password = secret,
        }
    }
}

impl Place {
    /// Where it is, for people, without any secret. `below` is relative to it, and may be empty.
    pub fn address(&self, below: &str) -> String {
        match self {
            // A path as it is used: an empty `below` adds no slash.
            Place::Directory(directory) if below.is_empty() => directory.path.display().to_string(),
            Place::Directory(directory) => directory.path.join(below).display().to_string(),
            Place::Sftp(sftp) => {
                let user = sftp.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
                let port = sftp.port.map_or_else(String::new, |port| format!(":{port}"));
                // A path below the folder of the login is written as SSH clients do.
                let path = match sftp.path.starts_with('/') {
                    true => sftp.path.clone(),
                    false => format!("/~/{}", sftp.path),
                };
                joined(&format!("sftp://{user}{}{port}{path}", sftp.host), below)
            }
            Place::S3(s3) => {
                joined(&joined(&format!("s3://{}", s3.bucket), s3.prefix.trim_matches('/')), below)
            }
            Place::Webdav(webdav) => joined(&webdav.url, below),
            Place::Azblob(azblob) => {
                let container = format!("azblob://{}/{}", azblob.account_name, azblob.container);
                joined(&joined(&container, azblob.prefix.trim_matches('/')), below)
            }
        }
    }
}

/// Two parts of an address with one slash between them.
fn joined(base: &str, below: &str) -> String {
    match below {
        "" => base.to_owned(),
        below => format!("{}/{below}", base.trim_end_matches('/')),
    }
}

/// How much retention keeps. A backup stays when any rule keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    pub yearly: Option<u32>,
    /// Everything younger than this.
    #[serde(with = "super::duration::option")]
    #[schemars(with = "Option<DurationText>")]
    pub within: Option<Duration>,
    /// What a job's backups may take here: beyond it the oldest go, though a rule keeps them.
    #[schemars(with = "Option<SizeText>")]
    pub max_bytes: Option<ByteSize>,
    /// What a job's good backups have here at least: below it nothing good goes, though no rule keeps it.
    #[schemars(with = "Option<SizeText>")]
    pub min_bytes: Option<ByteSize>,
}

impl Keep {
    /// For how long each backup is worth a lock: as long as the finest rules reach, `within`, `hourly` and `daily`
    /// before `weekly`, and so on. A longer lock would keep every backup as long as the yearly ones.
    fn lock_period(&self) -> Option<Duration> {
        const DAY: u64 = 24 * 3600;
        let span = |count: Option<u32>, seconds: u64| {
            count.filter(|count| *count > 0).map(|count| Duration::from_secs(u64::from(count) * seconds))
        };
        let fine = [self.within, span(self.hourly, 3600), span(self.daily, DAY)];
        let longest = fine.into_iter().flatten().max().filter(|longest| !longest.is_zero());
        longest
            .or_else(|| span(self.weekly, 7 * DAY))
            .or_else(|| span(self.monthly, 31 * DAY))
            .or_else(|| span(self.yearly, 366 * DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lasts_as_long_as_the_finest_rules_reach() {
        let days = |keep: Keep| keep.lock_period().map(|period| period.as_secs() / (24 * 3600));
        let daily = Keep { daily: Some(14), yearly: Some(5), ..Keep::default() };
        assert_eq!(days(daily), Some(14));
        let within = Duration::from_secs(30 * 24 * 3600);
        assert_eq!(days(Keep { within: Some(within), hourly: Some(48), ..Keep::default() }), Some(30));
        assert_eq!(days(Keep { weekly: Some(4), ..Keep::default() }), Some(28));
        assert_eq!(days(Keep { last: Some(4), daily: Some(0), ..Keep::default() }), None);
    }
}
