//! `agent repair`: damaged copies replaced by good ones.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use super::args::{Global, Repair};
use super::progress::{Bar, Counts};
use super::{code, common, output};
use crate::event::{Interrupted, Progress};
use crate::model::ByteSize;
use crate::ops::repair::{self, Repaired};

pub fn repair(global: &Global, args: &Repair) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open_existing(global, config)?;
    let run = match &args.id {
        Some(id) => Some(common::find_run(&agent, id, args.job.as_ref())?.run_id),
        None => None,
    };
    common::known_target(&agent.config, args.target.as_ref())?;
    let copies = repair::damaged(&agent, run.as_ref(), args.target.as_ref())?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let _lock = repair::lock(&agent)?;
    let (mut failed, mut answers) = (false, Vec::new());
    for copy in &copies {
        let bar = Bar::start(&progress);
        bar.begin(&format!("repairing the copy at {}", copy.target), Counts::Targets, None, &progress);
        let repaired = repair::repair(&agent, copy, &progress);
        bar.finish();
        let (word, text) = match &repaired {
            Ok(repaired) => ("repaired", described(repaired)),
            Err(e) if e.is::<Interrupted>() => return Err(Interrupted.into()),
            Err(e) => {
                failed = true;
                ("failed", format!("{e:#}"))
            }
        };
        if args.json {
            answers.push(json!({
                "run_id": copy.run_id, "target": copy.target, "ok": repaired.is_ok(), "text": text,
            }));
        } else {
            let word = output::tinted(word, 8);
            output::print(&format!("{word} {} at {}: {text}\n", copy.run_id, copy.target));
        }
    }
    if args.json {
        output::json(&answers)?;
    } else if copies.is_empty() {
        output::print(&format!(
            "no copy is known to be damaged; `{} verify --all` reads everything back\n",
            agent.command
        ));
    }
    common::publish(&agent)?;
    super::verify::told(&agent);
    Ok(if failed { code::FAILURE } else { code::OK })
}

/// A repair in words.
pub fn described(repaired: &Repaired) -> String {
    match repaired {
        Repaired::Whole => "it was read back again, and is as it was written".to_owned(),
        Repaired::Replaced { from, location, bytes, left } => {
            let left = left.as_ref().map_or_else(String::new, |why| {
                format!("; the damaged folder could not be removed, do that by hand: {why}")
            });
            format!("{} copied from {from} to {location} and read back{left}", ByteSize(*bytes))
        }
    }
}
