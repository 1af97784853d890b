//! Where cron and anacron look, and what they would start there.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chrono_tz::Tz;

use super::crontab::{self, Crontab, Entry, Form};
use super::crontab_file::{File, Owners, Refusal};
use super::read::Text;
use super::when::When;
use super::{Place, Refused, Search, Trigger};

/// Folders whose programs run-parts starts, and how often that is.
const PERIODIC: &[(&str, &str)] = &[
    ("/etc/cron.hourly", "once an hour"),
    ("/etc/cron.daily", "once a day"),
    ("/etc/cron.weekly", "once a week"),
    ("/etc/cron.monthly", "once a month"),
    ("/etc/cron.yearly", "once a year"),
];
/// Where users' crontabs lie: Debian's place, and that of others.
const SPOOLS: [&str; 2] = ["/var/spool/cron/crontabs", "/var/spool/cron"];

/// Adds everything cron and anacron would start.
pub(super) fn search(search: &mut Search<'_>) {
    let cron = Cron {
        // Debian's program is called `cron`, the one of Red Hat and others `crond`.
        is_debian: !search.root.exists("/usr/sbin/crond") || search.root.exists("/usr/sbin/cron"),
        zone: search.question.zone,
    };
    let mut periods = Vec::new();
    cron.system_file(search, Path::new("/etc/crontab"), &Place::Crontab, &mut periods);
    for name in search.root.names(Path::new("/etc/cron.d")) {
        let path = Path::new("/etc/cron.d").join(name);
        cron.system_file(search, &path, &Place::CronD, &mut periods);
    }
    for spool in SPOOLS {
        for name in search.root.names(Path::new(spool)) {
            cron.user_file(search, &Path::new(spool).join(name));
        }
    }
    anacrontab(search, &mut periods);
    for (folder, often) in PERIODIC {
        let when = periods.iter().find(|(known, _)| known == folder).map(|(_, when)| when.clone());
        let when = when.unwrap_or_else(|| When::Sometime((*often).to_owned()));
        periodic(search, Path::new(folder), &when);
    }
}

struct Cron {
    is_debian: bool,
    zone: Tz,
}

/// When the folders of [`PERIODIC`] are run.
type Periods = Vec<(&'static str, When)>;

fn note_periods(entries: &[Entry], periods: &mut Periods) {
    for entry in entries {
        for (folder, _) in PERIODIC.iter().filter(|(folder, _)| entry.command.contains(folder)) {
            // What anacron does, cron leaves to it.
            periods.retain(|(known, _)| known != folder || !matches!(entry.when, When::Sometime(_)));
            if !periods.iter().any(|(known, _)| known == folder) {
                periods.push((folder, entry.when.clone()));
            }
        }
    }
}

impl Cron {
    fn system_file(&self, search: &mut Search<'_>, path: &Path, place: &Place, periods: &mut Periods) {
        let Some(file) = search.text(path) else { return };
        let found = crontab::parse(&file.text, Form::System, self.zone, !self.is_debian);
        note_periods(&found.entries, periods);
        let ignored = self.ignores(search, path, place, &file, &found);
        add(search, path, place, found, ignored, None);
    }

    /// Why cron passes the file over.
    fn ignores(
        &self,
        search: &Search<'_>,
        path: &Path,
        place: &Place,
        file: &Text,
        found: &Crontab,
    ) -> Option<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if *place == Place::CronD {
            if self.is_debian && !is_plain(&name) {
                return Some(format!(
                    "cron passes over files with such a name: `mv {name} {}`",
                    plain(&name)
                ));
            }
            if name.ends_with('~') || name.starts_with('.') || name.ends_with(".rpmsave") {
                return Some("cron passes over files with such a name".to_owned());
            }
        }
        if file.meta.uid() != search.root.owner() {
            let owner = file.meta.uid();
            return Some(format!(
                "it belongs to user {owner} and not to root: `chown root {}`",
                path.display()
            ));
        }
        if file.meta.permissions().mode() & 0o022 != 0 {
            return Some(format!("others than root can change it: `chmod go-w {}`", path.display()));
        }
        self.refused(found)
    }

    fn user_file(&self, search: &mut Search<'_>, path: &Path) {
        let user = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if user.starts_with('.') || user.starts_with("tmp.") {
            return;
        }
        let Some(file) = search.root.meta(path).map(|meta| File::new(&meta)).filter(|file| !file.is_folder())
        else {
            return;
        };
        let owners = Owners { root: search.root.owner(), user: uid(search, &user) };
        let refusal = file.refusal(&path.display().to_string(), &user, owners, self.is_debian);
        let (unread, before) = (search.root.unread.len(), search.found.len());
        if let Some(text) = search.text(path) {
            self.user_text(search, path, &user, &text, refusal.as_ref());
        }
        if let Some(Refusal { why, fix }) = refusal {
            // What cron does not read needs to be read by nobody.
            search.root.unread.truncate(unread);
            if search.found.len() == before {
                search.refused.push(Refused { path: path.to_owned(), why, fix });
            }
        }
    }

    fn user_text(
        &self,
        search: &mut Search<'_>,
        path: &Path,
        user: &str,
        file: &Text,
        refusal: Option<&Refusal>,
    ) {
        let found = crontab::parse(&file.text, Form::User, self.zone, !self.is_debian);
        let ignored = match refusal {
            Some(Refusal { why, fix }) => Some(format!("{why}: `{fix}`")),
            None => self.refused(&found),
        };
        // `crontab -l` of Debian leaves out the three lines that `crontab` puts at the top.
        let head = self.is_debian && file.text.starts_with("# DO NOT EDIT THIS FILE");
        let place = Place::UserCrontab { hidden_lines: if head { 3 } else { 0 } };
        add(search, path, &place, found, ignored, Some(user.to_owned()));
    }

    fn refused(&self, found: &Crontab) -> Option<String> {
        found.refused.clone().map(|why| format!("{why}: cron refuses the whole file"))
    }
}

/// The number of a user of this machine; none of one that only a directory service knows.
fn uid(search: &mut Search<'_>, user: &str) -> Option<u32> {
    if user == "root" {
        return Some(search.root.owner());
    }
    let passwd = search.text(Path::new("/etc/passwd"))?;
    passwd.text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(user);
        fields.nth(1).filter(|_| is_it)?.parse().ok()
    })
}

fn add(
    search: &mut Search<'_>,
    path: &Path,
    place: &Place,
    found: Crontab,
    ignored: Option<String>,
    user: Option<String>,
) {
    for entry in found.entries {
        for call in search.question.wanted.calls(&entry.command) {
            search.found.push(Trigger {
                place: place.clone(),
                file: path.to_owned(),
                line: Some(entry.line),
                user: entry.user.clone().or_else(|| user.clone()),
                text: entry.text.clone(),
                call,
                when: entry.when.clone(),
                ignored: ignored.clone(),
            });
        }
    }
}

fn anacrontab(search: &mut Search<'_>, periods: &mut Periods) {
    let path = Path::new("/etc/anacrontab");
    let Some(file) = search.text(path) else { return };
    let entries = crontab::anacron(&file.text);
    note_periods(&entries, periods);
    add(search, path, &Place::Anacrontab, Crontab { entries, refused: None }, None, Some("root".to_owned()));
}

/// The programs of one of run-parts' folders. It passes over names with a dot and files that cannot be run.
fn periodic(search: &mut Search<'_>, folder: &Path, when: &When) {
    for name in search.root.names(folder) {
        let path = folder.join(&name);
        let name = name.to_string_lossy().into_owned();
        let link = search.root.link(&path);
        let Some(file) = search.text(&path) else { continue };
        let ignored = if !is_plain(&name) {
            Some(format!("run-parts passes over files with such a name: `mv {name} {}`", plain(&name)))
        } else if file.meta.permissions().mode() & 0o111 == 0 {
            Some(format!("it cannot be run: `chmod +x {}`", path.display()))
        } else {
            None
        };
        // The program itself, or a script that starts it.
        let names = [Some(path.clone()), link];
        let own = names.iter().flatten().find_map(|path: &PathBuf| {
            let word = path.to_string_lossy();
            search
                .question
                .wanted
                .legacy_of(&word)
                .or_else(|| search.question.wanted.legacy_of(word.strip_suffix(".sh").unwrap_or(&word)))
        });
        let whole = own.map(|program| (None, name.clone(), super::Call::Legacy(program.clone())));
        let starts: Vec<_> = match whole {
            Some(whole) => vec![whole],
            None => search.script_calls(&file.text),
        };
        for (line, text, call) in starts {
            search.found.push(Trigger {
                place: Place::Periodic,
                file: path.clone(),
                line,
                user: Some("root".to_owned()),
                text,
                call,
                when: when.clone(),
                ignored: ignored.clone(),
            });
        }
    }
}

/// Names Debian's cron and run-parts accept.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}
