//! What watches the agents: one Prometheus and one Alertmanager for all of them, with the shipped rules, routes
//! and mail templates, and everything that Alertmanager sends to: two mail servers (neither is the agents'),
//! which want TLS and a login as the shipped configuration does, and a server for webhooks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::prometheus::{Alertmanager, Prometheus};
use crate::shorten::{self, Pace, Places};
use crate::smtp::{Certificates, Mail, Security, SmtpServer};

/// The passwords and tokens of the shipped configuration, by the names of their files.
const SECRETS: &[&str] = &["smtp-password", "other-smtp-password", "oncall-token", "deadman-token"];

pub struct Watch {
    pub prometheus: Prometheus,
    pub alertmanager: Alertmanager,
    relays: [SmtpServer; 2],
    webhooks: Webhooks,
    _folder: tempfile::TempDir,
}

impl Watch {
    /// `agents` are the hosts' names, and where Prometheus reads them.
    pub fn start(agents: &[(&str, SocketAddr)], pace: Pace) -> Self {
        let folder = tempfile::Builder::new().prefix("agent-watch-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let file = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        let certificates = Certificates::make(folder.path());
        fs::create_dir(path("secrets")).unwrap();
        // Without a line end: Alertmanager 0.25 would take it for a part of the password.
        SECRETS.iter().for_each(|name| file(&format!("secrets/{name}"), &format!("the {name}")));
        let relay = |login| SmtpServer::start(Security::StartTls, Some(&certificates), Some(login));
        let relays = [
            relay(("alertmanager@example.org", "the smtp-password")),
            relay(("alertmanager@example.net", "the other-smtp-password")),
        ];
        let webhooks = Webhooks::start();
        let places = Places {
            relay: relays[0].address,
            other_relay: relays[1].address,
            webhooks: webhooks.address,
            secrets: &path("secrets"),
        };
        file("alertmanager.yml", &shorten::alertmanager(&places, pace));
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/backup-agent.tmpl");
        fs::copy(template, path("backup-agent.tmpl")).unwrap();
        let alertmanager = Alertmanager::start(folder.path(), &certificates.authority);
        file("backup-agent.rules.yml", &shorten::rules(pace));
        file("prometheus.yml", &scrapes(agents, alertmanager.0.address, pace));
        let prometheus = Prometheus::start(folder.path());
        Self { prometheus, alertmanager, relays, webhooks, _folder: folder }
    }

    /// An alert of this host in Prometheus, when it fires.
    pub fn fires(&self, host: &str, alert: &str) -> bool {
        let is_it = |a: &Value| a["labels"]["alertname"] == alert && a["state"] == "firing";
        self.prometheus.alerts(host).iter().any(is_it)
    }

    /// Whether Alertmanager keeps this alert of this host to itself, because of another one.
    pub fn keeps_quiet(&self, host: &str, alert: &str) -> bool {
        let inhibited = |a: &Value| a["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty());
        let is_it = |a: &Value| a["labels"]["alertname"] == alert && inhibited(a);
        self.alertmanager.alerts(host).iter().any(is_it)
    }

    /// The mails about this host that Alertmanager sent, in their order at each relay.
    pub fn mails(&self, host: &str) -> Vec<Told> {
        self.all_mails().into_iter().filter(|told| told.subject().contains(host)).collect()
    }

    /// All mails that Alertmanager sent.
    pub fn all_mails(&self) -> Vec<Told> {
        let of_relay = |(relay, other_way): (&SmtpServer, bool)| {
            relay.mails().into_iter().map(move |mail| Told { mail, other_way })
        };
        self.relays.iter().zip([false, true]).flat_map(of_relay).collect()
    }

    /// The paths that were called, each with the `Authorization` it came with.
    pub fn webhooks(&self) -> BTreeSet<(String, String)> {
        self.webhooks.called.lock().unwrap().clone()
    }

    /// The longest time that reading an agent took so far, against the time between two readings.
    pub fn strain(&self, pace: Pace) -> f64 {
        let longest = self.prometheus.query("max(max_over_time(scrape_duration_seconds[1h]))");
        let seconds = longest.first().and_then(|s| s["value"][1].as_str()?.parse::<f64>().ok());
        seconds.unwrap_or(f64::INFINITY) / pace.scrape_interval().as_secs_f64()
    }

    /// What Prometheus and Alertmanager know of a host, for the message of a failed test.
    pub fn of(&self, host: &str) -> String {
        let brief = |alerts: Vec<Value>, state: fn(&Value) -> String| -> Vec<String> {
            alerts.iter().map(|a| format!("{} {}", a["labels"]["alertname"], state(a))).collect()
        };
        format!(
            "Prometheus: {:?}\nAlertmanager: {:?}",
            brief(self.prometheus.alerts(host), |a| a["state"].to_string()),
            brief(self.alertmanager.alerts(host), |a| a["status"].to_string()),
        )
    }

    /// What Alertmanager logged last, for the same.
    pub fn alertmanager_said(&self) -> String {
        let log = self.alertmanager.0.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(4)..].join("\n")
    }
}

fn scrapes(agents: &[(&str, SocketAddr)], alertmanager: SocketAddr, pace: Pace) -> String {
    let interval = format!("{}ms", pace.scrape_interval().as_millis());
    let mut text = format!(
        "global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n\
         rule_files: [backup-agent.rules.yml]\n\
         alerting:\n  alertmanagers:\n    - static_configs: [{{targets: ['{alertmanager}']}}]\n\
         scrape_configs:\n  - job_name: backup-agent\n    static_configs:\n"
    );
    for (host, address) in agents {
        text.push_str(&format!("      - targets: ['{address}']\n        labels: {{instance: '{host}'}}\n"));
    }
    text
}

/// A mail of Alertmanager.
#[derive(Clone)]
pub struct Told {
    mail: Mail,
    /// It came by the relay for failures that the agent could not mail.
    other_way: bool,
}

impl Told {
    /// As it stands in the mail: hosts and jobs of tests are ASCII, so that it is not encoded.
    pub fn subject(&self) -> String {
        let text = String::from_utf8_lossy(&self.mail.data);
        let line = text.lines().find_map(|line| line.strip_prefix("Subject: "));
        line.unwrap_or("no subject").to_owned()
    }

    /// The plain text.
    pub fn text(&self) -> String {
        self.mail.parsed()["text"].as_str().unwrap_or_default().to_owned()
    }

    /// Its subject, without what is the same in all mails of a host: `web: overdue`, `good again: agent down`.
    pub fn summary(&self, host: &str) -> String {
        let subject = self.subject().replace("[backup-alert] ", "");
        let subject = subject.replace(&format!(" on {host}"), "").replace(&format!("{host}: "), "");
        if self.other_way { format!("other way: {subject}") } else { subject }
    }
}

/// A server that answers every POST with 200 and remembers which came.
struct Webhooks {
    address: SocketAddr,
    called: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Webhooks {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let called = Arc::<Mutex<BTreeSet<(String, String)>>>::default();
        let calls = Arc::clone(&called);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let calls = Arc::clone(&calls);
                std::thread::spawn(move || answer(stream, &calls));
            }
        });
        Self { address, called }
    }
}

fn answer(stream: TcpStream, calls: &Mutex<BTreeSet<(String, String)>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut authorization) = (0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = value.to_owned(),
            _ => {}
        }
    }
    reader.take(length).read_to_end(&mut Vec::new()).ok()?;
    calls.lock().unwrap().insert((path, authorization));
    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()
}
