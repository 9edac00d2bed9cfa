//! Outgoing message: content for one user, and the outcome of an attempt to send it.

use std::{sync::Arc, time::Duration};

use tidewire_proto::v1::{Notification, NotificationType, Priority};
use tidewire_stream::UserId;

use crate::DeliveryError;

/// Notifications of a digest at most. The application has all of them.
pub const MAX_DIGEST: usize = 50;

/// Longest id of a message, in bytes.
const MAX_ID_BYTES: usize = 128;

/// A way to reach users outside of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// HTTP requests to a back end or a chat.
    Webhook,
    /// Web Push to browsers.
    Push,
    /// E-mail over SMTP.
    Email,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 3] = [Self::Webhook, Self::Push, Self::Email];

    /// The name in configuration, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Push => "push",
            Self::Email => "email",
        }
    }
}

/// Id of a message. It is the same in every attempt, so that receivers recognise a repetition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Arc<str>);

impl MessageId {
    /// An id of letters, digits, `_` and `-`. It goes into headers, so no other byte is accepted.
    ///
    /// # Errors
    /// The id is empty, longer than 128 bytes, or has another character.
    pub fn new(id: &str) -> Result<Self, DeliveryError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(is_allowed) {
            return Err(DeliveryError::invalid(
                "id",
                format!("{id:?}, expected 1 to {MAX_ID_BYTES} letters, digits, `_` or `-`"),
            ));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One notification.
    Notification(Box<Notification>),
    /// The notifications that quiet hours held back, in one message.
    Digest {
        /// The newest ones, oldest first.
        notifications: Vec<Notification>,
        /// Older ones that the message does not have.
        left_out: usize,
    },
}

impl Content {
    /// The notifications, oldest first.
    #[must_use]
    pub fn notifications(&self) -> &[Notification] {
        match self {
            Self::Notification(one) => std::slice::from_ref(one),
            Self::Digest { notifications, .. } => notifications,
        }
    }

    /// The highest priority of the notifications.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let all = self.notifications().iter();
        let highest = all.map(|notification| notification.priority).max();
        match highest.map(Priority::try_from) {
            Some(Ok(Priority::Unspecified) | Err(_)) | None => Priority::Medium,
            Some(Ok(priority)) => priority,
        }
    }

    /// Older notifications that a digest does not have.
    pub(crate) fn left_out(&self) -> usize {
        match self {
            Self::Notification(_) => 0,
            Self::Digest { left_out, .. } => *left_out,
        }
    }

    /// The title: that of the notification, or the number of them.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Notification(one) => one.title.clone(),
            Self::Digest {
                notifications,
                left_out,
            } => match (&notifications[..], left_out) {
                ([one], 0) => one.title.clone(),
                (all, left_out) => format!("{} notifications", all.len() + left_out),
            },
        }
    }
}

/// A message to one user.
#[derive(Debug, Clone, PartialEq)]
pub struct OutgoingMessage {
    /// Its id, the same in every attempt and after a restart.
    pub id: MessageId,
    /// The recipient. Empty for a notification to everyone.
    pub user: UserId,
    /// The content.
    pub content: Content,
    /// When it was created, in milliseconds since the Unix epoch. Its age counts from here.
    pub created_ms: i64,
    /// The time from which it is not sent any more, in milliseconds since the Unix epoch.
    pub expires_ms: Option<i64>,
}

impl OutgoingMessage {
    /// A message of one notification, which expires with it.
    #[must_use]
    pub fn notification(id: MessageId, user: UserId, notification: Notification) -> Self {
        Self {
            id,
            user,
            created_ms: notification.timestamp,
            expires_ms: notification.expires_at,
            content: Content::Notification(Box::new(notification)),
        }
    }

    /// A message of several notifications, oldest first. It has the newest
    /// [`MAX_DIGEST`] of them, and the number of the others. Their own expiries do not count:
    /// the message says what happened.
    #[must_use]
    pub fn digest(
        id: MessageId,
        user: UserId,
        mut notifications: Vec<Notification>,
        created_ms: i64,
    ) -> Self {
        let left_out = notifications.len().saturating_sub(MAX_DIGEST);
        notifications.drain(..left_out);
        Self {
            id,
            user,
            content: Content::Digest {
                notifications,
                left_out,
            },
            created_ms,
            expires_ms: None,
        }
    }

    /// Whether the message is not to be sent any more.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= now_ms)
    }
}

/// The outcome of one attempt to send a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver accepted the message.
    Delivered,
    /// The attempt failed, and a later one may succeed.
    Retry {
        /// The wait that the receiver demands.
        after: Option<Duration>,
        /// The cause, without secrets.
        reason: String,
    },
    /// The endpoint works, and refuses this message for now: a greylisted recipient, a full
    /// mailbox. A later attempt may succeed; other messages do not wait for it.
    RetryMessage {
        /// The cause, without secrets.
        reason: String,
    },
    /// No later attempt will succeed: the message becomes a dead letter at once.
    Permanent {
        /// The cause, without secrets.
        reason: String,
    },
    /// The endpoint does not exist any more. It is to be removed, with all its messages.
    Gone {
        /// The cause, without secrets.
        reason: String,
    },
    /// The endpoint refuses this server, and others do not. It is paused and reported, not
    /// removed.
    Paused {
        /// The cause, without secrets.
        reason: String,
    },
    /// Every endpoint of the channel refuses this server: its configuration is wrong. Nothing is
    /// removed, and messages wait until they are too old.
    Misconfigured {
        /// The cause, without secrets.
        reason: String,
    },
}

impl Outcome {
    pub(crate) fn retry(reason: impl Into<String>) -> Self {
        Self::Retry {
            after: None,
            reason: reason.into(),
        }
    }

    pub(crate) fn permanent(reason: impl Into<String>) -> Self {
        Self::Permanent {
            reason: reason.into(),
        }
    }
}

/// The name of a notification's type, as on the wire: `price_alert`, or one of the
/// configuration.
pub(crate) fn type_name(notification: &Notification) -> String {
    if !notification.custom_type.is_empty() {
        return notification.custom_type.clone();
    }
    let kind = NotificationType::try_from(notification.r#type).unwrap_or_default();
    let name = kind.as_str_name();
    name.strip_prefix("NOTIFICATION_TYPE_")
        .unwrap_or(name)
        .to_ascii_lowercase()
}

/// The name of a priority, as on the wire.
pub(crate) fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low",
        Priority::Unspecified | Priority::Medium => "medium",
        Priority::High => "high",
        Priority::Urgent => "urgent",
    }
}

/// A time in RFC 3339, in UTC. A time beyond the calendar is that of the Unix epoch.
pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_safe_in_a_header() {
        assert_eq!(MessageId::new("06c9-d_4").unwrap().as_str(), "06c9-d_4");
        for bad in ["", "a.b", "a b", "a\r\nb", "ä", &"x".repeat(129)] {
            let error = MessageId::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("`id`: "), "{error}");
        }
    }

    #[test]
    fn a_digest_has_the_highest_priority_and_a_title_that_counts() {
        let with = |priority: Priority, title: &str| Notification {
            priority: priority.into(),
            title: title.to_owned(),
            ..Notification::default()
        };
        let all = vec![with(Priority::Low, "a"), with(Priority::High, "b")];
        let digest = |all: &[Notification]| {
            let id = MessageId::new("d").unwrap();
            OutgoingMessage::digest(id, UserId::new("ada"), all.to_vec(), 1).content
        };
        assert_eq!(digest(&all).priority(), Priority::High);
        assert_eq!(digest(&all).title(), "2 notifications");
        assert_eq!(digest(&all[..1]).title(), "a");
        let many: Vec<_> = (0..MAX_DIGEST + 2)
            .map(|number| with(Priority::Low, &number.to_string()))
            .collect();
        let many = digest(&many);
        assert_eq!(many.title(), "52 notifications");
        assert_eq!(
            (many.notifications().len(), many.left_out()),
            (MAX_DIGEST, 2)
        );
        assert_eq!(many.notifications()[0].title, "2", "the newest ones");
        let unset = Content::Notification(Box::default());
        assert_eq!(unset.priority(), Priority::Medium);
    }

    #[test]
    fn types_have_their_names_of_the_wire() {
        let built_in = Notification {
            r#type: NotificationType::PriceAlert.into(),
            ..Notification::default()
        };
        assert_eq!(type_name(&built_in), "price_alert");
        let custom = Notification {
            custom_type: "order_shipped".to_owned(),
            ..Notification::default()
        };
        assert_eq!(type_name(&custom), "order_shipped");
        assert_eq!(rfc3339(1_750_000_000_000), "2025-06-15T15:06:40Z");
    }
}
