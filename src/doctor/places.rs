//! Locks and targets, and the file systems they lie on.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::finding::Finding;
use super::{Group, Look, Visit, table};
use crate::config::TargetConfig;
use crate::event::Progress;
use crate::model::{ByteSize, TargetName};
use crate::mounts::Mount;
use crate::ops::isolate::{self, At, Reply, Request};

/// How long a look at a target may take.
const PROBE: Duration = Duration::from_secs(15);

pub(super) fn locks(visit: &Visit) -> Vec<Finding> {
    let config = &visit.patient.config;
    let mut findings = Vec::new();
    let state = &config.state_dir;
    findings.push(match remote(visit, state) {
        Some(mount) => network(format!("the state folder {}", state.display()), &mount)
            .fix("Set `state_dir` to a folder on a local disk"),
        None => Finding::good(&table::LOCK_NETWORK, format!("{} is on a local disk", state.display())),
    });
    for (name, job) in &config.job {
        let Some(file) = &job.lock_file else { continue };
        let shown = file.display();
        let finding = if let Some(mount) = remote(visit, file) {
            network(format!("the lock file {shown}"), &mount)
                .warning_if(true)
                .fix("Set `lock_file`, and that of the script beside it, to one in /run/lock")
        } else {
            match file.parent().map(fs::metadata) {
                Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Finding::bad(
                    &table::LOCK_FOLDER,
                    format!("the folder of the lock file {shown} does not exist"),
                )
                .fix("Name a lock file in a folder that is there after every start, such as /run/lock"),
                _ => Finding::good(&table::LOCK_NETWORK, format!("{shown} is on a local disk")),
            }
        };
        findings.push(finding.of_job(name));
    }
    findings
}

fn network(what: String, mount: &Mount) -> Finding {
    Finding::bad(
        &table::LOCK_NETWORK,
        format!("{what} lies on a network file system ({}, {})", mount.kind, mount.source),
    )
}

/// The mount of a path, when that is another machine's.
fn remote(visit: &Visit, path: &Path) -> Option<Mount> {
    let (_, mount) = visit.mounts.follow(path).ok()?;
    mount.filter(|mount| mount.is_remote()).cloned()
}

/// A look at each target that a job uses.
pub(super) fn looks(visit: &Arc<Visit>) -> Vec<(Group, String, Look)> {
    let config = &visit.patient.config;
    let used =
        config.target.iter().filter(|(name, _)| config.job.values().any(|job| job.targets.contains(name)));
    used.map(|(name, target)| {
        let (name, target) = (name.clone(), target.clone());
        let what = format!("target {name}");
        let look: Look = Box::new(move |visit: &Visit| one(visit, &name, &target));
        (Group::Targets, what, look)
    })
    .collect()
}

fn one(visit: &Visit, name: &TargetName, target: &TargetConfig) -> Vec<Finding> {
    let config = &visit.patient.config;
    let only_copies = !config.job.values().any(|job| job.targets.first() == Some(name));
    let address = target.address("");
    // A bare mount point can be written, and that is what is wrong with it.
    if let Some(point) = target.folder().and_then(|folder| unmounted(visit, folder)) {
        return vec![
            Finding::bad(
                &table::TARGET_MOUNT,
                format!("target {name}: /etc/fstab mounts {point}, and nothing is mounted there"),
            )
            .warning_if(only_copies || target.requires_mount())
            .at("/etc/fstab", point.clone())
            .fix(format!("mount {point}"))
            .fix(format!("Say require_mount = true in [target.{name}]")),
        ];
    }
    let expected = visit.patient.state.as_ref().ok().and_then(|state| state.identities.get(name).cloned());
    let at = At::new(name, target, "").expecting(expected);
    let deadline = Some(Instant::now() + PROBE);
    let reply = isolate::call(&Request::Probe { at }, PROBE, deadline, &Progress::default(), &mut |_| Ok(()));
    let mut findings = Vec::new();
    findings.push(match reply {
        Ok(Reply::Probed { space }) => Finding::good(
            &table::TARGET,
            match space {
                Some(space) => {
                    format!("target {name}: {address} can be written, {} free", ByteSize(space.free))
                }
                None => format!("target {name}: {address} answers"),
            },
        ),
        Ok(other) => {
            Finding::unknown(Group::Targets, format!("target {name}: an unexpected answer: {other:?}"))
        }
        Err(error) => {
            let text = format!("{error:#}");
            let text = text.strip_prefix(&format!("target {name}: ")).unwrap_or(&text).to_owned();
            let me = rustix::process::geteuid();
            let denied = !me.is_root() && text.contains("ermission denied");
            Finding::bad(&table::TARGET, format!("target {name} cannot be used: {text}"))
                .warning_if(only_copies)
                .unknown_if(denied)
                .fix(match denied {
                    true => "Ask again as the user that makes the backups",
                    false if target.folder().is_none() => {
                        "Look at what it says; `agent config show` shows the keys of the target"
                    }
                    false => "Mount it, or make the folder, and let the agent write there",
                })
        }
    });
    let Some(folder) = target.folder() else { return findings };
    let own_mount = visit.mounts.follow(folder).ok().and_then(|(_, mount)| mount.cloned());
    let own_mount = own_mount.filter(|mount| {
        let system = visit.mounts.of(&config.state_dir).map(|mount| mount.point.clone());
        mount.is_remote() || (mount.point == folder && Some(&mount.point) != system.as_ref())
    });
    if let Some(mount) = own_mount.filter(|_| !target.requires_mount()) {
        findings.push(
            Finding::bad(
                &table::TARGET_UNGUARDED,
                format!(
                    "target {name} is on {} ({}), and would be written without it as well",
                    mount.point.display(),
                    mount.kind
                ),
            )
            .fix(format!("Say require_mount = true in [target.{name}], with `path` the mount point")),
        );
    }
    findings
}

/// The mount point of /etc/fstab that holds a path, when nothing is mounted there.
fn unmounted(visit: &Visit, path: &Path) -> Option<String> {
    let text = fs::read_to_string(visit.patient.root.join("etc/fstab")).ok()?;
    let points = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, point) = (fields.next()?, fields.next()?);
        (!device.starts_with('#') && point.starts_with('/') && point != "/")
            .then(|| point.replace("\\040", " "))
    });
    let longest = points.filter(|point| path.starts_with(point)).max_by_key(String::len)?;
    (!visit.mounts.is_point(Path::new(&longest))).then_some(longest)
}
