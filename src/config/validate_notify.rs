//! Rules about channels.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reqwest::header::{HeaderName, HeaderValue};

use super::kinds::nearest;
use super::positions::sounds_secret;
use super::types::*;
use super::validate::{Rules, dangling};
use crate::model::JobName;

/// Events a label or a priority can be chosen for.
const EVENTS: &[&str] = &[
    "failure",
    "partial",
    "degraded",
    "interrupted",
    "recovery",
    "success",
    "digest",
    "reminder",
    "test",
    "check",
    "agent",
    "verify",
];

/// Headers a request has anyway.
const OWN_HEADERS: &[&str] =
    &["host", "content-length", "content-type", "transfer-encoding", "connection", "idempotency-key"];

impl Rules<'_> {
    pub(super) fn channel(&mut self, name: &str, channel: &NotifyConfig) {
        match channel {
            NotifyConfig::Email(email) => {
                self.email(name, email);
            }
            NotifyConfig::Webhook(webhook) => {
                self.address(name, &webhook.url, &webhook.url_file);
                self.headers(name, webhook);
                if webhook.payload_template.is_some()
                    && (webhook.subject_template.is_some() || webhook.body_template.is_some())
                {
                    self.say(
                        &["notify", name, "payload_template"],
                        "payload_template makes the whole document; use it without subject_template and body_template",
                    );
                }
            }
            NotifyConfig::Ntfy(ntfy) => {
                self.address(name, &ntfy.url, &ntfy.url_file);
                if let Some(url) = &ntfy.url
                    && reqwest::Url::parse(url.expose())
                        .is_ok_and(|url| url.path_segments().into_iter().flatten().all(str::is_empty))
                {
                    self.say(
                        &["notify", name, "url"],
                        "the address must end with the topic, such as https://ntfy.sh/TOPIC",
                    );
                }
                for (event, priority) in &ntfy.priorities {
                    let key = ["notify", name, "priorities", event.as_str()];
                    self.event(&key, event);
                    if !(1..=5).contains(priority) {
                        self.say(&key, "a priority is a number from 1 (least) to 5");
                    }
                }
                for tag in &ntfy.tags {
                    if tag.is_empty()
                        || tag.chars().count() > 64
                        || tag.contains(|c: char| c.is_control() || c == ',')
                    {
                        self.say(
                            &["notify", name, "tags"],
                            "a tag is a word without commas, such as \"web1\" or \"floppy_disk\"",
                        );
                    }
                }
            }
            NotifyConfig::Ping(ping) => {
                self.address(name, &ping.address.url, &ping.address.url_file);
                if !ping.on.contains(&PingOn::Success) {
                    self.say(
                        &["notify", name, "on"],
                        "without \"success\" a dead man's switch never hears that all is well",
                    );
                }
            }
            NotifyConfig::Heartbeat(heartbeat) => {
                self.address(name, &heartbeat.address.url, &heartbeat.address.url_file);
            }
        }
        if let Some(remind) = channel.remind() {
            self.not_zero(&["notify", name, "remind"], remind);
        }
        self.not_zero(&["notify", name, "timeout"], channel.reaching().timeout);
        self.jobs_of(name, channel.jobs());
    }

    fn address(&mut self, name: &str, url: &Option<SecretUrl>, file: &Option<PathBuf>) {
        match (url, file) {
            (None, None) => self
                .say(&["notify", name], "the address is missing: set url_file, or url where it is no secret"),
            (Some(_), Some(_)) => {
                self.say(&["notify", name, "url"], "url and url_file are both set; use one")
            }
            _ => {}
        }
    }

    fn jobs_of(&mut self, name: &str, jobs: Option<&[JobName]>) {
        let Some(jobs) = jobs else { return };
        if jobs.is_empty() {
            self.say(
                &["notify", name, "jobs"],
                "an empty list tells about no job; leave `jobs` out to tell about all",
            );
        }
        for job in jobs.iter().filter(|job| !self.config.job.contains_key(*job)) {
            if self.was_there("job", job.as_str()) {
                continue;
            }
            let known: Vec<&str> = self.config.job.keys().map(JobName::as_str).collect();
            self.say(&["notify", name, "jobs"], dangling("job", job.as_str(), &known));
        }
    }

    fn headers(&mut self, name: &str, webhook: &WebhookConfig) {
        let mut seen = BTreeMap::new();
        let plain = webhook.headers.keys().map(|header| ("headers", header));
        let secret = webhook.header_files.keys().map(|header| ("header_files", header));
        for (table, header) in plain.chain(secret) {
            let key = ["notify", name, table, header.as_str()];
            let lower = header.to_ascii_lowercase();
            if HeaderName::from_bytes(header.as_bytes()).is_err() {
                self.say(&key, format!("{header:?} is no name of a header"));
            } else if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-backup-agent-") {
                self.say(&key, format!("the header {header} is the agent's own"));
            } else if seen.insert(lower.clone(), table).is_some() {
                self.say(&key, format!("the header {header} is set twice"));
            } else if table == "headers" && sounds_secret(&lower) {
                self.say(
                    &key,
                    "a secret does not belong in a file others copy; use `header_files`, with the value in a file",
                );
            }
        }
        for (header, value) in &webhook.headers {
            if HeaderValue::from_str(value).is_err() {
                self.say(
                    &["notify", name, "headers", header],
                    "a header's value is one line of visible ASCII characters",
                );
            }
        }
    }

    fn event(&mut self, key: &[&str], event: &str) {
        if EVENTS.contains(&event) {
            return;
        }
        let hint = match nearest(event, EVENTS.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known: {}", EVENTS.join(", ")),
        };
        self.say(key, format!("there is no event `{event}`; {hint}"));
    }

    fn email(&mut self, name: &str, email: &EmailConfig) {
        if email.to.is_empty() {
            self.say(&["notify", name, "to"], "there must be at least one receiver");
        }
        let password = email.password.is_some() || email.password_file.is_some();
        match (&email.user, password) {
            (Some(_), false) => {
                let variable =
                    super::environment::variable(&["notify".into(), name.into(), "password".into()]);
                self.say(
                    &["notify", name, "user"],
                    format!(
                        "`user` needs a password: set password_file, or the environment variable {variable}"
                    ),
                );
            }
            (None, true) => {
                self.say(&["notify", name, "password_file"], "a password needs `user`, the login name")
            }
            _ => {}
        }
        if email.password.is_some() && email.password_file.is_some() {
            self.say(
                &["notify", name, "password_file"],
                "the environment gives a password as well; use one of the two",
            );
        }
        for (event, label) in &email.labels {
            let key = ["notify", name, "labels", event.as_str()];
            self.event(&key, event);
            // It becomes part of a subject line and a header.
            if label.is_empty()
                || label.len() > 64
                || label.contains(|c: char| c.is_control() || "[]".contains(c))
            {
                self.say(
                    &key,
                    "a label is a short text without brackets and line ends, such as \"backup-failure\"",
                );
            }
        }
    }
}
