//! Log lines where they end up: the journal, the log files, the state, the mails; and log files that are rotated
//! by the real logrotate, full, or not there.
#![cfg(feature = "real-peers")]

#[path = "support/world.rs"]
mod world;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use world::{Setup, World, output, system, wait_for};

/// A world with log files in a folder `log`.
fn with_files(lines: &str) -> World {
    let log = format!(
        "[log]\nrun_file = \"{{root}}/log/run.log\"\nhealth_file = \"{{root}}/log/health.log\"\n{lines}"
    );
    let world = World::with(Setup { more: log, ..Setup::default() });
    fs::create_dir(world.path("log")).unwrap();
    world
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// The daemon, ended with the test.
struct Daemon(Child);

impl Daemon {
    fn start(world: &World) -> Self {
        let mut command = world.agent(&["run"]);
        command.env("BACKUP_AGENT__LISTEN", "127.0.0.1:0").stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn end(mut self) {
        system("kill", &["-TERM", &self.0.id().to_string()]);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run of `agent backup` says to a standard error that is the stream the service manager named.
fn in_the_journal(world: &World) -> Vec<String> {
    let (mut journal, stderr) = UnixStream::pair().unwrap();
    let named = fs::File::from(stderr.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
    let mut command = world.agent(&["backup", "web"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", named.dev(), named.ino()));
    command.stdout(Stdio::null()).stderr(Stdio::from(std::os::fd::OwnedFd::from(stderr)));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut said = String::new();
    journal.read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn the_journal_gets_priorities_and_each_line_of_a_run_names_job_and_run_once() {
    let world = World::new();
    let lines = in_the_journal(&world);
    let run = world.history()[0]["run_id"].as_str().unwrap().to_owned();
    assert!(lines.len() >= 5, "{lines:?}");
    for line in &lines {
        assert!(line.starts_with(&format!("<6>[web {run}] ")), "{line}");
        assert_eq!(line.matches(&run).count(), 1, "{line}");
    }
    fs::rename(world.path("src"), world.path("away")).unwrap();
    let lines = in_the_journal(&world);
    let errors: Vec<&String> = lines.iter().filter(|line| line.starts_with("<3>[web ")).collect();
    assert!(errors.iter().any(|line| line.contains("src")), "{lines:?}");

    world.edit_config("[notify.admin]", "[log]\nformat = \"json\"\n[notify.admin]");
    for line in in_the_journal(&world) {
        let json: serde_json::Value =
            serde_json::from_str(&line[3..]).unwrap_or_else(|e| panic!("{e}: {line}"));
        let level = json["level"].as_str().unwrap();
        assert_eq!(
            &line[..3],
            if level == "ERROR" {
                "<3>"
            } else if level == "WARN" {
                "<4>"
            } else {
                "<6>"
            }
        );
        assert_eq!(json["job"], "web", "{line}");
        assert!(json["run"].is_string() && json["message"].is_string() && json["span"].is_null(), "{line}");
    }
}

#[test]
fn runs_and_health_checks_have_files_of_their_own_that_several_processes_append_to() {
    let world = with_files("");
    let runs: Vec<Child> = (0..4)
        .map(|_| {
            let mut command = world.agent(&["backup", "web", "--lock-wait", "1h"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let log = read(world.path("log/run.log"));
    let history = world.history();
    assert_eq!(history.len(), 4);
    for run in &history {
        let of_it = format!(" INFO [web {}] ", run["run_id"].as_str().unwrap());
        for text in ["the run begins (cron)", "the run ends: success"] {
            assert_eq!(log.matches(&format!("{of_it}{text}")).count(), 1, "{text}: {log}");
        }
    }
    for line in log.lines() {
        let time = &line[..line.find("  ").or_else(|| line.find(" WARN")).unwrap_or(line.len())];
        assert!(chrono::DateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%:z").is_ok(), "{line:?}");
    }
    assert_eq!(fs::metadata(world.path("log/run.log")).unwrap().permissions().mode() & 0o7777, 0o640);

    world.edit_config("schedule = \"0 3 * * *\"\n", "schedule = \"0 3 * * *\"\ntrigger = \"external\"\n");
    let out = world.run(&["check"]).expect(0);
    assert_eq!(out.stderr, "");
    let health = read(world.path("log/health.log"));
    assert!(health.lines().count() == 1 && health.contains("  INFO in order: web: "), "{health}");
    fs::rename(world.path("src"), world.path("away")).unwrap();
    world.run(&["backup", "web"]).expect(1);
    let out = world.run(&["check", "--quiet"]).expect(2);
    assert_eq!(out.stderr, "");
    let health = read(world.path("log/health.log"));
    assert!(health.contains("  WARN [web] check last-outcome is critical: "), "{health}");
    assert!(!read(world.path("log/run.log")).contains("check last-outcome"));
}

/// Rotates the files of a world by the shipped configuration; `systemctl` does what it would do.
fn rotate(world: &World, daemon: &Daemon) {
    let log = world.path("log");
    let shipped = include_str!("../deploy/logrotate")
        .replace("/var/log/backup-run.log", log.join("run.log").to_str().unwrap())
        .replace("/var/log/backup-health-check.log", log.join("health.log").to_str().unwrap());
    let shipped = match rustix::process::geteuid().is_root() {
        true => shipped,
        false => shipped.replace(" root adm", ""),
    };
    world.write("logrotate.conf", shipped);
    fs::set_permissions(world.path("logrotate.conf"), fs::Permissions::from_mode(0o644)).unwrap();
    let systemctl = format!(
        "#!/bin/sh\ncase \"$*\" in\n'--quiet is-active backup-agent.service') exit 0;;\n\
         'reload backup-agent.service') exec kill -HUP {};;\nesac\nexit 1\n",
        daemon.0.id()
    );
    world.write("bin/systemctl", systemctl);
    fs::set_permissions(world.path("bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.path("log"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}:/usr/sbin", world.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("logrotate");
    command.args(["--force", "--state"]).arg(world.path("logrotate.state")).arg(world.path("logrotate.conf"));
    let out = output({
        command.env("PATH", path);
        command
    });
    assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{}", out.stdout);
}

#[test]
fn rotated_files_lose_no_line_and_the_daemon_goes_on_in_the_new_one_even_with_a_broken_configuration() {
    let world = with_files("");
    let daemon = Daemon::start(&world);
    let current = world.path("log/run.log");
    wait_for("the daemon's first lines", || {
        fs::read_to_string(&current).is_ok_and(|log| log.contains("status page at"))
    });
    // Backups go on beside it meanwhile.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut command = Command::new(world::AGENT);
                command.arg("--config").arg(current.parent().unwrap().parent().unwrap().join("config.toml"));
                output({
                    command.args(["backup", "web"]);
                    command
                });
            }
        });
        rotate(&world, &daemon);
        wait_for("a line in the new file", || read(&current).contains("the configuration was loaded"));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(read(world.path("log/run.log.1")).contains("status page at"));
    let mode = fs::metadata(&current).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o640);

    world.edit_config("targets = [", "tragets = [");
    rotate(&world, &daemon);
    wait_for("a line in the newest file", || read(&current).contains("the configuration was refused"));
    daemon.end();
    assert!(read(&current).contains("SIGTERM: ending"), "{}", read(&current));

    system("gunzip", &[world.path("log/run.log.2.gz").to_str().unwrap()]);
    let all: String =
        ["run.log.2", "run.log.1", "run.log"].map(|name| read(world.path("log").join(name))).concat();
    world.edit_config("tragets = [", "targets = [");
    let history = world.history();
    assert!(!history.is_empty());
    for run in &history {
        let of_it = format!("[web {}] ", run["run_id"].as_str().unwrap());
        for text in ["the run begins", "the run ends"] {
            assert_eq!(all.matches(&format!("{of_it}{text}")).count(), 1, "{of_it}{text}: {all}");
        }
    }
}

/// What `agent check` says of the log files.
fn outputs(world: &World) -> String {
    let out = world.run(&["check", "--json", "--record"]).json();
    let findings = out["findings"].as_array().unwrap_or_else(|| panic!("{out}"));
    let found = findings.iter().find(|f| f["check"] == "outputs").unwrap_or_else(|| panic!("{out}"));
    format!("{}: {}", found["status"].as_str().unwrap(), found["message"].as_str().unwrap())
}

#[test]
fn a_log_file_that_cannot_be_opened_stops_no_backup_and_is_told_until_it_can() {
    let world = with_files("");
    fs::remove_dir(world.path("log")).unwrap();
    let out = world.run(&["backup", "web"]).expect(0);
    let told: Vec<&str> =
        out.stderr.lines().filter(|line| line.contains("run.log cannot be opened")).collect();
    assert_eq!(told.len(), 1, "{}", out.stderr);
    assert!(told[0].contains("ERROR") && told[0].contains("No such file or directory"), "{told:?}");
    let found = outputs(&world);
    assert!(found.starts_with("warning: the log file ") && found.contains("cannot be opened"), "{found}");
    assert_eq!(world.metric_of("backup_health_status", "check=\"outputs\""), 1.0);
    fs::create_dir(world.path("log")).unwrap();
    world.run(&["backup", "web"]).expect(0);
    assert_eq!(outputs(&world), "ok: the log files can be written");
}

/// A file system in memory, mounted as long as this lives.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_log_disk_stops_no_backup_and_is_told_until_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let world = with_files("");
    let folder = world.path("log");
    system("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder.to_str().unwrap()]);
    let mount = Mount(folder.clone());
    world.run(&["backup", "web"]).expect(0);
    let _ = fs::write(folder.join("ballast"), vec![b'x'; 1 << 20]);
    // What is left of the last page takes a few lines.
    let outs: Vec<String> = (0..6).map(|_| world.run(&["backup", "web"]).expect(0).stderr).collect();
    let told = outs.iter().filter(|err| err.contains("run.log cannot be written: No space left")).count();
    assert!(told > 0, "{outs:?}");
    assert!(outs.iter().all(|err| err.matches("cannot be written").count() <= 1), "{outs:?}");
    let found = outputs(&world);
    assert!(found.contains("cannot be written: No space left on device"), "{found}");
    fs::remove_file(folder.join("ballast")).unwrap();
    world.run(&["backup", "web"]).expect(0);
    assert_eq!(outputs(&world), "ok: the log files can be written");
    let run = world.history()[0]["run_id"].as_str().unwrap().to_owned();
    let log = read(folder.join("run.log"));
    assert!(log.lines().any(|line| line.ends_with(&format!("[web {run}] the run ends: success"))), "{log}");
    drop(mount);
}

#[test]
fn the_log_of_a_run_is_kept_shown_and_its_end_is_mailed_with_hostile_texts_made_harmless() {
    let world = with_files("");
    let hostile = "gone\\n2026-11-24 19:00:00+01:00  INFO [web x] the run ends: success\\u001b[2J";
    world.edit_config("/src\"]", &format!("/src\", \"{}/{hostile}\"]", world.root().display()));
    let out = world.run(&["backup", "web"]).expect(1);
    assert!(!out.stderr.contains('\x1b'), "{:?}", out.stderr);
    let run = world.history()[0]["run_id"].as_str().unwrap().to_owned();
    let shown = world.run(&["show", &run, "--log"]).expect(0).stdout;
    let (_, log) = shown.split_once("\nlog\n").unwrap();
    assert!(
        log.contains("INFO the run begins (cron)") && log.contains("INFO the run ends: failure"),
        "{log}"
    );
    let file = read(world.path("log/run.log"));
    for text in [log, &file] {
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(text.contains("gone\\n2026-11-24"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("2026-11-24")), "{text}");
    }
    let mails: Vec<String> = world.smtp.mails().iter().map(|mail| mail.parsed().to_string()).collect();
    assert!(mails.iter().any(|mail| mail.contains("INFO the run begins (cron)")), "{mails:?}");
    assert!(!mails.iter().any(|mail| mail.contains("\\u001b")), "{mails:?}");
}

#[test]
fn a_real_journal_has_the_priority_of_each_line_and_nothing_twice() {
    let journald = Path::new("/lib/systemd/systemd-journald");
    if !rustix::process::geteuid().is_root() || !journald.exists() {
        eprintln!("skipped: a journal of its own needs root and systemd-journald");
        return;
    }
    let world = World::new();
    fs::rename(world.path("src"), world.path("away")).unwrap();
    // In a mount namespace of its own, so that it is nobody else's journal.
    let script = format!(
        "set -e\n\
         for folder in /run/systemd /run/log; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done\n\
         mkdir -p /run/systemd/journal /run/log/journal\n\
         {} >/dev/null 2>&1 & journald=$!\n\
         trap 'kill $journald' EXIT\n\
         for n in $(seq 2000); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.05; done\n\
         systemd-cat -t agent sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) \"$@\" >/dev/null' sh \
             {} --config {} backup web || true\n\
         for n in $(seq 2000); do\n\
             journalctl -D /run/log/journal -t agent --no-pager | grep -q 'the run ends' && break; sleep 0.05\n\
         done\n\
         journalctl -D /run/log/journal -t agent --no-pager -o json\n",
        journald.display(),
        world::AGENT,
        world.path("config.toml").display()
    );
    let out = output({
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        command
    });
    let entries: Vec<serde_json::Value> =
        out.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let run = world.history()[0]["run_id"].as_str().unwrap().to_owned();
    let priority = |text: &str| {
        let message = |entry: &serde_json::Value| entry["MESSAGE"].as_str().unwrap_or_default().to_owned();
        let of_it: Vec<_> = entries.iter().filter(|entry| message(entry).contains(text)).collect();
        assert_eq!(of_it.len(), 1, "{text}: {}", out.all());
        assert!(message(of_it[0]).starts_with(&format!("[web {run}] ")), "{}", of_it[0]);
        of_it[0]["PRIORITY"].as_str().unwrap().to_owned()
    };
    assert_eq!(priority("the run begins"), "6", "{}", out.all());
    assert_eq!(priority("] preflight: component application"), "3");
    assert_eq!(priority("the run ends: failure"), "6");
}
