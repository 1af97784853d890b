//! `agent drill`: a backup restored for trial.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono_tz::Tz;
use serde_json::json;

use super::args::{Drill as Args, Global};
use super::progress::{Bar, Counts};
use super::{code, common, key, output};
use crate::event::{Interrupted, Progress};
use crate::model::{ByteSize, JobName, plural};
use crate::ops::{Agent, drill, tell, touch_job};
use crate::state::Drill;

pub fn drill(global: &Global, args: &Args) -> Result<u8> {
    let config = common::load(global)?;
    common::known_target(&config, args.target.as_ref())?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let agent = common::open_existing(global, config)?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let jobs: Vec<JobName> = match (&args.job, args.due) {
        (_, true) => {
            for (job, config) in &agent.config.job {
                touch_job(&agent, job, config)?;
            }
            drill::reap(&agent)?;
            drill::due(&agent)?
        }
        (Some(job), _) => {
            common::known_job(&agent.config, job)?;
            vec![job.clone()]
        }
        (None, _) => vec![common::only_job(&agent.config)?],
    };
    let keys = key::given(&args.keys)?;
    let (mut bad, mut answers) = (false, Vec::new());
    for job in jobs {
        let expected = agent.state.last_success(&job)?.map(|run| run.source_bytes);
        let bar = Bar::start(&progress);
        bar.begin(&format!("drill of {job}"), Counts::Targets, expected, &progress);
        let done = drill::drill(&agent, &job, args.target.as_ref(), &keys, &progress);
        bar.finish();
        match done {
            Err(e) if e.is::<Interrupted>() => return Err(e),
            // One job's trouble must not keep the others from theirs.
            Err(e) if args.due => {
                bad = true;
                output::print(&format!("{} {job}: there was no drill: {e:#}\n", output::tinted("failed", 8)));
            }
            Err(e) => return Err(e),
            Ok(done) => {
                bad |= done.ok != Some(true);
                if args.json {
                    answers.push(json!(done));
                } else {
                    show(&agent, &done);
                }
            }
        }
    }
    if args.json {
        output::json(&answers)?;
    }
    tell::by_time(&agent)?;
    common::publish(&agent)?;
    super::verify::told(&agent);
    Ok(if bad { code::FAILURE } else { code::OK })
}

fn show(agent: &Agent, drill: &Drill) {
    let zone =
        agent.config.job.get(&drill.job).map_or(agent.config.timezone, |j| agent.config.job_timezone(j));
    output::print(&format!("{} ", drill.run_id));
    output::print(&described(drill, zone));
}

/// A drill in words, its problems on lines of their own.
pub fn described(drill: &Drill, zone: Tz) -> String {
    let result = &drill.result;
    let at = drill.ended.unwrap_or(drill.started).with_timezone(&zone).format("%Y-%m-%d %H:%M");
    let restore = result.restore_ms.map(|ms| output::took(Duration::from_millis(ms)));
    let what = match (drill.ok, restore) {
        (Some(true), Some(took)) => format!("came back from {} in {took}", drill.target),
        (_, Some(took)) => {
            format!("FAILED: did not come back from {} as it should (restoring took {took})", drill.target)
        }
        _ => format!("FAILED: was not restored from {}", drill.target),
    };
    let mut text =
        format!("{what} ({at}): {}, {}", plural(result.entries, "entry", "entries"), ByteSize(result.bytes));
    if result.compared + result.changed > 0 {
        text.push_str(&format!(", {} compared with the live ones", plural(result.compared, "file", "files")));
    }
    if result.changed > 0 {
        text.push_str(&format!(" ({} more have changed since)", result.changed));
    }
    if result.databases > 0 {
        text.push_str(&format!(
            ", {} with {} loaded",
            plural(result.databases, "database", "databases"),
            plural(result.tables, "table", "tables")
        ));
    }
    if result.checks > 0 {
        text.push_str(&format!(", {}", plural(result.checks, "check", "checks")));
    }
    text.push('\n');
    for problem in &result.problems {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}
