//! Files with secrets that are missing, or open to others: what needs one fails and is told, the rest goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::smtp::SmtpServer;
use crate::world::{Ran, World};

/// Two jobs, of which only `db` needs a secret.
const JOBS: &str = r#"
timezone = "Europe/Berlin"
host = "web1"
state_dir = "{}/state"
[target.local]
type = "directory"
path = "{}/local"
template = "{job}/%Y/%m/%d/%H%M"
[job.files]
trigger = "external"
targets = ["local"]
[job.files.source.application]
type = "files"
paths = ["{}/data"]
[job.db]
trigger = "external"
targets = ["local"]
[job.db.source.dump]
type = "command"
command = ["sh", "-c", "echo \"$WORD\" | wc -c"]
env_file = { WORD = "{}/secret" }
"#;

fn with_mail(server: &SmtpServer, more: &str) -> String {
    format!(
        "{JOBS}{more}[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"backup@example.org\"\n\
         to = [\"admin@example.org\"]\n",
        server.url()
    )
}

fn subjects(server: &SmtpServer) -> Vec<String> {
    server.mails().iter().map(|mail| mail.parsed()["subject"].as_str().unwrap().to_owned()).collect()
}

fn secret(world: &World, mode: u32) {
    world.write("secret", "hunter2\n");
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(mode)).unwrap();
}

fn outcomes(ran: &Ran) -> Vec<&str> {
    ran.out
        .lines()
        .filter(|line| line.contains(" job "))
        .map(|line| line.split(' ').next().unwrap())
        .collect()
}

#[test]
fn a_secret_that_is_missing_fails_the_job_that_needs_it_and_no_other() {
    let server = SmtpServer::plain();
    let world = World::new(&with_mail(&server, ""));
    secret(&world, 0o600);
    world.agent("backup --all").exits(0);
    world.agent("check").exits(0);

    fs::remove_file(world.path("secret")).unwrap();
    // Before anything has failed, it is known that something will.
    let what = "/secret does not exist; write the secret there, then `chmod 600 ";
    world.agent("check").exits(2).says(&["db: the next run will fail: ", what]);
    world.agent("check files").exits(0);
    world.agent("status").exits(0).says(&["db: the next run will fail: ", what]);
    world.agent("doctor").says(&["/secret does not exist"]);
    world.agent("config check").exits(2).says(&["config.toml:21:21: ", what]);

    world.agent("backup files").exits(0);
    assert!(server.mails().is_empty(), "{:?}", subjects(&server));
    world.agent("backup db").exits(1).says(&["component dump: ", "WORD", what]);
    assert_eq!(subjects(&server).len(), 1, "{:?}", subjects(&server));
    assert!(subjects(&server)[0].starts_with("[backup-failure] db on web1: "), "{:?}", subjects(&server));
    let all = world.agent("backup --all").exits(1);
    assert_eq!(outcomes(&all), ["failure", "success"], "{}", all.out);
    world.agent("tend").exits(0);
    world.agent("check").exits(2).says(&["failed", what]);

    secret(&world, 0o600);
    world.agent("backup --all").exits(0);
    world.agent("check").exits(0);
    assert_eq!(subjects(&server).len(), 2, "{:?}", subjects(&server));
    assert!(subjects(&server)[1].starts_with("[backup-recovery] db on web1: "), "{:?}", subjects(&server));
}

#[test]
fn a_secret_that_others_can_read_is_no_reason_to_call_all_well() {
    let world = World::new(JOBS);
    secret(&world, 0o600);
    world.agent("backup --all").exits(0);
    for mode in [0o644, 0o602] {
        secret(&world, mode);
        let told = world.agent("check").exits(2);
        assert!(told.out.starts_with("BACKUP CRITICAL - db: the next run will fail: "), "{}", told.out);
        assert!(told.out.contains(&format!("has mode {mode:04o}")), "{}", told.out);
        world.agent("backup db").exits(1).says(&["chmod 600 "]);
        world.agent("backup files").exits(0);
        world.agent("config check").exits(2).says(&["chmod 600 "]);
        secret(&world, 0o600);
        world.agent("backup db").exits(0);
    }
    // Whoever may only read status.json sees as much as the file system shows.
    secret(&world, 0o644);
    let mut nobody = world.as_nobody();
    let told = world.run(nobody.args(["--config", "config.toml"]), "check");
    told.exits(2).says(&["the next run will fail: "]);
}

#[test]
fn the_secret_of_a_target_fails_what_is_stored_there() {
    const NAS: &str = "[target.nas]\ntype = \"webdav\"\nurl = \"http://127.0.0.1:1/x\"\nuser = \"u\"\npassword_file = \"{}/key\"\n\
                       template = \"{job}/%Y/%m/%d/%H%M\"\n";
    let world = World::empty();
    world.data();
    world.sh("mkdir local");
    let [further, first] = ["\"local\", \"nas\"", "\"nas\""].map(|targets| {
        let jobs = JOBS.replacen("[\"local\"]", &format!("[{targets}]\ncopy_wait = \"1s\""), 1);
        format!("{jobs}{NAS}")
    });
    secret(&world, 0o600);
    let what = "/key does not exist; write the secret there, then `chmod 600 ";

    world.configure(&further);
    world.agent("config check").exits(2).says(&[what]);
    world.agent("backup files").exits(4).says(&["degraded", what]);
    world.agent("backup db").exits(0);
    world.agent("check").exits(1).says(&["copies to nas will fail: ", what]);

    world.configure(&first);
    world.agent("backup files").exits(1).says(&["target nas: ", what]);
    world.agent("backup db").exits(0);
    world.agent("check").exits(2).says(&["files: the next run will fail: ", what]);
    let last = world.agent("history files --json").exits(0).json();
    assert_eq!(last[0]["outcome"], "failure", "{last}");
    world.write("key", "x\n");
    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    world.agent("backup files").exits(1).says(&["/key has mode 0644", "chmod 600"]);
}

#[test]
fn what_backups_are_encrypted_to_is_needed_by_those_that_are() {
    let world = World::new(&JOBS.replacen(
        "[job.files.source",
        "[job.files.encryption]\nrecipients_file = \"{}/keys\"\n[job.files.source",
        1,
    ));
    secret(&world, 0o600);
    world.agent("backup files").exits(1).says(&["/keys"]);
    world.agent("backup db").exits(0);
    world.agent("check").exits(2).says(&["files: the next run will fail: ", "/keys cannot be read"]);
}

#[test]
fn when_no_configuration_can_be_used_somebody_is_told_by_what_channels_there_are() {
    const VARIABLE: &str = "BACKUP_AGENT__NOTIFY__OTHER__PASSWORD";
    let server = SmtpServer::plain();
    let other = "[notify.other]\ntype = \"email\"\nsmtp = \"smtp://127.0.0.1:1\"\nuser = \"u\"\nfrom = \"a@example.org\"\n\
                 to = [\"b@example.org\"]\n";
    let world = World::new(&with_mail(&server, other));
    secret(&world, 0o600);
    let with_password = |args: &str| {
        let mut program = world.program();
        world.run(program.env(VARIABLE, "x").args(["--config", "config.toml"]), args)
    };
    with_password("backup --all").exits(0);
    with_password("check").exits(0);

    // As cron starts it: without the variable, neither the one nor the other can be used.
    let refused = world.agent("backup files").exits(2);
    let place = |text: &str| refused.err.find(text).unwrap_or_else(|| panic!("{text}: {}", refused.err));
    assert!(refused.err.starts_with("error: config.toml:"), "{}", refused.err);
    assert!(
        place("config.toml:") < place("The last good configuration, which is kept, cannot be used either:")
    );
    world.agent("tend").exits(2);
    let daemon = world.agent("run").exits(2);
    assert!(daemon.err.starts_with("error: config.toml:"), "{}", daemon.err);
    assert_eq!(subjects(&server).len(), 1, "{:?}", subjects(&server));
    assert!(subjects(&server)[0].contains("the configuration was refused"), "{:?}", subjects(&server));
    let text =
        server.mails()[0].parsed()["text"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["No backup is made until it is mended", "config.toml:", VARIABLE, "config check"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    world.agent("check").exits(3).says(&["BACKUP UNKNOWN - config.toml:"]);
    // Monitoring may well have the variable.
    with_password("check").exits(2).says(&["the last good one could not be used either: no run was made"]);
    with_password("backup files").exits(0);
    with_password("check").exits(0);
}
