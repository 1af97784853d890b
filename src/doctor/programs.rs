//! Sources: what a run's preflight would say, without a run.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::finding::Finding;
use super::{Group, Look, Visit, table};
use crate::config::{CodecName, SourceConfig};
use crate::model::{ComponentName, JobName};
use crate::process::find_program;
use crate::source::{self, Context};

/// A look at each source, and one at the programs for restoring.
pub(super) fn looks(visit: &Arc<Visit>) -> Vec<(Group, String, Look)> {
    let mut looks: Vec<(Group, String, Look)> = Vec::new();
    for (job, config) in &visit.patient.config.job {
        for (component, source) in &config.source {
            let (job, component, source) = (job.clone(), component.clone(), source.clone());
            let what = format!("the source {component} of {job}");
            let look = move |visit: &Visit| vec![one(visit, &job, &component, &source).of_job(&job)];
            looks.push((Group::Programs, what, Box::new(look)));
        }
    }
    looks.push((Group::Programs, "programs".to_owned(), Box::new(restoring)));
    looks
}

fn one(visit: &Visit, job: &JobName, component: &ComponentName, config: &SourceConfig) -> Finding {
    if let Some(path) = remote_path(visit, config) {
        // Whoever touches a dead share hangs; the run does so in its own time.
        let text = format!("{job}/{component}: {} lies on a share and was not touched", path.display());
        return Finding::good(&table::SOURCE, text);
    }
    let result = Scratch::new().map_err(anyhow::Error::from).and_then(|scratch| {
        let context = Context::new(scratch.0.clone(), Arc::clone(&visit.progress));
        source::build(component, config)?.preflight(&context)
    });
    match result {
        Ok(ready) if ready.warnings.is_empty() => {
            Finding::good(&table::SOURCE, format!("{job}/{component}: ready"))
        }
        Ok(ready) => {
            let text = format!("{job}/{component}: {}", ready.warnings.join("; "));
            Finding::bad(&table::SOURCE, text).warning_if(true)
        }
        Err(error) => {
            let denied = !rustix::process::geteuid().is_root()
                && error.chain().any(|cause| {
                    cause
                        .downcast_ref::<std::io::Error>()
                        .is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
                });
            let finding =
                Finding::bad(&table::SOURCE, format!("{job}/{component}: {error:#}")).unknown_if(denied);
            match denied {
                true => finding.fix("Ask again as the user that makes the backups"),
                false => finding.fix(format!("Then try it: {} backup {job}", visit.patient.command)),
            }
        }
    }
}

/// The first path of a source that lies on another machine's file system.
fn remote_path(visit: &Visit, config: &SourceConfig) -> Option<PathBuf> {
    let paths: Vec<&Path> = match config {
        SourceConfig::Files(files) => files.paths.iter().map(PathBuf::as_path).collect(),
        SourceConfig::Sqlite(sqlite) => vec![&sqlite.path],
        _ => Vec::new(),
    };
    let is_remote = |path: &&Path| {
        visit.mounts.follow(path).is_ok_and(|(_, mount)| mount.is_some_and(|mount| mount.is_remote()))
    };
    paths.into_iter().find(is_remote).map(Path::to_owned)
}

/// What restoring by hand needs, by what is stored.
fn restoring(visit: &Visit) -> Vec<Finding> {
    let uses = |codec| visit.patient.config.job.values().any(|job| job.engine.codec == codec);
    let mut needed = vec![("tar", "tar"), ("sha256sum", "coreutils")];
    if uses(CodecName::Zstd) {
        needed.push(("zstd", "zstd"));
    }
    if uses(CodecName::Gzip) {
        needed.push(("gzip", "gzip"));
    }
    let missing: Vec<_> = needed.iter().filter(|(program, _)| find_program(program).is_none()).collect();
    if missing.is_empty() {
        let names: Vec<&str> = needed.iter().map(|(program, _)| *program).collect();
        let text = format!("restoring by hand: {} are installed", names.join(", "));
        return vec![Finding::good(&table::RESTORE_PROGRAMS, text)];
    }
    missing
        .into_iter()
        .map(|(program, package)| {
            Finding::bad(&table::RESTORE_PROGRAMS, format!("the program {program} is not installed"))
                .fix(format!("Install the package {package}"))
        })
        .collect()
}

/// A private folder that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let name = format!("backup-agent-doctor-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it is cleaned up with every other temporary file.
        let _ = fs::remove_dir_all(&self.0);
    }
}
