//! Mail and alerts together: real agents, a real Prometheus with the shipped rules, a real Alertmanager with the
//! shipped routes, and mail servers that keep what they get. One thing is broken at a time; then the right
//! one must tell it, once, and nobody else.
//!
//! All hosts are watched by one Prometheus and one Alertmanager, and go through their day at the same time.
//! `PAIRING=name` runs those whose name contains it; `PAIRING_MAILS=1` prints the mails.

#![cfg(all(feature = "real-peers", feature = "failpoints"))]

#[path = "../support/commands.rs"]
#[allow(dead_code)]
mod commands;
mod host;
#[path = "../support/prometheus.rs"]
mod prometheus;
mod scenarios;
mod shorten;
#[path = "../support/smtp.rs"]
mod smtp;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use host::Host;
use scenarios::Scenario;
use watch::Watch;

/// Does something for each scenario at the same time, and gives the hosts for which it failed.
fn for_each<'a>(
    scenarios: &'a [(&'a Scenario, Host)],
    what: impl Fn(&Scenario, &Host) + Sync,
) -> Vec<&'static str> {
    let what = &what;
    let one = |(scenario, host): &'a (&Scenario, Host)| {
        let begun = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(|| what(scenario, host))).is_ok();
        let end = if good { "ok" } else { "FAILED" };
        eprintln!("{}: {end} after {:.1} s: {}", host.name, begun.elapsed().as_secs_f64(), scenario.what);
        (!good).then_some(host.name)
    };
    thread::scope(|threads| {
        let started: Vec<_> = scenarios.iter().map(|both| threads.spawn(move || one(both))).collect();
        started.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn whatever_breaks_is_told_once_by_the_right_one_and_so_is_its_end() {
    let chosen = std::env::var("PAIRING").unwrap_or_default();
    let scenarios: Vec<(&Scenario, Host)> = scenarios::ALL
        .iter()
        .filter(|scenario| scenario.host.contains(&chosen))
        .map(|scenario| (scenario, Host::new(scenario.host)))
        .collect();
    // Prometheus would tell of agents that are not there yet.
    let failed = for_each(&scenarios, |scenario, host| (scenario.before)(host));
    assert!(failed.is_empty(), "not even begun: {failed:?}");
    let agents: Vec<_> = scenarios.iter().map(|(_, host)| (host.name, host.door.address)).collect();
    let watch = Watch::start(&agents);
    let failed = for_each(&scenarios, |scenario, host| (scenario.day)(&watch, host));
    if std::env::var_os("PAIRING_MAILS").is_some() {
        watch.all_mails().iter().for_each(|mail| println!("{}\n\n{}\n", mail.subject(), mail.text()));
    }
    assert!(failed.is_empty(), "not told as it should be: {failed:?}");

    // Those that ended first had the most time to say too much.
    scenarios.iter().for_each(|(_, host)| host.nothing_else(&watch));
    // What is about no host: there were none in Prometheus' first seconds.
    let hosts = |subject: &str| scenarios.iter().any(|(_, host)| subject.contains(host.name));
    let others: Vec<String> =
        watch.all_mails().iter().map(|mail| mail.subject()).filter(|subject| !hosts(subject)).collect();
    assert!(others.iter().all(|subject| subject.ends_with(": no agents")), "{others:?}");
    let called = watch.webhooks();
    let came = |path: &str, token: &str| called.contains(&(path.to_owned(), format!("Bearer the {token}")));
    assert!(came("/ping", "deadman-token"), "nobody calls the dead man's switch: {called:?}");
    let some_only = !chosen.is_empty();
    assert!(some_only || came("/hooks/alertmanager", "oncall-token"), "nobody is woken: {called:?}");
}
