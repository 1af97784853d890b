//! Who may read and write what.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::finding::Finding;
use super::{Visit, table};
use crate::config::{Location, check_files};

pub(super) fn look(visit: &Visit) -> Vec<Finding> {
    let mut findings = secrets(visit);
    findings.extend(configuration(visit));
    findings.push(state(visit));
    findings
}

fn secrets(visit: &Visit) -> Vec<Finding> {
    let mut findings: Vec<Finding> = check_files(&visit.patient.config, &|_| true)
        .into_iter()
        .map(|problem| {
            let place = match &problem.location {
                Location::File { file, line, .. } => format!("{}:{line}", file.display()),
                _ => problem.key.join("."),
            };
            // The message may end with the command that helps.
            let (what, fix) = match problem.message.rsplit_once("; `") {
                Some((what, fix)) => (what.to_owned(), Some(fix.trim_end_matches('`').to_owned())),
                None => (problem.message.clone(), None),
            };
            let denied = what.contains("cannot be looked at") && !rustix::process::geteuid().is_root();
            let finding = Finding::bad(&table::SECRET_FILE, what).unknown_if(denied).at(place, "");
            fix.into_iter().fold(finding, Finding::fix)
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::good(&table::SECRET_FILE, "files with secrets are closed to others"));
    }
    findings
}

/// How the warning of the configuration's reader begins.
const EVERYBODY: &str = "every user can change ";

fn configuration(visit: &Visit) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for warning in &visit.patient.warnings {
        // That nobody is told stands in a group of its own.
        if !warning.contains("[notify.…]") {
            let kind = match warning.strip_prefix(EVERYBODY) {
                Some(_) => &table::CONFIG_OPEN,
                None => &table::CONFIG_WARNING,
            };
            findings.push(Finding::bad(kind, warning.clone()));
        }
    }
    let me = rustix::process::geteuid().as_raw();
    for file in &visit.patient.config_files {
        let Ok(meta) = fs::metadata(file) else { continue };
        if meta.uid() != 0 && meta.uid() != me {
            let shown = file.display();
            findings.push(
                Finding::bad(
                    &table::CONFIG_OPEN,
                    format!("{shown} belongs to user {}, who can so run programs as the agent", meta.uid()),
                )
                .fix(format!("chown root {shown}")),
            );
        }
    }
    findings
}

fn state(visit: &Visit) -> Finding {
    let folder = &visit.patient.config.state_dir;
    let shown = folder.display();
    let meta = match fs::metadata(folder) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Finding::bad(
                &table::STATE_FOLDER,
                format!("the state folder {shown} does not exist yet"),
            )
            .warning_if(true)
            .fix("The first backup makes it");
        }
        Err(error) => {
            return Finding::bad(&table::STATE_FOLDER, format!("the state folder {shown}: {error}"))
                .unknown_if(error.kind() == std::io::ErrorKind::PermissionDenied);
        }
    };
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
        return Finding::bad(&table::STATE_FOLDER, format!("there is no state in {shown} yet"))
            .warning_if(true)
            .fix("The first backup makes it");
    }
    let mode = meta.permissions().mode() & 0o7777;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_dir() {
        Finding::bad(&table::STATE_FOLDER, format!("{shown} is no folder"))
    } else if mode & 0o022 != 0 {
        Finding::bad(
            &table::STATE_FOLDER,
            format!("others can write to the state folder {shown} (mode {mode:04o})"),
        )
        .fix(format!("chmod go-w {shown}"))
    } else if me == 0 && meta.uid() != 0 {
        // An agent that runs as another user is fine; what root writes there belongs to that user.
        Finding::good(&table::STATE_FOLDER, format!("the state in {shown} belongs to user {}", meta.uid()))
    } else if me != 0 && meta.uid() != me && meta.uid() != 0 {
        Finding::bad(&table::STATE_FOLDER, format!("the state folder {shown} belongs to user {}", meta.uid()))
            .fix("Run the agent as that user, or give the folder to yours")
    } else if let Err(error) = &visit.patient.state {
        Finding::bad(&table::STATE_FOLDER, error.clone()).unknown_if(me != 0)
    } else {
        Finding::good(
            &table::STATE_FOLDER,
            format!("the state in {shown} can be read, and nobody else can write it"),
        )
    }
}
