//! Scripts in place of dump programs. What the tests share.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use backup_agent::config::SourceConfig;
use backup_agent::manifest::{Content, Kind};
use backup_agent::model::ComponentName;
use backup_agent::source::{Part, Source, StreamSource, build};

use crate::stage::Stage;

pub const CANARY: &str = "canary-passw0rd";

/// A component of a source as the tests here need it; its own is asked for where the preflight is right.
pub fn part(source: &dyn Source) -> Part {
    let (extension, kind) = match source.type_name() {
        "sqlite" => ("sqlite", Kind::Stream),
        "files" | "system" => ("tar", Kind::Tar),
        _ => ("sql", Kind::Stream),
    };
    Part::whole(source.name(), extension, kind, Content::Other)
}

/// Scripts in place of dump programs.
pub trait Scripts {
    /// A shell script as a program.
    fn program(&self, name: &str, body: &str) -> String;
    /// A `command` source around a script, with further settings.
    fn command(&self, body: &str, settings: &str) -> Box<dyn Source>;
    /// Opens a source, reads it to its end and asks whether it was whole.
    fn read(&self, source: &dyn Source) -> (Vec<u8>, anyhow::Result<()>);
    /// Opens a source.
    fn start(&self, source: &dyn Source) -> anyhow::Result<Box<dyn StreamSource>>;
    /// The process ids that scripts wrote into a file.
    fn pids(&self, name: &str) -> Vec<i32>;
}

impl Scripts for Stage {
    fn program(&self, name: &str, body: &str) -> String {
        self.file(name, &format!("#!/bin/sh\n{body}\n"), 0o755).display().to_string()
    }

    fn command(&self, body: &str, settings: &str) -> Box<dyn Source> {
        let program = self.program("dump", body);
        source(&format!("type = 'command'\ncommand = ['{program}']\nextension = 'sql'\n{settings}"))
    }

    fn read(&self, source: &dyn Source) -> (Vec<u8>, anyhow::Result<()>) {
        let mut stream = match self.start(source) {
            Ok(stream) => stream,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let mut bytes = Vec::new();
        let read = stream.reader().read_to_end(&mut bytes);
        let finished = stream.finish();
        if read.is_err() {
            assert!(finished.is_err(), "reading failed, and the stream still calls itself whole");
        }
        (bytes, finished)
    }

    fn start(&self, source: &dyn Source) -> anyhow::Result<Box<dyn StreamSource>> {
        self.open(source, &part(source))
    }

    fn pids(&self, name: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

pub fn source(toml: &str) -> Box<dyn Source> {
    let config: SourceConfig = toml::from_str(toml).unwrap();
    build(&ComponentName::new("database").unwrap(), &config).unwrap()
}

pub fn text(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

/// True when the process is gone, or a zombie that its new parent has not collected yet.
pub fn ends(pid: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")) => return true,
            Ok(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    false
}
