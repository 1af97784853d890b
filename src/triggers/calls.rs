//! Which of the programs that make backups a line of shell starts, through whatever stands around them.

use std::path::{Path, PathBuf};

use super::words;

/// Names this program goes by.
const AGENT: [&str; 2] = ["agent", "backup-agent"];
/// Words before a command that are no command.
const KEYWORDS: &[&str] = &[
    "if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "time", "exec", "command", "builtin",
];
/// Programs that start the program named in their arguments.
const WRAPPERS: &[&str] = &[
    "chroot",
    "chronic",
    "chrt",
    "cgexec",
    "choom",
    "cpulimit",
    "cronic",
    "cronlock",
    "daemonize",
    "doas",
    "env",
    "envdir",
    "faketime",
    "flock",
    "ionice",
    "lckdo",
    "logsave",
    "nice",
    "nohup",
    "nsenter",
    "numactl",
    "prlimit",
    "proxychains",
    "run-one",
    "runuser",
    "script",
    "setlock",
    "setpriv",
    "setsid",
    "softlimit",
    "solo",
    "ssh-agent",
    "stdbuf",
    "strace",
    "su",
    "sudo",
    "systemd-cat",
    "systemd-inhibit",
    "systemd-run",
    "taskset",
    "tee",
    "timeout",
    "unbuffer",
    "unshare",
    "xvfb-run",
];
/// Programs that run a script, and those among them whose `-c` takes one as text.
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"];
const INTERPRETERS: &[&str] = &["perl", "php", "python", "python2", "python3", "ruby", "node", "source", "."];
/// How deep `sh -c "sh -c …"` is followed.
const DEPTH_MAX: usize = 8;

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Programs that made backups before, by path or name; they are known by their file name.
    pub legacy: Vec<String>,
    /// The configuration in use: a call with another one is another installation's.
    pub config: PathBuf,
    /// What this program's file is called, beside `agent`.
    pub own_name: Option<String>,
}

/// One start of a program that makes backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `agent backup` with these jobs; with none it is the only one there is.
    Backup(Vec<String>),
    /// `agent backup --all`.
    BackupAll,
    /// `agent tend`, `agent check`: it starts no backup.
    Other(String),
    /// An earlier program, as the configuration names it.
    Legacy(String),
}

impl Wanted {
    /// Every start of such a program in a text of shell commands, each only once.
    pub fn calls(&self, text: &str) -> Vec<Call> {
        let mut found = Vec::new();
        self.in_text(text, 0, &mut found);
        let mut once = Vec::new();
        for call in found {
            if !once.contains(&call) {
                once.push(call);
            }
        }
        once
    }

    /// Whether a text can hold such a start at all: a quick look before the closer one.
    pub fn may_be_in(&self, text: &str) -> bool {
        let own = self.own_name.as_deref().into_iter();
        let legacy = self.legacy.iter().map(|program| file_name(program));
        AGENT.into_iter().chain(own).chain(legacy).any(|name| text.contains(name))
    }

    /// The earlier program a word names.
    pub(super) fn legacy_of(&self, word: &str) -> Option<&String> {
        self.legacy.iter().find(|program| file_name(program) == file_name(word))
    }

    fn is_agent(&self, word: &str) -> bool {
        let name = file_name(word);
        AGENT.contains(&name) || self.own_name.as_deref() == Some(name)
    }

    fn in_text(&self, text: &str, depth: usize, found: &mut Vec<Call>) {
        if depth > DEPTH_MAX {
            return;
        }
        for command in words::commands(text) {
            self.in_command(&command, depth, found);
        }
    }

    fn in_command(&self, command: &[String], depth: usize, found: &mut Vec<Call>) {
        let start =
            command.iter().position(|word| !KEYWORDS.contains(&word.as_str()) && !is_assignment(word));
        let Some(words) = start.map(|start| &command[start..]).filter(|_| depth <= DEPTH_MAX) else { return };
        let head = file_name(&words[0]);
        let rest = &words[1..];
        if let Some(program) = self.legacy_of(&words[0]) {
            found.push(Call::Legacy(program.clone()));
        } else if self.is_agent(&words[0]) {
            found.extend(self.agent_call(rest));
        } else if head == "eval" {
            self.in_text(&rest.join(" "), depth + 1, found);
        } else if SHELLS.contains(&head) || INTERPRETERS.contains(&head) {
            let is_text =
                |word: &String| word.starts_with('-') && !word.starts_with("--") && word.ends_with('c');
            match rest.iter().position(is_text).filter(|_| SHELLS.contains(&head)) {
                Some(at) => {
                    if let Some(text) = rest.get(at + 1) {
                        self.in_text(text, depth + 1, found);
                    }
                }
                // The script is a program like any other.
                None => {
                    if let Some(at) = rest.iter().position(|word| !word.starts_with(['-', '+'])) {
                        self.in_command(&rest[at..], depth + 1, found);
                    }
                }
            }
        } else if WRAPPERS.contains(&head) {
            self.in_wrapped(rest, depth, found);
        }
    }

    /// What a wrapper starts: the options of each are not known, so its words are tried one by one.
    fn in_wrapped(&self, words: &[String], depth: usize, found: &mut Vec<Call>) {
        for (at, word) in words.iter().enumerate() {
            if let Some(text) = words.get(at + 1).filter(|_| word == "-c" || word == "--command") {
                // `nice`, `ionice -c 3`: a class, not a command.
                if text.parse::<u32>().is_err() {
                    return self.in_text(text, depth + 1, found);
                }
            } else if let Some(text) = word.strip_prefix("--command=") {
                return self.in_text(text, depth + 1, found);
            }
            let name = file_name(word);
            let starts = SHELLS.contains(&name)
                || INTERPRETERS.contains(&name)
                || WRAPPERS.contains(&name)
                || self.legacy_of(word).is_some()
                // `sudo -u agent …` names a user.
                || (self.is_agent(word) && self.agent_call(&words[at + 1..]).is_some());
            if starts && !word.starts_with('-') {
                return self.in_command(&words[at..], depth + 1, found);
            }
        }
    }

    /// What `agent` with these arguments does; nothing for a call that is another installation's, or is none.
    fn agent_call(&self, arguments: &[String]) -> Option<Call> {
        let mut words = arguments.iter().map(String::as_str);
        let mut verb = None;
        let mut jobs = Vec::new();
        let mut all = false;
        while let Some(word) = words.next() {
            let (option, joined) = word.split_once('=').map_or((word, None), |(o, v)| (o, Some(v)));
            match option {
                "--config" | "-c" => {
                    let file = joined.or_else(|| words.next())?;
                    if Path::new(file) != self.config {
                        return None;
                    }
                }
                "--backups" | "--source" => return None,
                "--lock-wait" | "--if-locked" | "--to" => {
                    if joined.is_none() {
                        words.next();
                    }
                }
                "--all" => all = true,
                _ if word.starts_with('-') => {}
                _ if verb.is_none() => verb = Some(word),
                _ => jobs.push(word.to_owned()),
            }
        }
        match verb? {
            "backup" if all => Some(Call::BackupAll),
            "backup" => Some(Call::Backup(jobs)),
            "monitor" => Some(Call::Other("check".to_owned())),
            verb @ ("check" | "tend" | "run") => Some(Call::Other(verb.to_owned())),
            _ => None,
        }
    }
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            legacy: vec!["/usr/local/bin/backup-run.sh".into(), "dump.php".into()],
            config: "/etc/backup-agent/config.toml".into(),
            own_name: None,
        }
    }

    fn of(text: &str) -> String {
        let name = |call: &Call| match call {
            Call::Backup(jobs) => format!("backup {}", jobs.join(",")).trim().to_owned(),
            Call::BackupAll => "all".to_owned(),
            Call::Other(verb) => verb.clone(),
            Call::Legacy(program) => file_name(program).to_owned(),
        };
        wanted().calls(text).iter().map(name).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn programs_are_found_through_whatever_stands_around_them() {
        for line in [
            "/usr/local/bin/backup-run.sh",
            "backup-run.sh --quiet >> /var/log/backup-run.log 2>&1",
            "flock -n /var/lock/backup-run.lock /usr/local/bin/backup-run.sh",
            "flock -n /var/lock/x.lock -c '/usr/local/bin/backup-run.sh >/dev/null'",
            "nice -n 19 ionice -c 3 /usr/local/bin/backup-run.sh",
            "nice -n 19 ionice -c3 timeout 2h bash /usr/local/bin/backup-run.sh",
            "cd /usr/local/bin && ./backup-run.sh",
            "[ -x /usr/local/bin/backup-run.sh ] && /usr/local/bin/backup-run.sh",
            "test -f /x || (sleep 30; sh -c \"exec /usr/local/bin/backup-run.sh\")",
            "LANG=C PATH=/bin env -i HOME=/root /usr/local/bin/backup-run.sh",
            "if true; then /usr/local/bin/backup-run.sh; fi",
            "su - root -c \"/bin/bash -lc 'backup-run.sh'\"",
            "sudo -u root /usr/local/bin/backup-run.sh",
            "/usr/bin/env bash /opt/old/backup-run.sh",
            ". /usr/local/bin/backup-run.sh",
            "eval backup-run.sh",
        ] {
            assert_eq!(of(line), "backup-run.sh", "{line}");
        }
        assert_eq!(of("php -q /opt/dump.php | logger -t x"), "dump.php");
        assert_eq!(
            of("a; backup-run.sh; agent backup web && php dump.php"),
            "backup-run.sh; backup web; dump.php"
        );
    }

    #[test]
    fn what_only_names_a_program_does_not_start_it() {
        for line in [
            "ls -l /usr/local/bin/backup-run.sh",
            "rm -f /usr/local/bin/backup-run.sh",
            "logger agent backup web",
            "echo 'flock x backup-run.sh'",
            "test -x /usr/local/bin/backup-run.sh",
            "# /usr/local/bin/backup-run.sh",
            "/usr/local/bin/backup-run.sh.old",
            "/opt/agent/start backup",
            "sudo -u agent /usr/bin/true",
            "agent config check",
            "agent --config /srv/other.toml backup web",
            "agent backup --source /home --to /mnt",
            "ssh-agent bash",
        ] {
            assert_eq!(of(line), "", "{line}");
        }
    }

    #[test]
    fn the_jobs_of_a_call_are_those_it_names() {
        for (line, wanted) in [
            ("agent backup", "backup"),
            ("/usr/local/bin/agent backup web", "backup web"),
            ("agent -v backup --fast web shop --lock-wait 5m", "backup web,shop"),
            ("agent --config=/etc/backup-agent/config.toml backup --if-locked skip --all", "all"),
            ("agent -c /etc/backup-agent/config.toml tend", "tend"),
            ("agent check --quiet --mail", "check"),
            ("runuser -u agent -- agent backup web", "backup web"),
        ] {
            assert_eq!(of(line), wanted, "{line}");
        }
    }

    #[test]
    fn nested_shells_are_followed_only_so_deep() {
        let mut line = "backup-run.sh".to_owned();
        for _ in 0..40 {
            line = format!("sh -c {}", line.replace('\\', "\\\\").replace(' ', "\\ "));
            if line.len() > 100_000 {
                break;
            }
        }
        of(&line);
    }
}
