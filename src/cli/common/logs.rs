//! What is logged, and where it is shown.

use anyhow::Result;

use super::UsageError;
use crate::cli::args::Global;
use crate::cli::{output, progress};
use crate::config::{Config, LogFormat};
use crate::log;

/// What a person at a terminal sees of the log: the end of a run says what went wrong in it.
pub const BESIDE_ANSWER: &str = "warn,backup_agent::run=off,backup_agent::notify=off";

/// Sets up logging for a verb that ends. `quiet_level` is what standard error shows without `-v` and without a
/// level in the configuration; log files hold what the daemon would log.
pub fn start_log(global: &Global, config: Option<&Config>, quiet_level: &str) -> Result<()> {
    init_log(&log_settings(global.verbose, config, quiet_level))
}

/// Sets up logging as it is asked for.
pub fn init_log(settings: &log::Settings) -> Result<()> {
    log::init(settings, output::colour_on_stderr(), progress::AboveBars)
        .map_err(|e| UsageError(e.to_string()).into())
}

/// What is logged, by the configuration and `-v`.
pub fn log_settings(verbose: u8, config: Option<&Config>, quiet_level: &str) -> log::Settings {
    let configured = config.and_then(|c| c.log.level.clone());
    let level = |otherwise: &str| match verbose {
        0 => configured.clone().unwrap_or_else(|| otherwise.to_owned()),
        1 => "debug".to_owned(),
        _ => "trace".to_owned(),
    };
    let format = match config.map(|c| c.log.format) {
        Some(LogFormat::Json) => log::Format::Json,
        _ => log::Format::Text,
    };
    log::Settings {
        format,
        level: Some(level(quiet_level)),
        file_level: Some(level("info")),
        run_file: config.and_then(|c| c.log.run_file.clone()),
        health_file: config.and_then(|c| c.log.health_file.clone()),
    }
}
