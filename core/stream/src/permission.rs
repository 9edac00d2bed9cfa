//! Permissions: who may read and who may publish to a channel.
//!
//! A namespace gives the rule ([`Access`], [`PublishRight`]). An identity satisfies it by its
//! token: by its mere presence, its scope, its subject, its wallets or its channel patterns. The
//! owner of a channel can also be known to the engine behind it ([`ChannelProvider::owns`]).
//! Publishing can also be the right of the machine's own user ([`Locality`]).
//!
//! [`ChannelProvider::owns`]: crate::ChannelProvider::owns

use std::borrow::Cow;

use tidewire_proto::v1::ErrorCode;

use crate::{
    Access, Caller, ChannelName, Identity, Locality, Namespace, Namespaces, Ownership,
    PublishRight, Scope, StreamError, UserId,
    identity::{ChannelPattern, UserIdentity},
};

impl Namespaces {
    /// Checks that an identity may read `channel`.
    ///
    /// # Errors
    /// The identity may not read the channel. The error names the missing permission.
    pub fn may_read(
        &self,
        identity: &Identity,
        channel: &ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        let refused = match identity.may_read(channel, namespace) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let provider = self.provider(channel);
        let provider = provider.filter(|_| namespace.access == Access::Owner);
        match provider.zip(identity.user()) {
            Some((provider, user)) if provider.owns(user, channel.rest()) => Ok(()),
            _ => Err(refused),
        }
    }
}

impl Namespaces {
    /// Finds out whether a channel belongs to an identity, where only another server knows it. Call it
    /// before [`may_read`](Self::may_read).
    pub(crate) async fn look_owner_up(
        &self,
        identity: &Identity,
        channel: &ChannelName,
        namespace: &Namespace,
    ) {
        let needs_owner = namespace.access == Access::Owner;
        let Some(user) = identity.user().filter(|_| needs_owner) else {
            return;
        };
        if identity.may_read(channel, namespace).is_err()
            && let Some(provider) = self.provider(channel)
            && let Some(lookup) = provider.look_owner_up(user, channel.rest())
        {
            lookup.await;
        }
    }

    /// Forgets whether a channel belongs to a user.
    pub(crate) fn forget_owner(&self, user: &UserId, channel: &ChannelName) {
        if let Some(provider) = self.provider(channel) {
            provider.forget_owner(user, channel.rest());
        }
    }
}

impl Identity {
    /// Checks that the token alone allows the identity to read `channel`.
    ///
    /// # Errors
    /// The error names the missing permission.
    fn may_read(&self, channel: &ChannelName, namespace: &Namespace) -> Result<(), StreamError> {
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

    fn is_granted(&self, channel: &ChannelName, namespace: &Namespace) -> bool {
        matches!(self, Self::User(identity)
            if identity.channels.iter().any(|pattern| pattern.matches(channel, namespace)))
    }
}

impl Caller {
    /// Checks that the caller may publish to `channel`.
    ///
    /// # Errors
    /// The error names the missing permission.
    pub fn may_publish(
        &self,
        channel: &ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        let identity = &self.identity;
        identity.require_known()?;
        let is_local = self.locality == Locality::Local;
        let allowed = match namespace.publish {
            PublishRight::Public => true,
            PublishRight::AuthenticatedOrLocal => is_local || identity.user().is_some(),
            PublishRight::Authenticated => identity.user().is_some(),
            PublishRight::Service => return identity.require(Scope::Service),
            PublishRight::Engine => {
                return Err(StreamError::new(
                    ErrorCode::PermissionDenied,
                    format!("only the server itself publishes to {:?}", namespace.name),
                ));
            }
        };
        match allowed {
            true => Ok(()),
            false => Err(identity.refusal(format!("publishing to {channel} needs a valid token"))),
        }
    }
}

impl UserIdentity {
    /// Whether the token makes this user the owner of a channel.
    fn owns(&self, channel: &ChannelName, namespace: &Namespace) -> bool {
        match namespace.ownership {
            Ownership::Wallet => self.wallets.contains(channel.rest()),
            Ownership::User | Ownership::Personal => self.user.as_str() == channel.rest(),
        }
    }
}

impl ChannelPattern {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::UserId;

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
