//! The table of diagnoses.

use serde::Serialize;

use crate::state::HealthStatus::{self, Critical, Unknown, Warning};

/// What a diagnosis is about; reports are in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What starts backups.
    Starts,
    /// Sources and programs.
    Programs,
    /// Who may read and write what.
    Permissions,
    /// Lock files.
    Locks,
    /// Targets.
    Targets,
    /// Mail servers and addresses.
    Channels,
    /// Clock, time zone, Prometheus.
    Surroundings,
    /// Log files.
    Logs,
}

impl Group {
    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Starts => "What starts backups",
            Group::Programs => "Sources and programs",
            Group::Permissions => "Permissions",
            Group::Locks => "Locks",
            Group::Targets => "Targets",
            Group::Channels => "Mail and other channels",
            Group::Surroundings => "Clock and monitoring",
            Group::Logs => "Log files",
        }
    }
}

/// One thing that can be wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// How bad it is, unless a milder case is named.
    pub severity: HealthStatus,
    /// What is wrong then.
    pub meaning: &'static str,
    /// Why that matters.
    pub why: &'static str,
}

macro_rules! diagnoses {
    ($($constant:ident = $name:literal, $group:ident, $severity:ident, $meaning:literal, $why:literal;)*) => {
        $(pub(super) static $constant: Diagnosis = Diagnosis {
            name: $name,
            group: Group::$group,
            severity: $severity,
            meaning: $meaning,
            why: $why,
        };)*
        /// Every diagnosis, in the order of the documents.
        pub static DIAGNOSES: &[&Diagnosis] = &[$(&$constant),*];
    };
}

diagnoses! {
    DUPLICATE_TRIGGER = "duplicate-trigger", Starts, Critical,
        "more than one crontab line, timer or daemon starts a backup; a warning when never at the same moment",
        "The second one finds the lock held and fails, or there is no lock and both write. A failure that comes at every scheduled time hides the ones that matter.";
    IGNORED_TRIGGER = "ignored-trigger", Starts, Critical,
        "a line that should start a backup is in a file that cron or run-parts passes over; a warning where something else starts it",
        "It looks as if the backup were scheduled, and nothing ever starts it. Cron says so in its log only.";
    REFUSED_CRONTAB = "refused-crontab", Starts, Warning,
        "cron passes over a user's crontab because of its owner, its mode, or what kind of file it is",
        "Nothing in it is ever started, though it looks so, and though `crontab -l` shows it. Cron says so in its log only.";
    NO_TRIGGER = "no-trigger", Starts, Warning,
        "a job with `trigger = \"external\"` is started by nothing that was found",
        "The agent waits for somebody else to start it. It will be overdue, and that is told, but no backup is made.";
    TRIGGER_TIMES = "trigger-times", Starts, Warning,
        "what starts a job does so at other times than its `schedule` says",
        "When a backup is due is reckoned by `schedule`: it will be called overdue though it was made, or late though it was never meant to be.";
    NO_TEND = "no-tend", Starts, Warning,
        "jobs are started from outside, no daemon lives, and nothing runs `agent tend`",
        "Copies to a target that was away and messages that were refused wait until somebody tries them again.";
    UNREAD_TRIGGERS = "unread-triggers", Starts, Unknown,
        "places that start programs could not be looked at",
        "What stands there may start a backup a second time.";
    SOURCE = "source", Programs, Critical,
        "a source would fail before its first byte: a program is missing or older than its server, a login refused, a path away; a warning where it would only be odd",
        "A critical one ends the next run in its preflight, with the same sentence; past a warning the run goes on, and repeats it.";
    RESTORE_PROGRAMS = "restore-programs", Programs, Warning,
        "a program that restoring by hand needs is not installed",
        "Backups restore with tar and zstd alone, on a machine where they are installed.";
    SECRET_FILE = "secret-file", Permissions, Critical,
        "a file with a secret is missing, or others can read it",
        "Whoever can read it can log in. A run refuses to use it.";
    CONFIG_WARNING = "config-warning", Permissions, Warning,
        "the configuration is odd",
        "It is good, and yet probably not meant so.";
    CONFIG_OPEN = "config-open", Permissions, Warning,
        "others can change the configuration",
        "Whoever can change the configuration can run programs as the agent.";
    STATE_FOLDER = "state-folder", Permissions, Critical,
        "the state folder is missing, belongs to somebody else, or others can write to it",
        "Without its state the agent knows of no backup; with a foreign one it knows wrong things.";
    LOCK_NETWORK = "lock-network", Locks, Critical,
        "a lock file or the state lies on a network file system; a warning for a lock shared with a script",
        "flock on a share may hold for one machine only, or for nobody, and it hangs when the server does.";
    LOCK_FOLDER = "lock-folder", Locks, Critical,
        "the folder of a lock file does not exist",
        "A run that cannot make its lock does not begin.";
    TARGET = "target", Targets, Critical,
        "a target cannot be used; a warning where it only receives copies",
        "A run without its primary target fails; copies wait.";
    TARGET_MOUNT = "target-mount", Targets, Critical,
        "a target lies below a mount point where nothing is mounted",
        "Backups would fill the disk of the system, and be hidden once the share is mounted.";
    TARGET_UNGUARDED = "target-unguarded", Targets, Warning,
        "a target on a share or disk of its own has no `require_mount`",
        "While it is not mounted, backups would be written to the bare folder.";
    CHANNEL = "channel", Channels, Critical,
        "a mail server or an address cannot be reached; a warning while another channel can",
        "A failure would not be told, or late.";
    NO_CHANNEL = "no-channel", Channels, Warning,
        "nobody is told of a failure: there is no `[notify.…]`",
        "A backup that fails is seen only by those who look.";
    CLOCK_UNSYNCHRONISED = "clock-unsynchronised", Surroundings, Warning,
        "the clock is not kept in step with others",
        "Schedules, retention and certificates go by the clock.";
    CLOCK_BEHIND = "clock-behind", Surroundings, Critical,
        "the clock is behind what the state has seen",
        "Nothing is deleted while the clock cannot be trusted, and a schedule may pass over a time.";
    TIME_ZONE = "time-zone", Surroundings, Warning,
        "a job that cron starts is scheduled in another time zone than the host's",
        "Cron goes by the host's zone: the agent expects the backup at another time.";
    NOT_SCRAPED = "not-scraped", Surroundings, Warning,
        "nobody fetches the metrics",
        "A rule for a dead agent or an overdue backup fires only where somebody asks.";
    LOG_ROTATION = "log-rotation", Logs, Warning,
        "a log file is rotated by nobody",
        "It grows until the disk is full, and then backups fail for another reason.";
    NOT_ENDED = "not-ended", Surroundings, Unknown,
        "a look did not end in time, or could not be begun",
        "Whatever it waits for, a backup would wait for as well.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_each_says_what_and_why() {
        for (at, diagnosis) in DIAGNOSES.iter().enumerate() {
            assert!(
                DIAGNOSES[at + 1..].iter().all(|other| other.name != diagnosis.name),
                "{}",
                diagnosis.name
            );
            assert!(diagnosis.why.ends_with('.') && !diagnosis.meaning.ends_with('.'), "{}", diagnosis.name);
        }
    }
}
