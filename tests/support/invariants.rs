//! What must hold after every fault, whatever it was.
//!
//! 1. Every backup that `agent list` calls complete or verified restores byte for byte, by the agent and by
//!    `sha256sum`, `zstd` and `tar` alone.
//! 2. Else the exit code, a metric, and a mail (delivered or queued) say that there is none.
//! 3. No earlier backup is lost.
//! 4. The next normal run succeeds without help and leaves nothing unfinished behind.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde_json::Value;

use super::{Content, Out, World, system, tree};

/// What a run should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Success,
    Warning,
    Partial,
    Degraded,
    Failure,
    Interrupted,
}

/// outcome, exit code, kind of mail, the metrics `last_run_success` and `last_run_degraded`.
type Row = (Expect, &'static str, i32, Option<&'static str>, f64, f64);
const ROWS: [Row; 6] = [
    (Expect::Success, "success", 0, None, 1.0, 0.0),
    (Expect::Warning, "warning", 0, None, 1.0, 0.0),
    (Expect::Partial, "partial", 3, Some("partial"), 0.0, 0.0),
    (Expect::Degraded, "success", 4, Some("degraded"), 1.0, 1.0),
    (Expect::Failure, "failure", 1, Some("failure"), 0.0, 0.0),
    (Expect::Interrupted, "interrupted", 130, Some("interrupted"), 0.0, 0.0),
];

impl World {
    /// Checks all invariants after a backup that ended by itself.
    #[track_caller]
    pub fn after(&self, out: &Out, expect: Expect) {
        let (_, outcome, code, kind, success, degraded) =
            *ROWS.iter().find(|row| row.0 == expect).expect("every expectation has a row");
        assert_eq!(out.code, code, "exit code for {expect:?}\n{}", out.all());
        let answer = out.json();
        assert_eq!(answer["outcome"], outcome, "{}", out.all());
        let run = answer["run_id"].as_str().unwrap();
        let list = self.check_backups();

        let good = matches!(expect, Expect::Success | Expect::Warning | Expect::Degraded);
        let stored = good || expect == Expect::Partial;
        let listed = list.iter().any(|c| c["run_id"] == run && c["status"] == "verified");
        assert_eq!(listed, stored, "whether run {run} left a backup\n{}", out.all());

        let metrics = self.run(&["metrics"]).expect(0).stdout;
        let metric = |name: &str| self.metric_in(&metrics, name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(metric("backup_last_run_success"), success, "{expect:?}");
        assert_eq!(metric("backup_last_run_degraded"), degraded, "{expect:?}");
        assert_eq!(metric("backup_failing_since_timestamp_seconds") > 0.0, !good, "{expect:?}");
        assert_eq!(metric("backup_running"), 0.0, "{expect:?}");
        if !good && self.history().iter().any(|r| r["outcome"] == "success" || r["outcome"] == "warning") {
            let (last, ended) =
                ("backup_last_success_timestamp_seconds", "backup_last_run_timestamp_seconds");
            assert!(metric(last) > 0.0, "the last success was forgotten");
            assert!(metric(last) < metric(ended), "a bad run moved the last success");
        }

        if let Some(kind) = kind.filter(|_| !self.in_trouble.get()) {
            assert!(
                self.is_told(kind, run),
                "nobody is told that run {run} ended with {kind}\n{}",
                out.all()
            );
        }
        self.in_trouble.set(kind.is_some());
    }

    /// Whether a message of this kind about this run was accepted, or waits to be sent again.
    pub fn is_told(&self, kind: &str, run: &str) -> bool {
        let queue = self.run(&["notify", "queue", "--json", "-n", "1000"]).expect(0).json();
        let queue = queue.as_array().unwrap();
        let status =
            |s: &str| queue.iter().any(|m| m["kind"] == kind && m["run_id"] == run && m["status"] == s);
        let arrived = || self.mails().iter().any(|m| m.contains(run));
        (status("delivered") && arrived()) || status("pending")
    }

    /// Makes the copies that failed, without the pause between attempts.
    #[track_caller]
    pub fn catch_up(&self) {
        self.run(&["tend", "--retry"]).expect(0);
        self.check_backups();
        let pending = self.metric("backup_copies_pending{target=\"nas\"}");
        assert_eq!(pending, 0.0, "a copy is still missing");
        self.in_trouble.set(self.metric("backup_last_run_degraded") > 0.0);
    }

    /// The next normal run, and what it must leave behind.
    #[track_caller]
    pub fn recover(&self) {
        self.change();
        let out = self.backup();
        self.after(&out, Expect::Success);
        let mut left = self.leftovers();
        if self.list().iter().any(|c| c["status"] == "pending") {
            // What an attempt at a copy left is removed by the next one, which is not due yet.
            left.retain(|path| !path.starts_with(self.path("nas")));
        }
        assert!(left.is_empty(), "left behind after a good run: {left:?}");
        self.check_nothing_stray();
    }

    /// Checks a run that was killed, after the next start: `next` is what is started, `tend` or `backup`.
    #[track_caller]
    pub fn after_kill(&self, next: &str) {
        let unfinished: Vec<Value> = self.history().into_iter().filter(|r| r["outcome"].is_null()).collect();
        if next == "tend" {
            self.run(&["tend"]).expect(0);
            self.check_backups();
        } else {
            self.recover();
        }
        let history = self.history();
        for run in &unfinished {
            let id = run["run_id"].as_str().unwrap();
            let row = history.iter().find(|r| r["run_id"] == id).expect("the run is remembered");
            match row["outcome"].as_str() {
                // It died between the rename and the record: the backup is whole and counts.
                Some("success") => assert!(row["degraded"][0].as_str().unwrap().contains("died"), "{row}"),
                Some("interrupted") => {
                    // A run that is good by now is told in one message: failed then, good again now.
                    let newest = history[0]["run_id"].as_str().unwrap();
                    let told = self.is_told("interrupted", id)
                        || next == "backup" && self.is_told("recovery", newest);
                    assert!(told, "nobody is told that {id} was killed");
                }
                _ => panic!("a killed run is recorded as {row}"),
            }
        }
        // A copy's leftovers are removed by the next attempt at it, which may not be due yet.
        let local = self.path("local");
        let left: Vec<_> = self.leftovers().into_iter().filter(|p| p.starts_with(&local)).collect();
        assert!(left.is_empty(), "left behind after {next}: {left:?}");
        self.in_trouble.set(next == "tend" && !unfinished.is_empty());
        if next == "tend" {
            self.recover();
        }
    }

    /// Invariants 1 and 3.
    #[track_caller]
    pub fn check_backups(&self) -> Vec<Value> {
        self.look();
        let all = self.run(&["list", "--all", "--json"]).expect(0).json();
        let all = all.as_array().unwrap();
        let list: Vec<Value> = all.iter().filter(|c| c["status"] != "expired").cloned().collect();
        for copy in list.iter().filter(|c| c["status"] == "verified" || c["status"] == "complete") {
            self.check_backup(copy);
            self.known_good.borrow_mut().insert(key(copy));
        }
        // What was good once is good still, unless retention let it go.
        for known in self.known_good.borrow().iter() {
            let now = all.iter().find(|c| key(c) == *known);
            let status = now.map(|c| c["status"].as_str().unwrap());
            let kept = matches!(status, Some("verified" | "complete" | "expired"));
            assert!(kept || self.is_damaged_on_purpose(known), "{known:?} is {status:?} now");
        }
        if !self.known_good.borrow().is_empty() {
            let good = list.iter().any(|c| c["status"] == "verified");
            assert!(good, "there were good backups, and now there is none");
        }
        list
    }

    /// Forgets that these copies were good: the test damages them.
    pub fn damage(&self, run: &str, target: &str) {
        self.known_good.borrow_mut().remove(&(run.to_owned(), target.to_owned()));
        self.exempt.borrow_mut().insert(format!("damaged {run} {target}"));
    }

    fn is_damaged_on_purpose(&self, key: &(String, String)) -> bool {
        self.exempt.borrow().contains(&format!("damaged {} {}", key.0, key.1))
    }

    /// Every folder with a manifest belongs to a backup that is listed.
    #[track_caller]
    pub fn check_nothing_stray(&self) {
        let list = self.list();
        let known: Vec<_> =
            list.iter().filter(|c| c["location"].is_string()).map(|c| self.folder(c)).collect();
        for target in ["local", "nas"] {
            for folder in self.stored(target) {
                assert!(known.contains(&folder), "{} belongs to no backup", folder.display());
            }
        }
    }

    #[track_caller]
    fn check_backup(&self, copy: &Value) {
        let folder = self.folder(copy);
        let at = folder.display().to_string();
        let print = fingerprint(&folder);
        if self.compared.borrow().contains(&print) {
            return;
        }
        let sums = format!("cd '{at}' && sha256sum --quiet --strict -c SHA256SUMS");
        system("sh", &["-c", &sums]);
        let out = tempfile::tempdir_in(self.root()).unwrap();
        let (by_agent, by_tar) = (out.path().join("agent"), out.path().join("tar"));
        let (id, target) = (copy["run_id"].as_str().unwrap(), copy["target"].as_str().unwrap());
        let to = by_agent.display().to_string();
        self.run(&["restore", id, "--target", target, "--component", "application", "--to", &to]).expect(0);
        fs::create_dir(&by_tar).unwrap();
        let archive = folder.join("application.tar.zst").display().to_string();
        let command = format!("zstd -dc '{archive}' | tar -x -C '{}'", by_tar.display());
        system("bash", &["-e", "-o", "pipefail", "-c", &command]);
        for restored in [by_agent, by_tar] {
            let source = restored.join(self.path("src").strip_prefix("/").unwrap());
            self.compare(&source, copy);
        }
        self.compared.borrow_mut().insert(print);
    }

    #[track_caller]
    fn compare(&self, restored: &Path, copy: &Value) {
        let mut found = BTreeMap::new();
        read_tree(restored, "", &mut found);
        let Some(Content::File(version)) = found.get("version.txt") else {
            panic!("{copy}: version.txt is missing in {}", restored.display())
        };
        let mut expected = tree(String::from_utf8_lossy(version).parse().expect("a version"));
        for path in self.exempt.borrow().iter() {
            let other = |found: &String| found != path && !(path.ends_with('/') && found.starts_with(path));
            expected.retain(|found, _| other(found));
            found.retain(|found, _| other(found));
        }
        for (path, content) in &expected {
            assert!(found.get(path) == Some(content), "{path} differs in {copy}");
        }
        let more: Vec<_> = found.keys().filter(|p| !expected.contains_key(*p)).collect();
        assert!(more.is_empty(), "{more:?} appeared in {copy}");
    }
}

fn key(copy: &Value) -> (String, String) {
    (copy["run_id"].as_str().unwrap().to_owned(), copy["target"].as_str().unwrap().to_owned())
}

fn read_tree(folder: &Path, prefix: &str, into: &mut BTreeMap<String, Content>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read_tree(&entry.path(), &format!("{name}/"), into);
        } else if kind.is_symlink() {
            let to = fs::read_link(entry.path()).unwrap();
            into.insert(name, Content::Link(to.to_string_lossy().into_owned()));
        } else {
            into.insert(name, Content::File(fs::read(entry.path()).unwrap()));
        }
    }
}

/// What is stored, wherever it stands: a copy that is the same byte for byte restores the same.
fn fingerprint(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("a listed backup is not there: {}: {e}", folder.display()))
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        file.file_name().hash(&mut hasher);
        fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).hash(&mut hasher);
    }
    hasher.finish()
}
