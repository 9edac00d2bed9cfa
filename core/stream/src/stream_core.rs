//! The streaming core as one thing: what engines publish to, and what adapters open
//! sessions on. What operators do with it is in `operator`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use metrics::{Counter, Histogram};
use tidewire_proto::{json, v1::ErrorCode};

use crate::{
    Authenticator, ChannelName, ChannelProvider, Class, Clock, DurablePublisher, Epoch, Event,
    Identity, Namespaces, Position, Publisher, SharedClock, StoredPublication, StreamError,
    broker::{Broker, BrokerFuture, History, MemoryBroker, Page, Reach, memory::MemoryLimits},
    hub::{BatchInterval, Hub},
    registry::{Registry, RegistrySizes},
    session::{Connection, ConnectionInfo, Session},
    transport::{Transport, TransportCounters, TransportStats, Transports},
};

/// What the operator decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// How much may wait for one client, in bytes.
    pub outbox_bytes: usize,
    /// How many channels one connection may follow, 0 for any number.
    pub channels_per_connection: usize,
    /// For how long prices are gathered into one frame.
    pub batch_interval: BatchInterval,
    /// After this much silence an active client asks for a sign of life.
    pub heartbeat: Duration,
    /// The same while nobody looks.
    pub heartbeat_background: Duration,
    /// The largest document that can be published, in bytes.
    pub publication_bytes: usize,
    /// For how long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// How many shards there are. Each wants a thread that runs it.
    pub shards: usize,
    /// How long a shard waits at most for more that shares its writes.
    pub max_write_pause: Duration,
    /// Transports whose counters are exposed before their first connection.
    pub transports: &'static [Transport],
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            outbox_bytes: 256 << 10,
            channels_per_connection: 1_000,
            batch_interval: BatchInterval {
                usual: Duration::from_millis(50),
                busy: Duration::from_millis(80),
            },
            heartbeat: Duration::from_secs(2),
            heartbeat_background: Duration::from_secs(30),
            publication_bytes: 64 << 10,
            idempotency_window: Duration::from_secs(5 * 60),
            shards: 0,
            max_write_pause: Duration::from_millis(15),
            transports: &[],
        }
    }
}

/// The streaming core.
pub struct StreamCore {
    namespaces: Arc<Namespaces>,
    hub: Arc<Hub>,
    broker: Arc<dyn Broker>,
    authenticator: Authenticator,
    clock: SharedClock,
    options: StreamOptions,
    registry: Registry,
    /// Set once the server is about to stop: the window that clients come back in.
    pub(crate) draining: OnceLock<Duration>,
    meters: Meters,
    transports: Transports,
}

struct Meters {
    publications: Counter,
    round_trips: Histogram,
    missed_beats: Counter,
}

impl std::fmt::Debug for StreamCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamCore")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

/// Counts of what a core does at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Connections and bytes, by transport.
    pub transports: Vec<TransportStats>,
    /// Subscriptions of all connections together.
    pub subscriptions: usize,
    /// Channels that somebody follows.
    pub channels: usize,
    /// Bytes that wait for clients.
    pub queued_bytes: usize,
    /// The most that waits for one client, in bytes.
    pub queued_bytes_max: usize,
}

impl StreamStats {
    /// Open connections of all transports together.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.transports.iter().map(|one| one.connections).sum()
    }

    fn transport(&mut self, transport: Transport) -> Option<&mut TransportStats> {
        let mut all = self.transports.iter_mut();
        all.find(|one| one.transport == transport)
    }
}

impl StreamCore {
    /// A streaming core that keeps its histories in memory.
    #[must_use]
    pub fn in_memory(
        namespaces: Namespaces,
        authenticator: Authenticator,
        clock: SharedClock,
        options: StreamOptions,
    ) -> Arc<Self> {
        let namespaces = Arc::new(namespaces);
        let hub = Arc::new(Hub::new(options.shards, options.batch_interval));
        let broker = MemoryBroker::new(
            namespaces.clone(),
            hub.clone(),
            clock.clone(),
            MemoryLimits {
                idempotency_window: options.idempotency_window,
                ..MemoryLimits::default()
            },
        );
        let stream = Arc::new(Self {
            namespaces,
            hub,
            broker: Arc::new(broker),
            authenticator,
            clock,
            options,
            registry: Registry::default(),
            draining: OnceLock::new(),
            meters: Meters {
                publications: metrics::counter!("tidewire_publications_total"),
                round_trips: metrics::histogram!("tidewire_round_trip_seconds"),
                missed_beats: metrics::counter!("tidewire_missed_beats_total"),
            },
            transports: Transports::new(options.transports),
        });
        let this = Arc::downgrade(&stream);
        let revocations = stream.authenticator.revocations();
        revocations.on_revoke(move |revocation| {
            this.upgrade()
                .map_or(0, |stream| stream.close_revoked(revocation))
        });
        stream
    }

    /// Opens the session of a new connection. `welcome` is queued first; a known user is
    /// subscribed to its own channel.
    pub async fn connect(self: &Arc<Self>, info: ConnectionInfo) -> Connection {
        Connection::open(self.clone(), info).await
    }

    /// The namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Registers the engine behind a namespace. To be done before clients connect.
    ///
    /// # Errors
    /// There is no such namespace, or it has a provider already.
    pub fn register_provider(
        &self,
        namespace: &str,
        provider: Arc<dyn ChannelProvider>,
    ) -> Result<(), StreamError> {
        self.namespaces.register(namespace, provider)
    }

    /// Judges tokens.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// What the operator decided.
    #[must_use]
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Who follows which channel.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Gives publications their places and keeps histories.
    #[must_use]
    pub fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    /// Publishes a client's JSON document.
    ///
    /// # Errors
    /// The client may not, or the name, the document or the key is wrong.
    pub async fn publish_as(
        &self,
        identity: &Identity,
        channel: &str,
        data: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<(ChannelName, Position), StreamError> {
        let (channel, namespace) = self.namespaces.resolve(channel)?;
        identity.may_publish(&channel, namespace)?;
        self.check_document(&data)?;
        self.meters.publications.increment(1);
        let position = self
            .broker
            .publish(&channel, Event::Message(data), idempotency_key)
            .await?;
        Ok((channel, position))
    }

    /// A document is checked once, here, and is raw bytes from then on.
    fn check_document(&self, data: &[u8]) -> Result<(), StreamError> {
        let limit = self.options.publication_bytes;
        if data.len() > limit {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`data` is {} bytes long, expected at most {limit}",
                    data.len()
                ),
            ));
        }
        json::check_document(data).map_err(|error| {
            StreamError::new(
                ErrorCode::InvalidArgument,
                format!("`data` is not a document that can be published: {error}"),
            )
        })
    }

    /// Reads the history of a channel for a client: with `since` the oldest after
    /// it, else the newest.
    ///
    /// # Errors
    /// The client may not, the name is wrong, or the history does not reach back
    /// to `since`.
    pub async fn history_as(
        &self,
        identity: &Identity,
        channel: &str,
        since: Option<Position>,
        limit: usize,
    ) -> Result<(ChannelName, History), StreamError> {
        let (channel, namespace) = self.namespaces.resolve(channel)?;
        self.namespaces.may_read(identity, &channel, namespace)?;
        if since.is_some() && namespace.class == Class::Latest {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`since` is for history channels, and {channel} keeps its newest value only"
                ),
            ));
        }
        let page = Page {
            items: limit,
            bytes: HISTORY_PAGE_BYTES,
        };
        let history = self.broker.history(&channel, since.as_ref(), page).await?;
        if history.reach == Reach::Lost {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                format!(
                    "the history of {channel} does not reach back to `since`: it stands at seq {} of epoch {}",
                    history.top.seq,
                    history.top.epoch.as_str()
                ),
            ));
        }
        Ok((channel, history))
    }

    /// Forgets what is too old. Called about once a second.
    pub fn sweep(&self) {
        self.broker.sweep();
    }

    pub(crate) fn register(&self, session: &Session) {
        session.transport_counters().count_connect();
        self.registry.add(session);
        // A session whose token was revoked on the way ends by itself.
        let _ = self.identify(session);
    }

    pub(crate) fn unregister(&self, session: &Session) {
        self.registry.remove(session);
        let (sent, received) = session.traffic();
        session.transport_counters().add_ended(sent, received);
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn note_round_trip(&self, round_trip: Duration) {
        self.meters.round_trips.record(round_trip);
    }

    pub(crate) fn note_missed_beat(&self) {
        self.meters.missed_beats.increment(1);
    }

    pub(crate) fn transport_counters(&self, transport: Transport) -> Arc<TransportCounters> {
        self.transports.counters(transport)
    }

    /// The session of a connection.
    #[must_use]
    pub fn session(&self, id: &str) -> Option<Session> {
        self.registry.get(id)
    }

    /// How much the register of connections holds. For tests of what is left.
    #[must_use]
    pub fn registry_sizes(&self) -> RegistrySizes {
        self.registry.sizes()
    }

    /// All sessions. The register is not held while they are looked at.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.registry.all()
    }

    /// How much is going on.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        let sessions = self.sessions();
        let mut stats = StreamStats {
            channels: self.hub.channel_count(),
            transports: self.transports.ended(),
            ..StreamStats::default()
        };
        for session in sessions {
            let queued = session.queued_bytes();
            if let Some(transport) = stats.transport(session.transport_counters().transport()) {
                let (sent, received) = session.traffic();
                transport.connections += 1;
                transport.bytes_sent += sent;
                transport.bytes_received += received;
            }
            stats.subscriptions += session.subscription_count();
            stats.queued_bytes += queued;
            stats.queued_bytes_max = stats.queued_bytes_max.max(queued);
        }
        stats
    }
}

/// One page of history is about so long at most, in bytes.
const HISTORY_PAGE_BYTES: usize = 1 << 20;

impl Publisher for StreamCore {
    fn publish(&self, channel: &ChannelName, event: Event) {
        self.meters.publications.increment(1);
        self.broker.offer(channel, event);
    }
}

impl DurablePublisher for StreamCore {
    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position> {
        Box::pin(async move {
            let page = Page { items: 0, bytes: 0 };
            Ok(self.broker.history(channel, None, page).await?.top)
        })
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        kept: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        self.broker.restore(channel, epoch, kept)
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            self.broker.start_new_epoch(channel).await?;
            let top = self.position(channel).await?;
            self.look_at_followers(channel, |session| session.be_renewed(channel, &top))
                .await;
            Ok(())
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        self.broker.forget(channel)
    }
}

impl Position {
    /// The place before the first publication of an epoch.
    #[must_use]
    pub fn start(epoch: Epoch) -> Self {
        Self { epoch, seq: 0 }
    }
}
