//! Child processes: started by argument list, never through a shell, and never left behind.
//!
//! Each child leads a process group of its own, has no standard input, sees only the environment it is
//! given, and ends at its deadline: SIGTERM to the group, a short grace, SIGKILL to the group. When the
//! agent itself is killed, the kernel kills the child. What the child wrote to standard error last is kept
//! for the error message, escaped, with every secret of the [`Command`] replaced.
//!
//! Out of reach are only processes that leave their group (`setsid`) and those that the kernel cannot end,
//! such as one that waits for a dead network file system: they are left behind, not waited for.

mod child;
mod tail;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::Secret;

pub use child::{StreamChild, stream, stream_from};

/// How long a process group has between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);
/// How many bytes of standard error are kept.
pub const STDERR_BYTES: usize = 64 << 10;
/// How many lines of standard error are kept.
pub const STDERR_LINES: usize = 50;

/// What stands before the earlier lines of standard error in an error message.
pub const STDERR_BEFORE: &str = "on standard error before that:";
/// How many of the kept lines an error message shows.
const SHOWN_LINES: usize = 10;
/// Those that say who the user is.
const OF_USER: [&str; 3] = ["HOME", "USER", "LOGNAME"];
/// Passed on from the agent's own environment.
const INHERITED: [&str; 5] = ["HOME", "USER", "LOGNAME", "TMPDIR", "TZ"];
/// Where programs are looked for beside the agent's own PATH: cron's PATH has no `sbin`.
const STANDARD_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Says whether the work should stop. Asked about ten times a second, from another thread.
pub type Cancel = Arc<dyn Fn() -> bool + Send + Sync>;

/// A [`Cancel`] that never stops anything.
pub fn never() -> Cancel {
    Arc::new(|| false)
}

/// A program to run.
#[derive(Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    secret_env: Vec<(String, Secret)>,
    hidden: Vec<Secret>,
    timeout: Duration,
    max_output: usize,
    hint: Option<String>,
    user: Option<RunAs>,
}

/// Another user of the operating system.
#[derive(Debug, Clone)]
struct RunAs {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl Command {
    /// A program by absolute path, or by a name that is looked up by [`find_program`]. It may run for a
    /// minute unless [`Command::timeout`] says otherwise.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            secret_env: Vec::new(),
            hidden: Vec::new(),
            timeout: Duration::from_secs(60),
            max_output: 16 << 20,
            hint: None,
            user: None,
        }
    }

    /// Adds an argument. Every user of the machine can read it: it must hold no secret.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Sets an environment variable to a secret. Environments are readable by the same user and root only;
    /// the value is replaced wherever the child writes it to standard error.
    pub fn env_secret(mut self, key: impl Into<String>, value: Secret) -> Self {
        self.secret_env.push((key.into(), value));
        self
    }

    /// Replaces `secret` wherever the child writes it to standard error; for secrets that reach the child
    /// by a file.
    pub fn hide(mut self, secret: Secret) -> Self {
        self.hidden.push(secret);
        self
    }

    /// How long the child may run, from its start to its end.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many bytes [`output`] accepts; 16 MiB unless set. More is an error.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// What to do when the program is missing, as the end of a sentence: "install the package …".
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Lets the program run as another user, without that user's further groups; only root can. An error
    /// when there is no such user, or this process may not become it.
    pub fn run_as(mut self, name: &str) -> Result<Self, ProcessError> {
        let refused = |reason: String| ProcessError::Spawn { program: self.name(), reason };
        let user = nix::unistd::User::from_name(name)
            .map_err(|error| refused(format!("looking for the user {name}: {error}")))?
            .ok_or_else(|| refused(format!("there is no user {name} on this system")))?;
        let own = nix::unistd::geteuid();
        if own == user.uid {
            return Ok(self);
        }
        if !own.is_root() {
            return Err(refused(format!(
                "only root can run it as {name}, and the agent does not run as root"
            )));
        }
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        self.user = Some(RunAs { name: name.to_owned(), uid, gid, home: user.dir });
        Ok(self)
    }

    /// The program's name as errors show it.
    pub fn name(&self) -> String {
        self.program.display().to_string()
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secret_env.iter().map(|(_, secret)| secret).chain(&self.hidden)
    }

    fn resolve(&self) -> Result<PathBuf, ProcessError> {
        find_program(&self.program).ok_or_else(|| {
            let place = if self.program.as_os_str().as_encoded_bytes().contains(&b'/') {
                String::new()
            } else {
                format!(" in {}", search_path().to_string_lossy())
            };
            let hint = self.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
            ProcessError::NotFound { program: self.name(), place, hint }
        })
    }

    /// The whole environment of the child, secrets included.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut env = environment();
        if let Some(user) = &self.user {
            env.retain(|(key, _)| key != "TMPDIR");
            for (key, value) in [("USER", user.name.as_str()), ("LOGNAME", user.name.as_str())] {
                env.push((key.into(), value.into()));
            }
            env.push(("HOME".into(), user.home.clone().into()));
        }
        env.extend(self.env.iter().cloned());
        env.extend(self.secret_env.iter().map(|(key, value)| (key.into(), value.expose().into())));
        env
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of plain variables are left out too: a password may have been put there by mistake.
        let keys: Vec<_> = self.env.iter().map(|(key, _)| key.to_string_lossy().into_owned()).collect();
        let secret_keys: Vec<_> = self.secret_env.iter().map(|(key, _)| key).collect();
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &keys)
            .field("secret_env", &secret_keys)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What every child sees of the agent's environment, and no more. Of whom it is says the password database where the
/// agent was started without it, as by systemd.
pub fn environment() -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), search_path()),
        // Messages and number formats in a language this program reads.
        ("LANG".into(), "C.UTF-8".into()),
        ("LC_ALL".into(), "C.UTF-8".into()),
    ];
    env.extend(INHERITED.iter().filter_map(|key| Some((OsString::from(key), std::env::var_os(key)?))));
    let lacks = |key: &&str| std::env::var_os(key).is_none();
    if OF_USER.iter().any(lacks)
        && let Ok(Some(user)) = nix::unistd::User::from_uid(nix::unistd::geteuid())
    {
        for key in OF_USER.into_iter().filter(lacks) {
            let value = if key == "HOME" { user.dir.clone().into() } else { user.name.clone().into() };
            env.push((key.into(), value));
        }
    }
    env
}

/// Where programs are looked for: the agent's PATH without relative entries, then the standard folders
/// that are not in it.
pub fn search_path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&own).filter(|folder| folder.is_absolute()).collect();
    for standard in STANDARD_PATH.map(PathBuf::from) {
        if !folders.contains(&standard) {
            folders.push(standard);
        }
    }
    std::env::join_paths(folders).unwrap_or(own)
}

/// The executable file that `program` names: a path with a slash as it stands, a plain name from
/// [`search_path`]. `None` when there is none.
pub fn find_program(program: impl AsRef<Path>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let program = program.as_ref();
    if program.as_os_str().is_empty() {
        return None;
    }
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return executable(program).then(|| program.to_path_buf());
    }
    std::env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|path| executable(path))
}

/// How a child ended that ended well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// What it wrote to standard error last, escaped; empty when nothing.
    pub stderr: StderrTail,
}

/// What a short helper printed.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: StderrTail,
}

impl Output {
    /// Standard output as text, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// The end of a child's standard error: at most [`STDERR_LINES`] lines, control characters escaped,
/// secrets replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StderrTail {
    /// The lines, oldest first.
    pub lines: Vec<String>,
}

impl StderrTail {
    /// True when one of the lines contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

impl fmt::Display for StderrTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines.as_slice() {
            [] => f.write_str(" and wrote nothing to standard error"),
            [line] => write!(f, ": {line}"),
            // Programs say last what ended them; whoever shows one line only shows that.
            [before @ .., last] => {
                write!(f, ": {last}\n  {STDERR_BEFORE}")?;
                for line in &before[before.len().saturating_sub(SHOWN_LINES - 1)..] {
                    write!(f, "\n    {line}")?;
                }
                Ok(())
            }
        }
    }
}

/// Why a child did not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProcessError {
    /// There is no such program.
    #[error("program {program} was not found or is not executable{place}{hint}")]
    NotFound {
        /// The name or path that was asked for.
        program: String,
        /// Where it was looked for, as the end of a sentence.
        place: String,
        /// What to do, as the end of a sentence.
        hint: String,
    },
    /// The system could not start it.
    #[error("program {program} could not be started: {reason}")]
    Spawn {
        /// The program.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// Its output could not be read.
    #[error("the output of {program} could not be read: {reason}")]
    Read {
        /// The program.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// It ended with an exit code other than 0.
    #[error("program {program} ended with exit code {code}{stderr}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit code.
        code: i32,
        /// What it said.
        stderr: StderrTail,
    },
    /// A signal ended it.
    #[error("program {program} was killed by signal {signal} ({name}){stderr}")]
    Signalled {
        /// The program.
        program: String,
        /// The signal's number.
        signal: i32,
        /// The signal's name.
        name: &'static str,
        /// What it said.
        stderr: StderrTail,
    },
    /// It did not end in time, and was ended with its process group.
    #[error("program {program} was ended because it had not finished after {}{stderr}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was allowed to run.
        timeout: Duration,
        /// What it said.
        stderr: StderrTail,
    },
    /// It was ended because the work was cancelled.
    #[error("program {program} was ended because the run was interrupted")]
    Cancelled {
        /// The program.
        program: String,
    },
    /// It wrote more than [`Command::max_output`].
    #[error("program {program} wrote more than the {limit} bytes that are read from it")]
    TooMuchOutput {
        /// The program.
        program: String,
        /// The limit.
        limit: usize,
    },
    /// It was ended because its output was not read to the end.
    #[error("program {program} was ended before all of its output was read")]
    NotReadToEnd {
        /// The program.
        program: String,
    },
}

impl ProcessError {
    /// What the child said, where it ran at all.
    pub fn stderr(&self) -> Option<&StderrTail> {
        match self {
            ProcessError::Failed { stderr, .. }
            | ProcessError::Signalled { stderr, .. }
            | ProcessError::TimedOut { stderr, .. } => Some(stderr),
            _ => None,
        }
    }
}

/// Runs a short program and returns what it printed; an error unless it exits with 0. Blocks; call it from
/// a plain thread, not from async code.
pub fn output(command: Command, cancel: &Cancel) -> Result<Output, ProcessError> {
    let limit = command.max_output;
    let program = command.name();
    let mut child = stream(command, cancel.clone())?;
    let mut stdout = Vec::new();
    let read = child.by_ref().take(limit as u64 + 1).read_to_end(&mut stdout);
    if stdout.len() > limit {
        return Err(ProcessError::TooMuchOutput { program, limit });
    }
    match (child.finish(), read) {
        (Ok(exit), Ok(_)) => Ok(Output { stdout, stderr: exit.stderr }),
        (Err(error), _) => Err(error),
        (Ok(_), Err(error)) => Err(ProcessError::Read { program, reason: error.to_string() }),
    }
}

/// Bytes a child wrote, fit to be shown: at most the last [`STDERR_LINES`] lines of the last
/// [`STDERR_BYTES`], control characters escaped, secrets replaced.
pub fn readable<'a>(bytes: &[u8], secrets: impl Iterator<Item = &'a Secret>) -> StderrTail {
    let mut tail = tail::Tail::default();
    tail.push(bytes);
    tail.finish(secrets)
}

/// A key that may stand in an environment: not empty, no `=`, no NUL.
pub fn is_env_key(key: impl AsRef<OsStr>) -> bool {
    let bytes = key.as_ref().as_encoded_bytes();
    !bytes.is_empty() && !bytes.contains(&b'=') && !bytes.contains(&0)
}

#[cfg(test)]
mod tests;
