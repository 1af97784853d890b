//! Verbs that only look: `list`, `show`, `status`, `history`, `schedule`, `metrics`.

mod show;
mod status;
mod times;

pub use self::show::show;
pub use self::status::status;
pub use self::times::{history, schedule};

use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::args::{Global, List};
use super::output::{self, Table};
use super::{code, common};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::metrics::{Facts, render};
use crate::model::{ByteSize, JobName};
use crate::state::{Copy, CopyStatus, load_for_reading};

pub fn list(global: &Global, args: &List) -> Result<u8> {
    let agent = common::open_backups(global, common::load(global)?, args.target.as_ref(), None)?;
    let copies: Vec<Copy> = agent
        .state
        .copies(args.job.as_ref(), args.target.as_ref())?
        .into_iter()
        .filter(|c| args.all || c.status != CopyStatus::Expired)
        .collect();
    if args.json {
        output::json(&copies)?;
        return Ok(code::OK);
    }
    let now = agent.now();
    let mut table = Table::new(&["run", "job", "taken", "outcome", "target", "state", "size", "folder"]);
    for c in &copies {
        table.row(vec![
            c.run_id.to_string(),
            c.job.to_string(),
            local(c.started, zone_of(&agent.config, &c.job)),
            if c.imported { "imported".to_owned() } else { c.outcome.to_string() },
            c.target.to_string(),
            state_of(c, now),
            ByteSize(c.bytes).to_string(),
            c.location.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output::print(&if table.is_empty() {
        "there are no backups yet\n".to_owned()
    } else {
        table.render(Some(5))
    });
    Ok(code::OK)
}

pub fn metrics(global: &Global) -> Result<u8> {
    let config = common::load(global)?;
    let now = SystemClock.now();
    let (snapshot, _) = load_for_reading(&config.state_dir, now).context("reading the state")?;
    let facts =
        Facts { snapshot: Arc::new(snapshot), config: Arc::new(config), progress: Default::default(), now };
    output::print(&render(&facts)?);
    Ok(code::OK)
}

/// How a copy stands, and what keeps it.
fn state_of(copy: &Copy, now: DateTime<Utc>) -> String {
    let mut text = copy.status.to_string();
    if copy.pinned {
        text.push_str(", pinned");
    }
    if copy.retained_until.is_some_and(|until| until > now) {
        text.push_str(", retained");
    }
    text
}

fn local(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}

fn zone_of(config: &Config, job: &JobName) -> Tz {
    config.job.get(job).map_or(config.timezone, |j| config.job_timezone(j))
}
