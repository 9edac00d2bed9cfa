//! VAPID: proves to a push service which server sends (RFC 8292).
//!
//! A token is signed for each origin of push services, and reused for an hour: some services
//! limit how often a server may change it. It is valid for 12 hours from its creation. The
//! standard permits 24, so a server whose clock is hours fast is still accepted.

use std::num::NonZeroUsize;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lru::LruCache;
use parking_lot::Mutex;
use reqwest::Url;
use serde::Serialize;
use web_push_native::p256::{
    SecretKey, elliptic_curve::sec1::ToEncodedPoint as _, pkcs8::EncodePrivateKey as _,
};

use crate::{DeliveryError, Secret, guard::AddressClass};

/// Time for which a token is valid, in seconds.
const VALID_S: i64 = 12 * 60 * 60;

/// Time for which a token is reused, in milliseconds.
const REUSE_MS: i64 = 60 * 60 * 1_000;

/// Origins whose tokens are kept. Push services are few; invented endpoints may be many.
const ORIGINS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Key in the configuration.
const KEY: &str = "delivery.push.vapid_private_key";

/// The identity of this server for push services.
pub struct Vapid {
    key: EncodingKey,
    public_key: String,
    subject: String,
    /// Tokens by origin, with the time of their creation in milliseconds.
    tokens: Mutex<LruCache<String, (i64, HeaderValue)>>,
}

impl std::fmt::Debug for Vapid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Vapid");
        debug.field("public_key", &self.public_key);
        debug
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    sub: &'a str,
}

impl Vapid {
    /// Reads the key and the subject of the configuration.
    ///
    /// # Errors
    /// Names the key of the value that cannot be used.
    pub fn new(private_key: &Secret, subject: &str) -> Result<Self, DeliveryError> {
        let key = read_key(private_key)?;
        check_subject(subject)?;
        let public = key.public_key().to_encoded_point(false);
        let document = key
            .to_pkcs8_der()
            .map_err(|error| DeliveryError::invalid(KEY, error.to_string()))?;
        Ok(Self {
            key: EncodingKey::from_ec_der(document.as_bytes()),
            public_key: URL_SAFE_NO_PAD.encode(public.as_bytes()),
            subject: subject.to_owned(),
            tokens: Mutex::new(LruCache::new(ORIGINS)),
        })
    }

    /// The results of checking the key and the subject.
    pub(crate) fn check(private_key: &Secret, subject: &str) -> [Result<(), DeliveryError>; 2] {
        [read_key(private_key).map(drop), check_subject(subject)]
    }

    /// The public key, in base64url.
    #[must_use]
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The `Authorization` header of a request to an endpoint.
    pub(super) fn authorization(&self, endpoint: &Url, now_ms: i64) -> Result<HeaderValue, String> {
        let origin = endpoint.origin().ascii_serialization();
        if let Some((created_ms, header)) = self.tokens.lock().get(&origin)
            && (0..REUSE_MS).contains(&now_ms.saturating_sub(*created_ms))
        {
            return Ok(header.clone());
        }
        let claims = Claims {
            aud: &origin,
            exp: now_ms.div_euclid(1_000).saturating_add(VALID_S),
            sub: &self.subject,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key);
        let token = token.map_err(|error| format!("no VAPID token: {error}"))?;
        let header = format!("vapid t={token}, k={}", self.public_key);
        let mut header = HeaderValue::from_str(&header).map_err(|error| error.to_string())?;
        header.set_sensitive(true);
        self.tokens.lock().put(origin, (now_ms, header.clone()));
        Ok(header)
    }
}

fn read_key(private_key: &Secret) -> Result<SecretKey, DeliveryError> {
    let text = private_key.expose().trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let key = bytes.and_then(|bytes| SecretKey::from_slice(&bytes).ok());
    key.ok_or_else(|| {
        DeliveryError::invalid(
            KEY,
            "no private key of P-256, expected 32 bytes in base64url, as `npx web-push generate-vapid-keys` prints them",
        )
    })
}

/// Checks the contact. Push services refuse one that nobody can reach, with a 403 that does not
/// say so.
fn check_subject(subject: &str) -> Result<(), DeliveryError> {
    let host = match subject.split_once(':') {
        Some(("mailto", address)) => {
            let parts = address.rsplit_once('@');
            parts.and_then(|(name, host)| (!name.is_empty()).then(|| host.to_owned()))
        }
        Some(("https", _)) => {
            let url = Url::parse(subject).ok();
            url.and_then(|url| url.host_str().map(str::to_owned))
        }
        _ => None,
    };
    if host.is_some_and(|host| is_public_name(&host)) {
        return Ok(());
    }
    Err(DeliveryError::invalid(
        "delivery.push.subject",
        format!(
            "{subject:?}, expected a mailto: address or an https: URL of a public host, such as mailto:ops@example.com"
        ),
    ))
}

fn is_public_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let inner = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = inner.parse() {
        return AddressClass::of(address) == AddressClass::Public;
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let last = host.rsplit('.').next().unwrap_or_default();
    host.contains('.')
        && !host.starts_with('.')
        && host.bytes().all(is_allowed)
        && ![
            "",
            "localhost",
            "local",
            "localdomain",
            "internal",
            "invalid",
            "test",
        ]
        .contains(&last)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The private key of RFC 8291, appendix A, and its public key.
    const PRIVATE: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
    const PUBLIC: &str =
        "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";

    fn vapid() -> Vapid {
        Vapid::new(&Secret::new(PRIVATE), "mailto:ops@example.com").unwrap()
    }

    fn token(vapid: &Vapid, url: &str, now_ms: i64) -> Value {
        let header = vapid.authorization(&url.parse().unwrap(), now_ms).unwrap();
        let header = header.to_str().unwrap();
        let token = header.strip_prefix("vapid t=").unwrap();
        let (token, key) = token.split_once(", k=").unwrap();
        assert_eq!(key, PUBLIC);
        let claims = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_for_one_origin_and_ends_well_before_a_day() {
        let vapid = vapid();
        let now_ms = 1_750_000_000_000;
        let claims = token(&vapid, "https://push.example.com/1?x=y", now_ms);
        assert_eq!(claims["aud"], "https://push.example.com");
        assert_eq!(claims["sub"], "mailto:ops@example.com");
        // The push service's clock is 10 minutes behind.
        let left = claims["exp"].as_i64().unwrap() - (now_ms / 1_000 - 600);
        assert_eq!(left, 12 * 3_600 + 600);
        let other = token(&vapid, "https://other.example:8443/1", now_ms);
        assert_eq!(other["aud"], "https://other.example:8443");
    }

    #[test]
    fn a_token_is_reused_for_an_hour() {
        let vapid = vapid();
        let exp = |now_ms| token(&vapid, "https://push.example.com/1", now_ms)["exp"].as_i64();
        let first = exp(10_000);
        assert_eq!(exp(10_000 + REUSE_MS - 1), first);
        assert_eq!(exp(10_000 + REUSE_MS), first.map(|exp| exp + 3_600));
        // The clock was set back: the old token would be valid for too long.
        assert_eq!(exp(0), Some(VALID_S));
    }

    #[test]
    fn a_subject_at_localhost_is_refused() {
        let check = |subject: &str| Vapid::new(&Secret::new(PRIVATE), subject).map(|_| ());
        for good in ["mailto:a@example.com", "https://example.com/contact"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "mailto:root@localhost",
            "mailto:root@machine.local",
            "mailto:root@machine",
            "mailto:@example.com",
            "mailto:<a@example.com>",
            "https://localhost/",
            "https://localhost:3000",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://10.0.0.1",
            "http://example.com/",
            "ops@example.com",
            "",
        ] {
            let error = check(bad).unwrap_err();
            assert_eq!(error.field, "delivery.push.subject", "{bad}");
        }
    }

    #[test]
    fn a_bad_key_is_not_in_the_error() {
        for bad in ["", "short", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            let error = Vapid::new(&Secret::new(bad), "mailto:a@example.com").unwrap_err();
            assert_eq!(error.field, KEY);
            assert!(bad.is_empty() || !error.problem.contains(bad));
        }
        assert!(!format!("{:?}", vapid()).contains(PRIVATE));
    }
}
