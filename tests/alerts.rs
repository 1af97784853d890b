//! The rules against the agent that exports what they ask for, their runbook and their own tests; and what
//! Prometheus' own tool says to them.

#[path = "support/rules.rs"]
mod files;

use std::collections::{BTreeMap, BTreeSet};

use backup_agent::health::CHECKS;
use backup_agent::metrics::table::TABLE;
use files::{alerts, read, rule_tests, rules, text, yaml};
use promql_parser::label::MatchOp;
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

/// Metrics that come from elsewhere: Prometheus itself, the process of the agent, node_exporter.
const FOREIGN: &[&str] = &["up", "process_start_time_seconds", "node_textfile_mtime_seconds"];
/// Labels that Prometheus gives to whatever it scrapes.
const OF_TARGETS: &[&str] = &["job", "instance"];
/// Checks that rules may ask for before the agent makes them.
const CHECKS_TO_COME: &[&str] = &["duplicate-trigger"];

/// What an expression is made of.
#[derive(Debug, Default)]
struct Parts {
    selectors: Vec<VectorSelector>,
    /// Labels of `on`, `group_left`, `by`; of `ignoring` and `without` in the second.
    kept: Vec<Vec<String>>,
    dropped: Vec<Vec<String>>,
    functions: BTreeSet<String>,
}

impl Parts {
    fn of(expression: &str) -> Self {
        let parsed = parser::parse(expression).unwrap_or_else(|e| panic!("{e}:\n{expression}"));
        let mut parts = Self::default();
        walk_expr(&mut parts, &parsed).expect("reading it cannot fail");
        parts
    }

    fn note(&mut self, modifier: Option<&LabelModifier>) {
        match modifier {
            Some(LabelModifier::Include(labels)) => self.kept.push(labels.labels.clone()),
            Some(LabelModifier::Exclude(labels)) => self.dropped.push(labels.labels.clone()),
            None => {}
        }
    }
}

impl ExprVisitor for Parts {
    type Error = ();

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
        match expression {
            Expr::VectorSelector(selector) => self.selectors.push(selector.clone()),
            Expr::MatrixSelector(matrix) => self.selectors.push(matrix.vs.clone()),
            Expr::Aggregate(aggregate) => self.note(aggregate.modifier.as_ref()),
            Expr::Binary(binary) => self.note(binary.modifier.as_ref().and_then(|m| m.matching.as_ref())),
            Expr::Call(call) => {
                self.functions.insert(call.func.name.to_owned());
            }
            _ => {}
        }
        Ok(true)
    }
}

fn exported() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    TABLE.iter().map(|metric| (metric.name, metric.labels().collect())).collect()
}

/// The labels that series of a metric have besides those of their target; recorded ones have some of the
/// labels of what they are made from.
fn labels_of(name: &str) -> Option<BTreeSet<&'static str>> {
    if FOREIGN.contains(&name) {
        return Some(BTreeSet::new());
    }
    if let Some(labels) = exported().get(name) {
        return Some(labels.clone());
    }
    let rule = rules().into_iter().find(|rule| text(rule, "record") == name)?;
    let parts = Parts::of(text(&rule, "expr"));
    let sources = parts.selectors.iter().filter_map(|selector| selector.name.as_deref());
    Some(sources.filter(|source| *source != name).filter_map(labels_of).flatten().collect())
}

#[test]
fn every_metric_and_label_in_a_rule_is_one_that_the_agent_exports() {
    for rule in rules() {
        let expression = text(&rule, "expr");
        let parts = Parts::of(expression);
        let mut known: BTreeSet<&str> = OF_TARGETS.iter().copied().collect();
        for selector in &parts.selectors {
            let name = selector.name.as_deref().unwrap_or_else(|| panic!("no metric named:\n{expression}"));
            let labels = labels_of(name).unwrap_or_else(|| panic!("{name} is not exported:\n{expression}"));
            for matcher in &selector.matchers.matchers {
                let own = labels.contains(matcher.name.as_str()) || OF_TARGETS.contains(&&*matcher.name);
                assert!(own, "{name} has no label {}:\n{expression}", matcher.name);
                assert!(
                    matches!(matcher.op, MatchOp::Equal),
                    "a check below would not see this:\n{expression}"
                );
                if matcher.name == "check" {
                    let check = matcher.value.as_str();
                    let made = CHECKS.iter().any(|known| known.name == check);
                    assert!(
                        made || CHECKS_TO_COME.contains(&check),
                        "no check is named {check}:\n{expression}"
                    );
                }
            }
            known.extend(labels);
        }
        for label in parts.kept.iter().chain(&parts.dropped).flatten() {
            assert!(known.contains(label.as_str()), "nothing here has a label {label}:\n{expression}");
        }
        let annotations: String = rule["annotations"].to_string();
        for place in annotations.split("$labels.").skip(1) {
            let label: String =
                place.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(known.contains(label.as_str()), "nothing here has a label {label}: {annotations}");
        }
    }
}

/// With hundreds of hosts, a rule that joins one with another gives nonsense, or an error that ends it for all.
#[test]
fn no_rule_joins_one_host_with_another() {
    for rule in rules() {
        let expression = text(&rule, "expr");
        let parts = Parts::of(expression);
        let host =
            |labels: &[String]| OF_TARGETS.iter().filter(|l| labels.iter().any(|have| have == *l)).count();
        for labels in &parts.kept {
            assert_eq!(host(labels), 2, "{labels:?} are of more than one host:\n{expression}");
        }
        for labels in &parts.dropped {
            assert_eq!(host(labels), 0, "{labels:?} forget the host:\n{expression}");
        }
        if text(&rule, "alert") != "BackupNoAgents" {
            assert!(!parts.functions.contains("absent"), "absent() knows no host:\n{expression}");
        }
    }
}

/// The "one" of a many-to-one match must be one a host, whatever labels its target has or had.
#[test]
fn every_many_to_one_match_is_with_what_is_aggregated_by_its_key() {
    fn visit(expression: &Expr, text: &str) -> usize {
        let strip = |mut e: &Expr| {
            let mut kinds = Vec::new();
            loop {
                e = match e {
                    Expr::Paren(paren) => &paren.expr,
                    // `max by (…) (x) + 300`
                    Expr::Binary(binary) if matches!(*binary.rhs, Expr::NumberLiteral(_)) => &binary.lhs,
                    other => {
                        kinds.push(matches!(other, Expr::Aggregate(_)));
                        return kinds[0];
                    }
                }
            }
        };
        let mut seen = 0;
        match expression {
            Expr::Binary(binary) => {
                use promql_parser::parser::VectorMatchCardinality::{ManyToOne, OneToMany};
                match binary.modifier.as_ref().map(|m| &m.card) {
                    Some(ManyToOne(_)) => {
                        assert!(strip(&binary.rhs), "{text}");
                        seen += 1;
                    }
                    Some(OneToMany(_)) => {
                        assert!(strip(&binary.lhs), "{text}");
                        seen += 1;
                    }
                    _ => {}
                }
                seen += visit(&binary.lhs, text) + visit(&binary.rhs, text);
            }
            Expr::Paren(paren) => seen += visit(&paren.expr, text),
            Expr::Aggregate(aggregate) => seen += visit(&aggregate.expr, text),
            Expr::Call(call) => seen += call.args.args.iter().map(|e| visit(e, text)).sum::<usize>(),
            _ => {}
        }
        seen
    }
    let seen: usize = rules()
        .iter()
        .map(|rule| text(rule, "expr"))
        .map(|expression| visit(&parser::parse(expression).unwrap(), expression))
        .sum();
    assert!(seen >= 4, "only {seen} such matches were seen");
}

#[test]
fn every_alert_says_what_it_is_in_words_and_points_to_its_section_of_the_runbook() {
    let runbook = read("alerts/runbook.md");
    for (name, rule) in alerts() {
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        let expected = match name.as_str() {
            "Watchdog" | "BackupFailureMailed" => ["none"].as_slice(),
            _ => &["critical", "warning"],
        };
        assert!(expected.contains(&severity), "{name}: severity {severity:?}");
        let annotations = &rule["annotations"];
        let section = format!("alerts/runbook.md#{}", name.to_lowercase());
        assert_eq!(annotations["runbook_url"], section, "{name}");
        for kind in ["summary", "description"] {
            let text = text(annotations, kind);
            assert!(text.len() > 30 || name == "Watchdog", "{name}: {kind} is {text:?}");
            assert!(!text.contains('\n'), "{name}: {kind} has lines: {text:?}");
        }
        // Moments and durations are for people.
        for value in annotations["summary"].as_str().unwrap().split("$value").skip(1) {
            let humane = [" | humanizeDuration", " | humanizeTimestamp", " | humanizePercentage"];
            let raw = value.starts_with(" }}") || value.starts_with(" 0.0 }}");
            let count = ["of them", "files", "times in"].iter().any(|word| value.contains(word));
            assert!(
                humane.iter().any(|h| value.starts_with(h)) || (raw && count) || value.starts_with(" 0.0"),
                "{name}: {value}"
            );
        }
        let body = runbook.split(&format!("\n## {name}\n")).nth(1);
        let body = body.unwrap_or_else(|| panic!("alerts/runbook.md has no section {name}"));
        let body = body.split("\n## ").next().unwrap();
        for part in ["**What.**", "**Look.**", "**Do.**"] {
            assert!(body.contains(part), "alerts/runbook.md: {name} has no {part}");
        }
    }
}

#[test]
fn the_runbook_has_no_section_of_an_alert_that_there_is_not() {
    let names: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    for line in read("alerts/runbook.md").lines() {
        let Some(title) = line.strip_prefix("## ").filter(|title| title.starts_with("Backup")) else {
            continue;
        };
        assert!(names.contains(title), "alerts/runbook.md: there is no alert {title}");
    }
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    let mut count = 0;
    for path in rule_tests() {
        let document = yaml(&path);
        for test in document["tests"].as_array().unwrap() {
            for case in test["alert_rule_test"].as_array().into_iter().flatten() {
                let name = text(case, "alertname").to_owned();
                let expected = case["exp_alerts"].as_array().unwrap_or_else(|| panic!("{path}: {case}"));
                if expected.is_empty() {
                    quiet.insert(name)
                } else {
                    fires.insert(name)
                };
                count += 1;
            }
        }
    }
    assert!(count > 60, "only {count} cases were read");
    let names: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    let never: Vec<_> = names.difference(&fires).collect();
    assert!(never.is_empty(), "no test shows these fire: {never:?}");
    // The watchdog is never quiet: that is what it is for.
    let always: Vec<_> = names.difference(&quiet).filter(|name| *name != "Watchdog").collect();
    assert!(always.is_empty(), "no test shows these quiet: {always:?}");
    let unknown: Vec<_> = fires.union(&quiet).filter(|name| !names.contains(*name)).collect();
    assert!(unknown.is_empty(), "tests of alerts that there are not, which pass for ever: {unknown:?}");
}

/// A test with a series that the agent does not export shows nothing.
#[test]
fn the_tests_of_the_rules_use_series_as_the_agent_exports_them() {
    for path in rule_tests() {
        let document = yaml(&path);
        for test in document["tests"].as_array().unwrap() {
            for series in test["input_series"].as_array().unwrap() {
                let series = text(series, "series");
                let Expr::VectorSelector(selector) = parser::parse(series).unwrap() else {
                    panic!("{series}")
                };
                let name = selector.name.as_deref().unwrap();
                let mut labels: BTreeSet<&str> =
                    selector.matchers.matchers.iter().map(|matcher| matcher.name.as_str()).collect();
                assert!(labels.remove("job") && labels.remove("instance"), "{path}: {series}");
                labels.remove("team");
                if FOREIGN.contains(&name) {
                    continue;
                }
                let known = exported();
                let known = known.get(name).unwrap_or_else(|| panic!("{path}: {name} is not exported"));
                // The job is empty where a check is of the agent, and Prometheus drops empty labels.
                let optional: BTreeSet<&str> =
                    if name == "backup_health_status" { ["backup_job"].into() } else { BTreeSet::new() };
                let missing: Vec<_> = known.difference(&labels).filter(|l| !optional.contains(*l)).collect();
                assert!(missing.is_empty(), "{path}: {series} lacks {missing:?}");
                assert!(labels.is_subset(known), "{path}: {series} has more than {known:?}");
            }
        }
    }
}

/// What was removed with its agent is inhibited before it ends, so that nobody reads "resolved" because a host
/// died: the look back of the derived rules is longer than BackupAgentDown needs to be told.
#[test]
fn derived_alerts_outlast_the_time_until_their_agent_is_told_to_be_down() {
    let document = yaml("alerts/backup-agent.rules.yml");
    let derived = document["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|group| matches!(text(group, "name"), "backup-agent-runs" | "backup-agent-host"));
    let rules: Vec<&Value> = derived.flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 10);
    for rule in rules {
        let expression = text(rule, "expr");
        let mut plain = Vec::new();
        struct Plain<'a>(&'a mut Vec<String>);
        impl ExprVisitor for Plain<'_> {
            type Error = ();
            fn pre_visit(&mut self, expression: &Expr) -> Result<bool, ()> {
                if let Expr::VectorSelector(selector) = expression {
                    self.0.push(selector.to_string());
                }
                Ok(true)
            }
        }
        walk_expr(&mut Plain(&mut plain), &parser::parse(expression).unwrap()).unwrap();
        assert!(plain.is_empty(), "{}: {plain:?} ends with the agent at once", text(rule, "alert"));
    }
}

#[cfg(feature = "real-peers")]
fn promtool(arguments: &[&str]) {
    let output = std::process::Command::new("promtool")
        .args(arguments)
        .current_dir(files::project("."))
        .output()
        .expect("promtool is needed: install the package prometheus");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&text));
}

#[cfg(feature = "real-peers")]
#[test]
fn promtool_accepts_the_rules_and_the_scrape_configuration() {
    promtool(&["check", "rules", "alerts/backup-agent.rules.yml"]);
    promtool(&["check", "config", "deploy/prometheus-scrape.yml"]);
}

#[cfg(feature = "real-peers")]
#[test]
fn each_rule_fires_and_does_not_fire_when_it_should() {
    for path in rule_tests() {
        promtool(&["test", "rules", &path]);
    }
}
