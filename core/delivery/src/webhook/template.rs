//! Body templates: a message as Standard Webhooks, Slack, Discord and Telegram expect it.
//!
//! The body depends on the message alone, so that every attempt sends the same one.
//!
//! | template | limit of the text | text is safe because |
//! |---|---|---|
//! | `slack` | 40,000 characters | `&`, `<` and `>` are escaped, so no `<!channel>` pings anyone |
//! | `discord` | 2,000 characters | `allowed_mentions` permits no mention |
//! | `telegram` | 4,096 characters | every sign of MarkdownV2 is escaped, so that a lone `_` is no error |

use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tidewire_proto::{json as wire, v1::NotificationAction};

use crate::{
    Content, OutgoingMessage,
    message::{rfc3339, type_name},
    text::{cut_by, cut_utf16},
};

/// Longest text of a Slack message, in characters. Slack cuts longer ones.
const SLACK_LIMIT: usize = 40_000;

/// Longest content of a Discord message, in characters. Discord refuses longer ones.
const DISCORD_LIMIT: usize = 2_000;

/// Longest text of a Telegram message after parsing, in characters. Telegram refuses longer ones.
const TELEGRAM_LIMIT: usize = 4_096;

/// Form of a webhook's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// JSON of Standard Webhooks: `type`, `timestamp` and `data`.
    #[default]
    Standard,
    /// An incoming webhook of Slack.
    Slack,
    /// A webhook of Discord.
    Discord,
    /// `sendMessage` of a Telegram bot.
    Telegram,
}

/// The body of a message.
pub(crate) fn body(template: Template, chat_id: Option<&str>, message: &OutgoingMessage) -> String {
    let body = match template {
        Template::Standard => return standard(message),
        Template::Slack => json!({
            "text": slack_text(&message.content),
            "mrkdwn": false,
            "unfurl_links": false,
        }),
        Template::Discord => json!({
            "content": cut_utf16(&plain_text(&message.content), DISCORD_LIMIT),
            "allowed_mentions": {"parse": []},
        }),
        Template::Telegram => json!({
            "chat_id": chat_id.unwrap_or_default(),
            "text": telegram_text(&message.content),
            "parse_mode": "MarkdownV2",
            "link_preview_options": {"is_disabled": true},
        }),
    };
    body.to_string()
}

/// The body of Standard Webhooks.
#[derive(Serialize)]
struct Standard<'a> {
    r#type: String,
    timestamp: String,
    data: StandardData<'a>,
}

#[derive(Serialize)]
struct StandardData<'a> {
    /// None for a notification to everyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notifications: Option<Vec<Box<RawValue>>>,
    #[serde(rename = "leftOut", skip_serializing_if = "Option::is_none")]
    left_out: Option<usize>,
}

/// The body of Standard Webhooks. `data` has the user, and the notification as on the wire: a
/// number of the application's `data` keeps all its digits.
fn standard(message: &OutgoingMessage) -> String {
    let raw = |notification| {
        let text = String::from_utf8(wire::to_vec(notification)).ok();
        // The wire's form is always JSON.
        text.and_then(|text| RawValue::from_string(text).ok())
    };
    let mut data = StandardData {
        user: Some(message.user.as_str()).filter(|user| !user.is_empty()),
        notification: None,
        notifications: None,
        left_out: None,
    };
    let kind = match &message.content {
        Content::Notification(one) => {
            data.notification = raw(&**one);
            type_name(one)
        }
        Content::Digest {
            notifications,
            left_out,
        } => {
            data.notifications = Some(notifications.iter().filter_map(raw).collect());
            data.left_out = Some(*left_out);
            "digest".to_owned()
        }
    };
    let body = Standard {
        r#type: kind,
        timestamp: rfc3339(message.created_ms),
        data,
    };
    // Strings and raw JSON always serialize.
    serde_json::to_string(&body).unwrap_or_default()
}

/// A message as lines of text: title, body, and one line for each button.
fn plain_text(content: &Content) -> String {
    let mut lines = Vec::new();
    if content.notifications().len() > 1 {
        lines.push(content.title());
    }
    for notification in content.notifications() {
        lines.push(notification.title.clone());
        if !notification.body.is_empty() {
            lines.push(notification.body.clone());
        }
        let link = |action: &NotificationAction| format!("{}: {}", action.label, action.url);
        lines.extend(notification.actions.iter().map(link));
    }
    if content.left_out() > 0 {
        lines.push(format!("and {} older ones", content.left_out()));
    }
    lines.join("\n")
}

/// The text for Slack, which reads three signs as markup.
fn slack_text(content: &Content) -> String {
    let size = |character| match character {
        '&' => 5,
        '<' | '>' => 4,
        character => char::len_utf16(character),
    };
    // The limit is that of the escaped text.
    let text = cut_by(&plain_text(content), SLACK_LIMIT, size);
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The text for Telegram. It is cut before it is escaped: escapes do not count, and none is
/// torn.
fn telegram_text(content: &Content) -> String {
    let text = cut_utf16(&plain_text(content), TELEGRAM_LIMIT);
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for character in text.chars() {
        // Each character from 1 to 126 may be escaped; these have a meaning.
        if "_*[]()~`>#+-=|{}.!\\".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tidewire_proto::v1::{Notification, NotificationType, Priority};
    use tidewire_stream::UserId;

    use super::*;
    use crate::MessageId;

    fn message(title: &str, body: &str) -> OutgoingMessage {
        let notification = Notification {
            id: "n1".to_owned(),
            r#type: NotificationType::PaymentReceived.into(),
            title: title.to_owned(),
            body: body.to_owned(),
            data: br#"{"amount":0.12345678901234567890123}"#.to_vec().into(),
            priority: Priority::High.into(),
            timestamp: 1_750_000_000_000,
            actions: vec![NotificationAction {
                label: "Open".to_owned(),
                url: "https://example.com/a_b".to_owned(),
            }],
            ..Notification::default()
        };
        OutgoingMessage::notification(
            MessageId::new("n1").unwrap(),
            UserId::new("ada"),
            notification,
        )
    }

    fn sent(template: Template, message: &OutgoingMessage) -> Value {
        serde_json::from_str(&body(template, Some("@ops"), message)).unwrap()
    }

    #[test]
    fn the_standard_body_has_type_timestamp_and_data() {
        let message = message("Payment", "0.1 ETH");
        let text = super::body(Template::Standard, None, &message);
        assert!(text.contains("0.12345678901234567890123"), "{text}");
        let body = sent(Template::Standard, &message);
        assert_eq!(body["type"], "payment_received");
        assert_eq!(body["timestamp"], "2025-06-15T15:06:40Z");
        assert_eq!(body["data"]["user"], "ada");
        let notification = &body["data"]["notification"];
        assert_eq!(notification["title"], "Payment");
        assert_eq!(notification["priority"], "high");
    }

    #[test]
    fn a_digest_has_all_its_notifications() {
        let one = message("a", "b").content.notifications()[0].clone();
        let digest = OutgoingMessage::digest(
            MessageId::new("d").unwrap(),
            UserId::new("ada"),
            vec![one.clone(), one],
            5,
        );
        let body = sent(Template::Standard, &digest);
        assert_eq!(body["type"], "digest");
        assert_eq!(body["data"]["notifications"].as_array().unwrap().len(), 2);
        assert_eq!(body["data"]["leftOut"], 0);
        let text = sent(Template::Discord, &digest)["content"].to_string();
        assert!(
            text.starts_with("\"2 notifications\\na\\nb\\nOpen: "),
            "{text}"
        );
    }

    #[test]
    fn slack_reads_no_mention_in_a_text() {
        let body = sent(Template::Slack, &message("<!channel>", "a & b"));
        assert_eq!(
            body["text"],
            "&lt;!channel&gt;\na &amp; b\nOpen: https://example.com/a_b"
        );
        let long = sent(Template::Slack, &message("", &"<".repeat(10_001)));
        let text = long["text"].as_str().unwrap();
        assert!(text.ends_with("&lt;…") && text.chars().count() <= SLACK_LIMIT);
    }

    #[test]
    fn discord_gets_2000_characters_at_most_and_no_mention() {
        let body = sent(Template::Discord, &message("@everyone", "x"));
        assert_eq!(body["allowed_mentions"]["parse"], json!([]));
        let body = sent(Template::Discord, &message(&"x".repeat(2_001), ""));
        let content = body["content"].as_str().unwrap();
        assert_eq!(content.chars().count(), 2_000);
        assert!(content.ends_with("x…"));
        let body = sent(Template::Discord, &message("", &"🌊".repeat(2_001)));
        assert!(body["content"].as_str().unwrap().encode_utf16().count() <= 2_000);
    }

    #[test]
    fn telegram_gets_escaped_text_that_is_cut_at_a_character() {
        let body = sent(Template::Telegram, &message("a_b", "1.5 [x](y) \\ `c`"));
        assert_eq!(body["parse_mode"], "MarkdownV2");
        assert_eq!(body["chat_id"], "@ops");
        assert_eq!(
            body["text"],
            "a\\_b\n1\\.5 \\[x\\]\\(y\\) \\\\ \\`c\\`\nOpen: https://example\\.com/a\\_b"
        );
        let body = sent(Template::Telegram, &message("", &"_".repeat(5_000)));
        let text = body["text"].as_str().unwrap();
        let parsed = text.replace("\\_", "_");
        assert_eq!(parsed.chars().count(), 4_096);
        assert!(parsed.ends_with("_…"), "no escape is torn");
    }
}
