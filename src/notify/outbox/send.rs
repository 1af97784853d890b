//! One message to one receiver.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::model::ChannelName;
use crate::notify::facts::TestFacts;
use crate::notify::message::{self, Content, Kind};
use crate::notify::plan::Payload;
use crate::notify::{Channel, Failure, Letter, SendError};

/// Sends a test message to every receiver of a channel at once, past the outbox, and says how each went.
pub async fn send_test(channel: &Channel, facts: &TestFacts) -> Vec<(String, Result<(), SendError>)> {
    let rendered = channel.render(Content::Test(facts), facts.at);
    let mut results = Vec::new();
    for recipient in channel.recipients() {
        let letter = Letter {
            recipient: &recipient,
            message_id: &channel.message_id(&rendered, &recipient),
            created: facts.at,
            now: facts.at,
            kind: Kind::Test,
            subject: &rendered.subject,
            text: &rendered.text,
            html: &rendered.html,
            headers: &rendered.headers,
            data: &rendered.data,
            late: None,
        };
        let result = channel.send(&letter).await;
        results.push((recipient, result));
    }
    results
}

pub(super) fn find<'a>(
    channels: &'a [Arc<Channel>],
    name: &ChannelName,
) -> Result<&'a Arc<Channel>, SendError> {
    // Perhaps only this process has an older configuration: it is tried again, and given up in the end.
    channels.iter().find(|c| c.name == *name).ok_or_else(|| {
        SendError::new(
            Failure::Unreachable,
            format!("the channel {name} is not in the configuration any more"),
        )
    })
}

pub(super) async fn send(
    channel: &Channel,
    recipient: &str,
    message_id: &str,
    payload: &str,
    created: DateTime<Utc>,
    last_error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), SendError> {
    let Payload { message, .. } = serde_json::from_str(payload).map_err(|e| {
        SendError::new(Failure::Permanent, format!("the message cannot be read from where it was kept: {e}"))
    })?;
    let (mut text, mut html) = (message.text, message.html);
    let late = message::late_notice(created, now, last_error).filter(|_| !channel.is_ping());
    if let Some(notice) = &late {
        (text, html) = message::with_notice(&text, &html, notice);
    }
    let letter = Letter {
        recipient,
        message_id,
        created,
        now,
        kind: message.kind,
        subject: &message.subject,
        text: &text,
        html: &html,
        headers: &message.headers,
        data: &message.data,
        late: late.as_deref(),
    };
    channel.send(&letter).await
}
