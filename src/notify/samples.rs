//! A message of every kind, with much in it and with as little as there can be: what templates are tried on
//! before they are needed.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::facts::*;
use super::message::{Content, Kind, Labels, Layout, render_as};
use super::templates;
use crate::event::Step;
use crate::manifest::{FileWarning, PathText};
use crate::model::{Outcome, RunId, WarningCounts, WarningKind};

/// Calls `f` with each sample and with the sample as data, until one fails.
pub(super) fn each<E>(f: &mut dyn FnMut(&Content<'_>, &Value) -> Result<(), E>) -> Result<(), E> {
    // Names that are constants of this file have the form their types ask for; without one there is
    // nothing to try on.
    let Some(samples) = Samples::new() else { return Ok(()) };
    for status_url in [Some("https://web1.example.org"), None] {
        for content in samples.contents() {
            let message = render_as(Layout::Plain, content, &Labels::default(), samples.now);
            f(&content, &templates::view(&content, &message, "backup", status_url, samples.now))?;
        }
    }
    Ok(())
}

struct Samples {
    now: DateTime<Utc>,
    full: Vec<(Kind, RunFacts)>,
    bare: Vec<(Kind, RunFacts)>,
    streak: Streak,
    digests: [DigestFacts; 2],
    checks: [CheckFacts; 2],
    test: TestFacts,
    agents: [AgentFacts; 2],
    verified: [VerifyFacts; 3],
}

impl Samples {
    fn contents(&self) -> Vec<Content<'_>> {
        let mut contents = Vec::new();
        for (kind, facts) in &self.full {
            contents.push(Content::Run(*kind, facts, Some(&self.streak)));
            contents.push(Content::Run(*kind, facts, None));
        }
        contents.extend(self.bare.iter().map(|(kind, facts)| Content::Run(*kind, facts, None)));
        contents.extend(self.digests.iter().map(Content::Digest));
        contents.extend(self.checks.iter().map(Content::Check));
        contents.push(Content::Test(&self.test));
        contents.extend(self.agents.iter().map(Content::Agent));
        contents.extend(self.verified.iter().map(Content::Verify));
        contents
    }

    fn new() -> Option<Self> {
        let now: DateTime<Utc> = "2026-11-24T18:00:12Z".parse().ok()?;
        let run_id: RunId = "20261124T180000Z-k3f9qa".parse().ok()?;
        let job: crate::model::JobName = "web".parse().ok()?;
        let target: crate::model::TargetName = "local".parse().ok()?;
        let (host, command, timezone) = ("web1".to_owned(), "agent".to_owned(), chrono_tz::Europe::Berlin);
        let newest = LastGood::Backup(GoodBackup {
            run_id: run_id.clone(),
            taken: now - TimeDelta::hours(8),
            target: target.clone(),
            location: Some("/var/backups/web/daily/2026/11/24/1100".to_owned()),
        });
        let counts = WarningCounts { unreadable: 2, ..WarningCounts::default() };
        let bare = RunFacts {
            job: job.clone(),
            host: host.clone(),
            run_id: run_id.clone(),
            outcome: Outcome::Failure,
            degraded: Vec::new(),
            failed_step: None,
            failed_component: None,
            error: None,
            started: now - TimeDelta::seconds(12),
            ended: now,
            timezone,
            components: Vec::new(),
            warning_counts: WarningCounts::default(),
            first_warnings: Vec::new(),
            log_tail: Vec::new(),
            newest_verified: LastGood::Nothing,
            next_run: None,
            copies: Vec::new(),
            command: command.clone(),
        };
        let full = RunFacts {
            degraded: vec!["copy nas: the mount is gone".to_owned()],
            failed_step: Some(Step::Capture),
            failed_component: Some("database".parse().ok()?),
            error: Some("mariadb-dump ended with status 2\nAccess denied".to_owned()),
            components: vec![ComponentFacts {
                name: "application".parse().ok()?,
                source_bytes: 640 << 20,
                stored_bytes: 512 << 20,
                entries: 41_203,
                warning_counts: counts,
            }],
            warning_counts: counts,
            first_warnings: vec![FileWarning {
                path: PathText::from("var/www/html/storage/key"),
                kind: WarningKind::Unreadable,
                detail: "Permission denied".to_owned(),
            }],
            log_tail: vec!["19:00:12 ERROR database: failed".to_owned()],
            newest_verified: newest.clone(),
            next_run: Some(now + TimeDelta::hours(8)),
            copies: vec![CopyFacts {
                target: target.clone(),
                state: "pending".to_owned(),
                detail: Some("the mount is gone".to_owned()),
            }],
            ..bare.clone()
        };
        let kinds = [
            (Kind::Failure, Outcome::Failure),
            (Kind::Partial, Outcome::Partial),
            (Kind::Interrupted, Outcome::Interrupted),
            (Kind::Reminder, Outcome::Failure),
            (Kind::Reminder, Outcome::Success),
            (Kind::Degraded, Outcome::Success),
            (Kind::Recovery, Outcome::Success),
            (Kind::Success, Outcome::Warning),
        ];
        let of_kinds = |facts: &RunFacts| {
            kinds
                .iter()
                .map(|(kind, outcome)| (*kind, RunFacts { outcome: *outcome, ..facts.clone() }))
                .collect()
        };
        let unknown = RunFacts { newest_verified: LastGood::Unknown, ..bare.clone() };
        let mut all_bare: Vec<(Kind, RunFacts)> = of_kinds(&bare);
        all_bare.push((Kind::Failure, unknown));
        let digest = DigestFacts {
            host: host.clone(),
            timezone,
            from: now - TimeDelta::days(1),
            until: now,
            jobs: Vec::new(),
            command: command.clone(),
        };
        let digest_job = DigestJob {
            job: job.clone(),
            good_runs: 3,
            bad_runs: 1,
            last_good: Some(now),
            stored_bytes: 512 << 20,
            warnings: 2,
            newest_verified: newest.clone(),
            notes: vec!["3 copies pending at nas".to_owned()],
        };
        let quiet_job = DigestJob {
            last_good: None,
            newest_verified: LastGood::Nothing,
            notes: Vec::new(),
            ..digest_job.clone()
        };
        let check = CheckFacts {
            host: host.clone(),
            timezone,
            at: now,
            status: "OK".to_owned(),
            findings: Vec::new(),
            command: command.clone(),
        };
        let finding = |job| FindingFacts {
            status: "CRITICAL".to_owned(),
            job,
            check: "overdue".to_owned(),
            text: "overdue for 3 h".to_owned(),
        };
        let agent = AgentFacts {
            host: host.clone(),
            timezone,
            at: now,
            title: "the configuration was refused".to_owned(),
            meaning: "Jobs go on with the last good configuration".to_owned(),
            details: vec!["config.toml:3: unknown key".to_owned()],
            advice: Some("Mend it".to_owned()),
            command: command.clone(),
        };
        let damaged = VerifyFacts {
            job,
            host: host.clone(),
            timezone,
            at: now,
            ok: false,
            run_id,
            taken: now - TimeDelta::days(3),
            target,
            location: "/var/backups/web/daily/2026/11/21/1900".to_owned(),
            problems: vec!["database.sql.zst has 7 bytes, 9 were written".to_owned()],
            newest_verified: newest,
            before: None,
            command,
        };
        Some(Self {
            now,
            full: of_kinds(&full),
            bare: all_bare,
            streak: Streak {
                since: now - TimeDelta::days(1),
                runs: 3,
                outcome: Outcome::Failure,
                step: Some(Step::Capture),
                component: None,
                error: Some("mariadb-dump ended with status 2".to_owned()),
                told: true,
            },
            digests: [DigestFacts { jobs: vec![digest_job, quiet_job], ..digest.clone() }, digest],
            checks: [
                CheckFacts {
                    status: "CRITICAL".to_owned(),
                    findings: vec![finding(Some(damaged.job.clone())), finding(None)],
                    ..check.clone()
                },
                check,
            ],
            test: TestFacts {
                host,
                timezone,
                at: now,
                channel: "admin".parse().ok()?,
                tells: "failure, recovery".to_owned(),
            },
            agents: [AgentFacts { advice: None, details: Vec::new(), ..agent.clone() }, agent],
            verified: [
                VerifyFacts { newest_verified: LastGood::Nothing, ..damaged.clone() },
                VerifyFacts { ok: true, problems: Vec::new(), ..damaged.clone() },
                damaged,
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_is_a_sample_of_every_kind() {
        let mut kinds = BTreeSet::new();
        each::<()>(&mut |content, view| {
            kinds.insert(content.kind());
            assert_eq!(view["kind"], content.kind().as_str());
            Ok(())
        })
        .unwrap();
        assert_eq!(kinds, BTreeSet::from(Kind::ALL));
    }
}
