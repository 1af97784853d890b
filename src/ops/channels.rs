//! From the configuration to channels.
//!
//! A channel whose settings cannot work is made all the same, as one that cannot send: the backup is made,
//! messages are kept for it, and everybody says so: the log, `agent check`, the metrics, the other channels,
//! and `agent config check`, for which it is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::config::{
    Config, EmailConfig, NotifyConfig, NotifyOn, NtfyConfig, PingConfig, PingOn, Reaching, SecretUrl,
    SuccessMail, Telling, WebhookConfig, resolve_secret,
};
use crate::model::{ChannelName, Secret};
use crate::notify::email::EmailSettings;
use crate::notify::message::{Kind, Labels};
use crate::notify::ntfy::NtfySettings;
use crate::notify::ping::Dialect;
use crate::notify::templates::TemplateFiles;
use crate::notify::transitions::{Policy, SuccessMode};
use crate::notify::webhook::WebhookSettings;
use crate::notify::{Channel, Extras, HttpSettings, Unsent};

/// Makes the channels of a configuration. What is wrong with one is in [`Channel::problems`].
pub fn channels(config: &Config) -> Vec<Arc<Channel>> {
    config.notify.iter().map(|(name, channel)| Arc::new(channel_of(config, name, channel))).collect()
}

/// What is wrong with channels, a line each that begins with the channel's name.
pub fn problems(channels: &[Arc<Channel>]) -> Vec<String> {
    let of = |channel: &Arc<Channel>| {
        let name = channel.name.clone();
        channel.problems().into_iter().map(move |problem| format!("notification channel {name}: {problem}"))
    };
    channels.iter().flat_map(of).collect()
}

/// The channels of a configuration where something wrong with one refuses it: while a better one is in use.
pub fn strictly(config: &Config) -> Result<Vec<Arc<Channel>>> {
    let channels = channels(config);
    let problems = problems(&channels);
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(channels)
}

fn channel_of(config: &Config, name: &ChannelName, channel: &NotifyConfig) -> Channel {
    let made = match channel {
        NotifyConfig::Email(c) => email(name, c),
        NotifyConfig::Webhook(c) => webhook(name, c),
        NotifyConfig::Ntfy(c) => ntfy(name, c),
        NotifyConfig::Ping(c) => http(&c.address.url, c.address.url_file.as_deref(), &c.reaching)
            .and_then(|settings| Channel::ping(name.clone(), &settings, dialect(c))),
        NotifyConfig::Heartbeat(c) => http(&c.address.url, c.address.url_file.as_deref(), &c.reaching)
            .and_then(|settings| Channel::ping(name.clone(), &settings, Dialect::HEARTBEAT)),
    };
    let extras = Extras {
        jobs: channel.jobs().map(<[_]>::to_vec),
        templates: templates(channel),
        status_url: config.status_url.clone(),
    };
    made.unwrap_or_else(|error| broken(name, channel, format!("{error:#}"))).with(extras)
}

fn broken(name: &ChannelName, channel: &NotifyConfig, why: String) -> Channel {
    let (labels, unsent) = match channel {
        NotifyConfig::Email(c) => (labels(c).unwrap_or_default(), Unsent::Email { from: &c.from, to: &c.to }),
        NotifyConfig::Webhook(_) => (Labels::default(), Unsent::Webhook),
        NotifyConfig::Ntfy(_) => (Labels::default(), Unsent::Ntfy),
        NotifyConfig::Ping(c) => (Labels::default(), Unsent::Ping(dialect(c))),
        NotifyConfig::Heartbeat(_) => (Labels::default(), Unsent::Ping(Dialect::HEARTBEAT)),
    };
    let policy = channel.telling().map_or_else(ping_policy, policy);
    Channel::broken(name.clone(), policy, labels, unsent, why)
}

fn email(name: &ChannelName, config: &EmailConfig) -> Result<Channel> {
    let settings = EmailSettings {
        url: config.smtp.clone(),
        user: config.user.clone(),
        password: resolve_secret(config.password.as_ref(), config.password_file.as_deref())?,
        from: config.from.clone(),
        to: config.to.clone(),
        timeout: config.reaching.timeout,
        ca_file: config.reaching.ca_file.clone(),
    };
    Channel::email(name.clone(), policy(&config.telling), labels(config)?, &settings)
}

fn labels(config: &EmailConfig) -> Result<Labels> {
    Ok(Labels::new(config.labels.iter().map(|(kind, label)| (kind.as_str(), label.as_str())))?)
}

fn webhook(name: &ChannelName, config: &WebhookConfig) -> Result<Channel> {
    let mut headers: Vec<(String, Secret)> =
        config.headers.iter().map(|(header, value)| (header.clone(), Secret::new(value.clone()))).collect();
    for (header, file) in &config.header_files {
        let value =
            resolve_secret(None, Some(file))?.with_context(|| format!("header {header}: no value"))?;
        headers.push((header.clone(), value));
    }
    let settings = WebhookSettings {
        http: http(&config.url, config.url_file.as_deref(), &config.reaching)?,
        secret: resolve_secret(None, config.secret_file.as_deref())?,
        headers,
    };
    Channel::webhook(name.clone(), policy(&config.telling), &settings)
}

fn ntfy(name: &ChannelName, config: &NtfyConfig) -> Result<Channel> {
    let priorities: BTreeMap<Kind, u8> = config
        .priorities
        .iter()
        .map(|(kind, priority)| Ok((kind.parse()?, *priority)))
        .collect::<Result<_>>()?;
    let settings = NtfySettings {
        http: http(&config.url, config.url_file.as_deref(), &config.reaching)?,
        token: resolve_secret(None, config.token_file.as_deref())?,
        priorities,
        tags: config.tags.clone(),
    };
    Channel::ntfy(name.clone(), policy(&config.telling), &settings)
}

fn http(url: &Option<SecretUrl>, file: Option<&Path>, reaching: &Reaching) -> Result<HttpSettings> {
    let url = match url {
        Some(url) => Secret::new(url.expose()),
        None => resolve_secret(None, file)?.context("it has neither url nor url_file")?,
    };
    Ok(HttpSettings { url, timeout: reaching.timeout, ca_file: reaching.ca_file.clone() })
}

fn dialect(config: &PingConfig) -> Dialect {
    Dialect {
        start: config.on.contains(&PingOn::Start),
        success: config.on.contains(&PingOn::Success),
        failure: config.on.contains(&PingOn::Failure),
        exit_status: config.exit_status,
        rich: true,
    }
}

fn policy(telling: &Telling) -> Policy {
    let kind = |on: &NotifyOn| match on {
        NotifyOn::Failure => Kind::Failure,
        NotifyOn::Partial => Kind::Partial,
        NotifyOn::Degraded => Kind::Degraded,
        NotifyOn::Interrupted => Kind::Interrupted,
        NotifyOn::Recovery => Kind::Recovery,
    };
    let success = match telling.success {
        SuccessMail::Always => SuccessMode::Always,
        SuccessMail::Daily => SuccessMode::Daily,
        SuccessMail::Never => SuccessMode::Never,
    };
    Policy { on: telling.on.iter().map(kind).collect(), success, remind: telling.remind }
}

/// What a switch that cannot be pinged would be told; it decides by its dialect.
fn ping_policy() -> Policy {
    Policy { on: Default::default(), success: SuccessMode::Always, remind: std::time::Duration::ZERO }
}

fn templates(channel: &NotifyConfig) -> TemplateFiles {
    match channel {
        NotifyConfig::Email(c) => TemplateFiles {
            subject: c.subject_template.clone(),
            body: c.body_template.clone(),
            html: c.html_template.clone(),
            payload: None,
        },
        NotifyConfig::Webhook(c) => TemplateFiles {
            subject: c.subject_template.clone(),
            body: c.body_template.clone(),
            html: None,
            payload: c.payload_template.clone(),
        },
        NotifyConfig::Ntfy(c) => TemplateFiles {
            subject: c.subject_template.clone(),
            body: c.body_template.clone(),
            html: None,
            payload: None,
        },
        NotifyConfig::Ping(_) | NotifyConfig::Heartbeat(_) => TemplateFiles::default(),
    }
}
