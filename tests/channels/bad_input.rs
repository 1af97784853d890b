//! Servers without manners, and texts that want to be more than text.

use std::time::{Duration, Instant};

use backup_agent::clock::{Clock as _, SystemClock};

use super::http::{HttpServer, Manners};
use super::smtp::{Certificates, SmtpServer};
use super::world::World;
use super::{break_source, config, secret};

fn hook(url: &str, more: &str) -> String {
    format!("[notify.hook]\ntype = \"webhook\"\nurl = \"{url}\"\n{more}\n")
}

#[test]
fn whatever_a_server_answers_ends_in_time_and_in_a_sentence_without_secrets() {
    let server = HttpServer::plain();
    let other = HttpServer::plain();
    let world = World::new(&config(&hook(&server.url("/hooks/canary-path"), "timeout = \"2m\"")));
    let in_haste = World::new(&config(&hook(&server.url("/hooks/canary-path"), "timeout = \"1s\"")));
    let elsewhere: &'static str =
        Box::leak(format!("location: {}\r\n", other.url("/stolen")).into_boxed_str());
    let hostile = "\r\n\u{1b}[31mred\u{202e}txt.exe\0 canary-path <b>".repeat(10_000).into_bytes();
    let answer = |status, body: &[u8]| Manners::Answer(status, "", body.to_vec());
    for (manners, code, says) in [
        // An answer of 200 counts, whatever its text is: nobody reads it.
        (answer(200, b"{]garbage \xff\xfe"), 0, "hook: accepted"),
        (Manners::Endless(200), 0, "hook: accepted"),
        (answer(204, b""), 0, "hook: accepted"),
        (Manners::Endless(500), 1, "answered 500 Internal Server Error (AAAA"),
        (Manners::Endless(400), 1, "refused the message with 400 Bad Request (AAAA"),
        (
            answer(502, &hostile),
            1,
            "answered 502 Bad Gateway (\\u{1b}[31mred\\u{202e}txt.exe\\u{0} [secret] <b>",
        ),
        (Manners::Stall, 1, "the webhook at 127.0.0.1 did not answer within 1 s"),
        (Manners::Drip, 1, "the webhook at 127.0.0.1 did not answer within 1 s"),
        (Manners::Garbage, 1, "cannot reach the webhook at 127.0.0.1: "),
        (Manners::Close, 1, "cannot reach the webhook at 127.0.0.1: "),
        (Manners::Answer(302, elsewhere, Vec::new()), 1, "a redirect is not followed"),
        (Manners::Answer(308, elsewhere, Vec::new()), 1, "correct the address"),
    ] {
        let shown = format!("{manners:?}").chars().take(60).collect::<String>();
        let world = if matches!(manners, Manners::Stall | Manners::Drip) { &in_haste } else { &world };
        server.next([manners]);
        let begun = Instant::now();
        let ran = world.agent("notify test");
        assert!(begun.elapsed() < Duration::from_secs(60), "{shown}: {:?}", begun.elapsed());
        assert!(ran.code == code && ran.out.contains(says), "{shown}: {ran:?}");
        assert!(ran.out.len() < 1000 && !ran.out.contains("canary"), "{shown}: {}", ran.out);
        assert!(!ran.out.trim_end().contains(|c: char| c.is_control()), "{shown}: {:?}", ran.out);
    }
    assert_eq!(other.requests().len(), 0, "a redirect was followed");
}

#[test]
fn tls_is_checked_and_a_further_authority_can_be_trusted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let server = HttpServer::start(Some(certificates.server_config()));
    let url = server.url("/hooks/canary");
    let world = World::new(&config(&hook(&url, "")));
    let ran = world.agent("notify test").exits(1);
    assert!(ran.out.contains("check the certificate, `ca_file` and this machine's clock"), "{}", ran.out);
    assert!(!ran.out.contains("canary"), "{}", ran.out);
    assert_eq!(server.requests().len(), 0);
    let trusted = format!("ca_file = \"{}\"", certificates.authority.display());
    let world = World::new(&config(&hook(&url, &trusted)));
    world.agent("notify test").exits(0).says(&["hook: accepted"]);
    world.sh(&format!("echo nonsense > '{}'", certificates.authority.display()));
    world.agent("notify test").exits(1).says(&["holds no PEM certificate"]);
    world.agent("config check").exits(2).says(&["holds no PEM certificate"]);
    // Nobody is there at all.
    let world = World::new(&config(&hook("http://127.0.0.1:1/canary", "")));
    let ran = world.agent("notify test").exits(1).says(&["cannot reach the webhook at 127.0.0.1"]);
    assert!(!ran.out.contains("canary"), "{}", ran.out);
}

#[test]
fn a_channel_that_is_down_waits_with_growing_pauses_and_the_others_are_told() {
    let server = HttpServer::plain();
    let channels = format!(
        "[notify.dead]\ntype = \"ntfy\"\nurl_file = \"{{}}/topic\"\n{}",
        hook(&server.url("/hook"), "")
    );
    let world = World::new(&config(&channels));
    secret(&world, "topic", "http://127.0.0.1:1/canary-topic");
    break_source(&world);
    world.agent("backup").exits(1);
    assert_eq!(server.requests().len(), 1);
    let before = SystemClock.now();
    world.agent("tend --retry").exits(1);
    let after = SystemClock.now();
    let queue = world.agent("notify queue --json --open").json();
    assert_eq!(queue.as_array().unwrap().len(), 1, "{queue:#}");
    let row = &queue[0];
    assert_eq!((&row["channel"], &row["recipient"]), (&"dead".into(), &"dead".into()), "never an address");
    assert_eq!(row["attempts"], 2);
    let next: chrono::DateTime<chrono::Utc> = row["next_attempt"].as_str().unwrap().parse().unwrap();
    let (most, least) = ((next - before).num_seconds(), (next - after).num_seconds());
    assert!(most >= 20 && least <= 73, "{least} to {most}");
    assert!(!super::everything_shown(&world).contains("canary"));
}

/// A source that fails with as hostile a text as there can be: control characters, line ends that want to
/// become headers, marks that turn the direction of writing, bytes that are no text, and a megabyte of it.
const HOSTILE: &str = "[job.hostile]\ntrigger = \"external\"\ntargets = [\"second\"]\n\
    [job.hostile.source.dump]\ntype = \"command\"\ncommand = [\"python3\", \"hostile.py\"]\n\
    [target.second]\ntype = \"directory\"\npath = \"{}/second\"\n";

const PROGRAM: &str = "import os\nevil = b'a\\r\\nBcc: victim@example.org\\r\\nX-Evil: 1\\r\\n\\r\\n\\x1b[2J\\x07\\0' \
    + '\\u202egpj.exe\\u2028\"}],<script>alert(1)</script>{{ 7*7 }}'.encode() + b'\\xff\\xfe'\n\
    os.write(2, evil * 9000)\nraise SystemExit(1)\n";

#[test]
fn hostile_texts_are_harmless_in_mail_json_and_on_the_telephone() {
    let server = HttpServer::plain();
    let mail = SmtpServer::plain();
    let channels = format!(
        "{HOSTILE}[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"b@example.org\"\nto = [\"a@example.org\"]\n\
         [notify.phone]\ntype = \"ntfy\"\nurl = \"{}\"\n[notify.switch]\ntype = \"ping\"\nurl = \"{}\"\n{}",
        mail.url(),
        server.url("/topic"),
        server.url("/ping/x"),
        hook(&server.url("/hook"), "")
    );
    let world = World::new(&config(&channels).replace("\"hostile.py\"", "\"{}/hostile.py\""));
    world.write("hostile.py", PROGRAM);
    world.sh("mkdir second");
    world.agent("backup hostile").exits(1);

    let harmless = |what: &str, text: &str, limit: usize| {
        assert!(text.len() < limit, "{what} has {} bytes", text.len());
        let bad = text.chars().find(|c| {
            (c.is_control() && *c != '\n' && *c != '\t') || matches!(c, '\u{202e}' | '\u{2028}' | '\u{feff}')
        });
        assert_eq!(bad, None, "{what}: {text}");
    };
    let by = |prefix: &str| {
        let all = server.requests();
        all.into_iter().rfind(|r| r.target.starts_with(prefix)).unwrap_or_else(|| panic!("no {prefix}"))
    };
    let hook = by("/hook");
    assert!(hook.body.len() < 64_000, "{}", hook.body.len());
    let json = hook.json();
    let mut strings = Vec::new();
    collect(&json, &mut strings);
    assert!(strings.len() > 30);
    strings.iter().for_each(|text| harmless("a value", text, 20_000));
    // What a template language would run is only text.
    assert!(json["run"]["error"].as_str().unwrap().contains("{{ 7*7 }}"), "{json:#}");
    let phone = server.requests().into_iter().find(|r| r.target == "/").unwrap();
    let message = phone.json();
    harmless("the title", message["title"].as_str().unwrap(), 700);
    assert!(!message["title"].as_str().unwrap().contains('\n'));
    harmless("the message", message["message"].as_str().unwrap(), 4096);
    harmless("the ping", &by("/ping/x/fail").text(), 10_001);
    for request in server.requests() {
        assert!(!request.head.contains("Evil") && !request.head.contains("victim"), "{}", request.head);
    }
    let mails = mail.mails();
    assert_eq!(mails.len(), 1);
    assert!(mails[0].headers("Bcc").is_empty() && mails[0].headers("X-Evil").is_empty());
    let parsed = mails[0].parsed();
    harmless("the subject", parsed["subject"].as_str().unwrap(), 700);
    harmless("the text", &parsed["text"].as_str().unwrap().replace("\r\n", "\n"), 20_000);
    let html = parsed["html"].as_str().unwrap();
    harmless("the HTML", &html.replace("\r\n", "\n"), 40_000);
    assert!(!html.contains("<script>"), "{html}");
}

fn collect(value: &serde_json::Value, strings: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => strings.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, strings)),
        serde_json::Value::Object(map) => map.iter().for_each(|(key, item)| {
            strings.push(key.clone());
            collect(item, strings);
        }),
        other => strings.push(other.to_string()),
    }
}
