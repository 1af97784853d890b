//! Findings put together: for plugins, as JSON, as rows of the state.

use super::*;

fn report(state: &Snapshot) -> Report {
    Report::new(findings(state, &config(), now(), &Extra::default()))
}

#[test]
fn the_worst_is_critical_then_warning_then_unknown() {
    assert_eq!(worst([]), Good);
    assert_eq!(worst([Good, Unknown]), Unknown);
    assert_eq!(worst([Unknown, Warning, Good]), Warning);
    assert_eq!(worst([Unknown, Critical, Warning]), Critical);
}

#[test]
fn the_first_line_of_the_report_has_status_worst_problem_and_figures() {
    let mut late = with(json!({"last_success": run("success", 910), "last_run": run("failure", 19)}));
    late.channels.insert("admin".parse().unwrap(), Default::default());
    let report = report(&late);
    assert_eq!(report.exit_code(), 2);
    let text = report.render(Format::Plugin, true);
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "BACKUP CRITICAL - app: overdue by 7 h 20 min (due 2026-11-24 03:00, last success 2026-11-23 20:10); \
         1 more | app_age=54480s;;;0 app_duration=120s;;;0 app_size=1000B;;;0 app_contention=0;3;;0 \
         app_copies_pending=0;;;0 notifications_pending=0;;;0"
    );
    let second = lines.next().unwrap();
    assert!(second.starts_with("CRITICAL app overdue: overdue by 7 h 20 min"), "{second}");
    assert!(lines.clone().any(|line| line.starts_with("CRITICAL app last-outcome: ")));
    assert!(lines.clone().any(|line| line.starts_with("OK daemon: ")));
    // Only the first line may have the character that begins figures.
    assert!(lines.all(|line| !line.contains('|')));
}

#[test]
fn a_good_report_says_how_old_the_backups_are_and_is_empty_when_quiet() {
    let good = report(&snapshot(good_job()));
    assert_eq!(good.exit_code(), 0);
    let text = good.render(Format::Plugin, false);
    assert!(text.starts_with("BACKUP OK - app: last success 17 min ago | app_age=1020s;;;0 "), "{text}");
    assert_eq!(good.render(Format::Plugin, true), "");
    assert_eq!(good.render(Format::Json, true), "");
    let none = Report::new(Vec::new()).render(Format::Plugin, false);
    assert_eq!(none, "BACKUP OK - no job is configured\n");
}

#[test]
fn an_unreadable_state_is_unknown_and_never_quiet() {
    let report = Report::unreadable("cannot read /x/state.db | permission\ndenied");
    assert_eq!(report.exit_code(), 3);
    let text = report.render(Format::Plugin, true);
    assert_eq!(text, "BACKUP UNKNOWN - cannot read /x/state.db / permission denied\n");
    let json: Value = serde_json::from_str(&report.render(Format::Json, true)).unwrap();
    assert_eq!((json["status"].as_str(), json["exit_code"].as_u64()), (Some("unknown"), Some(3)));
}

#[test]
fn the_json_form_has_every_finding_with_its_figures() {
    let json: Value = serde_json::from_str(
        &report(&snapshot(good_job())).note("from status.json").render(Format::Json, false),
    )
    .unwrap();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["note"], "from status.json");
    let overdue = &json["findings"][0];
    assert_eq!((&overdue["job"], &overdue["check"]), (&json!("app"), &json!("overdue")));
    assert_eq!(overdue["perfdata"][0]["label"], "app_age");
    assert_eq!(overdue["perfdata"][0]["value"], 1020.0);
}

#[test]
fn figures_follow_the_plugin_guidelines() {
    let perf = |label: &str| Perf::new(label, 1.5, Unit::Seconds);
    assert_eq!(perf("a-b_1").to_string(), "a-b_1=1.5s;;;0");
    assert_eq!(perf("free space").to_string(), "'free space'=1.5s;;;0");
    assert_eq!(perf("it's=|x").to_string(), "'it''s__x'=1.5s;;;0");
    assert_eq!(perf("").to_string(), "''=1.5s;;;0");
    assert_eq!(Perf::unknown("age").to_string(), "age=U");
    assert_eq!(Perf::new("x", f64::NAN, Unit::None).to_string(), "x=U");
    let free = Perf::new("free", 3e12, Unit::Bytes).warning("10:".into()).critical("1:".into()).maximum(8e12);
    assert_eq!(free.to_string(), "free=3000000000000B;10:;1:;0;8000000000000");
}

#[test]
fn a_finding_becomes_a_row_with_message_and_hint() {
    let missed = with(json!({"last_success": run("success", 910)}));
    let row = find(&findings(&missed, &config(), now(), &Extra::default()), "overdue").to_row();
    assert_eq!((row.check.as_str(), row.status), ("overdue", Critical));
    assert!(row.message.contains("). `agent history app`"), "{}", row.message);
}
