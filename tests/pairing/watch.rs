//! What watches the agents: one Prometheus and one Alertmanager for all of them, with the shipped rules and
//! routes, and the mail server that Alertmanager sends to.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::prometheus::{Alertmanager, Prometheus};
use crate::shorten;
use crate::smtp::{Mail, SmtpServer};

pub struct Watch {
    pub prometheus: Prometheus,
    pub alertmanager: Alertmanager,
    relay: SmtpServer,
    /// The mails read so far: each is read once.
    read: Mutex<Vec<Told>>,
    _folder: tempfile::TempDir,
}

impl Watch {
    /// `agents` are the hosts' names, and where Prometheus reads them.
    pub fn start(agents: &[(&str, SocketAddr)]) -> Self {
        let folder = tempfile::Builder::new().prefix("agent-watch-").tempdir().unwrap();
        let relay = SmtpServer::plain();
        let file = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        file("alertmanager.yml", shorten::alertmanager(relay.address));
        let shipped = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts")).unwrap();
        for path in shipped.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|e| e == "tmpl") {
                fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let alertmanager = Alertmanager::start(folder.path());
        file("backup-agent.rules.yml", shorten::rules());
        file("prometheus.yml", scrapes(agents, alertmanager.0.address));
        let prometheus = Prometheus::start(folder.path());
        Self { prometheus, alertmanager, relay, read: Mutex::default(), _folder: folder }
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

    /// The mails about this host that Alertmanager sent, in their order.
    pub fn mails(&self, host: &str) -> Vec<Told> {
        let mut read = self.read.lock().unwrap();
        let new: Vec<Told> = self.relay.mails().iter().skip(read.len()).map(Told::read).collect();
        read.extend(new);
        read.iter().filter(|told| told.names(host)).cloned().collect()
    }

    /// Everything known of a host, for the message of a failed test.
    pub fn of(&self, host: &str) -> String {
        let brief = |alerts: Vec<Value>, state: fn(&Value) -> String| -> Vec<String> {
            alerts.iter().map(|a| format!("{} {}", a["labels"]["alertname"], state(a))).collect()
        };
        let mails: Vec<String> = self.mails(host).iter().map(Told::summary).collect();
        format!(
            "Prometheus: {:?}\nAlertmanager: {:?}\nits mails: {:?}",
            brief(self.prometheus.alerts(host), |a| a["state"].to_string()),
            brief(self.alertmanager.alerts(host), |a| a["status"].to_string()),
            mails,
        )
    }
}

fn scrapes(agents: &[(&str, SocketAddr)], alertmanager: SocketAddr) -> String {
    let mut text = format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
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
    pub subject: String,
    pub text: String,
}

impl Told {
    fn read(mail: &Mail) -> Self {
        let parsed = mail.parsed();
        let body = |kind: &str| parsed[kind].as_str().unwrap_or_default().to_owned();
        let text = Some(body("text")).filter(|text| !text.is_empty()).unwrap_or_else(|| body("html"));
        Self { subject: parsed["subject"].as_str().unwrap_or_default().to_owned(), text }
    }

    /// What it tells, without the words: `firing BackupOverdue`, several with commas between them.
    pub fn summary(&self) -> String {
        let status = if self.subject.contains("RESOLVED") { "resolved" } else { "firing" };
        let alert = self.subject.split([' ', '(', ')']).find(|word| word.starts_with("Backup"));
        format!("{status} {}", alert.unwrap_or_default())
    }

    fn names(&self, host: &str) -> bool {
        self.subject.contains(host) || self.text.contains(host)
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", self.subject, self.text)
    }
}
