//! Tokens: how an identity is proved, and how tokens are made for development.
//!
//! HS256 with one shared secret. The claims: `sub` (user), `exp` (seconds),
//! `jti`, `scope` (space-separated), `channels` (extra patterns), `wallets`.

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tidewire_proto::v1::ErrorCode;

use crate::{
    SharedClock, StreamError,
    identity::{Identity, Scope, UserId, UserIdentity},
};

/// The shortest secret that is accepted, in bytes: HS256 wants a key as long as
/// its hash (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// What a token says.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: String,
    /// When it expires, in seconds since the Unix epoch.
    pub exp: i64,
    /// Not before, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Its own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// What it allows, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Further channels that it may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// The user's wallets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wallets: Vec<String>,
}

/// What becomes of a client without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousPolicy {
    /// It may read what is public.
    Read,
    /// It must give a token first.
    Refuse,
}

/// Judges tokens.
pub struct Authenticator {
    decoding: DecodingKey,
    encoding: EncodingKey,
    anonymous: AnonymousPolicy,
    clock: SharedClock,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Judges tokens signed with `secret` by HS256.
    ///
    /// # Errors
    /// The secret is shorter than [`MIN_SECRET_BYTES`].
    pub fn hs256(
        secret: &[u8],
        anonymous: AnonymousPolicy,
        clock: SharedClock,
    ) -> Result<Self, StreamError> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "the secret is {} bytes long, expected at least {MIN_SECRET_BYTES}",
                    secret.len()
                ),
            ));
        }
        Ok(Self {
            decoding: DecodingKey::from_secret(secret),
            encoding: EncodingKey::from_secret(secret),
            anonymous,
            clock,
        })
    }

    /// Who a client without a token is.
    #[must_use]
    pub fn without_token(&self) -> Identity {
        match self.anonymous {
            AnonymousPolicy::Read => Identity::Anonymous,
            AnonymousPolicy::Refuse => Identity::Unknown,
        }
    }

    /// Who the bearer of `token` is.
    ///
    /// # Errors
    /// The token is malformed, wrongly signed, expired or not valid yet.
    pub fn verify(&self, token: &str) -> Result<Identity, StreamError> {
        let mut validation = Validation::new(Algorithm::HS256);
        // The times are judged below, by the injected clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map_err(|error| unauthenticated(format!("the token is not valid: {error}")))?
            .claims;
        let now_ms = self.clock.now_ms();
        let expires_at_ms = claims.exp.saturating_mul(1_000);
        if expires_at_ms <= now_ms {
            return Err(unauthenticated("the token has expired"));
        }
        if claims
            .nbf
            .is_some_and(|nbf| nbf.saturating_mul(1_000) > now_ms)
        {
            return Err(unauthenticated("the token is not valid yet"));
        }
        crate::ChannelName::user(&claims.sub).map_err(|error| {
            unauthenticated(format!(
                "the token's subject cannot name a channel: {error}"
            ))
        })?;
        Ok(Identity::User(UserIdentity {
            user: UserId::new(&claims.sub),
            expires_at_ms,
            token_id: claims.jti,
            scopes: scopes(claims.scope.as_deref().unwrap_or_default()),
            channels: claims.channels,
        }))
    }

    /// Makes a token.
    ///
    /// # Errors
    /// The claims cannot be written as JSON.
    pub fn sign(&self, claims: &Claims) -> Result<String, StreamError> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.encoding).map_err(
            |error| StreamError::new(ErrorCode::Internal, format!("cannot sign a token: {error}")),
        )
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn judge(now_ms: i64) -> Authenticator {
        Authenticator::hs256(SECRET, AnonymousPolicy::Read, ManualClock::at(now_ms)).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            sub: "ada".into(),
            exp: 100,
            scope: Some("service x".into()),
            ..Claims::default()
        }
    }

    #[test]
    fn a_token_gives_its_identity_until_it_expires() {
        let token = judge(0).sign(&claims()).unwrap();
        let identity = judge(99_999).verify(&token).unwrap();
        assert_eq!(identity.user().unwrap().as_str(), "ada");
        assert!(identity.has(Scope::Service) && !identity.has(Scope::Admin));
        assert_eq!(
            judge(100_000).verify(&token).unwrap_err().message(),
            "the token has expired"
        );
    }

    #[test]
    fn bad_tokens_are_refused() {
        let early = judge(0)
            .sign(&Claims {
                nbf: Some(50),
                ..claims()
            })
            .unwrap();
        assert!(judge(49_000).verify(&early).is_err());
        assert!(judge(50_000).verify(&early).is_ok());
        let strange = judge(0)
            .sign(&Claims {
                sub: "a b".into(),
                ..claims()
            })
            .unwrap();
        assert!(judge(0).verify(&strange).is_err());
        let other =
            Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, ManualClock::at(0)).unwrap();
        assert!(judge(0).verify(&other.sign(&claims()).unwrap()).is_err());
        assert!(judge(0).verify("").is_err());
        // An unsigned token: {"alg":"none"} and the claims above.
        assert!(
            judge(0)
                .verify("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEiLCJleHAiOjEwMH0.")
                .is_err()
        );
        assert!(Authenticator::hs256(b"short", AnonymousPolicy::Read, ManualClock::at(0)).is_err());
    }
}
