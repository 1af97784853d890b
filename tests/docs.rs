//! What the documents say is true: configurations load, keys and metrics are all there, verbs and options
//! exist, links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_agent::config::{Config, DEFAULT_FILE, LIMITS, LimitScope, LoadOptions, load, schema};
use backup_agent::doctor::DIAGNOSES;
use backup_agent::health::{CHECKS, Scope};
use backup_agent::metrics::table::TABLE;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document, by its path in the project.
fn documents() -> BTreeMap<String, String> {
    let folders = [
        ("", "md"),
        ("docs", "md"),
        ("alerts", "md"),
        ("deploy/cron.d", ""),
        ("deploy", "service"),
        ("deploy", "cfg"),
    ];
    let mut found = BTreeMap::new();
    for (folder, extension) in folders {
        for entry in fs::read_dir(project().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.extension().unwrap_or_default() == extension {
                let name = path.strip_prefix(project()).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(found.len() > 10, "{:?}", found.keys());
    found
}

fn document(name: &str) -> String {
    fs::read_to_string(project().join(name)).unwrap()
}

/// The blocks of a language in a document.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    text.split(&format!("```{language}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_configuration_in_the_documents_loads() {
    let mut count = 0;
    for (name, text) in documents() {
        for block in blocks(&text, "toml") {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("config.toml");
            // A piece of a job stands in a whole configuration.
            let piece = block.contains("[job.web.") && !block.contains("[job.web]");
            let whole = "[target.local]\ntype = \"directory\"\npath = \"/var/backups\"\n[job.web]\ntargets = [\"local\"]\n[job.web.source.application]\ntype = \"files\"\npaths = [\"/srv/www\"]\n";
            fs::write(&file, if piece { format!("{whole}{block}") } else { block.to_owned() }).unwrap();
            let options = LoadOptions {
                file: Some(file),
                conf_d: Some(folder.path().join("conf.d")),
                env: Vec::new(),
                check_files: false,
            };
            if let Err(errors) = load(&options) {
                panic!("{name}: {errors}");
            }
            count += 1;
        }
    }
    assert!(count >= 2, "the documents have {count} configurations");
}

#[test]
fn every_key_of_the_configuration_is_documented() {
    let text = document("docs/configuration.md");
    let mut keys = BTreeSet::new();
    collect_keys(&serde_json::to_value(schema()).unwrap(), &mut keys);
    assert!(keys.len() > 60, "{keys:?}");
    // Sections stand in headings: `[target.NAME]`, or before a dot: `log.format`.
    let is_there = |key: &String| {
        [
            format!("`{key}`"),
            format!("{key}`"),
            format!("[{key}."),
            format!(".{key}]"),
            format!(".{key}."),
            format!("`{key}."),
        ]
        .iter()
        .any(|form| text.contains(form.as_str()))
    };
    let missing: Vec<_> = keys.iter().filter(|key| !is_there(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not name {missing:?}");
}

/// The names of all properties in a JSON schema.
fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(map) => {
            if let Some(serde_json::Value::Object(properties)) = map.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            map.values().for_each(|value| collect_keys(value, keys));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

#[test]
fn every_metric_and_check_is_documented_with_its_meaning() {
    let text = document("docs/metrics.md");
    for metric in TABLE {
        let labels: Vec<String> = metric.labels().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{}` | {} | {} |", metric.name, labels.join(", "), metric.help);
        assert!(text.contains(&row), "docs/metrics.md lacks the row\n{row}");
    }
    for check in CHECKS {
        assert!(
            text.contains(&format!("| `{}` |", check.name)),
            "docs/metrics.md lacks the check {}",
            check.name
        );
        assert!(
            text.contains(check.meaning),
            "docs/metrics.md says something else of {}: {}",
            check.name,
            check.meaning
        );
        let of = if matches!(check.scope, Scope::Job(_)) { "a job" } else { "the agent" };
        let limits: Vec<String> = check.limits.iter().map(|limit| format!("`{limit}`")).collect();
        let row = format!(
            "| `{}` | {of} | {} | {} | {} |",
            check.name,
            check.severity,
            check.meaning,
            limits.join(", ")
        );
        assert!(text.contains(&row), "docs/metrics.md lacks the row\n{row}");
    }
}

#[test]
fn every_limit_is_documented_with_its_default_where_it_may_be_set() {
    let text = document("docs/configuration.md");
    let (before, general) = text.split_once("\n## `[health]`\n").unwrap();
    let (_, own) = before.split_once("### `[job.NAME.health]`").unwrap();
    for limit in LIMITS {
        let section = if limit.scope == LimitScope::Job { own } else { general };
        let row = format!("| `{}` | `{}` | ", limit.key, limit.default);
        assert!(section.contains(&row), "docs/configuration.md lacks, at its place, the row\n{row}");
    }
}

#[test]
fn every_diagnosis_is_documented_with_its_severity_and_reason() {
    let text = document("docs/doctor.md");
    for d in DIAGNOSES {
        let group = serde_json::to_value(d.group).unwrap();
        let row = format!(
            "| `{}` | {} | {} | {} | {} |",
            d.name,
            group.as_str().unwrap(),
            d.severity,
            d.meaning,
            d.why
        );
        assert!(text.contains(&row), "docs/doctor.md lacks the row\n{row}");
    }
    let (_, table) = text.split_once("## All diagnoses").unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), DIAGNOSES.len());
}

#[test]
fn what_monitoring_systems_are_told_to_call_is_there() {
    let help = help(&["check"]);
    assert!(help.contains("[JOB]") && help.contains("--config"), "{help}");
    let icinga = document("deploy/icinga2.conf");
    assert!(icinga.contains("command = [ \"/usr/local/bin/agent\", \"check\" ]"));
    let options: Vec<&str> = icinga.split('"').filter(|word| word.starts_with("--")).collect();
    assert!(!options.is_empty() && options.iter().all(|option| help.contains(option)), "{options:?}");
    assert_eq!(icinga.matches('{').count(), icinga.matches('}').count());
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_agent")).args(arguments).arg("--help").output().unwrap();
    assert!(
        output.status.success(),
        "agent {arguments:?} --help: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The commands `agent …` in a document, as words: in lines of code, and between backquotes.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let code = text.lines().flat_map(|line| match line.starts_with("    ") || line.starts_with("*/") {
        true => vec![line],
        false => line.split('`').skip(1).step_by(2).collect(),
    });
    let mut found = Vec::new();
    for piece in code {
        let words: Vec<&str> = piece.split(" #").next().unwrap_or_default().split_whitespace().collect();
        for at in 0..words.len() {
            if words[at] == "agent" || words[at].ends_with("/agent") {
                let end =
                    |word: &&&str| !["#", "&&", "||", "|", ";"].contains(*word) && !word.starts_with('(');
                found.push(words[at + 1..].iter().take_while(end).copied().collect());
            }
        }
    }
    found
}

#[test]
fn every_verb_and_option_named_in_the_documents_exists() {
    let main_help = help(&[]);
    let verbs: BTreeSet<&str> = main_help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.contains("backup") && verbs.len() > 10, "{verbs:?}");
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (name, text) in documents() {
        for words in commands(&text) {
            let Some(verb) = words.first().map(|word| word.trim_matches([',', '.', ':', '`', '…'])) else {
                continue;
            };
            if !verbs.contains(verb) {
                let is_text = verb.is_empty() || verb.starts_with(['-', '/']) || name == "CHANGELOG.md";
                // In comments of deployed files, `agent` is a word as well.
                assert!(
                    is_text || name.starts_with("deploy/"),
                    "{name}: there is no verb {verb}: agent {words:?}"
                );
                continue;
            }
            seen.insert(verb.to_owned());
            let sub = words.get(1).filter(|_| ["notify", "config", "target", "key"].contains(&verb));
            let path: Vec<&str> = std::iter::once(verb).chain(sub.copied()).collect();
            let text = helps.entry(path.join(" ")).or_insert_with(|| help(&path));
            for option in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let option = option.split('=').next().unwrap().trim_end_matches(['`', ',', '.', ')']);
                assert!(text.contains(option), "{name}: agent {} has no option {option}", path.join(" "));
            }
        }
    }
    assert!(seen.len() > 10, "only these verbs were found: {seen:?}");
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    for (name, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&name).parent().unwrap();
            let path: PathBuf =
                if file.is_empty() { project().join(&name) } else { project().join(folder).join(file) };
            assert!(path.exists(), "{name} links to {target}, which is not there");
            if !anchor.is_empty() {
                let headings = fs::read_to_string(&path).unwrap();
                let is_there = headings.lines().any(|line| {
                    line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-") == anchor
                });
                assert!(is_there, "{name} links to {target}, and there is no such heading");
            }
        }
    }
}

#[test]
fn the_service_fits_the_defaults_of_the_configuration() {
    let unit = document("deploy/backup-agent.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("the service has no {key}")).to_owned()
    };
    let config = Config::default();
    let stop: u64 = value("TimeoutStopSec").trim_end_matches('s').parse().unwrap();
    assert!(stop > config.shutdown_timeout.as_secs(), "systemd would kill a run that is still being ended");
    assert_eq!(Path::new("/var/lib").join(value("StateDirectory")), config.state_dir);
    assert!(value("ExecStart").ends_with(&format!("agent run --config {DEFAULT_FILE}")));
    let scrape = document("deploy/prometheus-scrape.yml");
    assert!(scrape.contains(&format!("\"{}\"", config.listen)), "Prometheus is pointed to another address");
}
