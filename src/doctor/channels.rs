//! Whether mail servers and addresses can be reached. Nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use super::finding::Finding;
use super::{Group, Look, Visit, table};
use crate::config::Config;
use crate::model::ChannelName;
use crate::ops::{channels, tell};
use crate::state::HealthStatus;

/// How long one step of reaching somebody may take.
const STEP: Duration = Duration::from_secs(10);

/// One look at all of them, since how bad one is depends on the others.
pub(super) fn looks(_: &Arc<Visit>) -> Vec<(Group, String, Look)> {
    vec![(Group::Channels, "the channels".to_owned(), Box::new(all))]
}

fn all(visit: &Visit) -> Vec<Finding> {
    let config = &visit.patient.config;
    if config.notify.is_empty() {
        let text = "nobody is told when a backup fails: the configuration has no [notify.…]";
        return vec![
            Finding::bad(&table::NO_CHANNEL, text)
                .fix(format!("Add one: `{} config init -` prints examples", visit.patient.command)),
        ];
    }
    let mut findings: Vec<Finding> = std::thread::scope(|scope| {
        let looks: Vec<_> =
            config.notify.keys().map(|name| scope.spawn(move || one(visit, config, name))).collect();
        // A look that panicked is no answer.
        let answer = |look: std::thread::ScopedJoinHandle<'_, Finding>| {
            look.join().unwrap_or_else(|_| Finding::unknown(Group::Channels, "a look at a channel broke off"))
        };
        looks.into_iter().map(answer).collect()
    });
    let somebody = findings.iter().any(|finding| finding.status == HealthStatus::Ok);
    for finding in &mut findings {
        if somebody && finding.status == HealthStatus::Critical {
            finding.status = HealthStatus::Warning;
        }
    }
    findings
}

fn one(visit: &Visit, config: &Config, name: &ChannelName) -> Finding {
    // One at a time, so that a broken one does not hide the others.
    let mut only = config.clone();
    only.notify.retain(|other, _| other == name);
    let reached = || {
        let channels = channels::channels(&only);
        let channel = channels.first().ok_or("it is not in the configuration")?;
        tell::block_on(channel.reach(STEP)).map_err(|error| format!("{error:#}"))?
    };
    let result: Result<String, String> = reached();
    match result {
        Ok(text) => Finding::good(&table::CHANNEL, format!("{name}: {text}")),
        Err(text) => {
            let denied = !rustix::process::geteuid().is_root() && text.contains("ermission denied");
            Finding::bad(&table::CHANNEL, format!("{name}: {text}"))
                .unknown_if(denied)
                .fix(format!("Put that right, then `{} notify test {name}`", visit.patient.command))
        }
    }
}
