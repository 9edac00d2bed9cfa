//! Token verification: proves the identity of a client by its JSON Web Token.
//!
//! Verification has three steps. The signature is checked against the keys that match the
//! token's algorithm and key id. The claims are checked against [`TokenRules`] and the
//! injected clock. The revocations are checked last. Supported are HS256 with a shared
//! secret, and RS256, ES256 and EdDSA with public keys from a file or an identity
//! provider. [`Authenticator::sign`] makes tokens for development.

mod claims;
mod jwks;
mod keys;
mod revocation;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, errors::ErrorKind};
use serde_json::Value;
use tidewire_proto::v1::ErrorCode;

pub use claims::Claims;
use jwks::ProviderState;
pub use jwks::{JwksFuture, JwksSource, RemoteKeySet};
use keys::VerifyingKey;
pub use keys::{KeyError, MIN_SECRET_BYTES};
pub use revocation::{Revocation, Revocations};

use crate::{
    SharedClock, StreamError,
    identity::{ChannelPattern, Identity, Scope, UserId, UserIdentity},
};

/// Milliseconds after which a client may send a token again whose key could not be fetched.
const KEY_SET_RETRY_MS: u32 = 5_000;

/// The fault of a text that is not in the form of a token.
const NO_TOKEN: &str =
    "it is not a JSON Web Token, expected three parts in base64url with a dot between two";

/// The treatment of clients without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousPolicy {
    /// They may read public channels.
    Read,
    /// They must send a token first.
    Refuse,
}

/// Requirements on the claims of a token, beside its validity period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// Accepted audiences (`aud`). Empty accepts any.
    pub audience: Vec<String>,
    /// Accepted issuers (`iss`). Empty accepts any.
    pub issuer: Vec<String>,
    /// Tolerated difference between the issuer's clock and ours.
    pub leeway: Duration,
}

/// The keys that tokens are verified with.
#[derive(Default)]
pub struct Keys {
    fixed: Vec<VerifyingKey>,
    signing: Option<EncodingKey>,
    remote: Option<Arc<RemoteKeySet>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("fixed", &self.fixed.len())
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Adds a secret for HS256. It also signs.
    ///
    /// # Errors
    /// The secret is too short, or is a PEM file.
    pub fn secret(mut self, secret: &[u8]) -> Result<Self, KeyError> {
        self.fixed.push(keys::from_secret(secret)?);
        self.signing = Some(EncodingKey::from_secret(secret));
        Ok(self)
    }

    /// Adds an earlier secret for HS256, which verifies and does not sign.
    ///
    /// # Errors
    /// The secret is too short, or is a PEM file.
    pub fn previous_secret(mut self, secret: &[u8]) -> Result<Self, KeyError> {
        self.fixed.push(keys::from_secret(secret)?);
        Ok(self)
    }

    /// Adds the public keys of a PEM file.
    ///
    /// # Errors
    /// The file has no public key, or an unusable one.
    pub fn pem(mut self, text: &str) -> Result<Self, KeyError> {
        self.fixed.extend(keys::from_pem(text)?);
        Ok(self)
    }

    /// Adds the keys of an identity provider.
    #[must_use]
    pub fn remote(mut self, remote: Arc<RemoteKeySet>) -> Self {
        self.remote = Some(remote);
        self
    }
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Authenticator {
    keys: Keys,
    rules: TokenRules,
    anonymous: AnonymousPolicy,
    revocations: Revocations,
    clock: SharedClock,
}

/// The reason for refusing a token.
enum TokenFault {
    Refused(StreamError),
    /// The cached key set, of this generation, has no key for the token.
    UnknownKey(u64),
}

impl From<StreamError> for TokenFault {
    fn from(error: StreamError) -> Self {
        Self::Refused(error)
    }
}

/// How far `iat` may be ahead and still count, in milliseconds: a thousand years. A later one was
/// written in milliseconds. Its token is treated as one without: each revocation of its user covers it.
const MAX_ISSUED_AHEAD_MS: i64 = 1_000 * 365 * 24 * 60 * 60 * 1_000;

impl Authenticator {
    /// Verifies tokens with `keys` by `rules`.
    #[must_use]
    pub fn new(
        keys: Keys,
        rules: TokenRules,
        anonymous: AnonymousPolicy,
        clock: SharedClock,
    ) -> Self {
        let revocations = Revocations::new(clock.clone()).with_leeway(rules.leeway);
        Self {
            keys,
            rules,
            anonymous,
            revocations,
            clock,
        }
    }

    /// Verifies tokens that `secret` signed by HS256.
    ///
    /// # Errors
    /// The secret is shorter than [`MIN_SECRET_BYTES`].
    pub fn hs256(
        secret: &[u8],
        anonymous: AnonymousPolicy,
        clock: SharedClock,
    ) -> Result<Self, StreamError> {
        let keys = Keys::default()
            .secret(secret)
            .map_err(|error| StreamError::new(ErrorCode::InvalidArgument, error.to_string()))?;
        Ok(Self::new(keys, TokenRules::default(), anonymous, clock))
    }

    /// The identity of a client without a token.
    #[must_use]
    pub fn without_token(&self) -> Identity {
        match self.anonymous {
            AnonymousPolicy::Read => Identity::Anonymous,
            AnonymousPolicy::Refuse => Identity::Unknown,
        }
    }

    /// The tolerated difference between the issuer's clock and ours.
    #[must_use]
    pub fn leeway(&self) -> Duration {
        self.rules.leeway
    }

    /// The revocations in force.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Verifies `token` and returns the identity of its bearer. When the token names an
    /// unknown key, the key set is fetched once and the token is verified again.
    ///
    /// # Errors
    /// The token is malformed, wrongly signed, expired, not valid yet, for another
    /// audience, of another issuer, or revoked; or its key is unknown while the key set
    /// cannot be fetched.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, StreamError> {
        match self.verify_token(token) {
            Ok(identity) => Ok(identity),
            Err(TokenFault::Refused(error)) => Err(error),
            Err(TokenFault::UnknownKey(generation)) => {
                let Some(remote) = &self.keys.remote else {
                    return Err(refusal(TokenFault::UnknownKey(generation)));
                };
                let provider = remote.refresh_newer_than(generation).await;
                match self.verify_token(token) {
                    // The token may be good: only its key is missing.
                    Err(TokenFault::UnknownKey(_)) if provider == ProviderState::Unavailable => {
                        Err(StreamError::new(
                            ErrorCode::Unavailable,
                            "the token cannot be verified now: the key set cannot be fetched",
                        )
                        .with_retry_after_ms(KEY_SET_RETRY_MS))
                    }
                    verified => verified.map_err(refusal),
                }
            }
        }
    }

    /// Verifies `token` with the cached keys. A token with an unknown key is refused, and
    /// a refresh of the key set is requested.
    ///
    /// # Errors
    /// The same as for [`authenticate`](Self::authenticate).
    pub fn verify(&self, token: &str) -> Result<Identity, StreamError> {
        self.verify_token(token).map_err(|fault| {
            if let (TokenFault::UnknownKey(_), Some(remote)) = (&fault, &self.keys.remote) {
                remote.request_refresh();
            }
            refusal(fault)
        })
    }

    /// Checks that the token of an identity that was verified before has not been revoked meanwhile, and
    /// has not expired.
    ///
    /// # Errors
    /// It has.
    pub fn check_again(&self, identity: &Identity) -> Result<(), StreamError> {
        let Identity::User(identity) = identity else {
            return Ok(());
        };
        if identity.expires_at_ms <= self.clock.now_ms() {
            return Err(unauthenticated("the token has expired"));
        }
        self.revocations.check(identity)
    }

    fn verify_token(&self, token: &str) -> Result<Identity, TokenFault> {
        let claims = self.verify_signature(token)?;
        Ok(self.check_claims(claims)?.into())
    }

    /// Verifies the signature of a token and returns its claims.
    fn verify_signature(&self, token: &str) -> Result<Claims, TokenFault> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| bad_header(&error))?;
        if header.crit.is_some_and(|names| !names.is_empty()) {
            return Err(unauthenticated(
                "the token's `crit` names an extension that this server does not support",
            )
            .into());
        }
        let id = header.kid.as_deref();
        let mut failure = None;
        for key in &self.keys.fixed {
            if key.matches(header.alg, id) {
                match decode(token, key) {
                    Ok(claims) => return Ok(claims),
                    Err(fault) => failure = Some(fault),
                }
            }
        }
        if let Some(remote) = self.keys.remote.as_ref().filter(|_| is_public(header.alg)) {
            let (generation, keys) = remote.keys();
            let mut knows_key = false;
            for key in keys.iter().filter(|key| key.matches(header.alg, id)) {
                knows_key = true;
                match decode(token, key) {
                    Ok(claims) => return Ok(claims),
                    Err(fault) => failure = Some(fault),
                }
            }
            if !knows_key {
                return Err(TokenFault::UnknownKey(generation));
            }
        }
        Err(TokenFault::Refused(match failure {
            Some(fault) => invalid(fault),
            None => invalid(format!("no key of this server proves {:?}", header.alg)),
        }))
    }

    fn check_claims(&self, claims: Claims) -> Result<UserIdentity, StreamError> {
        let now_ms = self.clock.now_ms();
        let leeway_ms = i64::try_from(self.rules.leeway.as_millis()).unwrap_or(i64::MAX);
        let ms = |seconds: i64| seconds.saturating_mul(1_000);
        let expires_at_ms = ms(claims.exp).saturating_add(leeway_ms);
        if expires_at_ms <= now_ms {
            return Err(unauthenticated("the token has expired"));
        }
        let begins = claims.nbf.map(ms);
        if begins.is_some_and(|begins| begins.saturating_sub(leeway_ms) > now_ms) {
            return Err(unauthenticated("the token is not valid yet"));
        }
        let TokenRules {
            audience, issuer, ..
        } = &self.rules;
        if !audience.is_empty() && !claims.aud.iter().any(|aud| audience.contains(aud)) {
            return Err(unauthenticated(format!(
                "the token is not for this server: its `aud` is none of {}",
                audience.join(", ")
            )));
        }
        if !issuer.is_empty() && !claims.iss.as_ref().is_some_and(|iss| issuer.contains(iss)) {
            return Err(unauthenticated(format!(
                "the token is not of an issuer that is trusted: its `iss` is none of {}",
                issuer.join(", ")
            )));
        }
        crate::ChannelName::user(&claims.sub).map_err(|error| {
            unauthenticated(format!(
                "the token's subject is not the id of a user: {error}"
            ))
        })?;
        let patterns = claims.channels.iter();
        let wallets = claims.wallets.iter();
        let identity = UserIdentity {
            issued_at_ms: claims
                .iat
                .map(ms)
                .filter(|issued| *issued <= now_ms.saturating_add(MAX_ISSUED_AHEAD_MS)),
            token_id: claims.jti,
            scopes: scopes(claims.scope.as_deref().unwrap_or_default()),
            channels: patterns.map(|text| ChannelPattern::new(text)).collect(),
            wallets: wallets.map(|wallet| wallet.to_ascii_lowercase()).collect(),
            ..UserIdentity::new(UserId::new(&claims.sub), expires_at_ms)
        };
        self.revocations.check(&identity)?;
        Ok(identity)
    }

    /// Signs a token with the shared secret.
    ///
    /// # Errors
    /// There is no shared secret, or the claims cannot be serialised.
    pub fn sign(&self, claims: &Claims) -> Result<String, StreamError> {
        let Some(key) = &self.keys.signing else {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                "there are public keys only, and they cannot sign: set auth.hmac_secret, or have the issuer make the token",
            ));
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, key).map_err(|error| {
            StreamError::new(ErrorCode::Internal, format!("cannot sign a token: {error}"))
        })
    }
}

/// Whether tokens of this algorithm are verified with public keys.
fn is_public(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA
    )
}

/// Verifies a signature and reads the claims.
///
/// # Errors
/// The fault of the token, and the expected form.
fn decode(token: &str, key: &VerifyingKey) -> Result<Claims, String> {
    let mut validation = Validation::new(key.algorithm);
    // `check_claims` checks the claims against the injected clock.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let failure = match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
        Ok(token) => return Ok(token.claims),
        Err(failure) => failure,
    };
    Err(match failure.kind() {
        ErrorKind::InvalidSignature => "its signature is not of a key of this server".to_owned(),
        ErrorKind::Json(_) => {
            let read = jsonwebtoken::decode::<Value>(token, &key.key, &validation);
            claims::fault(read.ok().map(|token| token.claims).as_ref())
        }
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => NO_TOKEN.to_owned(),
        _ => format!("its signature cannot be verified as {:?}", key.algorithm),
    })
}

fn refusal(fault: TokenFault) -> StreamError {
    match fault {
        TokenFault::Refused(error) => error,
        TokenFault::UnknownKey(_) => invalid("this server has no key with its key id (`kid`)"),
    }
}

/// The refusal of a token whose header cannot be read.
fn bad_header(error: &jsonwebtoken::errors::Error) -> StreamError {
    invalid(match error.kind() {
        ErrorKind::Json(_) => {
            "its header cannot be read, expected JSON with an `alg` of HS256, RS256, ES256 or EdDSA"
        }
        _ => NO_TOKEN,
    })
}

fn invalid(fault: impl std::fmt::Display) -> StreamError {
    unauthenticated(format!("the token is not valid: {fault}"))
}

/// The scopes of a token. Unknown scopes are ignored.
fn scopes(text: &str) -> BTreeSet<Scope> {
    text.split_ascii_whitespace()
        .filter_map(|scope| match scope {
            "service" => Some(Scope::Service),
            "admin" => Some(Scope::Admin),
            _ => None,
        })
        .collect()
}

fn unauthenticated(message: impl Into<String>) -> StreamError {
    StreamError::new(ErrorCode::Unauthenticated, message)
}
