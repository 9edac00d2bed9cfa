//! Tokens: how an identity is proved, and how tokens are made for development.
//!
//! HS256 with one shared secret; RS256, ES256 and EdDSA with public keys from a
//! file or from an identity provider. Times are judged by the injected clock.

mod claims;
mod keys;
mod remote;
mod revocation;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use tidewire_proto::v1::ErrorCode;

pub use claims::Claims;
use keys::VerifyingKey;
pub use keys::{KeyError, MIN_SECRET_BYTES};
pub use remote::{Fetched, KeySource, RemoteKeys};
pub use revocation::{Revocation, Revocations};

use crate::{
    SharedClock, StreamError,
    identity::{ChannelPattern, Identity, Scope, UserId, UserIdentity},
};

/// What becomes of a client without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousPolicy {
    /// It may read what is public.
    Read,
    /// It must give a token first.
    Refuse,
}

/// What a token must say, beside being signed and in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// Whom it must be for, one of these; empty for anyone.
    pub audience: Vec<String>,
    /// Who must have issued it, one of these; empty for anyone.
    pub issuer: Vec<String>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
}

/// The keys that prove tokens.
#[derive(Default)]
pub struct Keys {
    fixed: Vec<VerifyingKey>,
    signing: Option<EncodingKey>,
    remote: Option<Arc<RemoteKeys>>,
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
    /// With a secret for HS256, which signs too.
    ///
    /// # Errors
    /// It is too short, or no secret at all.
    pub fn secret(mut self, secret: &[u8]) -> Result<Self, KeyError> {
        self.fixed.push(keys::from_secret(secret)?);
        self.signing = Some(EncodingKey::from_secret(secret));
        Ok(self)
    }

    /// With the public keys of a PEM file.
    ///
    /// # Errors
    /// It holds none, or one that cannot be used.
    pub fn pem(mut self, text: &str) -> Result<Self, KeyError> {
        self.fixed.extend(keys::from_pem(text)?);
        Ok(self)
    }

    /// With those of an identity provider.
    #[must_use]
    pub fn remote(mut self, remote: Arc<RemoteKeys>) -> Self {
        self.remote = Some(remote);
        self
    }
}

/// Judges tokens.
#[derive(Debug)]
pub struct Authenticator {
    keys: Keys,
    rules: TokenRules,
    anonymous: AnonymousPolicy,
    revocations: Revocations,
    clock: SharedClock,
}

/// Why a token is not good.
enum Fault {
    Refused(StreamError),
    /// Its key may be in a newer set than this generation.
    UnknownKey(u64),
}

impl From<StreamError> for Fault {
    fn from(error: StreamError) -> Self {
        Self::Refused(error)
    }
}

impl Authenticator {
    /// Judges tokens by these keys and rules.
    #[must_use]
    pub fn new(
        keys: Keys,
        rules: TokenRules,
        anonymous: AnonymousPolicy,
        clock: SharedClock,
    ) -> Self {
        Self {
            keys,
            rules,
            anonymous,
            revocations: Revocations::new(clock.clone()),
            clock,
        }
    }

    /// Judges tokens signed with `secret` by HS256.
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

    /// Who a client without a token is.
    #[must_use]
    pub fn without_token(&self) -> Identity {
        match self.anonymous {
            AnonymousPolicy::Read => Identity::Anonymous,
            AnonymousPolicy::Refuse => Identity::Unknown,
        }
    }

    /// What was revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Who the bearer of `token` is. A token of a key that is not known yet waits
    /// for a newer key set, once.
    ///
    /// # Errors
    /// The token is malformed, wrongly signed, expired, not valid yet, for someone
    /// else, or revoked.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, StreamError> {
        match self.judge(token) {
            Ok(identity) => return Ok(identity),
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::UnknownKey(generation)) => {
                if let Some(remote) = &self.keys.remote {
                    remote.refresh_past(generation).await;
                }
            }
        }
        self.judge(token).map_err(refusal)
    }

    /// Who the bearer of `token` is, by the keys at hand. A token of a key that is
    /// not known is refused, and a newer key set asked for.
    ///
    /// # Errors
    /// As with [`authenticate`](Self::authenticate).
    pub fn verify(&self, token: &str) -> Result<Identity, StreamError> {
        self.judge(token).map_err(|fault| {
            if let (Fault::UnknownKey(_), Some(remote)) = (&fault, &self.keys.remote) {
                remote.want();
            }
            refusal(fault)
        })
    }

    fn judge(&self, token: &str) -> Result<Identity, Fault> {
        let claims = self.prove(token)?;
        Ok(self.accept(claims)?.into())
    }

    /// The claims of a token that one of the keys signed.
    fn prove(&self, token: &str) -> Result<Claims, Fault> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| malformed(&error))?;
        if header.crit.is_some_and(|names| !names.is_empty()) {
            return Err(unauthenticated("the token's `crit` names what is not known here").into());
        }
        let id = header.kid.as_deref();
        let mut failure = None;
        for key in &self.keys.fixed {
            if key.fits(header.alg, id) {
                match decode(token, key) {
                    Ok(claims) => return Ok(claims),
                    Err(error) => failure = Some(error),
                }
            }
        }
        if let Some(remote) = self.keys.remote.as_ref().filter(|_| is_public(header.alg)) {
            let (generation, keys) = remote.held();
            let mut knows_key = false;
            for key in keys.iter().filter(|key| key.fits(header.alg, id)) {
                knows_key = true;
                match decode(token, key) {
                    Ok(claims) => return Ok(claims),
                    Err(error) => failure = Some(error),
                }
            }
            if !knows_key {
                return Err(Fault::UnknownKey(generation));
            }
        }
        Err(Fault::Refused(match failure {
            Some(error) => malformed(&error),
            None => unauthenticated(format!(
                "the token is not valid: no key of this server proves {:?}",
                header.alg
            )),
        }))
    }

    fn accept(&self, claims: Claims) -> Result<UserIdentity, StreamError> {
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
                "the token's subject cannot name a channel: {error}"
            ))
        })?;
        let patterns = claims.channels.iter();
        let wallets = claims.wallets.iter();
        let identity = UserIdentity {
            issued_at_ms: claims.iat.map(ms),
            token_id: claims.jti,
            scopes: scopes(claims.scope.as_deref().unwrap_or_default()),
            channels: patterns.map(|text| ChannelPattern::new(text)).collect(),
            wallets: wallets.map(|wallet| wallet.to_ascii_lowercase()).collect(),
            ..UserIdentity::new(UserId::new(&claims.sub), expires_at_ms)
        };
        self.revocations.check(&identity)?;
        Ok(identity)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// There is no secret to sign with, or the claims cannot be written as JSON.
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

/// Whether tokens of this algorithm are proved by public keys.
fn is_public(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA
    )
}

fn decode(token: &str, key: &VerifyingKey) -> Result<Claims, jsonwebtoken::errors::Error> {
    let mut validation = Validation::new(key.algorithm);
    // What a token says is judged by `accept`, by the injected clock.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Claims>(token, &key.key, &validation).map(|token| token.claims)
}

fn refusal(fault: Fault) -> StreamError {
    match fault {
        Fault::Refused(error) => error,
        Fault::UnknownKey(_) => {
            unauthenticated("the token is not valid: it names a key that is not known here")
        }
    }
}

fn malformed(error: &jsonwebtoken::errors::Error) -> StreamError {
    unauthenticated(format!("the token is not valid: {error}"))
}

/// Scopes that this server does not know mean nothing here.
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
