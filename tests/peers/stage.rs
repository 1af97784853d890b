//! A folder for one test of a source, and what a run does with a source.

// Each test takes what it needs.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use backup_agent::event::Progress;
use backup_agent::source::{Capture, Context, Part, Source, StreamSource};

/// A folder for one test.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub context: Context,
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir, context: Context::new(scratch, Arc::new(Progress::default())) }
    }

    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub fn password(&self, text: &str) -> PathBuf {
        self.file("password", text, 0o600)
    }

    pub fn parts(&self, source: &dyn Source) -> anyhow::Result<Vec<Part>> {
        Ok(source.preflight(&self.context)?.parts)
    }

    pub fn warnings(&self, source: &dyn Source) -> Vec<String> {
        source.preflight(&self.context).unwrap().warnings
    }

    pub fn open(&self, source: &dyn Source, part: &Part) -> anyhow::Result<Box<dyn StreamSource>> {
        match source.open(part, &self.context)? {
            Capture::Stream(stream) => Ok(stream),
            Capture::Tree(_) => panic!("a stream was expected"),
        }
    }

    /// The only component, or the first.
    pub fn capture(&self, source: &dyn Source) -> anyhow::Result<Vec<u8>> {
        self.capture_part(source, &self.parts(source)?[0])
    }

    pub fn capture_part(&self, source: &dyn Source, part: &Part) -> anyhow::Result<Vec<u8>> {
        let mut stream = self.open(source, part)?;
        let mut bytes = Vec::new();
        let read = stream.reader().read_to_end(&mut bytes);
        stream.finish()?;
        read?;
        assert_eq!(fs::read_dir(&self.context.scratch)?.count(), 0, "something stayed in the scratch folder");
        Ok(bytes)
    }
}
