//! A folder with a configuration, data and targets, and the program run in it.

// Each file of tests takes what it needs.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Whatever is waited for comes much sooner.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// What one call of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, after a look at the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// The answer as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\nerr: {}", self.out, self.err))
    }

    /// The same, after a look for texts in what was printed.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(
                self.out.contains(text) || self.err.contains(text),
                "{text:?} is missing\nout: {}\nerr: {}",
                self.out,
                self.err
            );
        }
        self
    }
}

pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// An empty folder that every user may enter.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("agent-cli-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// Data, a target folder `local`, and a configuration with `{}` as the folder's path.
    pub fn new(config: &str) -> Self {
        let world = Self::empty();
        world.data();
        fs::create_dir(world.path("local")).unwrap();
        world.configure(config);
        world
    }

    /// A small tree with what an application has.
    pub fn data(&self) {
        self.write("data/index.php", "<?php echo 'hello';\n");
        self.write("data/app/Models/User.php", "<?php class User {}\n");
        self.write("data/app/Models/Grüße.php", "<?php // ümlaut\n");
        self.write("data/storage/media/big.bin", &"0123456789abcdef".repeat(20_000));
        fs::create_dir(self.path("data/empty")).unwrap();
        std::os::unix::fs::symlink("index.php", self.path("data/link")).unwrap();
        fs::set_permissions(self.path("data/app"), fs::Permissions::from_mode(0o750)).unwrap();
    }

    pub fn configure(&self, config: &str) {
        self.write("config.toml", &config.replace("{}", &self.root()));
    }

    pub fn root(&self) -> String {
        self.dir.path().display().to_string()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, name: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The program, in this folder, with nothing of the surroundings' configuration.
    pub fn program(&self) -> Command {
        let mut command = Command::new(AGENT);
        self.clean(&mut command);
        command
    }

    /// The program as an ordinary user, if there is another one: as root it becomes `nobody`.
    pub fn as_nobody(&self) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.program();
        }
        // The folder of the build may be closed to others.
        let copy = self.path("agent-for-all");
        if !copy.exists() {
            // By another process: one forked here meanwhile would hold the file open for writing.
            self.sh("cp \"$AGENT\" agent-for-all");
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]).arg(copy);
        self.clean(&mut command);
        command
    }

    fn clean(&self, command: &mut Command) {
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKUP_AGENT"))
        {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).env_remove("NO_COLOR").stdin(Stdio::null());
    }

    /// Runs the program with the configuration.
    #[track_caller]
    pub fn agent(&self, args: &str) -> Ran {
        self.run(self.program().args(["--config", "config.toml"]), args)
    }

    /// Runs the program with these arguments only.
    #[track_caller]
    pub fn bare(&self, args: &str) -> Ran {
        self.run(&mut self.program(), args)
    }

    /// Runs a command with further arguments, separated by blanks.
    #[track_caller]
    pub fn run(&self, command: &mut Command, args: &str) -> Ran {
        Ran::new(&command.args(args.split_whitespace()).output().unwrap())
    }

    /// Runs a script in this folder.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let ran = Ran::new(&self.shell(script).output().unwrap());
        assert_eq!(ran.code, 0, "{script}\nout: {}\nerr: {}", ran.out, ran.err);
        ran.out
    }

    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).env("AGENT", AGENT);
        self.clean(&mut command);
        command
    }

    /// Nothing tells two trees apart.
    #[track_caller]
    pub fn same(&self, one: impl AsRef<Path>, other: impl AsRef<Path>) {
        let (one, other) = (self.path(one), self.path(other));
        let list = |root: &Path| {
            self.sh(&format!(
                "cd '{}' && find . -printf '%P %y %m %U:%G %T@ %l %s\\n' | awk '$2 == \"d\" {{ NF-- }} 1' | sort",
                root.display()
            ))
        };
        assert_eq!(list(&one), list(&other));
        self.sh(&format!("diff -r --no-dereference '{}' '{}'", one.display(), other.display()));
    }

    /// The status of each copy at a target, in the order of `agent list`.
    pub fn statuses(&self, target: &str) -> Vec<String> {
        let list = self.agent(&format!("list --target {target} --json")).exits(0).json();
        list.as_array().unwrap().iter().map(|copy| copy["status"].as_str().unwrap().to_owned()).collect()
    }

    /// Folders of backups at a target, in the order of their names.
    pub fn backups(&self, target: &str) -> Vec<PathBuf> {
        let found = self.sh(&format!("find '{target}' -name manifest.json -printf '%h\\n' | sort"));
        found.lines().map(|line| self.path(line)).collect()
    }
}

/// Ends a child with the test.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

macro_rules! one_job {
    () => {
        r#"
timezone = "Europe/Berlin"
host = "web1"
state_dir = "{}/state"
[target.local]
type = "directory"
path = "{}/local"
[job.web]
trigger = "external"
schedule = "0 3,11,19 * * *"
targets = ["local"]
"#
    };
}

/// One job with one target, its sources to be added.
pub const ONE_JOB: &str = one_job!();

/// One job with one target.
pub const SIMPLE: &str = concat!(
    one_job!(),
    r#"[job.web.source.application]
type = "files"
paths = ["{}/data"]
"#
);

/// One job with a primary and a second target, and nothing that starts by itself.
pub const TWO: &str = r#"
timezone = "Europe/Berlin"
host = "web1"
listen = "127.0.0.1:0"
state_dir = "{}/state"
[target.local]
type = "directory"
path = "{}/local"
[target.nas]
type = "directory"
path = "{}/nas"
[job.web]
trigger = "external"
schedule = "0 3,11,19 * * *"
copy_wait = "1h"
targets = ["local", "nas"]
[job.web.source.application]
type = "files"
paths = ["{}/data"]
"#;

/// The folder a tree is restored to: archives hold paths from the root.
pub fn below(folder: &str, world: &World, name: &str) -> PathBuf {
    Path::new(folder).join(world.path(name).strip_prefix("/").unwrap())
}
