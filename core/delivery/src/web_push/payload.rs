//! Push payload: a small JSON document for the application's service worker.
//!
//! ```json
//! {"id": "06c9…", "type": "price_alert", "title": "BTC-USD above 100,000", "body": "…",
//!  "priority": "high", "timestamp": 1750000000000, "actions": [], "data": {}}
//! ```
//!
//! Push services take 4,096 bytes of encrypted body. A longer payload loses `data` first, then
//! `actions`, then the end of its body, then that of its title; `"cut": true` tells the
//! application to read the whole from the inbox by `id`.

use serde::Serialize;
use serde_json::value::RawValue;
use tidewire_proto::v1::{Notification, NotificationAction};

use crate::{
    Content, OutgoingMessage,
    message::{priority_name, type_name},
    text::cut_json,
};

/// Bytes of an encrypted body at most.
pub const MAX_BODY_BYTES: usize = 4_096;

/// Bytes that the encryption adds: header with salt, record size and key (86), delimiter (1), tag
/// (16).
const OVERHEAD: usize = 86 + 1 + 16;

/// Bytes of a payload at most.
const MAX_PAYLOAD_BYTES: usize = MAX_BODY_BYTES - OVERHEAD;

#[derive(Serialize)]
struct Payload<'a> {
    id: &'a str,
    r#type: &'a str,
    title: &'a str,
    body: &'a str,
    priority: &'a str,
    timestamp: i64,
    #[serde(skip_serializing_if = "<[Action]>::is_empty")]
    actions: &'a [Action<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

#[derive(Serialize)]
struct Action<'a> {
    label: &'a str,
    url: &'a str,
}

/// The payload of a message, of as many bytes as fit.
#[must_use]
pub fn payload(message: &OutgoingMessage) -> Vec<u8> {
    let title = message.content.title();
    let (kind, body) = match &message.content {
        Content::Notification(one) => (type_name(one), one.body.clone()),
        Content::Digest { notifications, .. } => ("digest".to_owned(), titles(notifications)),
    };
    let first = match &message.content {
        Content::Notification(one) => Some(&**one),
        Content::Digest { .. } => None,
    };
    let actions: Vec<_> = first.map_or(&[][..], |one| &one.actions).iter().collect();
    let actions: Vec<_> = actions.into_iter().map(action).collect();
    let data = first.and_then(|one| std::str::from_utf8(&one.data).ok());
    let data = data.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let mut payload = Payload {
        id: first.map_or(message.id.as_str(), |one| &one.id),
        r#type: &kind,
        title: &title,
        body: &body,
        priority: priority_name(message.content.priority()),
        timestamp: first.map_or(message.created_ms, |one| one.timestamp),
        actions: &actions,
        data,
        cut: false,
    };
    let json = to_json(&payload);
    if json.len() <= MAX_PAYLOAD_BYTES {
        return json;
    }
    payload.cut = true;
    payload.data = None;
    let json = to_json(&payload);
    if json.len() <= MAX_PAYLOAD_BYTES {
        return json;
    }
    payload.actions = &[];
    // An empty body tells the room for the body's text.
    let mut bare = Payload {
        body: "",
        ..payload
    };
    let room = MAX_PAYLOAD_BYTES.saturating_sub(to_json(&bare).len());
    let body = cut_json(&body, room);
    bare.body = &body;
    let json = to_json(&bare);
    if json.len() <= MAX_PAYLOAD_BYTES {
        return json;
    }
    let title = {
        let room = to_json(&Payload { title: "", ..bare }).len();
        cut_json(&title, MAX_PAYLOAD_BYTES.saturating_sub(room))
    };
    to_json(&Payload {
        title: &title,
        ..bare
    })
}

fn action(action: &NotificationAction) -> Action<'_> {
    Action {
        label: &action.label,
        url: &action.url,
    }
}

fn titles(all: &[Notification]) -> String {
    let titles: Vec<_> = all.iter().map(|one| one.title.as_str()).collect();
    titles.join("\n")
}

fn to_json(payload: &Payload<'_>) -> Vec<u8> {
    // Texts and raw JSON always serialize.
    serde_json::to_vec(payload).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use tidewire_stream::UserId;

    use super::*;
    use crate::MessageId;

    fn sent(title: &str, body: &str, data: &str) -> (usize, Value) {
        let notification = Notification {
            id: "n1".to_owned(),
            title: title.to_owned(),
            body: body.to_owned(),
            data: data.as_bytes().to_vec().into(),
            custom_type: "order_shipped".to_owned(),
            actions: vec![NotificationAction {
                label: "Open".to_owned(),
                url: "https://example.com/".to_owned(),
            }],
            ..Notification::default()
        };
        let id = MessageId::new("n1").unwrap();
        let json = payload(&OutgoingMessage::notification(
            id,
            UserId::new("ada"),
            notification,
        ));
        (json.len(), serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn a_small_payload_is_whole() {
        let (_, json) = sent("a", "b", r#"{"x":1}"#);
        assert_eq!(json["type"], "order_shipped");
        assert_eq!(json["data"]["x"], 1);
        assert_eq!(json["actions"][0]["label"], "Open");
        assert_eq!(json.get("cut"), None);
        let (_, json) = sent("a", "b", "");
        assert_eq!(json.get("data"), None);
    }

    #[test]
    fn a_long_payload_loses_its_data_first() {
        let data = format!(r#"{{"x":"{}"}}"#, "y".repeat(5_000));
        let (_, json) = sent("a", "b", &data);
        assert_eq!(json.get("data"), None);
        assert_eq!((&json["body"], &json["cut"]), (&"b".into(), &true.into()));
        assert_eq!(json["actions"][0]["label"], "Open");
    }

    #[test]
    fn four_thousand_emoji_are_cut_at_a_character() {
        let (bytes, json) = sent("a", &"🌊".repeat(4_000), "");
        assert!((MAX_PAYLOAD_BYTES - 3..=MAX_PAYLOAD_BYTES).contains(&bytes));
        let body = json["body"].as_str().unwrap();
        assert!(body.trim_end_matches('…').chars().all(|one| one == '🌊'));
        let (bytes, json) = sent(&"🌊".repeat(4_000), "", "");
        assert!(bytes <= MAX_PAYLOAD_BYTES && json["title"].as_str().unwrap().ends_with("🌊…"));
    }

    proptest! {
        #[test]
        fn every_payload_fits(title in ".{0,2000}", body in "(.|\n|\"){0,3000}") {
            let (bytes, json) = sent(&title, &body, "");
            prop_assert!(bytes <= MAX_PAYLOAD_BYTES);
            let cut = json["body"].as_str().unwrap().trim_end_matches('…').to_owned();
            prop_assert!(body.starts_with(&cut) || body.trim_end_matches('…') == cut);
        }
    }
}
