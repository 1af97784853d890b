//! A folder for tests of sources: secrets, programs, a scratch folder.

#![allow(dead_code, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use backup_agent::event::Progress;
use backup_agent::source::Context;

/// A folder with stub programs, secrets and a scratch folder.
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
        Self { dir, context: Context { scratch, progress: Arc::new(Progress::default()) } }
    }

    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}
