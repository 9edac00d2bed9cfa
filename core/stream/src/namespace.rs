//! Namespaces: what the part before a channel's colon decides.
//!
//! A namespace gives its channels their class, how much history they keep, who
//! may read them and who may publish. Which namespaces exist is fixed when the
//! server starts; a channel in an unknown namespace is refused.

use std::{collections::HashMap, time::Duration};

use tidewire_proto::v1::ErrorCode;

use crate::{ChannelName, Epoch, Identity, StreamError, UserId, channel};

/// Whether every message of a channel counts, or only the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Ordered, without gaps, resumable by position.
    History,
    /// Only the newest value counts; older ones may be left out.
    Latest,
}

/// What a subscription without a position begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opening {
    /// What is published next.
    Next,
    /// The newest publication, which says how things stand.
    Newest,
}

/// Who may read a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everyone.
    Public,
    /// Everyone with a valid token.
    Authenticated,
    /// The user whose id is the rest of the name.
    Owner,
}

/// Who may publish to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishRight {
    /// The server's own engines, nobody else.
    #[serde(skip)]
    Engine,
    /// Tokens with the `service` scope.
    Service,
    /// Everyone with a valid token.
    Authenticated,
    /// Everyone.
    Public,
}

/// What the channels of a namespace are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The part before the colon.
    pub name: String,
    /// Whether every message counts.
    pub class: Class,
    /// How many publications are kept. A latest channel keeps one at least.
    pub history_size: usize,
    /// How long they are kept.
    pub history_ttl: Duration,
    /// Who may read.
    pub access: Access,
    /// Who may publish.
    pub publish: PublishRight,
    /// What a subscription to a history channel begins with. One to a latest channel
    /// begins with the newest value.
    pub opening: Opening,
}

impl Namespace {
    /// A history namespace that everyone may read and back ends publish to,
    /// with 1,000 messages kept for ten minutes.
    #[must_use]
    pub fn history(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            class: Class::History,
            history_size: 1_000,
            history_ttl: Duration::from_secs(600),
            access: Access::Public,
            publish: PublishRight::Service,
            opening: Opening::Next,
        }
    }

    /// A latest namespace that everyone may read and only engines publish to.
    #[must_use]
    pub fn latest(name: &str) -> Self {
        Self {
            class: Class::Latest,
            history_size: 1,
            history_ttl: METADATA_TTL,
            publish: PublishRight::Engine,
            ..Self::history(name)
        }
    }
}

/// A channel's position is remembered for so long after its last publication.
pub const METADATA_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The namespaces that every server has.
const BUILT_IN: [&str; 7] = [
    "prices", "market", "blocks", "tx", "wallet", "events", "user",
];

/// Says whether the rest of a channel's name makes sense to the engine behind it.
pub type ChannelCheck = Box<dyn Fn(&str) -> Result<(), StreamError> + Send + Sync>;

/// The epoch in which a channel begins, by the rest of its name. None while the engine
/// behind it does not follow what happens there: then no position of it is good for long.
pub type ChannelEpoch = Box<dyn Fn(&str) -> Option<Epoch> + Send + Sync>;

/// Whether a channel, by the rest of its name, is this user's besides what the token says.
pub type ChannelOwner = Box<dyn Fn(&UserId, &str) -> bool + Send + Sync>;

/// All namespaces of a server.
#[derive(Default)]
pub struct Namespaces {
    by_name: HashMap<String, Namespace>,
    checks: HashMap<String, ChannelCheck>,
    epochs: HashMap<String, ChannelEpoch>,
    owners: HashMap<String, ChannelOwner>,
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespaces")
            .field("by_name", &self.by_name)
            .finish_non_exhaustive()
    }
}

impl Namespaces {
    /// The namespaces that every server has: `prices`, `market`, `blocks`, `tx`,
    /// `wallet`, `events` and `user`.
    #[must_use]
    pub fn built_in() -> Self {
        let mut all = Self::default();
        for name in ["prices", "market"] {
            all.put(Namespace::latest(name));
        }
        for name in ["blocks", "tx", "wallet", "events"] {
            all.put(Namespace {
                publish: PublishRight::Engine,
                opening: if name == "blocks" {
                    Opening::Newest
                } else {
                    Opening::Next
                },
                ..Namespace::history(name)
            });
        }
        all.put(Namespace {
            access: Access::Owner,
            ..Namespace::history("user")
        });
        all
    }

    /// Adds a namespace of the operator's.
    ///
    /// # Errors
    /// The name is malformed, or taken.
    pub fn add(&mut self, namespace: Namespace) -> Result<(), StreamError> {
        if !channel::is_namespace(&namespace.name) {
            return Err(channel::ChannelNameError::BadNamespace(namespace.name).into());
        }
        if self.by_name.contains_key(&namespace.name) {
            return Err(StreamError::new(
                ErrorCode::AlreadyExists,
                format!("namespace {:?} is built in or named twice", namespace.name),
            ));
        }
        self.put(namespace);
        Ok(())
    }

    /// Says who may read the channels of a built-in namespace. `user` is always its
    /// owners'.
    ///
    /// # Errors
    /// There is no such namespace, or it is `user`.
    pub fn restrict(&mut self, name: &str, access: Access) -> Result<(), StreamError> {
        match self.by_name.get_mut(name) {
            Some(namespace) if name != "user" => {
                namespace.access = access;
                Ok(())
            }
            Some(_) => Err(StreamError::new(
                ErrorCode::InvalidArgument,
                "`user` channels are their owners', and cannot be anything else",
            )),
            None => Err(self.unknown(name)),
        }
    }

    /// Whether every server has this namespace.
    #[must_use]
    pub fn is_built_in(name: &str) -> bool {
        BUILT_IN.contains(&name)
    }

    /// Has `check` judge the channels of a namespace before anyone follows them.
    pub fn check_with(&mut self, namespace: &str, check: ChannelCheck) {
        self.checks.insert(namespace.to_owned(), check);
    }

    /// Has `epoch` say in which epoch the channels of a namespace begin. Its engine follows
    /// a channel for some time only, and says by another epoch that it did not in between.
    pub fn begin_with(&mut self, namespace: &str, epoch: ChannelEpoch) {
        self.epochs.insert(namespace.to_owned(), epoch);
    }

    /// Has `owns` say which channels of a namespace are a user's, besides those that a
    /// token names.
    pub fn own_with(&mut self, namespace: &str, owns: ChannelOwner) {
        self.owners.insert(namespace.to_owned(), owns);
    }

    /// Whether an engine says in which epoch a channel begins.
    pub(crate) fn has_epoch(&self, channel: &ChannelName) -> bool {
        self.epochs.contains_key(channel.namespace())
    }

    /// The epoch that an engine says for a channel, while it follows it.
    pub(crate) fn epoch(&self, channel: &ChannelName) -> Option<Epoch> {
        self.epochs.get(channel.namespace())?(channel.rest())
    }

    /// May this identity read `channel`?
    ///
    /// # Errors
    /// Says what it would take.
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
        let owner = self.owners.get(&namespace.name);
        let owner = owner.filter(|_| namespace.access == Access::Owner);
        match owner.zip(identity.user()) {
            Some((owns, user)) if owns(user, channel.rest()) => Ok(()),
            _ => Err(refused),
        }
    }

    fn put(&mut self, namespace: Namespace) {
        self.by_name.insert(namespace.name.clone(), namespace);
    }

    /// The namespace of `channel`.
    #[must_use]
    pub fn get(&self, channel: &ChannelName) -> Option<&Namespace> {
        self.by_name.get(channel.namespace())
    }

    /// Parses a channel name into its canonical form and finds its namespace.
    ///
    /// # Errors
    /// The name is malformed, its namespace is unknown, or its engine does not
    /// know the rest.
    pub fn resolve(&self, name: &str) -> Result<(ChannelName, &Namespace), StreamError> {
        let channel = canonical(ChannelName::parse(name)?);
        let namespace = self
            .get(&channel)
            .ok_or_else(|| self.unknown(channel.namespace()))?;
        if let Some(check) = self.checks.get(&namespace.name) {
            check(channel.rest())?;
        }
        Ok((channel, namespace))
    }

    fn unknown(&self, name: &str) -> StreamError {
        let mut known: Vec<_> = self.by_name.keys().map(String::as_str).collect();
        known.sort_unstable();
        StreamError::new(
            ErrorCode::NotFound,
            format!(
                "there is no namespace {name:?}, expected one of {}",
                known.join(", ")
            ),
        )
    }
}

/// Addresses and hashes are known by their lower-case form.
fn canonical(channel: ChannelName) -> ChannelName {
    let folds = matches!(channel.namespace(), "wallet" | "tx")
        && channel.as_str().contains(|c: char| c.is_ascii_uppercase());
    if !folds {
        return channel;
    }
    ChannelName::parse(&channel.as_str().to_ascii_lowercase()).unwrap_or(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_to_their_namespace() {
        let mut all = Namespaces::built_in();
        all.add(Namespace::history("orders")).unwrap();
        assert_eq!(all.resolve("orders:1").unwrap().1.class, Class::History);
        assert_eq!(
            all.resolve("prices:BTC-USD").unwrap().1.class,
            Class::Latest
        );
        assert_eq!(
            all.resolve("wallet:0xAb").unwrap().0.as_str(),
            "wallet:0xab"
        );
        assert_eq!(all.resolve("user:Ada").unwrap().0.as_str(), "user:Ada");
        assert_eq!(
            all.resolve("nope:1").unwrap_err().code(),
            ErrorCode::NotFound
        );
        assert_eq!(
            all.resolve("nope").unwrap_err().code(),
            ErrorCode::InvalidArgument
        );
        assert!(all.add(Namespace::history("prices")).is_err());
        assert!(all.add(Namespace::history("No")).is_err());
        all.restrict("wallet", Access::Owner).unwrap();
        assert_eq!(all.resolve("wallet:0xab").unwrap().1.access, Access::Owner);
        assert!(all.restrict("user", Access::Public).is_err());
        assert!(all.restrict("nope", Access::Public).is_err());
        assert!(
            all.by_name
                .keys()
                .all(|name| Namespaces::is_built_in(name) || name == "orders")
        );
    }

    #[test]
    fn a_channel_can_be_a_users_without_its_token_saying_so() {
        let mut all = Namespaces::built_in();
        all.own_with(
            "wallet",
            Box::new(|user, rest| user.as_str() == "ada" && rest == "0xab"),
        );
        let ada = Identity::from(crate::identity::UserIdentity::new(UserId::new("ada"), 1));
        let eve = Identity::from(crate::identity::UserIdentity::new(UserId::new("eve"), 1));
        let may_read = |all: &Namespaces, identity: &Identity, name: &str| {
            let (channel, namespace) = all.resolve(name).unwrap();
            all.may_read(identity, &channel, namespace).is_ok()
        };
        assert!(may_read(&all, &eve, "wallet:0xab"), "all may read it");
        all.restrict("wallet", Access::Owner).unwrap();
        assert!(may_read(&all, &ada, "wallet:0xab"));
        assert!(!may_read(&all, &ada, "wallet:0xcd"));
        for other in [&eve, &Identity::Anonymous, &Identity::Unknown] {
            assert!(!may_read(&all, other, "wallet:0xab"));
        }
    }

    #[test]
    fn an_engine_can_refuse_a_name() {
        let mut all = Namespaces::built_in();
        all.check_with(
            "prices",
            Box::new(|rest| match rest {
                "BTC-USD" => Ok(()),
                _ => Err(StreamError::new(ErrorCode::NotFound, "no such symbol")),
            }),
        );
        assert!(all.resolve("prices:BTC-USD").is_ok());
        assert_eq!(
            all.resolve("prices:X").unwrap_err().code(),
            ErrorCode::NotFound
        );
    }
}
