//! Identity: the user of a client, and the claims of its token.
//!
//! [`auth`](crate::auth) verifies the token that an identity comes from. The module `permission`
//! decides by it which channels the client may read and publish to.

use std::{collections::BTreeSet, sync::Arc};

use tidewire_proto::v1::ErrorCode;

use crate::StreamError;

/// A user's id: the subject of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// A user id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A permission that a token carries beside its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Back ends: publish and notify.
    Service,
    /// Operators: inspect and control the server.
    Admin,
}

/// The identity of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The client has not sent a token yet, and the server requires one.
    Unknown,
    /// The client has no token and may read public channels.
    Anonymous,
    /// The subject of a valid token.
    User(Arc<UserIdentity>),
}

/// The user and the permissions of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// The subject.
    pub user: UserId,
    /// When the token expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
    /// The time of issue, in milliseconds since the Unix epoch, if the token has one.
    pub issued_at_ms: Option<i64>,
    /// The token id.
    pub token_id: Option<String>,
    /// The scopes.
    pub scopes: BTreeSet<Scope>,
    /// Patterns of further channels that the user may read.
    pub channels: Vec<ChannelPattern>,
    /// The user's wallet addresses, in lower case.
    pub wallets: BTreeSet<String>,
}

impl UserIdentity {
    /// A user without scopes, channel patterns and wallets.
    #[must_use]
    pub fn new(user: UserId, expires_at_ms: i64) -> Self {
        Self {
            user,
            expires_at_ms,
            issued_at_ms: None,
            token_id: None,
            scopes: BTreeSet::new(),
            channels: Vec::new(),
            wallets: BTreeSet::new(),
        }
    }
}

impl From<UserIdentity> for Identity {
    fn from(identity: UserIdentity) -> Self {
        Self::User(Arc::new(identity))
    }
}

/// A pattern of channel names. Each `*` matches any characters or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPattern(pub(crate) Box<str>);

impl ChannelPattern {
    /// A pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

impl Identity {
    /// The user, if there is one.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(identity) => Some(&identity.user),
            Self::Unknown | Self::Anonymous => None,
        }
    }

    /// When the token expires, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn expires_at_ms(&self) -> Option<i64> {
        match self {
            Self::User(identity) => Some(identity.expires_at_ms),
            Self::Unknown | Self::Anonymous => None,
        }
    }

    /// Whether the token has this scope.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        matches!(self, Self::User(identity) if identity.scopes.contains(&scope))
    }

    /// Checks that the client has sent a token, if the server requires one.
    ///
    /// # Errors
    /// The server requires a token first.
    pub fn require_known(&self) -> Result<(), StreamError> {
        match self {
            Self::Unknown => Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "this server requires a token: send it in the header `Authorization: Bearer …` of a request, or on a session with `auth`",
            )),
            Self::Anonymous | Self::User(_) => Ok(()),
        }
    }

    /// Checks that the token has `scope`.
    ///
    /// # Errors
    /// The token lacks the scope, or the client has no token.
    pub fn require(&self, scope: Scope) -> Result<(), StreamError> {
        if self.has(scope) {
            return Ok(());
        }
        let name = match scope {
            Scope::Service => "service",
            Scope::Admin => "admin",
        };
        Err(self.refusal(format!("this needs a token with the `{name}` scope")))
    }

    /// An unknown client should send a token. For any other client the refusal is final.
    pub(crate) fn refusal(&self, message: String) -> StreamError {
        let code = match self {
            Self::User(_) => ErrorCode::PermissionDenied,
            Self::Unknown => ErrorCode::Unauthenticated,
            Self::Anonymous => ErrorCode::PermissionDenied,
        };
        StreamError::new(code, message)
    }
}
