//! An agent with a folder of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
#[cfg(feature = "failpoints")]
use std::time::{Duration, Instant};

pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new(sources: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        fs::create_dir(dir.path().join("local")).unwrap();
        let config = format!(
            "state_dir = '{root}/state'\n[target.local]\ntype = 'directory'\npath = '{root}/local'\n\
             [job.shop]\nschedule = '0 3 * * *'\ntargets = ['local']\n{sources}"
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn agent(&self, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path().join("config.toml")).args(args.split(' '));
        command.output().unwrap()
    }

    #[track_caller]
    pub fn works(&self, args: &str) -> String {
        let out = self.agent(args);
        assert!(out.status.success(), "{args}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    pub fn fails(&self, args: &str, texts: &[&str]) {
        let out = self.agent(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "{args} worked");
        for text in texts {
            assert!(said.contains(text), "{args}: {text:?} is missing in: {said}");
        }
        let left = fs::read_dir(self.path().join("state")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("loading")), "{left:?}");
    }

    /// The agent with something that happens at a place in it.
    #[cfg(feature = "failpoints")]
    pub fn failing(&self, args: &str, failpoint: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(self.path().join("config.toml")).args(args.split(' '));
        command.env("BACKUP_AGENT_FAILPOINT", failpoint);
        command.env("BACKUP_AGENT_FAILPOINT_TRACE", self.path().join("trace"));
        command
    }

    /// Starts the agent, and waits until something happens at a place in it; `meanwhile` is done while it pauses
    /// there.
    #[cfg(feature = "failpoints")]
    pub fn paused(
        &self,
        args: &str,
        failpoint: &str,
        meanwhile: impl FnOnce(&std::process::Child),
    ) -> Output {
        let _ = fs::remove_file(self.path().join("trace"));
        let mut command = self.failing(args, failpoint);
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while !fs::read_to_string(self.path().join("trace")).is_ok_and(|trace| trace.contains("fired ")) {
            assert!(begun.elapsed() < Duration::from_secs(60), "the place is never passed");
            std::thread::sleep(Duration::from_millis(20));
        }
        meanwhile(&child);
        fs::write(self.path().join("trace.go"), "").unwrap();
        let out = child.wait_with_output().unwrap();
        fs::remove_file(self.path().join("trace.go")).unwrap();
        out
    }

    /// What the agent says that is interrupted when a dump has been loaded.
    #[cfg(feature = "failpoints")]
    pub fn interrupted(&self, args: &str, failpoint: &str) -> String {
        let out = self.paused(args, failpoint, |child| {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
            // It is noticed by another thread.
            std::thread::sleep(Duration::from_millis(300));
        });
        assert_eq!(out.status.code(), Some(130), "{out:?}");
        String::from_utf8(out.stderr).unwrap()
    }

    /// A file with a secret.
    pub fn secret(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    /// The stored file of a component, of the newest backup.
    pub fn stored(&self, name: &str) -> std::path::PathBuf {
        let found =
            Command::new("find").arg(self.path().join("local")).args(["-name", name]).output().unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        found.lines().max().unwrap_or_default().into()
    }
}
