//! `agent import`: archives of another program, as backups that are read and never changed.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use super::args::{Global, Import};
use super::progress::{Bar, Counts};
use super::{code, common, output};
use crate::event::Progress;
use crate::model::{ByteSize, RunId};
use crate::ops::import::{Found, Imported, import as bring_in};
use crate::ops::touch_job;

/// How many files that were passed over are named.
const SHOWN: usize = 20;

pub fn import(global: &Global, args: &Import) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    common::known_job(&config, &args.job)?;
    let agent = common::open(global, config)?;
    touch_job(&agent, &args.job, agent.job(&args.job)?)?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let bar = Bar::start(&progress);
    if !args.dry_run {
        bar.begin("reading archives", Counts::Targets, None, &progress);
    }
    let imported = bring_in(&agent, &args.folder, &args.job, args.target.as_ref(), args.dry_run, &progress);
    bar.finish();
    let imported = imported?;
    if args.json {
        json_of(&imported, args.dry_run)?;
    } else {
        show(&imported, args, agent.config.job_timezone(agent.job(&args.job)?));
    }
    common::publish(&agent)?;
    Ok(code::OK)
}

fn bytes(found: &Found) -> u64 {
    found.files.iter().map(|(_, bytes)| bytes).sum()
}

fn files(found: &Found) -> String {
    found.files.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>().join(", ")
}

fn show(imported: &Imported, args: &Import, zone: chrono_tz::Tz) {
    let target = imported.target.as_ref().map_or_else(String::new, ToString::to_string);
    let word = if args.dry_run { "would import" } else { "imported" };
    for (found, run_id) in &imported.new {
        output::print(&format!(
            "{word} {run_id} of {}: {}/{{{}}}, {}\n",
            found.taken.with_timezone(&zone).format("%Y-%m-%d %H:%M"),
            found.location,
            files(found),
            ByteSize(bytes(found))
        ));
    }
    for (path, why) in imported.skipped.iter().take(SHOWN) {
        output::print(&format!("passed over {}: {why}\n", path.display()));
    }
    if imported.skipped.len() > SHOWN {
        output::print(&format!("… and {} more were passed over\n", imported.skipped.len() - SHOWN));
    }
    let gone = |run: &RunId| {
        output::print(&format!(
            "{run} was removed by whoever made it{}\n",
            match args.dry_run {
                true => "",
                false => ": it is listed no more",
            }
        ));
    };
    imported.gone.iter().for_each(gone);
    let sum: u64 = imported.new.iter().map(|(found, _)| bytes(found)).sum();
    output::print(&format!(
        "{word} {} of job {} at target {target}, {}; {} known before\n",
        match imported.new.len() {
            1 => "1 backup".to_owned(),
            n => format!("{n} backups"),
        },
        args.job,
        ByteSize(sum),
        imported.known
    ));
}

fn json_of(imported: &Imported, dry_run: bool) -> Result<()> {
    let new: Vec<_> = imported
        .new
        .iter()
        .map(|(found, run_id)| {
            let files: Vec<&str> = found.files.iter().map(|(file, _)| file.as_str()).collect();
            json!({
                "run_id": run_id, "taken": found.taken, "location": found.location, "files": files,
                "bytes": bytes(found),
            })
        })
        .collect();
    let skipped: Vec<_> = imported
        .skipped
        .iter()
        .map(|(path, why)| json!({"path": path.to_string_lossy(), "why": why}))
        .collect();
    output::json(&json!({
        "target": imported.target, "dry_run": dry_run, "new": new, "known": imported.known,
        "gone": imported.gone, "skipped": skipped,
    }))
}
