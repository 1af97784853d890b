//! Runs it starts, and what an end in the middle of one leaves behind.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use backup_agent::model::Outcome;
use backup_agent::state::{FactKey, MessageKind, RunTrigger};

#[cfg(feature = "failpoints")]
use crate::host::all_below;
use crate::host::{Host, get, job, metric, partials};

#[test]
fn a_daemon_runs_its_jobs_serves_metrics_and_ends_with_0_on_sigterm() {
    let host = Host::new(r#"schedule = "0 3 * * *""#);
    let begun = Instant::now();
    let mut daemon = host.start(&["--now"]);
    let address = daemon.address();
    daemon.wait_for("readiness", || get(address, "/readyz").0 == 200);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "start to ready took {took:?}");
    daemon.wait_for("the run", || host.ended_runs() == 1);
    daemon.wait_for("the copy", || {
        metric(address, "backup_copies_pending{backup_job=\"web\",target=\"nas\"}") == Some(0.0)
            && metric(address, "backup_backups{backup_job=\"web\",target=\"nas\"}") == Some(1.0)
    });
    assert_eq!(metric(address, "backup_last_run_success{backup_job=\"web\"}"), Some(1.0));
    assert_eq!(get(address, "/healthz").0, 200);
    assert!(get(address, "/api/v1/status").1.contains("\"ready\":true"));
    daemon.wait_for("a probe", || metric(address, "backup_target_up{target=\"nas\"}") == Some(1.0));
    daemon.wait_for("the text file", || {
        let text = fs::read_to_string(host.path("agent.prom")).unwrap_or_default();
        text.contains("backup_last_run_success{backup_job=\"web\"} 1")
    });
    daemon.wait_for("the check of the files", || {
        metric(address, "backup_health_status{backup_job=\"web\",check=\"files\"}") == Some(0.0)
    });
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(host.state().fact(FactKey::AgentStopped).unwrap().is_some());
    let run = host.last_run().unwrap();
    assert_eq!((run.outcome, run.degraded.len()), (Some(Outcome::Success), 0), "{run:?}");
}

#[test]
fn a_schedule_that_comes_due_starts_a_run() {
    let host = Host::new(r#"schedule = "* * * * *""#);
    let mut daemon = host.start(&[]);
    daemon.address();
    let begun = Instant::now();
    while host.ended_runs() == 0 && begun.elapsed() < Duration::from_secs(75) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let run = host.last_run().unwrap_or_else(|| panic!("no run: {}", daemon.said()));
    assert_eq!((run.outcome, run.trigger), (Some(Outcome::Success), RunTrigger::Schedule));
    let late = run.started - run.scheduled_for.unwrap();
    assert!(late.num_milliseconds() < 2000, "{late}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn metrics_answer_at_once_while_a_backup_runs() {
    let host = Host::new("");
    host.hold();
    let daemon = host.start(&["--now"]);
    let address = daemon.address();
    daemon.wait_for("the source", || host.path("begun").exists());
    assert_eq!(metric(address, "backup_running{backup_job=\"web\"}"), Some(1.0));
    let mut times: Vec<Duration> = (0..20).map(|_| get(address, "/metrics").2).collect();
    times.sort();
    // This is not the build the figure is promised for, on a machine with other work.
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
    host.go_on();
    daemon.wait_for("the end of the run", || host.ended_runs() == 1);
}

#[test]
fn a_run_that_sigterm_meets_is_interrupted_told_and_leaves_nothing_behind() {
    let host = Host::new("");
    host.hold();
    let mut daemon = host.start(&["--now"]);
    daemon.wait_for("the source", || host.path("begun").exists());
    let begun = Instant::now();
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.said());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(host.last_run().unwrap().outcome, Some(Outcome::Interrupted));
    assert_eq!(partials(&host), Vec::<PathBuf>::new());
    let queued = host.state().pending_messages().unwrap();
    assert!(queued.iter().any(|message| message.kind == MessageKind::Interrupted), "{queued:?}");
}

#[test]
fn a_second_signal_ends_the_daemon_at_once_and_the_next_start_cleans_up() {
    let host = Host::new("");
    // A dump that ignores the wish to end keeps the run for a while.
    let stubborn = r#"
[job.web.source.dump]
type = "command"
command = ["sh", "-c", "trap '' TERM; echo begun > FOLDER/begun; while [ -e FOLDER/slow ]; do sleep 0.05; done"]
"#;
    host.configure("127.0.0.1:0", "", stubborn);
    host.hold();
    let mut daemon = host.start(&["--now"]);
    daemon.wait_for("the source", || host.path("begun").exists());
    daemon.signal("TERM");
    daemon.wait_for("the first signal", || daemon.said().contains("SIGTERM: ending"));
    let begun = Instant::now();
    // Not SIGINT: a shell that starts the tests in its background has it ignored, for the daemon too.
    daemon.signal("TERM");
    assert_eq!(daemon.end().code(), Some(130), "{}", daemon.said());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut daemon = host.start(&[]);
    daemon.wait_for("the dead run", || host.ended_runs() == 1);
    assert_eq!(host.last_run().unwrap().outcome, Some(Outcome::Interrupted));
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(partials(&host), Vec::<PathBuf>::new());
}

#[test]
fn a_daemon_killed_in_a_run_cleans_up_and_catches_up_at_its_next_start() {
    let host = Host::new("");
    host.hold();
    let mut daemon = host.start(&["--now"]);
    daemon.wait_for("the source", || host.path("begun").exists());
    daemon.signal("KILL");
    daemon.end();
    assert_eq!(partials(&host).len(), 1);
    host.go_on();

    let daemon = host.start(&["--now"]);
    daemon.wait_for("both runs", || host.ended_runs() == 2);
    let outcomes: Vec<_> =
        host.state().runs(Some(&job()), 10).unwrap().iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Success), Some(Outcome::Interrupted)], "{}", daemon.said());
    daemon.wait_for("tidiness", || partials(&host).is_empty());
    // No mail could be sent in between: failure and recovery became one message.
    let told = host.state().messages(10).unwrap();
    let kinds: Vec<MessageKind> = told.iter().map(|message| message.kind).collect();
    assert!(kinds.contains(&MessageKind::Interrupted) && kinds.contains(&MessageKind::Recovery), "{kinds:?}");
}

#[test]
fn a_nas_that_is_away_costs_its_own_copy_only_and_gets_it_later() {
    let host = Host::new("copy_wait = \"1s\"");
    fs::remove_dir(host.path("nas")).unwrap();
    let daemon = host.start(&["--now"]);
    let address = daemon.address();
    daemon.wait_for("the run", || host.ended_runs() == 1);
    assert_eq!(host.last_run().unwrap().outcome, Some(Outcome::Success));
    daemon
        .wait_for("the missing target", || metric(address, "backup_target_up{target=\"nas\"}") == Some(0.0));
    assert_eq!(metric(address, "backup_copies_pending{backup_job=\"web\",target=\"nas\"}"), Some(1.0));
    assert_eq!(metric(address, "backup_target_up{target=\"local\"}"), Some(1.0));
    // It is back: nobody waits for the pause after the last attempt to end.
    fs::create_dir(host.path("nas")).unwrap();
    daemon.wait_for("the copy", || {
        metric(address, "backup_copies_pending{backup_job=\"web\",target=\"nas\"}") == Some(0.0)
    });
}

#[test]
#[cfg(feature = "failpoints")]
fn a_good_backup_outlives_a_state_that_fails_at_the_end_of_its_run() {
    let host = Host::new("");
    let mut daemon = host.start_with(&["--now"], |command| {
        command.env("BACKUP_AGENT_FAILPOINT", "end-run#1=eio");
    });
    daemon.address();
    daemon.wait_for("the run", || host.ended_runs() == 1);
    assert_eq!(daemon.stop().code(), Some(0));
    eprintln!("{}", daemon.said());
    let run = host.last_run().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Success), "{run:?}");
    assert!(run.degraded.iter().any(|text| text.contains("Input/output error")), "{run:?}");

    let mut daemon = host.start(&["--now"]);
    daemon.wait_for("the next run", || host.ended_runs() == 2);
    assert_eq!(daemon.stop().code(), Some(0));
    let manifests = all_below(&host.path("local"));
    let manifests = manifests.iter().filter(|path| path.ends_with("manifest.json")).count();
    assert_eq!(manifests, 2, "{}", daemon.said());
}
