//! A small world for fault tests: a source tree, targets, a configuration, a mail server, and the real
//! binary. What must hold after every fault stands in `invariants.rs`, once.

#![allow(dead_code, missing_docs)]

#[path = "commands.rs"]
mod commands;
#[path = "invariants.rs"]
pub mod invariants;
#[path = "smtp.rs"]
pub mod smtp;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

// Not every file of tests uses all of them.
#[allow(unused_imports)]
pub use commands::{Out, Paused, finish, output, system, wait_for};
use serde_json::Value;
use smtp::SmtpServer;

/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// What is different from the plainest world. `{root}` in texts becomes the world's folder.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Where its folder is made; memory when absent, since nobody pulls the plug.
    pub base: Option<PathBuf>,
    /// A second target.
    pub nas: bool,
    /// Lines in `[target.local]` and `[target.nas]`.
    pub local: &'static str,
    pub nas_lines: &'static str,
    /// Lines in `[job.web]`.
    pub job: &'static str,
    /// Lines in `[job.web.source.application]`.
    pub files: &'static str,
    /// Further tables.
    pub more: String,
    /// Lines in `[notify.admin]`.
    pub notify: &'static str,
}

pub struct World {
    dir: tempfile::TempDir,
    setup: Setup,
    pub smtp: SmtpServer,
    /// The version of the source tree.
    version: Cell<u64>,
    /// Paths below the source that a backup may lack, or hold with other content than they were made with.
    pub exempt: RefCell<BTreeSet<String>>,
    /// Backups of which every byte was compared already, by what is stored.
    compared: RefCell<HashSet<u64>>,
    /// Backups that were good once.
    known_good: RefCell<BTreeSet<(String, String)>>,
    /// Whether the last run was told to be bad, so that the next bad one need not be told again.
    in_trouble: Cell<bool>,
    /// Variables of the environment that the program gets.
    pub env: RefCell<Vec<(&'static str, &'static str)>>,
    /// Brings what a store without files holds into the folder of its target, before anybody looks there.
    pub mirror: RefCell<Option<Box<dyn Fn()>>>,
}

impl World {
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let base = setup.base.clone().unwrap_or_else(memory);
        let dir = tempfile::Builder::new().prefix("agent-fault-").tempdir_in(base).unwrap();
        let world = Self {
            dir,
            setup,
            smtp: SmtpServer::plain(),
            version: Cell::new(0),
            exempt: RefCell::default(),
            compared: RefCell::default(),
            known_good: RefCell::default(),
            in_trouble: Cell::new(false),
            env: RefCell::default(),
            mirror: RefCell::default(),
        };
        for folder in ["local", "nas", "src"] {
            fs::create_dir(world.path(folder)).unwrap();
        }
        world.write_config(&world.smtp.url());
        world.change();
        world
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes the configuration; mail goes to `smtp`.
    pub fn write_config(&self, smtp: &str) {
        let Setup { local, nas_lines, job, files, more, notify, nas, .. } = &self.setup;
        let targets = if *nas { r#""local", "nas""# } else { r#""local""# };
        let text = format!(
            r#"
host = "testhost"
timezone = "UTC"
state_dir = "{{root}}/state"
[target.local]
type = "directory"
path = "{{root}}/local"
{local}
[target.nas]
type = "directory"
path = "{{root}}/nas"
{nas_lines}
[job.web]
schedule = "0 3 * * *"
targets = [{targets}]
{job}
[job.web.source.application]
type = "files"
paths = ["{{root}}/src"]
{files}
{more}
[notify.admin]
type = "email"
smtp = "{smtp}"
from = "backup@example.org"
to = ["admin@example.org"]
{notify}
"#
        );
        fs::write(self.path("config.toml"), text.replace("{root}", &self.root().display().to_string()))
            .unwrap();
    }

    /// Replaces a text of the configuration.
    #[track_caller]
    pub fn edit_config(&self, from: &str, to: &str) {
        let path = self.path("config.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} is not in the configuration");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Writes a file below the world's folder.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Leaves a path below the source, or with a `/` at its end all below it, out of comparisons.
    pub fn exempt(&self, path: &str) {
        self.exempt.borrow_mut().insert(path.to_owned());
    }

    /// Lets the source tree become its next version.
    pub fn change(&self) {
        self.version.set(self.version.get() + 1);
        for (name, content) in tree(self.version.get()) {
            let path = self.path("src").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content {
                Content::File(bytes) => fs::write(path, bytes).unwrap(),
                Content::Link(to) => {
                    let _ = fs::remove_file(&path);
                    std::os::unix::fs::symlink(to, path).unwrap();
                }
            }
        }
    }

    /// The agent with these arguments, ready to run.
    pub fn agent(&self, args: &[&str]) -> Command {
        self.under(&[], args)
    }

    /// The same, started by another program: `strace …`, `prlimit …`.
    pub fn under(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new(wrapper.first().unwrap_or(&AGENT));
        if !wrapper.is_empty() {
            command.args(&wrapper[1..]).arg(AGENT);
        }
        command.arg("--config").arg(self.path("config.toml")).args(args).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/");
        command.envs(self.env.borrow().iter().copied());
        command
    }

    pub fn run(&self, args: &[&str]) -> Out {
        output(self.agent(args))
    }

    /// One backup.
    pub fn backup(&self) -> Out {
        self.run(&["backup", "web", "--json"])
    }

    /// One backup with a failpoint, which must have fired.
    #[track_caller]
    pub fn backup_at(&self, failpoint: &str) -> Out {
        let (out, fired) = self.run_at(failpoint, &["backup", "web", "--json"]);
        assert!(fired, "{failpoint} did not fire: {out:?}");
        out
    }

    /// A command with a failpoint, and whether it fired.
    pub fn run_at(&self, failpoint: &str, args: &[&str]) -> (Out, bool) {
        let trace = self.path("trace");
        let _ = fs::remove_file(&trace);
        let mut command = self.agent(args);
        command.env("BACKUP_AGENT_FAILPOINT", failpoint).env("BACKUP_AGENT_FAILPOINT_TRACE", &trace);
        let out = output(command);
        let fired = fs::read_to_string(&trace).unwrap_or_default().lines().any(|l| l.starts_with("fired "));
        (out, fired)
    }

    /// Starts a command that stops at a failpoint, and waits until it is there.
    #[track_caller]
    pub fn pause_at(&self, place: &str, args: &[&str]) -> Paused {
        let (trace, go) = (self.path("pause"), self.path("pause.go"));
        let _ = (fs::remove_file(&trace), fs::remove_file(&go));
        let mut command = self.agent(args);
        command.env("BACKUP_AGENT_FAILPOINT", format!("{place}=pause"));
        command.env("BACKUP_AGENT_FAILPOINT_TRACE", &trace);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(place, || fs::read_to_string(&trace).is_ok_and(|t| t.contains("fired ")));
        Paused::new(child, go)
    }

    /// Every place a backup passes, each with its number: `local:write#2`.
    pub fn places(&self) -> Vec<String> {
        let trace = self.path("places");
        let mut command = self.agent(&["backup", "web", "--json"]);
        command.env("BACKUP_AGENT_FAILPOINT_TRACE", &trace);
        output(command).expect(0);
        let text = fs::read_to_string(&trace).expect("built with --features failpoints");
        // The process that makes copies counts for itself; a place of that number fires in whichever is first.
        let mut places: Vec<String> = Vec::new();
        for place in text.lines().map(str::to_owned) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// All copies that are not expired.
    pub fn list(&self) -> Vec<Value> {
        let out = self.run(&["list", "--json"]);
        if out.code != 0 && out.stderr.contains("Nothing was backed up") {
            return Vec::new();
        }
        out.expect(0).json().as_array().unwrap().clone()
    }

    /// All runs, newest first.
    pub fn history(&self) -> Vec<Value> {
        self.run(&["history", "--json", "-n", "1000"]).expect(0).json().as_array().unwrap().clone()
    }

    /// Lets the folders of targets hold what the targets hold.
    fn look(&self) {
        if let Some(mirror) = &*self.mirror.borrow() {
            mirror();
        }
    }

    /// The folder of a copy.
    pub fn folder(&self, copy: &Value) -> PathBuf {
        self.path(copy["target"].as_str().unwrap()).join(copy["location"].as_str().unwrap())
    }

    /// The folder of the newest backup at a target.
    pub fn newest(&self, target: &str) -> PathBuf {
        let list = self.list();
        let copy = list.iter().find(|c| c["target"] == target && c["location"].is_string());
        self.folder(copy.expect("a backup"))
    }

    /// The value of a metric of the job, by name and further labels: `backup_copies_pending{target="nas"}`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.run(&["metrics"]).expect(0).stdout;
        self.metric_in(&text, name).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// The value of a metric that is no job's.
    pub fn metric_of(&self, name: &str, label: &str) -> f64 {
        self.metric(&format!("{name}{{{label}}}"))
    }

    pub fn metric_in(&self, text: &str, name: &str) -> Option<f64> {
        let (name, label) = name.split_once('{').map_or((name, ""), |(n, l)| (n, l.trim_end_matches('}')));
        text.lines()
            .find(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.contains(label)))
            .and_then(|l| l.rsplit_once(' ')?.1.parse().ok())
    }

    /// What is left at the targets of unfinished backups and removals.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        self.look();
        let mut found = Vec::new();
        for target in ["local", "nas"] {
            let Ok(entries) = fs::read_dir(self.path(target)) else { continue };
            found.extend(
                entries
                    .map(|e| e.unwrap().path())
                    .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(['.']))
                    // By `agent target init`, to stay.
                    .filter(|p| !p.ends_with(".backup-agent-target.json")),
            );
        }
        found
    }

    /// Every folder at a target that holds a manifest.
    pub fn stored(&self, target: &str) -> Vec<PathBuf> {
        self.look();
        let mut found = Vec::new();
        let mut folders = vec![self.path(target)];
        while let Some(folder) = folders.pop() {
            if folder.join("manifest.json").exists() {
                found.push(folder);
                continue;
            }
            let Ok(entries) = fs::read_dir(folder) else { continue };
            // What is unfinished is hidden, and nobody takes it for a backup; it may have its manifest already.
            let visible = |path: &PathBuf| !path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
            folders.extend(entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir() && visible(p)));
        }
        found
    }

    /// Every mail the server took, as it stands on the wire.
    pub fn mails(&self) -> Vec<String> {
        self.smtp.mails().iter().map(|m| String::from_utf8_lossy(&m.data).into_owned()).collect()
    }

    /// Mails of one kind: `failure`, `recovery`.
    pub fn mails_of(&self, kind: &str) -> usize {
        let header = format!("X-Backup-Agent-Kind: {kind}\r\n");
        self.mails().iter().filter(|m| m.contains(&header)).count()
    }
}

/// A folder in memory, where there is one with room for the worlds of several tests.
pub fn memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    let room = rustix::fs::statvfs(&shm).is_ok_and(|fs| fs.f_bavail * fs.f_frsize > 1 << 30);
    if room && tempfile::tempfile_in(&shm).is_ok() { shm } else { std::env::temp_dir() }
}

/// A folder on a disk that is not below any mount point but the root.
pub fn below_no_mount() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let root = fs::metadata("/").unwrap().dev();
    let on_root = |p: &PathBuf| {
        p.ancestors().all(|a| fs::metadata(a).is_ok_and(|m| m.dev() == root))
            && tempfile::tempfile_in(p).is_ok()
    };
    let places = ["/var/tmp", "/tmp", "/root", "/opt"];
    places.iter().map(PathBuf::from).find(on_root).expect("a folder on the root file system")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    File(Vec<u8>),
    Link(String),
}

/// The source tree of a version: text that compresses, bytes that do not, an empty file, a link.
pub fn tree(version: u64) -> BTreeMap<String, Content> {
    let mut tree = BTreeMap::new();
    let mut file = |name: &str, bytes: Vec<u8>| tree.insert(name.to_owned(), Content::File(bytes));
    file("version.txt", version.to_string().into_bytes());
    file("empty", Vec::new());
    file("config/app.php", b"<?php return ['name' => 'shop'];\n".repeat(40));
    for i in 0..6 {
        file(&format!("notes/{i}.txt"), format!("note {i} of version {version:08}\n").into_bytes());
    }
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ version;
    let noise = (0..40_000).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    file("media/photo.bin", noise.collect());
    tree.insert("current".to_owned(), Content::Link("version.txt".to_owned()));
    tree
}
