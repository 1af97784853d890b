//! What the operating system needs to be set up again: configuration files, and answers to questions such
//! as which packages are installed.

mod table;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;

use self::table::{Ask, FOLDER, NOTES, PATHS, PROBES, Probe, README};
use super::{Capture, Context, Part, RANK_SYSTEM, Ready, Source};
use crate::archive::{TreeSpec, VirtualFile};
use crate::config::{SystemConfig, Unreadable};
use crate::event::Interrupted;
use crate::manifest::{Content, Kind};
use crate::model::ComponentName;
use crate::process::{self, Cancel, Command, ProcessError};

/// How long one question may take. A hung answer must not hold up the backup.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all of them together may take.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer that is kept.
const MAX_ANSWER: usize = 8 << 20;
/// Answers may name users, listeners and firewall rules: for root alone, as the archive is.
const MODE: u32 = 0o600;

/// The system's configuration and state. A question without an answer (no such program, an error, too slow)
/// is noted in the archive and is no warning: no two systems have the same programs.
#[derive(Debug)]
pub struct SystemSource {
    name: ComponentName,
    config: SystemConfig,
}

impl SystemSource {
    /// Makes the source; nothing is looked at yet.
    pub fn new(name: ComponentName, config: SystemConfig) -> Self {
        Self { name, config }
    }

    fn roots(&self) -> Vec<PathBuf> {
        let preset = || PATHS.iter().map(PathBuf::from).collect();
        let mut roots = self.config.paths.clone().unwrap_or_else(preset);
        roots.extend(self.config.extra_paths.iter().cloned());
        roots.sort();
        roots.dedup();
        // A path inside another one would stand in the archive twice.
        let all = roots.clone();
        roots.retain(|path| !all.iter().any(|other| other != path && path.starts_with(other)));
        roots
    }
}

impl Source for SystemSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "system"
    }

    fn preflight(&self, _: &Context) -> anyhow::Result<Ready> {
        let given = self.config.paths.iter().flatten().chain(&self.config.extra_paths);
        let mut warnings = Vec::new();
        for path in given {
            ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
            // The preset's paths may be missing on any machine; one that somebody named was meant to be there.
            if let Err(error) = path.symlink_metadata() {
                warnings.push(format!("{} is passed over: {error}", path.display()));
            }
        }
        let part = Part::whole(&self.name, "tar", Kind::Tar, Content::System);
        Ok(Ready { parts: vec![part], warnings })
    }

    fn open(&self, _: &Part, context: &Context) -> anyhow::Result<Capture> {
        let virtual_files = ask_all(PROBES, &context.cancel(), TOTAL_TIMEOUT);
        ensure!(!context.progress.is_cancelled(), Interrupted);
        Ok(Capture::Tree(TreeSpec {
            roots: self.roots(),
            exclude: self.config.exclude.clone(),
            allow_missing_roots: true,
            virtual_files,
            ..TreeSpec::default()
        }))
    }

    fn unreadable(&self) -> Unreadable {
        self.config.unreadable
    }

    fn rank(&self) -> u8 {
        RANK_SYSTEM
    }
}

/// Asks every question and returns the answers as files, sorted by path.
fn ask_all(probes: &[Probe], cancel: &Cancel, total: Duration) -> Vec<VirtualFile> {
    let deadline = Instant::now() + total;
    let file =
        |name: &str, bytes: Vec<u8>| VirtualFile { path: format!("{FOLDER}/{name}"), bytes, mode: MODE };
    let mut readme = "What this system said about itself when the backup was made.\n\n".to_owned();
    let mut notes = String::new();
    let mut files = Vec::new();
    for probe in probes {
        let left = deadline.saturating_duration_since(Instant::now());
        match ask(probe.ask, left.min(PROBE_TIMEOUT), cancel) {
            Ok(bytes) => {
                let source = match probe.ask {
                    Ask::Run(command) => command.join(" ").escape_default().to_string(),
                    Ask::Read(path) => path.to_owned(),
                };
                let _ = writeln!(readme, "{}\n    {}\n    {source}\n", probe.file, probe.purpose);
                files.push(file(probe.file, bytes));
            }
            Err(reason) => {
                let _ = writeln!(notes, "{}: {reason}", probe.file);
            }
        }
    }
    if notes.is_empty() {
        notes.push_str("Every question was answered.\n");
    }
    files.push(file(README, readme.into_bytes()));
    files.push(file(NOTES, notes.into_bytes()));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn ask(ask: Ask, timeout: Duration, cancel: &Cancel) -> Result<Vec<u8>, String> {
    if timeout.is_zero() || cancel() {
        return Err("not asked: the other answers took too long".to_owned());
    }
    match ask {
        Ask::Read(path) => read_bounded(path).map_err(|error| format!("{path}: {error}")),
        Ask::Run(command) => {
            let (program, args) = command.split_first().ok_or("names no program")?;
            let command = Command::new(program).args(args).timeout(timeout).max_output(MAX_ANSWER);
            match process::output(command, cancel) {
                // Some programs (nginx) print their version to standard error.
                Ok(output) if output.stdout.is_empty() && !output.stderr.lines.is_empty() => {
                    Ok((output.stderr.lines.join("\n") + "\n").into_bytes())
                }
                Ok(output) => Ok(output.stdout),
                Err(ProcessError::NotFound { program, .. }) => Err(format!("{program} is not installed")),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}

fn read_bounded(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_ANSWER as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(config: SystemConfig) -> SystemSource {
        SystemSource::new(ComponentName::new("system-state").unwrap(), config)
    }

    #[test]
    fn the_documentation_names_every_path_and_every_question() {
        let docs = include_str!("../../docs/system-state.md");
        for path in PATHS {
            assert!(docs.contains(&format!("| `{path}` |")), "{path} is not documented");
        }
        for probe in PROBES {
            let source = match probe.ask {
                Ask::Run(command) => command.join(" ").escape_default().to_string(),
                Ask::Read(path) => path.to_owned(),
            };
            let row = format!("| `{}` | `{source}` | {} |", probe.file, probe.purpose);
            assert!(docs.contains(&row), "not documented:\n{row}");
        }
        let rows = docs.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, PATHS.len() + PROBES.len(), "the documentation lists something that is not taken");
    }

    #[test]
    fn file_names_are_unique() {
        let mut names: Vec<_> = PROBES.iter().map(|probe| probe.file).chain([README, NOTES]).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn missing_programs_and_failing_ones_become_notes() {
        let probes = [
            Probe { file: "a.txt", ask: Ask::Run(&["no-such-program-here"]), purpose: "x" },
            Probe { file: "b.txt", ask: Ask::Run(&["sh", "-c", "echo broken >&2; exit 2"]), purpose: "x" },
            Probe { file: "c.txt", ask: Ask::Run(&["sh", "-c", "echo version 1 >&2"]), purpose: "x" },
            Probe { file: "d.txt", ask: Ask::Read("/proc/sys/kernel/ostype"), purpose: "x" },
            Probe { file: "e.txt", ask: Ask::Read("/no/such/file"), purpose: "x" },
        ];
        let files = ask_all(&probes, &process::never(), TOTAL_TIMEOUT);
        let text = |name: &str| {
            let path = format!("{FOLDER}/{name}");
            files
                .iter()
                .find(|file| file.path == path)
                .map(|file| String::from_utf8_lossy(&file.bytes).into_owned())
        };
        assert_eq!(text("c.txt").unwrap(), "version 1\n");
        assert_eq!(text("d.txt").unwrap(), "Linux\n");
        assert_eq!(text("a.txt"), None);
        let notes = text(NOTES).unwrap();
        assert!(notes.contains("a.txt: no-such-program-here is not installed"), "{notes}");
        assert!(notes.contains("b.txt: program sh ended with exit code 2: broken"), "{notes}");
        assert!(notes.contains("e.txt: /no/such/file: No such file"), "{notes}");
        assert!(text(README).unwrap().contains("c.txt"));
    }

    #[test]
    fn when_the_time_is_used_up_the_rest_is_not_asked() {
        let probes = [
            Probe { file: "a.txt", ask: Ask::Run(&["sleep", "600"]), purpose: "x" },
            Probe { file: "b.txt", ask: Ask::Run(&["echo", "x"]), purpose: "x" },
        ];
        let start = Instant::now();
        let files = ask_all(&probes, &process::never(), Duration::from_millis(300));
        assert!(start.elapsed() < Duration::from_secs(60));
        let notes = files.iter().find(|file| file.path.ends_with(NOTES)).unwrap();
        let notes = String::from_utf8_lossy(&notes.bytes);
        assert!(
            notes.contains("a.txt: program sleep was ended") && notes.contains("b.txt: not asked"),
            "{notes}"
        );
    }

    #[test]
    fn configured_paths_replace_or_join_the_preset() {
        let paths = |config| source(config).roots();
        assert_eq!(paths(SystemConfig::default()).len(), PATHS.len());
        let extra =
            SystemConfig { extra_paths: vec!["/opt/x".into(), "/etc/ssh".into()], ..SystemConfig::default() };
        let roots = paths(extra);
        assert!(roots.contains(&"/opt/x".into()) && !roots.contains(&"/etc/ssh".into()), "{roots:?}");
        let own = SystemConfig { paths: Some(vec!["/etc/nginx".into()]), ..SystemConfig::default() };
        assert_eq!(paths(own), [PathBuf::from("/etc/nginx")]);
    }

    #[test]
    fn a_missing_path_that_was_named_is_a_warning() {
        let context = Context::new("/nonexistent".into(), std::sync::Arc::default());
        let config = SystemConfig { extra_paths: vec!["/no/such/path".into()], ..SystemConfig::default() };
        let warnings = source(config).preflight(&context).unwrap().warnings;
        assert!(warnings[0].contains("/no/such/path"), "{warnings:?}");
        assert!(source(SystemConfig::default()).preflight(&context).unwrap().warnings.is_empty());
    }
}
