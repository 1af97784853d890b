//! Who is told of what: the real binary against a real SMTP server.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::smtp::{Mail, Manners, SmtpServer};
use crate::world::{SIMPLE, World};

fn config(server: &SmtpServer, more: &str) -> String {
    format!(
        "{SIMPLE}\n[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"backup@example.org\"\n\
         to = [\"admin@example.org\"]\n{more}\n",
        server.url()
    )
}

fn subjects(server: &SmtpServer) -> Vec<String> {
    server.mails().iter().map(|mail| mail.parsed()["subject"].as_str().unwrap().to_owned()).collect()
}

/// A text without its line breaks.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(mail: &Mail) -> String {
    mail.parsed()["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_failure_is_told_at_once_not_again_at_once_and_its_end_once() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, ""));
    world.agent("backup").exits(0);
    assert_eq!(subjects(&server), [""; 0], "good runs are not told");
    let good = world.agent("list --json").json()[0]["run_id"].as_str().unwrap().to_owned();

    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    let told = subjects(&server);
    assert_eq!(told.len(), 1);
    let expected = "[backup-failure] web on web1: application failed in preflight: ";
    assert!(
        told[0].starts_with(expected)
            || told[0].starts_with("[backup-failure] web on web1: failed in preflight: "),
        "{told:?}"
    );
    let body = text(&server.mails()[0]);
    for part in [
        "/data cannot be backed up: No such file",
        "preflight",
        &good,
        " show 20",
        "agent --config ",
        "ERROR",
    ] {
        assert!(body.contains(part), "{part:?} is missing: {body}");
    }
    let metrics = world.agent("metrics").out;
    assert!(metrics.contains("backup_notifications_total{channel=\"admin\"} 1\n"), "{metrics}");
    assert!(
        !metrics.contains("backup_last_failure_mail_timestamp_seconds{backup_job=\"web\"} 0\n"),
        "{metrics}"
    );

    world.agent("backup").exits(1);
    world.agent("tend").exits(0);
    assert_eq!(server.mails().len(), 1, "the same failure again: {:?}", subjects(&server));

    // Another failure is told at once: it is not the one somebody knows of.
    world.sh("mv local elsewhere-too");
    world.agent("backup").exits(1);
    let other = subjects(&server);
    world.sh("mv elsewhere-too local; mv elsewhere data");
    world.agent("backup").exits(0);
    let all = subjects(&server);
    assert_eq!(all.len(), other.len() + 1, "{all:?}");
    assert!(all.last().unwrap().starts_with("[backup-recovery] web on web1: "), "{all:?}");
    world.agent("backup").exits(0);
    world.agent("tend").exits(0);
    assert_eq!(server.mails().len(), all.len());
}

#[test]
fn a_failure_that_lasts_is_told_again_when_its_time_has_come() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, "remind = \"1h\""));
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    world.agent("tend").exits(0);
    assert_eq!(server.mails().len(), 1);
    world.write("config.toml", &world.read("config.toml").replace("remind = \"1h\"", "remind = \"1s\""));
    std::thread::sleep(Duration::from_millis(1500));
    world.agent("tend").exits(0).says(&["1 message was sent"]);
    let told = subjects(&server);
    assert_eq!(told.len(), 2);
    assert!(told[1].contains("web on web1"), "{told:?}");
    // A paused job is left alone.
    world.agent("pause web --until 1h").exits(0);
    std::thread::sleep(Duration::from_millis(1500));
    world.agent("tend").exits(0);
    assert_eq!(server.mails().len(), 2, "{:?}", subjects(&server));
}

#[test]
fn labels_stand_in_the_subject_and_in_a_header() {
    let server = SmtpServer::plain();
    let world = World::new(&config(
        &server,
        "success = \"always\"\nlabels = { failure = \"ALARM\", success = \"fine\" }",
    ));
    world.agent("backup").exits(0);
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    let mails = server.mails();
    assert_eq!(mails.len(), 2);
    assert!(mails[0].header("Subject").starts_with("[fine] web on web1: "), "{}", mails[0].header("Subject"));
    assert!(
        mails[1].header("Subject").starts_with("[ALARM] web on web1: "),
        "{}",
        mails[1].header("Subject")
    );
    assert_eq!(
        (mails[0].header("X-Backup-Agent-Label"), mails[1].header("X-Backup-Agent-Label")),
        ("fine".into(), "ALARM".into())
    );
    let wrong = World::new(&config(&server, "labels = { failure = \"A]\\r\\nBcc: x@example.org\" }"));
    wrong.agent("config check").exits(2);
    let unknown = World::new(&config(&server, "labels = { disaster = \"A\" }"));
    unknown.agent("config check").exits(2).says(&["disaster"]);
}

#[test]
fn neither_names_nor_errors_can_add_a_header() {
    const EVIL: &str = "x\r\nBcc: victim@example.org\r\nX-Evil: 1\r\n\r\nbody";
    let server = SmtpServer::plain();
    let config = config(&server, "success = \"always\"")
        .replace("/state\"", "/own/state\"")
        .replace("/local\"", "/own/local\"");
    let world = World::new(&config.replace(
        "[job.web.source.application]",
        "[job.loud]\ntrigger = \"external\"\ntargets = [\"own\"]\n[job.loud.source.dump]\ntype = \"command\"\n\
         command = [\"sh\", \"-c\", \"printf 'a\\\\r\\\\nBcc: victim@example.org\\\\r\\\\n\\\\r\\\\nb' >&2; exit 1\"]\n\
         [job.gone]\ntrigger = \"external\"\ntargets = [\"own\"]\n[job.gone.source.files]\ntype = \"files\"\n\
         paths = [\"{}/gone\\r\\nBcc: victim@example.org\\r\\n\\r\\nb\"]\n\
         [target.own]\ntype = \"directory\"\npath = \"{}/own/second\"\ntemplate = \"{job}/%Y/%m/%d/%H%M\"\n\
         [job.web.source.application]",
    ));
    world.sh("mkdir -p own/local own/second; chmod 777 own own/*; chmod -R a+rX data");
    let evil = world.path("data").join(std::ffi::OsStr::from_bytes(EVIL.replace('/', "").as_bytes()));
    fs::write(&evil, "x").unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o0)).unwrap();
    let ran = world.run(world.as_nobody().args(["--config", "config.toml"]), "backup --all").exits(1);
    let mails = server.mails();
    assert_eq!(mails.len(), 3, "{ran:?}");
    for mail in &mails {
        let parsed = mail.parsed();
        assert_eq!(parsed["defects"], serde_json::json!([]), "{parsed}");
        assert!(mail.headers("Bcc").is_empty() && mail.headers("X-Evil").is_empty(), "{parsed}");
        assert_eq!(mail.to, ["admin@example.org"]);
        assert!(!parsed["subject"].as_str().unwrap().contains(['\r', '\n']));
        assert!(
            words(parsed["text"].as_str().unwrap()).contains("Bcc: victim@example.org"),
            "the name itself is told: {parsed}"
        );
    }
    // Nor can they paint the terminal of whoever looks.
    assert!(!ran.out.contains('\r'), "{:?}", ran.out);
}

#[test]
fn a_message_that_is_not_taken_waits_and_is_sent_when_it_can_be() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, ""));
    world.sh("mv data elsewhere");
    server.next(Manners::Refuse("MAIL", 451, "4.3.0 later"));
    let failed = world.agent("backup").exits(1);
    assert!(failed.out.contains("not told: ") && failed.out.contains("451"), "{}", failed.out);
    // At once: its time comes after half a minute.
    world.agent("tend").exits(0).says(&["messages that wait: 1, the next attempt at "]);
    assert_eq!(server.mails().len(), 0, "not before its time");
    let queue = world.agent("notify queue").exits(0);
    assert!(queue.out.contains("pending") && queue.out.contains("451"), "{}", queue.out);
    let rows = world.agent("notify queue --json").exits(0).json();
    for key in [
        "id",
        "channel",
        "recipient",
        "kind",
        "job",
        "subject",
        "status",
        "attempts",
        "next_attempt",
        "last_error",
    ] {
        assert!(rows[0].get(key).is_some(), "{key}: {rows}");
    }
    assert!(rows[0].get("payload").is_none());
    world.agent("check").exits(2).says(&["WARNING notify: 1 message for admin not accepted"]);
    world.agent("tend --retry").exits(0).says(&["1 message was sent"]);
    assert_eq!(server.mails().len(), 1);
    assert!(!world.agent("check").out.contains("WARNING notify"));
    let metrics = world.agent("metrics").out;
    assert!(metrics.contains("backup_notification_failures_total{channel=\"admin\"} 1\n"), "{metrics}");
    assert!(metrics.contains("backup_notifications_pending{channel=\"admin\"} 0\n"), "{metrics}");
}

#[test]
fn a_mail_that_is_refused_for_good_does_not_fail_the_backup_and_is_not_silent() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, "success = \"always\""));
    server.next(Manners::Refuse("RCPT", 550, "5.1.1 no such user"));
    world.agent("backup").exits(0).says(&["not told: ", "550"]);
    world.agent("check").exits(1).says(&["WARNING notify: "]);
}

#[test]
fn a_copy_that_failed_is_told_and_so_is_that_it_came_after_all() {
    let server = SmtpServer::plain();
    let world = World::new(
        &config(&server, "")
            .replace("targets = [\"local\"]", "targets = [\"local\", \"nas\"]")
            .replace("[job.web]", "[target.nas]\ntype = \"directory\"\npath = \"{}/nas\"\n[job.web]"),
    );
    world.agent("backup").exits(4);
    world.agent("backup").exits(4);
    let told = subjects(&server);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("[backup-degraded] web on web1: backup is good, but copy nas: "), "{told:?}");
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("tend --retry").exits(0).says(&["2 pending copies were made"]);
    let told = subjects(&server);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("[backup-recovery] web on web1: "), "{told:?}");
}

#[test]
fn a_target_that_refuses_for_good_is_told_at_once_also_when_its_copy_was_only_late_before() {
    let server = SmtpServer::plain();
    let world = World::new(
        &config(&server, "")
            .replace("targets = [\"local\"]", "targets = [\"local\", \"nas\"]")
            .replace("[job.web]", "[target.nas]\ntype = \"directory\"\npath = \"{}/nas\"\n[job.web]"),
    );
    fs::create_dir(world.path("nas")).unwrap();
    world.agent("target init nas").exits(0);
    fs::rename(world.path("nas"), world.path("away")).unwrap();
    world.agent("backup").exits(4);
    assert_eq!(subjects(&server).len(), 1);
    let file = world.path("away/.backup-agent-target.json");
    let other = fs::read_to_string(&file).unwrap().replace("\"id\": \"", "\"id\": \"0");
    fs::write(&file, other).unwrap();
    fs::rename(world.path("away"), world.path("nas")).unwrap();
    world.agent("tend --retry").exits(1).says(&["1 message was sent"]);
    let told = subjects(&server);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("backup is good, but copy nas stopped: target nas: another "), "{told:?}");
    world.agent("tend --retry").exits(1);
    assert_eq!(subjects(&server).len(), 2, "not again and again");
    world.agent("target init nas --force").exits(0);
    world.agent("tend --retry").exits(0).says(&["1 pending copy was made"]);
    assert!(subjects(&server)[2].starts_with("[backup-recovery] web on web1: "), "{:?}", subjects(&server));
}

#[test]
fn a_run_that_was_killed_is_told_by_the_next_tend() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, "").replace(
        "[job.web.source.application]",
        "[job.web.source.slow]\ntype = \"command\"\ncommand = [\"sh\", \"-c\", \"touch {}/begun; sleep 600\"]\n\
         [job.web.source.application]",
    ));
    let run = world
        .program()
        .args(["--config", "config.toml", "backup"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let run = crate::world::Guard(run);
    crate::world::until("the run reads its source", || world.path("begun").exists());
    drop(run);
    world.agent("tend").exits(0).says(&["had died: marked interrupted", "1 message was sent"]);
    assert!(
        subjects(&server)[0].starts_with("[backup-interrupted] web on web1: "),
        "{:?}",
        subjects(&server)
    );
}

#[test]
fn a_run_whose_state_cannot_be_opened_is_told_all_the_same() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, ""));
    world.agent("backup").exits(0);
    world.sh("rm -f state/state.db-*; head -c 100000 /dev/urandom > state/state.db");
    world.agent("backup").exits(1);
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    assert!(
        mails[0].header("Subject").starts_with("[backup-failure] web on web1: "),
        "{}",
        mails[0].header("Subject")
    );
    assert!(text(&mails[0]).contains("state.db"), "{}", text(&mails[0]));
}

#[test]
fn channels_are_tried_by_a_test_message() {
    let server = SmtpServer::plain();
    let world = World::new(&config(&server, ""));
    world.agent("notify test").exits(0).says(&["admin: accepted for admin@example.org\n"]);
    assert_eq!(subjects(&server), ["[backup-test] web1: a test, nothing is wrong"]);
    server.next(Manners::Refuse("RCPT", 550, "5.1.1 no such user"));
    world.agent("notify test admin").exits(1).says(&["admin: not accepted for admin@example.org: ", "550"]);
    world.agent("notify test nobody").exits(2).says(&["there is no channel nobody; there are: admin"]);
    World::new(SIMPLE).agent("notify test").exits(2).says(&["nobody would be told of a failure"]);
}

#[test]
fn one_line_about_a_program_that_failed_holds_its_last_word() {
    let server = SmtpServer::plain();
    let dump = "[job.web.source.dump]\ntype = \"command\"\n\
                command = [\"sh\", \"-c\", \"echo connecting >&2; echo still at it >&2; echo the disk is purple >&2; exit 3\"]";
    let world = World::new(&config(&server, dump));
    world.agent("backup").exits(1).says(&["the disk is purple", "connecting"]);
    let check = world.agent("check").exits(2);
    let first = check.out.lines().next().unwrap();
    assert!(first.contains(" ended with exit code 3: the disk is purple"), "{first}");
    let history = world.agent("history").exits(0).out;
    assert!(history.contains(": the disk is purple\n"), "{history}");
    let subject = &subjects(&server)[0];
    assert!(subject.ends_with(": the disk is purple"), "{subject}");
    // The rest is not lost.
    assert!(
        words(&text(&server.mails()[0])).contains("connecting | still at it"),
        "{}",
        text(&server.mails()[0])
    );
}
