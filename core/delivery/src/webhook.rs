//! Webhook sender: signed requests after the Standard Webhooks specification.
//!
//! Each request has three headers, by which a receiver's library verifies it:
//! - `webhook-id`: the message's id, the same in every attempt.
//! - `webhook-timestamp`: the time of the attempt, in seconds.
//! - `webhook-signature`: one signature for each secret, separated by spaces. While secrets are
//!   rotated, the receiver's old and new one both verify.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

mod template;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use reqwest::Url;
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
};
use tidewire_stream::SharedClock;

pub use template::Template;

use crate::{
    DeliveryError, Outcome, OutgoingMessage, Secret, config::WebhookConfig, guard::Guard,
    http_client::HttpClient,
};

/// Prefix of a signing secret.
const SECRET_PREFIX: &str = "whsec_";

/// Lengths of a signing secret that the specification permits, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Sends messages to one webhook.
pub struct WebhookSender {
    config: WebhookConfig,
    url: Url,
    signers: Vec<Webhook>,
    client: HttpClient,
    clock: SharedClock,
}

impl std::fmt::Debug for WebhookSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("WebhookSender");
        debug
            .field("name", &self.config.name)
            .finish_non_exhaustive()
    }
}

impl WebhookSender {
    /// A sender with a client of the configured networks.
    pub(crate) fn new(
        config: &WebhookConfig,
        client: HttpClient,
        clock: SharedClock,
    ) -> Result<Self, DeliveryError> {
        let key = |key: &str| format!("delivery.webhook {:?} {key}", config.name);
        let url = Guard::new(config.networks())
            .check_url(config.url.expose())
            .map_err(|error| DeliveryError::invalid(key("url"), error.to_string()))?;
        let signers = config.secrets.iter().map(read_secret);
        let signers = signers.collect::<Result<_, _>>();
        Ok(Self {
            config: config.clone(),
            url,
            signers: signers.map_err(|problem| DeliveryError::invalid(key("secrets"), problem))?,
            client,
            clock,
        })
    }

    /// The webhook's configuration.
    #[must_use]
    pub fn config(&self) -> &WebhookConfig {
        &self.config
    }

    /// Makes one attempt to send a message.
    pub async fn send(&self, message: &OutgoingMessage) -> Outcome {
        let chat = self.config.chat_id.as_deref();
        let body = template::body(self.config.template, chat, message);
        let now_ms = self.clock.now_ms();
        let headers = match self.headers(message, &body, now_ms) {
            Ok(headers) => headers,
            Err(reason) => return Outcome::permanent(reason),
        };
        match self
            .client
            .post(&self.url, headers, body.into_bytes())
            .await
        {
            Ok(answer) => answer.outcome(now_ms),
            Err(failure) => failure.outcome(),
        }
    }

    fn headers(
        &self,
        message: &OutgoingMessage,
        body: &str,
        now_ms: i64,
    ) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        let id = message.id.as_str();
        let seconds = now_ms.div_euclid(1_000);
        headers.insert(HEADER_WEBHOOK_ID, value(id)?);
        headers.insert(HEADER_WEBHOOK_TIMESTAMP, seconds.into());
        let sign = |signer: &Webhook| signer.sign(id, seconds, body.as_bytes());
        let signatures: Result<Vec<_>, _> = self.signers.iter().map(sign).collect();
        let signatures = signatures.map_err(|error| error.to_string())?.join(" ");
        if !signatures.is_empty() {
            headers.insert(HEADER_WEBHOOK_SIGNATURE, value(&signatures)?);
        }
        Ok(headers)
    }
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|error| error.to_string())
}

/// Reads a signing secret.
///
/// # Errors
/// States the form that was expected. The secret is not in the text.
pub(crate) fn read_secret(secret: &Secret) -> Result<Webhook, String> {
    let expected = format!(
        "expected {SECRET_PREFIX} and {} to {} bytes in base64, as `openssl rand -base64 32` makes them",
        SECRET_BYTES.start(),
        SECRET_BYTES.end()
    );
    let Some(text) = secret.expose().strip_prefix(SECRET_PREFIX) else {
        return Err(format!("a secret without {SECRET_PREFIX}, {expected}"));
    };
    let Ok(bytes) = STANDARD.decode(text) else {
        return Err(format!("a secret that is not base64, {expected}"));
    };
    if !SECRET_BYTES.contains(&bytes.len()) {
        return Err(format!("a secret of {} bytes, {expected}", bytes.len()));
    }
    Webhook::from_bytes(bytes).map_err(|error| format!("{error}, {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_checked_and_never_in_the_error() {
        let read = |text: &str| read_secret(&Secret::new(text)).map(|_| ());
        assert!(read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok());
        for (bad, problem) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "without whsec_"),
            ("whsec_MfKQ9r8GKYqrTw!", "not base64"),
            ("whsec_c2hvcnQ=", "5 bytes"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(problem), "{error}");
            assert!(
                !error.contains(bad.trim_start_matches(SECRET_PREFIX)),
                "{error}"
            );
        }
    }
}
