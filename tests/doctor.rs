//! `agent doctor` and the duplicate check, with the real program on machines in small.

#![cfg(feature = "real-peers")]

#[path = "cli/world.rs"]
mod world;

#[path = "support/port.rs"]
mod port;

#[path = "support/smtp.rs"]
mod smtp;

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use smtp::{Certificates, Security, SmtpServer};
use world::{Guard, Ran, SIMPLE, World, until};

const LINE: &str =
    "0 3,11,19 * * * root flock -n /run/x /usr/local/bin/backup-run.sh >> /var/log/backup-run.log 2>&1\n";
const OWN: &str = "0 3,11,19 * * * /usr/local/bin/backup-run.sh >> /var/log/backup-run.log 2>&1\n";

/// A configuration of which the daemon starts the job, and that knows the earlier script.
fn internal() -> String {
    format!("legacy = [\"/usr/local/bin/backup-run.sh\"]\n{}", SIMPLE.replace("trigger = \"external\"", ""))
}

/// A world with a machine in small in `root/`.
fn machine(config: &str) -> World {
    let world = World::new(config);
    world.sh("mkdir -p root/etc/cron.d root/etc/logrotate.d root/var/spool/cron/crontabs; \
              ln -s /usr/share/zoneinfo/Europe/Berlin root/etc/localtime");
    world
}

fn doctor(world: &World) -> Ran {
    world.agent("doctor --root root")
}

/// The findings of one diagnosis.
fn findings(world: &World, diagnosis: &str) -> Vec<Value> {
    let json = world.agent("doctor --root root --json").json();
    let all = json["findings"].as_array().unwrap();
    all.iter().filter(|f| f["diagnosis"] == diagnosis).cloned().collect()
}

/// The status of the only finding of a diagnosis.
#[track_caller]
fn status(world: &World, diagnosis: &str) -> String {
    let found = findings(world, diagnosis);
    assert_eq!(found.len(), 1, "{diagnosis}: {found:#?}");
    found[0]["status"].as_str().unwrap().to_owned()
}

#[test]
fn the_incident_is_told_with_every_line_its_time_and_its_end() {
    let world = machine(&internal());
    world.write("root/var/spool/cron/crontabs/root", OWN);
    fs::set_permissions(world.path("root/var/spool/cron/crontabs/root"), fs::Permissions::from_mode(0o600))
        .unwrap();
    world.write("root/etc/cron.d/backup", &format!("# the old one\n{LINE}"));
    let report = doctor(&world).exits(2);
    for text in [
        "web is started 3 times at the same moment: next ",
        "/etc/cron.d/backup:2 as root",
        "/var/spool/cron/crontabs/root:1 as root",
        "config.toml:9",
        "Keep the agent's daemon, and end the others:",
        "sed -i '2s/^/#/' /etc/cron.d/backup\n",
        "crontab -u root -l | sed '1s/^/#/' | crontab -u root -\n",
        "/var/log/backup-run.log is rotated by nobody",
    ] {
        assert!(report.out.contains(text), "{text}\n{}", report.out);
    }
    // What it advises ends it.
    world.sh("sed -i '2s/^/#/' root/etc/cron.d/backup");
    assert_eq!(status(&world, "duplicate-trigger"), "critical");
    world.sh("sed -i '1s/^/#/' root/var/spool/cron/crontabs/root");
    assert_eq!(status(&world, "duplicate-trigger"), "ok");
    assert_eq!(status(&world, "log-rotation"), "ok", "nothing writes that file any more");
}

#[test]
fn a_job_that_cron_starts_needs_exactly_one_line_that_cron_reads_at_the_times_of_its_schedule() {
    let world = machine(SIMPLE);
    assert_eq!(status(&world, "no-trigger"), "warning");
    let line = "0 3,11,19 * * * root agent backup web\n";
    world.write("root/etc/cron.d/backup.cron", line);
    assert_eq!(status(&world, "ignored-trigger"), "critical");
    assert_eq!(status(&world, "no-trigger"), "warning");
    world.sh("mv root/etc/cron.d/backup.cron root/etc/cron.d/backup");
    assert_eq!(status(&world, "duplicate-trigger"), "ok");
    for gone in ["no-trigger", "ignored-trigger", "trigger-times", "time-zone"] {
        assert!(findings(&world, gone).iter().all(|f| f["status"] == "ok"), "{gone}");
    }
    assert_eq!(status(&world, "no-tend"), "warning");
    world.write("root/etc/cron.d/tend", "*/15 * * * * root agent tend\n");
    assert_eq!(status(&world, "no-tend"), "ok");
    world.write("root/etc/cron.d/backup", "0 4,11,19 * * * root agent backup web\n");
    assert_eq!(status(&world, "trigger-times"), "warning");
    // The host moves to another zone: cron goes with it.
    world.write("root/etc/cron.d/backup", line);
    world.sh("ln -sfn /usr/share/zoneinfo/America/New_York root/etc/localtime");
    assert_eq!(status(&world, "time-zone"), "warning");
    assert_eq!(status(&world, "trigger-times"), "warning");
}

/// A job of the real at(1), for a configuration that no other test has.
struct AtJob(u32);

impl AtJob {
    fn new(world: &World) -> Self {
        let call = format!("nice agent --config {} backup web", world.path("config.toml").display());
        let said = world.sh(&format!("echo '{call}' | at -q z 'now + 2 days' 2>&1"));
        let number = said.lines().find_map(|line| line.strip_prefix("job ")?.split(' ').next()?.parse().ok());
        Self(number.unwrap_or_else(|| panic!("at said: {said}")))
    }
}

impl Drop for AtJob {
    fn drop(&mut self) {
        let _ = Command::new("atrm").arg(self.0.to_string()).status();
    }
}

#[test]
fn a_job_of_the_real_at_program_is_found_by_the_doctor_and_by_the_check() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = machine(&internal());
    world.agent("backup").exits(0);
    let config = world.path("config.toml").display().to_string();
    let run = |args: &str| world.run(world.program().args(["--config", &config]), args);
    let check = run("check");
    assert!(check.out.contains("OK web duplicate-trigger: nothing starts it twice"), "{}", check.out);
    let job = AtJob::new(&world);
    let check = run("check");
    assert!(check.out.contains("WARNING web duplicate-trigger: started by the daemon ("), "{}", check.out);
    // The same file in a machine of its own, where nothing else is.
    world.sh("mkdir -p root/var/spool/cron/atjobs; \
              cp -p $(grep -l \"$PWD/config.toml\" /var/spool/cron/atjobs/*) root/var/spool/cron/atjobs");
    let json = run("doctor --root root --json").json();
    let found =
        json["findings"].as_array().unwrap().iter().find(|f| f["diagnosis"] == "duplicate-trigger").unwrap();
    let text = found.to_string();
    assert!(
        text.contains(&format!("at job {} as root", job.0)) && text.contains(&format!("atrm {}", job.0)),
        "{text}"
    );
}

#[test]
fn mail_and_heartbeat_are_reached_with_login_and_nothing_is_sent() {
    let server = SmtpServer::plain();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, heard) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut said = Vec::new();
            let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
            let _ = stream.read_to_end(&mut said);
            if send.send(said).is_err() {
                return;
            }
        }
    });
    let channels = format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n\
         [notify.watchdog]\ntype = \"heartbeat\"\nurl = \"http://127.0.0.1:{port}/ping/hunter2\"\n",
        server.url()
    );
    let world = machine(&format!("{SIMPLE}\n{channels}"));
    let found = findings(&world, "channel");
    assert!(found.len() == 2 && found.iter().all(|f| f["status"] == "ok"), "{found:#?}");
    assert_eq!(heard.recv_timeout(Duration::from_secs(120)).unwrap(), b"", "a ping was sent");
    assert_eq!(server.mails().len(), 0, "a mail was sent");
    assert!(!doctor(&world).out.contains("hunter2"));
    // One that is away is a warning while the other is there, and critical when none is.
    drop(server);
    let found = findings(&world, "channel");
    let of = |name: &str| found.iter().find(|f| f["what"].as_str().unwrap().starts_with(name)).unwrap();
    assert_eq!((&of("admin")["status"], &of("watchdog")["status"]), (&"warning".into(), &"ok".into()));
    assert!(of("admin")["what"].as_str().unwrap().contains("Connection refused"), "{found:#?}");
}

#[test]
fn the_login_to_an_encrypted_mail_server_is_tried_and_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    for security in [Security::StartTls, Security::Tls] {
        let server = SmtpServer::start(security, Some(&certificates), Some(("backup", "hunter2")));
        let channel = format!(
            "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nuser = \"backup\"\npassword_file = \"{{}}/password\"\n\
             ca_file = \"{}\"\nfrom = \"a@example.org\"\nto = [\"b@example.org\"]\n",
            server.url(),
            certificates.authority.display()
        );
        let world = machine(&format!("{SIMPLE}\n{channel}"));
        let password = |text: &str| {
            world.write("password", text);
            fs::set_permissions(world.path("password"), fs::Permissions::from_mode(0o600)).unwrap();
        };
        password("hunter2\n");
        assert_eq!(status(&world, "channel"), "ok");
        assert!(server.transcript().iter().any(|line| line.starts_with("AUTH")), "no login was tried");
        assert!(!server.transcript().iter().any(|line| line.starts_with("MAIL")), "a message was begun");
        password("hunter3\n");
        let found = findings(&world, "channel");
        let what = found[0]["what"].as_str().unwrap();
        assert!(what.contains("refused the login (535") && !what.contains("nobody"), "{what}");
        assert!(!what.contains("hunter3"), "{what}");
        // Without the authority its certificate is nobody's.
        world.write("config.toml", &world.read("config.toml").replace("ca_file", "#ca_file"));
        let found = findings(&world, "channel");
        assert!(found[0]["what"].as_str().unwrap().contains("certificate"), "{found:#?}");
    }
}

#[test]
fn a_mail_server_that_accepts_and_is_silent_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let channel = format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"smtp://127.0.0.1:{port}\"\nfrom = \"a@example.org\"\n\
         to = [\"b@example.org\"]\ntimeout = \"1s\"\n"
    );
    let world = machine(&format!("{SIMPLE}\n{channel}"));
    let found = findings(&world, "channel");
    assert_eq!(found[0]["status"], "critical", "{found:#?}");
    drop(listener);
}

#[test]
fn targets_secrets_and_sources_that_will_fail_are_told() {
    let more = "[target.nas]\ntype = \"directory\"\npath = \"{}/nas\"\n[job.web.source.database]\ntype = \"mysql\"\n\
                socket = \"{}/no.sock\"\npassword_file = \"{}/password\"\nuser = \"backup\"\n";
    let config =
        format!("{}{more}", SIMPLE.replace("targets = [\"local\"]", "targets = [\"local\", \"nas\"]"));
    let world = machine(&config);
    world.write("password", "hunter2\n");
    fs::set_permissions(world.path("password"), fs::Permissions::from_mode(0o644)).unwrap();
    world.write("root/etc/fstab", "# x\n/dev/sda1 / ext4 defaults 0 1\n");
    let report = doctor(&world).exits(2);
    for text in [
        "password has mode 0644, so other users can read its secret",
        "[secret-file]",
        "chmod 600 ",
        "target nas cannot be used: the folder ",
        "web/database: ",
        "web/application: ready",
        "nobody is told when a backup fails",
    ] {
        assert!(report.out.contains(text), "{text}\n{}", report.out);
    }
    assert!(!report.out.contains("hunter2"), "{}", report.out);
    let nas = findings(&world, "target");
    assert!(
        nas.iter().any(|f| f["status"] == "warning") && nas.iter().any(|f| f["status"] == "ok"),
        "{nas:#?}"
    );
    // A mount point of fstab with nothing mounted is no place for a backup.
    world.write("root/etc/fstab", &format!("nas:/x {} nfs defaults 0 0\n", world.path("local").display()));
    assert_eq!(status(&world, "target-mount"), "critical");
    world.sh("mv data elsewhere");
    assert!(findings(&world, "source").iter().any(|f| f["what"].to_string().contains("data")));
}

#[test]
fn an_ordinary_user_is_told_what_could_not_be_read() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = machine(&internal());
    world.agent("backup").exits(0);
    world.write("root/var/spool/cron/crontabs/root", OWN);
    fs::set_permissions(world.path("root/var/spool/cron/crontabs"), fs::Permissions::from_mode(0o700))
        .unwrap();
    let mut nobody = world.as_nobody();
    let report = world.run(nobody.args(["--config", "config.toml"]), "doctor --root root");
    assert!(report.code == 3 || report.code == 1, "{}\n{}", report.out, report.err);
    for text in ["/var/spool/cron/crontabs", "no permission", "Ask again as root", "[unread-triggers]"] {
        assert!(report.out.contains(text), "{text}\n{}", report.out);
    }
    assert!(!report.out.contains("critical"), "{}", report.out);
}

#[test]
fn a_crontab_that_cron_does_not_take_is_a_warning_that_says_what_to_do() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = machine(SIMPLE);
    let crontab = "root/var/spool/cron/crontabs/daemon";
    world.write("root/etc/passwd", "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n");
    world.write(crontab, "0 5 * * * true\n");
    // Debian's cron says `WRONG FILE OWNER`, then `INSECURE MODE (mode 0600 expected)`, in its log.
    world.sh(&format!("chown 33 {crontab}; chmod 600 {crontab}"));
    let report = doctor(&world);
    for text in ["[refused-crontab]", "chown daemon /var/spool/cron/crontabs/daemon\n"] {
        assert!(report.out.contains(text), "{text}\n{}", report.out);
    }
    let what = findings(&world, "refused-crontab")[0]["what"].as_str().unwrap().to_owned();
    assert_eq!(
        what,
        "cron does not start what stands in /var/spool/cron/crontabs/daemon: it belongs to user 33, and neither to \
         daemon nor to root"
    );
    world.sh(&format!("chown 1 {crontab}; chmod 644 {crontab}"));
    assert_eq!(status(&world, "refused-crontab"), "warning");
    world.sh(&format!("chmod 600 {crontab}"));
    assert!(findings(&world, "refused-crontab").is_empty());
    // The line that starts the backup is told as such.
    world.write(crontab, "0 3,11,19 * * * agent backup web\n");
    world.sh(&format!("chmod 640 {crontab}"));
    assert_eq!(status(&world, "ignored-trigger"), "critical");
    assert!(findings(&world, "refused-crontab").is_empty());
}

#[test]
fn wrong_usage_and_a_missing_configuration_are_3_since_2_is_critical() {
    let world = machine(SIMPLE);
    world.agent("doctor --bogus").exits(3);
    world.bare("--config none.toml doctor").exits(3).says(&["none.toml: cannot be read"]);
    world.agent("doctor --help").exits(0).says(&["Exit codes: 0 all is well, 1 warnings"]);
}

#[test]
fn a_terminal_is_not_told_what_to_do_by_a_crontab() {
    let world = machine(&internal());
    world.write("root/etc/cron.d/backup", "0 3 * * * root backup-run.sh \u{1b}]0;owned\u{7} \u{9b}31m\n");
    let report = doctor(&world);
    assert!(report.out.contains("backup-run.sh"), "{}", report.out);
    assert!(!report.out.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{:?}", report.out);
}

#[test]
fn the_daemon_notes_who_fetches_the_metrics_and_the_doctor_says_so() {
    let port = port::free();
    let config = format!("listen = \"127.0.0.1:{port}\"\ncheck_interval = \"1s\"\n{}", internal());
    let world = machine(&config);
    let _daemon = Guard(
        world
            .program()
            .args(["--config", "config.toml", "run"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let fetch = || {
        let mut curl = Command::new("curl");
        curl.args([
            "-sf",
            "--noproxy",
            "*",
            "-A",
            "Prometheus/2.42.0",
            &format!("http://127.0.0.1:{port}/metrics"),
        ]);
        curl.output().unwrap().status.success()
    };
    until("the doctor sees a daemon", || {
        findings(&world, "not-scraped").first().is_some_and(|f| f["status"] == "warning")
    });
    until("the metrics are there", fetch);
    until("the doctor sees who asked", || {
        fetch();
        let found = findings(&world, "not-scraped");
        found[0]["status"] == "ok"
            && found[0]["what"].as_str().unwrap().starts_with("Prometheus/2.42.0 fetched")
    });
}
