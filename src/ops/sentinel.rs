//! Knowing a target again: `agent target init`, and what is recorded at the first use.

use std::time::Duration;

use anyhow::{Result, bail};

use super::Agent;
use super::isolate::{self, Reply, Request};
use crate::event::Progress;
use crate::model::TargetName;
use crate::state::TargetIdentity;
use crate::target::{SENTINEL_FILE, Sentinel, Target};

/// How long a target may take to answer.
const STALL: Duration = Duration::from_secs(30);

/// What came of [`initialise`].
#[derive(Debug)]
pub struct Initialised {
    /// The sentinel the target has now.
    pub sentinel: Sentinel,
    /// True when it was there before, perhaps made by another host.
    pub was_there: bool,
    /// What stands there.
    pub identity: TargetIdentity,
}

/// Gives a target a sentinel file, or takes the one it has, and records that this is the target from now on.
/// One that is not what the state knows is refused, unless `force` says that it is the right one now.
pub fn initialise(agent: &Agent, name: &TargetName, force: bool) -> Result<Initialised> {
    let known = agent.state.target_identity(name)?;
    let mut at = agent.at(name, "")?;
    let mine = Sentinel::generate(&agent.config.host_name(), agent.now());
    if let Some(known) = known.filter(|_| !force) {
        let found = identify(agent, name)?;
        let same_id = known.id.is_none() || known.id == found.id;
        if known.file_system != found.file_system || !same_id {
            let shown = |identity: &TargetIdentity| {
                let id = identity.id.clone().map_or("no sentinel".to_owned(), |id| format!("the id {id}"));
                format!("{} with {id}", identity.file_system)
            };
            bail!(
                "target {name} is known as {}, and {} stands at {}: mount the right one, or say --force to take \
                 this one from now on",
                shown(&known),
                shown(&found),
                at.config.address("")
            );
        }
    }
    at.expected = None;
    let request = Request::Initialise { at, sentinel: mine.clone() };
    let sentinel = match isolate::call(&request, STALL, None, &Progress::default(), &mut |_| Ok(()))? {
        Reply::Initialised { sentinel } => sentinel,
        other => bail!("an unexpected answer to the initialising of a target: {other:?}"),
    };
    let identity = identify(agent, name)?;
    if identity.id.as_ref() != Some(&sentinel.id) {
        bail!("target {name}: the sentinel {SENTINEL_FILE} was written and reads back as another");
    }
    agent.state.set_target_identity(name, &identity)?;
    Ok(Initialised { was_there: sentinel.id != mine.id, sentinel, identity })
}

/// Says what stands at a target now, by a child process.
fn identify(agent: &Agent, name: &TargetName) -> Result<TargetIdentity> {
    let request = Request::Identify { at: agent.at(name, "")?, now: agent.now() };
    match isolate::call(&request, STALL, None, &Progress::default(), &mut |_| Ok(()))? {
        Reply::Identified { identity } => Ok(identity),
        other => bail!("an unexpected answer to a look at target {name}: {other:?}"),
    }
}

/// Records what a target with `require_mount` is, the first time it could be used, so that another one in its
/// place is noticed from then on. `primary` is the target when this process may touch it itself. Gives a
/// sentence when only the type of the file system can be compared.
pub fn learn(agent: &Agent, name: &TargetName, primary: Option<&dyn Target>) -> Result<Option<String>> {
    let known = agent.state.target_identity(name)?;
    if !agent.target(name)?.requires_mount() || known.as_ref().is_some_and(|known| known.id.is_some()) {
        return Ok(None);
    }
    let found = match primary {
        Some(target) => target.identify(agent.now())?,
        None => identify(agent, name)?,
    };
    if known.is_none_or(|known| known.id != found.id) {
        agent.state.set_target_identity(name, &found)?;
    }
    Ok(found.id.is_none().then(|| {
        format!(
            "target {name} has no sentinel file, so that another {} share mounted in its place would not be \
             noticed; give it one with: {} target init {name}",
            found.file_system, agent.command
        )
    }))
}
