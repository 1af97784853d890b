//! `agent show`.

use anyhow::Result;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::{local, state_of, zone_of};
use crate::cli::args::{Global, Show};
use crate::cli::backup::warnings;
use crate::cli::output::{self, Table};
use crate::cli::{code, common, drill};
use crate::config::{Config, TargetConfig};
use crate::manifest::{Encryption, Manifest};
use crate::model::ByteSize;
use crate::ops::verify::read_manifest;
use crate::state::{Copy, CopyStatus, Run};

pub fn show(global: &Global, args: &Show) -> Result<u8> {
    let agent = common::open_backups(global, common::load(global)?, None, Some(&args.id))?;
    let run = common::find_run(&agent, &args.id, args.job.as_ref())?;
    let copies = agent.state.copies_of(&run.run_id)?;
    let log = agent.state.run_log(&run.run_id)?;
    let drill = agent.state.drill_of_run(&run.run_id)?;
    // The manifest has what the state does not: digests and all warnings. A target that is away only means
    // that these are not shown.
    let manifest = copies.iter().filter(|c| c.status.is_kept()).find_map(|c| {
        agent.config.target.get(&c.target).filter(|t| t.folder().is_some() && !t.requires_mount())?;
        let (target, location) = (agent.open_target(&c.target).ok()?, c.location.as_deref()?);
        target.probe_readable(location).ok()?;
        read_manifest(target.as_ref(), location).ok()
    });
    if args.json {
        let log = args.log.then_some(log).flatten();
        output::json(
            &json!({"run": run, "copies": copies, "manifest": manifest, "drill": drill, "log": log}),
        )?;
        return Ok(code::OK);
    }
    let zone = zone_of(&agent.config, &run.job);
    output::print(&describe(&agent.config, &run, &copies, manifest.as_ref(), agent.now()));
    if let Some(drill) = &drill {
        output::print(&format!("\ndrill    {}", drill::described(drill, zone)));
    }
    match (args.log, log) {
        (true, Some(log)) => output::print(&format!("\nlog\n{log}")),
        (true, None) => output::print("\nno log is kept of this run\n"),
        (false, Some(_)) => output::print(&format!("\nlog: {} show {} --log\n", agent.command, run.run_id)),
        (false, None) => {}
    }
    Ok(code::OK)
}

fn describe(
    config: &Config,
    run: &Run,
    copies: &[Copy],
    manifest: Option<&Manifest>,
    now: DateTime<Utc>,
) -> String {
    let zone = zone_of(config, &run.job);
    let outcome = run.outcome.map_or("running", |o| o.as_str());
    let mut text =
        format!("run      {}\njob      {}\noutcome  {}\n", run.run_id, run.job, output::tinted(outcome, 0));
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<8} {value}\n"));
    line("started", format!("{} ({}, {})", local(run.started, zone), zone, run.trigger));
    if let (Some(ended), Some(took)) = (run.ended, run.duration()) {
        line("ended", format!("{}, after {}", local(ended, zone), output::took(took)));
    }
    if let Some(error) = &run.error {
        let step = run.failed_step.map_or_else(String::new, |s| format!(" (in {s})"));
        line("error", format!("{error}{step}"));
    }
    run.degraded.iter().for_each(|why| line("degraded", why.clone()));
    match manifest.map(|m| &m.encryption) {
        Some(Encryption::Age(age)) if age.passphrase => {
            line("opens by", "a passphrase (encrypted with age)".to_owned())
        }
        Some(Encryption::Age(age)) => {
            line("opens by", format!("{} (encrypted with age)", age.recipients.join(" or ")));
        }
        Some(Encryption::None) | None => {}
    }
    if !run.steps.is_empty() {
        let steps: Vec<String> =
            run.steps.iter().map(|s| format!("{} {:.1} s", s.step, s.ms as f64 / 1000.0)).collect();
        line("steps", steps.join(", "));
    }
    if !run.components.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["component", "read", "stored", "entries", "sha256"]);
        for c in &run.components {
            let digest = manifest.and_then(|m| m.components.iter().find(|x| x.name == c.name));
            table.row(vec![
                c.name.to_string(),
                ByteSize(c.source_bytes).to_string(),
                ByteSize(c.stored_bytes).to_string(),
                if c.entries > 0 { c.entries.to_string() } else { "-".to_owned() },
                digest.map_or_else(|| "-".to_owned(), |d| d.sha256.to_string()),
            ]);
        }
        text.push_str(&table.render(None));
    }
    if !copies.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["target", "state", "since", "folder"]);
        for c in copies {
            let since = c.verified_at.or(c.created_at).unwrap_or(c.queued_at);
            table.row(vec![
                c.target.to_string(),
                state_of(c, now),
                local(since, zone),
                c.location.clone().or_else(|| waits_for(c)).unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        text.push_str(&table.render(Some(1)));
        for copy in copies {
            let unread = config.target.get(&copy.target).filter(|_| copy.status == CopyStatus::Complete);
            if let Some(why) = unread.and_then(TargetConfig::not_read_back) {
                text.push_str(&format!("not read back at {}: {why}\n", copy.target));
            }
            text.push_str(&kept_by(copy, zone, now));
        }
    }
    // The manifest of an encrypted backup has no paths.
    let all = manifest.filter(|m| !m.encryption.is_some());
    let all = all.map(|m| m.components.iter().flat_map(|c| c.warnings.iter()).collect::<Vec<_>>());
    let files = all.unwrap_or_else(|| run.warnings.iter().collect());
    if !files.is_empty() {
        let skipped = run.warning_counts.skipped;
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        let counted = warnings(&run.warning_counts);
        let counts = format!("{counted}{skipped}");
        text.push_str(&format!("\nfiles:{}\n", counts.trim_start_matches(',')));
        for warning in files.iter().take(100) {
            text.push_str(&format!(
                "  {:<10} {}: {}\n",
                warning.kind,
                warning.path.display(),
                warning.detail
            ));
        }
        if files.len() > 100 {
            text.push_str(&format!("  … and {} more (--json has them)\n", files.len() - 100));
        }
    }
    text
}

/// A line for each thing that keeps a copy.
fn kept_by(copy: &Copy, zone: Tz, now: DateTime<Utc>) -> String {
    let mut text = String::new();
    if copy.pinned {
        let by = copy.pin.as_ref().map_or(String::new(), |pin| {
            let reason = pin.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            format!(" by {} on {}{reason}", pin.by, local(pin.pinned, zone))
        });
        let unknown = if copy.pin_stored || copy.imported { "" } else { " (the target does not know yet)" };
        text.push_str(&format!("pinned at {}{by}{unknown}\n", copy.target));
    }
    if let Some(until) = copy.retained_until.filter(|until| *until > now) {
        text.push_str(&format!("kept at {} by the storage until {}\n", copy.target, local(until, zone)));
    }
    text
}

/// Why a copy is not made yet.
fn waits_for(copy: &Copy) -> Option<String> {
    copy.last_error.clone().filter(|_| copy.status == CopyStatus::Pending)
}
