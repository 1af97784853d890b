//! `agent target scan`: knowing what a target holds without a state, and saying whether it is fresh.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::args::{Global, TargetScan};
use super::output::Table;
use super::target::only_target;
use super::{code, common, output};
use crate::clock::{Clock, SystemClock};
use crate::event::Progress;
use crate::health;
use crate::model::{ByteSize, RunId, TargetName, plural};
use crate::ops::isolate::At;
use crate::ops::scan::{self as scanning, Freshness, Known, freshness};
use crate::state::{Copy, HealthStatus, State, StateError};
use crate::target::{Found, Scan};

/// What was found, and what is known of it.
struct Answer {
    target: TargetName,
    scan: Scan,
    /// For each backup found.
    known: Vec<Known>,
    sums: Vec<Freshness>,
    /// What the state knows there and was not found.
    missing: Vec<Copy>,
    adopted: Option<Vec<RunId>>,
    forgotten: bool,
}

pub fn scan(global: &Global, args: &TargetScan) -> Result<u8> {
    let config = common::load(global)?;
    common::start_log(global, Some(&config), common::BESIDE_ANSWER)?;
    let name = args.name.clone().map_or_else(|| only_target(&config), Ok)?;
    common::known_target(&config, Some(&name))?;
    let progress = Arc::new(Progress::default());
    common::stop_on_signals(&progress)?;
    let (now, zone) = (SystemClock.now(), config.timezone);
    let mut answer = if args.adopt || args.forget {
        let agent = common::open(global, config)?;
        let scan = scanning::scan(agent.at(&name, "")?, &progress)?;
        let known = scanning::known(Some(&agent.state), &name, &scan)?;
        let missing = scanning::missing(&agent.state, &name, &scan, now)?;
        let adopt = || scanning::adopt(&agent, &name, &scan, args.host.as_deref());
        let adopted = args.adopt.then(adopt).transpose()?;
        if args.forget {
            scanning::forget(&agent, &name, &scan, &missing)?;
        }
        common::publish(&agent)?;
        Answer { target: name, scan, known, sums: Vec::new(), missing, adopted, forgotten: args.forget }
    } else {
        // A state that is lost is what this is for.
        let state = match State::open_read_only(&config.state_dir) {
            Ok(state) => Some(state),
            Err(StateError::NotFound { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let expected = state.as_ref().map(|state| state.target_identity(&name)).transpose()?.flatten();
        let at = At::new(&name, &config.target[&name], "").expecting(expected);
        let scan = scanning::scan(at, &progress)?;
        let known = scanning::known(state.as_ref(), &name, &scan)?;
        let missing = match &state {
            Some(state) => scanning::missing(state, &name, &scan, now)?,
            None => Vec::new(),
        };
        Answer { target: name, scan, known, sums: Vec::new(), missing, adopted: None, forgotten: false }
    };
    answer.only(args);
    match args.max_age {
        Some(max_age) => as_plugin(&answer, args, max_age, now),
        None => as_list(&answer, args, zone, now),
    }
}

impl Answer {
    /// Leaves what was asked for.
    fn only(&mut self, args: &TargetScan) {
        let wanted = |found: &Found| {
            args.host.as_ref().is_none_or(|host| *host == found.host)
                && args.job.as_ref().is_none_or(|job| *job == found.job)
        };
        let pairs = std::mem::take(&mut self.scan.found).into_iter().zip(std::mem::take(&mut self.known));
        (self.scan.found, self.known) = pairs.filter(|(found, _)| wanted(found)).unzip();
        if args.host.is_some() {
            self.missing.clear();
        }
        self.missing.retain(|copy| args.job.as_ref().is_none_or(|job| *job == copy.job));
        self.sums = freshness(&self.scan);
    }

    fn json(&self, now: DateTime<Utc>) -> Result<serde_json::Value> {
        let backups: Vec<_> = self
            .scan
            .found
            .iter()
            .zip(&self.known)
            .map(|(found, known)| {
                let mut value = serde_json::to_value(found)?;
                value["known"] = json!(known.as_str());
                value["adopted"] =
                    json!(self.adopted.as_ref().is_some_and(|runs| runs.contains(&found.run_id)));
                Ok(value)
            })
            .collect::<Result<_>>()?;
        let hosts: Vec<_> = self
            .sums
            .iter()
            .map(|sum| {
                let mut value = serde_json::to_value(sum)?;
                value["age_seconds"] = json!(sum.newest_good.map(|at| health::since(at, now).as_secs()));
                Ok(value)
            })
            .collect::<Result<_>>()?;
        Ok(json!({
            "target": self.target, "backups": backups, "hosts": hosts, "unread": self.scan.unread,
            "missing": self.missing,
        }))
    }
}

/// Lists everything. A manifest that could not be read, and a backup that is not where it should be, are failures.
fn as_list(answer: &Answer, args: &TargetScan, zone: Tz, now: DateTime<Utc>) -> Result<u8> {
    if args.json {
        output::json(&answer.json(now)?)?;
    } else {
        output::print(&describe(answer, zone, now));
    }
    for unread in &answer.scan.unread {
        output::error(&anyhow::anyhow!("{}: {}", unread.location, unread.error));
    }
    let whole = answer.scan.unread.is_empty() && (answer.missing.is_empty() || answer.forgotten);
    Ok(if whole { code::OK } else { code::FAILURE })
}

/// Says whether everything is fresh.
fn as_plugin(answer: &Answer, args: &TargetScan, max_age: Duration, now: DateTime<Utc>) -> Result<u8> {
    let stale = scanning::stale(&answer.sums, &args.expect, max_age, now);
    let status = match (stale.is_empty(), answer.scan.unread.is_empty()) {
        (false, _) => HealthStatus::Critical,
        (true, false) => HealthStatus::Warning,
        (true, true) => HealthStatus::Ok,
    };
    if args.json {
        let mut value = answer.json(now)?;
        value["status"] = json!(status);
        value["stale"] = json!(stale);
        output::json(&value)?;
        return Ok(status.code());
    }
    let oldest = answer.sums.iter().filter_map(|sum| Some((sum.newest_good?, sum))).min_by_key(|s| s.0);
    let summary = match (&*stale, oldest) {
        ([], Some((at, sum))) => format!(
            "{} at {} fresh, the oldest is {} of {}, {} old",
            plural(answer.sums.len() as u64, "job", "jobs"),
            answer.target,
            sum.job,
            sum.host,
            health::words(health::since(at, now))
        ),
        (stale, _) => format!("{}: {}", answer.target, stale.join("; ")),
    };
    output::print(&format!("BACKUP {} - {summary}\n", status.as_str().to_uppercase()));
    if !answer.sums.is_empty() {
        output::print(&sums_table(&answer.sums, Tz::UTC, now));
    }
    for unread in &answer.scan.unread {
        output::print(&format!("not read: {}: {}\n", unread.location, unread.error));
    }
    Ok(status.code())
}

fn local(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string()
}

fn sums_table(sums: &[Freshness], zone: Tz, now: DateTime<Utc>) -> String {
    let mut table = Table::new(&["host", "job", "backups", "size", "newest good", "age"]);
    for sum in sums {
        let age = |at: DateTime<Utc>| output::took((now - at).to_std().unwrap_or_default());
        table.row(vec![
            sum.host.clone(),
            sum.job.to_string(),
            sum.backups.to_string(),
            ByteSize(sum.bytes).to_string(),
            sum.newest_good.map_or("none".to_owned(), |at| local(at, zone)),
            sum.newest_good.map_or("-".to_owned(), age),
        ]);
    }
    table.render(None)
}

fn describe(answer: &Answer, zone: Tz, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    if answer.scan.found.is_empty() {
        text.push_str("there are no backups\n");
    } else {
        let mut table = Table::new(&["host", "job", "run", "taken", "outcome", "size", "state", "folder"]);
        for (found, known) in answer.scan.found.iter().zip(&answer.known) {
            let state = match &answer.adopted {
                Some(runs) if runs.contains(&found.run_id) => "adopted",
                _ => known.as_str(),
            };
            table.row(vec![
                found.host.clone(),
                found.job.to_string(),
                found.run_id.to_string(),
                local(found.started, zone),
                found.outcome.to_string(),
                ByteSize(found.stored_bytes).to_string(),
                if found.pin.is_some() { format!("{state}, pinned") } else { state.to_owned() },
                found.location.clone(),
            ]);
        }
        text.push_str(&table.render(Some(6)));
        text.push('\n');
        text.push_str(&sums_table(&answer.sums, zone, now));
    }
    let new = answer.known.iter().filter(|known| known.is_new()).count();
    match &answer.adopted {
        Some(runs) => text.push_str(&format!(
            "\n{} recorded as complete; one counts as verified once `agent verify ID` has read it back\n",
            plural(runs.len() as u64, "backup", "backups")
        )),
        None if new > 0 => text.push_str(&format!(
            "\n{} not known to the state; record those of this host with --adopt\n",
            plural(new as u64, "backup", "backups")
        )),
        None => {}
    }
    if !answer.missing.is_empty() {
        let verb = if answer.forgotten { "forgotten" } else { "known to the state and not there" };
        text.push_str(&format!("\n{} {verb}:\n", plural(answer.missing.len() as u64, "backup", "backups")));
        for copy in &answer.missing {
            let folder = copy.location.as_deref().unwrap_or("-");
            text.push_str(&format!("  {} of {}, in {folder}\n", copy.run_id, copy.job));
        }
        if !answer.forgotten {
            text.push_str("if somebody removed them on purpose, take them out of the list with --forget\n");
        }
    }
    text
}
