//! What starts the jobs of the configuration: what [`crate::triggers`] finds on the machine, and the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::config::{Config, DEFAULT_FILE, JobConfig, Trigger as StartedBy, host_timezone};
use crate::health::{Duplicate, moment};
use crate::model::JobName;
use crate::triggers::{self, Call, Depth, Found, Place, Question, Trigger, Wanted, When, together};

/// Of one job so many starts are compared with one another.
const COMPARED_MAX: usize = 12;

/// What is looked for on the machine for this configuration. `command` is how this program is called here.
pub fn question(config: &Config, command: &str, root: &Path, depth: Depth) -> Question {
    let own = config.job.values().flat_map(|job| &job.legacy);
    let name = std::env::current_exe().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    Question {
        root: root.to_owned(),
        zone: zone_of(root).unwrap_or(config.timezone),
        wanted: Wanted {
            legacy: config.legacy.iter().chain(own).cloned().collect(),
            config: config_file(command),
            own_name: name,
        },
        depth,
    }
}

/// The configuration file in a command such as `agent --config FILE`.
pub fn config_file(command: &str) -> PathBuf {
    let named = command.split_once(" --config ").map(|(_, file)| file.trim_matches('\''));
    PathBuf::from(named.unwrap_or(DEFAULT_FILE))
}

/// The zone of the machine below `root`.
pub fn zone_of(root: &Path) -> Option<Tz> {
    if root == Path::new("/") {
        return host_timezone();
    }
    let link = std::fs::read_link(root.join("etc/localtime")).ok()?;
    link.to_str()?.split_once("zoneinfo/")?.1.parse().ok()
}

/// Everything that starts a job, whether it is passed over or not; first the daemon.
pub fn of_job(
    config: &Config,
    command: &str,
    name: &JobName,
    job: &JobConfig,
    found: &Found,
) -> Vec<Trigger> {
    let own = job.schedule().filter(|_| job.trigger == StartedBy::Internal).map(|schedule| Trigger {
        place: Place::Daemon,
        file: config_file(command),
        line: None,
        user: None,
        text: format!("[job.{name}] schedule = \"{schedule}\""),
        call: Call::Backup(vec![name.to_string()]),
        when: When::Cron(schedule, config.job_timezone(job)),
        ignored: None,
    });
    let starts = |call: &Call| match call {
        Call::Backup(jobs) if jobs.is_empty() => config.job.len() == 1,
        Call::Backup(jobs) => jobs.iter().any(|job| job == name.as_str()),
        Call::BackupAll => true,
        Call::Other(_) => false,
        Call::Legacy(program) => config.legacy.contains(program) || job.legacy.contains(program),
    };
    own.into_iter().chain(found.triggers.iter().filter(|found| starts(&found.call)).cloned()).collect()
}

/// Several things that start one job.
#[derive(Debug, Clone)]
pub struct Doubled {
    /// What they are.
    pub triggers: Vec<Trigger>,
    /// The next moments at which two of them start, and which two.
    pub moments: Vec<(DateTime<Utc>, usize, usize)>,
}

impl Doubled {
    /// `the daemon (0 3 * * *) and /etc/cron.d/backup:3 (0 3 * * *)`.
    pub fn names(&self, tz: Tz) -> String {
        let mut names: Vec<String> = self.triggers.iter().take(4).map(|t| name_of(t, tz)).collect();
        if self.triggers.len() > names.len() {
            names.push(format!("{} more", self.triggers.len() - names.len()));
        }
        let last = names.pop().unwrap_or_default();
        format!("{} and {last}", names.join(", "))
    }

    /// When they next meet, once each: `2026-11-25 03:00, 2026-11-25 11:00`.
    pub fn times(&self, tz: Tz) -> Vec<String> {
        let mut times: Vec<DateTime<Utc>> = self.moments.iter().map(|(at, ..)| *at).collect();
        times.sort_unstable();
        let mut shown: Vec<String> = times.into_iter().map(|at| moment(at, tz)).collect();
        shown.dedup();
        shown.truncate(3);
        shown
    }
}

/// `/etc/cron.d/backup:3 (0 3 * * *)`.
fn name_of(trigger: &Trigger, tz: Tz) -> String {
    let place = match &trigger.place {
        Place::Daemon => "the daemon".to_owned(),
        Place::Timer { name, .. } => name.clone(),
        _ => trigger.position(),
    };
    format!("{place} ({})", trigger.when.words(tz))
}

/// Whether these starts of one job are too many. Two lines of one file that never meet are a schedule that
/// takes two lines to write.
pub fn doubled(triggers: &[Trigger], now: DateTime<Utc>) -> Option<Doubled> {
    let active: Vec<Trigger> =
        triggers.iter().filter(|trigger| trigger.ignored.is_none()).take(COMPARED_MAX).cloned().collect();
    if active.len() < 2 {
        return None;
    }
    let mut moments = Vec::new();
    for (at, one) in active.iter().enumerate() {
        for (other_at, other) in active.iter().enumerate().skip(at + 1) {
            let met = together(&one.when, &other.when, now);
            moments.extend(met.into_iter().map(|moment| (moment, at, other_at)));
        }
    }
    moments.sort_unstable();
    let is_legacy = |trigger: &Trigger| matches!(trigger.call, Call::Legacy(_));
    let one_file = active.iter().all(|trigger| trigger.file == active[0].file && !is_legacy(trigger));
    if moments.is_empty() && one_file {
        return None;
    }
    Some(Doubled { triggers: active, moments })
}

/// What would start each job twice, for the health checks: quickly, and without asking any program.
pub fn duplicates(
    config: &Config,
    command: &str,
    now: DateTime<Utc>,
) -> BTreeMap<JobName, Option<Duplicate>> {
    let found = triggers::search(&question(config, command, Path::new("/"), Depth::Quick));
    let judge = |name: &JobName, job: &JobConfig| {
        let doubled = doubled(&of_job(config, command, name, job, &found), now)?;
        let tz = config.job_timezone(job);
        let next = match doubled.times(tz).first() {
            Some(first) => format!("; next at the same moment {first}"),
            None => String::new(),
        };
        Some(Duplicate {
            at_once: !doubled.moments.is_empty(),
            text: format!("started by {}{next}", doubled.names(tz)),
            hint: "`agent doctor` says how to end all but one".to_owned(),
        })
    };
    config.job.iter().map(|(name, job)| (name.clone(), judge(name, job))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-24T10:20:00Z".parse().unwrap()
    }

    fn config(more: &str) -> Config {
        let text = format!(
            "timezone = \"Europe/Berlin\"\nlegacy = [\"run.sh\"]\n[target.local]\ntype = \"directory\"\npath = \"/b\"\n\
             [job.web]\nschedule = \"0 3,11,19 * * *\"\ntargets = [\"local\"]\n{more}"
        );
        toml::from_str(&text).unwrap()
    }

    fn machine(crontab: &str, cron_d: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/cron.d")).unwrap();
        std::os::unix::fs::symlink("/usr/share/zoneinfo/Europe/Berlin", root.path().join("etc/localtime"))
            .unwrap();
        std::fs::write(root.path().join("etc/crontab"), crontab).unwrap();
        std::fs::write(root.path().join("etc/cron.d/backup"), cron_d).unwrap();
        root
    }

    /// The names and times of what is doubled for job `web`.
    fn of(config: &Config, crontab: &str, cron_d: &str) -> Option<(String, String)> {
        let root = machine(crontab, cron_d);
        let found = triggers::search(&question(config, "agent", root.path(), Depth::Quick));
        let name = "web".parse().unwrap();
        let doubled = doubled(&of_job(config, "agent", &name, &config.job[&name], &found), now())?;
        let tz = config.timezone;
        Some((doubled.names(tz), doubled.times(tz).join(", ")))
    }

    #[test]
    fn the_incident_with_the_agent_beside_it_is_three_starts_at_the_same_moments() {
        let line = "0 3,11,19 * * * root flock -n /run/x /opt/run.sh\n";
        let (names, times) = of(&config(""), line, line).unwrap();
        assert_eq!(
            names,
            "the daemon (0 3,11,19 * * *), /etc/crontab:1 (0 3,11,19 * * *) and /etc/cron.d/backup:1 (0 3,11,19 * * *)"
        );
        assert_eq!(times, "2026-11-24 19:00, 2026-11-25 03:00, 2026-11-25 11:00");
    }

    #[test]
    fn a_job_that_cron_starts_is_fine_with_one_line_and_not_with_two() {
        let external = config("trigger = \"external\"\n");
        let line = "0 3,11,19 * * * root agent backup web\n";
        assert_eq!(of(&external, line, ""), None);
        assert_eq!(of(&external, "", line), None);
        assert!(of(&external, line, line).is_some());
        assert!(of(&external, line, "0 3,11,19 * * * root agent backup --all\n").is_some());
        // The daemon and a line are two.
        assert!(of(&config(""), line, "").is_some());
        // Another job, another verb, another installation.
        for other in ["agent backup shop", "agent tend", "agent --config /srv/x.toml backup web"] {
            assert_eq!(of(&external, line, &format!("0 3 * * * root {other}\n")), None, "{other}");
        }
    }

    #[test]
    fn lines_that_never_meet_are_one_schedule_in_one_file_and_two_in_two() {
        let external = config("trigger = \"external\"\n");
        let (three, noon) = ("0 3 * * * root agent backup\n", "0 12 * * sat root agent backup\n");
        assert_eq!(of(&external, &format!("{three}{noon}"), ""), None);
        assert_eq!(of(&external, three, noon).unwrap().1, "");
        // An earlier program is one too many whenever it runs.
        assert_eq!(of(&config(""), "0 5 * * * root /opt/run.sh\n", "").unwrap().1, "");
    }

    #[test]
    fn a_program_that_made_one_job_before_does_not_start_the_others() {
        let text = "legacy = [\"shop.sh\"]\n[job.shop]\nschedule = \"@daily\"\ntargets = [\"local\"]\nlegacy = [\"other.sh\"]\n";
        let config = config(text);
        assert_eq!(of(&config, "0 3 * * * root other.sh\n", ""), None);
        assert!(of(&config, "0 3 * * * root shop.sh\n", "").is_some());
    }

    #[test]
    fn the_file_of_the_configuration_is_taken_from_the_command() {
        assert_eq!(config_file("agent"), Path::new(DEFAULT_FILE));
        assert_eq!(config_file("agent --config /etc/x.toml"), Path::new("/etc/x.toml"));
        assert_eq!(config_file("agent --config '/etc/my x.toml'"), Path::new("/etc/my x.toml"));
    }
}
