//! `agent restore`: files brought back.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::args::{Global, Restore};
use super::progress::{Bar, Counts};
use super::{code, common, key, output};
use crate::archive::RestoreOptions;
use crate::event::Progress;
use crate::model::{ByteSize, plural};
use crate::ops::Agent;
use crate::ops::import::{self, Brought};
use crate::ops::load::{self, WantedDatabase};
use crate::ops::restore::{Destination, Restored, Wanted, restore as bring_back};
use crate::ops::stored::Backup;
use crate::state::{Copy, Run};

/// How many problems are shown; the rest is counted.
const SHOWN: usize = 20;

pub fn restore(global: &Global, args: &Restore) -> Result<u8> {
    let agent = common::open_backup(global, args.target.as_ref(), &args.id)?;
    let run = common::find_run_at(&agent, &args.id, args.job.as_ref(), args.target.as_ref())?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let copy = common::nearest(&agent, &run, args.target.as_ref())?;
    let location = copy.location.clone().context("the backup has no location")?;
    let target = agent.open_target(&copy.target)?;
    // Another share in its place is not a backup that is gone.
    target.probe_readable(&location)?;
    let keys = Arc::new(key::files(&agent, &run.job, &args.keys)?.read()?);
    if let Some(into) = &args.into {
        let backup = Backup::open(target.as_ref(), &location, &run.run_id)?.with_keys(keys)?;
        return into_database(&agent, &run, &copy, &backup, args, into, &progress);
    }
    let options = RestoreOptions {
        overwrite: args.force,
        allow_setid: args.allow_setid,
        devices: args.allow_devices,
        owners: rustix::process::geteuid().is_root(),
        numeric_owner: args.numeric_owner,
        keep_going: args.keep_going,
        // Another folder can be filled again; the files in place are the only ones.
        sync: args.sync || args.in_place,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        progress: Arc::clone(&progress),
    };
    if copy.imported {
        return imported(&agent, &copy, &location, args, &options, &progress);
    }
    let wanted = Wanted {
        component: args.component.clone(),
        paths: args.path.clone(),
        to: match &args.to {
            Some(folder) => Destination::Folder(std::path::absolute(folder)?),
            None => Destination::InPlace,
        },
        force: args.force,
        keys,
    };
    let expected =
        if args.path.is_empty() && args.component.is_none() { Some(run.source_bytes) } else { None };
    let bar = Bar::start(&progress);
    bar.begin(&format!("from {}", copy.target), Counts::Sources, expected, &progress);
    let restored = bring_back(target.as_ref(), &location, &run.run_id, &wanted, &options);
    bar.finish();
    let restored = restored?;
    if args.json {
        print_json(&run, &copy, &restored)?
    } else {
        print_text(global, args, &run, &copy, &restored)
    }
    Ok(if restored.problems() == 0 { code::OK } else { code::FAILURE })
}

fn into_database(
    agent: &Agent,
    run: &Run,
    copy: &Copy,
    backup: &Backup<'_>,
    args: &Restore,
    into: &str,
    progress: &Arc<Progress>,
) -> Result<u8> {
    let component = match (&args.component, &args.database) {
        (Some(name), _) => backup.component(name)?,
        (None, Some(database)) => load::component_with(backup, database)?,
        (None, None) => load::component_for(backup, into)?,
    };
    let wanted = WantedDatabase {
        from: args.database.clone(),
        into: into.to_owned(),
        force: args.force,
        no_owner: args.no_owner,
        login_file: args.login_file.as_deref().map(std::path::absolute).transpose()?,
        login_user: args.login_user.clone(),
    };
    let bar = Bar::start(progress);
    bar.begin(&format!("loading into {into}"), Counts::Sources, Some(component.raw_bytes), progress);
    let loaded = load::load(backup, component, (&run.job, &agent.config), &wanted, progress);
    bar.finish();
    let bytes = loaded.with_context(|| format!("component {}", component.name))?;
    if args.json {
        let answer = json!({
            "run_id": run.run_id,
            "target": copy.target,
            "component": component.name,
            "database": into,
            "bytes": bytes,
        });
        output::json(&answer)?;
    } else {
        output::print(&format!(
            "loaded {} of {} from {}: {} into the database {into}\n",
            component.name,
            run.run_id,
            copy.target,
            ByteSize(bytes)
        ));
    }
    Ok(code::OK)
}

fn print_text(global: &Global, args: &Restore, run: &Run, copy: &Copy, restored: &Restored) {
    // What was lost is the one thing to know after a restore that went on behind damage.
    let most = if args.keep_going { usize::MAX } else { SHOWN };
    for (name, folder, summary) in &restored.components {
        output::print(&format!(
            "restored {name} of {} from {}: {}, {} into {}\n",
            run.run_id,
            copy.target,
            plural(summary.entries, "entry", "entries"),
            ByteSize(summary.bytes),
            folder.display()
        ));
        if summary.setid_dropped > 0 {
            output::print(&format!(
                "  set-uid and set-gid bits and capabilities of {} were left out; keep them with --allow-setid\n",
                plural(summary.setid_dropped, "file", "files")
            ));
        }
        let shown = |label: &str, list: &[(crate::manifest::PathText, String)]| {
            for (path, why) in list.iter().take(most) {
                output::print(&format!("  {label} {}: {why}\n", path.display()));
            }
            if list.len() > most {
                output::print(&format!("  … and {} more; --json lists all\n", list.len() - most));
            }
        };
        shown("not restored:", &summary.problems);
        shown("note:", &summary.notes);
    }
    for name in &restored.left_out {
        output::print(&common::as_called(
            global,
            &format!(
                "left out {name}, which has no place among the files: `agent restore {} --component {name} --to DIR`, \
                 or a database with --into NAME\n",
                run.run_id
            ),
        ));
    }
}

fn print_json(run: &Run, copy: &Copy, restored: &Restored) -> Result<()> {
    let components: Vec<_> = restored
        .components
        .iter()
        .map(|(name, folder, summary)| {
            let list = |list: &[(crate::manifest::PathText, String)]| -> Vec<_> {
                list.iter().map(|(path, why)| json!({"path": path, "why": why})).collect()
            };
            json!({
                "component": name,
                "folder": folder,
                "entries": summary.entries,
                "bytes": summary.bytes,
                "setid_dropped": summary.setid_dropped,
                "lost": summary.lost,
                "problems": list(&summary.problems),
                "notes": list(&summary.notes),
            })
        })
        .collect();
    output::json(&json!({
        "run_id": run.run_id,
        "target": copy.target,
        "components": components,
        "left_out": restored.left_out,
    }))
}

/// Restores archives that another program made.
fn imported(
    agent: &Agent,
    copy: &Copy,
    location: &str,
    args: &Restore,
    options: &RestoreOptions,
    progress: &Arc<Progress>,
) -> Result<u8> {
    let run = &copy.run_id;
    let folder = match &args.to {
        Some(folder) if args.path.is_empty() && args.component.is_none() => std::path::absolute(folder)?,
        _ => {
            return Err(common::UsageError(format!(
                "run {run} was imported from another program: it has no index, and is restored whole, with --to"
            ))
            .into());
        }
    };
    let target = agent.open_target(&copy.target)?;
    let files = agent.state.imported_files(run, &copy.target)?;
    let bar = Bar::start(progress);
    bar.begin(&format!("restoring from {}", copy.target), Counts::Sources, None, progress);
    let brought = import::restore(target.as_ref(), location, &files, &folder, args.force, options);
    bar.finish();
    let (mut answers, mut bad) = (Vec::new(), false);
    for Brought { file, folder, result } in brought? {
        match result {
            Ok(summary) => {
                bad |= !summary.problems.is_empty();
                let problems: Vec<_> =
                    summary.problems.iter().map(|(path, why)| (path.display(), why)).collect();
                if args.json {
                    answers.push(json!({
                        "file": file, "folder": folder, "entries": summary.entries, "bytes": summary.bytes,
                        "problems": problems,
                    }));
                    continue;
                }
                output::print(&format!(
                    "restored {file} of {run} from {}: {}, {} into {}\n",
                    copy.target,
                    plural(summary.entries, "entry", "entries"),
                    ByteSize(summary.bytes),
                    folder.display()
                ));
                for (path, why) in problems.iter().take(SHOWN) {
                    output::print(&format!("  not restored: {path}: {why}\n"));
                }
            }
            Err(command) => {
                bad = true;
                let top = agent.target(&copy.target)?.address("");
                if args.json {
                    answers.push(json!({"file": file, "folder": folder, "command": command}));
                } else {
                    output::print(&format!("{file} is packed by another program; in {}: {command}\n", top));
                }
            }
        }
    }
    if args.json {
        output::json(&json!({"run_id": run, "target": copy.target, "archives": answers}))?;
    }
    Ok(if bad { code::FAILURE } else { code::OK })
}
