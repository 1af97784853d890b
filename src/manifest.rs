//! `manifest.json`: what a backup holds, written last, so that its presence says the backup is whole.
//!
//! Version 1. Unknown fields are ignored, a higher version is refused. A stream that was cut at a frame
//! boundary still looks whole to `zstd -t` and `tar -t`; the counts and digests kept here reveal it.

mod pin;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use pin::{PIN_FILE, PIN_LONGEST, Pin};

use crate::model::{ComponentName, JobName, Outcome, RunId, Sha256, WarningCounts, WarningKind};

/// The version this program writes, and the highest it reads.
pub const VERSION: u32 = 1;
/// The manifest's file name inside a backup.
pub const FILE: &str = "manifest.json";
/// The checksum list's file name inside a backup.
pub const SUMS_FILE: &str = "SHA256SUMS";
/// The name of the instructions for restoring without this program.
pub const RESTORE_FILE: &str = "RESTORE.txt";
/// The folder of a tree for files that exist in the archive only, such as the output of commands.
pub const ARCHIVE_ONLY: &str = "system-state/";
/// How many warnings a manifest carries inline for each component; the full list is a file of its own.
pub const INLINE_WARNINGS: usize = 1000;

/// The manifest of one backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// The run that made it.
    pub run_id: RunId,
    /// The job, under the name it had then.
    pub job: JobName,
    /// Earlier names of the job.
    #[serde(default)]
    pub job_aliases: Vec<JobName>,
    /// The random id of the installation that made it.
    pub instance_id: String,
    /// The host's name.
    pub host: String,
    /// The version of the program.
    pub agent_version: String,
    /// The IANA zone of the job.
    pub timezone: String,
    /// The scheduled moment this run answered, if it was started by a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<DateTime<Utc>>,
    /// Start of the run.
    pub started: DateTime<Utc>,
    /// End of the capture.
    pub ended: DateTime<Utc>,
    /// `success`, `warning` or `partial`.
    pub outcome: Outcome,
    /// How components are compressed.
    pub codec: Codec,
    /// How components are encrypted, with their indexes and lists of warnings.
    pub encryption: Encryption,
    /// The streams of this backup, in the order they were captured.
    pub components: Vec<Component>,
    /// Fields of later versions with the same major meaning.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// How a component's frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Independent zstd frames with content checksums.
    Zstd,
    /// Independent gzip members, for machines without zstd.
    Gzip,
}

impl Codec {
    /// The file name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Codec::Zstd => "zst",
            Codec::Gzip => "gz",
        }
    }
}

/// How components are encrypted. In JSON `"none"`, or `{"age": {"recipients": […]}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Not encrypted.
    None,
    /// Each file is one binary file of age.
    Age(Age),
}

/// What files of age are encrypted to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Age {
    /// Public keys, any one of whose private keys opens the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// A passphrase opens them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passphrase: bool,
}

impl Encryption {
    /// What is appended to the names of files.
    pub fn suffix(&self) -> &'static str {
        match self {
            Encryption::None => "",
            Encryption::Age(_) => ".age",
        }
    }

    /// True when a key is needed to read anything but the manifest.
    pub fn is_some(&self) -> bool {
        *self != Encryption::None
    }
}

/// What kind of stream a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A tar archive.
    Tar,
    /// Any other stream of bytes: a dump, the output of a command, a database file.
    Stream,
}

/// What a component holds. Programs that do not know a word take it for [`Content::Other`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", from = "String")]
pub enum Content {
    /// Files and folders.
    Files,
    /// What the operating system needs to be set up again.
    System,
    /// SQL for the `mysql` or `mariadb` client: databases.
    Mysql,
    /// SQL for the `mysql` or `mariadb` client: accounts and grants.
    MysqlUsers,
    /// One database in the custom format of `pg_restore`.
    Postgres,
    /// SQL for `psql`: roles, memberships, tablespaces.
    PostgresGlobals,
    /// An RDB file of Redis or Valkey.
    Redis,
    /// An SQLite database file.
    Sqlite,
    /// The output of a program.
    Command,
    /// Not said, or a word of a later program.
    #[default]
    Other,
}

impl From<String> for Content {
    fn from(word: String) -> Self {
        use serde::de::IntoDeserializer as _;
        use serde::de::value::{Error, StringDeserializer};
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case", remote = "Content")]
        enum Known {
            Files,
            System,
            Mysql,
            MysqlUsers,
            Postgres,
            PostgresGlobals,
            Redis,
            Sqlite,
            Command,
            Other,
        }
        let word: StringDeserializer<Error> = word.into_deserializer();
        Known::deserialize(word).unwrap_or_default()
    }
}

/// One stream of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name: the name of the source it came from.
    pub name: ComponentName,
    /// Tar archive or plain stream.
    pub kind: Kind,
    /// What the stream holds, and so how it is restored.
    #[serde(default)]
    pub content: Content,
    /// The databases in it, by their own names, where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<String>,
    /// File name inside the backup's folder.
    pub file: String,
    /// Bytes of content read from the source.
    pub source_bytes: u64,
    /// Bytes before compression: the length of the tar or dump stream.
    pub raw_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// SHA-256 over the stored bytes.
    pub sha256: Sha256,
    /// Entries of the tar archive; 0 for a plain stream.
    pub entries: u64,
    /// Compressed frames.
    pub frames: u64,
    /// The index of a tar archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<StoredFile>,
    /// How many files changed, vanished, were unreadable or skipped.
    #[serde(default)]
    pub warning_counts: WarningCounts,
    /// The first [`INLINE_WARNINGS`] of them; none in the manifest of an encrypted backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<FileWarning>,
    /// All of them, as JSON lines, where there are more than fit inline, or where the backup is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings_file: Option<StoredFile>,
}

/// A further file of a backup with its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// File name inside the backup's folder.
    pub file: String,
    /// SHA-256 over the stored bytes.
    pub sha256: Sha256,
    /// Bytes stored.
    pub bytes: u64,
}

/// One file that changed, vanished, could not be read, or was skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWarning {
    /// What happened.
    pub kind: WarningKind,
    /// The path as it stands (or would stand) in the archive.
    pub path: PathText,
    /// The reason, in words.
    pub detail: String,
}

/// A path of any bytes. In JSON a string when it is UTF-8, else `{"b64": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathText(pub Vec<u8>);

impl PathText {
    /// The path for people: invalid UTF-8 and control characters escaped.
    pub fn display(&self) -> String {
        let mut out = String::new();
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
            }
            for b in chunk.invalid() {
                out.push_str(&format!("\\x{b:02x}"));
            }
        }
        out
    }
}

impl From<&[u8]> for PathText {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&str> for PathText {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

#[derive(Serialize, Deserialize)]
struct Base64Path<'a> {
    b64: std::borrow::Cow<'a, str>,
}

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => s.serialize_str(text),
            Err(_) => Base64Path { b64: BASE64.encode(&self.0).into() }.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Text(String),
            Bytes(Base64Path<'static>),
        }
        match Raw::deserialize(d)? {
            Raw::Text(text) => Ok(Self(text.into_bytes())),
            Raw::Bytes(raw) => BASE64.decode(raw.b64.as_bytes()).map(Self).map_err(de::Error::custom),
        }
    }
}

/// Why a manifest was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not a manifest.
    #[error("the manifest is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Written by a later program.
    #[error("the manifest has version {found}, this program reads up to {VERSION}: update the agent")]
    TooNew {
        /// The version found.
        found: u32,
    },
}

impl Manifest {
    /// Reads a manifest. The version is looked at first, so that a later format is named as such and not
    /// as damage.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes)?;
        if version > VERSION {
            return Err(ManifestError::TooNew { found: version });
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The manifest as it is written: JSON with line breaks, and one at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has only string keys");
        bytes.push(b'\n');
        bytes
    }

    /// The name of a component's content: its file without what says how it is compressed and encrypted.
    pub fn plain_name<'c>(&self, component: &'c Component) -> &'c str {
        let file = component.file.strip_suffix(self.encryption.suffix()).unwrap_or(&component.file);
        file.strip_suffix(self.codec.extension()).and_then(|file| file.strip_suffix('.')).unwrap_or(file)
    }

    /// The manifest as it may stand beside encrypted files: without paths of the source.
    pub fn without_paths(&self) -> Self {
        let mut manifest = self.clone();
        if manifest.encryption.is_some() {
            manifest.components.iter_mut().for_each(|component| component.warnings.clear());
        }
        manifest
    }

    /// Every file the manifest vouches for, in the order of `SHA256SUMS`.
    pub fn files(&self) -> impl Iterator<Item = StoredFile> + '_ {
        self.components.iter().flat_map(|c| {
            let main = StoredFile { file: c.file.clone(), sha256: c.sha256, bytes: c.stored_bytes };
            std::iter::once(main).chain(c.index.clone()).chain(c.warnings_file.clone())
        })
    }

    /// The size of a backup, the same at each target: bytes of its components, their indexes and lists of warnings.
    /// The three small texts beside them do not count.
    pub fn stored_bytes(&self) -> u64 {
        self.files().map(|f| f.bytes).sum()
    }

    /// Bytes read from all sources.
    pub fn source_bytes(&self) -> u64 {
        self.components.iter().map(|c| c.source_bytes).sum()
    }

    /// The warning counts of all components together.
    pub fn warning_counts(&self) -> WarningCounts {
        let mut counts = WarningCounts::default();
        self.components.iter().for_each(|c| counts.merge(&c.warning_counts));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_any_bytes_survive_json() {
        for path in [&b"plain/path"[..], "ünïcode".as_bytes(), b"bad\xff\xfe", b"new\nline"] {
            let json = serde_json::to_string(&PathText::from(path)).unwrap();
            assert_eq!(serde_json::from_str::<PathText>(&json).unwrap().0, path, "{json}");
        }
        assert_eq!(PathText::from(&b"a\xff\nb"[..]).display(), "a\\xff\\nb");
    }

    #[test]
    fn a_content_that_is_not_known_is_some_other_content() {
        for content in [Content::Mysql, Content::MysqlUsers, Content::PostgresGlobals, Content::Other] {
            let json = serde_json::to_string(&content).unwrap();
            assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content, "{json}");
        }
        assert_eq!(serde_json::to_string(&Content::MysqlUsers).unwrap(), "\"mysql-users\"");
        assert_eq!(serde_json::from_str::<Content>("\"of-tomorrow\"").unwrap(), Content::Other);
    }

    #[test]
    fn encryption_is_none_as_before_or_says_who_can_read() {
        let json = |encryption: &Encryption| serde_json::to_string(encryption).unwrap();
        assert_eq!(json(&Encryption::None), "\"none\"");
        let keys = Encryption::Age(Age { recipients: vec!["age1x".to_owned()], passphrase: false });
        assert_eq!(json(&keys), r#"{"age":{"recipients":["age1x"]}}"#);
        let passphrase = Encryption::Age(Age { recipients: Vec::new(), passphrase: true });
        assert_eq!(json(&passphrase), r#"{"age":{"passphrase":true}}"#);
        for encryption in [Encryption::None, keys, passphrase] {
            assert_eq!(serde_json::from_str::<Encryption>(&json(&encryption)).unwrap(), encryption);
        }
    }

    #[test]
    fn a_later_version_is_refused_by_name() {
        let error = Manifest::parse(br#"{"version": 2, "anything": []}"#).unwrap_err();
        assert!(matches!(error, ManifestError::TooNew { found: 2 }), "{error}");
        assert!(matches!(Manifest::parse(b"{").unwrap_err(), ManifestError::Damaged(_)));
    }
}
