//! What a target holds, told by the manifests below it alone.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::is_safe_location;
use crate::event::{Interrupted, Progress};
use crate::manifest::{self, Manifest, PIN_FILE, PIN_LONGEST, Pin};
use crate::model::{JobName, Outcome, RunId, WarningCounts};
use crate::state::ComponentSummary;

/// Folders deeper than this are not looked into; templates have five or six parts.
pub(super) const DEEPEST: usize = 16;
/// No manifest is longer.
pub(super) const LONGEST: u64 = 256 << 20;

/// One backup, as its manifest says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Its folder relative to the target.
    pub location: String,
    /// The host it is of.
    pub host: String,
    /// The installation that made it.
    pub instance_id: String,
    /// The job, under the name it had then.
    pub job: JobName,
    /// Earlier names of the job.
    #[serde(default)]
    pub job_aliases: Vec<JobName>,
    /// The IANA zone of the job.
    #[serde(default)]
    pub timezone: String,
    /// The run that made it.
    pub run_id: RunId,
    /// The scheduled moment it answers.
    pub scheduled_for: Option<DateTime<Utc>>,
    /// Start of the run.
    pub started: DateTime<Utc>,
    /// End of the capture.
    pub ended: DateTime<Utc>,
    /// `success`, `warning` or `partial`.
    pub outcome: Outcome,
    /// Bytes read from all sources.
    pub source_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// What is stored for each component.
    pub components: Vec<ComponentSummary>,
    /// Warnings of all components.
    pub warning_counts: WarningCounts,
    /// Why a person keeps it, when somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

impl Found {
    pub(super) fn new(location: String, manifest: &Manifest) -> Self {
        let components = manifest.components.iter().map(|c| ComponentSummary {
            name: c.name.clone(),
            source_bytes: c.source_bytes,
            stored_bytes: c.stored_bytes,
            entries: c.entries,
            warning_counts: c.warning_counts,
            sha256: Some(c.sha256),
        });
        Self {
            location,
            host: manifest.host.clone(),
            instance_id: manifest.instance_id.clone(),
            job: manifest.job.clone(),
            job_aliases: manifest.job_aliases.clone(),
            timezone: manifest.timezone.clone(),
            run_id: manifest.run_id.clone(),
            scheduled_for: manifest.scheduled_for,
            started: manifest.started,
            ended: manifest.ended,
            outcome: manifest.outcome,
            source_bytes: manifest.source_bytes(),
            stored_bytes: manifest.stored_bytes(),
            components: components.collect(),
            warning_counts: manifest.warning_counts(),
            pin: None,
        }
    }
}

/// A folder that could not be read, or whose manifest says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The folder relative to the target.
    pub location: String,
    /// Why.
    pub error: String,
}

impl Unread {
    /// A folder below the deepest that is looked at.
    pub(super) fn too_deep(location: String) -> Self {
        Self { location, error: format!("it lies deeper than {DEEPEST} folders, and was not looked into") }
    }
}

/// Everything found below a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// The backups, newest first.
    pub found: Vec<Found>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

impl Scan {
    /// Brings it into the order it is given in.
    pub(super) fn sort(&mut self) {
        self.found.sort_by(|a, b| (b.started, &b.run_id).cmp(&(a.started, &a.run_id)));
        self.unread.sort_by(|a, b| a.location.cmp(&b.location));
    }
}

/// Reads every manifest below `root`. Folders whose names begin with a dot (unfinished and expired backups, the
/// state) are left out, links are not followed, and what lies inside a backup is not looked at. Only a `root`
/// that cannot be listed is an error.
pub(super) fn scan(root: &Path, progress: &Progress) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut folders = vec![(String::new(), 0)];
    while let Some((location, depth)) = folders.pop() {
        if progress.is_cancelled() {
            return Err(Interrupted.into());
        }
        // Each folder is a sign of life for whoever waits.
        progress.add_stored(1);
        match look(root, &location, &mut scan) {
            Ok(below) if depth < DEEPEST => folders.extend(below.into_iter().map(|l| (l, depth + 1))),
            Ok(below) => scan.unread.extend(below.into_iter().map(Unread::too_deep)),
            Err(e) if location.is_empty() => return Err(e),
            Err(e) => scan.unread.push(Unread { location, error: format!("{e:#}") }),
        }
    }
    scan.sort();
    Ok(scan)
}

/// Takes the backup at `location` when there is one, else gives the folders below it.
fn look(root: &Path, location: &str, scan: &mut Scan) -> Result<Vec<String>> {
    let folder = root.join(location);
    if !location.is_empty()
        && let Some(manifest) = read_manifest(&folder)?
    {
        let mut found = Found::new(location.to_owned(), &manifest);
        found.pin = read_pin(&folder)?;
        scan.found.push(found);
        return Ok(Vec::new());
    }
    let listing = || format!("listing {}", folder.display());
    let mut below = Vec::new();
    for entry in fs::read_dir(&folder).with_context(listing)? {
        let entry = entry.with_context(listing)?;
        // Of the entry itself: a link to a folder is no folder.
        if !entry.file_type().with_context(listing)?.is_dir() {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        let inner = if location.is_empty() { name } else { format!("{location}/{name}") };
        if is_safe_location(&inner) {
            below.push(inner);
        }
    }
    Ok(below)
}

/// The manifest in a folder; none when the folder has none.
fn read_manifest(folder: &Path) -> Result<Option<Manifest>> {
    let path = folder.join(manifest::FILE);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
    };
    let metadata = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        bail!("{} is no manifest", path.display());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    Manifest::parse(&bytes).map(Some).with_context(|| path.display().to_string())
}

/// The pin in a folder. A file of that name pins, whatever it is and says.
pub(super) fn read_pin(folder: &Path) -> Result<Option<Pin>> {
    let path = folder.join(PIN_FILE);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(&path);
    let mut bytes = Vec::new();
    match opened.and_then(|file| file.take(PIN_LONGEST).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(Pin::parse(&bytes))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        // A link, a folder: somebody put it there, and meant something by it.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::EISDIR)) => Ok(Some(Pin::parse(&[]))),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest_of(run: &str, host: &str) -> Vec<u8> {
        serde_json::json!({
            "version": 1, "run_id": run, "job": "web", "instance_id": "i", "host": host,
            "agent_version": "1", "timezone": "UTC", "started": "2026-11-24T18:00:00Z",
            "ended": "2026-11-24T18:01:00Z", "outcome": "success", "codec": "zstd", "encryption": "none",
            "components": [],
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn backups_are_found_wherever_they_stand_and_nothing_else_is_taken_for_one() {
        let root = tempfile::tempdir().unwrap();
        let put = |location: &str, bytes: &[u8]| {
            fs::create_dir_all(root.path().join(location)).unwrap();
            fs::write(root.path().join(location).join(manifest::FILE), bytes).unwrap();
        };
        put("web1/daily/2026/11/24/1900", &manifest_of("20261124T180000Z-aaaaaa", "web1"));
        put("1900", &manifest_of("20261124T180000Z-bbbbbb", "web2"));
        // Inside a backup, unfinished, expired, behind a link, damaged, of a later version, too deep.
        put("1900/inner", &manifest_of("20261124T180000Z-cccccc", "web2"));
        put(".partial-20261124T180000Z-dddddd", &manifest_of("20261124T180000Z-dddddd", "web2"));
        put(".expired-20261124T180000Z-eeeeee", &manifest_of("20261124T180000Z-eeeeee", "web2"));
        put("damaged", b"{");
        put("later", br#"{"version": 9}"#);
        put(&["d"; 20].join("/"), &manifest_of("20261124T180000Z-ffffff", "web2"));
        std::os::unix::fs::symlink(root.path().join("1900"), root.path().join("link")).unwrap();
        fs::create_dir(root.path().join("linked")).unwrap();
        let manifest = root.path().join("1900").join(manifest::FILE);
        std::os::unix::fs::symlink(manifest, root.path().join("linked").join(manifest::FILE)).unwrap();

        let scan = scan(root.path(), &Progress::default()).unwrap();
        let found: Vec<_> = scan.found.iter().map(|f| (f.host.as_str(), f.location.as_str())).collect();
        assert_eq!(found, [("web2", "1900"), ("web1", "web1/daily/2026/11/24/1900")]);
        assert!(scan.found.iter().all(|f| f.pin.is_none() && f.timezone == "UTC"));
        let unread: Vec<_> = scan.unread.iter().map(|u| u.location.split('/').next().unwrap()).collect();
        assert_eq!(unread, ["d", "damaged", "later", "linked"], "{:?}", scan.unread);
        assert!(super::scan(&root.path().join("nowhere"), &Progress::default()).is_err());
    }
}
