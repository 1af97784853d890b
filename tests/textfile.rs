//! A host with cron alone: runs, checks and what waits are started by cron lines, and metrics go through the
//! text file of a real node_exporter to a real Prometheus.
#![cfg(feature = "real-peers")]

#[path = "support/prometheus_once.rs"]
mod prometheus;
#[path = "support/world.rs"]
mod world;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use prometheus::{ask, start_node_exporter, start_prometheus};
use world::{Setup, World, output, wait_for};

const EXTERNAL: &str = "trigger = \"external\"\n";

/// A world without a daemon, with a text file and log files.
fn cron_only() -> World {
    let more = "[metrics]\ntextfile = \"{root}/textfiles/backup-agent.prom\"\n\
                [log]\nrun_file = \"{root}/run.log\"\nhealth_file = \"{root}/health.log\"\n"
        .to_owned();
    let world = World::with(Setup { nas: true, job: EXTERNAL, more, ..Setup::default() });
    fs::create_dir(world.path("textfiles")).unwrap();
    world
}

fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// The value of a metric in the text file.
#[track_caller]
fn value(world: &World, name: &str) -> f64 {
    let text = fs::read_to_string(world.path("textfiles/backup-agent.prom")).unwrap();
    world.metric_in(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// The text file is replaced by a call of the agent.
#[track_caller]
fn writes(world: &World, args: &[&str], code: i32) {
    let path = world.path("textfiles/backup-agent.prom");
    let _ = fs::remove_file(&path);
    world.run(args).expect(code);
    assert!(path.exists(), "{args:?} did not write the text file");
}

#[test]
fn each_verb_that_changes_something_writes_the_text_file_whole_and_readable_by_all() {
    let world = cron_only();
    let file = world.path("textfiles/backup-agent.prom");
    for args in [
        &["backup", "web"][..],
        &["check", "--record"],
        &["tend"],
        &["verify", "latest"],
        &["pause", "web", "--until", "2h"],
        &["resume", "web"],
        &["ack", "web"],
        &["prune"],
    ] {
        writes(&world, args, 0);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644, "{args:?}");
    }
    let names: Vec<_> =
        fs::read_dir(world.path("textfiles")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["backup-agent.prom"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("process_"), "of a process that is gone");
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]).stdin(fs::File::open(&file).unwrap());
    let lint = output(lint);
    assert_eq!((lint.code, lint.stderr.as_str()), (0, ""), "{}", lint.stdout);
}

#[test]
fn a_host_with_cron_alone_is_watched_through_node_exporter_and_told_of_by_mail() {
    let world = cron_only();
    let folder = world.path("textfiles");
    fs::write(
        folder.join("other.prom"),
        "# HELP other_info Of another program.\n# TYPE other_info gauge\nother_info 1\n",
    )
    .unwrap();
    let (_exporter, address) = start_node_exporter(&folder);
    let (_prometheus, prometheus) = start_prometheus(world.root(), "node", address);
    let asks = |query: &str, good: &dyn Fn(f64) -> bool| prometheus::wait_for(prometheus, query, good);

    // The lines of deploy/cron.d/backup-agent, in the order in which cron might start them.
    writes(&world, &["backup", "web"], 0);
    writes(&world, &["check", "--quiet", "--mail", "--record"], 0);
    writes(&world, &["tend"], 0);
    assert_eq!(world.mails(), Vec::<String>::new(), "nobody needs to hear that all is well");

    wait_for("node_exporter", || get(address).is_some_and(|text| text.contains("backup_build_info")));
    let text = get(address).unwrap();
    assert_eq!(world.metric_in(&text, "node_textfile_scrape_error"), None);
    assert!(text.contains("node_textfile_scrape_error 0\n") && text.contains("other_info 1\n"), "{text}");
    assert!(text.contains("# HELP backup_last_success_timestamp_seconds "), "{text}");
    asks("backup_last_run_success{backup_job='web'}", &|good| good == 1.0);
    asks("backup_target_up{target='nas'}", &|up| up == 1.0);
    asks("time() - backup_health_last_check_timestamp_seconds", &|age| (-2.0..300.0).contains(&age));
    asks("time() - backup_copy_last_success_timestamp_seconds{target='nas'}", &|age| {
        (-2.0..300.0).contains(&age)
    });
    assert_eq!(ask(prometheus, "backup_health_status > 0"), None, "all checks are content without a daemon");

    // A failure is told by the run; metrics and check say the same.
    fs::rename(world.path("src"), world.path("away")).unwrap();
    writes(&world, &["backup", "web"], 1);
    assert_eq!(world.mails_of("failure"), 1);
    writes(&world, &["check", "--quiet", "--record"], 2);
    asks("backup_last_run_success{backup_job='web'}", &|good| good == 0.0);
    asks("backup_health_status{backup_job='web',check='last-outcome'}", &|status| status == 2.0);
    asks("time() - backup_last_failure_mail_timestamp_seconds{backup_job='web'}", &|age| age < 300.0);

    fs::rename(world.path("away"), world.path("src")).unwrap();
    writes(&world, &["backup", "web"], 0);
    assert_eq!(world.mails_of("recovery"), 1);
    asks("backup_last_run_success{backup_job='web'}", &|good| good == 1.0);

    // A target that is away is seen by `agent tend`, which looks where no daemon does.
    fs::rename(world.path("nas"), world.path("nas-away")).unwrap();
    writes(&world, &["tend"], 0);
    asks("backup_target_up{target='nas'}", &|up| up == 0.0);
    fs::rename(world.path("nas-away"), world.path("nas")).unwrap();

    let health = fs::read_to_string(world.path("health.log")).unwrap();
    assert!(
        health.contains("INFO in order: web: ") && health.contains("check last-outcome is critical"),
        "{health}"
    );
    let runs = fs::read_to_string(world.path("run.log")).unwrap();
    assert_eq!(runs.matches("] the run begins (cron)").count(), 3, "{runs}");
}

#[test]
fn a_text_file_that_cannot_be_written_fails_nothing_and_is_told_until_it_can() {
    let world = cron_only();
    fs::remove_dir(world.path("textfiles")).unwrap();
    let out = world.run(&["backup", "web"]).expect(0);
    let told = "the text file of metrics cannot be written (metrics.textfile = ";
    assert_eq!(out.stderr.matches(told).count(), 1, "{}", out.stderr);
    let out = world.run(&["tend"]).expect(0);
    assert_eq!(out.stderr.matches(told).count(), 1, "{}", out.stderr);
    let out = world.run(&["check"]).expect(1);
    assert!(out.stdout.contains(told) && out.stdout.contains("No such file or directory"), "{}", out.stdout);
    fs::create_dir(world.path("textfiles")).unwrap();
    writes(&world, &["tend"], 0);
    writes(&world, &["check", "--record"], 0);
    assert_eq!(value(&world, "backup_health_status{check=\"outputs\"}"), 0.0);
}
