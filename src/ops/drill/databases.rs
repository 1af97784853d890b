//! Scratch databases: dumps loaded into databases of a drill's own, recorded before they are made, and dropped
//! afterwards, also when the drill died. What nobody recorded is never dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::TimeDelta;

use super::prove::{Proof, Stream};
use crate::config::{DrillConfig, DrillServer, SourceConfig};
use crate::event::{Interrupted, Progress};
use crate::manifest::Content;
use crate::model::{ComponentName, JobName};
use crate::ops::Agent;
use crate::ops::load::{Counted, Scratch, no_room, source_of, temporary_name};
use crate::source::{self, Database, Load, Purpose, Source};
use crate::state::{DrillResult, ScratchDatabase};

/// How the names of all scratch databases begin: privileges can be given for them.
const PREFIX: &str = "backup_drill_";
/// What else can be done where there is no room.
const NO_ROOM: &str =
    "name another server with `drill.server`, or leave databases out with `drill.databases = false`";
/// How long a server that a database could not be dropped at is left alone.
const REST: TimeDelta = TimeDelta::minutes(10);

/// The databases of one drill.
pub(super) struct Databases<'a> {
    agent: &'a Agent,
    job: &'a JobName,
    wanted: &'a DrillConfig,
    drill: i64,
    context: source::Context,
    made: Vec<Made>,
}

/// A database that was made, or was to be.
pub(super) struct Made {
    name: String,
    source: ComponentName,
    /// What it is called in the dump.
    database: String,
    server: Box<dyn Source>,
    /// Whether everything is in it.
    filled: bool,
}

impl<'a> Databases<'a> {
    /// None yet. Files with logins are made in `folder`, for as long as a program needs them.
    pub(super) fn new(
        agent: &'a Agent,
        job: &'a JobName,
        wanted: &'a DrillConfig,
        drill: i64,
        folder: &Path,
        progress: &Arc<Progress>,
    ) -> Self {
        let context = source::Context::new(folder.to_path_buf(), Arc::clone(progress));
        Self { agent, job, wanted, drill, context, made: Vec::new() }
    }

    /// Loads every dump that was restored, and counts tables. Accounts, grants and what else belongs to no
    /// database is never loaded.
    pub(super) fn load(&mut self, proof: &Proof, result: &mut DrillResult) -> Result<()> {
        let sources = &self.agent.job(self.job)?.source;
        for (component, stream) in &proof.streams {
            if !self.wanted.databases || !matches!(stream.content, Content::Mysql | Content::Postgres) {
                continue;
            }
            let Some((name, config)) = source_of(component, sources) else {
                tracing::info!("component {component} is not loaded: the job has no such source any more");
                continue;
            };
            for database in &stream.databases {
                let server = source::build(name, &elsewhere(config, self.wanted.server.get(name)))?;
                if server.database().is_none_or(|server| server.is_own(database)) {
                    continue;
                }
                let loaded = self.load_one(component, stream, name, database, server, result);
                if self.context.progress.is_cancelled() {
                    return Err(Interrupted.into());
                }
                match loaded {
                    Ok(tables) => {
                        result.databases += 1;
                        result.tables += tables;
                    }
                    Err(e) => {
                        result.problems.push(format!("component {component}: database {database}: {e:#}"))
                    }
                }
            }
        }
        Ok(())
    }

    fn load_one(
        &mut self,
        component: &ComponentName,
        stream: &Stream,
        source: &ComponentName,
        database: &str,
        server: Box<dyn Source>,
        result: &mut DrillResult,
    ) -> Result<u64> {
        let dump = File::open(&stream.path).with_context(|| format!("opening {}", stream.path.display()))?;
        no_room(at(&*server)?, dump.metadata()?.len(), &self.context, NO_ROOM)?;
        let name = scratch_name(self.job, database);
        self.agent.state.begin_scratch_database(&ScratchDatabase {
            name: name.clone(),
            drill: self.drill,
            job: self.job.clone(),
            source: source.clone(),
            tried: None,
        })?;
        let (source, database) = (source.clone(), database.to_owned());
        self.made.push(Made { name, source, database, server, filled: false });
        let made = self.made.last_mut().context("it was just added")?;
        let server = at(&*made.server)?;
        let load = Load {
            component,
            content: stream.content,
            from: &made.database,
            into: &made.name,
            no_owner: true,
            purpose: Purpose::Trial,
        };
        let begun = Instant::now();
        let loaded = server.load(&load, &mut Counted::new(dump, &self.context.progress), &self.context);
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        result.restore_ms = result.restore_ms.map(|ms| ms.saturating_add(took));
        loaded?;
        made.filled = true;
        let wanted = server.tables_in(&stream.path, &made.database, &self.context)?;
        let found = server.tables(&made.name, &self.context)?;
        ensure!(found == wanted, "{found} tables are there after loading, {wanted} are in the dump");
        Ok(found)
    }

    /// The database that was made of a source's dump.
    pub(super) fn find(&self, source: &ComponentName, database: Option<&str>) -> Result<&Made> {
        let filled: Vec<&Made> =
            self.made.iter().filter(|made| made.filled && made.source == *source).collect();
        let names = || filled.iter().map(|made| made.database.as_str()).collect::<Vec<_>>().join(", ");
        match (database, filled.as_slice()) {
            (_, []) => bail!("no database of {source} was loaded"),
            (None, [only]) => Ok(only),
            (None, _) => bail!("{source} has several databases, say which with `database`: {}", names()),
            (Some(name), _) => {
                filled.iter().find(|made| made.database == name).copied().with_context(|| {
                    format!("no database {name} of {source} was loaded; there is: {}", names())
                })
            }
        }
    }

    /// Asks one of them.
    pub(super) fn ask(&self, made: &Made, query: &str, timeout: Duration) -> Result<String> {
        at(&*made.server)?.ask(&made.name, query, timeout, &self.context)
    }

    /// Drops all of them; gives a sentence for each that is left behind.
    pub(super) fn remove(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for made in self.made.drain(..) {
            let removed = at(&*made.server)
                .and_then(|server| server.remove(&made.name, &self.context))
                .and_then(|_| Ok(self.agent.state.end_scratch_database(&made.name)?));
            match removed {
                Ok(()) => {}
                Err(e) if made.filled => {
                    problems.push(format!("the scratch database {} is left behind: {e:#}", made.name))
                }
                // That it was not loaded is told.
                Err(e) => tracing::warn!("the scratch database {} may be left behind: {e:#}", made.name),
            }
        }
        problems
    }
}

/// The server of a source that has one.
fn at(source: &dyn Source) -> Result<&dyn Database> {
    source.database().with_context(|| format!("{} is no database server", source.name()))
}

/// A name that nobody else has, and that says what it is.
fn scratch_name(job: &JobName, database: &str) -> String {
    temporary_name(PREFIX, &format!("{job}_{database}"))
}

/// The server that drills use, where it is not the source's own: nothing of the source's login is used there.
fn elsewhere(config: &SourceConfig, server: Option<&DrillServer>) -> SourceConfig {
    let mut config = config.clone();
    let Some(server) = server.cloned() else { return config };
    let DrillServer { host, port, socket, user, password_file, defaults_file, passfile, run_as } = server;
    match &mut config {
        SourceConfig::Mysql(config) => {
            (config.host, config.port, config.socket, config.user) = (host, port, socket, user);
            (config.password, config.password_file) = (None, password_file);
            (config.defaults_file, config.env_file) = (defaults_file, None);
        }
        SourceConfig::Postgres(config) => {
            (config.host, config.port, config.socket, config.user) = (host, port, socket, user);
            (config.password, config.password_file) = (None, password_file);
            (config.passfile, config.run_as) = (passfile, run_as);
        }
        _ => {}
    }
    config
}

/// Drops what drills left that ended or died; `of` one drill, or all that no living drill uses. Gives a
/// sentence for each that is still there. A server that cannot be reached is left alone for a while.
pub(super) fn reap(agent: &Agent, of: Option<i64>) -> Result<Vec<String>> {
    let mut left = agent.state.scratch_databases()?;
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let now = agent.now();
    let open: Vec<i64> = agent.state.open_drills()?.into_iter().map(|drill| drill.id).collect();
    left.retain(|left| match of {
        Some(drill) => left.drill == drill,
        None => !open.contains(&left.drill) && left.tried.is_none_or(|tried| now - tried >= REST),
    });
    let mut problems = Vec::new();
    for left in left {
        let ScratchDatabase { name, job, source, .. } = &left;
        let Some(server) = server_of(agent, job, source) else {
            tracing::warn!(
                "the scratch database {name} of a drill of job {job} may be left: the configuration has no source \
                 {source} any more that says where; drop it by hand"
            );
            agent.state.end_scratch_database(name)?;
            continue;
        };
        match server.and_then(|server| drop_left(agent, &*server, name)) {
            Ok(()) => {
                tracing::info!("the scratch database {name}, left by a drill that died, is dropped");
                agent.state.end_scratch_database(name)?;
            }
            Err(e) => {
                tracing::warn!("the scratch database {name} of a drill of job {job} is left behind: {e:#}");
                agent.state.tried_scratch_database(name, now)?;
                problems.push(format!("the scratch database {name} is left behind: {e:#}"));
            }
        }
    }
    Ok(problems)
}

fn drop_left(agent: &Agent, server: &dyn Source, name: &str) -> Result<()> {
    ensure!(name.starts_with(PREFIX), "{name} is no scratch database, it is left alone");
    let scratch = Scratch::make(&agent.config.state_dir)?;
    let context = source::Context::new(PathBuf::from(scratch.path()), Arc::default());
    at(server)?.remove(name, &context).map(drop)
}

/// The server that a job's drills use for a source; none when the configuration has it no more.
fn server_of(agent: &Agent, job: &JobName, source: &ComponentName) -> Option<Result<Box<dyn Source>>> {
    let job = agent.config.job.get(job)?;
    let config = job.source.get(source)?;
    let server = job.drill.as_ref().and_then(|drill| drill.server.get(source));
    Some(source::build(source, &elsewhere(config, server)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_are_never_the_same_and_fit_every_server() {
        let job = "web".parse().unwrap();
        let name = scratch_name(&job, "Shop-Ünited");
        assert!(name.starts_with("backup_drill_web_shop__nited_"), "{name}");
        assert_ne!(name, scratch_name(&job, "Shop-Ünited"));
        assert_eq!(scratch_name(&job, &"x".repeat(200)).len(), 63);
    }

    #[test]
    fn nothing_of_the_sources_login_reaches_another_server() {
        let source: SourceConfig = toml::from_str(
            "type = 'mysql'\nhost = 'live'\nport = 1\nuser = 'app'\npassword_file = '/a'\nenv_file = '/b'\nprogram = '/c'",
        )
        .unwrap();
        let server = DrillServer { socket: Some("/s".into()), ..DrillServer::default() };
        let SourceConfig::Mysql(config) = elsewhere(&source, Some(&server)) else { panic!("another type") };
        assert_eq!(
            (config.host, config.port, config.user, config.password_file, config.env_file),
            (None, None, None, None, None)
        );
        assert_eq!((config.socket, config.program), (Some("/s".into()), Some("/c".into())));
    }
}
