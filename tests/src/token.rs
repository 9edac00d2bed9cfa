//! Test tokens, signed by a library that the server does not share.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde::Serialize;
use serde_json::{Map, Value};

/// The HMAC secret of test servers.
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
    #[serde(flatten)]
    further: Map<String, Value>,
}

/// A fixed key pair, published in this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPair {
    /// RSA, 2048 bits, for RS256.
    Rsa,
    /// P-256, for ES256.
    P256,
    /// Ed25519, for EdDSA.
    Ed25519,
}

impl KeyPair {
    /// All key pairs.
    pub const ALL: [Self; 3] = [Self::Rsa, Self::P256, Self::Ed25519];

    /// Returns the public key, in PEM.
    #[must_use]
    pub fn public(self) -> &'static str {
        match self {
            Self::Rsa => include_str!("../keys/rsa.pub.pem"),
            Self::P256 => include_str!("../keys/p256.pub.pem"),
            Self::Ed25519 => include_str!("../keys/ed25519.pub.pem"),
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::Ed25519 => Algorithm::EdDSA,
        }
    }

    fn private(self) -> EncodingKey {
        match self {
            Self::Rsa => EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")),
            Self::P256 => EncodingKey::from_ec_pem(include_bytes!("../keys/p256.pem")),
            Self::Ed25519 => EncodingKey::from_ed_pem(include_bytes!("../keys/ed25519.pem")),
        }
        .expect("the keys of the tests are keys")
    }

    /// Returns the public key as a JSON Web Key with this id.
    ///
    /// # Panics
    /// Never: the fixed keys are valid.
    #[must_use]
    pub fn web_key(self, id: &str) -> Value {
        let mut key = Jwk::from_encoding_key(&self.private(), self.algorithm()).expect("a key");
        key.common.key_id = Some(id.to_owned());
        serde_json::to_value(key).expect("a key is JSON")
    }
}

impl Token {
    /// A token for this user, valid for one hour.
    #[must_use]
    pub fn of(user: &str) -> Self {
        Self {
            sub: user.to_owned(),
            exp: now_seconds() + 3_600,
            scope: None,
            channels: Vec::new(),
            jti: format!("{user}-{}", now_seconds()),
            further: Map::new(),
        }
    }

    /// A signed token with the service scope.
    #[must_use]
    pub fn service() -> String {
        Self::of("backend").scope("service").sign()
    }

    /// Sets the token id (`jti`).
    #[must_use]
    pub fn id(mut self, jti: &str) -> Self {
        jti.clone_into(&mut self.jti);
        self
    }

    /// Sets the scopes.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.scope = Some(scope.to_owned());
        self
    }

    /// Adds channels.
    #[must_use]
    pub fn channels(mut self, channels: &[&str]) -> Self {
        self.channels = channels.iter().map(|&channel| channel.to_owned()).collect();
        self
    }

    /// Sets the lifetime in seconds from now. A negative lifetime gives an expired token.
    #[must_use]
    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.exp = now_seconds() + seconds;
        self
    }

    /// Adds a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.further.insert(name.to_owned(), value.into());
        self
    }

    /// Signs with the private key of a pair and this key id.
    ///
    /// # Panics
    /// Never: the claims serialise to JSON.
    #[must_use]
    pub fn sign_as(&self, key: KeyPair, id: Option<&str>) -> String {
        let mut header = Header::new(key.algorithm());
        header.kid = id.map(str::to_owned);
        jsonwebtoken::encode(&header, self, &key.private()).expect("claims are JSON")
    }

    /// Signs with [`SECRET`].
    #[must_use]
    pub fn sign(&self) -> String {
        self.sign_with(SECRET)
    }

    /// Signs with another secret.
    ///
    /// # Panics
    /// Never: the claims serialise to JSON.
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
