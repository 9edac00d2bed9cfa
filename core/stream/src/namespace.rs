//! Namespaces: the policy of all channels whose names share the part before the colon.
//!
//! A namespace is data: class, history, permissions, and how its channels behave. Code checks
//! a property and never a namespace's name. The namespaces are fixed when the server
//! starts; a channel in an unknown namespace is refused. An engine registers its
//! [`ChannelProvider`] for a namespace to judge the rest of a channel's name.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tidewire_proto::v1::{ChannelClass, ErrorCode};

use crate::{
    Caller, ChannelEpoch, ChannelName, ChannelProvider, MissedSummary, StreamError, UserId,
    channel::{self, PERSONAL},
};

/// Whether every message of a channel counts, or only the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Ordered, without gaps, resumable by position.
    History,
    /// Only the newest value counts; older ones may be left out.
    Latest,
}

impl From<Class> for ChannelClass {
    fn from(class: Class) -> Self {
        match class {
            Class::History => Self::History,
            Class::Latest => Self::Latest,
        }
    }
}

/// The first publication that a subscription without a position gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opening {
    /// The next publication.
    Next,
    /// The newest publication that exists.
    Newest,
}

/// Permission to read a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everyone.
    Public,
    /// Everyone with a valid token.
    Authenticated,
    /// The owner of the channel, see [`Ownership`].
    Owner,
}

/// Owner of a channel. Applies where [`Namespace::access`] is [`Access::Owner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// The user whose id is the rest of the name.
    User,
    /// The user whose token lists the rest of the name among its wallets.
    Wallet,
    /// As [`User`](Self::User), and the channel is personal: each session of the user is
    /// subscribed to it automatically, and no configuration lets others read it.
    Personal,
}

/// Permission to publish to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishRight {
    /// The server's own engines only.
    #[serde(skip)]
    Engine,
    /// Everyone with a valid token, and the user of the server's own machine.
    #[serde(skip)]
    AuthenticatedOrLocal,
    /// Tokens with the `service` scope.
    Service,
    /// Everyone with a valid token.
    Authenticated,
    /// Everyone.
    Public,
}

/// Where the publications of an engine go, on a server that shares channels with others. Channels
/// that clients or back ends publish to are shared in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineReach {
    /// To the clients of its own server.
    OwnServer,
    /// To the clients of all servers. Only one server at a time may publish: the owner of the
    /// engine (see [`Fence`](crate::broker::Fence)).
    AllServers,
}

/// The policy of all channels of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The part before the colon.
    pub name: String,
    /// Whether every message counts.
    pub class: Class,
    /// The number of publications in a history. A latest channel keeps one.
    pub history_size: usize,
    /// The age at which a publication leaves the history.
    pub history_ttl: Duration,
    /// The number of channels with publications. At the bound, those without subscribers that
    /// have not been used for longest are forgotten.
    pub max_channels: usize,
    /// Permission to read.
    pub access: Access,
    /// Owner of a channel.
    pub ownership: Ownership,
    /// Permission to publish.
    pub publish: PublishRight,
    /// Where the publications of its engine go.
    pub reach: EngineReach,
    /// The first publication of a subscription to a history channel. A subscription to a
    /// latest channel starts with the newest value.
    pub opening: Opening,
    /// Whether values of several channels that wait for a client are sent as one batch.
    pub batched: bool,
    /// Whether a history channel pauses while its client is in the background.
    pub pauses_in_background: bool,
    /// Whether names that differ in case alone are one channel. Lower case is canonical.
    pub case_insensitive: bool,
}

impl Namespace {
    /// A history namespace that everyone may read and back ends publish to. It keeps 1,000
    /// messages for ten minutes.
    #[must_use]
    pub fn history(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            class: Class::History,
            history_size: 1_000,
            history_ttl: Duration::from_secs(600),
            max_channels: 1_000_000,
            access: Access::Public,
            ownership: Ownership::User,
            publish: PublishRight::Service,
            reach: EngineReach::OwnServer,
            opening: Opening::Next,
            batched: false,
            pauses_in_background: true,
            case_insensitive: false,
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

    /// A history namespace that everyone may read and only engines publish to.
    fn engine_history(name: &str) -> Self {
        Self {
            publish: PublishRight::Engine,
            ..Self::history(name)
        }
    }

    /// The namespaces that every server has. This table alone names them.
    fn built_in() -> [Self; 8] {
        [
            Self {
                batched: true,
                ..Self::latest("prices")
            },
            Self::latest("market"),
            Self::latest("candles"),
            Self {
                opening: Opening::Newest,
                ..Self::engine_history("blocks")
            },
            Self {
                pauses_in_background: false,
                case_insensitive: true,
                ..Self::engine_history("tx")
            },
            Self {
                ownership: Ownership::Wallet,
                case_insensitive: true,
                ..Self::engine_history("wallet")
            },
            Self::engine_history("events"),
            Self {
                access: Access::Owner,
                ownership: Ownership::Personal,
                pauses_in_background: false,
                ..Self::history(PERSONAL)
            },
        ]
    }

    /// Whether a server that shares channels with others shares those of this namespace.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.publish != PublishRight::Engine || self.reach == EngineReach::AllServers
    }

    /// Whether each session of a user is subscribed to the user's channel automatically.
    #[must_use]
    pub fn is_personal(&self) -> bool {
        self.ownership == Ownership::Personal
    }
}

/// How long a channel's position is stored after its last publication.
pub const METADATA_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// All namespaces of a server.
#[derive(Default)]
pub struct Namespaces {
    by_name: HashMap<String, NamespaceEntry>,
}

/// A namespace and the engine behind it.
struct NamespaceEntry {
    namespace: Namespace,
    /// Set once: an engine exists after the streaming core that it publishes to. Reading
    /// takes no lock.
    provider: OnceLock<Arc<dyn ChannelProvider>>,
    /// Sums up what clients missed. Set once, likewise.
    summary: OnceLock<Arc<dyn MissedSummary>>,
}

impl NamespaceEntry {
    fn provider(&self) -> Option<&dyn ChannelProvider> {
        self.provider.get().map(|provider| &**provider)
    }
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.by_name.values().map(|entry| &entry.namespace))
            .finish()
    }
}

impl Namespaces {
    /// The namespaces that every server has: `prices`, `market`, `candles`, `blocks`, `tx`,
    /// `wallet`, `events` and `user`.
    #[must_use]
    pub fn built_in() -> Self {
        let mut all = Self::default();
        for namespace in Namespace::built_in() {
            all.put(namespace);
        }
        all
    }

    /// Adds a namespace of the operator.
    ///
    /// # Errors
    /// The name is malformed, or another namespace has it.
    pub fn add(&mut self, namespace: Namespace) -> Result<(), StreamError> {
        if !channel::is_namespace(&namespace.name) {
            return Err(channel::ChannelNameError::BadNamespace(namespace.name).into());
        }
        if self.by_name.contains_key(&namespace.name) {
            let fault = match Self::is_built_in(&namespace.name) {
                true => "built in, expected another name",
                false => "named twice, expected different names",
            };
            return Err(StreamError::new(
                ErrorCode::AlreadyExists,
                format!("namespace {:?} is {fault}", namespace.name),
            ));
        }
        self.put(namespace);
        Ok(())
    }

    /// Sets who may read the channels of a built-in namespace.
    ///
    /// # Errors
    /// There is no such namespace, or its channels are personal.
    pub fn restrict(&mut self, name: &str, access: Access) -> Result<(), StreamError> {
        match self.by_name.get_mut(name) {
            Some(entry) if !entry.namespace.is_personal() => {
                entry.namespace.access = access;
                Ok(())
            }
            Some(_) => Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!("only its owner may read a `{name}` channel: expected no `access` for it"),
            )),
            None => Err(self.unknown(name)),
        }
    }

    /// Has the publications of an engine reach the clients of all servers.
    ///
    /// # Errors
    /// There is no such namespace.
    pub fn share(&mut self, name: &str) -> Result<(), StreamError> {
        match self.by_name.get_mut(name) {
            Some(entry) => {
                entry.namespace.reach = EngineReach::AllServers;
                Ok(())
            }
            None => Err(self.unknown(name)),
        }
    }

    /// Whether every server has this namespace.
    #[must_use]
    pub fn is_built_in(name: &str) -> bool {
        Namespace::built_in()
            .iter()
            .any(|namespace| namespace.name == name)
    }

    /// Registers the engine behind a namespace.
    ///
    /// # Errors
    /// There is no such namespace, or it has a provider already.
    pub fn register(
        &self,
        namespace: &str,
        provider: Arc<dyn ChannelProvider>,
    ) -> Result<(), StreamError> {
        let entry = self.by_name.get(namespace);
        let entry = entry.ok_or_else(|| self.unknown(namespace))?;
        entry.provider.set(provider).map_err(|_| {
            StreamError::new(
                ErrorCode::AlreadyExists,
                format!("namespace {namespace:?} has a channel provider already"),
            )
        })
    }

    /// Registers what sums up the missed publications of a namespace.
    ///
    /// # Errors
    /// There is no such namespace, or it has one already.
    pub fn register_summary(
        &self,
        namespace: &str,
        summary: Arc<dyn MissedSummary>,
    ) -> Result<(), StreamError> {
        let entry = self.by_name.get(namespace);
        let entry = entry.ok_or_else(|| self.unknown(namespace))?;
        entry.summary.set(summary).map_err(|_| {
            StreamError::new(
                ErrorCode::AlreadyExists,
                format!("namespace {namespace:?} has a summary already"),
            )
        })
    }

    /// The summary of missed publications on a channel.
    pub(crate) fn summary(&self, channel: &ChannelName) -> Option<&dyn MissedSummary> {
        let entry = self.by_name.get(channel.namespace())?;
        entry.summary.get().map(|summary| &**summary)
    }

    /// Starts the engine's work on a channel. Called by subscriptions alone, once they are
    /// allowed and before they read a position.
    pub(crate) async fn activate(
        &self,
        channel: &ChannelName,
        caller: &Caller,
    ) -> Result<(), StreamError> {
        let Some(provider) = self.provider(channel) else {
            return Ok(());
        };
        provider.activate(channel.rest(), caller)?;
        match provider.activate_elsewhere(channel.rest(), caller) {
            Some(activated) => activated.await,
            None => Ok(()),
        }
    }

    /// The epoch in which a channel starts.
    pub(crate) fn epoch(&self, channel: &ChannelName) -> ChannelEpoch {
        match self.provider(channel) {
            Some(provider) => provider.epoch(channel.rest()),
            None => ChannelEpoch::BrokerChosen,
        }
    }

    fn put(&mut self, namespace: Namespace) {
        let entry = NamespaceEntry {
            namespace,
            provider: OnceLock::new(),
            summary: OnceLock::new(),
        };
        self.by_name.insert(entry.namespace.name.clone(), entry);
    }

    /// The engine behind a channel's namespace.
    pub(crate) fn provider(&self, channel: &ChannelName) -> Option<&dyn ChannelProvider> {
        self.by_name.get(channel.namespace())?.provider()
    }

    /// The namespace of `channel`.
    #[must_use]
    pub fn get(&self, channel: &ChannelName) -> Option<&Namespace> {
        let entry = self.by_name.get(channel.namespace())?;
        Some(&entry.namespace)
    }

    /// The names of all namespaces.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The namespace with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Namespace> {
        self.by_name.get(name).map(|entry| &entry.namespace)
    }

    /// The namespace of `channel`.
    ///
    /// # Errors
    /// There is no such namespace.
    pub(crate) fn find(&self, channel: &ChannelName) -> Result<&Namespace, StreamError> {
        self.get(channel)
            .ok_or_else(|| self.unknown(channel.namespace()))
    }

    /// Parses a channel name into its canonical form and finds its namespace. Activates
    /// nothing.
    ///
    /// # Errors
    /// The name is malformed, its namespace is unknown, or its engine does not know the
    /// rest.
    pub fn resolve(&self, name: &str) -> Result<(ChannelName, &Namespace), StreamError> {
        let channel = ChannelName::parse(name)?;
        let entry = self
            .by_name
            .get(channel.namespace())
            .ok_or_else(|| self.unknown(channel.namespace()))?;
        let channel = canonical(channel, &entry.namespace);
        if let Some(provider) = entry.provider() {
            provider.validate(channel.rest())?;
        }
        Ok((channel, &entry.namespace))
    }

    /// The channels that each session of a user is subscribed to automatically.
    pub(crate) fn personal_channels(
        &self,
        user: &UserId,
    ) -> impl Iterator<Item = Result<(ChannelName, &Namespace), StreamError>> {
        self.personal()
            .map(move |namespace| self.resolve(&format!("{}:{}", namespace.name, user.as_str())))
    }

    /// The namespaces in which each user has a channel.
    pub(crate) fn personal(&self) -> impl Iterator<Item = &Namespace> {
        let namespaces = self.by_name.values().map(|entry| &entry.namespace);
        namespaces.filter(|namespace| namespace.is_personal())
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

fn canonical(channel: ChannelName, namespace: &Namespace) -> ChannelName {
    let has_upper_case = || channel.as_str().contains(|c: char| c.is_ascii_uppercase());
    if !namespace.case_insensitive || !has_upper_case() {
        return channel;
    }
    ChannelName::parse(&channel.as_str().to_ascii_lowercase()).unwrap_or(channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, identity::UserIdentity};

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

    /// Knows one channel, which belongs to one user.
    struct OneChannel {
        rest: &'static str,
        owner: &'static str,
    }

    impl ChannelProvider for OneChannel {
        fn validate(&self, rest: &str) -> Result<(), StreamError> {
            match rest == self.rest {
                true => Ok(()),
                false => Err(StreamError::new(ErrorCode::NotFound, "no such channel")),
            }
        }

        fn owns(&self, user: &UserId, rest: &str) -> bool {
            user.as_str() == self.owner && rest == self.rest
        }
    }

    fn one_channel(rest: &'static str) -> Arc<OneChannel> {
        Arc::new(OneChannel { rest, owner: "ada" })
    }

    #[test]
    fn a_provider_names_owners_besides_those_of_tokens() {
        let mut all = Namespaces::built_in();
        all.register("wallet", one_channel("0xab")).unwrap();
        let ada = Identity::from(UserIdentity::new(UserId::new("ada"), 1));
        let eve = Identity::from(UserIdentity::new(UserId::new("eve"), 1));
        let may_read = |all: &Namespaces, identity: &Identity, name: &str| {
            let channel = ChannelName::parse(name).unwrap();
            let namespace = all.get(&channel).unwrap();
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
    fn a_provider_can_refuse_a_name() {
        let all = Namespaces::built_in();
        all.register("prices", one_channel("BTC-USD")).unwrap();
        assert!(all.resolve("prices:BTC-USD").is_ok());
        assert_eq!(
            all.resolve("prices:X").unwrap_err().code(),
            ErrorCode::NotFound
        );
    }

    #[test]
    fn a_provider_is_registered_once_and_for_a_known_namespace() {
        let all = Namespaces::built_in();
        let register = |name: &str| all.register(name, one_channel("x")).map_err(|e| e.code());
        assert_eq!(register("tx"), Ok(()));
        assert_eq!(register("tx"), Err(ErrorCode::AlreadyExists));
        assert_eq!(register("nope"), Err(ErrorCode::NotFound));
    }

    #[test]
    fn a_user_has_one_personal_channel() {
        let all = Namespaces::built_in();
        let user = UserId::new("Ada");
        let personal: Vec<_> = all.personal_channels(&user).map(Result::unwrap).collect();
        let [(channel, namespace)] = &personal[..] else {
            panic!("{} personal channels, expected one", personal.len());
        };
        assert_eq!(*channel, ChannelName::user("Ada").unwrap());
        assert_eq!(namespace.access, Access::Owner);
    }
}
