//! Verifying keys: a shared secret, public keys in PEM, or a JSON Web Key Set.
//!
//! Each key has exactly one algorithm, which follows from the type of the key. The token
//! cannot choose it. A public key therefore never works as a shared secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// The shortest accepted secret, in bytes. HS256 requires a key as long as its hash
/// (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// The shortest accepted RSA modulus, in bytes (RFC 7518, section 3.3).
const MIN_RSA_BYTES: usize = 256;

/// Keys read from one set. The bound keeps the work per unknown key id small.
const MAX_KEYS: usize = 64;

/// The reason for refusing a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is shorter than [`MIN_SECRET_BYTES`].
    #[error("the secret is {0} bytes long, expected at least {MIN_SECRET_BYTES}")]
    ShortSecret(usize),
    /// The secret is a PEM file.
    #[error(
        "the secret is a PEM file, expected random bytes: set a public key as `public_key_file`"
    )]
    SecretIsPem,
    /// The file has no PEM block.
    #[error("the file has no PEM block, expected `-----BEGIN PUBLIC KEY-----`")]
    NoPem,
    /// The PEM block is a private key, or of another kind.
    #[error("the file has a {0:?} block, expected a \"PUBLIC KEY\" of RSA, P-256 or Ed25519")]
    NotPublic(String),
    /// The public key has an unsupported type, or is malformed.
    #[error(
        "public key number {0} cannot be used, expected RSA (2048 bits or more), P-256 or Ed25519"
    )]
    Unusable(usize),
    /// The document is not a key set.
    #[error("the document is not a JSON Web Key Set: {0}")]
    NotKeySet(String),
    /// The key set has no usable key.
    #[error("the key set has no usable key, expected RSA, P-256 or Ed25519 keys for signatures")]
    EmptyKeySet,
}

/// A key and its algorithm.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl VerifyingKey {
    /// Whether the header of a token, with `algorithm` and key id, selects this key.
    pub(super) fn matches(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.algorithm == algorithm
            && match (&self.id, id) {
                (Some(own), Some(named)) => own == named,
                // A token without a key id selects every key of its algorithm.
                _ => true,
            }
    }
}

/// The key of a shared secret.
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

/// The public keys of a PEM file.
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
        keys.push(
            parse_pem_block(&block.as_bytes()[..end]).ok_or(KeyError::Unusable(keys.len() + 1))?,
        );
        rest = &block[end..];
    }
    if keys.is_empty() {
        return Err(KeyError::NoPem);
    }
    Ok(keys)
}

/// Tries each key type. Each constructor refuses the other types.
fn parse_pem_block(block: &[u8]) -> Option<VerifyingKey> {
    let key = |algorithm, key| VerifyingKey {
        id: None,
        algorithm,
        key,
    };
    if let Ok(ed) = DecodingKey::from_ed_pem(block) {
        return Some(key(Algorithm::EdDSA, ed));
    }
    if let Ok(ec) = DecodingKey::from_ec_pem(block) {
        // An uncompressed point of P-256 has 65 bytes; other curves are longer.
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
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The members of a JSON Web Key that verification needs (RFC 7517, RFC 8037).
#[derive(Deserialize)]
struct Jwk {
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

/// The usable keys of a JSON Web Key Set. Shared secrets are skipped, since a published
/// secret is none.
pub(super) fn from_jwks(bytes: &[u8]) -> Result<Vec<VerifyingKey>, KeyError> {
    let set: JwkSet =
        serde_json::from_slice(bytes).map_err(|error| KeyError::NotKeySet(error.to_string()))?;
    let keys: Vec<_> = set
        .keys
        .into_iter()
        .take(MAX_KEYS)
        .filter_map(|value| serde_json::from_value(value).ok())
        .filter_map(parse_jwk)
        .collect();
    if keys.is_empty() {
        return Err(KeyError::EmptyKeySet);
    }
    Ok(keys)
}

fn parse_jwk(key: Jwk) -> Option<VerifyingKey> {
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
