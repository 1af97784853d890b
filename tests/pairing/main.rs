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
use std::time::Instant;

use host::Host;
use watch::Watch;

#[test]
fn whatever_breaks_is_told_once_by_the_right_one_and_so_is_its_end() {
    let chosen = std::env::var("PAIRING").unwrap_or_default();
    let scenarios: Vec<_> = scenarios::ALL.iter().filter(|(name, ..)| name.contains(&chosen)).collect();
    let hosts: Vec<Host> = scenarios.iter().map(|(name, ..)| Host::new(name)).collect();
    let agents: Vec<_> = hosts.iter().map(|host| (host.name, host.door.address)).collect();
    let watch = Watch::start(&agents);
    let failed: Vec<&str> = std::thread::scope(|threads| {
        let started: Vec<_> = scenarios
            .iter()
            .zip(&hosts)
            .map(|((name, what, day), host)| {
                let watch = &watch;
                threads.spawn(move || {
                    let begun = Instant::now();
                    let good = catch_unwind(AssertUnwindSafe(|| day(watch, host))).is_ok();
                    let end = if good { "ok" } else { "FAILED" };
                    eprintln!("{name}: {what}: {end} after {:.1} s", begun.elapsed().as_secs_f64());
                    (!good).then_some(*name)
                })
            })
            .collect();
        started.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    if std::env::var_os("PAIRING_MAILS").is_some() {
        for host in &hosts {
            watch.mails(host.name).iter().for_each(|m| println!("--- {}\n\n{}", m.subject(), m.text()));
        }
    }
    assert!(failed.is_empty(), "not told as it should be: {failed:?}");
    // Those that ended first had the most time to say too much.
    hosts.iter().for_each(|host| host.nothing_else(&watch));
}
