//! Redis and Valkey: the server's own snapshot, sent as to a replica.
//!
//! `redis-cli --rdb -` asks the server for a copy of all its data. The file ends in a checksum over all of it,
//! which is computed along: a snapshot that was cut off or changed on its way is no backup.

mod rdb;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use self::rdb::RdbStream;
use super::dump::{EndMarker, ProgramStream, Watched};
use super::parts::Part;
use super::{Capture, Context, RANK_DATABASE, Ready, Source, settings};
use crate::config::RedisConfig;
use crate::manifest::{Content, Kind};
use crate::model::{ComponentName, Secret};
use crate::process::{self, Cancel, Command, ProcessError};
use crate::secret_file;

/// Client programs, the preferred one first: where Valkey is, `redis-cli` is an old name of its client.
const CLIENTS: [&str; 2] = ["valkey-cli", "redis-cli"];
/// What to do when there is none.
const HINT: &str = "install the Debian package redis-tools (or valkey-tools)";
/// How long questions to the server may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a password comes from that stands in no argument. Each program reads its own.
const PASSWORD_VARIABLES: [&str; 2] = ["REDISCLI_AUTH", "VALKEYCLI_AUTH"];

/// One Redis or Valkey server.
#[derive(Debug)]
pub struct RedisSource {
    name: ComponentName,
    config: RedisConfig,
}

impl RedisSource {
    /// Checks the form of the settings; server and program are asked by the preflight.
    pub fn new(name: ComponentName, config: RedisConfig) -> anyhow::Result<Self> {
        ensure!(!config.timeout.is_zero(), "timeout must not be 0");
        settings::absolute(&[
            ("password_file", &config.password_file),
            ("socket", &config.socket),
            ("ca_file", &config.ca_file),
        ])?;
        Ok(Self { name, config })
    }

    fn program(&self) -> anyhow::Result<PathBuf> {
        if let Some(program) = &self.config.program {
            return process::find_program(program).with_context(|| {
                format!("the program {} was not found or is not executable: {HINT}", program.display())
            });
        }
        CLIENTS
            .into_iter()
            .find_map(process::find_program)
            .with_context(|| format!("no client program ({}) is installed: {HINT}", CLIENTS.join(" or ")))
    }

    fn place(&self) -> String {
        match (&self.config.socket, &self.config.host, self.config.port.unwrap_or(6379)) {
            (Some(socket), _, _) => socket.display().to_string(),
            (None, host, port) => format!("{}, port {port}", host.as_deref().unwrap_or("127.0.0.1")),
        }
    }

    fn password(&self) -> anyhow::Result<Option<Secret>> {
        match (&self.config.password, &self.config.password_file) {
            (Some(password), _) => Ok(Some(password.clone())),
            (None, file) => file.as_deref().map(secret_file::read).transpose(),
        }
    }

    /// The client program, which logs in, with nothing else to do yet.
    fn command(&self) -> anyhow::Result<Command> {
        let config = &self.config;
        let mut command = Command::new(self.program()?).timeout(CHECK_TIMEOUT);
        match &config.socket {
            Some(socket) => command = command.arg("-s").arg(socket),
            None => {
                let host = config.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
                let port = config.port.unwrap_or(6379).to_string();
                command = command.args(["-h", &host, "-p", &port]);
            }
        }
        if config.tls {
            command = command.arg("--tls");
        }
        if let Some(path) = &config.ca_file {
            command = command.arg("--cacert").arg(path);
        }
        if let Some(user) = &config.user {
            command = command.args(["--user", user]);
        }
        if let Some(password) = self.password()? {
            for variable in PASSWORD_VARIABLES {
                command = command.env_secret(variable, password.clone());
            }
        }
        Ok(command)
    }

    /// Asks for the server's own words about itself.
    fn info(&self, cancel: &Cancel) -> anyhow::Result<String> {
        // An error answer is printed like any other, and the program ends well.
        let output =
            process::output(self.command()?.arg("INFO"), cancel).map_err(|error| self.explain(error, &[]))?;
        let text = output.text();
        let server = ["redis_version:", "valkey_version:"].iter().any(|field| text.contains(field));
        if !server {
            let said: Vec<String> = text
                .lines()
                .chain(output.stderr.lines.iter().map(String::as_str))
                .map(str::to_owned)
                .collect();
            bail!("{}", self.sentence(&said));
        }
        Ok(text)
    }

    /// What is wrong, by what the client printed.
    fn sentence(&self, said: &[String]) -> String {
        let place = self.place();
        let user = self.config.user.as_deref().unwrap_or("default");
        let has = |text: &str| said.iter().any(|line| line.contains(text));
        let reason = if has("NOAUTH") || has("WRONGPASS") || has("invalid password") {
            format!(
                "the Redis server at {place} refused the login of user {user}: check user and password_file"
            )
        } else if has("NOPERM") {
            format!(
                "user {user} of the Redis server at {place} may not do what a dump needs: +info +psync +sync"
            )
        } else if has("Could not connect") || has("Connection refused") {
            format!("no Redis server answers at {place}: is it running, and is that its address?")
        } else if has("LOADING") {
            format!("the Redis server at {place} is still loading its data")
        } else {
            format!("talking to the Redis server at {place}")
        };
        let said: Vec<&str> =
            said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).take(5).collect();
        if said.is_empty() { reason } else { format!("{reason} ({})", said.join("; ")) }
    }

    fn explain(&self, error: ProcessError, said: &[String]) -> anyhow::Error {
        let lines: Vec<String> = error.stderr().map(|tail| tail.lines.clone()).unwrap_or_default();
        let sentence = self.sentence(if lines.is_empty() { said } else { &lines });
        anyhow::Error::new(error).context(sentence)
    }
}

/// A field of `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
}

impl Source for RedisSource {
    fn name(&self) -> &ComponentName {
        &self.name
    }

    fn type_name(&self) -> &'static str {
        "redis"
    }

    fn preflight(&self, context: &Context) -> anyhow::Result<Ready> {
        let info = self.info(&context.cancel())?;
        let mut ready = Ready::whole(Part::whole(&self.name, "rdb", Kind::Stream, Content::Redis));
        if field(&info, "loading") == Some("1") {
            bail!("the Redis server at {} is still loading its data", self.place());
        }
        if field(&info, "role") == Some("slave") && field(&info, "master_link_status") == Some("down") {
            ready.warnings.push(format!(
                "the Redis server at {} is a replica that lost its primary: its data may be old",
                self.place()
            ));
        }
        Ok(ready)
    }

    fn open(&self, _: &Part, context: &Context) -> anyhow::Result<Capture> {
        let command = self.command()?.args(["--rdb", "-"]).timeout(self.config.timeout);
        let program = command.name();
        let child = process::stream(command, context.cancel())?;
        let explainer = Self { name: self.name.clone(), config: self.config.clone() };
        let marker = EndMarker::Any;
        let stream = ProgramStream {
            program: program.clone(),
            output: Watched::new(child, &marker),
            marker,
            allow_empty: false,
            credentials: None,
            explain: Some(Box::new(move |error| explainer.explain(error, &[]))),
        };
        Ok(Capture::Stream(Box::new(RdbStream::new(Box::new(stream), program))))
    }

    fn rank(&self) -> u8 {
        RANK_DATABASE
    }
}
