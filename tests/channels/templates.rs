//! Texts from files: tried before they are needed, and never a reason for silence.

use super::http::HttpServer;
use super::smtp::SmtpServer;
use super::world::World;
use super::{break_source, config};

const SUBJECT: &str = "{{ severity|upper }} {{ host }}{% if job %}/{{ job }}{% endif %}: {{ kind }}\n";
const BODY: &str = "{% if run %}Run {{ run_id }} of {{ job }}: {{ run.outcome }}, {{ run.stored_bytes|bytes }} in \
                    {{ run.duration_seconds|span }}.\n{% if run.error %}{{ run.error }}\n{% endif %}{% endif %}\
                    Call 555-0100.\n\n{{ text }}";
const HTML: &str = "<html><body><h1>{{ subject }}</h1>{% if run and run.error %}<pre>{{ run.error }}</pre>{% endif %}\
                    </body></html>";
const SLACK: &str =
    "{\"text\": {{ subject|tojson }}, \"blocks\": [{\"type\": \"section\", \"body\": {{ text|tojson }}}]}";

fn channels(mail: &SmtpServer, server: &HttpServer) -> String {
    format!(
        "[notify.admin]\ntype = \"email\"\nsmtp = \"{}\"\nfrom = \"b@example.org\"\nto = [\"a@example.org\"]\n\
         subject_template = \"{{}}/subject.j2\"\nbody_template = \"{{}}/body.j2\"\nhtml_template = \"{{}}/html.j2\"\n\
         [notify.chat]\ntype = \"webhook\"\nurl = \"{}\"\npayload_template = \"{{}}/slack.j2\"\n\
         [notify.phone]\ntype = \"ntfy\"\nurl = \"{}\"\nsubject_template = \"{{}}/subject.j2\"\n",
        mail.url(),
        server.url("/chat"),
        server.url("/topic"),
    )
}

fn written(world: &World) {
    for (name, text) in [("subject.j2", SUBJECT), ("body.j2", BODY), ("html.j2", HTML), ("slack.j2", SLACK)] {
        world.write(name, text);
    }
}

#[test]
fn subjects_texts_html_and_whole_documents_can_be_replaced() {
    let (mail, server) = (SmtpServer::plain(), HttpServer::plain());
    let world = World::new(&config(&channels(&mail, &server)));
    written(&world);
    world.agent("config check").exits(0);
    world.sh("mv data '<b>data & co'; sed -i 's|/data\"|/<b>gone \\& co\"|' config.toml");
    world.agent("backup").exits(1);
    let mails = mail.mails();
    let parsed = mails[0].parsed();
    assert_eq!(parsed["subject"], "CRITICAL web1/web: failure");
    let text = parsed["text"].as_str().unwrap();
    assert!(text.starts_with("Run 20") && text.contains(" of web: failure, 0 B in 0 s."), "{text}");
    assert!(text.contains("Call 555-0100.") && text.contains("WHAT IS STILL GOOD"), "{text}");
    let html = parsed["html"].as_str().unwrap();
    assert!(html.contains("&lt;b&gt;gone &amp; co") && !html.contains("<b>gone"), "{html}");
    let chat = server.requests().into_iter().find(|r| r.target == "/chat").unwrap().json();
    assert!(chat["text"].as_str().unwrap().starts_with("[backup-failure] web on web1"), "{chat:#}");
    assert!(chat["blocks"][0]["body"].as_str().unwrap().contains("WHAT TO DO"), "{chat:#}");
    let phone = server.requests().into_iter().find(|r| r.target == "/").unwrap().json();
    assert_eq!(phone["title"], "CRITICAL web1/web: failure");
}

#[test]
fn a_template_that_is_wrong_is_told_with_file_and_line_before_the_first_failure() {
    let (mail, server) = (SmtpServer::plain(), HttpServer::plain());
    let world = World::new(&config(&channels(&mail, &server)));
    for (file, text, says) in [
        ("subject.j2", "a\nb {{ jbo }}", "/subject.j2:2: it uses a value there is not"),
        (
            "subject.j2",
            "{% if run %}\n{{ run.eror }}{% endif %}x",
            "/subject.j2:2: it uses a value there is not",
        ),
        ("subject.j2", "{{ run.error }}", "(tried with a digest message)"),
        ("body.j2", "one\n\n{% if job %}never closed", "/body.j2:3: "),
        ("body.j2", "{{ host|shout }}", "/body.j2:1: "),
        (
            "body.j2",
            "{% if kind == 'digest' %}text{% endif %}",
            "/body.j2: it gives nothing (tried with a failure message)",
        ),
        (
            "body.j2",
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
            "/body.j2",
        ),
        ("body.j2", "{% include '/etc/passwd' %}", "/body.j2:1: "),
        ("html.j2", "\u{0}{{", "/html.j2:1: "),
        ("slack.j2", "{\"text\": \"{{ text }}\"}", "/slack.j2: it gives no JSON: "),
        ("slack.j2", "{\"a\": {{ run|tojson }},}", "/slack.j2: it gives no JSON: "),
    ] {
        written(&world);
        world.agent("config check").exits(0);
        world.write(file, text);
        let ran = world.agent("config check").exits(2);
        assert!(ran.err.contains(says), "{text:?}: {says:?} is missing: {}", ran.err);
    }
    world.sh("rm body.j2");
    world.agent("config check").exits(2).says(&["body.j2 cannot be read: No such file"]);
}

#[test]
fn a_template_that_fails_gives_way_to_the_built_in_text_which_says_so() {
    let (mail, server) = (SmtpServer::plain(), HttpServer::plain());
    let world = World::new(&config(&channels(&mail, &server)));
    written(&world);
    world.agent("backup").exits(0);
    world.write("body.j2", "{{ nonsense }}");
    world.write("slack.j2", "{{ text }}");
    break_source(&world);
    let ran = world.agent("backup").exits(1);
    assert!(ran.err.contains("body.j2:1"), "the log says it: {}", ran.err);
    let mails = mail.mails();
    let failure = mails.iter().find(|m| m.header("X-Backup-Agent-Kind") == "failure").expect("a mail");
    let parsed = failure.parsed();
    let text = parsed["text"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.starts_with("NOTE: template ") && text.contains("this is the built-in text."), "{text}");
    assert!(text.contains("The backup of web on web1 failed."), "{text}");
    assert_eq!(parsed["subject"], "CRITICAL web1/web: failure", "the others are used as before");
    let chats = server.requests().into_iter().filter(|r| r.target == "/chat");
    let chat = chats.map(|r| r.json()).find(|json| json["kind"] == "failure").expect("the built-in document");
    assert_eq!(chat["version"], 1);
    assert!(chat["note"].as_str().unwrap().contains("it gives no JSON"), "{chat:#}");
    let check = world.agent("check");
    assert!(check.out.contains("built-in texts are used"), "{}", check.out);
}
