//! Alertmanager's configuration and mail template, read and rendered by Alertmanager's own tool.

#![cfg(feature = "real-peers")]

#[path = "support/rules.rs"]
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use files::{alerts, project, text, yaml};
use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr};
use serde_json::{Value, json};

const CONFIG: &str = "alerts/alertmanager.yml";

fn amtool(arguments: &[&str]) -> String {
    let output = Command::new("amtool")
        .args(arguments)
        .current_dir(project("."))
        // A configuration of whoever runs the tests is none of theirs.
        .env("HOME", "/nonexistent")
        .output()
        .expect("amtool is needed: install the package prometheus-alertmanager");
    assert!(
        output.status.success(),
        "amtool {arguments:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn alertmanager_accepts_the_configuration_and_finds_the_template() {
    let said = amtool(&["check-config", CONFIG]);
    assert!(said.contains("SUCCESS") && said.contains("1 templates"), "{said}");
}

/// Who gets what. Every alert of the rules stands here.
const RECEIVERS: &[(&str, &str)] = &[
    ("BackupAgentDown", "backups"),
    ("BackupAgentRestarting", "backups"),
    ("BackupClockSkew", "backups"),
    ("BackupConfigRefused", "backups"),
    ("BackupCopiesPending", "backups"),
    ("BackupDuplicateTrigger", "backups"),
    ("BackupFailedUnmailed", "backups-other-way"),
    ("BackupFailureMailed", "nobody"),
    ("BackupFilesMissing", "backups-critical"),
    ("BackupJobVanished", "backups-critical"),
    ("BackupLockContended", "backups"),
    ("BackupNeverSucceeded", "backups"),
    ("BackupNoAgents", "backups-critical"),
    ("BackupNotificationsPending", "backups"),
    ("BackupNotifierFailing", "backups"),
    ("BackupOverdue", "backups-critical"),
    ("BackupRetentionNotRun", "backups"),
    ("BackupRunTooLong", "backups"),
    ("BackupSchedulerStuck", "backups-critical"),
    ("BackupShrank", "backups"),
    ("BackupTargetDown", "backups"),
    ("BackupTargetFilling", "backups"),
    ("BackupTargetLow", "backups"),
    ("BackupVerifyFailed", "backups-critical"),
    ("BackupVerifyOverdue", "backups"),
    ("BackupWarningsUnusual", "backups"),
    ("Watchdog", "dead-mans-switch"),
];

#[test]
fn every_alert_goes_to_its_receiver() {
    let table: BTreeMap<&str, &str> = RECEIVERS.iter().copied().collect();
    let alerts = alerts();
    assert_eq!(alerts.len(), table.len(), "alerts and the table differ");
    for (name, rule) in alerts {
        let receiver = table.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        let (alert, severity) = (
            format!("alertname={name}"),
            format!("severity={}", rule["labels"]["severity"].as_str().unwrap()),
        );
        let file = format!("--config.file={CONFIG}");
        let receivers = format!("--verify.receivers={receiver}");
        amtool(&["config", "routes", "test", &file, &receivers, &alert, &severity, "instance=web1"]);
    }
}

/// Matchers of an inhibition, by Prometheus' own grammar.
fn matchers(list: &Value) -> Matchers {
    let list: Vec<&str> = list.as_array().unwrap().iter().map(|matcher| matcher.as_str().unwrap()).collect();
    match parser::parse(&format!("{{{}}}", list.join(","))).unwrap() {
        Expr::VectorSelector(selector) => selector.matchers,
        other => panic!("{other:?}"),
    }
}

fn is_match(matchers: &Matchers, alert: &str) -> bool {
    matchers.matchers.iter().all(|matcher| {
        assert_eq!(matcher.name, "alertname");
        matcher.is_match(alert)
    })
}

/// Which alert keeps which other ones quiet, where these labels are equal. A dead agent is looked at apart.
const INHIBITED: &[(&str, &[&str], &[&str])] = &[
    ("BackupFailureMailed", &["BackupOverdue"], &["instance", "backup_job"]),
    ("BackupFailedUnmailed", &["BackupOverdue"], &["instance", "backup_job"]),
    ("BackupNotifierFailing", &["BackupNotificationsPending"], &["instance"]),
    ("BackupTargetDown", &["BackupCopiesPending"], &["instance", "target"]),
];

#[test]
fn the_marker_and_others_inhibit_what_they_should_and_nothing_else() {
    let config = yaml(CONFIG);
    let names = || alerts().into_iter().map(|(name, _)| name);
    let inhibited = |rule: &Value, source: &str| -> BTreeSet<String> {
        let sources = matchers(&rule["source_matchers"]);
        assert_eq!(names().filter(|name| is_match(&sources, name)).collect::<Vec<_>>(), [source]);
        let targets = matchers(&rule["target_matchers"]);
        names().filter(|name| is_match(&targets, name)).collect()
    };
    let (down, rules) = config["inhibit_rules"].as_array().unwrap().split_last().unwrap();
    assert_eq!(rules.len(), INHIBITED.len());
    for (rule, (source, targets, equal)) in rules.iter().zip(INHIBITED) {
        let targets: BTreeSet<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        assert_eq!(inhibited(rule, source), targets, "{source}");
        assert_eq!(rule["equal"], json!(equal), "{source}");
    }
    assert_eq!(down["equal"], json!(["instance"]));
    // What is true without the agent, or is no alert, is told beside it.
    let told: BTreeSet<String> = alerts()
        .into_iter()
        .map(|(name, _)| name)
        .collect::<BTreeSet<_>>()
        .difference(&inhibited(down, "BackupAgentDown"))
        .cloned()
        .collect();
    let beside = [
        "BackupAgentDown",
        "BackupFailedUnmailed",
        "BackupFailureMailed",
        "BackupNoAgents",
        "BackupOverdue",
        "Watchdog",
    ];
    assert_eq!(told, beside.map(str::to_owned).into());
}

#[test]
fn recoveries_are_told_by_alertmanager_where_the_agent_does_not_tell_them() {
    let config = yaml(CONFIG);
    for receiver in config["receivers"].as_array().unwrap() {
        let name = text(receiver, "name");
        let ways: Vec<&Value> = ["email_configs", "webhook_configs"]
            .iter()
            .flat_map(|kind| receiver[kind].as_array().into_iter().flatten())
            .collect();
        assert_eq!(ways.is_empty(), name == "nobody", "{name}");
        for way in ways {
            let resolved = !matches!(name, "backups-other-way" | "dead-mans-switch");
            assert_eq!(way["send_resolved"], resolved, "{name}");
        }
    }
    assert_eq!(config["route"]["group_wait"], "30s");
}

#[test]
fn secrets_stand_in_files() {
    let config = files::read(CONFIG);
    for line in config.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        for word in ["password", "credentials", "token", "secret"] {
            if key.contains(word) {
                assert!(key.ends_with("_file") && value.trim().starts_with('/'), "{line}");
            }
        }
    }
}

fn alert(status: &str, name: &str, job: &str, instance: &str, summary: &str) -> Value {
    let ended = if status == "firing" { "0001-01-01T00:00:00Z" } else { "2026-11-24T20:05:00Z" };
    json!({
        "status": status,
        "labels": {"alertname": name, "backup_job": job, "instance": instance, "job": "backup-agent",
                   "severity": "critical"},
        "annotations": {"summary": summary, "description": "What it means.",
                        "runbook_url": format!("https://wiki.example.org/runbook.md#{}", name.to_lowercase())},
        "startsAt": "2026-11-24T19:05:00Z", "endsAt": ended,
        "generatorURL": "http://prometheus.example.org/graph", "fingerprint": "0",
    })
}

fn render(template: &str, kind: &str, alerts: &[Value]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.json");
    let firing = alerts.iter().any(|alert| alert["status"] == "firing");
    let data = json!({
        "receiver": "backups", "status": if firing { "firing" } else { "resolved" }, "alerts": alerts,
        "groupLabels": {"alertname": alerts[0]["labels"]["alertname"]}, "commonLabels": {},
        "commonAnnotations": {}, "externalURL": "http://alertmanager.example.org",
    });
    std::fs::write(&file, data.to_string()).unwrap();
    amtool(&[
        "template",
        "render",
        "--template.glob=alerts/backup-agent.tmpl",
        &format!("--template.type={kind}"),
        &format!("--template.text={{{{ template \"{template}\" . }}}}"),
        &format!("--template.data={}", file.display()),
    ])
}

#[test]
fn the_subject_says_where_and_what_first() {
    let overdue =
        |status: &str, job: &str, instance: &str| alert(status, "BackupOverdue", job, instance, "…");
    let (a, b) = (overdue("firing", "shop", "web1"), overdue("firing", "mail", "web2"));
    let good = overdue("resolved", "wiki", "web3");
    let mut agent = alert("firing", "BackupAgentDown", "", "web1", "…");
    agent["labels"].as_object_mut().unwrap().remove("backup_job");
    let mut none = alert("firing", "BackupNoAgents", "", "", "…");
    none["labels"] = json!({"alertname": "BackupNoAgents", "severity": "critical"});
    let many: Vec<Value> = (1..=5).map(|n| overdue("firing", "shop", &format!("web{n}"))).collect();
    let cases: &[(&[Value], &str)] = &[
        (std::slice::from_ref(&a), "[backup-alert] shop on web1: overdue"),
        (
            &[alert("firing", "BackupRunTooLong", "shop", "web1", "…")],
            "[backup-alert] shop on web1: run too long",
        ),
        (&[agent], "[backup-alert] web1: agent down"),
        (&[none], "[backup-alert] no agents"),
        (std::slice::from_ref(&good), "[backup-alert] good again: wiki on web3: overdue"),
        (&[a.clone(), b.clone()], "[backup-alert] overdue: 2 (shop on web1, mail on web2)"),
        (
            &[a.clone(), b, good.clone()],
            "[backup-alert] overdue: 2, good again 1 (shop on web1, mail on web2)",
        ),
        (&[good.clone(), good.clone()], "[backup-alert] good again: overdue: 2 (wiki on web3, wiki on web3)"),
        (&many, "[backup-alert] overdue: 5 (shop on web1, shop on web2, shop on web3, …)"),
    ];
    for (alerts, subject) in cases {
        assert_eq!(render("backup.subject", "text", alerts).trim_end_matches('\n'), *subject);
    }
}

#[test]
fn the_mail_says_what_where_since_when_and_what_to_do() {
    let alerts = [
        alert("firing", "BackupOverdue", "shop", "web1", "Backup of shop on web1 is overdue by 8h 50m 0s"),
        alert("resolved", "BackupOverdue", "mail", "web2", "Backup of mail on web2 is overdue by 1h 0m 0s"),
    ];
    let expected = "\
Backup of shop on web1 is overdue by 8h 50m 0s

What it means.

    host       web1
    job        shop
    since      2026-11-24 19:05 UTC

Look first, on web1: agent check
What to do: https://wiki.example.org/runbook.md#backupoverdue

Good again
----------

It was: Backup of mail on web2 is overdue by 1h 0m 0s

    host       web2
    job        mail
    since      2026-11-24 19:05 UTC
    until      2026-11-24 20:05 UTC

--
This comes from Prometheus and Alertmanager, not from the agent: http://alertmanager.example.org
";
    // The moments are in the zone of Alertmanager's host.
    let zone = std::env::var("TZ").is_ok_and(|zone| zone != "UTC");
    let text = render("backup.text", "text", &alerts);
    if !zone {
        assert_eq!(text.trim_end(), expected.trim_end());
    }
    let html = render("backup.html", "html", &alerts);
    for part in
        ["is overdue by 8h 50m 0s", "What it means.", "#backupoverdue", "Good again", "charset=\"utf-8\""]
    {
        assert!(html.contains(part), "{part}:\n{html}");
    }
    // Nothing is fetched from anywhere, and nothing runs.
    for part in ["<img", "<script", "<link", "url("] {
        assert!(!html.contains(part), "{part}:\n{html}");
    }
}

#[test]
fn what_is_hostile_in_a_label_stays_text_in_the_mail() {
    let hostile = "<script>alert(1)</script>\"'&";
    let alerts = [alert("firing", "BackupOverdue", hostile, hostile, hostile)];
    let html = render("backup.html", "html", &alerts);
    assert!(!html.contains("<script"), "{html}");
    assert!(html.contains("&lt;script&gt;"), "{html}");
    let mut alert = alerts[0].clone();
    alert["annotations"]["runbook_url"] = "javascript:alert(1)".into();
    let html = render("backup.html", "html", &[alert]);
    assert!(!html.contains("href=\"javascript"), "{html}");
}
