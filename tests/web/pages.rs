//! The pages people look at.

use std::sync::{Arc, Mutex};

use backup_agent::config::Config;
use backup_agent::model::{JobName, Outcome};
use backup_agent::state::{Run, Snapshot};

use crate::sample;
use crate::stage::{Stage, start};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_every_job_and_lets_no_text_become_html() {
    let server = start(&Stage::new()).await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    // To look at it in a browser.
    if let Some(path) = std::env::var_os("SAVE_PAGE") {
        std::fs::write(path, &page.body).unwrap();
    }
    for text in [
        "db1.example.org",
        "<h3><a href=\"/jobs/askproai\">askproai</a></h3>",
        "<use href=\"#i-critical\"/></svg>overdue</span>",
        "<use href=\"#i-running\"/></svg>running</span>",
        "<progress max=\"100\" value=\"62\"",
        "<h1>1 job needs attention</h1>",
        "mail is overdue",
        "Next run: web in 40 min.",
        "<code>agent --config /x history mail</code>",
        "var/log/&lt;b&gt;.log",
        "2 files changed, 1 vanished in the last run",
        "23.3 GiB of about 37.3 GiB",
        "7 h 33 min ago",
        "in 7 h 40 min",
        "2026-11-24 03:46 CET",
        "never",
        "only by hand",
        "by cron",
        "paused",
        "2 to copy",
        "<span class=\"pill critical\">damaged</span>",
        "28 of the last 30 runs were good",
        "SHA256SUMS is gone",
        "href=\"/metrics\"",
        "href=\"/api/v1/status\"",
        // From an error text of the sample.
        "&lt;61 GiB&gt; are needed",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
    assert!(!page.body.contains("<61"), "an error text became HTML");
    assert!(!page.body.contains("<script"));
    assert!(!page.body.contains("style=\""), "the policy forbids style attributes");
    assert!(!page.body.contains("<h3><a href=\"/jobs/removed"), "a job that is not configured has a card");
    assert!(page.body.len() < 50_000, "{} bytes", page.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_a_page_with_its_schedule_runs_and_checks() {
    let server = start(&Stage::new()).await;
    let page = server.get("/jobs/mail").await;
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    for text in [
        "<h1>mail</h1>",
        "overdue</span>",
        "<code>30 2 * * *</code> <span class=\"exact\">Europe/Berlin",
        "<dt>Overdue from</dt>",
        "20, of which 2 failed",
        "18 of the last 20 runs were good",
        "<a href=\"/runs/20261124T012000Z-mail00\">9 h ago</a>",
        "the target local has 2 GiB left, &lt;61 GiB&gt; are needed",
        "cleaning up: permission denied",
        "<th scope=\"row\">last-outcome</th>",
        "agent --config /x restore latest --job mail",
        "--until 2026-11-25T08:00",
        "<title>mail: overdue – backups on db1.example.org</title>",
        "href=\"/icon/critical.svg\"",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
    let gone = server.get("/jobs/removed").await;
    assert_eq!(gone.status, 200);
    assert!(gone.body.contains("The configuration has no such job any more"), "{}", gone.body);
    assert!(!gone.body.contains("agent --config /x backup removed"), "a job that is gone cannot be run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_a_page_with_its_error_steps_and_log() {
    let server = start(&Stage::new()).await;
    let page = server.get("/runs/20261124T012000Z-mail00").await;
    assert_eq!(page.status, 200);
    for text in [
        "Failed in preflight",
        "are needed | make room\ndetail",
        "<code>agent --config /x backup mail</code>",
        "<a href=\"/jobs/mail\">mail</a>",
        "<pre>2026-11-24 03:00:00+01:00  INFO &lt;first&gt;</pre>",
        "No message about this run is kept",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
    let page = server.get("/runs/20261124T024500Z-askpro").await;
    for text in [
        "good, with warnings</span>",
        "<th scope=\"row\">read-back</th>",
        "1 min 35 s",
        "<th scope=\"row\">system-state</th>",
        "Files: 2 files changed, 1 vanished, 3 skipped",
    ] {
        assert!(page.body.contains(text), "{text:?} is not in\n{}", page.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_page_that_leads_back_and_repeats_nothing() {
    let server = start(&Stage::new()).await;
    let long = format!("/jobs/{}", "a".repeat(5_000));
    for path in [
        "/jobs/nobody",
        "/jobs/<script>alert(1)</script>",
        "/jobs/%3Cscript%3E",
        "/jobs/../../etc/passwd",
        "/jobs/",
        "/runs/20261124T180000Z-nobody",
        "/runs/'\"><b>",
        &long,
    ] {
        let answer = server.get(path).await;
        // Some are no paths at all, which the server says before anything looks at them.
        assert!(answer.status == 404 || answer.status == 400, "{path}: {}", answer.status);
        if answer.status == 404 {
            assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8", "{path}");
            assert!(answer.body.contains("<a href=\"/\">To the start page</a>"), "{}", answer.body);
            assert!(answer.body.len() < 15_000, "{path}");
            for text in ["script", "nobody", "passwd", "aaaa", "<b>\""] {
                assert!(!answer.body.contains(text), "{path}: {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reloads_only_for_those_who_asked() {
    let server = start(&Stage::new()).await;
    for path in ["/", "/jobs/web", "/runs/20261124T012000Z-mail00"] {
        let page = server.get(path).await;
        assert_eq!(page.headers.get("refresh"), None, "{path}");
        assert!(page.body.contains(&format!("<a href=\"{path}?watch\">Reload every minute</a>")), "{path}");
        let page = server.get(&format!("{path}?watch")).await;
        assert_eq!(page.headers["refresh"], "60", "{path}");
        assert!(page.body.contains(&format!("<a href=\"{path}\">Stop reloading</a>")), "{path}");
        assert_eq!(server.get(&format!("{path}?other=<script>")).await.headers.get("refresh"), None);
    }
}

/// Fifty jobs, each with a name of 64 characters and thirty runs behind it.
fn many_jobs(bad: usize) -> (Config, Snapshot) {
    let (mut config, mut snapshot) = (sample::config(), sample::snapshot());
    let (job, state) =
        (config.job["askproai"].clone(), snapshot.job(&"askproai".parse().unwrap()).unwrap().clone());
    config.job.clear();
    snapshot.jobs.clear();
    for n in 0..50 {
        let name: JobName = format!("{n:02}-{}", "n".repeat(61)).parse().unwrap();
        let mut state = state.clone();
        state.row.job = name.clone();
        state.targets.values_mut().for_each(|at| (at.pending, at.oldest_pending) = (0, None));
        if n < bad {
            let error = Some(format!("<{}>", "the disk is full ".repeat(1_000)));
            let last = state.last_run.take().unwrap();
            state.last_run = Some(Run { outcome: Some(Outcome::Failure), error, ..last });
        }
        config.job.insert(name, job.clone());
        snapshot.jobs.push(state);
    }
    (config, snapshot)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_jobs_are_one_page_of_reasonable_size() {
    for (bad, cards, most) in [(0, 0, 70_000), (3, 3, 80_000), (50, 10, 100_000)] {
        let (config, snapshot) = many_jobs(bad);
        let stage = Stage { config: Arc::new(config), snapshot: Mutex::new(Ok(snapshot)), ..Stage::plain() };
        let server = start(&Arc::new(stage)).await;
        let page = server.get("/").await.body;
        if let Some(path) = std::env::var_os("SAVE_PAGE") {
            std::fs::write(format!("{}-{bad}", path.display()), &page).unwrap();
        }
        assert_eq!(page.matches("<article").count(), cards, "{bad} bad jobs");
        assert_eq!(page.matches("href=\"/jobs/").count(), 50, "{bad} bad jobs");
        assert!(page.len() < most, "{bad} bad jobs: {} bytes", page.len());
        let job = server.get(&format!("/jobs/00-{}", "n".repeat(61))).await.body;
        assert!(job.len() < 50_000, "{} bytes", job.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_at_all_is_not_called_fine() {
    let mut config = sample::config();
    config.job.clear();
    let snapshot = Snapshot { jobs: Vec::new(), health: Vec::new(), ..sample::snapshot() };
    let stage = Stage { config: Arc::new(config), snapshot: Mutex::new(Ok(snapshot)), ..Stage::plain() };
    let page = start(&Arc::new(stage)).await.get("/").await.body;
    assert!(page.contains("<h1>Nothing is backed up: no job is configured</h1>"), "{page}");
    assert!(!page.contains("fine"), "{page}");
}

/// Where packages come from is the business of whoever installs them.
#[test]
fn the_lock_file_of_the_browser_tests_pins_packages_and_names_no_server() {
    let lock = include_str!("../browser/package-lock.json");
    let lock: serde_json::Value = serde_json::from_str(lock).unwrap();
    for (name, package) in lock["packages"].as_object().unwrap().iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["integrity"].as_str().unwrap().starts_with("sha512-"), "{name}");
        assert!(package.get("resolved").is_none(), "{name}");
    }
    assert!(!lock.to_string().contains("://"));
}
