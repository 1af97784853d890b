//! docs/replace-a-backup-script.md as its reader follows it: the page's own configuration and commands, with paths
//! below a folder of the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::smtp::SmtpServer;
use crate::world::{Guard, World, until};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/replace-a-backup-script.md");

/// What the page names and a test may not touch.
const PLACES: [&str; 4] = ["/var/", "/tmp/", "/usr/local/", "/etc/"];

struct Page {
    text: String,
    root: String,
}

impl Page {
    fn moved(&self, text: &str) -> String {
        // All at once: the folder of the test may lie below one of them.
        let mut moved = text.to_owned();
        for (at, place) in PLACES.iter().enumerate() {
            moved = moved.replace(place, &format!("\0{at}\0"));
        }
        for (at, place) in PLACES.iter().enumerate() {
            moved = moved.replace(&format!("\0{at}\0"), &format!("{}{place}", self.root));
        }
        moved
    }

    fn configuration(&self) -> String {
        let (_, rest) = self.text.split_once("```toml\n").unwrap();
        self.moved(rest.split_once("```").unwrap().0)
    }

    /// The lines of code below a heading.
    fn step(&self, heading: &str) -> Vec<String> {
        let (_, rest) =
            self.text.split_once(&format!("\n## {heading}")).unwrap_or_else(|| panic!("{heading}"));
        let section = rest.split("\n## ").next().unwrap();
        let lines: Vec<String> = section
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .map(|line| self.moved(line))
            .collect();
        assert!(!lines.is_empty(), "{heading} has no commands");
        lines
    }
}

/// Runs commands of a step, but for those that `skip` names; each exits as its comment says. Gives what they print.
fn follow(world: &World, lines: &[String], skip: &[&str]) -> String {
    for part in skip {
        assert!(lines.iter().any(|line| line.contains(part)), "no line has {part}");
    }
    let mut script = "set +e\nagent() { \"$AGENT\" --config config.toml \"$@\"; }\n".to_owned();
    for line in lines.iter().filter(|line| !skip.iter().any(|part| line.contains(part))) {
        let (command, comment) = line.split_once(" #").unwrap_or((line, ""));
        script.push_str(&format!("echo '$ {}'\n{command}\n", command.trim()));
        if !command.trim_end().ends_with('&') {
            let expected = comment
                .split_once("exits with ")
                .map_or("0", |(_, rest)| rest.split([':', ',']).next().unwrap());
            script.push_str(&format!(
                "code=$?; [ $code = {expected} ] || {{ echo \"exit $code, not {expected}\"; exit 1; }}\n"
            ));
        }
    }
    let ran = world.run(&mut world.shell(&script), "");
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    ran.out + &ran.err
}

#[test]
fn who_follows_the_page_ends_with_an_agent_that_replaced_the_script() {
    let server = SmtpServer::plain();
    let world = World::empty();
    let page = Page { text: fs::read_to_string(PAGE).unwrap(), root: world.root() };

    // A host with the script, started by two lines of cron.
    world.write("var/www/api-gateway/index.php", "<?php\n");
    world.write("var/www/api-gateway/node_modules/x.js", "x\n");
    world.write("etc/hosts", "127.0.0.1 localhost\n");
    world.write("etc/crontab", "0 3,11,19 * * * root /usr/local/bin/backup-run.sh\n");
    world.write("etc/cron.d/backup", "0 3,11,19 * * * root /usr/local/bin/backup-run.sh\n");
    world.sh("mkdir -p var/lock var/backups/askproai/daily/2025/11/04/1900 tmp
              tar -czf var/backups/askproai/daily/2025/11/04/1900/application.tar.gz --exclude=node_modules \"$PWD/var/www\"
              touch -d 2025-11-04T19:05:00Z var/backups/askproai/daily/2025/11/04/1900/application.tar.gz");

    // Its database has a test of its own; and nothing of this host is touched.
    let config = page.configuration();
    let (before, rest) = config.split_once("[job.askproai.source.database]").unwrap();
    let (_, after) = rest.split_once("[job.askproai.source.system-state]").unwrap();
    let config = format!("{before}[job.askproai.source.system-state]{after}")
        .replace("type = \"system\"", &format!("type = \"system\"\npaths = [\"{}/etc/hosts\"]", world.root()))
        .replace("smtp://127.0.0.1:25", &server.url());
    world.write(
        "config.toml",
        &format!("state_dir = \"{}/state\"\nlisten = \"127.0.0.1:0\"\n{config}", world.root()),
    );

    let step = page.step("2. ");
    let said = follow(&world, &step, &["agent doctor"]);
    assert!(said.contains("the configuration is good") && !said.contains("warning:"), "{said}");
    let doctor = world.agent("doctor --root .").out;
    for part in ["[duplicate-trigger]", "/etc/crontab:1", "/etc/cron.d/backup:1"] {
        assert!(doctor.contains(part), "{part}: {doctor}");
    }
    assert!(!doctor.contains("[config-warning]"), "{doctor}");
    fs::remove_file(world.path("etc/crontab")).unwrap();

    follow(&world, &page.step("3. "), &["backup-run.sh"]);
    let brought = follow(&world, &page.step("4. "), &["50 3,11,19"]);
    let list = world.agent("list").exits(0).out;
    assert!(list.contains("imported"), "{brought}\n{list}");

    let step = page.step("5. ");
    let services = ["deploy/", "systemctl daemon-reload", "systemctl enable"];
    assert!(step.iter().any(|line| line.contains("systemctl enable --now backup-agent")), "{step:?}");
    let mut daemon = world.program();
    daemon.args(["--config", "config.toml", "run"]).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = daemon.spawn().unwrap();
    let daemon = Guard(daemon);
    until("the daemon", || world.agent("check").out.contains("the scheduler turned"));
    // Cron of this host does not start the script.
    let step: Vec<String> =
        step.iter().map(|line| line.replace("exits with 1: the script still runs", "")).collect();
    follow(&world, &step, &services);
    drop(daemon);
    let subjects: Vec<String> =
        server.mails().iter().map(|mail| mail.parsed()["subject"].as_str().unwrap().to_owned()).collect();
    for kind in ["[backup-test]", "[backup-failure] askproai", "[backup-recovery] askproai"] {
        assert!(subjects.iter().any(|subject| subject.starts_with(kind)), "{kind}: {subjects:?}");
    }
    let mode = fs::metadata(world.path("var/backups/agent")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
