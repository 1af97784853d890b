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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use host::Host;
use scenarios::Scenario;
use shorten::Pace;
use watch::Watch;

/// A scenario with its host.
type Pair = (&'static Scenario, Host);

/// Does something for each at the same time, and gives those for which it failed.
fn for_each(pairs: &[Pair], what: impl Fn(&Scenario, &Host) + Sync) -> Vec<&'static Scenario> {
    let what = &what;
    let one = |(scenario, host): &'_ Pair| -> Option<&'static Scenario> {
        let begun = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(|| what(scenario, host))).is_ok();
        let end = if good { "ok" } else { "FAILED" };
        eprintln!("{}: {end} after {:.1} s: {}", host.name, begun.elapsed().as_secs_f64(), scenario.what);
        (!good).then_some(scenario)
    };
    thread::scope(|threads| {
        let started: Vec<_> = pairs.iter().map(|pair| threads.spawn(move || one(pair))).collect();
        started.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Looks how long the machine stands still, or has no turn for this test.
struct Standstill {
    longest: Arc<Mutex<Duration>>,
    over: Arc<AtomicBool>,
}

impl Standstill {
    fn watch() -> Self {
        let standstill = Self { longest: Arc::default(), over: Arc::default() };
        let (longest, over) = (Arc::clone(&standstill.longest), Arc::clone(&standstill.over));
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(Duration::from_millis(50));
                let mut longest = longest.lock().unwrap();
                *longest = begun.elapsed().max(*longest);
            }
        });
        standstill
    }

    fn longest(&self) -> Duration {
        *self.longest.lock().unwrap()
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Lets all hosts go through their day. Gives those that failed, and how far the machine was behind, by
/// [`Watch::strain`] and by the time it stood still, against the time between two readings.
fn play(scenarios: &[&'static Scenario], pace: Pace) -> (Vec<&'static Scenario>, f64) {
    let standstill = Standstill::watch();
    let pairs: Vec<Pair> = scenarios.iter().map(|s| (*s, Host::new(s.host, pace))).collect();
    // Prometheus would tell of agents that are not there yet.
    let failed = for_each(&pairs, |scenario, host| (scenario.before)(host));
    assert!(failed.is_empty(), "not even begun: {failed:?}");
    let agents: Vec<_> = pairs.iter().map(|(_, host)| (host.name, host.door.address)).collect();
    let watch = Watch::start(&agents, pace);
    let mut failed = for_each(&pairs, |scenario, host| (scenario.day)(&watch, host));
    if std::env::var_os("PAIRING_MAILS").is_some() {
        watch.all_mails().iter().for_each(|mail| println!("{}\n\n{}\n", mail.subject(), mail.text()));
    }
    if failed.is_empty() {
        // Those that ended first had the most time to say too much.
        failed = for_each(&pairs, |_, host| host.nothing_else(&watch));
        nothing_about_others(&watch, &pairs);
        webhooks_were_called(&watch);
    }
    let stood = standstill.longest().as_secs_f64() / pace.scrape_interval().as_secs_f64();
    (failed, watch.strain(pace).max(stood))
}

/// Of what is about no host: that there were none in Prometheus' first seconds may be told, and no more.
fn nothing_about_others(watch: &Watch, pairs: &[Pair]) {
    let of_host = |subject: &String| pairs.iter().any(|(_, host)| subject.contains(host.name));
    let subjects = watch.all_mails().into_iter().map(|mail| mail.subject());
    let others: Vec<String> = subjects.filter(|subject| !of_host(subject)).collect();
    assert!(others.iter().all(|subject| subject.ends_with(": no agents")), "{others:?}");
}

fn webhooks_were_called(watch: &Watch) {
    let called = watch.webhooks();
    let came = |path: &str, token: &str| called.contains(&(path.to_owned(), format!("Bearer the {token}")));
    assert!(came("/ping", "deadman-token"), "nobody calls the dead man's switch: {called:?}");
    let critical = watch.all_mails().iter().any(|mail| mail.subject().ends_with(": overdue"));
    assert!(!critical || came("/hooks/alertmanager", "oncall-token"), "nobody is woken: {called:?}");
}

#[test]
fn whatever_breaks_is_told_once_by_the_right_one_and_so_is_its_end() {
    let chosen = std::env::var("PAIRING").unwrap_or_default();
    let all: Vec<&Scenario> = scenarios::ALL.iter().filter(|s| s.host.contains(&chosen)).collect();
    let (failed, strain) = play(&all, Pace(1));
    if failed.is_empty() {
        return;
    }
    // On a machine so busy that an agent cannot even be read in time, Prometheus is right to miss it. Then the
    // clocks go slower.
    assert!(strain > 0.5, "not told as it should be: {failed:?}");
    let (failed, _) = play(&failed, Pace(3));
    assert!(failed.is_empty(), "not told as it should be, also with more time: {failed:?}");
}
