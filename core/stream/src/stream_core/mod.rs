//! The core: engines publish to it, adapters open sessions on it.
//!
//! Operators' requests are in `operator` and `nodes`, the graceful stop in `drain`, and the watch over the
//! shards' threads in `shards`.

mod drain;
mod nodes;
mod operator;
mod shards;

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use metrics::Counter;
use tidewire_proto::{json, v1::ErrorCode};

pub use nodes::{
    CallClass, CallHandler, CallLane, CallOutcome, CallRefusal, ConnectionPage, ForwardedCall,
    NodeSettings, OtherSettings, PostHandler, PostedCommand,
};
pub use operator::{ConnectionFilter, Presence, Target};

use crate::{
    Authenticator, Caller, ChannelName, ChannelProvider, Class, Clock, Content, DurablePublisher,
    Epoch, Event, Identity, MissedSummary, Namespaces, PartHealth, PartReport, Position, Publisher,
    SharedClock, StoredPublication, StreamError, StreamOptions, Transport, TransportStats, Urgency,
    broker::{
        Broker, BrokerFuture, Fence, History, MemoryBroker, PageLimit, PublishFuture, Reach,
        RedisBroker, Sender, memory::MemoryLimits, redis::RedisOptions,
    },
    health::HealthChange,
    hub::Hub,
    session::{Connection, ConnectionInfo, RegistrySizes, Session, SessionContext},
};

/// Sessions that are sent `status` before the task yields, so that others run.
const STATUS_PART: usize = 256;

/// The streaming core.
pub struct StreamCore {
    context: Arc<SessionContext>,
    publications: Counter,
    post_handler: OnceLock<Weak<dyn PostHandler>>,
    post_places: nodes::PostPlaces,
    call_places: nodes::CallPlaces,
    settings: OnceLock<NodeSettings>,
}

impl std::fmt::Debug for StreamCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamCore")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// Counts of a core at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Connections and bytes, by transport.
    pub transports: Vec<TransportStats>,
    /// Subscriptions of all connections together.
    pub subscriptions: usize,
    /// Channels with a subscriber.
    pub channels: usize,
    /// Bytes that wait for all clients: see [`Session::waiting_bytes`].
    pub queued_bytes: usize,
    /// Bytes that wait for the client with the most of them.
    pub queued_bytes_max: usize,
    /// Memory of all histories, with the encodings of their publications, in bytes.
    pub history_bytes: usize,
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

/// The limits of the broker of histories in memory.
fn limits(options: &StreamOptions) -> MemoryLimits {
    MemoryLimits {
        idempotency_window: options.idempotency_window,
        idempotency_bytes: options.idempotency_bytes,
        history_bytes: options.history_bytes,
        channels_per_client: options.channels_per_client,
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
            limits(&options),
        );
        Self::build(
            namespaces,
            hub,
            Arc::new(broker),
            authenticator,
            clock,
            options,
        )
    }

    /// A streaming core that shares its channels with other servers over Redis. Call it within
    /// the runtime that the connections to Redis are to run on.
    ///
    /// # Errors
    /// Redis answers, and is not fit.
    pub async fn with_redis(
        namespaces: Namespaces,
        authenticator: Authenticator,
        clock: SharedClock,
        options: StreamOptions,
        redis: RedisOptions,
    ) -> Result<Arc<Self>, StreamError> {
        let namespaces = Arc::new(namespaces);
        let hub = Arc::new(Hub::new(options.shards, options.batch_interval));
        let (shared, limits) = (namespaces.clone(), limits(&options));
        let broker = RedisBroker::start(shared, hub.clone(), clock.clone(), limits, redis).await?;
        let broker = Arc::new(broker);
        Ok(Self::build(
            namespaces,
            hub,
            broker,
            authenticator,
            clock,
            options,
        ))
    }

    fn build(
        namespaces: Arc<Namespaces>,
        hub: Arc<Hub>,
        broker: Arc<dyn Broker>,
        authenticator: Authenticator,
        clock: SharedClock,
        options: StreamOptions,
    ) -> Arc<Self> {
        let context = SessionContext::new(namespaces, hub, broker, authenticator, clock, options);
        let core = Arc::new(Self {
            context: Arc::new(context),
            publications: metrics::counter!("tidewire_publications_total"),
            post_handler: OnceLock::new(),
            post_places: nodes::PostPlaces::default(),
            call_places: nodes::CallPlaces::default(),
            settings: OnceLock::new(),
        });
        let this = Arc::downgrade(&core);
        let revocations = core.authenticator().revocations();
        revocations.on_revoke(move |revocation| {
            this.upgrade()
                .map_or(0, |core| core.close_revoked(revocation))
        });
        core
    }

    /// Opens the session of a new connection. `welcome` is queued first; a known user is
    /// subscribed to its own channel.
    pub async fn connect(&self, info: ConnectionInfo) -> Connection {
        Connection::open(self.context.clone(), info).await
    }

    /// The namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        self.context.namespaces()
    }

    /// Registers the engine behind a namespace. Call it before clients connect.
    ///
    /// # Errors
    /// There is no such namespace, or it has a provider already.
    pub fn register_provider(
        &self,
        namespace: &str,
        provider: Arc<dyn ChannelProvider>,
    ) -> Result<(), StreamError> {
        self.namespaces().register(namespace, provider)
    }

    /// Registers what sums up the missed publications of a namespace. Call it before clients
    /// connect.
    ///
    /// # Errors
    /// There is no such namespace, or it has one already.
    pub fn register_summary(
        &self,
        namespace: &str,
        summary: Arc<dyn MissedSummary>,
    ) -> Result<(), StreamError> {
        self.namespaces().register_summary(namespace, summary)
    }

    /// Verifies tokens.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        self.context.authenticator()
    }

    /// Options that the operator set.
    #[must_use]
    pub fn options(&self) -> &StreamOptions {
        self.context.options()
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        self.context.clock()
    }

    /// Subscribers by channel and shard.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        self.context.hub()
    }

    /// Orders publications and keeps histories.
    #[must_use]
    pub fn broker(&self) -> &dyn Broker {
        self.context.broker()
    }

    /// Publishes a client's JSON document.
    ///
    /// # Errors
    /// The client may not publish here, or the name, the document or the key is wrong.
    pub async fn publish_as(
        &self,
        caller: impl Into<Caller>,
        channel: &str,
        data: Bytes,
        idempotency_key: Option<&str>,
    ) -> Result<(ChannelName, Position), StreamError> {
        let (channel, namespace) = self.namespaces().resolve(channel)?;
        let caller = caller.into();
        caller.may_publish(&channel, namespace)?;
        self.check_document(&data)?;
        // A copy of its own: the request that the document is a part of may be much longer, and
        // would stay in memory with the history.
        let data = Bytes::copy_from_slice(&data);
        self.publications.increment(1);
        let sender = Sender::from(&caller);
        let position = self
            .broker()
            .publish(&channel, Event::Message(data), idempotency_key, sender)
            .await?;
        Ok((channel, position))
    }

    /// Checks a document. From here on it is raw bytes.
    fn check_document(&self, data: &[u8]) -> Result<(), StreamError> {
        if data.is_empty() {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                "`data` is missing, expected a JSON document",
            ));
        }
        let limit = self.options().publication_bytes;
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

    /// Reads the history of a channel for a client: with `since` the oldest publications after
    /// it, else the newest ones. Reading stops at `limit`.
    ///
    /// # Errors
    /// The client may not read the channel, the name is wrong, or the history does not reach
    /// back to `since`.
    pub async fn history_as(
        &self,
        identity: &Identity,
        channel: &str,
        since: Option<Position>,
        limit: PageLimit,
    ) -> Result<(ChannelName, History), StreamError> {
        let namespaces = self.namespaces();
        let (channel, namespace) = namespaces.resolve(channel)?;
        namespaces
            .look_owner_up(identity, &channel, namespace)
            .await;
        namespaces.may_read(identity, &channel, namespace)?;
        if since.is_some() && namespace.class == Class::Latest {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "`since` is for history channels, and {channel} keeps its newest value only"
                ),
            ));
        }
        let history = self
            .broker()
            .history(&channel, since.as_ref(), limit)
            .await?;
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

    /// Reports the health of all parts of the server. Sends `status` to every client when the
    /// server becomes degraded, and when it is well again.
    pub async fn report_health(&self, reports: Vec<PartReport>) {
        let change = self.context.health().update(reports, self.clock().now_ms());
        if change == HealthChange::Unchanged {
            return;
        }
        for part in self.context.registry().all().chunks(STATUS_PART) {
            part.iter().for_each(Session::send_status);
            tokio::task::yield_now().await;
        }
    }

    /// Health of the parts of the server, as it was last reported.
    #[must_use]
    pub fn health(&self) -> Vec<PartHealth> {
        self.context.health().parts()
    }

    /// Forgets old publications and channels. Called about once a second.
    pub fn sweep(&self) {
        self.broker().sweep();
    }

    /// Waits until histories take more memory than they may: then [`sweep`](Self::sweep) is
    /// needed at once.
    pub async fn over_budget(&self) {
        if self.broker().over_budget().await.is_err() {
            // A broker that cannot tell has no budget here.
            std::future::pending().await
        }
    }

    /// Waits until all publications have reached what the servers share. Call it at a graceful
    /// stop, when nothing is published any more.
    pub async fn flush(&self) {
        if let Err(error) = self.broker().flush().await {
            tracing::error!(%error, "publications are lost");
        }
    }

    /// The session of a connection.
    #[must_use]
    pub fn session(&self, id: &str) -> Option<Session> {
        self.context.registry().get(id)
    }

    /// How many entries the list of sessions has. For tests that sessions leave nothing.
    #[must_use]
    pub fn registry_sizes(&self) -> RegistrySizes {
        self.context.registry().sizes()
    }

    /// How many sessions something still refers to, open or not. For tests that sessions leave
    /// nothing.
    #[must_use]
    pub fn referenced_sessions(&self) -> usize {
        // Each session holds the context once, and so does the core.
        Arc::strong_count(&self.context) - 1
    }

    /// Current counts of the core.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        // The list is not locked while its sessions are read.
        let sessions = self.context.registry().all();
        let mut stats = StreamStats {
            channels: self.hub().channel_count(),
            history_bytes: self.broker().history_bytes(),
            transports: self.context.transports().ended(),
            ..StreamStats::default()
        };
        for session in sessions {
            let queued = session.waiting_bytes();
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

impl StreamCore {
    /// Publishes for an engine whose events clients can also read elsewhere, if the channel has a
    /// subscriber, or had one within a day. Memory therefore does not grow with users who are
    /// away, and a client that comes back later is not recovered. An event for many channels is
    /// shared ([`SharedEvent`](crate::SharedEvent)), so that it is in memory once. With a `fence` it is
    /// refused if another server owns the engine by now.
    pub fn publish_if_known(
        &self,
        channel: &ChannelName,
        content: impl Into<Content>,
        urgency: Urgency,
        fence: Option<&Arc<Fence>>,
    ) {
        if self
            .broker()
            .offer_if_known(channel, content.into(), urgency, fence)
        {
            self.publications.increment(1);
        }
    }

    /// Publishes for an engine, as [`Publisher::publish`] does. An urgent event overtakes those of
    /// other channels on its way to each client, and never an earlier one of its own channel.
    pub fn publish_with(&self, channel: &ChannelName, event: Event, urgency: Urgency) {
        self.publications.increment(1);
        self.broker().offer(channel, event, urgency);
    }

    /// Publishes for an engine as [`publish_with`](Self::publish_with) does, in the order of the calls.
    /// The outcome says whether the event was published: an engine that has stored it repeats it with
    /// the same `key` after an error.
    pub fn publish_once(
        &self,
        channel: &ChannelName,
        event: Event,
        urgency: Urgency,
        key: &str,
    ) -> PublishFuture {
        self.publications.increment(1);
        self.broker().offer_once(channel, event, urgency, key)
    }

    /// Publishes for an engine that one server runs for all, as [`Publisher::publish`] does. It is
    /// refused if another server owns the engine by now.
    pub fn publish_fenced(&self, channel: &ChannelName, event: Event, fence: &Arc<Fence>) {
        self.publications.increment(1);
        self.broker().offer_fenced(channel, event, fence);
    }

    /// Publishes as [`publish_fenced`](Self::publish_fenced) does. The outcome says whether the event
    /// was published: the engine, here or on the next owner, repeats it with the same `key`.
    pub fn publish_fenced_once(
        &self,
        channel: &ChannelName,
        event: Event,
        key: &str,
        fence: &Arc<Fence>,
    ) -> PublishFuture {
        self.publications.increment(1);
        self.broker().offer_fenced_once(channel, event, key, fence)
    }

    /// Tells a user's connections that they missed something, after a store that all servers share got
    /// another owner. Each server calls it for its own users, and each connection gets one `gap`.
    ///
    /// # Errors
    /// Redis does not answer, or refuses.
    pub async fn start_epoch_of_term(&self, channel: &ChannelName) -> Result<(), StreamError> {
        self.broker().start_epoch_of_term(channel).await?;
        self.tell_of_epoch(channel).await
    }

    /// Gives the subscribers of this server the newest position of a channel. Those who know its epoch
    /// already are not told again.
    async fn tell_of_epoch(&self, channel: &ChannelName) -> Result<(), StreamError> {
        let newest = self.position(channel).await?;
        self.for_each_subscriber(channel, |session| session.start_new_epoch(channel, &newest))
            .await;
        Ok(())
    }

    /// Whether [`publish_if_known`](Self::publish_if_known) would publish on the channel.
    #[must_use]
    pub fn is_known(&self, channel: &ChannelName) -> bool {
        self.broker().is_known(channel)
    }
}

impl Publisher for StreamCore {
    fn publish(&self, channel: &ChannelName, event: Event) {
        self.publish_with(channel, event, Urgency::Ordinary);
    }
}

impl DurablePublisher for StreamCore {
    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position> {
        Box::pin(async move {
            let history = self.broker().history(channel, None, PageLimit::NOTHING);
            Ok(history.await?.top)
        })
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        self.broker().restore(channel, epoch, publications)
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            self.broker().start_new_epoch(channel).await?;
            self.tell_of_epoch(channel).await
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        self.broker().forget(channel)
    }
}
