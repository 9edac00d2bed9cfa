//! Push subscription: the document that a browser's `pushManager.subscribe()` returns.
//!
//! ```json
//! {"endpoint": "https://push.example.com/1", "expirationTime": null,
//!  "keys": {"p256dh": "BLn9b-VR0ca83knDNZ32dCHG…", "auth": "_ordMnz7uTCmrpBTeUV4Bw"}}
//! ```

use std::sync::Arc;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use reqwest::Url;
use serde_json::Value;
use web_push_native::{Auth, p256::PublicKey};

use crate::{DeliveryError, guard::Guard};

/// Base64url with or without padding: browsers omit it, some libraries add it.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes of the browser's public key: an uncompressed point.
const KEY_BYTES: usize = 65;

/// Bytes of the browser's secret.
const AUTH_BYTES: usize = 16;

/// A browser that may be pushed to. Its clones are cheap.
#[derive(Clone)]
pub struct PushSubscription(Arc<Parts>);

struct Parts {
    url: Url,
    key: PublicKey,
    auth: Auth,
    /// When it ends, in milliseconds since the Unix epoch.
    expires_ms: Option<i64>,
}

impl std::fmt::Debug for PushSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The path of the endpoint is a capability: whoever knows it may push.
        let mut debug = f.debug_struct("PushSubscription");
        debug.field("host", &self.0.url.host_str());
        debug.finish_non_exhaustive()
    }
}

impl PartialEq for PushSubscription {
    fn eq(&self, other: &Self) -> bool {
        self.0.url == other.0.url && self.0.key == other.0.key && self.0.auth == other.0.auth
    }
}

impl PushSubscription {
    /// Reads a subscription.
    ///
    /// # Errors
    /// Names the field and the value that was expected.
    pub fn read(json: &[u8], guard: Guard) -> Result<Self, DeliveryError> {
        let expected = "expected the object that pushManager.subscribe() returns";
        let refuse =
            |found: &str| DeliveryError::invalid("subscription", format!("{found}, {expected}"));
        if json.is_empty() {
            return Err(refuse("missing"));
        }
        let document: Value = serde_json::from_slice(json).map_err(|_| refuse("no JSON"))?;
        if !document.is_object() {
            return Err(refuse("no object"));
        }
        let text = |pointer: &str| {
            let value = document.pointer(pointer).and_then(Value::as_str);
            value.ok_or_else(|| {
                let field = format!("subscription{}", pointer.replace('/', "."));
                DeliveryError::invalid(field, "missing, expected a text")
            })
        };
        let url = guard.check_url(text("/endpoint")?);
        let mut url = url
            .map_err(|error| DeliveryError::invalid("subscription.endpoint", error.to_string()))?;
        // No request carries it: with it, one device would be two.
        url.set_fragment(None);
        let key: [u8; KEY_BYTES] = decode("subscription.keys.p256dh", text("/keys/p256dh")?)?;
        let key = PublicKey::from_sec1_bytes(&key).map_err(|_| {
            DeliveryError::invalid(
                "subscription.keys.p256dh",
                "no point of P-256, expected the browser's public key",
            )
        })?;
        let auth: [u8; AUTH_BYTES] = decode("subscription.keys.auth", text("/keys/auth")?)?;
        let expires_ms = match document.get("expirationTime") {
            None | Some(Value::Null) => None,
            Some(value) => Some(milliseconds(value).ok_or_else(|| {
                DeliveryError::invalid(
                    "subscription.expirationTime",
                    format!("{value}, expected null or milliseconds since the Unix epoch"),
                )
            })?),
        };
        Ok(Self(Arc::new(Parts {
            url,
            key,
            auth: auth.into(),
            expires_ms,
        })))
    }

    /// The endpoint's URL, normalized and without its fragment. Two subscriptions of one URL are of one browser.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.0.url.as_str()
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0.url
    }

    pub(crate) fn is_expired(&self, now_ms: i64) -> bool {
        self.0.expires_ms.is_some_and(|expires| expires <= now_ms)
    }

    /// Encrypts a payload for this browser (RFC 8291). Each call draws a new key.
    pub(crate) fn encrypt(&self, payload: Vec<u8>) -> Result<Vec<u8>, web_push_native::Error> {
        web_push_native::encrypt(payload, &self.0.key, &self.0.auth)
    }
}

/// A time in milliseconds. Browsers give a number with or without a fraction.
fn milliseconds(value: &Value) -> Option<i64> {
    let found = value.as_f64().filter(|found| found.is_finite())?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast of a float stops at the bounds, which are far away from every real time"
    )]
    let found = found as i64;
    Some(found)
}

fn decode<const LEN: usize>(field: &str, text: &str) -> Result<[u8; LEN], DeliveryError> {
    let problem = match BASE64URL.decode(text) {
        Ok(bytes) => match <[u8; LEN]>::try_from(bytes) {
            Ok(bytes) => return Ok(bytes),
            Err(bytes) => format!("{} bytes", bytes.len()),
        },
        Err(_) => "no base64url".to_owned(),
    };
    Err(DeliveryError::invalid(
        field,
        format!("{problem}, expected {LEN} bytes in base64url"),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::guard::Networks;

    /// The browser's key and secret of RFC 8291, appendix A.
    const KEY: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    fn read(document: &Value) -> Result<PushSubscription, DeliveryError> {
        let text = serde_json::to_vec(document).unwrap();
        PushSubscription::read(&text, Guard::new(Networks::Public))
    }

    fn document() -> Value {
        json!({
            "endpoint": "https://push.example.com/1",
            "expirationTime": null,
            "keys": {"p256dh": KEY, "auth": AUTH},
        })
    }

    #[test]
    fn a_browsers_document_is_read() {
        let subscription = read(&document()).unwrap();
        assert_eq!(subscription.endpoint(), "https://push.example.com/1");
        assert!(!subscription.is_expired(i64::MAX));
        let debug = format!("{subscription:?}");
        assert!(!debug.contains("/1") && !debug.contains(AUTH), "{debug}");
        let mut padded = document();
        padded["keys"]["auth"] = json!(format!("{AUTH}=="));
        padded["expirationTime"] = json!(1_750_000_000_000.5);
        padded["more"] = json!({});
        padded["endpoint"] = json!("https://push.example.com:443/1#again");
        let padded = read(&padded).unwrap();
        assert_eq!(padded, subscription);
        assert!(padded.is_expired(1_750_000_000_000) && !padded.is_expired(1_749_999_999_999));
    }

    #[test]
    fn a_bad_field_is_named() {
        let refusal = |pointer: &str, value: Value| {
            let mut document = document();
            *document.pointer_mut(pointer).unwrap() = value;
            read(&document).unwrap_err().to_string()
        };
        for (pointer, value, expected) in [
            ("/endpoint", json!(null), "`subscription.endpoint`: missing"),
            (
                "/endpoint",
                json!("http://push.example.com/1"),
                "`subscription.endpoint`: its scheme is `http`, expected `https`",
            ),
            (
                "/endpoint",
                json!("https://169.254.169.254/latest"),
                "`subscription.endpoint`: its address is link-local, expected a public one",
            ),
            ("/keys", json!(1), "`subscription.keys.p256dh`: missing"),
            (
                "/keys/p256dh",
                json!("BA"),
                "`subscription.keys.p256dh`: 1 bytes, expected 65 bytes",
            ),
            (
                "/keys/p256dh",
                json!(format!("BA{}", "A".repeat(85))),
                "`subscription.keys.p256dh`: no point of P-256",
            ),
            (
                "/keys/auth",
                json!("?"),
                "`subscription.keys.auth`: no base64url, expected 16 bytes",
            ),
            (
                "/expirationTime",
                json!("soon"),
                "`subscription.expirationTime`: \"soon\", expected null or",
            ),
        ] {
            let error = refusal(pointer, value);
            assert!(error.starts_with(expected), "{error}");
        }
        let guard = Guard::new(Networks::Public);
        let error = PushSubscription::read(b"{", guard).unwrap_err();
        assert_eq!(error.field, "subscription");
    }
}
