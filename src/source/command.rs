//! The standard output of a program.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::checked::CheckedStream;
use super::dump::{EndMarker, ProgramStream, Watched};
use super::{Capture, Context, Part, RANK_DATABASE, Ready, Source, StreamSource};
use crate::config::CommandConfig;
use crate::manifest::{Content, Kind};
use crate::model::ComponentName;
use crate::process::{self, Command};
use crate::secret_file;

/// A program whose standard output is backed up: a dump program without a source type of its own. It runs
/// in `/`, without standard input, and must exit with 0.
#[derive(Debug)]
pub struct CommandSource {
    name: ComponentName,
    config: CommandConfig,
}

impl CommandSource {
    /// Checks the form of the settings; whether the program is there is asked by the preflight.
    pub fn new(name: ComponentName, config: CommandConfig) -> anyhow::Result<Self> {
        ensure!(!config.command.is_empty(), "command names no program");
        for (key, list) in [("command", &config.command), ("check", &config.check)] {
            let Some(program) = list.first() else { continue };
            ensure!(!program.is_empty(), "{key} names no program");
            ensure!(
                !program.contains('/') || Path::new(program).is_absolute(),
                "{key} must begin with an absolute path or a plain program name, not {program:?}"
            );
        }
        ensure!(
            is_extension(&config.extension),
            "extension must be letters, digits, dots, - and _, such as \"sql\", not {:?}",
            config.extension
        );
        for key in config.env.keys().chain(config.env_file.keys()) {
            ensure!(process::is_env_key(key), "{key:?} cannot be the name of an environment variable");
        }
        if let Some(key) = config.env.keys().find(|key| config.env_file.contains_key(*key)) {
            bail!("{key} is set in both env and env_file");
        }
        if config.end_marker.as_ref().is_some_and(|marker| marker.trim().is_empty()) {
            bail!("end_marker holds nothing but white space");
        }
        Ok(Self { name, config })
    }

    fn program(&self) -> &str {
        self.config.command.first().map(String::as_str).unwrap_or_default()
    }

    /// One of the source's programs, with the source's environment, as the source's user.
    fn command(&self, list: &[String]) -> anyhow::Result<Command> {
        let config = &self.config;
        let (program, args) = list.split_first().context("command names no program")?;
        let mut command = Command::new(program).args(args).timeout(config.timeout);
        if let Some(user) = &config.run_as {
            command = command.run_as(user)?;
        }
        for (key, value) in &config.env {
            command = command.env(key, value);
        }
        for (key, path) in &config.env_file {
            let secret = secret_file::read(path).with_context(|| format!("environment variable {key}"))?;
            command = command.env_secret(key, secret);
        }
        Ok(command)
    }
}

fn is_extension(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && !text.starts_with('.')
        && !text.ends_with('.')
        && !text.contains("..")
}

impl Source for CommandSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "command"
    }

    fn preflight(&self, _: &Context) -> anyhow::Result<Ready> {
        for list in [&self.config.command, &self.config.check] {
            let Some(program) = list.first() else { continue };
            ensure!(
                process::find_program(program).is_some(),
                "program {program} was not found or is not executable: install it, or name it by its absolute path"
            );
            self.command(list)?;
        }
        let extension = &self.config.extension;
        Ok(Ready::whole(Part::whole(&self.name, extension, Kind::Stream, Content::Command)))
    }

    fn open(&self, _: &Part, context: &Context) -> anyhow::Result<Capture> {
        let marker = self.config.end_marker.clone().map_or(EndMarker::Any, EndMarker::Text);
        let child = process::stream(self.command(&self.config.command)?, context.cancel())?;
        let mut stream: Box<dyn StreamSource> = Box::new(ProgramStream {
            program: self.program().to_owned(),
            output: Watched::new(child, &marker),
            marker,
            allow_empty: self.config.allow_empty,
            credentials: None,
            explain: None,
        });
        if !self.config.check.is_empty() {
            let checker = self.command(&self.config.check)?;
            stream = Box::new(CheckedStream::new(stream, checker, context.cancel())?);
        }
        Ok(Capture::Stream(stream))
    }

    fn allow_empty(&self) -> bool {
        self.config.allow_empty
    }

    fn rank(&self) -> u8 {
        RANK_DATABASE
    }
}
