//! Web Push sender: encrypted messages to browsers (RFC 8030, 8291 and 8292).
//!
//! The payload is encrypted for one browser, and the push service only forwards it. `TTL` tells
//! the service for how long it keeps the message for a device that is off, `Urgency` whether it
//! wakes a sleeping one, and `Topic` which older message it replaces.
//!
//! # Refusals
//! A push service returns 404 or 410 for a subscription that ended: [`Outcome::Gone`]. It
//! returns 401 or 403 when it does not accept this server's VAPID key. For one endpoint that means a
//! subscription made with another key: [`Outcome::Paused`]. If endpoints of several users of one
//! push service refuse, the server's own key or subject is wrong: [`Outcome::Misconfigured`].
//! `refusals` decides which of both it is, and who waits for it.

mod payload;
mod refusals;
mod subscription;
mod vapid;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use tidewire_proto::v1::Priority;
use tidewire_stream::SharedClock;

pub use payload::{MAX_BODY_BYTES, payload};
pub use subscription::PushSubscription;
pub use vapid::Vapid;

use self::refusals::{Endpoint, Refusals};
use crate::{
    Content, DeliveryError, Outcome, OutgoingMessage, config::PushConfig, guard::Guard,
    http_client::HttpClient,
};

/// Sends messages to push subscriptions.
#[derive(Debug)]
pub struct WebPushSender {
    config: PushConfig,
    vapid: Vapid,
    client: HttpClient,
    clock: SharedClock,
    refusals: Mutex<Refusals>,
}

impl WebPushSender {
    pub(crate) fn new(
        config: &PushConfig,
        client: HttpClient,
        clock: SharedClock,
    ) -> Result<Self, DeliveryError> {
        Ok(Self {
            vapid: Vapid::new(&config.vapid_private_key, &config.subject)?,
            config: config.clone(),
            client,
            clock,
            refusals: Mutex::default(),
        })
    }

    /// The key that browsers subscribe with (`applicationServerKey`), in base64url.
    #[must_use]
    pub fn public_key(&self) -> &str {
        self.vapid.public_key()
    }

    /// Reads a subscription of a request, and checks its endpoint.
    ///
    /// # Errors
    /// Names the field and the value that was expected.
    pub fn read_subscription(&self, json: &[u8]) -> Result<PushSubscription, DeliveryError> {
        PushSubscription::read(json, Guard::new(self.config.networks()))
    }

    /// Makes one attempt to send a message to a subscription of its user. The id tells
    /// subscriptions apart when they refuse this server.
    pub async fn send(
        &self,
        id: &str,
        subscription: &PushSubscription,
        message: &OutgoingMessage,
    ) -> Outcome {
        let now_ms = self.clock.now_ms();
        let origin = subscription.url().origin().ascii_serialization();
        let endpoint = Endpoint {
            origin: &origin,
            registration: id,
            user: &message.user,
        };
        if !self.refusals.lock().may_send(endpoint, now_ms) {
            return Refusals::held_up(&origin);
        }
        // Its registration ends, so a clock that is in doubt does not count.
        if subscription.is_expired(self.clock.retention_ms()) {
            return Outcome::Gone {
                reason: "the subscription's expirationTime has passed".to_owned(),
            };
        }
        let body = match subscription.encrypt(payload(message)) {
            Ok(body) => body,
            Err(error) => return Outcome::permanent(error.to_string()),
        };
        let headers = match self.headers(subscription, message, now_ms) {
            Ok(headers) => headers,
            Err(reason) => return Outcome::permanent(reason),
        };
        let answer = match self.client.post(subscription.url(), headers, body).await {
            Ok(answer) => answer,
            Err(failure) => return failure.outcome(),
        };
        let reason = answer.reason();
        match answer.status.as_u16() {
            401 | 403 => self.refusals.lock().refuse(endpoint, reason, now_ms),
            404 => Outcome::Gone { reason },
            _ => {
                let outcome = answer.outcome(now_ms);
                if outcome == Outcome::Delivered {
                    self.refusals.lock().accept(endpoint);
                }
                outcome
            }
        }
    }

    fn headers(
        &self,
        subscription: &PushSubscription,
        message: &OutgoingMessage,
        now_ms: i64,
    ) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let binary = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, binary);
        let encoding = HeaderValue::from_static("aes128gcm");
        headers.insert(header::CONTENT_ENCODING, encoding);
        let authorization = self.vapid.authorization(subscription.url(), now_ms)?;
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert("ttl", ttl(message, self.config.ttl, now_ms).into());
        let urgency = HeaderValue::from_static(urgency(message.content.priority()));
        headers.insert("urgency", urgency);
        if let Some(topic) = topic(&message.content) {
            let topic = HeaderValue::from_str(&topic).map_err(|error| error.to_string())?;
            headers.insert("topic", topic);
        }
        Ok(headers)
    }
}

/// The seconds for which a push service keeps a message: until it expires, or as configured.
fn ttl(message: &OutgoingMessage, longest: Duration, now_ms: i64) -> u64 {
    let left = message.expires_ms.map(|expires| {
        let left = expires.saturating_sub(now_ms).max(0);
        left.unsigned_abs() / 1_000
    });
    left.unwrap_or(u64::MAX).min(longest.as_secs())
}

/// The urgency of a priority (RFC 8030, section 5.3). `normal` reaches a device on battery,
/// `low` waits until it has power or Wi-Fi.
fn urgency(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low",
        Priority::Unspecified | Priority::Medium => "normal",
        Priority::High | Priority::Urgent => "high",
    }
}

/// The topic of a collapse key: 32 characters of base64url, as RFC 8030, section 5.4, demands.
/// The push service does not learn the key.
fn topic(content: &Content) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use sha2::{Digest as _, Sha256};

    let Content::Notification(notification) = content else {
        return None;
    };
    let key = notification.collapse_key.as_deref()?;
    let hash = Sha256::digest(key.as_bytes());
    // 24 bytes are 32 characters.
    Some(URL_SAFE_NO_PAD.encode(&hash[..24]))
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::Notification;
    use tidewire_stream::UserId;

    use super::*;
    use crate::MessageId;

    fn message(notification: Notification) -> OutgoingMessage {
        let id = MessageId::new("m").unwrap();
        OutgoingMessage::notification(id, UserId::new("ada"), notification)
    }

    #[test]
    fn the_service_keeps_a_message_until_it_expires_or_as_configured() {
        let day = Duration::from_secs(86_400);
        let mut message = message(Notification::default());
        assert_eq!(ttl(&message, day, 1_000), 86_400);
        message.expires_ms = Some(61_999);
        assert_eq!(ttl(&message, day, 1_000), 60);
        assert_eq!(ttl(&message, day, 99_000), 0);
        message.expires_ms = Some(i64::MAX);
        assert_eq!(ttl(&message, day, -5), 86_400);
    }

    #[test]
    fn a_collapse_key_is_a_topic_of_32_characters() {
        let with = |key: &str| {
            let notification = Notification {
                collapse_key: Some(key.to_owned()),
                ..Notification::default()
            };
            topic(&message(notification).content)
        };
        let first = with("price alert of BTC-USD").unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(with("price alert of BTC-USD"), Some(first.clone()));
        assert_ne!(with("price alert of ETH-USD"), Some(first));
        assert_eq!(topic(&Content::Notification(Box::default())), None);
    }
}
