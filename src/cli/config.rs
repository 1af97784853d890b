//! `agent config`: checked, written, shown, described.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::args::{Config, ConfigVerb, Global};
use super::{code, common, output};
use crate::config::{self, LoadOptions};
use crate::ops::channels;

pub fn config(global: &Global, args: &Config) -> Result<u8> {
    match &args.verb {
        ConfigVerb::Check => check(global),
        ConfigVerb::Init { file } => init(global, file.as_deref()),
        ConfigVerb::Show => {
            output::print(&config::show(&common::load(global)?));
            Ok(code::OK)
        }
        ConfigVerb::Schema => {
            output::json(&config::schema())?;
            Ok(code::OK)
        }
    }
}

fn check(global: &Global) -> Result<u8> {
    let loaded = match config::load(&LoadOptions::new(global.config.clone())) {
        Ok(loaded) => loaded,
        Err(e) => return Err(common::config_error(global, &e).into()),
    };
    // Backups are made although a channel is broken; here it is an error, so that it is not only found then.
    loaded.strictly().map_err(|e| common::config_error(global, &e))?;
    channels::strictly(&loaded.config).map_err(|e| common::UsageError(format!("{e:#}")))?;
    let sources: Vec<String> = loaded.sources.iter().map(|path| path.display().to_string()).collect();
    output::print(&format!(
        "the configuration is good: {}\n  jobs: {}\n  targets: {}\n  channels: {}\n",
        sources.join(", "),
        names(loaded.config.job.keys()),
        names(loaded.config.target.keys()),
        names(loaded.config.notify.keys()),
    ));
    let uses_ssh = loaded.config.target.values().any(|target| matches!(target.place, config::Place::Sftp(_)));
    if uses_ssh && crate::process::find_program("ssh").is_none() {
        output::print(
            "  warning: targets of type sftp need the program ssh, which was not found: install the package openssh-client\n",
        );
    }
    let config = &loaded.config;
    let encrypted = config.job.iter().filter(|(_, job)| config.encryption_of(job).is_some());
    let encrypted = names(encrypted.map(|(name, _)| name));
    if encrypted != "none" {
        output::print(&format!("  encrypted: {encrypted}\n"));
    }
    loaded.warnings.iter().for_each(|warning| output::print(&format!("  warning: {warning}\n")));
    Ok(code::OK)
}

fn names<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let names: Vec<String> = items.map(|item| item.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn init(global: &Global, file: Option<&Path>) -> Result<u8> {
    let file = file.map(Path::to_owned).or_else(|| global.config.clone());
    let file = file.unwrap_or_else(|| PathBuf::from(config::DEFAULT_FILE));
    if file == Path::new("-") {
        output::print(config::example());
        return Ok(code::OK);
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making folder {}", folder.display()))?;
    }
    // Readable by all: secrets have files of their own, and a monitoring user's `agent check` needs it.
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&file);
    match made {
        Ok(mut out) => out
            .write_all(config::example().as_bytes())
            .with_context(|| format!("writing {}", file.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} exists and is left as it is; see the example with: agent config init -", file.display())
        }
        Err(e) => return Err(e).with_context(|| format!("writing {}", file.display())),
    }
    let own = file != Path::new(config::DEFAULT_FILE);
    let command = common::command(&Global { config: own.then(|| file.clone()), backups: None, verbose: 0 });
    output::print(&format!(
        "wrote {}\nEdit it, then: {command} config check, {command} backup, {command} notify test\n",
        file.display()
    ));
    Ok(code::OK)
}
