//! Mail: headers, a text part and an HTML part of a message.

use std::time::{Duration, UNIX_EPOCH};

use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
};
use reqwest::Url;
use tidewire_proto::v1::Notification;

use super::UnsubscribeTokens;
use crate::{
    Content, OutgoingMessage,
    text::{cut_utf16, one_line},
};

/// Characters of a subject at most. Programs show fewer.
const MAX_SUBJECT: usize = 200;

/// The parts of a mail that all mails share.
pub(super) struct Envelope {
    pub(super) from: Mailbox,
    pub(super) reply_to: Option<Mailbox>,
    pub(super) unsubscribe_url: Url,
    pub(super) tokens: UnsubscribeTokens,
}

/// Writes a mail. It depends on the message alone, so that every attempt sends the same one.
pub(super) fn compose(
    envelope: &Envelope,
    to: &Address,
    message: &OutgoingMessage,
) -> Result<Message, lettre::error::Error> {
    let mut link = envelope.unsubscribe_url.clone();
    let token = envelope.tokens.sign(&message.user, to.as_ref());
    link.query_pairs_mut().append_pair("token", &token);
    let created_ms = message.created_ms.max(0).unsigned_abs();
    let domain = envelope.from.email.domain();
    let subject = one_line(&message.content.title());
    let mut builder = Message::builder()
        .from(envelope.from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(cut_utf16(subject.trim(), MAX_SUBJECT))
        .date(UNIX_EPOCH + Duration::from_millis(created_ms))
        .message_id(Some(format!("<{}@{domain}>", message.id.as_str())))
        .raw_header(raw("List-Unsubscribe", format!("<{link}>")))
        .raw_header(raw(
            "List-Unsubscribe-Post",
            super::ONE_CLICK_BODY.to_owned(),
        ))
        // No holiday notice answers it.
        .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()));
    if let Some(reply_to) = &envelope.reply_to {
        builder = builder.reply_to(reply_to.clone());
    }
    let (text, html) = (text(&message.content, &link), html(&message.content, &link));
    builder.multipart(MultiPart::alternative_plain_html(text, html))
}

fn raw(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

fn text(content: &Content, link: &Url) -> String {
    let mut lines = Vec::new();
    for notification in content.notifications() {
        lines.push(one_line(&notification.title));
        if !notification.body.is_empty() {
            lines.push(notification.body.clone());
        }
        for action in &notification.actions {
            lines.push(format!(
                "{}: {}",
                one_line(&action.label),
                one_line(&action.url)
            ));
        }
        lines.push(String::new());
    }
    if let Some(note) = left_out(content) {
        lines.push(format!("{note}\n"));
    }
    lines.push(format!("Unsubscribe: {link}"));
    lines.join("\n")
}

fn html(content: &Content, link: &Url) -> String {
    let mut parts = String::from(
        "<!doctype html>\n<html><head><meta charset=\"utf-8\"></head>\n<body style=\"font-family:sans-serif\">\n",
    );
    for notification in content.notifications() {
        parts.push_str(&section(notification));
    }
    if let Some(note) = left_out(content) {
        parts.push_str(&format!("<p>{note}</p>\n"));
    }
    let link = escape(link.as_str());
    parts.push_str(&format!(
        "<p style=\"color:#666;font-size:small\"><a href=\"{link}\">Unsubscribe</a></p>\n</body></html>\n"
    ));
    parts
}

/// The line about the notifications that a digest does not have.
fn left_out(content: &Content) -> Option<String> {
    let number = content.left_out();
    (number > 0).then(|| format!("… and {number} older ones in the application."))
}

fn section(notification: &Notification) -> String {
    let mut section = format!("<h3>{}</h3>\n", escape(&notification.title));
    if !notification.body.is_empty() {
        let body = escape(&notification.body).replace('\n', "<br>\n");
        section.push_str(&format!("<p>{body}</p>\n"));
    }
    for action in &notification.actions {
        let label = escape(&action.label);
        section.push_str(&match is_link(&action.url) {
            true => format!("<p><a href=\"{}\">{label}</a></p>\n", escape(&action.url)),
            false => format!("<p>{label}</p>\n"),
        });
    }
    section
}

/// Whether a URL may be a link. The hub accepts no other one; a mail must not depend on that.
fn is_link(url: &str) -> bool {
    let scheme = url
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| ["https", "http", "mailto"].contains(&scheme.as_str()))
}

/// Escapes a text for HTML, also in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::NotificationAction;
    use tidewire_stream::UserId;

    use super::*;
    use crate::{MessageId, Secret};

    fn envelope() -> Envelope {
        Envelope {
            from: "Tidewire <notify@example.com>".parse().unwrap(),
            reply_to: Some("help@example.com".parse().unwrap()),
            unsubscribe_url: "https://app.example/unsubscribe?x=1".parse().unwrap(),
            tokens: UnsubscribeTokens::new(vec![Secret::new("s".repeat(32))]).unwrap(),
        }
    }

    fn mail(title: &str, body: &str) -> String {
        let notification = Notification {
            title: title.to_owned(),
            body: body.to_owned(),
            timestamp: 1_750_000_000_000,
            actions: vec![NotificationAction {
                label: "<Open>".to_owned(),
                url: "javascript:alert(1)".to_owned(),
            }],
            ..Notification::default()
        };
        let message = OutgoingMessage::notification(
            MessageId::new("06c9d4").unwrap(),
            UserId::new("ada"),
            notification,
        );
        let to = "ada@example.org".parse().unwrap();
        let mail = compose(&envelope(), &to, &message).unwrap();
        // The boundary of the parts is random.
        String::from_utf8(mail.formatted()).unwrap()
    }

    #[test]
    fn a_mail_can_be_recognised_and_unsubscribed_from() {
        let mail = mail("Payment", "0.1 ETH");
        for header in [
            "From: Tidewire <notify@example.com>\r\n",
            "Reply-To: help@example.com\r\n",
            "To: ada@example.org\r\n",
            "Subject: Payment\r\n",
            "Message-ID: <06c9d4@example.com>\r\n",
            "Date: Sun, 15 Jun 2025 15:06:40 +0000\r\n",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
            "Auto-Submitted: auto-generated\r\n",
        ] {
            assert!(mail.contains(header), "{header}{mail}");
        }
        let start = mail.find("List-Unsubscribe: ").unwrap();
        let value = mail[start..].replace("\r\n ", " ");
        assert!(value.starts_with("List-Unsubscribe: <https://app.example/unsubscribe?x=1&token="));
    }

    #[test]
    fn a_title_adds_no_header() {
        let mail = mail("Hi\r\nBcc: eve@example.com\r\n\r\nbody", "x");
        let head = mail.split("\r\n\r\n").next().unwrap();
        assert!(!head.contains("\nBcc"), "{head}");
        assert!(
            head.contains("Subject: Hi  Bcc: eve@example.com    body\r\n"),
            "{head}"
        );
        for bad in [
            "a@example.com\r\nBcc: b@example.com",
            "a@example.com>, <b@example.com",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn html_is_escaped_and_a_script_is_no_link() {
        let notification = Notification {
            title: "<script>".to_owned(),
            body: "a & \"b\"\nc".to_owned(),
            actions: vec![
                NotificationAction {
                    label: "'x'".to_owned(),
                    url: "https://example.com/?a=1&b=\"".to_owned(),
                },
                NotificationAction {
                    label: "y".to_owned(),
                    url: "JavaScript:alert(1)".to_owned(),
                },
            ],
            ..Notification::default()
        };
        let html = section(&notification);
        assert_eq!(
            html,
            "<h3>&lt;script&gt;</h3>\n<p>a &amp; &quot;b&quot;<br>\nc</p>\n\
             <p><a href=\"https://example.com/?a=1&amp;b=&quot;\">&#39;x&#39;</a></p>\n<p>y</p>\n"
        );
    }

    #[test]
    fn a_digest_is_one_mail() {
        let one = |title: &str| Notification {
            title: title.to_owned(),
            ..Notification::default()
        };
        let content = Content::Digest {
            notifications: vec![one("first"), one("second")],
            left_out: 0,
        };
        let link = "https://app.example/u".parse().unwrap();
        assert_eq!(
            text(&content, &link),
            "first\n\nsecond\n\nUnsubscribe: https://app.example/u"
        );
        assert_eq!(html(&content, &link).matches("<h3>").count(), 2);
        assert_eq!(content.title(), "2 notifications");
        let long = Content::Digest {
            notifications: vec![one("first")],
            left_out: 7,
        };
        assert!(text(&long, &link).contains("\n… and 7 older ones in the application.\n"));
        assert!(html(&long, &link).contains("<p>… and 7 older ones"));
    }
}
