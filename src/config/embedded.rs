//! Configurations nobody wrote: the job of a start without a configuration, and one-off backups.

use std::path::{Path, PathBuf};

use super::types::*;

/// The embedded text; its folders are filled in.
const DEFAULT: &str = include_str!("embedded.toml");
/// The name of the job in it.
const JOB: &str = "default";
/// The name of the source in it.
const SOURCE: &str = "files";

/// The configuration of a start without one: the job `default` backs up `cwd` into `./backups` (or `to`)
/// three times a day, and keeps its state in `.backup-agent` there.
///
/// Left out are the backups themselves, and what a build makes again: `node_modules`, `__pycache__`,
/// folders with a `CACHEDIR.TAG`, and `target` beside a `Cargo.toml`.
pub fn embedded_default(cwd: &Path, to: Option<&Path>) -> Config {
    let to = to.map_or_else(|| cwd.join("backups"), |to| cwd.join(to));
    let mut config = skeleton(&to, None);
    let files = files_of(&mut config);
    files.paths = vec![cwd.to_owned()];
    if let Ok(below) = to.strip_prefix(cwd)
        && let Some(text) = below.to_str().filter(|text| !text.is_empty())
    {
        files.exclude.push(format!("/{}/", escape(text)));
    }
    if cwd.join("Cargo.toml").is_file() {
        files.exclude.push("/target/".to_owned());
    }
    config
}

/// The configuration of one backup without any: `source` into `to`, everything, no schedule, nothing ever
/// deleted. The state is kept in `state_dir`, or in `.backup-agent` below `to`. Relative paths are taken
/// from the current folder.
pub fn adhoc(source: &[PathBuf], to: &Path, state_dir: Option<&Path>) -> Config {
    let mut config = skeleton(&absolute(to), state_dir.map(absolute));
    for job in config.job.values_mut() {
        job.schedule = None;
    }
    for target in config.target.values_mut() {
        target.keep = None;
    }
    *files_of(&mut config) =
        FilesConfig { paths: source.iter().map(|path| absolute(path)).collect(), ..FilesConfig::default() };
    config
}

/// Without the file system: symbolic links keep their names.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The embedded text with the folders filled in.
fn skeleton(to: &Path, state_dir: Option<PathBuf>) -> Config {
    let mut config: Config = toml::from_str(DEFAULT).expect("the embedded configuration is valid");
    config.state_dir = state_dir.unwrap_or_else(|| to.join(".backup-agent"));
    for target in config.target.values_mut() {
        target.place = Place::Directory(DirectoryPlace { path: to.to_owned(), require_mount: false });
    }
    config
}

fn files_of(config: &mut Config) -> &mut FilesConfig {
    let job = config.job.get_mut(JOB).expect("the embedded configuration has its job");
    match job.source.get_mut(SOURCE) {
        Some(SourceConfig::Files(files)) => files,
        _ => unreachable!("the embedded job has one source, of files"),
    }
}

/// A path as a gitignore pattern that means exactly it.
fn escape(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
