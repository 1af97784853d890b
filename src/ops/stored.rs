//! A finished backup at a target, opened for looking into it.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ignore::overrides::{Override, OverrideBuilder};
use sha2::Digest;

use super::verify::read_manifest;
use crate::archive::{IndexReader, Selection, StreamDecoder, StreamTotals, Tallied, select};
use crate::crypt::{self, Keyring, OpenError};
use crate::manifest::{Component, Encryption, FileWarning, Kind, Manifest};
use crate::model::{ComponentName, RunId, Sha256};
use crate::target::{self, Cache, Decrypted, StoredFile, Target};

/// A finished backup.
pub struct Backup<'a> {
    /// Where it is.
    pub target: &'a dyn Target,
    /// Its folder there.
    pub location: &'a str,
    /// What it holds.
    pub manifest: Manifest,
    /// What it is decrypted with.
    keys: Arc<Keyring>,
}

/// A backup that is encrypted, and no key that opens it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Locked(String);

/// A stored file that is read from its beginning, decrypted, and what was read of it so far.
pub type Counted<'r> = (Box<dyn Read + Send + 'r>, Arc<StreamTotals>);
/// A component that is read from its beginning, decompressed, and what was read of its file so far.
pub type Decoded = (StreamDecoder<Box<dyn Read + Send>>, Arc<StreamTotals>);

impl<'a> Backup<'a> {
    /// Opens the backup of `run` at `location`; one of another run is an error. What is encrypted in it cannot be
    /// read, only copied.
    pub fn open(target: &'a dyn Target, location: &'a str, run: &RunId) -> Result<Self> {
        // Another share in its place is not a backup that is gone.
        target.probe_readable(location)?;
        let manifest = read_manifest(target, location)?;
        if manifest.run_id != *run {
            bail!("target {}: {location} holds run {}, not {run}", target.name(), manifest.run_id);
        }
        Ok(Self::of(target, location, manifest))
    }

    /// The same, its manifest read already.
    pub(super) fn of(target: &'a dyn Target, location: &'a str, manifest: Manifest) -> Self {
        Self { target, location, manifest, keys: Arc::default() }
    }

    /// Brings the keys to read it with.
    ///
    /// # Errors
    /// [`Locked`] when it is encrypted and there is no key at all.
    pub fn with_keys(mut self, keys: Arc<Keyring>) -> Result<Self> {
        self.keys = keys;
        if self.manifest.encryption.is_some() && self.keys.is_empty() {
            bail!(self.locked());
        }
        Ok(self)
    }

    fn locked(&self) -> Locked {
        let run = &self.manifest.run_id;
        Locked(match &self.manifest.encryption {
            Encryption::Age(age) if age.passphrase => format!(
                "run {run} is encrypted with a passphrase; give the file that holds it: --passphrase-file FILE"
            ),
            Encryption::Age(age) => format!(
                "run {run} is encrypted; give the file with the private key of {}: --identity FILE",
                age.recipients.join(" or ")
            ),
            Encryption::None => format!("run {run} is not encrypted"),
        })
    }

    /// Says why a file of it was not opened.
    fn not_opened(&self, file: &str, error: OpenError) -> anyhow::Error {
        match (&error, &self.manifest.encryption) {
            (OpenError::NoKey, _) if self.keys.is_empty() => self.locked().into(),
            (OpenError::NoKey, Encryption::Age(age)) if !age.passphrase => Locked(format!(
                "{file} is encrypted to {}; what was given is the key of {}",
                age.recipients.join(" and "),
                self.keys.names().join(" and ")
            ))
            .into(),
            (OpenError::NoKey | OpenError::WrongPassphrase, _) => Locked(format!("{file}: {error}")).into(),
            _ => anyhow::Error::from(error).context(file.to_owned()),
        }
    }

    /// The component of this name; the error names those there are.
    pub fn component(&self, name: &ComponentName) -> Result<&Component> {
        let all = &self.manifest.components;
        all.iter().find(|c| c.name == *name).with_context(|| {
            let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
            format!("run {} has no component {name}; it has: {}", self.manifest.run_id, names.join(", "))
        })
    }

    /// One component, or all of them.
    pub fn components(&self, wanted: Option<&ComponentName>) -> Result<Vec<&Component>> {
        match wanted {
            Some(name) => Ok(vec![self.component(name)?]),
            None => Ok(self.manifest.components.iter().collect()),
        }
    }

    /// One component, or all that are trees of files.
    pub fn trees(&self, wanted: Option<&ComponentName>) -> Result<Vec<&Component>> {
        let mut found = self.components(wanted)?;
        found.retain(|c| c.kind == Kind::Tar);
        Ok(found)
    }

    /// Opens a file of the backup, as it is stored.
    pub fn file(&self, file: &str) -> Result<Box<dyn StoredFile>> {
        self.target.open(self.location, file, Cache::Warm)
    }

    /// Opens a file of the backup, decrypted.
    pub fn content(&self, file: &str) -> Result<Box<dyn StoredFile>> {
        let stored = self.file(file)?;
        if !self.manifest.encryption.is_some() {
            return Ok(stored);
        }
        match Decrypted::open(stored, Arc::clone(&self.keys)) {
            Ok(opened) => Ok(Box::new(opened)),
            Err(e) => Err(self.not_opened(file, e)),
        }
    }

    /// Reads a file of the backup from its beginning, decrypted. What is counted and digested are the bytes that
    /// are stored.
    pub fn sequential(&self, file: &str) -> Result<Counted<'static>> {
        self.sequential_of(self.file(file)?, file)
    }

    /// The same, of what reads the stored file.
    pub(super) fn sequential_of<'r>(&self, stored: impl Read + Send + 'r, file: &str) -> Result<Counted<'r>> {
        let stored = Tallied::new(stored);
        let totals = stored.totals();
        if !self.manifest.encryption.is_some() {
            return Ok((Box::new(stored), totals));
        }
        let opened = crypt::open(BufReader::with_capacity(256 << 10, stored), &self.keys)
            .map_err(|e| self.not_opened(file, e))?;
        Ok((Box::new(Explained(opened)), totals))
    }

    /// A component decrypted and decompressed from its beginning to its end.
    pub fn stream(&self, component: &Component) -> Result<Decoded> {
        let (stored, totals) = self.sequential(&component.file)?;
        Ok((StreamDecoder::new(stored, self.manifest.codec), totals))
    }

    /// The first warnings of a component: those in the manifest, or of an encrypted backup those in its list.
    pub fn warnings(&self, component: &Component) -> Result<Vec<FileWarning>> {
        let Some(list) = component.warnings_file.as_ref().filter(|_| self.manifest.encryption.is_some())
        else {
            return Ok(component.warnings.clone());
        };
        let reading = || format!("reading {}", list.file);
        let (stored, _) = self.sequential(&list.file)?;
        let lines = zstd::stream::read::Decoder::new(stored).with_context(reading)?;
        io::BufRead::lines(BufReader::new(lines))
            .take(crate::manifest::INLINE_WARNINGS)
            .map(|line| serde_json::from_str(&line?).map_err(anyhow::Error::from))
            .collect::<Result<_>>()
            .with_context(reading)
    }

    /// The index of a tree.
    pub fn index(&self, component: &Component) -> Result<Index> {
        let index = component
            .index
            .as_ref()
            .with_context(|| format!("component {} has no index; restore it whole", component.name))?;
        Ok(Index { stored: self.content(&index.file)?, file: index.file.clone() })
    }

    /// The index, read once and compared with what was written.
    pub fn checked_index(&self, component: &Component) -> Result<Index> {
        let described = component.index.as_ref().context("it has no index")?;
        let mut stored = self.file(&described.file)?;
        let mut digest = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = stored.read(&mut buffer).with_context(|| format!("reading {}", described.file))?;
            if got == 0 {
                break;
            }
            digest.update(&buffer[..got]);
        }
        if Sha256(digest.finalize().into()) != described.sha256 {
            bail!("its index {} is not what was written", described.file);
        }
        if self.manifest.encryption.is_some() {
            return self.index(component);
        }
        Ok(Index { stored, file: described.file.clone() })
    }

    /// The frames of a tree that hold what the patterns choose.
    pub fn select(&self, component: &Component, patterns: &Patterns) -> Result<Selection> {
        let index = self.index(component)?;
        select(&index.reader()?, patterns.roots(), &|path| patterns.choose(path))
    }
}

/// A decrypted stream whose errors say what is wrong.
struct Explained<R>(R);

impl<R: Read> Read for Explained<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(target::explain)
    }
}

/// An index file, opened.
pub struct Index {
    stored: Box<dyn StoredFile>,
    file: String,
}

/// Reads a piece of an index: `(offset, length)`.
pub type ReadIndex<'i> = Box<dyn Fn(u64, usize) -> Result<Vec<u8>> + Send + 'i>;

impl Index {
    /// Reads its directory.
    pub fn reader(&self) -> Result<IndexReader<ReadIndex<'_>>> {
        let read_at = self.stored.read_at();
        let length = read_at.length().with_context(|| format!("looking at {}", self.file))?;
        let file = &self.file;
        let read: ReadIndex<'_> = Box::new(move |offset, length| {
            read_at.read_exact_at(offset, length).with_context(|| format!("reading {file}"))
        });
        IndexReader::open(length, read).with_context(|| self.file.clone())
    }
}

/// Paths as they stand in an archive, with `*`, `?` and `**`; a folder's name chooses all below it.
pub struct Patterns {
    matcher: Override,
    roots: Vec<Vec<u8>>,
}

impl Patterns {
    /// Reads patterns; a leading `/` is the root of the archive.
    pub fn parse(paths: &[String]) -> Result<Self> {
        let mut builder = OverrideBuilder::new("/");
        let mut roots = Vec::new();
        for path in paths {
            let path = path.trim_start_matches('/');
            builder.add(&format!("/{path}")).with_context(|| format!("the pattern {path:?}"))?;
            roots.push(root_of(path).into_bytes());
        }
        Ok(Self { matcher: builder.build().context("the patterns")?, roots })
    }

    /// Paths at or below which everything stands that they choose, without `/` at the end; an empty one is the root.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// Whether they choose a path.
    pub fn choose(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let is_dir = path.ends_with(b"/");
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let path = Path::new("/").join(Path::new(std::ffi::OsStr::from_bytes(path)));
        // A path is chosen by itself, or by a folder above it.
        let mut dir = is_dir;
        for part in path.ancestors() {
            if part.parent().is_some() && self.matcher.matched(part, dir).is_whitelist() {
                return true;
            }
            dir = true;
        }
        false
    }
}

/// The folders that a pattern begins with, up to the first name that is not meant literally.
fn root_of(pattern: &str) -> String {
    // What the syntax of .gitignore gives a meaning to; white space at the end of a pattern is none of its name.
    let is_literal =
        |name: &&str| !name.contains(['*', '?', '[', ']', '{', '}', '\\']) && name.trim() == *name;
    let names: Vec<&str> = pattern.trim_end_matches('/').split('/').take_while(is_literal).collect();
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pattern_chooses_is_looked_for_below_the_names_it_begins_with() {
        for (pattern, root) in [
            ("var/www/app/artisan", "var/www/app/artisan"),
            ("var/www/", "var/www"),
            ("var/www/**/*.php", "var/www"),
            ("var/w?w/index.php", "var"),
            ("var/{a,b}/c", "var"),
            ("var/a\\*/c", "var"),
            ("var/a ", "var"),
            ("**", ""),
            ("*.php", ""),
        ] {
            assert_eq!(root_of(pattern), root, "{pattern}");
        }
        let patterns = Patterns::parse(&["/etc/passwd".to_owned(), "var/*".to_owned()]).unwrap();
        assert_eq!(patterns.roots(), [b"etc/passwd".to_vec(), b"var".to_vec()]);
    }

    #[test]
    fn a_pattern_chooses_files_folders_and_what_is_below_them() {
        let chosen = |pattern: &str, path: &str| {
            Patterns::parse(&[pattern.to_owned()]).unwrap().choose(path.as_bytes())
        };
        assert!(chosen("var/www/app/artisan", "var/www/app/artisan"));
        assert!(chosen("/var/www/app/artisan", "var/www/app/artisan"));
        assert!(chosen("var/www/app", "var/www/app/"));
        assert!(chosen("var/www/app", "var/www/app/a/b.php"));
        assert!(chosen("var/www/**/*.php", "var/www/app/a/b.php"));
        assert!(!chosen("var/www/app", "var/www/application"));
        assert!(!chosen("*.php", "var/www/app/a/b.php"));
        assert!(!chosen("var/www/*.php", "var/www/app/b.php"));
    }
}
