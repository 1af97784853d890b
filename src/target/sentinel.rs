//! The sentinel: a file with an id at the root of a target, which tells it from another file system that is
//! mounted in its place.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Permanent;
use crate::fsutil;
use crate::model::TargetName;
use crate::state::TargetIdentity;

/// The name of the file.
pub const SENTINEL_FILE: &str = ".backup-agent-target.json";
/// The version this program writes, and the highest it reads.
const VERSION: u32 = 1;
/// No sentinel is longer; a longer file is something else.
const LONGEST: u64 = 64 << 10;

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentinel {
    /// Format version.
    pub version: u32,
    /// Random, 32 hexadecimal digits.
    pub id: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// The host that made it; others may use the target too.
    pub host: String,
}

impl Sentinel {
    /// A new one.
    pub fn generate(host: &str, now: DateTime<Utc>) -> Self {
        let id = format!("{:032x}", rand::random::<u128>());
        Self { version: VERSION, id, created: now, host: host.to_owned() }
    }

    /// Reads the one in `folder`; none when there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(SENTINEL_FILE);
        let describe = || format!("reading the sentinel {}", path.display());
        let file = match open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(describe),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).with_context(describe)?;
        Self::parse(&bytes, &path.display().to_string()).map(Some)
    }

    /// Reads one from its bytes, which stand at `place`.
    pub(super) fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        let found: Self =
            serde_json::from_slice(bytes).with_context(|| format!("the sentinel {place} is damaged"))?;
        if found.version > VERSION {
            bail!(
                "the sentinel {place} has version {}, this program reads up to {VERSION}: update the agent",
                found.version
            );
        }
        Ok(found)
    }

    /// Its bytes as they are stored.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Writes it into `folder`, durably, readable by all: other hosts compare it too. Gives the one that stands there
    /// then: when another host was faster, that is its one, which it has recorded already.
    pub fn place(&self, folder: &Path) -> Result<Self> {
        let path = folder.join(SENTINEL_FILE);
        let wrote = fsutil::write_new(&path, &self.to_bytes()?, 0o644)
            .with_context(|| format!("writing the sentinel {}", path.display()))?;
        if wrote {
            return Ok(self.clone());
        }
        Self::read(folder)?.with_context(|| {
            format!("another host has just written the sentinel {}, and it is gone again", path.display())
        })
    }
}

/// Never follows a link, never waits for a FIFO.
fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// What stands at `folder` now.
pub fn identify(folder: &Path, now: DateTime<Utc>) -> Result<TargetIdentity> {
    let id = Sentinel::read(folder)?.map(|sentinel| sentinel.id);
    let file_system =
        file_system(folder).with_context(|| format!("asking for the file system of {}", folder.display()))?;
    Ok(TargetIdentity { id, file_system, recorded: now })
}

/// Compares what stands at `folder` with what the target was; the error says what is different.
pub fn compare(target: &TargetName, folder: &Path, expected: &TargetIdentity) -> Result<()> {
    let shown = folder.display();
    let accept =
        format!("mount the right one, or accept this one with: `agent target init {target} --force`");
    let found = file_system(folder)
        .with_context(|| format!("target {target}: asking for the file system of {shown}"))?;
    if found != expected.file_system {
        bail!(
            "target {target}: another file system is mounted at {shown}: it is {found}, and was {} on {}; \
             nothing is written there; {accept}",
            expected.file_system,
            day(expected.recorded)
        );
    }
    if expected.id.is_none() {
        return Ok(());
    }
    let found = Sentinel::read(folder).with_context(|| format!("target {target}"))?;
    let stands = match &found {
        Some(_) => format!("share is mounted at {shown}"),
        None => format!("share, or none, is mounted at {shown}"),
    };
    compare_id(target, &stands, expected, found.as_ref())
}

/// Compares a sentinel with the one that is known. `stands` says what another one would mean, after "another".
pub(super) fn compare_id(
    target: &TargetName,
    stands: &str,
    expected: &TargetIdentity,
    found: Option<&Sentinel>,
) -> Result<()> {
    let Some(id) = &expected.id else { return Ok(()) };
    let accept =
        format!("bring the right one back, or accept this one with: `agent target init {target} --force`");
    match found {
        Some(sentinel) if sentinel.id == *id => Ok(()),
        // Nothing brings the right one back by itself; one without the file may only not be mounted yet.
        Some(sentinel) => Err(Permanent(format!(
            "target {target}: another {stands}: its {SENTINEL_FILE} has the id {}, made by {} on {}, and this \
             target's id is {id}; nothing is written there; {accept}",
            sentinel.id,
            sentinel.host,
            day(sentinel.created)
        ))
        .into()),
        None => bail!(
            "target {target}: another {stands}: it has no {SENTINEL_FILE}, and this target has one with \
             the id {id}; nothing is written there; {accept}"
        ),
    }
}

fn day(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d").to_string()
}

/// `f_type` of statfs and the name it is shown by. Two numbers of one name are one kind of file system: which
/// dialect a share is mounted with may change.
const FILE_SYSTEMS: &[(u64, &str)] = &[
    (0x0000_4d44, "vfat"),
    (0x0000_6969, "nfs"),
    (0x0000_ef53, "ext4"),
    (0x0000_517b, "cifs"),
    (0x00c3_6400, "ceph"),
    (0x0102_1994, "tmpfs"),
    (0x2011_bab0, "exfat"),
    (0x2fc1_2fc1, "zfs"),
    (0x5846_5342, "xfs"),
    (0x5346_544e, "ntfs"),
    (0x6573_5546, "fuse"),
    (0x7366_746e, "ntfs"),
    (0x794c_7630, "overlay"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0xfe53_4d42, "cifs"),
    (0xff53_4d42, "cifs"),
];

fn file_system(folder: &Path) -> io::Result<String> {
    // The number is signed on some machines, and 32 bits wide everywhere.
    #[allow(clippy::unnecessary_cast)]
    let number = rustix::fs::statfs(folder)?.f_type as u64 & 0xffff_ffff;
    let known = FILE_SYSTEMS.iter().find(|(known, _)| *known == number);
    Ok(known.map_or_else(|| format!("{number:#x}"), |(_, name)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-24T18:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_target_is_known_again_by_its_sentinel_and_another_is_named_as_such() {
        let (here, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name: TargetName = "nas".parse().unwrap();
        Sentinel::generate("web1", now()).place(here.path()).unwrap();
        let identity = identify(here.path(), now()).unwrap();
        assert_eq!(identity.id.as_deref().map(str::len), Some(32));
        compare(&name, here.path(), &identity).unwrap();
        let refused = compare(&name, other.path(), &identity).unwrap_err().to_string();
        assert!(refused.contains("has no .backup-agent-target.json"), "{refused}");
        Sentinel::generate("web2", now()).place(other.path()).unwrap();
        let refused = compare(&name, other.path(), &identity).unwrap_err().to_string();
        assert!(refused.contains("another share is mounted") && refused.contains("web2"), "{refused}");
        let elsewhere = TargetIdentity { id: None, file_system: "nfs".to_owned(), ..identity };
        let refused = compare(&name, here.path(), &elsewhere).unwrap_err().to_string();
        assert!(refused.contains("another file system"), "{refused}");
    }

    #[test]
    fn of_two_hosts_that_both_found_none_the_second_takes_what_the_first_has_written() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Sentinel::generate("web1", now()), Sentinel::generate("web2", now()));
        assert_eq!(first.place(folder.path()).unwrap(), first);
        assert_eq!(second.place(folder.path()).unwrap(), first);
        assert_eq!(Sentinel::read(folder.path()).unwrap(), Some(first));
    }

    #[test]
    fn a_sentinel_that_is_no_sentinel_is_an_error_and_not_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SENTINEL_FILE);
        assert_eq!(Sentinel::read(folder.path()).unwrap(), None);
        for (text, says) in [("", "damaged"), ("{}", "damaged"), ("[1]", "damaged")] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Sentinel::read(folder.path()).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        let later = Sentinel { version: 2, ..Sentinel::generate("web1", now()) };
        fs::remove_file(&path).unwrap();
        later.place(folder.path()).unwrap();
        let error = Sentinel::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("update the agent"), "{error}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(Sentinel::read(folder.path()).is_err(), "a link was followed");
    }
}
