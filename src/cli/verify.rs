//! `agent verify`: backups read back.

use std::sync::Arc;

use anyhow::{Result, bail};
use serde::Serialize;

use super::args::{Global, Verify};
use super::progress::{Bar, Counts};
use super::{code, common, output};
use crate::event::Progress;
use crate::model::{ByteSize, RunId, TargetName};
use crate::ops::isolate::verify_copy;
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
    let config = common::load(global, true)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open_existing(global, config)?;
    let run = common::find_run(&agent, &args.id, args.job.as_ref())?;
    let wanted = |copy: &Copy| {
        args.target.as_ref().is_none_or(|target| copy.target == *target)
            && (copy.status.is_kept() || copy.status == CopyStatus::Corrupt)
    };
    let copies: Vec<Copy> = agent.state.copies_of(&run.run_id)?.into_iter().filter(wanted).collect();
    if copies.is_empty() {
        bail!(
            "run {} has no backup{}",
            run.run_id,
            args.target.as_ref().map_or_else(String::new, |t| format!(" at {t}"))
        );
    }
    let depth = if args.deep { Depth::Deep } else { Depth::Digests };
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let mut found = Vec::new();
    for copy in copies {
        let Some(location) = copy.location else { continue };
        let at = agent.at(&copy.target, location)?;
        let bar = Bar::start(&progress);
        // Looked at closely, everything is read twice: for the digests, and to be decompressed.
        let expected = if args.deep { 2 * copy.bytes } else { copy.bytes };
        bar.begin(&format!("reading back from {}", copy.target), Counts::Targets, Some(expected), &progress);
        let report = verify_copy(&agent, &run.run_id, &at, !copy.primary, depth, &progress);
        bar.finish();
        let report = report?;
        found.push(Found {
            run_id: run.run_id.clone(),
            target: copy.target,
            ok: report.problems.is_empty(),
            location: at.config.path.join(at.location).display().to_string(),
            report,
        });
    }
    common::publish(&agent)?;
    // What was found is told at once; what goes wrong with that is in the queue, and here.
    tell::deliver(&agent)
        .problems
        .iter()
        .for_each(|problem| output::warn(&format!("not told yet: {problem}")));
    if args.json {
        output::json(&found)?;
    } else {
        for Found { target, location, report, ok, .. } in &found {
            let word = output::tinted(if *ok { "verified" } else { "corrupt" }, 8);
            let closely = if args.deep && *ok { ", decompressed and walked through" } else { "" };
            let size = ByteSize(report.bytes);
            output::print(&format!(
                "{word} {} at {target}: {} files, {size}{closely}  {location}\n",
                run.run_id, report.files
            ));
            report.problems.iter().for_each(|problem| output::print(&format!("  {problem}\n")));
        }
    }
    Ok(if found.iter().all(|f| f.ok) { code::OK } else { code::FAILURE })
}
