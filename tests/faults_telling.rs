//! When the ways to tell somebody fail: the state database, the mail server, the configuration. Rows 45 to
//! 48 and 53 of the fault matrix.
#![cfg(feature = "failpoints")]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use world::invariants::Expect;
use world::smtp::{Manners, SmtpServer};
use world::{Out, World, output, system, wait_for};

/// A failure: the source is gone. It is back when this is dropped.
struct NoSource(PathBuf, PathBuf);

impl NoSource {
    fn new(world: &World) -> Self {
        let (there, away) = (world.path("src"), world.path("away"));
        fs::rename(&there, &away).unwrap();
        Self(there, away)
    }
}

impl Drop for NoSource {
    fn drop(&mut self) {
        fs::rename(&self.1, &self.0).unwrap();
    }
}

fn spooled(world: &World) -> usize {
    let Ok(entries) = fs::read_dir(world.path("state/spool")) else { return 0 };
    entries.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "json")).count()
}

fn database(world: &World) -> String {
    world.path("state/state.db").display().to_string()
}

/// All that can be seen from outside says that something is wrong.
fn is_not_silent(world: &World, out: &Out, mails: usize) {
    assert_eq!(out.code, 1, "{}", out.all());
    let told = world.mails_of("failure") > mails || spooled(world) > 0;
    assert!(told, "nobody is told: {}", out.all());
    assert!(out.stderr.contains("state"), "{}", out.all());
}

#[test]
fn a_corrupt_state_database_is_told_straight_and_kept_in_the_spool_while_the_server_is_down() {
    let world = World::new();
    world.recover();
    world.recover();
    for what in ["header", "pages", "cut"] {
        // What stands in the log beside the file is part of it.
        system("sqlite3", &[&database(&world), "PRAGMA wal_checkpoint(TRUNCATE)"]);
        let good = fs::read(database(&world)).unwrap();
        let mut bad = good.clone();
        match what {
            "header" => bad[..100].fill(0x5a),
            "pages" => bad[4096..].fill(0x5a),
            _ => bad.truncate(good.len() / 3),
        }
        eprintln!("{what}");
        for file in ["state.db-wal", "state.db-shm"] {
            let _ = fs::remove_file(world.path("state").join(file));
        }
        fs::write(database(&world), bad).unwrap();
        let mails = world.mails_of("failure");
        let out = world.backup();
        is_not_silent(&world, &out, mails);
        assert_eq!(world.mails_of("failure"), mails + 1, "told straight");
        let check = world.run(&["check"]);
        assert!(check.code == 2 || check.code == 3, "check is content: {}", check.all());

        // The mail server is down as well: the message waits in a file.
        world.write_config("smtp://127.0.0.1:1");
        let out = world.backup();
        is_not_silent(&world, &out, usize::MAX - 1);
        world.write_config(&world.smtp.url());

        for file in ["state.db-wal", "state.db-shm"] {
            let _ = fs::remove_file(world.path("state").join(file));
        }
        fs::write(database(&world), &good).unwrap();
        // It is not due yet; it goes out later, and nothing is lost.
        world.run(&["tend", "--retry"]).expect(0);
        assert_eq!(spooled(&world), 0, "the outbox took the message over");
        let queue = world.run(&["notify", "queue"]).expect(0).stdout;
        assert!(world.mails_of("failure") == mails + 2 || queue.contains("pending"), "{queue}");
        world.recover();
    }
}

#[test]
fn a_state_database_that_stays_locked_fails_the_run_and_is_told() {
    let world = World::new();
    world.recover();
    const HOLD: &str = "import sqlite3,sys,time\n\
        c=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
        c.execute('BEGIN IMMEDIATE')\n\
        open(sys.argv[2],'w').close()\n\
        time.sleep(1000)\n";
    let ready = world.path("holding");
    let mut holder = Command::new("python3")
        .args(["-c", HOLD, &database(&world)])
        .arg(&ready)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the writer's lock", || ready.exists());
    let out = world.backup();
    let (_, _) = (holder.kill(), holder.wait());
    is_not_silent(&world, &out, 0);
    world.recover();
}

#[test]
#[cfg(feature = "real-peers")]
fn a_full_disk_under_the_state_is_told_and_published_backups_are_taken_over_later() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let world = World::new();
    let state = world.path("state");
    fs::create_dir_all(&state).unwrap();
    system("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", state.to_str().unwrap()]);
    let _mounted = Mounted(state.clone());
    world.recover();
    let hog = state.join("hog");
    let fill = || {
        let _ = Command::new("sh")
            .args(["-c", &format!("cat /dev/zero > {} 2>/dev/null", hog.display())])
            .status();
    };
    // Before the run.
    fill();
    let mails = world.mails_of("failure");
    let out = world.backup();
    is_not_silent(&world, &out, mails);
    world.run(&["metrics"]).expect(0);
    fs::remove_file(&hog).unwrap();
    world.recover();
    // In the middle of it: before and after the commit point.
    for place in ["capture", "publish", "read-back", "end-run"] {
        eprintln!("full at {place}");
        let mails = world.mails_of("failure");
        let run = world.pause_at(place, &["backup", "web", "--json"]);
        fill();
        let out = run.go_on();
        is_not_silent(&world, &out, mails);
        fs::remove_file(&hog).unwrap();
        world.after_kill("backup");
    }
}

#[test]
fn a_mail_server_that_is_down_gets_the_mail_when_it_is_up_again() {
    let world = World::new();
    world.recover();
    world.write_config("smtp://127.0.0.1:1");
    let failure = NoSource::new(&world);
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert_eq!(world.mails().len(), 0);
    assert_eq!(world.metric_of("backup_notifications_pending", "channel=\"admin\""), 1.0);
    assert!(world.metric_of("backup_notification_failures_total", "channel=\"admin\"") >= 1.0);
    assert_eq!(world.metric("backup_last_failure_mail_timestamp_seconds"), 0.0);
    assert!(out.all().contains("127.0.0.1:1"), "the run says that nobody was told: {}", out.all());
    world.write_config(&world.smtp.url());
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(world.mails_of("failure"), 1);
    assert!(world.metric("backup_last_failure_mail_timestamp_seconds") > 0.0);
    assert_eq!(world.metric_of("backup_notifications_pending", "channel=\"admin\""), 0.0);
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(world.mails_of("failure"), 1, "told twice");
    drop(failure);
    world.recover();
    assert_eq!(world.mails_of("recovery"), 1);
}

#[test]
fn a_refused_mail_fails_no_backup_and_is_seen_by_metric_and_check() {
    for at in ["MAIL", "RCPT", "DATA", "."] {
        eprintln!("refused at {at}");
        let world = World::new();
        world.recover();
        let failure = NoSource::new(&world);
        world.smtp.next(Manners::Refuse(at, 550, "5.7.1 not from you"));
        let out = world.backup().expect(1);
        assert!(out.all().contains("not from you"), "{}", out.all());
        assert_eq!(world.mails().len(), 0);
        assert_eq!(world.metric_of("backup_notification_failures_total", "channel=\"admin\""), 1.0);
        let check = world.run(&["check", "--json"]).expect(2).stdout;
        assert!(check.contains("notif"), "{check}");
        drop(failure);
        // The next good run is good, whatever became of the mail.
        let out = world.backup().expect(0);
        assert_eq!(out.json()["outcome"], "success");
        world.check_backups();
    }
}

#[test]
fn a_temporary_refusal_is_tried_again() {
    let world = World::new();
    world.recover();
    let failure = NoSource::new(&world);
    world.smtp.next(Manners::Refuse(".", 451, "4.3.0 come back later"));
    let out = world.backup();
    world.after(&out, Expect::Failure);
    assert_eq!(world.mails().len(), 0);
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(world.mails_of("failure"), 1);
    drop(failure);
    world.recover();
}

fn message_ids(world: &World) -> Vec<String> {
    let id = |mail: &String| {
        let line = mail.lines().find(|l| l.to_ascii_lowercase().starts_with("message-id:"));
        line.expect("a Message-ID").to_owned()
    };
    world.mails().iter().map(id).collect()
}

#[test]
fn a_mail_that_may_have_been_accepted_comes_again_under_the_same_message_id() {
    // The server takes it and says nothing; the process dies before it can record the answer.
    let world = World::new();
    world.recover();
    let failure = NoSource::new(&world);
    world.smtp.next(Manners::DropAfterData);
    let out = world.backup();
    world.after(&out, Expect::Failure);
    world.run(&["tend", "--retry"]).expect(0);
    let ids = message_ids(&world);
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    drop(failure);
    world.recover();

    let world = World::new();
    world.recover();
    let failure = NoSource::new(&world);
    let (out, fired) = world.run_at("told=kill", &["backup", "web", "--json"]);
    assert!(fired && out.code == -9, "{}", out.all());
    assert_eq!(world.mails_of("failure"), 1);
    // Nobody else sends it while the lease lasts.
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(world.mails_of("failure"), 1);
    system("sqlite3", &[&database(&world), "UPDATE outbox SET claimed_until = 1 WHERE claimed_until > 1"]);
    world.run(&["tend", "--retry"]).expect(0);
    let ids = message_ids(&world);
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    world.run(&["tend", "--retry"]).expect(0);
    assert_eq!(message_ids(&world).len(), 2);
    drop(failure);
    world.recover();
}

#[test]
fn a_mail_server_that_hangs_holds_no_run_up_for_long() {
    let world = World::with(world::Setup { notify: "timeout = \"1s\"", ..Default::default() });
    world.recover();
    let failure = NoSource::new(&world);
    let begun = std::time::Instant::now();
    world.smtp.next(Manners::Stall);
    let out = world.backup();
    // The server says nothing for ever.
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    world.after(&out, Expect::Failure);
    drop(failure);
    world.recover();
}

#[test]
fn an_invalid_configuration_leaves_the_last_good_one_in_force_and_is_told() {
    let world = World::new();
    world.edit_config("schedule = \"0 3 * * *\"", "schedule = \"0 25 * * *\"");
    // None was ever good: nothing can be done, and that is said.
    for verb in [&["backup", "web"][..], &["tend"], &["list"], &["config", "check"]] {
        let out = world.run(verb).expect(2);
        assert!(out.stderr.contains("config.toml"), "{}", out.all());
    }
    world.run(&["check"]).expect(3);
    assert!(world.stored("local").is_empty());

    world.write_config(&world.smtp.url());
    world.recover();
    let good = fs::read_to_string(world.path("config.toml")).unwrap();
    let broken = [
        format!("{good}\nthis is no toml\n"),
        good.replace("\"local\"]", "\"nowhere\"]"),
        good.replace("[job.web]", "[jobb.web]"),
    ];
    for bad in broken {
        let mails = world.mails_of("agent");
        fs::write(world.path("config.toml"), bad).unwrap();
        let out = output(world.agent(&["backup", "web", "--json"])).expect(0);
        assert_eq!(out.json()["outcome"], "success");
        assert!(out.stderr.contains("last good"), "{}", out.all());
        assert!(world.mails_of("agent") > mails, "nobody is told: {:?}", world.mails());
        fs::write(world.path("config.toml"), &good).unwrap();
        world.recover();
    }
    // The mail server of the test lives as long as the world.
    let _: &SmtpServer = &world.smtp;
}
