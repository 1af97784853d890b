//! Configurations read while the daemon runs, and at its start.

use std::path::Path;
use std::sync::Arc;

use super::{at, job, options};
use crate::clock::ManualClock;
use crate::config::{self, Config, LoadOptions};
use crate::daemon::context::Shared;
use crate::daemon::reload::{self, Reloaded};
use crate::daemon::{Options, Source};
use crate::state::{DATABASE_FILE, FactKey, MessageKind, State};

/// A configuration file whose mails go nowhere.
fn write_config(folder: &Path, job_line: &str) -> LoadOptions {
    let file = folder.join("config.toml");
    let text = format!(
        r#"
state_dir = "{0}/state"
timezone = "UTC"
[target.local]
type = "directory"
path = "{0}/backups"
[job.web]
{job_line}
targets = ["local"]
[job.web.source.files]
type = "files"
paths = ["{0}"]
[notify.admin]
type = "email"
smtp = "smtp://127.0.0.1:1"
from = "a@example.org"
to = ["b@example.org"]
"#,
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    LoadOptions { file: Some(file), conf_d: None, env: Vec::new(), check_files: true }
}

fn from_files(load: &LoadOptions) -> Options {
    let clock = Arc::new(ManualClock::new(at("2026-11-24T03:00:00Z")));
    Options { source: Source::Files(load.clone()), ..options(Config::default(), clock) }
}

fn started(load: &LoadOptions) -> Shared {
    let options = from_files(load);
    let begun = reload::start(&options).unwrap();
    let shared = Shared::new(&options, begun.agent);
    begun.found.record(&shared);
    shared
}

fn agent_mails(state: &State) -> usize {
    state.pending_messages().unwrap().iter().filter(|message| message.kind == MessageKind::Agent).count()
}

#[test]
fn a_bad_reload_changes_nothing_and_is_told_once_and_a_good_one_is_used_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let shared = started(&load);
    let schedule = |shared: &Shared| shared.agent().config.job[&job("web")].schedule.clone();

    write_config(folder.path(), r#"schedule = "0 33 * * *""#);
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
    assert_eq!(schedule(&shared).as_deref(), Some("0 3 * * *"));
    let refused = shared.state.fact(FactKey::ConfigRefused).unwrap().unwrap();
    assert!(refused.value.contains("config.toml:8:"), "{}", refused.value);
    assert_eq!(agent_mails(&shared.state), 1);

    write_config(folder.path(), r#"schedule = "0 5 * * *""#);
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Good));
    assert_eq!(schedule(&shared).as_deref(), Some("0 5 * * *"));
    assert_eq!(shared.state.fact(FactKey::ConfigRefused).unwrap(), None);
    let kept = shared.state.fact(FactKey::LastGoodConfig).unwrap().unwrap();
    assert!(kept.value.contains("0 5 * * *"));
    let row = shared.state.job(&job("web")).unwrap().unwrap();
    assert_eq!(row.schedule.as_deref(), Some("0 5 * * *"));
}

#[test]
fn a_refusal_that_could_not_be_queued_is_told_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let shared = started(&load);
    let database = rusqlite::Connection::open(folder.path().join("state").join(DATABASE_FILE)).unwrap();
    let refusing = "CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END";
    database.execute_batch(refusing).unwrap();
    write_config(folder.path(), r#"schedule = "0 33 * * *""#);
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
    assert_eq!(agent_mails(&shared.state), 0);
    database.execute_batch("DROP TRIGGER full").unwrap();
    for _ in 0..2 {
        assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
        assert_eq!(agent_mails(&shared.state), 1);
    }
}

#[test]
fn a_start_with_a_broken_configuration_uses_the_last_good_one_and_tells() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    drop(started(&load));
    write_config(folder.path(), "schedule = ");
    let shared = started(&load);
    assert_eq!(shared.agent().config.job[&job("web")].schedule.as_deref(), Some("0 3 * * *"));
    assert!(shared.state.fact(FactKey::ConfigRefused).unwrap().is_some());
    assert_eq!(agent_mails(&shared.state), 1);
}

#[test]
fn a_start_with_a_secret_missing_goes_on_and_a_reload_that_would_lose_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let file = load.file.as_ref().unwrap();
    let good = std::fs::read_to_string(file).unwrap();
    let dump = "[job.web.source.dump]\ntype = \"command\"\ncommand = [\"true\"]\nenv_file = { X = \"/nowhere/x\" }\n";
    std::fs::write(file, format!("{good}{dump}")).unwrap();
    let shared = started(&load);
    assert_eq!(shared.agent().config.job[&job("web")].source.len(), 2);
    assert_eq!(shared.state.fact(FactKey::ConfigRefused).unwrap(), None);
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Refused));
    let refused = shared.state.fact(FactKey::ConfigRefused).unwrap().unwrap();
    assert!(refused.value.contains("/nowhere/x does not exist"), "{}", refused.value);
}

#[test]
fn a_start_without_any_configuration_that_can_be_used_says_why_in_order_and_tells() {
    let folder = tempfile::tempdir().unwrap();
    let mut load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let file = load.file.clone().unwrap();
    let with_login = std::fs::read_to_string(&file).unwrap()
        + "[notify.other]\ntype = \"email\"\nsmtp = \"smtp://127.0.0.1:1\"\nuser = \"u\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n";
    std::fs::write(&file, with_login).unwrap();
    load.env = vec![("BACKUP_AGENT__NOTIFY__OTHER__PASSWORD".to_owned(), "x".to_owned())];
    let state = started(&load).state.clone();
    load.env.clear();
    let Err(error) = reload::start(&from_files(&load)) else { panic!("it started") };
    let text = format!("{error:#}");
    let first = text.find("config.toml:").unwrap();
    assert!(
        first < text.find("The last good configuration, which is kept, cannot be used either").unwrap(),
        "{text}"
    );
    assert_eq!(agent_mails(&state), 1);
}

#[test]
fn a_first_start_with_a_broken_configuration_fails_with_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), "schedule = \"0 33 * * *\"\nsplay = \"long\"");
    let Err(error) = reload::start(&from_files(&load)) else { panic!("it started") };
    let errors = error.downcast_ref::<config::ConfigErrors>().unwrap();
    assert_eq!(errors.problems.len(), 2, "{errors}");
    assert!(!folder.path().join("state").exists());
}

#[test]
fn a_moved_state_counts_from_the_next_start_on() {
    let folder = tempfile::tempdir().unwrap();
    let load = write_config(folder.path(), r#"schedule = "0 3 * * *""#);
    let shared = started(&load);
    let file = load.file.as_ref().unwrap();
    let text = std::fs::read_to_string(file).unwrap().replace("/state\"", "/elsewhere\"");
    std::fs::write(file, text).unwrap();
    assert!(matches!(reload::reload(&shared, &load), Reloaded::Good));
    assert_eq!(shared.agent().config.state_dir, folder.path().join("state"));
}
