//! Log files: those the agent writes, and those that lines which start backups write to.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::{Visit, table};

/// No file of logrotate's is longer.
const SIZE_MAX: u64 = 256 << 10;
/// A smaller file has time.
const SMALL: u64 = 1 << 20;

pub(super) fn look(visit: &Visit) -> Vec<Finding> {
    let root = &visit.patient.root;
    let mut files: Vec<(PathBuf, String)> = configured(visit);
    for trigger in visit.found.triggers.iter().filter(|trigger| trigger.ignored.is_none()) {
        files.extend(appended_to(&trigger.text).map(|file| (file, trigger.position())));
    }
    files.sort();
    files.dedup_by(|a, b| a.0 == b.0);
    if files.is_empty() {
        return vec![Finding::good(
            &table::LOG_ROTATION,
            "no log file: the log goes to the journal or standard error",
        )];
    }
    let patterns = patterns(root);
    files
        .into_iter()
        .map(|(file, by)| {
            let shown = file.display();
            let size = fs::metadata(root.join(file.strip_prefix("/").unwrap_or(&file))).map_or(0, |meta| meta.len());
            if patterns.iter().any(|pattern| matches(pattern, &file.to_string_lossy())) {
                return Finding::good(&table::LOG_ROTATION, format!("{shown} is rotated"));
            }
            let large = if size > SMALL { format!(", and has {} MiB already", size >> 20) } else { String::new() };
            Finding::bad(&table::LOG_ROTATION, format!("{shown} is rotated by nobody{large}"))
                .at(by, "writes it")
                .fix(format!(
                    "printf '{shown} {{\\n  weekly\\n  rotate 8\\n  compress\\n  missingok\\n  notifempty\\n}}\\n' > /etc/logrotate.d/{}",
                    file.file_stem().unwrap_or_default().to_string_lossy()
                ))
        })
        .collect()
}

/// The files that `[log]` names. Whatever stands there as an absolute path is one, so that a new kind of log
/// file needs no second list here.
fn configured(visit: &Visit) -> Vec<(PathBuf, String)> {
    let log = serde_json::to_value(&visit.patient.config.log).unwrap_or_default();
    let values = log.as_object().into_iter().flatten();
    let paths = values.filter_map(|(key, value)| {
        let path = value.as_str().filter(|text| text.starts_with('/'))?;
        Some((PathBuf::from(path), format!("log.{key}")))
    });
    paths.collect()
}

/// The files below `/` that a line of shell appends its output to.
fn appended_to(line: &str) -> impl Iterator<Item = PathBuf> + '_ {
    line.split(">>").skip(1).filter_map(|rest| {
        let word = rest.trim_start().split([' ', '\t', ';', '&', '|', ')', '\'', '"']).next()?;
        // A name that is made up at each start is rotated by itself.
        let plain =
            word.starts_with('/') && !word.contains(['$', '`', '%', '*']) && !word.starts_with("/dev/");
        plain.then(|| PathBuf::from(word))
    })
}

/// Every pattern of logrotate's configuration.
fn patterns(root: &Path) -> Vec<String> {
    let mut files = vec![root.join("etc/logrotate.conf")];
    let folder = fs::read_dir(root.join("etc/logrotate.d"));
    files.extend(folder.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
    files
        .iter()
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file()))
        .filter_map(|path| {
            let mut bytes = Vec::new();
            fs::File::open(path).ok()?.take(SIZE_MAX).read_to_end(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        })
        .flat_map(|text| patterns_in(&text))
        .collect()
}

/// The paths before each `{`, on one line or several, with or without quotes.
fn patterns_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut depth = 0usize;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let (head, opens) = line.split_once('{').map_or((line, false), |(head, _)| (head, true));
        if depth == 0 {
            let words = head.split([' ', '\t', '"', '\'']).filter(|word| word.starts_with('/'));
            found.extend(words.map(str::to_owned));
        }
        if opens {
            depth += 1;
        }
        if line.ends_with('}') {
            depth = depth.saturating_sub(1);
        }
    }
    found
}

/// Whether a shell pattern with `*` and `?` fits a whole path; neither fits a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < path.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == path[t] || (*c == '?' && path[t] != '/') => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) if path[from] != '/' => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_appends_to_is_found() {
        let of =
            |line: &str| appended_to(line).map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(of("0 3 * * * root run.sh >> /var/log/backup-run.log 2>&1"), "/var/log/backup-run.log");
        assert_eq!(of("a >>/var/log/a.log; b >> /var/log/b.log&"), "/var/log/a.log /var/log/b.log");
        assert_eq!(of("a > /var/log/a.log; b >> /dev/null; c >> /var/log/$(date).log; d >> rel"), "");
    }

    #[test]
    fn patterns_of_logrotate_are_read_and_fit_as_a_shell_fits_them() {
        let text = "weekly\ninclude /etc/logrotate.d\n# /var/log/no.log {\n/var/log/a.log /var/log/b/*.log {\n  rotate 4\n  postrotate\n    kill -HUP $(cat /run/x.pid)\n  endscript\n}\n\"/var/log/c d.log\"\n/var/log/e.log\n{\n}\n/var/log/f.log { daily }\n";
        let found = patterns_in(text);
        let covered = |path: &str| found.iter().any(|pattern| matches(pattern, path));
        for path in ["/var/log/a.log", "/var/log/b/x.log", "/var/log/e.log", "/var/log/f.log"] {
            assert!(covered(path), "{path}: {found:?}");
        }
        for path in
            ["/var/log/no.log", "/run/x.pid", "/var/log/b/c/x.log", "/var/log/b/x.txt", "/var/log/g.log"]
        {
            assert!(!covered(path), "{path}: {found:?}");
        }
        assert!(matches("/a/*b*/c?", "/a/xbx/cd") && !matches("/a/*", "/a/b/c") && matches("/a/*", "/a/b"));
    }
}
