//! Ready-made sets of sources. A preset adds sources; one the job names itself stays as it is.

use std::path::{Path, PathBuf};

use super::problem::Problem;
use super::types::*;
use crate::model::ComponentName;

/// What a Laravel application makes again by itself. `vendor/` stays in the backup: a restore must not
/// depend on what a package server still has. The `.gitignore` files keep the empty folders, without which
/// the framework does not start.
const LARAVEL_EXCLUDE: &[&str] = &[
    "/node_modules/",
    "/bootstrap/cache/*.php",
    "/storage/debugbar/",
    "/storage/framework/cache/data/*",
    "!/storage/framework/cache/data/.gitignore",
    "/storage/framework/sessions/*",
    "!/storage/framework/sessions/.gitignore",
    "/storage/framework/testing/*",
    "!/storage/framework/testing/.gitignore",
    "/storage/framework/views/*",
    "!/storage/framework/views/.gitignore",
];

/// Adds the sources of each job's preset.
pub(super) fn expand(config: &mut Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, job) in &mut config.job {
        match (job.preset, job.preset_path.clone()) {
            (Some(Preset::Laravel), Some(path)) => {
                if let Err(message) = laravel(job, &path) {
                    problems.push(Problem::of(&["job", name.as_str(), "preset"], message));
                }
            }
            (Some(Preset::Laravel), None) => problems.push(Problem::of(
                &["job", name.as_str(), "preset"],
                "the preset \"laravel\" needs `preset_path`, the folder of the application",
            )),
            (None, Some(_)) => problems.push(Problem::of(
                &["job", name.as_str(), "preset_path"],
                "`preset_path` means nothing without `preset`",
            )),
            (None, None) => {}
        }
    }
    problems
}

fn component(name: &str) -> ComponentName {
    ComponentName::new(name).expect("names in this file are names")
}

fn laravel(job: &mut JobConfig, root: &Path) -> Result<(), String> {
    let env_file = root.join(".env");
    job.source.entry(component("application")).or_insert_with(|| {
        SourceConfig::Files(FilesConfig {
            paths: vec![root.to_owned()],
            exclude: LARAVEL_EXCLUDE.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..FilesConfig::default()
        })
    });
    let database = component("database");
    if job.source.contains_key(&database) {
        return Ok(());
    }
    // A file that is missing or closed is told by the check of files; until then the usual case.
    let text = std::fs::read_to_string(&env_file).unwrap_or_default();
    let source = match value_of(&text, "DB_CONNECTION").as_deref() {
        None | Some("mysql" | "mariadb") => {
            SourceConfig::Mysql(MysqlConfig { env_file: Some(env_file), ..MysqlConfig::default() })
        }
        Some("sqlite") => SourceConfig::Sqlite(SqliteConfig {
            path: sqlite_path(root, value_of(&text, "DB_DATABASE")),
            timeout: super::defaults::sqlite_timeout(),
        }),
        Some(other) => {
            return Err(format!(
                "the preset \"laravel\" knows no DB_CONNECTION={other} (in {}); add a source `database` that dumps it, such as one of type \"postgres\"",
                env_file.display()
            ));
        }
    };
    job.source.insert(database, source);
    Ok(())
}

/// Where Laravel looks for its SQLite file.
fn sqlite_path(root: &Path, configured: Option<String>) -> PathBuf {
    match configured.filter(|path| !path.is_empty()) {
        Some(path) => root.join(path),
        None => root.join("database/database.sqlite"),
    }
}

/// A value of a `.env` file, as far as these two keys need it; the `mysql` source reads credentials with a
/// parser that knows quoting in full.
fn value_of(text: &str, key: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        if name.trim() != key {
            return None;
        }
        let value = value.trim();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
            _ => value.split(" #").next().unwrap_or_default().trim_end(),
        };
        Some(value.to_owned())
    })
}
