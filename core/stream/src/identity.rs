//! Identity: the user of a client, and its permissions on channels.
//!
//! [`auth`](crate::auth) verifies the token that an identity comes from.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use tidewire_proto::v1::ErrorCode;

use crate::{Access, ChannelName, Namespace, Ownership, PublishRight, StreamError};

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

    /// Whether the token makes this user the owner of a channel.
    fn owns(&self, channel: &ChannelName, namespace: &Namespace) -> bool {
        match namespace.ownership {
            Ownership::Wallet => self.wallets.contains(channel.rest()),
            Ownership::User | Ownership::Personal => self.user.as_str() == channel.rest(),
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
pub struct ChannelPattern(Box<str>);

impl ChannelPattern {
    /// A pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether the pattern matches `channel`, which is in its canonical form. A pattern that
    /// names a case-insensitive namespace matches in any case. The time is at most
    /// proportional to the length of the name times the length of the pattern.
    #[must_use]
    pub fn matches(&self, channel: &ChannelName, namespace: &Namespace) -> bool {
        let names_namespace = |text: &str| {
            let rest = text.strip_prefix(namespace.name.as_str());
            rest.is_some_and(|rest| rest.starts_with(':'))
        };
        let pattern = match namespace.case_insensitive && names_namespace(&self.0) {
            true => Cow::Owned(self.0.to_ascii_lowercase()),
            false => Cow::Borrowed(&*self.0),
        };
        let mut parts = pattern.split('*');
        // `split` returns at least one part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = channel.as_str().strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
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
                "this server requires a token: send `auth` first",
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

    /// Checks that the identity may read `channel`.
    ///
    /// # Errors
    /// The error names the missing permission.
    pub fn may_read(
        &self,
        channel: &ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        self.require_known()?;
        let allowed = match namespace.access {
            Access::Public => true,
            Access::Authenticated => self.user().is_some(),
            Access::Owner => {
                matches!(self, Self::User(identity) if identity.owns(channel, namespace))
            }
        };
        if allowed || self.is_granted(channel, namespace) {
            return Ok(());
        }
        Err(self.refusal(match namespace.access {
            Access::Owner => format!("{channel} is readable by its owner only"),
            Access::Public | Access::Authenticated => {
                format!("{channel} is readable with a valid token only")
            }
        }))
    }

    /// Checks that the identity may publish to `channel`.
    ///
    /// # Errors
    /// The error names the missing permission.
    pub fn may_publish(
        &self,
        channel: &ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        self.require_known()?;
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

    fn is_granted(&self, channel: &ChannelName, namespace: &Namespace) -> bool {
        matches!(self, Self::User(identity)
            if identity.channels.iter().any(|pattern| pattern.matches(channel, namespace)))
    }

    /// An unknown client should send a token. For any other client the refusal is final.
    fn refusal(&self, message: String) -> StreamError {
        let code = match self {
            Self::User(_) => ErrorCode::PermissionDenied,
            Self::Unknown => ErrorCode::Unauthenticated,
            Self::Anonymous => ErrorCode::PermissionDenied,
        };
        StreamError::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Namespaces;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn owned(name: &str) -> Namespace {
        Namespace {
            access: Access::Owner,
            ..Namespace::history(name)
        }
    }

    #[test]
    fn patterns_match_their_channels() {
        let all = Namespaces::built_in();
        let matches = |pattern: &str, name: &str| {
            let channel = channel(name);
            let custom = Namespace::history(channel.namespace());
            let namespace = all.get(&channel).unwrap_or(&custom);
            ChannelPattern::new(pattern).matches(&channel, namespace)
        };
        assert!(matches("orders:1", "orders:1"));
        assert!(!matches("orders:1", "orders:12"));
        assert!(matches("orders:*", "orders:12"));
        assert!(!matches("orders:*", "orders2:1"));
        assert!(matches("*", "orders:12"));
        assert!(matches("room:*:admin", "room:7:admin"));
        assert!(!matches("room:*:admin", "room:7:admins"));
        assert!(!matches("a:x*x", "a:x"));
        assert!(matches("a:x*x", "a:xx"));
        assert!(matches("wallet:0xAB*", "wallet:0xab01"));
        assert!(!matches("*0xAB", "wallet:0xab"));
        assert!(!matches("orders:AB", "orders:ab"));
        assert!(!matches("", "a:b"));
    }

    /// Matches a pattern by trying every split.
    fn matches_slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some((b'*', rest)), _) => {
                matches_slowly(rest, text)
                    || (!text.is_empty() && matches_slowly(pattern, &text[1..]))
            }
            (Some((a, pattern)), Some((b, text))) => a == b && matches_slowly(pattern, text),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_like_the_exhaustive_search(
            pattern in "[ab*]{0,8}",
            rest in "[ab]{1,10}",
        ) {
            let pattern = format!("n:{pattern}");
            let name = channel(&format!("n:{rest}"));
            prop_assert_eq!(
                ChannelPattern::new(&pattern).matches(&name, &Namespace::history("n")),
                matches_slowly(pattern.as_bytes(), name.as_str().as_bytes())
            );
        }
    }

    #[test]
    fn a_wallet_channel_belongs_to_the_user_with_its_claim() {
        let mut ada = UserIdentity::new(UserId::new("0xab"), 1);
        ada.wallets.insert("0xcd".to_owned());
        let ada = Identity::from(ada);
        let wallets = Namespace {
            ownership: Ownership::Wallet,
            ..owned("wallet")
        };
        let may_read = |name: &str| {
            let channel = channel(name);
            let custom = owned(channel.namespace());
            let is_wallet = channel.namespace() == "wallet";
            let namespace = if is_wallet { &wallets } else { &custom };
            ada.may_read(&channel, namespace).is_ok()
        };
        assert!(may_read("wallet:0xcd"));
        // A user id that looks like a wallet address does not own the wallet.
        assert!(!may_read("wallet:0xab"));
        assert!(may_read("user:0xab"));
        assert!(!may_read("user:0xcd"));
        assert!(
            Identity::Anonymous
                .may_read(&channel("wallet:0xcd"), &wallets)
                .is_err()
        );
    }
}
