//! Rules for the files alone.
//!
//! From Grafana's dashboard-linter, each with the name it has there:
//!
//! | rule | here |
//! | --- | --- |
//! | template-datasource | one variable `datasource` for Prometheus, with a label |
//! | template-job, template-instance | variables `instance` and `backup_job` (`job` is the same for all agents): from the chosen data source, multi-select; where "All" can be chosen it is `.+` |
//! | template-label-promql | what a variable asks is PromQL |
//! | template-on-time-change-reload | variables are asked again when the time range changes |
//! | template-required-variables | each `$variable` that is used exists |
//! | panel-datasource | each panel, query and annotation asks the chosen data source |
//! | panel-title-description | each panel has both |
//! | panel-units | each panel names a unit Grafana knows |
//! | panel-no-targets | each panel asks something |
//! | target-promql | each query is PromQL |
//! | target-rate-interval | rates are over `$__rate_interval`, or over `$__range` where one number is shown |
//! | target-job, target-instance | each selector of an agent's metric is limited to the chosen hosts and jobs |
//! | target-counter-agg | a counter is never shown raw |
//!
//! Left out: uneditable-dashboard (these are imported by hand, and the runbook's address is to be set in them),
//! and what is about Loki, histograms and the second version of the dashboard schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use backup_agent::metrics::table::{Kind, Metric, TABLE};
use serde_json::Value;

use crate::model::{Dashboard, Selected, TRACEABLE, dashboards, labels_in, list, parse, project, text, uses};

/// Units used, all of which Grafana knows.
const UNITS: &[&str] = &["none", "short", "bytes", "s", "percentunit", "dateTimeFromNow"];
const KINDS: &[&str] = &["row", "stat", "timeseries", "state-timeline", "table"];
/// Grafana's own variables.
const BUILT_IN: &[&str] = &["__rate_interval", "__range", "__data", "__all"];

fn known() -> BTreeMap<&'static str, &'static Metric> {
    TABLE.iter().map(|metric| (metric.name, metric)).collect()
}

/// Labels of a metric that is not in the agent's table: made by Prometheus, by the rules, or by the process
/// collector. None when there is no such metric.
fn other_labels(metric: &str) -> Option<&'static [&'static str]> {
    match metric {
        "up" => Some(&[]),
        "ALERTS" => Some(&["alertname", "alertstate", "severity", "backup_job", "target"]),
        "process_resident_memory_bytes" | "process_cpu_seconds_total" => Some(&[]),
        recorded if recorded.starts_with("backup:") => {
            let rules = fs::read_to_string(project("alerts/backup-agent.rules.yml")).unwrap();
            let line = format!("- record: {recorded}");
            rules.lines().any(|l| l.trim() == line).then_some(&["backup_job"] as &[_])
        }
        _ => None,
    }
}

/// Every text in a JSON value.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Names of variables in a text: `$name`, `${name}`, `${name:format}`, `${name.field}`.
fn variables_in(text: &str) -> BTreeSet<&str> {
    text.split('$')
        .skip(1)
        .map(|rest| rest.strip_prefix('{').unwrap_or(rest))
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The columns a table ends up with.
fn columns(panel: &Value) -> BTreeSet<&str> {
    list(&panel["transformations"])
        .iter()
        .filter(|transformation| transformation["id"] == "organize")
        .flat_map(|organize| organize["options"]["renameByName"].as_object().unwrap().values())
        .map(text)
        .collect()
}

#[test]
fn the_variables_are_those_that_the_panels_use_and_ask_the_chosen_data_source() {
    for dashboard in dashboards() {
        let file = &dashboard.file;
        let names: Vec<&str> = dashboard.variables().iter().map(|variable| text(&variable["name"])).collect();
        assert_eq!(names, ["datasource", "instance", "backup_job", "runbook"], "{file}");
        assert_eq!(dashboard.variables()[0]["type"], "datasource", "{file}");
        assert_eq!(dashboard.variables()[0]["query"], "prometheus", "{file}");
        for variable in dashboard.variables() {
            assert!(!text(&variable["label"]).is_empty(), "{file}: {variable}");
        }
        for variable in &dashboard.variables()[1..3] {
            let place = format!("{file}: variable {}", text(&variable["name"]));
            assert_eq!(variable["datasource"]["uid"], "${datasource}", "{place}");
            assert_eq!(variable["multi"], true, "{place}");
            assert_eq!(variable["refresh"], 2, "{place}: on a change of the time range");
            assert_eq!(variable["query"]["query"], variable["definition"], "{place}");
            if variable["includeAll"] == true {
                assert_eq!(variable["allValue"], ".+", "{place}");
            }
            let query = text(&variable["query"]["query"]);
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
            let (expr, label) = inner.rsplit_once(", ").unwrap();
            assert_eq!(label, text(&variable["name"]), "{place}");
            let used = uses(&parse(&place, &TRACEABLE.fill(expr)));
            assert!(used.selected.iter().all(|selected| known().contains_key(selected.metric())), "{place}");
        }
        let mut all = Vec::new();
        texts(&dashboard.json, &mut all);
        let used: BTreeSet<&str> = all.into_iter().flat_map(variables_in).collect();
        let unknown: Vec<_> =
            used.iter().filter(|name| !names.contains(name) && !BUILT_IN.contains(name)).collect();
        assert!(unknown.is_empty(), "{file}: there are no variables {unknown:?}");
        let unused: Vec<_> = names.iter().filter(|name| !used.contains(*name)).collect();
        assert!(unused.is_empty(), "{file}: nothing uses {unused:?}");
    }
}

#[test]
fn every_panel_has_title_description_unit_query_and_a_word_for_no_data() {
    for dashboard in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in dashboard.panels() {
            let place = format!("{}: {}", dashboard.file, text(&panel["title"]));
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place} shares its id");
            assert!(KINDS.contains(&text(&panel["type"])), "{place}: {}", panel["type"]);
            assert!(!text(&panel["title"]).is_empty(), "{place}");
        }
        let mut titles = BTreeSet::new();
        for panel in dashboard.shown() {
            let place = format!("{}: {}", dashboard.file, text(&panel["title"]));
            assert!(titles.insert(text(&panel["title"])), "{place}: two panels have this title");
            let description = text(&panel["description"]);
            assert!(description.ends_with('.') && description.len() > 15, "{place}: {description:?}");
            let defaults = &panel["fieldConfig"]["defaults"];
            let overrides = list(&panel["fieldConfig"]["overrides"]);
            let mut units = vec![text(&defaults["unit"])];
            for property in overrides.iter().flat_map(|o| list(&o["properties"])) {
                if property["id"] == "unit" {
                    units.push(text(&property["value"]));
                }
            }
            assert!(units.iter().all(|unit| UNITS.contains(unit)), "{place}: {units:?}");
            let targets = list(&panel["targets"]);
            assert!(!targets.is_empty(), "{place}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
            for target in targets {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
                assert_ne!(target["instant"], target["range"], "{place}");
                let is_table = panel["type"] == "table";
                assert_eq!(target["format"] == "table", is_table, "{place}");
                assert!(!is_table || target["instant"] == true, "{place}");
                assert!(is_table || target["legendFormat"].is_string(), "{place}: its series have no names");
            }
            // A stat or table without data would say "No data", which alarms where all is well.
            let never_empty = targets.iter().all(|target| text(&target["expr"]).contains("or vector(0)"));
            if ["stat", "table", "state-timeline"].contains(&text(&panel["type"])) && !never_empty {
                assert!(!text(&defaults["noValue"]).is_empty(), "{place}: what does no data mean?");
            }
        }
    }
}

#[test]
fn panels_stand_side_by_side_without_overlap_and_leave_no_hole_above_them() {
    for dashboard in dashboards() {
        let mut taken = BTreeMap::new();
        for panel in dashboard.panels() {
            let title = text(&panel["title"]);
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24 && w > 0 && h > 0, "{}: {title} is wider than the page", dashboard.file);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                if let Some(other) = taken.insert(cell, title) {
                    panic!("{}: {title} lies over {other}", dashboard.file);
                }
            }
        }
        // Grafana lets panels fall up into holes, so that the page would not be the one in the file.
        for ((x, y), title) in &taken {
            assert!(*y == 0 || taken.contains_key(&(*x, y - 1)), "{}: a hole above {title}", dashboard.file);
        }
    }
}

/// The operator and the value with which a selector has to be limited to the chosen jobs.
fn is_limited(selected: &Selected, label: &str) -> bool {
    match label {
        "instance" => selected.has("instance", "=~", &[TRACEABLE.instance]),
        // An empty job is the agent itself.
        _ => selected.has("backup_job", "=~", &[TRACEABLE.backup_job, &format!("{}|", TRACEABLE.backup_job)]),
    }
}

#[test]
fn every_query_is_promql_about_the_chosen_hosts_and_jobs_and_names_what_is_exported() {
    let known = known();
    for dashboard in dashboards() {
        for query in dashboard.queries() {
            let place = &query.place;
            let used = uses(&parse(place, &TRACEABLE.fill(query.expr)));
            assert!(!used.selected.is_empty(), "{place}: asks nothing");
            let mut labels: BTreeSet<&str> = BTreeSet::from(["instance", "job"]);
            for selected in &used.selected {
                let metric = selected.metric();
                let own: Vec<&str> = match known.get(metric) {
                    Some(metric) => metric.labels().collect(),
                    None => other_labels(metric)
                        .unwrap_or_else(|| panic!("{place}: {metric} is not exported"))
                        .to_vec(),
                };
                assert!(is_limited(selected, "instance"), "{place}: {metric} is asked of all hosts");
                assert!(
                    !own.contains(&"backup_job") || is_limited(selected, "backup_job"),
                    "{place}: {metric} is asked of all jobs"
                );
                for (name, ..) in selected.matchers() {
                    let exists = own.contains(&name) || ["instance", "job", "__name__"].contains(&name);
                    assert!(exists, "{place}: {metric} has no label {name}");
                }
                labels.extend(own);
            }
            let shown = query.labelled.iter().flat_map(|text| labels_in(text));
            for label in used.labels.iter().map(String::as_str).chain(shown) {
                assert!(labels.contains(label), "{place}: nothing in it has a label {label}");
            }
        }
    }
}

#[test]
fn counters_are_shown_as_increase_over_the_interval_grafana_finds() {
    let known = known();
    for dashboard in dashboards() {
        let mut rates = 0;
        for query in dashboard.queries() {
            for selected in uses(&parse(&query.place, &TRACEABLE.fill(query.expr))).selected {
                let is_rate = matches!(selected.function, Some("rate" | "irate" | "increase"));
                let counter = known.get(selected.metric()).is_some_and(|metric| metric.kind == Kind::Counter);
                assert_eq!(is_rate, counter, "{}: {}", query.place, selected.metric());
                if !is_rate {
                    continue;
                }
                rates += 1;
                let seconds = selected.range.unwrap().as_secs();
                let whole_range = query.instant && seconds == 86_399;
                assert!(seconds == 611 || whole_range, "{}: over {seconds} s", query.place);
            }
        }
        assert!(rates > 3, "{}", dashboard.file);
    }
}

/// Links lead to sections, dashboards, variables and columns that exist.
#[test]
fn every_link_leads_somewhere() {
    let runbook = fs::read_to_string(project("alerts/runbook.md")).unwrap();
    let sections: BTreeSet<String> = runbook
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let all = dashboards();
    let uids: BTreeMap<&str, &Dashboard> = all.iter().map(|d| (text(&d.json["uid"]), d)).collect();
    for dashboard in &all {
        let mut links: Vec<(&Value, BTreeSet<&str>)> =
            list(&dashboard.json["links"]).iter().map(|link| (link, BTreeSet::new())).collect();
        for panel in dashboard.shown() {
            let columns = if panel["type"] == "table" { columns(panel) } else { BTreeSet::new() };
            links.extend(panel["links"].as_array().into_iter().flatten().map(|link| (link, BTreeSet::new())));
            for wanted in list(&panel["fieldConfig"]["overrides"]) {
                let properties =
                    list(&wanted["properties"]).iter().filter(|property| property["id"] == "links");
                links.extend(properties.flat_map(|p| list(&p["value"])).map(|link| (link, columns.clone())));
            }
        }
        let mut to_jobs = 0;
        for (link, columns) in links {
            let (place, url) = (format!("{}: {}", dashboard.file, text(&link["title"])), text(&link["url"]));
            if let Some(rest) = url.strip_prefix("${runbook}") {
                let section = rest.strip_prefix('#').unwrap_or("runbook");
                assert!(sections.contains(section), "{place}: the runbook has no section {section}");
                continue;
            }
            let rest = url.strip_prefix("/d/").unwrap_or_else(|| panic!("{place}: {url}"));
            let (uid, query) = rest.split_once('?').unwrap();
            let there = uids.get(uid).unwrap_or_else(|| panic!("{place}: there is no dashboard {uid}"));
            assert!(query.starts_with("${datasource:queryparam}"), "{place}: {url}");
            for part in query.split('&').skip(1) {
                let (name, value) = part.strip_prefix("var-").and_then(|part| part.split_once('=')).unwrap();
                assert!(there.variables().iter().any(|variable| variable["name"] == name), "{place}: {name}");
                if let Some(column) = value.strip_prefix("${__data.fields.").and_then(|v| v.strip_suffix('}'))
                {
                    assert!(columns.contains(column), "{place}: the table has no column {column}");
                    to_jobs += 1;
                }
            }
        }
        assert!(dashboard.file != "fleet.json" || to_jobs >= 4, "the fleet does not lead to its jobs");
    }
}

/// A table's column is named by its query's letter, renamed, and styled by its new name: a chain that breaks
/// silently.
#[test]
fn every_column_of_a_table_is_named_and_every_style_is_for_a_column() {
    for dashboard in dashboards() {
        for panel in dashboard.shown().filter(|panel| panel["type"] == "table") {
            let place = format!("{}: {}", dashboard.file, text(&panel["title"]));
            let targets = list(&panel["targets"]);
            let organize = list(&panel["transformations"]).iter().find(|t| t["id"] == "organize").unwrap();
            let renamed = organize["options"]["renameByName"].as_object().unwrap();
            let merged = list(&panel["transformations"]).iter().any(|t| t["id"] == "merge");
            assert_eq!(merged, targets.len() > 1, "{place}");
            for target in targets {
                let own = format!("Value #{}", text(&target["refId"]));
                let column = if merged { own.as_str() } else { "Value" };
                assert!(renamed.contains_key(column), "{place}: {column} has no name");
                let mut labels = uses(&parse(&place, &TRACEABLE.fill(text(&target["expr"])))).labels;
                labels.sort();
                labels.dedup();
                // Rows come together when their labels are the same.
                let mut columns: Vec<&str> =
                    renamed.keys().filter(|name| !name.starts_with("Value")).map(String::as_str).collect();
                columns.sort();
                assert_eq!(labels, columns, "{place}: {column}");
            }
            let columns = columns(panel);
            let sorted = text(&panel["options"]["sortBy"][0]["displayName"]);
            assert!(columns.contains(sorted), "{place}: sorted by {sorted}");
            for wanted in list(&panel["fieldConfig"]["overrides"]) {
                let name = text(&wanted["matcher"]["options"]);
                assert!(columns.contains(name), "{place}: there is no column {name} to style");
            }
        }
    }
}

#[test]
fn a_dashboard_opens_at_a_sensible_time_range_and_refreshes_itself() {
    for dashboard in dashboards() {
        let json = &dashboard.json;
        assert!(["1m", "5m"].contains(&text(&json["refresh"])), "{}", dashboard.file);
        assert_eq!(json["time"]["to"], "now", "{}", dashboard.file);
        assert!(["now-24h", "now-14d"].contains(&text(&json["time"]["from"])), "{}", dashboard.file);
        assert_eq!(json["timezone"], "browser", "{}", dashboard.file);
        assert!(text(&json["title"]).starts_with("Backups: "), "{}", dashboard.file);
        assert!(json.get("id").is_none_or(Value::is_null), "{}: an id of somebody's Grafana", dashboard.file);
        assert!(json["uid"].as_str().unwrap().len() <= 40, "{}: Grafana refuses it", dashboard.file);
    }
}
