//! From files and environment to a [`Config`], or to everything that is wrong with them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use ::config::FileFormat;

use super::defaults::DEFAULT_FILE;
use super::positions::{Node, Origin, Origins, Sources};
use super::problem::{ConfigErrors, Location, Problem};
use super::shape::Shape;
use super::types::Config;
use super::walk::{self, Findings, Walk};
use super::{environment, files, presets, timezone, validate};

/// Where the configuration is read from.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The file; `/etc/backup-agent/config.toml` when absent.
    pub file: Option<PathBuf>,
    /// The folder of further files; `conf.d` beside the file when absent.
    pub conf_d: Option<PathBuf>,
    /// The environment. Only variables that begin with `BACKUP_AGENT__` matter.
    pub env: Vec<(String, String)>,
    /// Whether to look if files the configuration names are there, and files with secrets closed to others. Off
    /// for those who only read the state, such as `agent check` run by an ordinary user.
    pub check_files: bool,
}

impl LoadOptions {
    /// Reads `file` (the default file when absent) with the environment of this process.
    pub fn new(file: Option<PathBuf>) -> Self {
        // A variable that is no UTF-8 cannot be meant for a TOML key.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { file, conf_d: None, env: env.collect(), check_files: true }
    }
}

/// A configuration that was read, and what is worth knowing about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, presets expanded, every default filled in.
    pub config: Config,
    /// The merged layers as TOML, to be kept as the last good configuration. Secrets that came from the
    /// environment are left out; [`load_text`] takes them from there again.
    pub text: String,
    /// The files that were read, in the order they were merged.
    pub sources: Vec<PathBuf>,
    /// What is probably not meant, a sentence each.
    pub warnings: Vec<String>,
    /// What is wrong with files the configuration names, those with secrets before all. What needs one fails by it:
    /// a job, a copy, a channel; the rest goes on. Looked for only with [`LoadOptions::check_files`].
    pub file_problems: Vec<Problem>,
}

impl Loaded {
    /// The problems of files as the report of a refused configuration, for those who refuse it.
    pub fn strictly(&self) -> Result<(), ConfigErrors> {
        match self.file_problems.as_slice() {
            [] => Ok(()),
            problems => Err(ConfigErrors { problems: problems.to_vec(), missing: false }),
        }
    }
}

/// Reads, merges and checks the configuration.
///
/// # Errors
/// Everything that is wrong, at once. `missing` is set when there is no configuration at all.
pub fn load(options: &LoadOptions) -> Result<Loaded, ConfigErrors> {
    let file = options.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let conf_d = options.conf_d.clone().unwrap_or_else(|| beside(&file));
    let mut problems = Vec::new();
    let mut texts = Vec::new();
    let mut names = match further_files(&conf_d) {
        Ok(names) => names,
        Err(error) => {
            problems.push(unreadable(&conf_d, &error));
            Vec::new()
        }
    };
    names.insert(0, file.clone());
    for name in names {
        match std::fs::read(&name).and_then(to_text) {
            Ok(text) => texts.push((name, text)),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && name == file && options.file.is_none() => {}
            Err(error) => problems.push(unreadable(&name, &error)),
        }
    }
    if texts.is_empty() && problems.is_empty() {
        let message = format!(
            "there is no configuration: neither {} nor a file in {} exists; `agent config init` writes a commented example",
            file.display(),
            conf_d.display()
        );
        return Err(ConfigErrors { problems: vec![Problem::of(&[], message)], missing: true });
    }
    let missing = problems.len() == 1
        && texts.is_empty()
        && matches!(std::fs::symlink_metadata(&file), Err(e) if e.kind() == io::ErrorKind::NotFound);
    assemble(texts, &options.env, false, options.check_files, problems).map_err(|mut errors| {
        errors.missing = missing;
        errors
    })
}

/// Reads the text of [`Loaded::text`] again. The environment gives only what that text leaves out.
///
/// # Errors
/// The text does not fit this version of the program, or a secret it needs is not there any more.
pub fn load_text(text: &str, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    let name = PathBuf::from("last good configuration");
    assemble(vec![(name, text.to_owned())], env, true, true, Vec::new())
}

fn beside(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join("conf.d")
}

/// The `.toml` files of a folder, by name. Hidden ones are left out: editors put their own there.
fn further_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

fn to_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text"))
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("; no secrets stand in it, so all may: `chmod o+r {}`", path.display())
        }
        _ => String::new(),
    };
    let message = format!("cannot be read: {error}{hint}");
    Problem { location: Location::WholeFile(path.to_owned()), key: Vec::new(), message }
}

/// True for keys whose values from the environment are secrets: they are in no text that is kept.
fn is_secret(shape: Option<&Shape>) -> bool {
    match shape {
        Some(Shape::EnvironmentOnly) => true,
        Some(Shape::Text(Some(kind))) => kind.name == "http",
        _ => false,
    }
}

/// Both passes over texts already read. `problems` were met while reading them.
fn assemble(
    texts: Vec<(PathBuf, String)>,
    env: &[(String, String)],
    secrets_only: bool,
    check_files: bool,
    problems: Vec<Problem>,
) -> Result<Loaded, ConfigErrors> {
    let mut findings = Findings { problems, ..Findings::default() };
    let names: Vec<PathBuf> = texts.iter().map(|(name, _)| name.clone()).collect();

    let mut sources = Sources::default();
    let mut layers = Vec::new();
    for (name, text) in texts {
        match sources.parse(name, text) {
            Ok(layer) => layers.push(layer),
            Err(problems) => findings.problems.extend(problems),
        }
    }
    // With a file missing, what another one refers to may well be in it.
    let incomplete = !findings.problems.is_empty();

    layers.push(environment_layer(&layers, env, secrets_only, &mut findings));
    let tags = walk::collect_tags(&layers);
    let mut origins = Origins::default();
    for layer in &mut layers {
        Walk { sources: &sources, tags: &tags, findings: &mut findings, path: Vec::new() }.layer(layer);
        origins.record(layer);
    }
    let locate =
        |path: &[String]| origins.find(path).map_or(Location::Nowhere, |origin| sources.locate(origin));
    if incomplete {
        return Err(errors(findings, &names));
    }

    let merged = merge(&layers).and_then(|merged| {
        let mut table = merged.clone().try_deserialize::<toml::Table>()?;
        walk::require(&mut table, &locate, &mut findings);
        // What cannot be read was taken out, so that the rules are checked for all the rest.
        let config =
            if findings.problems.is_empty() { merged } else { merge_texts([toml::to_string(&table)])? };
        Ok((table, config.try_deserialize::<Config>()?))
    });
    let (mut table, mut config) = match merged {
        Ok(merged) => merged,
        Err(error) => {
            // The first pass knows every form, so this is a fault of this program; still, say it.
            if findings.problems.is_empty() {
                findings
                    .problems
                    .push(Problem::of(&[], format!("the configuration cannot be read: {error}")));
            }
            return Err(errors(findings, &names));
        }
    };

    let mut later = presets::expand(&mut config);
    later.extend(validate::rules(&config, &findings));
    for mut problem in later {
        if problem.key.is_empty() || !findings.touches(&problem.key) {
            problem.location = locate(&problem.key);
            findings.problems.push(problem);
        }
    }
    let mut file_problems = Vec::new();
    if check_files {
        file_problems.extend(files::check_files(&config, &|_| true));
        file_problems.extend(files::check_channel_files(&config));
        file_problems.retain(|problem| !findings.touches(&problem.key));
    }
    for problem in &mut file_problems {
        problem.location = locate(&problem.key);
    }
    if !findings.problems.is_empty() {
        // Refused anyway: then everything is told at once.
        findings.problems.append(&mut file_problems);
        return Err(errors(findings, &names));
    }

    let secret = |path: &[String]| {
        matches!(origins.find(path), Some(Origin::Environment(_)))
            && is_secret(Shape::root().at(path, &|at: &[String]| tags.get(at).cloned()))
    };
    remove_secrets(&mut table, &mut Vec::new(), &secret);
    let mut warnings = validate::warnings(&config);
    if !table.contains_key("timezone") && timezone::host_timezone().is_none() {
        warnings
            .push("the time zone of this host is unknown, schedules are in UTC; set `timezone`".to_owned());
    }
    warnings.extend(names.iter().filter_map(|name| files::writable_by_others(name)));
    let text = toml::to_string(&table).unwrap_or_default();
    Ok(Loaded { config, text, sources: names, warnings, file_problems })
}

fn environment_layer(
    files: &[Node],
    env: &[(String, String)],
    secrets_only: bool,
    findings: &mut Findings,
) -> Node {
    let mut known = BTreeSet::new();
    for layer in files {
        environment::paths(layer, &mut Vec::new(), &mut known);
    }
    let tags = walk::collect_tags(files);
    let tag = |path: &[String]| tags.get(path).cloned();
    let wanted: Vec<(String, String)> = env
        .iter()
        .filter(|(name, _)| {
            !secrets_only
                || environment::path(name, &known)
                    .is_some_and(|path| is_secret(Shape::root().at(&path, &tag)))
        })
        .cloned()
        .collect();
    environment::layer(&wanted, &known, &tag, findings)
}

/// Merges the layers, the later ones winning key by key.
fn merge(layers: &[Node]) -> Result<::config::Config, ::config::ConfigError> {
    merge_texts(layers.iter().map(|layer| toml::to_string(&layer.to_toml())))
}

fn merge_texts(
    texts: impl IntoIterator<Item = Result<String, toml::ser::Error>>,
) -> Result<::config::Config, ::config::ConfigError> {
    let mut builder = ::config::Config::builder();
    for text in texts {
        let text = text.map_err(|error| ::config::ConfigError::Foreign(Box::new(error)))?;
        builder = builder.add_source(::config::File::from_str(&text, FileFormat::Toml));
    }
    builder.build()
}

fn remove_secrets(table: &mut toml::Table, path: &mut Vec<String>, secret: &impl Fn(&[String]) -> bool) {
    table.retain(|key, value| {
        path.push(key.to_owned());
        let keep = match value {
            toml::Value::Table(below) => {
                remove_secrets(below, path, secret);
                true
            }
            _ => !secret(path),
        };
        path.pop();
        keep
    });
}

/// In the order of files and lines, what has no place last.
fn errors(findings: Findings, names: &[PathBuf]) -> ConfigErrors {
    let mut problems = findings.problems;
    let rank = |file: &Path| names.iter().position(|name| name == file).unwrap_or(names.len());
    problems.sort_by_key(|problem| match &problem.location {
        Location::WholeFile(file) => (0, rank(file), 0, 0),
        Location::File { file, line, column, .. } => (1, rank(file), *line, *column),
        Location::Environment(_) => (2, 0, 0, 0),
        Location::Nowhere => (3, 0, 0, 0),
    });
    problems.dedup();
    ConfigErrors { problems, missing: false }
}
