//! The verbs: what a person or a cron line can ask for, one file each.
//!
//! [`main`] parses, sets up, dispatches, and turns the result into an exit code. A verb prints its answer to
//! standard output; what goes wrong goes to standard error as one chain of reasons.

mod args;
mod backup;
mod browse;
mod check;
mod common;
mod config;
mod copies;
mod doctor;
mod drill;
mod export;
mod import;
mod inspect;
mod keep;
mod key;
mod notify;
mod output;
mod pin;
mod progress;
mod prune;
mod repair;
mod restore;
mod scan;
mod serve;
mod target;
mod tend;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, TargetVerb, Verb};

/// The exit codes of everything but `check` and `doctor`.
pub mod code {
    /// Success, or a backup with warnings.
    pub const OK: u8 = 0;
    /// Failure: no new backup.
    pub const FAILURE: u8 = 1;
    /// Wrong usage or configuration.
    pub const USAGE: u8 = 2;
    /// The backup is kept, but something could not be read.
    pub const PARTIAL: u8 = 3;
    /// The backup is good; a copy, retention or a further verification failed.
    pub const DEGRADED: u8 = 4;
    /// Another run holds the lock (EX_TEMPFAIL).
    pub const LOCKED: u8 = 75;
    /// Ended by a signal.
    pub const INTERRUPTED: u8 = 130;
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    // One TLS provider for everything; a second installation would only say that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    crate::sys::ignore_file_size_signal();
    let is_check = match &cli.verb {
        Verb::Check(_) => true,
        // Asked as a plugin, it answers as one.
        Verb::Target(args) => matches!(&args.verb, TargetVerb::Scan(scan) if scan.max_age.is_some()),
        _ => false,
    };
    // 2 would say that something is critical.
    let is_doctor = matches!(cli.verb, Verb::Doctor(_));
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) if is_check => {
            output::print(&format!("BACKUP UNKNOWN - {e:#}\n"));
            ExitCode::from(3)
        }
        Err(e) => {
            output::error_text(&common::as_called(&cli.global, &format!("{e:#}")));
            ExitCode::from(if is_doctor {
                3
            } else if e.is::<common::UsageError>() {
                code::USAGE
            } else if e.is::<crate::event::Interrupted>() {
                code::INTERRUPTED
            } else {
                code::FAILURE
            })
        }
    }
}

/// Usage errors exit with 2; those of `check` and `doctor` with 3, which monitoring systems read as "unknown".
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let verb = verb_of(std::env::args_os().skip(1));
    if verb.as_deref() == Some("doctor") {
        return ExitCode::from(3);
    }
    if verb.as_deref() == Some("check") {
        let first = error.to_string();
        let first = first.lines().next().unwrap_or_default();
        output::print(&format!("BACKUP UNKNOWN - {}\n", first.trim_start_matches("error: ")));
        return ExitCode::from(3);
    }
    ExitCode::from(code::USAGE)
}

/// The first verb among the arguments. What stands before it are options and their values.
fn verb_of(arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let command = Cli::command();
    arguments
        .filter_map(|argument| argument.into_string().ok())
        .find_map(|argument| command.find_subcommand(&argument).map(|verb| verb.get_name().to_owned()))
}

fn dispatch(cli: &Cli) -> anyhow::Result<u8> {
    let global = &cli.global;
    match &cli.verb {
        Verb::Backup(args) => backup::backup(global, args),
        Verb::Run(args) => serve::run(global, args),
        Verb::Check(args) => check::check(global, args),
        Verb::Doctor(args) => doctor::doctor(global, args),
        Verb::List(args) => inspect::list(global, args),
        Verb::Show(args) => inspect::show(global, args),
        Verb::Status(args) => inspect::status(global, args),
        Verb::History(args) => inspect::history(global, args),
        Verb::Schedule(args) => inspect::schedule(global, args),
        Verb::Metrics => inspect::metrics(global),
        Verb::Verify(args) => verify::verify(global, args),
        Verb::Repair(args) => repair::repair(global, args),
        Verb::Restore(args) => restore::restore(global, args),
        Verb::Drill(args) => drill::drill(global, args),
        Verb::Ls(args) => browse::ls(global, args),
        Verb::Cat(args) => browse::cat(global, args),
        Verb::Diff(args) => browse::diff(global, args),
        Verb::Export(args) => export::export(global, args),
        Verb::Import(args) => import::import(global, args),
        Verb::Copies(args) => copies::copies(global, args),
        Verb::Tend(args) => tend::tend(global, args),
        Verb::Pause(args) => keep::pause(global, args),
        Verb::Resume(args) => keep::resume(global, args),
        Verb::Ack(args) => keep::ack(global, args),
        Verb::Key(args) => key::key(global, args),
        Verb::Prune(args) => prune::prune(global, args),
        Verb::Pin(args) => pin::pin(global, args),
        Verb::Unpin(args) => pin::unpin(global, args),
        Verb::Target(args) => target::target(global, args),
        Verb::Notify(args) => notify::notify(global, args),
        Verb::Config(args) => config::config(global, args),
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "agent", &mut text);
            output::print(&String::from_utf8_lossy(&text));
            Ok(code::OK)
        }
        Verb::TargetIo => common::target_io(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_verb_is_known_wherever_options_stand() {
        let verb = |line: &str| verb_of(line.split(' ').map(OsString::from));
        assert_eq!(verb("check --bogus").as_deref(), Some("check"));
        assert_eq!(verb("-c config.toml monitor --bogus").as_deref(), Some("check"));
        assert_eq!(verb("backup check --bogus").as_deref(), Some("backup"));
        assert_eq!(verb("--bogus"), None);
    }
}
