//! What arrives: requests as the public documents of the services ask for them, and as a person reads them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use backup_agent::clock::{Clock as _, SystemClock};

use super::http::{HttpServer, Request};
use super::world::World;
use super::{break_source, config, everything_shown, mend_source, secret};

/// The signature as somebody else makes it.
fn openssl_hmac(key: &str, message: &[u8]) -> String {
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(message).unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    out.trim().rsplit(' ').next().unwrap().to_owned()
}

#[track_caller]
fn is_signed(request: &Request, key: &str) {
    let timestamp = request.header("x-backup-agent-timestamp").expect("a timestamp");
    let message = [timestamp.as_bytes(), b".", &request.body].concat();
    let expected = format!("v1={}", openssl_hmac(key, &message));
    assert_eq!(request.header("x-backup-agent-signature"), Some(expected.as_str()));
    let now = SystemClock.now().timestamp();
    assert!((now - timestamp.parse::<i64>().unwrap()).abs() < 600, "{timestamp}");
}

#[test]
fn a_webhook_gets_a_signed_document_that_says_everything_once_for_each_transition() {
    let server = HttpServer::plain();
    let world = World::new(&config(
        "[notify.hook]\ntype = \"webhook\"\nurl_file = \"{}/hook-url\"\nsecret_file = \"{}/hook-key\"\n\
         headers = { X-Environment = \"production\" }\nheader_files = { Authorization = \"{}/hook-auth\" }\n",
    ));
    secret(&world, "hook-url", &server.url("/hooks/canary-path?key=canary-query"));
    secret(&world, "hook-key", "canary-key\n");
    secret(&world, "hook-auth", "Bearer canary-token\n");
    world.agent("config check").exits(0);
    world.agent("backup").exits(0);
    assert_eq!(server.requests().len(), 0, "good runs are not told");
    let good = world.agent("list --json").json()[0]["run_id"].as_str().unwrap().to_owned();

    break_source(&world);
    world.agent("backup").exits(1);
    world.agent("backup").exits(1);
    world.agent("tend").exits(0);
    let requests = server.requests();
    assert_eq!(server.lines(), ["POST /hooks/canary-path?key=canary-query"], "the same failure is told once");
    let request = &requests[0];
    is_signed(request, "canary-key");
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("authorization"), Some("Bearer canary-token"));
    assert_eq!(request.header("x-environment"), Some("production"));
    let json = request.json();
    assert_eq!(json["version"], 1);
    assert_eq!(request.header("idempotency-key"), json["id"].as_str());
    assert_eq!(request.header("x-backup-agent-message-id"), json["id"].as_str());
    for (key, value) in [("kind", "failure"), ("severity", "critical"), ("job", "web"), ("host", "web1")] {
        assert_eq!(json[key], value, "{json:#}");
    }
    assert_eq!(json["late"], serde_json::Value::Null);
    let run = &json["run"];
    assert_eq!(run["outcome"], "failure");
    assert_eq!(run["failed_step"], "preflight");
    assert!(run["error"].as_str().unwrap().contains("/data cannot be backed up"), "{run:#}");
    assert_eq!(run["newest_verified"]["run_id"], good.as_str());
    assert!(run["log_tail"].as_array().unwrap().len() > 2, "{run:#}");
    assert!(json["text"].as_str().unwrap().contains("WHAT IS STILL GOOD"), "{json:#}");
    let link = format!("https://web1.example.org/runs/{}", json["run_id"].as_str().unwrap());
    assert_eq!(json["link"], link.as_str());

    mend_source(&world);
    world.agent("backup").exits(0);
    world.agent("backup").exits(0);
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "{:?}", server.lines());
    is_signed(&requests[1], "canary-key");
    let json = requests[1].json();
    assert_eq!((json["kind"].as_str(), json["severity"].as_str()), (Some("recovery"), Some("ok")));
    assert_eq!(json["streak"]["runs"], 2);
    assert!(!everything_shown(&world).contains("canary"), "a secret is shown");
}

#[test]
fn an_ntfy_topic_gets_what_its_documents_ask_for_and_a_person_can_read_it_on_a_telephone() {
    let server = HttpServer::plain();
    let world = World::new(&config(
        "[notify.phone]\ntype = \"ntfy\"\nurl_file = \"{}/topic\"\ntoken_file = \"{}/token\"\ntags = [\"web1\"]\n\
         priorities = { failure = 5 }\nsuccess = \"always\"\n",
    ));
    secret(&world, "topic", &server.url("/some/prefix/canary-topic"));
    secret(&world, "token", "tk_canarytoken\n");
    world.agent("backup").exits(0);
    break_source(&world);
    world.agent("backup").exits(1);
    let requests = server.requests();
    assert_eq!(server.lines(), ["POST /some/prefix/", "POST /some/prefix/"]);
    let (good, bad) = (&requests[0].json(), &requests[1].json());
    assert_eq!(requests[0].header("authorization"), Some("Bearer tk_canarytoken"));
    assert_eq!(good["topic"], "canary-topic");
    assert_eq!(good["priority"], 2);
    assert_eq!(good["tags"], serde_json::json!(["white_check_mark", "web1"]));
    assert_eq!(bad["priority"], 5);
    assert_eq!(bad["tags"], serde_json::json!(["rotating_light", "web1"]));
    let title = bad["title"].as_str().unwrap();
    assert!(title.starts_with("web on web1: failed in preflight: "), "{title}");
    assert!(bad["click"].as_str().unwrap().starts_with("https://web1.example.org/runs/20"), "{bad:#}");
    let message = bad["message"].as_str().unwrap();
    assert!(message.starts_with("The backup of web on web1 failed. There is no new backup.\n"), "{message}");
    for part in ["WHAT IS STILL GOOD\nThe newest verified backup is ", "WHAT TO DO\n", "backup web"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    assert!(!message.contains("LOG") && message.len() < 3500, "{message}");
    assert!(!everything_shown(&world).contains("canary"), "a secret is shown");
}

#[test]
fn a_dead_mans_switch_hears_start_success_and_failure_of_each_run_under_one_id() {
    let server = HttpServer::plain();
    let world = World::new(&config(&format!(
        "[notify.switch]\ntype = \"ping\"\nurl_file = \"{{}}/ping-url\"\njobs = [\"web\"]\n\
         [notify.status]\ntype = \"ping\"\nurl = \"{}\"\nexit_status = true\non = [\"success\", \"failure\"]\n",
        server.url("/status")
    )));
    secret(&world, "ping-url", &server.url("/ping/canary-uuid"));
    world.agent("backup").exits(0);
    break_source(&world);
    world.agent("backup").exits(1);
    let all = server.requests();
    let of = |prefix: &str| -> Vec<Request> {
        all.iter().filter(|r| r.target.starts_with(prefix)).cloned().collect()
    };
    let pings = of("/ping/");
    let (paths, ids): (Vec<&str>, Vec<&str>) =
        pings.iter().map(|r| r.target.split_once("?rid=").expect("a run id")).unzip();
    let base = "/ping/canary-uuid";
    assert_eq!(paths, [&format!("{base}/start"), base, &format!("{base}/start"), &format!("{base}/fail")]);
    assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[1] != ids[2], "{ids:?}");
    assert_eq!(ids[0].len(), 36);
    let body = pings[3].text();
    let mut lines = body.lines();
    assert!(lines.next().unwrap().starts_with("web: failure, run 20"), "{body}");
    assert!(
        body.contains("cannot be backed up") && body.lines().last().unwrap().ends_with("ends: failure"),
        "{body}"
    );
    let statuses: Vec<String> =
        of("/status").iter().map(|r| r.target.split('?').next().unwrap().to_owned()).collect();
    assert_eq!(statuses, ["/status/0", "/status/1"]);
    let told = world.agent("metrics").out;
    assert!(told.contains("backup_notifications_total{channel=\"switch\"} 4\n"), "{told}");
    // No person reads a ping, so it does not count as a failure told.
    assert!(told.contains("backup_last_failure_mail_timestamp_seconds{backup_job=\"web\"} 0\n"), "{told}");
    assert!(!everything_shown(&world).contains("canary"), "a secret is shown");
}

#[test]
fn a_channel_tells_only_about_its_jobs_and_each_channel_keeps_its_own_account() {
    let server = HttpServer::plain();
    let other = "[job.other]\ntrigger = \"external\"\ntargets = [\"second\"]\n[job.other.source.files]\n\
                 type = \"files\"\npaths = [\"{}/gone\"]\n\
                 [target.second]\ntype = \"directory\"\npath = \"{}/second\"\n";
    let hook = |name: &str, more: &str| {
        format!(
            "[notify.{name}]\ntype = \"webhook\"\nurl = \"{}\"\n{more}\n",
            server.url(&format!("/{name}"))
        )
    };
    let world = World::new(&config(&format!(
        "{other}{}{}{}",
        hook("all", "remind = \"1s\""),
        hook("web", "jobs = [\"web\"]"),
        hook("ends", "on = [\"recovery\"]"),
    )));
    world.sh("mkdir second");
    world.agent("backup other").exits(1);
    assert_eq!(server.lines(), ["POST /all"]);
    break_source(&world);
    world.agent("backup web").exits(1);
    let mut lines = server.lines().split_off(1);
    lines.sort();
    assert_eq!(lines, ["POST /all", "POST /web"]);
    // A reminder for the one whose time has come, nothing for the other.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    world.agent("tend").exits(0);
    let lines = server.lines().split_off(3);
    assert_eq!(lines, ["POST /all", "POST /all"], "one job each");
    let kinds: Vec<_> = server.requests()[3..].iter().map(|r| r.json()["kind"].clone()).collect();
    assert_eq!(kinds, ["reminder", "reminder"]);
    // The end is told once to those who heard of the failure.
    mend_source(&world);
    world.agent("backup web").exits(0);
    let mut ends: Vec<String> = server.requests()[5..]
        .iter()
        .filter(|r| r.json()["kind"] == "recovery")
        .map(|r| r.target.clone())
        .collect();
    ends.sort();
    assert_eq!(ends, ["/all", "/web"]);
}
