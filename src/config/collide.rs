//! Folder names that meet: allowed, since a taken name gets another, but probably not meant.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::types::*;
use crate::schedule::Schedule;

/// How many runs of a schedule are looked at: more than two weeks of three a day.
const SAMPLE: usize = 50;

/// A sentence for each job whose runs get the same folder at a target, and for each target inside another.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, job) in &config.job {
        let Some(schedule) = job.schedule.as_deref().and_then(|line| Schedule::parse(line).ok()) else {
            continue;
        };
        let zone = config.job_timezone(job);
        // Any day will do; this one changes the year, the month and the week soon.
        let from: DateTime<Utc> = DateTime::from_timestamp(1_798_300_000, 0).unwrap_or_default();
        let runs = schedule.upcoming(zone, from, SAMPLE);
        for target in &job.targets {
            let Some(template) = config.target.get(target).map(|target| &target.template) else { continue };
            let plain = template.replace("{job}", name.as_str()).replace("{host}", "host");
            let mut seen = HashSet::new();
            let mut folders = runs.iter().map(|run| run.with_timezone(&zone).format(&plain).to_string());
            if let Some(folder) = folders.find(|folder| !seen.insert(folder.clone())) {
                warnings.push(format!(
                    "several runs of job {name} get the same folder at target {target} (\"{folder}\"): each after the \
                     first has its seconds, or its run id, appended; name the hour and minute in `template` \
                     (%H%M), if that is not meant"
                ));
            }
        }
    }
    let place = |target: &TargetConfig| target.address("").trim_end_matches('/').to_owned();
    for (outer, target) in &config.target {
        let above = format!("{}/", place(target));
        for (inner, _) in config.target.iter().filter(|(_, target)| place(target).starts_with(&above)) {
            warnings.push(format!(
                "target {inner} lies inside target {outer}: a look through {outer} (`agent target scan`, `agent prune \
                 --all-hosts`) finds the backups of both"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(template: &str, schedule: &str) -> Vec<String> {
        let text = format!(
            "timezone = \"Europe/Berlin\"\n[target.a]\ntype = \"directory\"\npath = \"/b\"\ntemplate = \"{template}\"\n\
             [target.bb]\ntype = \"directory\"\npath = \"/bb\"\n\
             [job.web]\nschedule = \"{schedule}\"\ntargets = [\"a\", \"bb\"]\n\
             [job.web.source.files]\ntype = \"files\"\npaths = [\"/etc\"]\n"
        );
        warnings(&toml::from_str(&text).unwrap())
    }

    #[test]
    fn runs_that_share_a_folder_are_named_and_those_that_do_not_are_not() {
        let warned = found("{host}/%Y/%m/%d", "0 3,11,19 * * *");
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(
            warned[0].contains("job web") && warned[0].contains("target a (\"host/2026/12/"),
            "{warned:?}"
        );
        assert!(found("%Y-%m-%d", "0 3 * * *").is_empty());
        assert!(found("%G-W%V", "0 3 * * 1").is_empty());
        assert!(found("{job}/%Y/%m/%d/%H%M", "*/5 * * * *").is_empty());
        assert_eq!(found("%H%M", "0 3 * * *").len(), 1);
    }

    #[test]
    fn a_target_inside_another_is_named() {
        let text = "[target.all]\ntype = \"directory\"\npath = \"/mnt/nas\"\n\
                    [target.web]\ntype = \"directory\"\npath = \"/mnt/nas/web\"\n\
                    [target.nasty]\ntype = \"directory\"\npath = \"/mnt/nasty\"\n";
        let warned = warnings(&toml::from_str(text).unwrap());
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(warned[0].starts_with("target web lies inside target all:"), "{warned:?}");
    }
}
