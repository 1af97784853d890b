//! What breaks, one thing a host. Each is a row of the table in docs/metrics.md, "Who tells what".

use std::fs;

use rustix::process::Signal;

use crate::host::Host;
use crate::smtp::Manners;
use crate::watch::Watch;

/// The host's name, what is shown, and how.
pub type Scenario = (&'static str, &'static str, fn(&Watch, &Host));

pub const ALL: &[Scenario] = &[
    ("mailed-host", "a failure that was mailed is not told again as overdue", mailed),
    (
        "silent-host",
        "a failure nobody could be mailed goes by the other relay; the late mail says so",
        unmailed,
    ),
    ("dead-host", "a killed agent is told, and an overdue backup stays overdue meanwhile", killed),
    ("stuck-host", "a scheduler that stands still is told, and so is the backup it misses", stuck),
    ("after-host", "a scheduler that dies after a mailed failure is not hidden by it", after_failure),
    ("locked-host", "a lock that is held for ever is told, then the missing backup", locked),
    ("slow-host", "a backup that is overdue after downtime, and takes its time, is told", downtime),
    ("copies-host", "a copy that is not made is told once by the agent, and later by its age", copies),
    ("shrunk-host", "a backup that holds much less than before is told", shrunk),
    ("quiet-host", "paused and removed jobs are not told", quiet),
];

const TARGETS: &str = "targets = [\"local\"]\n";

fn mailed(watch: &Watch, host: &Host) {
    host.configure(TARGETS, "");
    host.is_overdue();
    host.break_source();
    host.start("");
    host.agent_tells(watch, "failure");
    host.until_fires(watch, "BackupFailureMailed");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    // A restart of the agent changes nothing.
    host.kill();
    host.start("");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.mend_source();
    host.run(&["backup", "web"], 0);
    host.agent_tells(watch, "recovery");
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn unmailed(watch: &Watch, host: &Host) {
    host.configure(TARGETS, "");
    host.run(&["backup", "web"], 0);
    host.start("");
    host.smtp.refuse_all(Manners::Refuse("MAIL", 451, "4.3.0 come back later"));
    host.break_source();
    host.run(&["backup", "web"], 1);
    host.hours_pass(1);
    host.watch_tells(watch, &["other way: web: failed unmailed", "notifier failing"]);
    host.until_kept_quiet(watch, "BackupNotificationsPending");
    // It gets overdue: by the same failure.
    host.hours_pass(19);
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    // The server takes mail again.
    host.smtp.accept_all();
    host.hours_pass(1);
    host.agent_tells(watch, "failure");
    let mail = host.smtp.mails()[0].parsed()["text"].as_str().unwrap().to_owned();
    let mail = mail.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["NOTE: This message is 21 h late", "4.3.0 come back later"] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    host.watch_tells(watch, &["good again: notifier failing"]);
    host.until(watch, "the end of BackupFailedUnmailed", || !watch.fires(host.name, "BackupFailedUnmailed"));
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.mend_source();
    host.run(&["backup", "web"], 0);
    host.agent_tells(watch, "recovery");
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn killed(watch: &Watch, host: &Host) {
    // Cron makes the backups of this host, and does not.
    host.configure(&format!("{TARGETS}trigger = \"external\"\n"), "");
    host.is_overdue();
    host.start("");
    host.watch_tells(watch, &["web: overdue"]);
    host.kill();
    host.watch_tells(watch, &["agent down"]);
    host.until_fires(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.start("");
    host.watch_tells(watch, &["good again: agent down"]);
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn stuck(watch: &Watch, host: &Host) {
    host.configure(TARGETS, "");
    // There was a daemon before.
    host.start("");
    host.until(watch, "a scrape", || {
        !watch.prometheus.query(&format!("up{{instance='{}'}} == 1", host.name)).is_empty()
    });
    host.kill();
    host.is_overdue();
    host.start("turn=pause");
    host.watch_tells(watch, &["scheduler stuck", "web: overdue"]);
    host.stays_quiet(watch);
    host.go_on();
    host.watch_tells(watch, &["good again: scheduler stuck", "good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn after_failure(watch: &Watch, host: &Host) {
    host.configure(TARGETS, "");
    host.is_overdue();
    host.break_source();
    // At "03:00" a run fails and is told. Then the scheduler stands still.
    host.start("turn#2=pause");
    host.agent_tells(watch, "failure");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.mend_source();
    host.hours_pass(9);
    host.scheduler_stood_for(9);
    host.watch_tells(watch, &["scheduler stuck", "web: overdue"]);
    host.stays_quiet(watch);
    host.go_on();
    host.agent_tells(watch, "recovery");
    host.watch_tells(watch, &["good again: scheduler stuck", "good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn locked(watch: &Watch, host: &Host) {
    host.configure(&format!("{TARGETS}lock_file = \"{{root}}/backup.lock\"\n"), "");
    host.is_overdue();
    let lock = Lock::hold(host);
    host.start("");
    host.watch_tells(watch, &["web: lock contended", "web: overdue"]);
    drop(lock);
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: lock contended", "good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

/// Another program that holds the lock, as a legacy script would.
struct Lock(std::process::Child);

impl Lock {
    fn hold(host: &Host) -> Self {
        let ready = host.path("locked");
        let script = format!("touch {}; exec sleep 600", ready.display());
        let child = std::process::Command::new("flock")
            .args(["-n", "--no-fork"])
            .arg(host.path("backup.lock"))
            .args(["sh", "-c", &script])
            .spawn()
            .unwrap();
        let lock = Self(child);
        crate::commands::wait_for("the lock", || ready.exists());
        lock
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn downtime(watch: &Watch, host: &Host) {
    let slow = r#"
[job.web.source.dump]
type = "command"
command = ["sh", "-c", "while [ -e {root}/slow ]; do sleep 0.1; done; echo done"]
"#;
    host.configure(TARGETS, slow);
    host.is_overdue();
    fs::write(host.path("slow"), "").unwrap();
    host.start("");
    host.watch_tells(watch, &["web: overdue"]);
    host.stays_quiet(watch);
    fs::remove_file(host.path("slow")).unwrap();
    host.watch_tells(watch, &["good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn copies(watch: &Watch, host: &Host) {
    let nas =
        "[target.nas]\ntype = \"directory\"\npath = \"{root}/nas\"\ntemplate = \"{job}/%Y%m%dT%H%M%S\"\n";
    host.configure("targets = [\"local\", \"nas\"]\ncopy_wait = \"1s\"\n", nas);
    fs::remove_dir(host.path("nas")).unwrap();
    host.start("");
    host.run(&["backup", "web"], 4);
    host.agent_tells(watch, "degraded");
    host.stays_quiet(watch);
    fs::create_dir(host.path("nas")).unwrap();
    host.hours_pass(1);
    host.signal(Signal::HUP);
    host.agent_tells(watch, "recovery");
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn shrunk(watch: &Watch, host: &Host) {
    host.configure(TARGETS, "");
    host.run(&["backup", "web"], 0);
    host.start("");
    let text = |number: i32| host.path(&format!("src/{number}.txt"));
    (1..20).for_each(|number| fs::rename(text(number), host.path(&format!("{number}.txt"))).unwrap());
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["web: shrank"]);
    host.stays_quiet(watch);
    (1..20).for_each(|number| fs::rename(host.path(&format!("{number}.txt")), text(number)).unwrap());
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: shrank"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn quiet(watch: &Watch, host: &Host) {
    let job = |name: &str| {
        format!(
            "[job.{name}]\nschedule = \"{{schedule}}\"\ntrigger = \"external\"\ntargets = [\"local\"]\n\
             [job.{name}.source.files]\ntype = \"files\"\npaths = [\"{{root}}/src\"]\n"
        )
    };
    let lines = format!("{TARGETS}trigger = \"external\"\n");
    host.configure(&lines, &[job("paused"), job("removed")].concat());
    host.run(&["backup", "--all"], 0);
    host.run(&["pause", "paused", "--until", "30d"], 0);
    host.start("");
    let known = |job: &str| {
        let query = format!("backup_job_info{{instance='{}',backup_job='{job}'}}", host.name);
        !watch.prometheus.query(&query).is_empty()
    };
    host.until(watch, "all jobs", || known("paused") && known("removed"));
    host.configure(&lines, &job("paused"));
    host.signal(Signal::HUP);
    host.until(watch, "the reload", || known("paused") && !known("removed"));
    // All three would be overdue now; the one that is neither paused nor removed is.
    host.hours_pass(26);
    host.watch_tells(watch, &["web: overdue"]);
    host.stays_quiet(watch);
    let mail = watch.mails(host.name)[0].text();
    assert!(!mail.contains("paused") && !mail.contains("removed"), "{mail}");
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}
