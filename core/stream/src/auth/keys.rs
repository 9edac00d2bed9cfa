//! Keys that prove tokens: a shared secret, public keys from PEM, or a JSON Web
//! Key Set.
//!
//! A key belongs to exactly one algorithm, decided by what the key is and never by
//! what a token says: so nobody can pass a public key off as a shared secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// The shortest secret that is accepted, in bytes: HS256 wants a key as long as
/// its hash (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// The shortest RSA modulus that is accepted, in bytes (RFC 7518, section 3.3).
const MIN_RSA_BYTES: usize = 256;

/// A key set may hold so many keys; what follows is not read.
const MAX_KEYS: usize = 64;

/// Why a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Shorter than [`MIN_SECRET_BYTES`].
    #[error("the secret is {0} bytes long, expected at least {MIN_SECRET_BYTES}")]
    ShortSecret(usize),
    /// A PEM file where a secret was expected.
    #[error("the secret is a PEM file: public keys go into `public_key_file`")]
    SecretIsPem,
    /// There is no PEM block at all.
    #[error("there is no `-----BEGIN PUBLIC KEY-----` in it")]
    NoPem,
    /// A private key, or another kind of block.
    #[error("it holds a {0:?}, expected a \"PUBLIC KEY\" of RSA, P-256 or Ed25519")]
    NotPublic(String),
    /// A public key of another kind, or broken.
    #[error("public key number {0} is not one of RSA (2048 bits or more), P-256 or Ed25519")]
    Unusable(usize),
    /// Not a key set.
    #[error("it is not a JSON Web Key Set: {0}")]
    NotKeySet(String),
    /// A key set without a usable key.
    #[error("it holds no key that can be used, expected RSA, P-256 or Ed25519 keys for signatures")]
    EmptyKeySet,
}

/// A key and the one algorithm that it proves.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl VerifyingKey {
    /// Whether a token that says this of itself may be proved by this key.
    pub(super) fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.algorithm == algorithm
            && match (&self.id, id) {
                (Some(own), Some(asked)) => own == asked,
                // Whoever names no key means any.
                _ => true,
            }
    }
}

/// A shared secret.
pub(super) fn from_secret(secret: &[u8]) -> Result<VerifyingKey, KeyError> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(KeyError::ShortSecret(secret.len()));
    }
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(KeyError::SecretIsPem);
    }
    Ok(VerifyingKey {
        id: None,
        algorithm: Algorithm::HS256,
        key: DecodingKey::from_secret(secret),
    })
}

/// The public keys of a PEM file, one after the other.
pub(super) fn from_pem(text: &str) -> Result<Vec<VerifyingKey>, KeyError> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let block = &rest[start..];
        let label = block["-----BEGIN ".len()..]
            .split("-----")
            .next()
            .unwrap_or_default();
        if label != "PUBLIC KEY" && label != "RSA PUBLIC KEY" {
            return Err(KeyError::NotPublic(label.to_owned()));
        }
        let end_line = format!("-----END {label}-----");
        let end = block
            .find(&end_line)
            .ok_or(KeyError::Unusable(keys.len() + 1))?
            + end_line.len();
        keys.push(one_pem(&block.as_bytes()[..end]).ok_or(KeyError::Unusable(keys.len() + 1))?);
        rest = &block[end..];
    }
    if keys.is_empty() {
        return Err(KeyError::NoPem);
    }
    Ok(keys)
}

/// Each reader refuses the other kinds.
fn one_pem(block: &[u8]) -> Option<VerifyingKey> {
    let key = |algorithm, key| VerifyingKey {
        id: None,
        algorithm,
        key,
    };
    if let Ok(ed) = DecodingKey::from_ed_pem(block) {
        return Some(key(Algorithm::EdDSA, ed));
    }
    if let Ok(ec) = DecodingKey::from_ec_pem(block) {
        // An uncompressed point of P-256; other curves are longer.
        let is_p256 = ec.try_get_as_bytes().is_ok_and(|point| point.len() == 65);
        return is_p256.then(|| key(Algorithm::ES256, ec));
    }
    let rsa = DecodingKey::from_rsa_pem(block).ok()?;
    let is_long = rsa
        .try_get_as_bytes()
        .is_ok_and(|der| der.len() > MIN_RSA_BYTES);
    is_long.then(|| key(Algorithm::RS256, rsa))
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

/// What of a JSON Web Key counts here (RFC 7517, RFC 8037).
#[derive(Deserialize)]
struct WebKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a JSON Web Key Set that can be used here. Shared secrets are not
/// among them, whoever publishes them.
pub(super) fn from_key_set(bytes: &[u8]) -> Result<Vec<VerifyingKey>, KeyError> {
    let set: KeySet =
        serde_json::from_slice(bytes).map_err(|error| KeyError::NotKeySet(error.to_string()))?;
    let keys: Vec<_> = set
        .keys
        .into_iter()
        .take(MAX_KEYS)
        .filter_map(|value| serde_json::from_value(value).ok())
        .filter_map(one_web_key)
        .collect();
    if keys.is_empty() {
        return Err(KeyError::EmptyKeySet);
    }
    Ok(keys)
}

fn one_web_key(key: WebKey) -> Option<VerifyingKey> {
    if key
        .purpose
        .as_deref()
        .is_some_and(|purpose| purpose != "sig")
    {
        return None;
    }
    let (algorithm, name, decoding) = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (key.n?, key.e?);
            if URL_SAFE_NO_PAD.decode(&n).ok()?.len() < MIN_RSA_BYTES {
                return None;
            }
            let decoding = DecodingKey::from_rsa_components(&n, &e);
            (Algorithm::RS256, "RS256", decoding)
        }
        ("EC", Some("P-256")) => {
            let decoding = DecodingKey::from_ec_components(&key.x?, &key.y?);
            (Algorithm::ES256, "ES256", decoding)
        }
        ("OKP", Some("Ed25519")) => {
            let decoding = DecodingKey::from_ed_components(&key.x?);
            (Algorithm::EdDSA, "EdDSA", decoding)
        }
        _ => return None,
    };
    if key.alg.is_some_and(|alg| alg != name) {
        return None;
    }
    Some(VerifyingKey {
        id: key.kid,
        algorithm,
        key: decoding.ok()?,
    })
}
