//! What breaks, one thing a host. Each is a row of the table in docs/metrics.md, "Who tells what".

use std::fs;
use std::process::{Child, Command};

use rustix::process::Signal;

use crate::commands::wait_for;
use crate::host::Host;
use crate::smtp::Manners;
use crate::watch::Watch;

/// One host and its day.
pub struct Scenario {
    /// The host's name. None is part of another.
    pub host: &'static str,
    /// What is shown.
    pub what: &'static str,
    /// Up to a running agent; then Prometheus begins to watch.
    pub before: fn(&Host),
    /// What happens then, and what must be told.
    pub day: fn(&Watch, &Host),
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.host)
    }
}

pub const ALL: &[Scenario] = &[
    Scenario {
        host: "mailed-host",
        what: "a failure that was mailed is not told again as overdue, not even when the agent restarts",
        before: a_failure_is_mailed,
        day: a_mailed_failure,
    },
    Scenario {
        host: "lost-host",
        what: "an agent that dies after it mailed a failure is told, and then the missing backup",
        before: a_failure_is_mailed,
        day: a_mailed_failure_and_a_dead_agent,
    },
    Scenario {
        host: "late-host",
        what: "a scheduler that dies after a mailed failure is told, and so is the missing backup",
        before: a_failure_is_mailed_and_the_scheduler_stops,
        day: a_mailed_failure_and_a_dead_scheduler,
    },
    Scenario {
        host: "silent-host",
        what: "a failure that cannot be mailed goes by the other relay; the late mail says that it is late",
        before: a_good_backup,
        day: a_failure_that_is_not_mailed,
    },
    Scenario {
        host: "dead-host",
        what: "a killed agent is told, once, and an overdue backup stays overdue meanwhile",
        before: nobody_makes_backups,
        day: a_killed_agent,
    },
    Scenario {
        host: "stuck-host",
        what: "a scheduler that stands still is told, and so is the backup it does not make",
        before: the_scheduler_stops_at_its_first_turn,
        day: a_scheduler_that_stands_still,
    },
    Scenario {
        host: "locked-host",
        what: "a lock that is held for ever is told, then the missing backup",
        before: somebody_holds_the_lock,
        day: a_lock_that_is_held,
    },
    Scenario {
        host: "slow-host",
        what: "a backup that is overdue after downtime and takes its time is told",
        before: a_slow_backup_after_downtime,
        day: an_overdue_backup_after_downtime,
    },
    Scenario {
        host: "copies-host",
        what: "a copy that fails is told at once by the agent, and after hours as pending",
        before: a_copy_that_fails,
        day: a_copy_that_waits,
    },
    Scenario {
        host: "nas-host",
        what: "a target that is away is told, and not the copies that wait for it as well",
        before: a_target_that_is_away,
        day: a_target_that_stays_away,
    },
    Scenario {
        host: "small-host",
        what: "a backup that holds much less than before is told, and its end",
        before: a_good_backup,
        day: a_backup_that_shrank,
    },
    Scenario {
        host: "quiet-host",
        what: "jobs that are paused or removed are not overdue; the one beside them is",
        before: three_jobs,
        day: paused_and_removed_jobs,
    },
];

const TARGETS: &str = "targets = [\"local\"]\n";
/// Cron makes the backups, or does not: the daemon never starts one.
const BY_CRON: &str = "targets = [\"local\"]\ntrigger = \"external\"\n";

fn a_good_backup(host: &Host) {
    host.configure(TARGETS, "");
    host.run(&["backup", "web"], 0);
    host.start("");
}

/// The last good backup is a day old, and the one that makes up for it fails.
fn a_failure_is_mailed(host: &Host) {
    host.configure(TARGETS, "");
    host.is_overdue();
    host.break_source();
    host.start("");
}

fn a_mailed_failure(watch: &Watch, host: &Host) {
    host.agent_tells(watch, "failure");
    host.until_fires(watch, "BackupFailureMailed");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.kill();
    host.stays_away_for_a_scrape(watch);
    host.start("");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.mend_source();
    host.run(&["backup", "web"], 0);
    host.agent_tells(watch, "recovery");
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn a_mailed_failure_and_a_dead_agent(watch: &Watch, host: &Host) {
    host.agent_tells(watch, "failure");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.kill();
    host.watch_tells(watch, &["agent down", "web: overdue"]);
    host.stays_quiet(watch);
}

fn a_failure_is_mailed_and_the_scheduler_stops(host: &Host) {
    host.configure(TARGETS, "");
    host.is_overdue();
    host.break_source();
    // Its first turn starts the run, which fails.
    host.start("turn#2=pause");
}

fn a_mailed_failure_and_a_dead_scheduler(watch: &Watch, host: &Host) {
    host.agent_tells(watch, "failure");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.mend_source();
    // That was at 03:00; it is noon now. The daemon lives, and would send reminders.
    host.hours_pass(9);
    host.scheduler_stood_for(9);
    host.watch_tells(watch, &["scheduler stuck", "web: overdue"]);
    host.stays_quiet(watch);
    // Somebody makes a backup, and then finds out about the daemon.
    host.run(&["backup", "web"], 0);
    host.both_tell(watch, &["recovery"], &["good again: web: overdue"]);
    host.go_on();
    host.watch_tells(watch, &["good again: scheduler stuck"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn a_failure_that_is_not_mailed(watch: &Watch, host: &Host) {
    host.smtp.refuse_all(Manners::Refuse("MAIL", 451, "4.3.0 come back later"));
    host.break_source();
    host.run(&["backup", "web"], 1);
    host.hours_pass(1);
    host.watch_tells(watch, &["other way: web: failed unmailed", "notifier failing"]);
    host.until_kept_quiet(watch, "BackupNotificationsPending");
    // It gets overdue, by the same failure.
    host.hours_pass(19);
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    // The server takes mail again.
    host.smtp.accept_all();
    host.hours_pass(1);
    host.both_tell(watch, &["failure"], &["good again: notifier failing"]);
    let mail = host.smtp.mails()[0].parsed()["text"].as_str().unwrap().to_owned();
    let mail = mail.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["NOTE: This message is 21 h late", "4.3.0 come back later"] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    host.until_over(watch, "BackupFailedUnmailed");
    host.until_kept_quiet(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.mend_source();
    host.run(&["backup", "web"], 0);
    host.agent_tells(watch, "recovery");
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn nobody_makes_backups(host: &Host) {
    host.configure(BY_CRON, "");
    host.is_overdue();
    host.start("");
}

fn a_killed_agent(watch: &Watch, host: &Host) {
    host.watch_tells(watch, &["web: overdue"]);
    host.kill();
    host.watch_tells(watch, &["agent down"]);
    host.until_fires(watch, "BackupOverdue");
    host.stays_quiet(watch);
    host.start("");
    host.watch_tells(watch, &["good again: agent down"]);
    host.until_fires(watch, "BackupOverdue");
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn the_scheduler_stops_at_its_first_turn(host: &Host) {
    host.configure(TARGETS, "");
    host.is_overdue();
    host.scheduler_stood_for(26);
    host.start("turn=pause");
}

fn a_scheduler_that_stands_still(watch: &Watch, host: &Host) {
    host.watch_tells(watch, &["scheduler stuck", "web: overdue"]);
    host.stays_quiet(watch);
    // It turns again, and makes up for the missing backup by itself.
    host.go_on();
    host.watch_tells(watch, &["good again: scheduler stuck", "good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn somebody_holds_the_lock(host: &Host) {
    host.configure(&format!("{BY_CRON}lock_file = \"{{root}}/backup.lock\"\n"), "");
    host.run(&["backup", "web"], 0);
    host.start("");
}

fn a_lock_that_is_held(watch: &Watch, host: &Host) {
    let lock = Lock::hold(host);
    host.run(&["backup", "web"], 75);
    host.watch_tells(watch, &["web: lock contended"]);
    host.stays_quiet(watch);
    host.hours_pass(20);
    host.watch_tells(watch, &["web: overdue"]);
    drop(lock);
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: lock contended", "good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

/// Another program that holds the lock, as a legacy script would.
struct Lock(Child);

impl Lock {
    fn hold(host: &Host) -> Self {
        let ready = host.path("held");
        let script = format!("touch {}; exec sleep 3000", ready.display());
        let mut command = Command::new("flock");
        command.args(["-n", "--no-fork"]).arg(host.path("backup.lock")).args(["sh", "-c", &script]);
        let lock = Self(command.spawn().unwrap());
        wait_for("the lock", || ready.exists());
        lock
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_slow_backup_after_downtime(host: &Host) {
    let slow = r#"
[job.web.source.dump]
type = "command"
command = ["sh", "-c", "while [ -e {root}/slow ]; do sleep 0.1; done; echo done"]
"#;
    host.configure(TARGETS, slow);
    host.is_overdue();
    fs::write(host.path("slow"), "").unwrap();
    host.start("");
}

fn an_overdue_backup_after_downtime(watch: &Watch, host: &Host) {
    host.watch_tells(watch, &["web: overdue"]);
    host.stays_quiet(watch);
    fs::remove_file(host.path("slow")).unwrap();
    host.watch_tells(watch, &["good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn two_targets(host: &Host) {
    let nas =
        "[target.nas]\ntype = \"directory\"\npath = \"{root}/nas\"\ntemplate = \"{job}/%Y%m%dT%H%M%S\"\n";
    host.configure("targets = [\"local\", \"nas\"]\ncopy_wait = \"1s\"\n", nas);
}

fn a_copy_that_fails(host: &Host) {
    two_targets(host);
    // The target can be used, only not for this job.
    fs::write(host.path("nas/web"), "").unwrap();
    host.run(&["backup", "web"], 4);
    host.start("");
}

fn a_copy_that_waits(watch: &Watch, host: &Host) {
    host.agent_tells(watch, "degraded");
    host.watch_tells(watch, &["web: copies pending"]);
    host.stays_quiet(watch);
    fs::remove_file(host.path("nas/web")).unwrap();
    host.hours_pass(1);
    host.signal(Signal::HUP);
    host.both_tell(watch, &["recovery"], &["good again: web: copies pending"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn a_target_that_is_away(host: &Host) {
    two_targets(host);
    fs::remove_dir(host.path("nas")).unwrap();
    host.run(&["backup", "web"], 4);
    host.start("");
}

fn a_target_that_stays_away(watch: &Watch, host: &Host) {
    host.agent_tells(watch, "degraded");
    host.watch_tells(watch, &["target down"]);
    host.until_kept_quiet(watch, "BackupCopiesPending");
    host.stays_quiet(watch);
    // It is back, and gets its copies at once.
    fs::create_dir(host.path("nas")).unwrap();
    host.both_tell(watch, &["recovery"], &["good again: target down"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn a_backup_that_shrank(watch: &Watch, host: &Host) {
    let files = |from: &str, to: &str| {
        for number in 1..20 {
            let name = format!("{number}.txt");
            fs::rename(host.path(from).join(&name), host.path(to).join(&name)).unwrap();
        }
    };
    files("src", "");
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["web: shrank"]);
    host.stays_quiet(watch);
    files("", "src");
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: shrank"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}

fn by_cron(job: &str) -> String {
    format!(
        "[job.{job}]\nschedule = \"{{schedule}}\"\n{BY_CRON}\
         [job.{job}.source.files]\ntype = \"files\"\npaths = [\"{{root}}/src\"]\n"
    )
}

fn three_jobs(host: &Host) {
    host.configure(BY_CRON, &[by_cron("paused"), by_cron("removed")].concat());
    host.run(&["backup", "--all"], 0);
    host.run(&["pause", "paused", "--until", "30d"], 0);
    host.start("");
}

fn paused_and_removed_jobs(watch: &Watch, host: &Host) {
    let known = |job: &str| {
        let query = format!("backup_job_info{{instance='{}',backup_job='{job}'}}", host.name);
        !watch.prometheus.query(&query).is_empty()
    };
    host.until(watch, "all jobs", || known("paused") && known("removed"));
    host.configure(BY_CRON, &by_cron("paused"));
    host.signal(Signal::HUP);
    host.until(watch, "the reload", || known("paused") && !known("removed"));
    // All three would be overdue now.
    host.hours_pass(26);
    host.watch_tells(watch, &["web: overdue"]);
    host.stays_quiet(watch);
    host.run(&["backup", "web"], 0);
    host.watch_tells(watch, &["good again: web: overdue"]);
    host.until_all_is_over(watch);
    host.stays_quiet(watch);
}
