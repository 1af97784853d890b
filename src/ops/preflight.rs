//! Looks at sources and targets before anything is read, so that what cannot work fails in the first second.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use super::{Agent, prune, sentinel};
use crate::event::{Event, Level, Observer, Progress};
use crate::model::{ByteSize, ComponentName, JobName};
use crate::source::{Context, Ready, Source};
use crate::target::{Space, Target};

/// Room asked for beyond what the last good backup took.
const HEADROOM: f64 = 1.05;

/// Looks at the target before anything is written there. A target too full for another backup like the last
/// one is first relieved of what the policy has let expire anyway.
pub fn target(
    agent: &Agent,
    job: &JobName,
    target: &dyn Target,
    observer: &dyn Observer,
    progress: &Progress,
) -> Result<()> {
    let expected = agent.state.last_success(job)?.map_or(0, |run| run.stored_bytes);
    let needed = (expected as f64 * HEADROOM) as u64;
    let free = match target.probe() {
        Ok(space) if space.is_none_or(|space| space.free >= needed) => {
            return record(agent, target, space, observer);
        }
        Ok(space) => Ok(space),
        Err(e) => Err(e),
    };
    let removed =
        prune::at_target(agent, job, target.name(), Some(target), progress).unwrap_or_default().removed;
    if !removed.is_empty() {
        let text = format!(
            "target {} is nearly full: {} expired backups were removed first",
            target.name(),
            removed.len()
        );
        observer.event(&Event::Note(Level::Warning, text));
    }
    let space = match target.probe() {
        Ok(space) => space,
        Err(e) => {
            agent.state.record_probe(
                target.name(),
                agent.now(),
                false,
                None,
                None,
                Some(&format!("{e:#}")),
            )?;
            return Err(free.err().unwrap_or(e));
        }
    };
    record(agent, target, space, observer)?;
    if let Some(space) = space.filter(|space| space.free < needed) {
        let text = format!(
            "target {} has {} free; the last backup took {}",
            target.name(),
            ByteSize(space.free),
            ByteSize(expected)
        );
        observer.event(&Event::Note(Level::Warning, text));
    }
    Ok(())
}

fn record(agent: &Agent, target: &dyn Target, space: Option<Space>, observer: &dyn Observer) -> Result<()> {
    if let Some(warning) = sentinel::learn(agent, target.name(), Some(target))? {
        observer.event(&Event::Note(Level::Warning, warning));
    }
    Ok(agent.state.record_probe(
        target.name(),
        agent.now(),
        true,
        space.map(|space| space.total),
        space.map(|space| space.free),
        None,
    )?)
}

/// Looks at every source, and reports all that is wrong, not only the first. `later` says which are looked at
/// when it is their turn: what a command before them makes is not there yet.
pub fn sources(
    sources: &[Box<dyn Source>],
    later: impl Fn(&ComponentName) -> bool,
    context: &Context,
    observer: &dyn Observer,
) -> Result<BTreeMap<ComponentName, Ready>> {
    let mut problems = Vec::new();
    let mut ready = BTreeMap::new();
    for source in sources.iter().filter(|source| !later(source.name())) {
        match one(source.as_ref(), context, observer) {
            Ok(found) => {
                ready.insert(source.name().clone(), found);
            }
            Err(e) if context.progress.is_cancelled() => return Err(e),
            Err(e) => problems.push(e),
        }
    }
    match problems.len() {
        0 => Ok(ready),
        1 => Err(problems.remove(0)),
        _ => {
            let texts: Vec<String> = problems.iter().map(|e| format!("{e:#}")).collect();
            bail!("{}", texts.join("\n"))
        }
    }
}

/// Looks at one source.
pub fn one(source: &dyn Source, context: &Context, observer: &dyn Observer) -> Result<Ready> {
    let ready = source.preflight(context).with_context(|| format!("component {}", source.name()))?;
    for warning in &ready.warnings {
        observer.event(&Event::Note(Level::Warning, format!("{}: {warning}", source.name())));
    }
    Ok(ready)
}
