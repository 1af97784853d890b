//! `agent notify`: channels tried, the queue looked at and worked on; refusals, limits, broken channels.

use super::http::{HttpServer, Manners};
use super::smtp::SmtpServer;
use super::world::World;
use super::{break_source, config, mend_source, secret};

fn hook(server: &HttpServer, more: &str) -> String {
    format!("[notify.hook]\ntype = \"webhook\"\nurl = \"{}\"\n{more}\n", server.url("/hooks/canary-1"))
}

#[test]
fn a_test_goes_through_each_channel_and_says_how_each_went() {
    let server = HttpServer::plain();
    let mail = SmtpServer::plain();
    let channels = format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"backup@example.org\"\nto = [\"a@example.org\"]\n{}\
         [notify.phone]\ntype = \"ntfy\"\nurl = \"{}\"\n[notify.switch]\ntype = \"ping\"\nurl = \"{}\"\n",
        mail.url(),
        hook(&server, ""),
        server.url("/topic"),
        server.url("/ping/canary-2")
    );
    let world = World::new(&config(&channels));
    world.agent("notify test").exits(0).says(&[
        "admin: accepted for a@example.org",
        "hook: accepted\n",
        "phone: accepted\n",
        "switch: accepted\n",
    ]);
    assert_eq!(mail.mails().len(), 1);
    // A switch learns nothing about backups from a test.
    assert_eq!(server.lines(), ["POST /hooks/canary-1", "POST /", "POST /ping/canary-2/log"]);
    server.next([Manners::Answer(403, "", b"no canary-1 here".to_vec())]);
    let ran = world.agent("notify test hook").exits(1);
    assert!(
        ran.out.starts_with(
            "hook: not accepted: the webhook at 127.0.0.1 refused the message with 403 Forbidden (no [secret] here)"
        ),
        "{}",
        ran.out
    );
    world.agent("notify test nobody").exits(2).says(&["there is no channel nobody; there are: admin, hook"]);
}

#[test]
fn a_refused_message_is_not_tried_again_and_is_seen_everywhere_until_somebody_retries_it() {
    let server = HttpServer::plain();
    let world = World::new(&config(&hook(&server, "")));
    break_source(&world);
    server.next([Manners::Answer(404, "", b"no such hook".to_vec())]);
    let ran = world.agent("backup").exits(1);
    assert!(format!("{}{}", ran.out, ran.err).contains("404 Not Found (no such hook)"), "{ran:?}");
    world.agent("tend --retry").exits(0);
    assert_eq!(server.requests().len(), 1, "it was tried once");
    let queue = world.agent("notify queue --json").json();
    assert_eq!((&queue[0]["status"], &queue[0]["attempts"]), (&"refused".into(), &1.into()), "{queue:#}");
    world
        .agent("notify queue")
        .exits(0)
        .says(&["refused", "hook: the webhook at 127.0.0.1 refused the message"]);
    let metrics = world.agent("metrics").out;
    for line in [
        "backup_notifications_refused_total{channel=\"hook\"} 1\n",
        "backup_notification_failures_total{channel=\"hook\"} 1\n",
        "backup_notifications_pending{channel=\"hook\"} 0\n",
        "backup_last_failure_mail_timestamp_seconds{backup_job=\"web\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line:?} is missing:\n{metrics}");
    }
    let check = world.agent("check");
    assert!(check.out.contains("a message for hook was refused"), "{}", check.out);
    let id = queue[0]["id"].to_string();
    world.agent(&format!("notify retry {id}")).exits(0).says(&[&format!("{id} hook: delivered")]);
    assert_eq!(server.requests().len(), 2);
    let all = server.requests();
    assert_eq!(all[0].header("idempotency-key"), all[1].header("idempotency-key"));
    world.agent(&format!("notify retry {id}")).exits(2).says(&["was delivered or replaced"]);
    world.agent("notify retry 4711").exits(2).says(&["there is no message 4711"]);
    world.agent("notify retry some").exits(2);
}

#[test]
fn a_limit_is_kept_to_and_what_waits_can_be_dropped() {
    let server = HttpServer::plain();
    let world = World::new(&config(&hook(&server, "")));
    break_source(&world);
    server.next([Manners::Answer(429, "retry-after: 3600\r\n", Vec::new())]);
    world.agent("backup").exits(1);
    let queue = world.agent("notify queue --json --open").json();
    let time =
        |key: &str| -> chrono::DateTime<chrono::Utc> { queue[0][key].as_str().unwrap().parse().unwrap() };
    let wait = (time("next_attempt") - time("created")).num_seconds();
    assert!((3595..3700).contains(&wait), "{wait}: {queue:#}");
    world.agent("tend").exits(0);
    assert_eq!(server.requests().len(), 1, "the server is left alone");
    world.agent("notify drop all").exits(0).says(&["1 message was taken out"]);
    assert_eq!(world.agent("notify queue --json --open").json(), serde_json::json!([]));
    world.agent("tend --retry").exits(0);
    assert_eq!(server.requests().len(), 1);
    let id = world.agent("notify queue --json").json()[0]["id"].to_string();
    world.agent(&format!("notify drop {id}")).exits(2).says(&["(dropped) does not wait"]);
    // Nobody was told, so the next failure is told.
    world.agent("backup").exits(1);
    assert_eq!(server.requests().len(), 2);
    assert_eq!(server.last().json()["streak"]["runs"], 2);
}

#[test]
fn a_missing_secret_breaks_its_channel_loudly_and_no_backup() {
    let server = HttpServer::plain();
    let mail = SmtpServer::plain();
    let channels = format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nuser = \"backup\"\npassword_file = \"{{}}/password\"\n\
         from = \"backup@example.org\"\nto = [\"a@example.org\"]\n{}",
        mail.url(),
        hook(&server, "")
    );
    let world = World::new(&config(&channels));
    world.agent("config check").exits(2).says(&["/password does not exist; write the secret there"]);
    let ran = world.agent("backup").exits(0);
    assert!(ran.err.contains("/password"), "the log says it: {}", ran.err);
    // The other channel is told once.
    assert_eq!(server.requests().len(), 1, "{:?}", server.lines());
    let told = server.last().json();
    assert_eq!(told["kind"], "agent");
    assert!(told["text"].as_str().unwrap().contains("the channel admin does not work"), "{told:#}");
    world.agent("backup").exits(0);
    assert_eq!(server.requests().len(), 1);
    let check = world.agent("check");
    assert!(check.code == 1 && check.out.contains("admin: it cannot be used"), "{}", check.out);
    let metrics = world.agent("metrics").out;
    assert!(metrics.contains("backup_notification_channel_ok{channel=\"admin\"} 0\n"), "{metrics}");
    assert!(metrics.contains("backup_notification_channel_ok{channel=\"hook\"} 1\n"), "{metrics}");
    world.agent("notify test admin").exits(1).says(&["admin: not accepted for a@example.org"]);
    // What it would have told waits for the password.
    break_source(&world);
    world.agent("backup").exits(1);
    assert_eq!(server.last().json()["kind"], "failure");
    assert_eq!(mail.mails().len(), 0);
    world.sh("sed -i '/^user = /d; /^password_file = /d' config.toml");
    world.agent("notify retry all").exits(0).says(&["admin: delivered"]);
    assert!(mail.mails()[0].header("Subject").starts_with("[backup-failure] web on web1"));
    mend_source(&world);
    world.agent("backup").exits(0);
    let check = world.agent("check");
    assert!(!check.out.contains("cannot be used"), "{}", check.out);
}

#[test]
fn a_secret_that_others_can_read_is_an_error_of_the_configuration_and_no_reason_to_be_silent() {
    let server = HttpServer::plain();
    let world = World::new(&config(&hook(&server, "secret_file = \"{}/key\"")));
    secret(&world, "key", "abcdefg\n");
    world.sh("chmod 644 key");
    world.agent("config check").exits(2).says(&["chmod 600"]);
    break_source(&world);
    let ran = world.agent("backup").exits(1);
    assert!(ran.err.contains("chmod 600"), "{}", ran.err);
    assert_eq!(server.requests().len(), 1);
}
