//! Runs it starts, and what an end in the middle of one leaves behind.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use backup_agent::model::Outcome;
use backup_agent::state::{FactKey, MessageKind, RunTrigger};

#[cfg(feature = "failpoints")]
use crate::host::all_below;
use crate::host::{Host, PATIENCE, SLOW, get, job, metric, partials};

#[test]
fn a_daemon_runs_its_jobs_serves_metrics_and_ends_with_0_on_sigterm() {
    let host = Host::new(r#"schedule = "0 3 * * *""#);
    let mut daemon = host.start(&["--now"]);
    let address = daemon.address();
    daemon.wait_for("readiness", || get(address, "/readyz").0 == 200);
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
fn a_daemon_is_ready_two_seconds_after_its_start() {
    let host = Host::new(r#"schedule = "0 3 * * *""#);
    // A machine with other work may be slow once, or twice.
    let mut times = Vec::new();
    while times.iter().all(|took| *took >= Duration::from_secs(2)) {
        assert!(times.len() < 10, "start to ready took {times:?}");
        let begun = Instant::now();
        let mut daemon = host.start(&[]);
        let address = daemon.address();
        daemon.wait_for("readiness", || get(address, "/readyz").0 == 200);
        times.push(begun.elapsed());
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.said());
    }
}

#[test]
fn a_schedule_that_comes_due_starts_a_run() {
    let host = Host::new(r#"schedule = "* * * * *""#);
    let mut daemon = host.start(&[]);
    daemon.address();
    // On a machine with other work the first may be late, and the next ones as well, but not each of them.
    let mut late = Vec::new();
    while late.iter().all(|late| *late >= 2000) {
        let runs = late.len();
        assert!(runs < 4, "late by so many milliseconds: {late:?}");
        let begun = Instant::now();
        while host.ended_runs() <= runs {
            assert!(begun.elapsed() < 2 * PATIENCE, "no run: {}", daemon.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        let run = host.last_ended_run();
        assert_eq!(run.outcome, Some(Outcome::Success));
        late.push((run.started - run.scheduled_for.unwrap()).num_milliseconds());
    }
    assert_eq!(host.last_ended_run().trigger, RunTrigger::Schedule);
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
    let times = || {
        let mut times: Vec<Duration> = (0..20).map(|_| get(address, "/metrics").2).collect();
        times.sort();
        times
    };
    // This is not the build the figure is promised for, on a machine with other work, which may be much for a while.
    daemon.wait_for("an answer within 50 ms", || times()[10] < Duration::from_millis(50));
    host.go_on();
    daemon.wait_for("the end of the run", || host.ended_runs() == 1);
}

#[test]
fn a_run_that_sigterm_meets_is_interrupted_told_and_leaves_nothing_behind() {
    let host = Host::new("");
    host.hold();
    let mut daemon = host.start(&["--now"]);
    daemon.wait_for("the source", || host.path("begun").exists());
    // Not after `shutdown_timeout`, which is longer than the test waits.
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.said());
    assert_eq!(host.last_run().unwrap().outcome, Some(Outcome::Interrupted));
    assert_eq!(partials(&host), Vec::<PathBuf>::new());
    let queued = host.state().pending_messages().unwrap();
    assert!(queued.iter().any(|message| message.kind == MessageKind::Interrupted), "{queued:?}");
}

#[test]
fn a_second_signal_ends_the_daemon_at_once_and_the_next_start_cleans_up() {
    let host = Host::new("");
    // A hook that ends what the run began keeps it, for as long as the test wants.
    let stubborn = r#"
[job.web.hook.last]
after = ["sh", "-c", "while [ -e FOLDER/slow ]; do sleep 0.05; done"]
timeout = "10m"
"#;
    host.configure("127.0.0.1:0", "", &format!("{SLOW}{stubborn}"));
    host.hold();
    let mut daemon = host.start(&["--now"]);
    daemon.wait_for("the source", || host.path("begun").exists());
    daemon.signal("TERM");
    daemon.wait_for("the first signal", || daemon.said().contains("SIGTERM: ending"));
    // Not SIGINT: a shell that starts the tests in its background has it ignored, for the daemon too.
    daemon.signal("TERM");
    assert_eq!(daemon.end().code(), Some(130), "{}", daemon.said());
    host.go_on();
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
    let kinds = || -> Vec<MessageKind> {
        host.state().messages(10).unwrap().iter().map(|message| message.kind).collect()
    };
    daemon.wait_for("both messages", || {
        kinds().contains(&MessageKind::Interrupted) && kinds().contains(&MessageKind::Recovery)
    });
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
    daemon.wait_for("the copy that waits", || {
        metric(address, "backup_copies_pending{backup_job=\"web\",target=\"nas\"}") == Some(1.0)
    });
    // Each target is looked at by itself.
    daemon
        .wait_for("the other target", || metric(address, "backup_target_up{target=\"local\"}") == Some(1.0));
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
