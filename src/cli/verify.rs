//! `agent verify`: backups read back.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use super::args::{Global, Verify};
use super::progress::{Bar, Counts};
use super::{code, common, key, output};
use crate::crypt::KeyFiles;
use crate::event::{Interrupted, Progress};
use crate::model::{ByteSize, RunId, TargetName};
use crate::ops::Agent;
use crate::ops::isolate::verify_copy_with;
use crate::ops::rounds::{self, Done};
use crate::ops::tell;
use crate::ops::verify::{Depth, Report};
use crate::state::{Copy, CopyStatus};

#[derive(Serialize)]
struct Found {
    run_id: RunId,
    target: TargetName,
    location: String,
    ok: bool,
    #[serde(flatten)]
    report: Report,
}

pub fn verify(global: &Global, args: &Verify) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open_backups_to_change(
        global,
        config,
        args.target.as_ref(),
        (!args.all).then_some(args.id.as_str()),
    )?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    if args.due {
        return due(&agent, args.json, &progress);
    }
    let copies = chosen(&agent, args)?;
    let depth = if args.deep { Depth::Deep } else { Depth::Digests };
    let (mut found, mut unread) = (Vec::new(), None);
    for copy in copies {
        let Some(location) = copy.location else { continue };
        let at = agent.at(&copy.target, location)?;
        let bar = Bar::start(&progress);
        // Looked at closely, everything is read twice: for the digests, and to be decompressed.
        let expected = if args.deep { 2 * copy.bytes } else { copy.bytes };
        bar.begin(&format!("reading back from {}", copy.target), Counts::Targets, Some(expected), &progress);
        let keys = match depth {
            Depth::Deep => key::files(&agent, &copy.job, &args.keys)?,
            _ => KeyFiles::default(),
        };
        let how = (depth, &keys);
        let report = verify_copy_with(&agent, &copy.run_id, &at, !copy.primary, how, &progress);
        bar.finish();
        let report = match report {
            Ok(report) => report,
            Err(e) if e.is::<Interrupted>() => return Err(e),
            // A target that is away must not keep those at others from being read.
            Err(e) => {
                unread.replace(e).iter().for_each(output::error);
                continue;
            }
        };
        found.push(Found {
            run_id: copy.run_id,
            target: copy.target,
            ok: report.problems.is_empty(),
            location: at.config.address(&at.location),
            report,
        });
    }
    common::publish(&agent)?;
    told(&agent);
    if args.json {
        output::json(&found)?;
    } else {
        for Found { run_id, target, location, report, ok } in &found {
            let word = output::tinted(if *ok { "verified" } else { "corrupt" }, 8);
            let closely = match args.deep && *ok && report.not_unpacked.len() as u64 != report.files {
                true => ", decompressed and walked through",
                false => "",
            };
            let size = ByteSize(report.bytes);
            output::print(&format!(
                "{word} {run_id} at {target}: {} files, {size}{closely}  {location}\n",
                report.files
            ));
            for file in &report.not_unpacked {
                output::print(&format!("  not looked into, since another program packed it: {file}\n"));
            }
            report.problems.iter().for_each(|problem| output::print(&format!("  {problem}\n")));
        }
    }
    if let Some(error) = unread {
        return Err(error);
    }
    Ok(if found.iter().all(|f| f.ok) { code::OK } else { code::FAILURE })
}

/// The copies that are meant.
fn chosen(agent: &Agent, args: &Verify) -> Result<Vec<Copy>> {
    // What this host may only write is looked at when it is named, to say so.
    let readable = |target: &TargetName| {
        args.target.is_some() || agent.config.target.get(target).is_none_or(|config| !config.write_only())
    };
    let is_there =
        |copy: &Copy| (copy.status.is_kept() || copy.status == CopyStatus::Corrupt) && readable(&copy.target);
    if args.all {
        let mut copies = agent.state.copies(args.job.as_ref(), args.target.as_ref())?;
        copies.retain(is_there);
        return Ok(copies);
    }
    let run = common::find_run_at(agent, &args.id, args.job.as_ref(), args.target.as_ref())?;
    let mut copies = agent.state.copies_of(&run.run_id)?;
    copies.retain(|copy| is_there(copy) && args.target.as_ref().is_none_or(|target| copy.target == *target));
    if copies.is_empty() {
        let at = args.target.as_ref().map_or_else(String::new, |t| format!(" at {t}"));
        bail!("run {} has no backup{at}", run.run_id);
    }
    Ok(copies)
}

/// What the schedules ask for.
fn due(agent: &Agent, as_json: bool, progress: &Arc<Progress>) -> Result<u8> {
    let (mut bad, mut events) = (false, Vec::new());
    rounds::pass(agent, &mut BTreeSet::new(), progress, &mut |done| {
        let mut say = |copy: &Copy, result: &str, text: String| {
            if as_json {
                events.push(
                    json!({"run_id": copy.run_id, "target": copy.target, "result": result, "text": text}),
                );
            } else {
                output::print(&format!(
                    "{} {} at {}: {text}\n",
                    output::tinted(result, 8),
                    copy.run_id,
                    copy.target
                ));
            }
        };
        match done {
            Done::Reading(_) => {}
            Done::Read(copy, report) => match report.result() {
                Ok(()) => {
                    say(copy, "verified", format!("{} files, {}", report.files, ByteSize(report.bytes)))
                }
                Err(problems) => {
                    bad = true;
                    say(copy, "corrupt", problems);
                }
            },
            Done::Unread(copy, error) => {
                bad = true;
                say(copy, "failed", format!("{error:#}"));
            }
            Done::Repaired(copy, Ok(repaired)) => say(copy, "repaired", super::repair::described(repaired)),
            Done::Repaired(copy, Err(error)) => say(copy, "failed", format!("not repaired: {error:#}")),
        }
    })?;
    if as_json {
        output::json(&events)?;
    }
    common::publish(agent)?;
    told(agent);
    Ok(if bad { code::FAILURE } else { code::OK })
}

/// What was found is told at once; what goes wrong with that is in the queue, and here.
pub fn told(agent: &Agent) {
    for problem in tell::deliver(agent).problems {
        output::warn(&format!("not told yet: {problem}"));
    }
}
