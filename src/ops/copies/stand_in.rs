//! Targets of tests without the real program: a script does what the child process is asked for.
//!
//! Files in a target's folder say how it behaves: `slow` (a copy goes on until the file `go` is there), `down` (nothing
//! answers), `refuse` (a copy is refused for good), `cut` (a copy breaks, though the target answers). What was copied is
//! in its file `copied`, a run a line; what was begun in `begun`; how often it was looked at in `probed`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::{Clock, ManualClock};
use crate::config::{self, Config};
use crate::lock::ProcessIdentity;
use crate::model::{JobName, Outcome, RunId, TargetName};
use crate::ops::Agent;
use crate::state::CopyStatus;
use crate::state::{EndedRun, NewCopy, NewRun, RunTrigger, State};

const SCRIPT: &str = r#"
read -r line
first() { printf '%s' "$line" | sed "s/.*\"$1\":{\"target\"[^}]*\"path\":\"\([^\"]*\)\".*/\1/"; }
run=$(printf '%s' "$line" | sed 's/.*"run":"\([^"]*\)".*/\1/')
fail() { printf '{"is":"failed","error":"%s","permanent":%s}\n' "$1" "$2"; exit 0; }
case "$line" in
    *'"do":"copy"'*) dir=$(first to) ;;
    *) dir=$(first at) ;;
esac
case "$line" in *'"do":"probe"'*) echo x >> "$dir/probed" ;; esac
[ -e "$dir/down" ] && fail "the target is away" false
case "$line" in
    *'"do":"probe"'*) echo '{"is":"probed","space":null}' ;;
    *'"do":"copy"'*)
        echo "$run" >> "$dir/begun"
        [ -e "$dir/refuse" ] && fail "wrong credentials" true
        [ -e "$dir/cut" ] && fail "connection reset" false
        n=0
        while [ -e "$dir/slow" ] && [ ! -e "$dir/go" ]; do
            n=$((n + 1)); echo "{\"is\":\"progress\",\"bytes\":$n}"; sleep 0.05
        done
        [ -e "$dir/cut" ] && fail "connection reset" false
        echo "$run" >> "$dir/copied"
        printf '{"is":"copied","location":"%s","bytes":1}\n' "$run" ;;
    *) echo '{"is":"removed"}' ;;
esac
"#;

/// The script.
pub fn stand_in() -> &'static Path {
    static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let made = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("stand-in");
        fs::write(&file, SCRIPT).unwrap();
        (folder, file)
    });
    &made.1
}

/// A host with a job `web` whose primary target is `local`, and further ones.
pub struct Host {
    folder: tempfile::TempDir,
    /// The time there.
    pub clock: Arc<ManualClock>,
    /// Its configuration, to be changed before [`Host::agent`].
    pub config: Config,
}

impl Host {
    /// A host with these targets beside the primary.
    pub fn new(further: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("a"), "content").unwrap();
        for target in further.iter().chain(&["local"]) {
            fs::create_dir(folder.path().join(target)).unwrap();
        }
        let state = folder.path().join("state");
        let mut config = config::adhoc(&[source], &folder.path().join("local"), Some(&state));
        config.timezone = chrono_tz::UTC;
        let (_, primary) = config.target.pop_first().unwrap();
        let (_, mut job) = config.job.pop_first().unwrap();
        job.targets.clear();
        for name in ["local"].iter().chain(further) {
            let path = folder.path().join(name);
            let text = format!("type = \"directory\"\npath = \"{}\"", path.display());
            let target = toml::from_str(&text).unwrap();
            job.targets.push(name.parse().unwrap());
            config
                .target
                .insert(name.parse().unwrap(), if *name == "local" { primary.clone() } else { target });
        }
        config.job.insert("web".parse().unwrap(), job);
        let clock = Arc::new(ManualClock::new("2026-11-24T03:00:00Z".parse().unwrap()));
        Self { folder, clock, config }
    }

    /// What works with its state.
    pub fn agent(&self) -> Agent {
        Agent {
            config: Arc::new(self.config.clone()),
            state: State::open(&self.config.state_dir, self.clock.now()).unwrap(),
            clock: self.clock.clone(),
            channels: Arc::default(),
            command: "agent".to_owned(),
        }
    }

    /// The folder that the job backs up.
    pub fn source(&self) -> std::path::PathBuf {
        self.folder.path().join("source")
    }

    /// How a target behaves from now on.
    pub fn set(&self, target: &str, file: &str) {
        fs::write(self.folder.path().join(target).join(file), "").unwrap();
    }

    /// How it no longer behaves.
    pub fn unset(&self, target: &str, file: &str) {
        fs::remove_file(self.folder.path().join(target).join(file)).unwrap();
    }

    /// The lines of a file of a target.
    pub fn lines(&self, target: &str, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(target).join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A backup made `hours` ago, whose copies wait; its run.
    pub fn backup(&self, state: &State, hours: i64) -> RunId {
        let started: DateTime<Utc> = self.clock.now() - TimeDelta::hours(hours);
        let run_id = RunId::generate(started);
        let job: JobName = "web".parse().unwrap();
        let run = NewRun {
            run_id: run_id.clone(),
            job: job.clone(),
            trigger: RunTrigger::Schedule,
            scheduled_for: Some(started),
            process: ProcessIdentity::current(),
            started,
        };
        state.begin_run(&run).unwrap();
        let copies: Vec<NewCopy> = self.config.job[&job]
            .targets
            .iter()
            .map(|target: &TargetName| NewCopy {
                target: target.clone(),
                primary: target.as_str() == "local",
                status: if target.as_str() == "local" { CopyStatus::Verified } else { CopyStatus::Pending },
                location: (target.as_str() == "local").then(|| run_id.to_string()),
                bytes: 1,
            })
            .collect();
        state.end_run(&EndedRun::new(run_id.clone(), Outcome::Success, started), &copies, &[]).unwrap();
        run_id
    }
}
