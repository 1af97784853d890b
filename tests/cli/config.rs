//! `agent config`: checked, written, shown, described.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::world::{SIMPLE, World};

#[test]
fn everything_that_is_wrong_is_told_at_once_with_line_and_column() {
    let world = World::new(
        r#"timezone = "Europe/Berln"
frobnicate = 1
[target.local]
type = "directory"
path = "relative"
keep = { last = "three" }
[job.web]
schedule = "61 3 * * *"
targets = ["lokal"]
[job.web.source.app]
type = "filez"
"#,
    );
    let told = world.agent("config check").exits(2);
    for expected in [
        "config.toml:1:12: expected an IANA time zone",
        "did you mean `Europe/Berlin`?",
        "config.toml:2:1: unknown key `frobnicate`",
        "config.toml:5:8: expected an absolute path",
        "config.toml:6:17: expected a whole number",
        "config.toml:8:12: expected a crontab line such as \"0 3,11,19 * * *\", found \"61 3 * * *\": minute 61: allowed are 0 to 59",
        "config.toml:9:12: there is no [target.lokal]; did you mean \"local\"?",
        "config.toml:11:8: expected \"command\", \"files\", \"mysql\", \"postgres\", \"redis\", \"sqlite\" or \"system\", found \"filez\"; did you mean \"files\"?",
        "  8 | schedule = \"61 3 * * *\"\n    |            ^^^^^^^^^^^^\n",
    ] {
        assert!(told.err.contains(expected), "{expected:?} is missing: {}", told.err);
    }
    // Every verb refuses it, check as a monitoring plugin.
    world.agent("backup").exits(2);
    world.agent("list").exits(2);
    assert!(world.agent("check").exits(3).out.starts_with("BACKUP UNKNOWN - "));
}

#[test]
fn what_cannot_work_together_is_refused() {
    let cases = [
        ("0 3,11,19 * * *", "0 0 31 2 *", "never occurs: no month it names has such a day"),
        ("host = \"web1\"", "listen = \"0.0.0.0:9736\"", "allow_remote"),
        ("paths = [\"{}/data\"]", "paths = [\"{}/local/x\"]", "lies in the job's own target local"),
        (
            "[job.web]",
            "[job.other]\ntargets = [\"local\"]\n[job.other.source.a]\ntype = \"files\"\npaths = [\"/etc\"]\n[job.web]",
            "must contain {job}",
        ),
        ("host = \"web1\"", "host = \"web1", "syntax error"),
    ];
    for (from, to, problem) in cases {
        let world = World::new(&SIMPLE.replace(from, to));
        world.agent("config check").exits(2).says(&["config.toml:", problem]);
    }
}

#[test]
fn a_good_configuration_is_summed_up_with_what_to_think_about() {
    let world = World::new(
        &SIMPLE.replace("schedule = \"0 3,11,19 * * *\"", "").replace("trigger = \"external\"", ""),
    );
    let good = world.agent("config check").exits(0);
    assert!(
        good.out.starts_with("the configuration is good: config.toml\n  jobs: web\n  targets: local\n"),
        "{}",
        good.out
    );
    assert!(good.out.contains("warning: job web has no schedule"), "{}", good.out);
    world.write("conf.d/more.toml", "[job.web]\nschedule = \"@hourly\"\n");
    let merged = world.agent("config show").exits(0);
    assert!(merged.out.contains("schedule = \"@hourly\""), "{}", merged.out);
    let by_environment = world.run(
        world.program().env("BACKUP_AGENT__JOB__WEB__SCHEDULE", "@weekly").args(["--config", "config.toml"]),
        "config show",
    );
    assert!(by_environment.exits(0).out.contains("schedule = \"@weekly\""));
    let wrong = world.run(
        world
            .program()
            .env("BACKUP_AGENT__JOB__WEB__SCHEDULE", "sometimes")
            .args(["--config", "config.toml"]),
        "config check",
    );
    wrong.exits(2).says(&["BACKUP_AGENT__JOB__WEB__SCHEDULE"]);
}

#[test]
fn the_example_is_written_once_is_good_and_leads_on() {
    let world = World::empty();
    let wrote = world.bare("config init etc/agent.toml").exits(0);
    let next = format!("agent --config {}/etc/agent.toml config check", world.root());
    assert!(wrote.out.contains(&next), "{}", wrote.out);
    // A monitoring user's `agent check` reads it, and nobody else changes it.
    assert_eq!(fs::metadata(world.path("etc/agent.toml")).unwrap().permissions().mode() & 0o777, 0o644);
    world.bare("--config etc/agent.toml config check").exits(0).says(&["jobs: web", "channels: admin"]);
    world.bare("config init etc/agent.toml").exits(1).says(&["exists and is left as it is"]);
    assert_eq!(world.bare("config init -").exits(0).out, world.read("etc/agent.toml"));
    // The effective values are a configuration too.
    let shown = world.bare("--config etc/agent.toml config show").exits(0).out;
    world.write("shown.toml", &shown);
    world.bare("--config shown.toml config check").exits(0);
}

#[test]
fn secrets_are_never_shown_and_never_read_from_where_others_can_read_them() {
    const SECRET: &str = "canary-4f1d9b";
    let world = World::new(&format!(
        "{SIMPLE}\n[job.web.source.database]\ntype = \"mysql\"\nuser = \"backup\"\npassword_file = \"{{}}/password\"\n\
         [notify.admin]\ntype = \"email\"\nsmtp = \"smtp://127.0.0.1:1\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n\
         [notify.switch]\ntype = \"heartbeat\"\nurl = \"http://127.0.0.1:1/{SECRET}\"\n"
    ));
    world.write("password", SECRET);
    fs::set_permissions(world.path("password"), fs::Permissions::from_mode(0o644)).unwrap();
    world.agent("config check").exits(2).says(&["/password", "600"]);
    fs::set_permissions(world.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
    world.agent("config check").exits(0);
    let shown = world.run(
        world
            .program()
            .env("BACKUP_AGENT__NOTIFY__ADMIN__PASSWORD", SECRET)
            .env("BACKUP_AGENT__NOTIFY__ADMIN__USER", "backup")
            .args(["--config", "config.toml"]),
        "config show",
    );
    assert!(!shown.exits(0).out.contains(SECRET));
    // In a file it is refused, and not repeated.
    world.write("conf.d/secret.toml", &format!("[notify.admin]\npassword = \"{SECRET}\"\n"));
    let refused = world.agent("config check").exits(2);
    assert!(!refused.err.contains(SECRET) && refused.err.contains("password_file"), "{}", refused.err);
}

#[test]
fn the_schema_is_json_schema_that_knows_the_keys() {
    let world = World::empty();
    let schema = world.bare("config schema").exits(0).json();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{schema}");
    for key in ["timezone", "target", "job", "notify", "state_dir", "listen"] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

#[test]
fn no_configuration_at_all_is_said_with_both_ways_on() {
    let world = World::empty();
    let missing = world.bare("--config nothing.toml backup").exits(2);
    assert!(missing.err.contains("nothing.toml: cannot be read: No such file"), "{}", missing.err);
    if !std::path::Path::new("/etc/backup-agent/config.toml").exists() {
        world.bare("backup").exits(2).says(&[
            "there is no configuration at /etc/backup-agent/config.toml",
            "agent config init",
            "agent run --now",
        ]);
    }
}
