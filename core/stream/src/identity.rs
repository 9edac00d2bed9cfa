//! Who a client is and what it may do with a channel.
//!
//! How an identity is proved is decided in [`auth`](crate::auth).

use std::{collections::BTreeSet, sync::Arc};

use tidewire_proto::v1::ErrorCode;

use crate::{Access, ChannelName, Namespace, PublishRight, StreamError};

/// A user's id: the subject of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Takes an id over.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a token allows beyond its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Publishes and notifies: a back end.
    Service,
    /// Operates the server.
    Admin,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody yet, and the server wants a token.
    Unknown,
    /// Nobody in particular, welcome to read what is public.
    Anonymous,
    /// The subject of a valid token.
    User(UserIdentity),
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// The subject.
    pub user: UserId,
    /// When the token expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
    /// The token's own id.
    pub token_id: Option<String>,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// Further channels that it may read: names, or prefixes that end in `*`.
    pub channels: Vec<String>,
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

    /// Refuses whoever the server does not know yet.
    ///
    /// # Errors
    /// A token is needed first.
    pub fn known(&self) -> Result<(), StreamError> {
        match self {
            Self::Unknown => Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "this server wants a token: send `auth` first",
            )),
            Self::Anonymous | Self::User(_) => Ok(()),
        }
    }

    /// Refuses whoever lacks a scope.
    ///
    /// # Errors
    /// The token has no such scope, or there is none.
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

    /// May this identity read `channel`?
    ///
    /// # Errors
    /// Says what it would take.
    pub fn may_read(
        &self,
        channel: &ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        self.known()?;
        let allowed = match namespace.access {
            Access::Public => true,
            Access::Authenticated => self.user().is_some(),
            Access::Owner => self
                .user()
                .is_some_and(|user| user.as_str() == channel.rest()),
        };
        if allowed || self.is_granted(channel) {
            return Ok(());
        }
        Err(self.refusal(match namespace.access {
            Access::Owner => format!("{channel} is readable by its owner only"),
            Access::Public | Access::Authenticated => {
                format!("{channel} is readable with a valid token only")
            }
        }))
    }

    /// May this identity publish to `channel`?
    ///
    /// # Errors
    /// Says what it would take.
    pub fn may_publish(
        &self,
        channel: &ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        self.known()?;
        match namespace.publish {
            PublishRight::Public => Ok(()),
            PublishRight::Authenticated if self.user().is_some() => Ok(()),
            PublishRight::Authenticated => {
                Err(self.refusal(format!("publishing to {channel} needs a valid token")))
            }
            PublishRight::Service => self.require(Scope::Service),
            PublishRight::Engine => Err(StreamError::new(
                ErrorCode::PermissionDenied,
                format!("only the server itself publishes to {:?}", namespace.name),
            )),
        }
    }

    fn is_granted(&self, channel: &ChannelName) -> bool {
        let Self::User(identity) = self else {
            return false;
        };
        identity
            .channels
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => channel.as_str().starts_with(prefix),
                None => pattern == channel.as_str(),
            })
    }

    /// Without a token the way out is to get one; with one there is none.
    fn refusal(&self, message: String) -> StreamError {
        let code = match self {
            Self::User(_) => ErrorCode::PermissionDenied,
            Self::Unknown => ErrorCode::Unauthenticated,
            Self::Anonymous => ErrorCode::PermissionDenied,
        };
        StreamError::new(code, message)
    }
}
