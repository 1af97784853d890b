//! What starts backups on this machine: crontabs, anacron, run-parts' folders, systemd timers, at jobs.
//!
//! A backup that is started twice at the same moment is how backups fail without anybody touching them: the
//! second one finds the lock held, or there is no lock and both write. So every place that starts programs is
//! searched for lines that call this program, or one that made backups before it, through the wrappers such
//! lines have (`flock`, `nice`, `sh -c`, `cd … &&`).
//!
//! It only reads, and everything it reads may be anything: binary, huge, a FIFO, a loop of links. What may
//! not be read is told. Programs that are started by a script which a line calls are not looked for.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `words`, `calls` | a line of shell, and which of the programs it starts |
//! | `crontab`, `crontab_file`, `cron` | crontabs, which of them cron takes, and where they lie |
//! | `systemd`, `calendar` | timers and their times |
//! | `at` | at jobs |
//! | `when` | when something starts, and when two do at once |
//! | `read` | files read without harm |

mod at;
mod calendar;
mod calls;
mod cron;
mod crontab;
mod crontab_file;
mod read;
mod systemd;
#[cfg(test)]
mod tests;
mod when;
mod words;

use std::path::{Path, PathBuf};

use chrono_tz::Tz;

pub use calendar::Calendar;
pub use calls::{Call, Wanted};
pub use read::Unread;
pub use when::{When, together};

use read::{Root, Text};

/// How closely is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Without asking systemd, and without users' homes: for a check that is made every minute.
    Quick,
    /// Everything.
    Whole,
}

/// What to look for, and where.
#[derive(Debug, Clone)]
pub struct Question {
    /// The folder that stands for `/`.
    pub root: PathBuf,
    /// The zone of the host, in which cron and systemd count.
    pub zone: Tz,
    /// The programs.
    pub wanted: Wanted,
    /// How closely.
    pub depth: Depth,
}

/// Something that starts a program which makes backups.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// What kind of place it stands in.
    pub place: Place,
    /// The file, as the host names it.
    pub file: PathBuf,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// As whom it is started, where that is known.
    pub user: Option<String>,
    /// The line itself. May hold anything.
    pub text: String,
    /// What it starts.
    pub call: Call,
    /// When.
    pub when: When,
    /// Why it does not start anything, if it does not.
    pub ignored: Option<String>,
}

/// Where something stands that starts programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `/etc/crontab`.
    Crontab,
    /// A file in `/etc/cron.d`.
    CronD,
    /// A user's crontab, of which `crontab -l` leaves out so many lines at the top.
    UserCrontab {
        /// How many.
        hidden_lines: usize,
    },
    /// A program in `/etc/cron.daily` and the like.
    Periodic,
    /// `/etc/anacrontab`.
    Anacrontab,
    /// A systemd timer.
    Timer {
        /// Its name.
        name: String,
        /// Whose; none for the system's, empty for those of every user.
        user: Option<String>,
        /// Its unit file.
        file: PathBuf,
    },
    /// An at job.
    At {
        /// Its number.
        number: u32,
    },
    /// The agent's own daemon.
    Daemon,
}

/// A user's crontab that cron does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The file, as the host names it.
    pub path: PathBuf,
    /// Why; part of a sentence.
    pub why: String,
    /// What mends it: a command, or a sentence.
    pub fix: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the places.
    pub triggers: Vec<Trigger>,
    /// What could not be looked at.
    pub unread: Vec<Unread>,
    /// Users' crontabs that cron passes over, as far as nothing that was looked for stands in them.
    pub refused: Vec<Refused>,
    /// How many files were looked at.
    pub files: usize,
}

/// Looks everywhere.
pub fn search(question: &Question) -> Found {
    let root = Root::new(&question.root);
    let mut search = Search { question, root, found: Vec::new(), refused: Vec::new(), files: 0 };
    cron::search(&mut search);
    systemd::search(&mut search);
    at::search(&mut search);
    let Search { root, found, refused, files, .. } = search;
    Found { triggers: found, unread: root.unread, refused, files }
}

/// A search that goes on.
struct Search<'a> {
    question: &'a Question,
    root: Root,
    found: Vec<Trigger>,
    refused: Vec<Refused>,
    files: usize,
}

impl Search<'_> {
    fn text(&mut self, path: &Path) -> Option<Text> {
        let text = self.root.text(path)?;
        self.files += 1;
        Some(text)
    }

    /// What the lines of a script start: the line, its text, the call.
    fn script_calls(&self, text: &str) -> Vec<(Option<usize>, String, Call)> {
        // Not every line of a program that is no script is worth taking apart.
        if text.contains('\0') || !self.question.wanted.may_be_in(text) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let calls = self.question.wanted.calls(line);
            found.extend(calls.into_iter().map(|call| (Some(index + 1), line.trim().to_owned(), call)));
        }
        found
    }
}

impl Trigger {
    /// `/etc/cron.d/backup:3`.
    pub fn position(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file.display()),
            None => self.file.display().to_string(),
        }
    }

    /// How to end it: a command, or a sentence where there is none.
    pub fn end(&self) -> String {
        let file = quoted(&self.file.display().to_string());
        let line = self.line.unwrap_or(1);
        match &self.place {
            Place::Crontab | Place::CronD | Place::Anacrontab => format!("sed -i '{line}s/^/#/' {file}"),
            Place::UserCrontab { hidden_lines } => {
                let user = quoted(self.user.as_deref().unwrap_or("root"));
                let line = line.saturating_sub(*hidden_lines);
                format!("crontab -u {user} -l | sed '{line}s/^/#/' | crontab -u {user} -")
            }
            Place::Periodic => format!("chmod -x {file}"),
            Place::Timer { name, user, .. } => {
                let name = quoted(name);
                match user.as_deref() {
                    None => format!("systemctl disable --now {name}"),
                    Some("") => format!("systemctl --global disable {name}"),
                    Some(user) => {
                        format!(
                            "systemctl --user --machine={} disable --now {name}",
                            quoted(&format!("{user}@"))
                        )
                    }
                }
            }
            Place::At { number } => format!("atrm {number}"),
            Place::Daemon => "say trigger = \"external\" in the configuration of the job".to_owned(),
        }
    }
}

/// A word as a shell takes it whole.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-@:+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
