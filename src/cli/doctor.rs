//! `agent doctor`: what is wrong with the surroundings of backups.

use std::sync::Arc;

use anyhow::Result;

use super::args::{Doctor, Global};
use super::{common, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, LoadOptions};
use crate::doctor::{Patient, examine};
use crate::state::{HealthStatus, load_for_reading};

/// The width of lines where no terminal says how wide it is, and the widest that reads well.
const WIDTH: usize = 100;

pub fn doctor(global: &Global, args: &Doctor) -> Result<u8> {
    // Files with secrets are looked at later, as a diagnosis among others.
    let (config, config_files, warnings) = if global.backups.is_some() {
        (common::load(global)?, Vec::new(), Vec::new())
    } else {
        let options = LoadOptions { check_files: false, ..LoadOptions::new(global.config.clone()) };
        let loaded = config::load(&options).map_err(|errors| common::config_error(global, &errors))?;
        (loaded.config, loaded.sources, loaded.warnings)
    };
    common::start_log(global, Some(&config), "off")?;
    let now = SystemClock.now();
    let state = load_for_reading(&config.state_dir, now).map(|(snapshot, _)| snapshot);
    let report = examine(Patient {
        config: Arc::new(config),
        config_files,
        warnings,
        command: common::command(global),
        root: args.root.clone(),
        state: state.map_err(|error| error.to_string()),
        now,
    });
    if args.json {
        output::json(&report)?;
    } else if !(args.quiet && report.status == HealthStatus::Ok) {
        let width = output::terminal_width().unwrap_or(WIDTH).min(WIDTH);
        let text = report.render(width, !args.quiet, &output::tinted);
        output::print(&text);
    }
    Ok(report.exit_code)
}
