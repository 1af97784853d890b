//! Timers of systemd: unit files with their drop-ins, what they start, and whether they are enabled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;

use super::calendar::Calendar;
use super::when::When;
use super::{Depth, Place, Search, Trigger};
use crate::mounts::{Mount, Mounts};
use crate::process;

/// Where units lie, what counts most first.
const SYSTEM: &[&str] = &[
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const USER: &[&str] =
    &["/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];
/// Homes that are looked into for timers of users.
const HOMES_MAX: usize = 200;
/// How long systemd may take to answer.
const ASK: Duration = Duration::from_secs(5);

/// Adds every timer that would start a backup.
pub(super) fn search(search: &mut Search<'_>) {
    let active = if search.question.depth == Depth::Whole && search.root.is_host() { active() } else { None };
    let folders: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    Units { folders, user: None, active }.search(search);
    if search.question.depth == Depth::Quick {
        return;
    }
    let general: Vec<PathBuf> = USER.iter().map(PathBuf::from).collect();
    Units { folders: general.clone(), user: Some(String::new()), active: None }.search(search);
    for (user, home) in homes(search) {
        let folders = [home.join(".config/systemd/user"), home.join(".local/share/systemd/user")];
        Units { folders: folders.into(), user: Some(user), active: None }.search(search);
    }
}

/// The timers systemd waits for, where it runs and answers.
fn active() -> Option<BTreeSet<String>> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let command = process::Command::new("systemctl")
        .args(["list-timers", "--no-pager", "--plain", "--no-legend", "--full"])
        .timeout(ASK);
    let output = process::output(command, &process::never()).ok()?;
    let text = output.text();
    Some(text.split_whitespace().filter(|word| word.ends_with(".timer")).map(str::to_owned).collect())
}

/// Users with a home on this machine's own disks: one on a dead share must not be touched.
fn homes(search: &mut Search<'_>) -> Vec<(String, PathBuf)> {
    let Some(passwd) = search.text(Path::new("/etc/passwd")) else { return Vec::new() };
    let mounts = if search.root.is_host() { Mounts::read().unwrap_or_default() } else { Mounts::default() };
    let mut seen = BTreeSet::new();
    passwd
        .text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (user, home) = (*fields.first()?, Path::new(*fields.get(5)?));
            let is_local = !mounts.of(home).is_some_and(Mount::is_remote);
            let is_home = home.is_absolute() && home != Path::new("/") && home != Path::new("/nonexistent");
            (is_local && is_home && seen.insert(home.to_owned())).then(|| (user.to_owned(), home.to_owned()))
        })
        .take(HOMES_MAX)
        .collect()
}

/// One set of unit folders.
struct Units {
    folders: Vec<PathBuf>,
    /// Of which user; empty for those of every user; none for the system's.
    user: Option<String>,
    /// What systemd says is waited for.
    active: Option<BTreeSet<String>>,
}

/// A unit's settings in order: section, key, value, and where they stand.
struct Unit {
    file: PathBuf,
    lines: Vec<Setting>,
}

struct Setting {
    section: String,
    key: String,
    value: String,
    file: PathBuf,
    line: usize,
}

impl Units {
    fn search(&self, search: &mut Search<'_>) {
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        let mut enabled = BTreeSet::new();
        for folder in &self.folders {
            for name in search.root.names(folder) {
                let Some(name) = name.to_str().map(str::to_owned) else { continue };
                if name.ends_with(".timer") || name.ends_with(".service") {
                    files.entry(name.clone()).or_insert_with(|| folder.join(&name));
                } else if name.ends_with(".wants") || name.ends_with(".requires") {
                    let names = search.root.names(&folder.join(&name));
                    enabled.extend(names.into_iter().filter_map(|name| name.into_string().ok()));
                }
            }
        }
        // An instance is enabled by its name, and described by its template.
        let timers: BTreeSet<String> =
            files.keys().chain(&enabled).filter(|name| name.ends_with(".timer")).cloned().collect();
        for timer in timers.iter().filter(|name| !name.contains("@.")) {
            let is_on = match &self.active {
                Some(active) => active.contains(timer) || enabled.contains(timer),
                None => enabled.contains(timer),
            };
            self.timer(search, &files, timer, is_on);
        }
    }

    fn timer(&self, search: &mut Search<'_>, files: &BTreeMap<String, PathBuf>, timer: &str, is_on: bool) {
        let Some(unit) = self.unit(search, files, timer) else { return };
        let started = unit.last("Timer", "Unit").map(str::to_owned);
        let started = started.unwrap_or_else(|| format!("{}.service", timer.trim_end_matches(".timer")));
        let Some(service) = self.unit(search, files, &started) else { return };
        let when = when(search, &unit);
        let ignored = (!is_on).then(|| "it is not enabled".to_owned());
        let settings = service.of("Service").into_iter();
        let user = service.last("Service", "User").map(str::to_owned);
        let user = self.user.clone().filter(|user| !user.is_empty()).or(user);
        for setting in settings.filter(|setting| setting.key.starts_with("ExecStart")) {
            let command = setting.value.trim_start_matches(['@', '-', ':', '+', '!', '|']);
            for call in search.question.wanted.calls(command) {
                search.found.push(Trigger {
                    place: Place::Timer {
                        name: timer.to_owned(),
                        user: self.user.clone(),
                        file: unit.file.clone(),
                    },
                    file: setting.file.clone(),
                    line: Some(setting.line),
                    user: user.clone().or_else(|| Some("root".to_owned())),
                    text: format!("{}={}", setting.key, setting.value),
                    call,
                    when: when.clone(),
                    ignored: ignored.clone(),
                });
            }
        }
    }

    /// A unit with its drop-ins; none when it does not exist or is masked.
    fn unit(&self, search: &mut Search<'_>, files: &BTreeMap<String, PathBuf>, name: &str) -> Option<Unit> {
        let template = name.split_once('@').and_then(|(front, rest)| {
            let (_, suffix) = rest.rsplit_once('.')?;
            Some(format!("{front}@.{suffix}"))
        });
        let file = files.get(name).or_else(|| files.get(template.as_ref()?))?.clone();
        if search.root.link(&file).is_some_and(|target| target == Path::new("/dev/null")) {
            return None;
        }
        let mut lines = settings(&file, &search.text(&file)?.text);
        // Of drop-ins with the same name the one in the first folder counts.
        let mut drop_ins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for base in [Some(name.to_owned()), template].into_iter().flatten() {
            for folder in &self.folders {
                let folder = folder.join(format!("{base}.d"));
                for part in search.root.names(&folder) {
                    if Path::new(&part).extension().is_some_and(|extension| extension == "conf") {
                        drop_ins.entry(part.clone()).or_insert_with(|| folder.join(&part));
                    }
                }
            }
        }
        for path in drop_ins.values() {
            if let Some(text) = search.text(path) {
                lines.extend(settings(path, &text.text));
            }
        }
        let instance = name.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.')).map(|(i, _)| i);
        for setting in &mut lines {
            if let Some(instance) = instance {
                setting.value = setting.value.replace("%i", instance).replace("%I", instance);
            }
        }
        Some(Unit { file, lines })
    }
}

impl Unit {
    /// The settings of a section that count: an empty value takes back what stood before it.
    fn of(&self, section: &str) -> Vec<&Setting> {
        let mut found: Vec<&Setting> = Vec::new();
        for setting in self.lines.iter().filter(|setting| setting.section == section) {
            if setting.value.is_empty() {
                // Every kind of event is taken back by an empty one of any kind.
                let is_event = |key: &str| key.starts_with("On");
                found.retain(|other| {
                    other.key != setting.key && !(is_event(&other.key) && is_event(&setting.key))
                });
            } else {
                found.push(setting);
            }
        }
        found
    }

    fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.of(section).into_iter().rfind(|setting| setting.key == key).map(|setting| setting.value.as_str())
    }
}

fn settings(file: &Path, text: &str) -> Vec<Setting> {
    let mut found: Vec<Setting> = Vec::new();
    let mut section = String::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if goes_on && !line.starts_with(['#', ';']) {
            if let Some(last) = found.last_mut() {
                last.value = format!("{} {}", last.value, line.trim_end_matches('\\').trim());
            }
            goes_on = line.ends_with('\\');
            continue;
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            goes_on = value.ends_with('\\');
            found.push(Setting {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim_end_matches('\\').trim().to_owned(),
                file: file.to_owned(),
                line: index + 1,
            });
        }
    }
    found
}

fn when(search: &Search<'_>, unit: &Unit) -> When {
    let (mut calendars, mut strange) = (Vec::new(), Vec::new());
    for setting in unit.of("Timer") {
        match setting.key.as_str() {
            "OnCalendar" => match Calendar::parse(&setting.value) {
                Some(calendar) => calendars.push(calendar),
                None => strange.push(format!("{}={}", setting.key, setting.value)),
            },
            "OnBootSec" | "OnStartupSec" | "OnActiveSec" | "OnUnitActiveSec" | "OnUnitInactiveSec" => {
                strange.push(format!("{}={}", setting.key, setting.value));
            }
            _ => {}
        }
    }
    if calendars.is_empty() {
        return When::Sometime(strange.join(", "));
    }
    let jitter = unit.last("Timer", "RandomizedDelaySec").and_then(span).unwrap_or_else(TimeDelta::zero);
    // How late systemd may start it so that several timers share one waking.
    let accuracy = unit.last("Timer", "AccuracySec").and_then(span).unwrap_or_else(|| TimeDelta::minutes(1));
    When::Calendar(calendars, search.question.zone, jitter + accuracy.min(TimeDelta::hours(1)))
}

/// A span of systemd: seconds, or numbers with units.
fn span(text: &str) -> Option<TimeDelta> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(TimeDelta::seconds(i64::from(seconds)));
    }
    humantime::parse_duration(text).ok().and_then(|duration| TimeDelta::from_std(duration).ok())
}
