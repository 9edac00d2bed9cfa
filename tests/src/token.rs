//! Tokens, made with a library of their own: not by the code under test.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// The secret of the servers that tests start.
pub const SECRET: &str = "a secret of the tests, 32 bytes or more";

/// The claims of a token.
#[derive(Debug, Clone, Serialize)]
pub struct Token {
    sub: String,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<String>,
    jti: String,
}

impl Token {
    /// A token of this user, valid for an hour.
    #[must_use]
    pub fn of(user: &str) -> Self {
        Self {
            sub: user.to_owned(),
            exp: now_seconds() + 3_600,
            scope: None,
            channels: Vec::new(),
            jti: format!("{user}-{}", now_seconds()),
        }
    }

    /// A token of a back end, signed.
    #[must_use]
    pub fn service() -> String {
        Self::of("backend").scope("service").sign()
    }

    /// With these scopes.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.scope = Some(scope.to_owned());
        self
    }

    /// With these further channels.
    #[must_use]
    pub fn channels(mut self, channels: &[&str]) -> Self {
        self.channels = channels.iter().map(|&channel| channel.to_owned()).collect();
        self
    }

    /// Valid for so many seconds from now; negative for a token that has expired.
    #[must_use]
    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.exp = now_seconds() + seconds;
        self
    }

    /// Signed with the tests' secret.
    #[must_use]
    pub fn sign(&self) -> String {
        self.sign_with(SECRET)
    }

    /// Signed with another secret.
    ///
    /// # Panics
    /// Never: claims are JSON.
    #[must_use]
    pub fn sign_with(&self, secret: &str) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), self, &key).expect("claims are JSON")
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the server under test lives in real time"
)]
fn now_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("it is after 1970").as_secs()).expect("it is before the end of time")
}
