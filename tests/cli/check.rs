//! `agent check`, also called `monitor`: what monitoring systems see.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::smtp::SmtpServer;
use crate::world::{SIMPLE, World};

/// Takes performance data apart as the Monitoring Plugins guidelines write it:
/// `'label'=value[unit];[warn];[crit];[min];[max]`, separated by blanks.
#[track_caller]
fn perfdata(text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap();
    let (_, data) = first.split_once(" | ").unwrap_or_else(|| panic!("no performance data: {first}"));
    assert!(!data.contains('|'), "{first}");
    data.split(' ')
        .map(|item| {
            let (label, rest) = item.split_once('=').unwrap_or_else(|| panic!("{item:?}"));
            let fields: Vec<&str> = rest.split(';').collect();
            let digits = fields[0].trim_end_matches(|c: char| c.is_ascii_alphabetic());
            assert!(digits.parse::<f64>().is_ok(), "{item:?}");
            assert!(["", "s", "B"].contains(&&fields[0][digits.len()..]), "{item:?}");
            assert!(fields.len() <= 5, "{item:?}");
            label.to_owned()
        })
        .collect()
}

fn with_mail(server: &SmtpServer) -> String {
    format!(
        "{SIMPLE}\n[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"backup@example.org\"\n\
         to = [\"admin@example.org\"]\non = [\"recovery\"]\n",
        server.url()
    )
}

#[test]
fn a_good_backup_is_ok_with_figures_and_silence_where_that_is_wanted() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    for verb in ["check", "monitor", "check web"] {
        let good = world.agent(verb).exits(0);
        assert!(good.out.starts_with("BACKUP OK - web: last success "), "{}", good.out);
        assert_eq!(good.err, "");
        let labels = perfdata(&good.out);
        for label in ["web_age", "web_duration", "web_size", "local_free"] {
            assert!(labels.iter().any(|l| l == label), "{label}: {labels:?}");
        }
    }
    let quiet = world.agent("check --quiet").exits(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    let json = world.agent("check --json").exits(0).json();
    assert_eq!((json["status"].as_str(), json["exit_code"].as_i64()), (Some("ok"), Some(0)));
    let finding = &json["findings"][0];
    for key in ["job", "check", "status", "message"] {
        assert!(finding.get(key).is_some(), "{key}: {json}");
    }
    world.agent("check nope").exits(3).says(&["BACKUP UNKNOWN - there is no job nope"]);
}

#[test]
fn what_is_bad_is_critical_and_names_itself_in_the_first_line() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    let bad = world.agent("check --quiet").exits(2);
    assert!(bad.out.starts_with("BACKUP CRITICAL - web: the run "), "{}", bad.out);
    assert!(bad.out.contains("failed at step preflight"), "{}", bad.out);
    perfdata(&bad.out);
    let lines: Vec<&str> = bad.out.lines().collect();
    assert!(lines[1].starts_with("CRITICAL web last-outcome: "), "the bad ones come first: {}", bad.out);
    assert!(bad.out.contains("`agent --config "), "the hint can be typed: {}", bad.out);
    assert_eq!(world.agent("check --json").exits(2).json()["status"], "critical");
    world.sh("mv elsewhere data");
    world.agent("backup").exits(0);
    world.agent("check").exits(0);
    // The files of the newest good backup are looked for.
    world.sh("rm -r local/daily");
    world.agent("check").exits(2).says(&["CRITICAL web files: "]);
}

#[test]
fn a_job_is_overdue_by_its_schedule_and_not_by_an_age() {
    let world = World::new(&SIMPLE.replace("0 3,11,19 * * *", "0 3 * * *"));
    // Taken at noon two days ago: due at three yesterday and today.
    let old = world.run(
        std::process::Command::new("faketime")
            .arg("-f")
            .arg("-2d")
            .arg(crate::world::AGENT)
            .current_dir(world.path("")),
        "--config config.toml backup",
    );
    old.exits(0);
    let overdue = world.agent("check").exits(2);
    assert!(
        overdue.out.starts_with("BACKUP CRITICAL - web: ") && overdue.out.contains("CRITICAL web overdue: "),
        "{}",
        overdue.out
    );
    world.agent("status").exits(0).says(&["overdue"]);
    // The same age is right for a job that is due once a year, half of one from now.
    let config = world.read("config.toml");
    let month: u32 = world.sh("date +%-m").trim().parse().unwrap();
    world.write("config.toml", &config.replace("0 3 * * *", &format!("0 3 1 {} *", (month + 5) % 12 + 1)));
    let check = world.agent("check");
    assert!(!check.out.contains("CRITICAL web overdue"), "{}", check.out);
    world.write("config.toml", &config);
    world.agent("backup").exits(0);
    world.agent("check").exits(0);
}

#[test]
fn warnings_are_one_and_what_cannot_be_known_is_three() {
    let world = World::new(
        &SIMPLE
            .replace("targets = [\"local\"]", "targets = [\"local\", \"nas\"]")
            .replace("[job.web]", "[target.nas]\ntype = \"directory\"\npath = \"{}/nas\"\n[job.web]"),
    );
    let nothing = world.agent("check").exits(3);
    assert!(nothing.out.starts_with("BACKUP UNKNOWN - cannot read the state: "), "{}", nothing.out);
    world.agent("backup").exits(4);
    let warned = world.agent("check").exits(1);
    assert!(warned.out.starts_with("BACKUP WARNING - web: the backup "), "{}", warned.out);
    assert!(warned.out.contains("copy nas"), "{}", warned.out);
    // Wrong usage and a wrong configuration are unknown, never critical; the first line says what it is.
    for (args, text) in [
        ("--config config.toml check --bogus", "BACKUP UNKNOWN - unexpected argument '--bogus' found\n"),
        ("--config nothing.toml check", "BACKUP UNKNOWN - nothing.toml: cannot be read: No such file"),
        ("--config nothing.toml monitor", "BACKUP UNKNOWN - nothing.toml: cannot be read: No such file"),
    ] {
        let said = world.bare(args).exits(3);
        assert!(said.out.starts_with(text), "{args}: {}", said.out);
    }
}

#[test]
fn a_job_of_the_daemon_without_a_daemon_is_critical() {
    let world = World::new(&SIMPLE.replace("trigger = \"external\"", ""));
    world.agent("backup").exits(0);
    world.agent("check").exits(2).says(&["CRITICAL daemon: the daemon has never run"]);
}

#[test]
fn an_ordinary_user_is_answered_from_the_status_file_or_told_that_it_cannot_be_known() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    let nobody = || {
        let mut command = world.as_nobody();
        command.args(["--config", "config.toml"]);
        command
    };
    if !rustix::process::geteuid().is_root() {
        // The same refusal for the only user there is.
        fs::set_permissions(world.path("state/state.db"), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let answer = world.run(&mut nobody(), "check").exits(0);
    assert!(answer.out.starts_with("BACKUP OK - web: last success "), "{}", answer.out);
    assert!(answer.out.contains("(read from status.json, written "), "{}", answer.out);
    assert_eq!(world.run(&mut nobody(), "check --quiet").exits(0).out, "");
    world.run(&mut nobody(), "status").exits(0).says(&["good"]);
    world.sh("mv data elsewhere");
    if rustix::process::geteuid().is_root() {
        world.agent("backup").exits(1);
        world.run(&mut nobody(), "check").exits(2).says(&["BACKUP CRITICAL - web: the run "]);
    }
    // The configuration holds no secrets, so there is no reason to keep it from them.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(world.path("config.toml"), fs::Permissions::from_mode(0o640)).unwrap();
        let answer = world.run(&mut nobody(), "check").exits(3);
        assert!(answer.out.starts_with("BACKUP UNKNOWN - config.toml: cannot be read: "), "{}", answer.out);
        assert!(answer.out.contains("`chmod o+r config.toml`"), "{}", answer.out);
        fs::set_permissions(world.path("config.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    }
    // Neither may be read.
    fs::set_permissions(world.path("state/status.json"), fs::Permissions::from_mode(0o0)).unwrap();
    let answer = world.run(&mut nobody(), "check").exits(3);
    assert!(
        answer.out.starts_with("BACKUP UNKNOWN - cannot read the state: no permission "),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("status.json: Permission denied"), "{}", answer.out);
    world.run(&mut nobody(), "check --quiet").exits(3);
    assert_eq!(world.run(&mut nobody(), "check --json").exits(3).json()["status"], "unknown");
}

#[test]
fn a_damaged_state_is_critical_and_mailed_though_the_status_file_still_says_that_all_is_well() {
    let server = SmtpServer::plain();
    let world = World::new(&with_mail(&server));
    world.agent("backup").exits(0);
    world.sh("rm -f state/state.db-*; echo 'this is no database at all, whoever reads it' > state/state.db");
    let answer = world.agent("check --quiet --mail").exits(2);
    assert!(
        answer.out.starts_with("BACKUP CRITICAL - no run can be made: the state database "),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("is damaged"), "{}", answer.out);
    let mails = server.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
}

#[test]
fn what_the_check_finds_is_mailed_once_and_not_every_quarter_of_an_hour() {
    let server = SmtpServer::plain();
    let world = World::new(&with_mail(&server));
    world.agent("backup").exits(0);
    world.agent("check --quiet --mail").exits(0);
    assert_eq!(server.mails().len(), 0, "nothing is wrong");
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    for _ in 0..3 {
        world.agent("check --quiet --mail").exits(2);
    }
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    let mail = mails[0].parsed();
    assert!(mail["subject"].as_str().unwrap().contains("web1"), "{mail}");
    let text = mail["text"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("failed at step preflight") && text.contains("`agent --config "), "{mail}");
    // Something else is told at once.
    world.sh("rm -r local/daily");
    world.agent("check --quiet --mail").exits(2);
    assert_eq!(server.mails().len(), 2);
}

#[test]
fn a_state_that_cannot_be_used_is_mailed_past_it_and_the_answer_stays_one() {
    let server = SmtpServer::plain();
    let world = World::new(&with_mail(&server));
    world.agent("backup").exits(0);
    world.sh("rm -f state/state.db-*; head -c 100000 /dev/urandom > state/state.db; rm state/status.json");
    for _ in 0..3 {
        let check = world.agent("check --quiet --mail").exits(3);
        assert_eq!(check.out.matches("BACKUP UNKNOWN - ").count(), 1, "{}", check.out);
    }
    let mails = server.mails();
    assert_eq!(mails.len(), 1, "told once a day");
    let text = mails[0].parsed()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("state.db") && text.contains("move it"), "{text}");
}

#[test]
fn a_mail_server_that_is_away_does_not_change_the_answer() {
    let server = SmtpServer::plain();
    let config = with_mail(&server);
    drop(server);
    let world = World::new(&config);
    world.agent("backup").exits(0);
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    let check = world.agent("check --mail").exits(2);
    assert!(check.out.starts_with("BACKUP CRITICAL - web: "), "{}", check.out);
    assert!(check.err.contains("not told: "), "{}", check.err);
}

#[test]
fn what_a_cron_line_records_is_there_for_prometheus_and_whoever_asks_later() {
    let world = World::new(&format!("[metrics]\ntextfile = \"{{}}/backup.prom\"\n{}", SIMPLE.trim_start()));
    // Sections come after the keys of the host.
    let config = world.read("config.toml");
    let (metrics, rest) = config.split_at(config.find("timezone").unwrap());
    world.write("config.toml", &format!("{rest}{metrics}"));
    world.agent("backup").exits(0);
    let checked = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("backup_health_last_check_timestamp_seconds "));
        line.map(|line| line.split(' ').nth(1).unwrap().parse::<f64>().unwrap())
    };
    assert_eq!(checked(&world.read("backup.prom")), None, "nobody has looked yet");
    // A check that is not asked to writes nothing, and one job's is that of the whole host.
    world.agent("check").exits(0);
    assert_eq!(checked(&world.agent("metrics").out), None);
    world.agent("check web --quiet --record").exits(0);
    let first = checked(&world.read("backup.prom")).unwrap();
    assert_eq!(checked(&world.agent("metrics").out), Some(first));
    assert!(
        world.read("backup.prom").contains("backup_health_status{backup_job=\"web\",check=\"overdue\"} 0")
    );
    assert!(world.read("state/status.json").contains("\"duplicate-trigger\""));
    world.sh("mv data elsewhere");
    world.agent("backup").exits(1);
    world.agent("check --quiet --record").exits(2);
    assert!(checked(&world.read("backup.prom")).unwrap() >= first);
    assert!(
        world
            .read("backup.prom")
            .contains("backup_health_status{backup_job=\"web\",check=\"last-outcome\"} 2")
    );
    // Who may not write is told so, and answered all the same.
    if rustix::process::geteuid().is_root() {
        let mut nobody = world.as_nobody();
        let said = world.run(nobody.args(["--config", "config.toml"]), "check --record").exits(2);
        assert!(said.err.contains("the answers were not written down: "), "{}", said.err);
    }
}

#[test]
fn a_target_that_is_away_is_told_as_that_and_not_as_a_lost_backup() {
    let world = World::new(SIMPLE);
    world.agent("backup").exits(0);
    world.sh("mv local away");
    let check = world.agent("check").exits(2);
    assert!(check.out.contains("CRITICAL targets: target local cannot be used: "), "{}", check.out);
    assert!(!check.out.contains(" web files: "), "{}", check.out);
    world.sh("mv away local");
    world.agent("check").exits(0);
}

#[test]
fn a_limit_of_the_host_or_of_the_job_moves_the_answer() {
    let world = World::new(SIMPLE);
    for _ in 0..3 {
        world.agent("backup").exits(0);
    }
    let held = world.sh("flock state/locks/web.lock $AGENT --config config.toml backup web || echo held");
    assert!(held.contains("held"));
    world.agent("check").exits(0);
    let config = world.read("config.toml");
    world.write("config.toml", &format!("{config}[health]\nmax_contention = 0\n"));
    world.agent("check").exits(1).says(&["WARNING web contention: 1 run in a day found the lock held"]);
    world.write(
        "config.toml",
        &format!("{config}[health]\nmax_contention = 0\n[job.web.health]\nmax_contention = 1\n"),
    );
    world.agent("check").exits(0);
}
