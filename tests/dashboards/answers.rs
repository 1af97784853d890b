//! What the panels show after the day.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::day::{self, Day};
use crate::model::{Dashboard, Filling, TRACEABLE, dashboards, labels_in, list, parse, text, uses};
use crate::prometheus::Prometheus;

/// "All" hosts and jobs.
const ALL: Filling = Filling { instance: ".+", backup_job: ".+", rate_interval: "16m", range: "24h" };
/// One of each.
const ONE: Filling = Filling { instance: "web1", backup_job: "web", rate_interval: "16m", range: "24h" };

/// One day is lived for all of these, because it takes some seconds.
#[test]
fn after_a_day_every_panel_has_something_to_show() {
    let day = day::live();
    every_metric_and_label_was_exported(&day);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("day.om");
    day.write(&file);
    let prometheus = Prometheus::of(&file, folder.path());
    every_query_answers(&prometheus, &day);
    the_fleet_is_told_as_it_is(&prometheus, &day);
    the_job_is_told_as_it_is(&prometheus, &day);
    annotations_are_of_the_moments(&prometheus, &day);
}

/// By the real agent, not only by its table.
fn every_metric_and_label_was_exported(day: &Day) {
    let exported = day.names();
    for query in dashboards().iter().flat_map(Dashboard::queries) {
        let place = &query.place;
        let used = uses(&parse(place, &TRACEABLE.fill(query.expr)));
        let of_prometheus = |name: &str| ["up", "ALERTS"].contains(&name) || name.starts_with("backup:");
        for selected in used.selected.iter().filter(|selected| !of_prometheus(selected.metric())) {
            let labels = exported
                .get(selected.metric())
                .unwrap_or_else(|| panic!("{place}: {} was never exported", selected.metric()));
            for (name, ..) in selected.matchers().filter(|(name, ..)| !["instance", "job"].contains(name)) {
                assert!(labels.contains(name), "{place}: {} has no label {name}", selected.metric());
            }
        }
    }
}

fn every_query_answers(prometheus: &Prometheus, day: &Day) {
    let mut silent = Vec::new();
    for query in dashboards().iter().flat_map(Dashboard::queries) {
        let place = &query.place;
        let expr = ALL.fill(query.expr);
        let series = if query.instant {
            prometheus.at(place, &expr, day.end)
        } else {
            prometheus.over(place, &expr, day.start, day.end)
        };
        if series.is_empty() {
            silent.push(format!("{place}: {expr}"));
        }
        // A name for each line; two lines of one name could not be told apart.
        let mut seen = BTreeMap::new();
        for one in &series {
            let name = legend(query.labelled[0], &one["metric"]);
            let twice = seen.insert(name.clone(), one["metric"].clone());
            let is_panel = query.labelled.len() == 1 && !query.labelled[0].is_empty();
            assert!(
                twice.is_none() || !is_panel,
                "{place}: {name} is {} and {}",
                twice.unwrap(),
                one["metric"]
            );
        }
    }
    assert!(silent.is_empty(), "nothing to show:\n{}", silent.join("\n"));
}

fn legend(template: &str, metric: &Value) -> String {
    let mut name = template.to_owned();
    for label in labels_in(template) {
        name = name.replace(&format!("{{{{{label}}}}}"), metric[label].as_str().unwrap_or(""));
    }
    name
}

fn target<'a>(dashboard: &'a Dashboard, title: &str, reference: &str) -> &'a str {
    let panel = dashboard.shown().find(|panel| panel["title"] == title);
    let panel = panel.unwrap_or_else(|| panic!("{} has no panel {title}", dashboard.file));
    let target = list(&panel["targets"]).iter().find(|target| target["refId"] == reference);
    text(&target.unwrap_or_else(|| panic!("{title} has no query {reference}"))["expr"])
}

fn value(series: &Value) -> f64 {
    text(&series["value"][1]).parse().unwrap()
}

fn the_fleet_is_told_as_it_is(prometheus: &Prometheus, day: &Day) {
    let all = dashboards();
    let fleet = &all[0];
    let one = |title: &str| {
        let series = prometheus.at(title, &ALL.fill(target(fleet, title, "A")), day.end);
        assert_eq!(series.len(), 1, "{title}: {series:?}");
        series[0].clone()
    };
    // `wiki` is overdue and `mail` fails on both hosts that answer; the share is gone on both.
    for (title, expected) in [
        ("Overdue", 2.0),
        ("Failing", 2.0),
        ("Agents down", 1.0),
        ("Targets down", 2.0),
        ("Hosts", 3.0),
        ("Jobs", 10.0),
    ] {
        assert_eq!(value(&one(title)), expected, "{title}");
    }
    let oldest = one("Oldest success");
    assert_eq!(oldest["metric"]["backup_job"], "archive", "{oldest}");
    assert!((22.0 * 3600.0..24.0 * 3600.0).contains(&value(&oldest)), "{oldest}");
    let next = one("Next due");
    // Tomorrow at 02:30 the mail; the hourly and the paused one are late or resting.
    assert_eq!(next["metric"]["backup_job"], "mail", "{next}");

    let states = prometheus.at("All jobs", &ALL.fill(target(fleet, "All jobs", "A")), day.end);
    let states: BTreeMap<(&str, &str), f64> = states
        .iter()
        .map(|series| {
            ((text(&series["metric"]["instance"]), text(&series["metric"]["backup_job"])), value(series))
        })
        .collect();
    let expected = [("archive", 0.0), ("lab", -1.0), ("mail", 3.0), ("web", 1.0), ("wiki", 4.0)];
    let expected: BTreeMap<(&str, &str), f64> = ["db3", "web1"]
        .into_iter()
        .flat_map(|host| expected.into_iter().map(move |(job, state)| ((host, job), state)))
        .collect();
    assert_eq!(states, expected);

    let down = prometheus.at("down", &ALL.fill(target(fleet, "Agents that do not answer", "B")), day.end);
    assert_eq!(down.len(), 1, "{down:?}");
    assert_eq!(down[0]["metric"]["instance"], "db2");
    let full = prometheus.at("full", &ALL.fill(target(fleet, "Targets, the fullest first", "C")), day.end);
    let hosts: Vec<&str> = full.iter().map(|series| text(&series["metric"]["instance"])).collect();
    assert_eq!(hosts, ["db3", "db3"], "only its disk fills up");

    // With nobody overdue, the numbers are 0 and not missing.
    for title in ["Overdue", "Failing", "Agents down", "Targets down"] {
        let nobody = Filling { instance: "nobody", backup_job: "nothing", ..ALL };
        let series = prometheus.at(title, &nobody.fill(target(fleet, title, "A")), day.end);
        assert_eq!(series.iter().map(value).collect::<Vec<_>>(), [0.0], "{title}");
    }
}

fn the_job_is_told_as_it_is(prometheus: &Prometheus, day: &Day) {
    let all = dashboards();
    let job = &all[1];
    let at = |title: &str, reference: &str| {
        prometheus.at(title, &ONE.fill(target(job, title, reference)), day.end)
    };
    let sum = |title: &str, reference: &str| -> f64 {
        let series = prometheus.over(title, &ONE.fill(target(job, title, reference)), day.start, day.end);
        let values = series.iter().flat_map(|one| list(&one["values"]).to_vec());
        values.map(|value| text(&value[1]).parse::<f64>().unwrap()).sum()
    };
    assert_eq!(
        at("State", "A").iter().map(value).collect::<Vec<_>>(),
        [1.0],
        "degraded: no copy at the share"
    );
    assert_eq!(at("Running", "A").len(), 0, "another job runs");
    assert_eq!(at("Failing since", "A").len(), 0);
    let components = |series: Vec<Value>| -> Vec<String> {
        let mut names: Vec<String> =
            series.iter().map(|one| text(&one["metric"]["component"]).to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(components(at("Read, against the usual", "A")), ["application", "database"]);
    assert_eq!(components(at("Read, against the usual", "B")), ["application", "database"]);
    let share = at("Share of the usual", "A");
    let grown = share.iter().find(|one| one["metric"]["component"] == "application").unwrap();
    assert!(value(grown) > 1.2, "the application has grown: {grown}");
    assert!(sum("Lock contention", "A") > 0.5, "the lock was held once");
    assert!(sum("Runs", "A") > 1.5, "several runs were good");
    let waiting = at("Copies waiting", "A");
    assert_eq!(waiting.iter().map(value).collect::<Vec<_>>(), [1.0], "{waiting:?}");
    let verified = at("Backups at each target", "G");
    assert!(verified.iter().any(|one| one["metric"]["target"] == "local" && value(one) == 1.0));
    // Both targets of the job, and those only.
    let targets = at("Free", "A");
    assert_eq!(targets.len(), 2, "{targets:?}");
    let checks = prometheus.over(
        "checks",
        &ONE.fill(target(job, "Health checks that were not OK", "A")),
        day.start,
        day.end,
    );
    assert!(checks.iter().any(|one| one["metric"].get("backup_job").is_none()), "the agent's own are shown");
    assert!(checks.iter().all(|one| one["metric"]["backup_job"] != "mail"), "those of other jobs are not");
}

/// Annotations take the moment from the value.
fn annotations_are_of_the_moments(prometheus: &Prometheus, day: &Day) {
    let all = dashboards();
    let one = Filling { backup_job: "mail", ..ONE };
    for (name, at) in
        [("Runs without success", "14:00"), ("Failures mailed", "14:00"), ("Good runs", "02:30")]
    {
        let annotation = all[1].annotations().iter().find(|annotation| annotation["name"] == name).unwrap();
        assert_eq!(annotation["useValueForTime"], true);
        let series = prometheus.over(name, &one.fill(text(&annotation["expr"])), day.start, day.end);
        let values = series.iter().flat_map(|one| list(&one["values"])).map(|value| text(&value[1]));
        let mut moments: Vec<String> = values
            .map(|ms| {
                let ms: f64 = ms.parse().unwrap();
                let moment = chrono::DateTime::from_timestamp_millis(ms as i64).unwrap();
                moment.format("%H:%M").to_string()
            })
            .collect();
        moments.dedup();
        assert_eq!(moments, [at], "{name}");
    }
}
