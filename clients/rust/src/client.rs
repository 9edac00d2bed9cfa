//! Client: subscriptions over one connection, calls over another.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_proto::v1::{
    AlertEvent, Block, Candle, EventLog, MarketOverview, PriceUpdate, TransactionStatus,
    WalletUpdate,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
};
use tonic::transport::Endpoint;

use crate::{
    builder::ClientBuilder,
    calls::Calls,
    error::Error,
    payload::{Json, Payload, UserEvent},
    queue::Queue,
    registry::{OWN_USER, Registry},
    session,
    state::ConnectionState,
    subscription::{Membership, SubscribeOptions, Subscription},
    token::{TokenSource, Tokens},
};

/// Limits of a client.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) queue_capacity: usize,
}

/// The parts that the connection's task shares with the application.
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) options: Options,
    pub(crate) registry: Mutex<Registry>,
    /// Woken when the registry changes.
    pub(crate) changed: Notify,
    state: watch::Sender<ConnectionState>,
}

impl Inner {
    /// Sets the state. A closed client stays closed.
    pub(crate) fn set_state(&self, next: ConnectionState) {
        self.state.send_if_modified(|state| {
            let is_open = !matches!(state, ConnectionState::Closed { .. });
            if is_open {
                *state = next;
            }
            is_open
        });
    }

    /// Ends all subscriptions and the connection.
    pub(crate) fn close(&self, error: Option<Error>) {
        self.registry.lock().close(error.clone());
        self.set_state(ConnectionState::Closed { error });
        self.changed.notify_one();
    }
}

/// Keeps the connection's task alive while the application has a client or a subscription.
pub(crate) struct Lease {
    inner: Arc<Inner>,
    task: AbortHandle,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn leave(&self, channel: &Arc<str>, subscriber: u64) {
        self.inner.registry.lock().leave(channel, subscriber);
        self.inner.changed.notify_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.close(None);
        self.task.abort();
    }
}

/// A client of one server. Clones are cheap and share the connections.
///
/// Subscriptions and calls need no `connect`: the client connects when it is first used, and stays
/// connected while anything is subscribed. See the [crate](crate) for the rules of reconnecting.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    pub(crate) calls: Arc<Calls>,
    lease: Arc<Lease>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Client");
        debug.field("url", self.inner.endpoint.uri());
        debug.finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client of the server at this URL: `http://` or `https://`, host and port.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    /// Builds a client with the default options, and no token.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub fn new(url: impl Into<String>) -> Result<Self, Error> {
        Self::builder(url).build()
    }

    pub(crate) fn from_parts(
        endpoint: Endpoint,
        source: TokenSource,
        token_deadline: Duration,
        options: Options,
        runtime: &Handle,
    ) -> Self {
        let tokens = Arc::new(Tokens::new(source, token_deadline));
        let channel = endpoint.connect_lazy();
        let calls = Calls::new(channel, tokens.clone(), options.call_timeout);
        let inner = Arc::new(Inner {
            endpoint,
            tokens,
            options,
            registry: Mutex::default(),
            changed: Notify::new(),
            state: watch::Sender::new(ConnectionState::Idle),
        });
        let task = runtime.spawn(session::run(inner.clone())).abort_handle();
        Self {
            lease: Arc::new(Lease {
                inner: inner.clone(),
                task,
            }),
            inner,
            calls: Arc::new(calls),
        }
    }

    /// Returns the state of the subscriptions' connection.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.inner.state.borrow().clone()
    }

    /// Returns a receiver of the states to come. It may skip states that are over.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<ConnectionState> {
        self.inner.state.subscribe()
    }

    /// Ends the connection, and every subscription of every clone. Calls go on.
    pub fn close(&self) {
        self.inner.close(None);
    }

    /// Subscribes to a channel by its name. The payload is that of the channel's messages; [`Json`]
    /// for those of back ends, [`Data`](crate::Data) for any.
    pub fn subscribe<T: Payload>(&self, channel: &str) -> Subscription<T> {
        self.subscribe_with(channel, SubscribeOptions::default())
    }

    /// Subscribes to a channel with options.
    pub fn subscribe_with<T: Payload>(
        &self,
        channel: &str,
        options: SubscribeOptions,
    ) -> Subscription<T> {
        let channel: Arc<str> = channel.into();
        let queue = Arc::new(Queue::new(
            channel.clone(),
            self.inner.options.queue_capacity,
        ));
        let sink = queue.clone();
        let subscriber = self.inner.registry.lock().join(&channel, sink, options);
        self.inner.changed.notify_one();
        Subscription {
            queue,
            membership: Membership {
                lease: self.lease.clone(),
                channel,
                subscriber,
            },
        }
    }

    /// Subscribes to JSON documents that back ends publish.
    pub fn messages(&self, channel: &str) -> Subscription<Json> {
        self.subscribe(channel)
    }

    /// Subscribes to the price of a symbol, such as `BTC-USD`, over all venues.
    pub fn prices(&self, symbol: &str) -> Subscription<PriceUpdate> {
        self.subscribe(&format!("prices:{}", symbol.to_uppercase()))
    }

    /// Subscribes to the price of a symbol at one venue.
    pub fn venue_prices(&self, symbol: &str, venue: &str) -> Subscription<PriceUpdate> {
        self.subscribe(&format!("prices:{}@{venue}", symbol.to_uppercase()))
    }

    /// Subscribes to the forming candle of a symbol. The interval is `1m`, `5m`, `1h` or `1d`.
    pub fn candles(&self, symbol: &str, interval: &str) -> Subscription<Candle> {
        self.subscribe(&format!("candles:{}:{interval}", symbol.to_uppercase()))
    }

    /// Subscribes to the market overview.
    pub fn market_overview(&self) -> Subscription<MarketOverview> {
        self.subscribe("market:overview")
    }

    /// Subscribes to the blocks of a chain.
    pub fn blocks(&self, chain: u64) -> Subscription<Block> {
        self.subscribe(&format!("blocks:{chain}"))
    }

    /// Subscribes to the states of a transaction. The server watches it meanwhile.
    pub fn transaction(&self, chain: u64, hash: &str) -> Subscription<TransactionStatus> {
        self.subscribe(&format!("tx:{chain}:{}", hash.to_lowercase()))
    }

    /// Subscribes to the changes of a wallet.
    pub fn wallet(&self, address: &str) -> Subscription<WalletUpdate> {
        self.subscribe(&format!("wallet:{}", address.to_lowercase()))
    }

    /// Subscribes to contract events, by the name of their channel, `events:…`.
    pub fn events(&self, channel: &str) -> Subscription<EventLog> {
        self.subscribe(channel)
    }

    /// Subscribes to the channel of the token's user: notifications, their changes, and alerts.
    pub fn user_events(&self) -> Subscription<UserEvent> {
        self.subscribe(OWN_USER)
    }

    /// Subscribes to the alerts of the token's user.
    pub fn alerts(&self) -> Subscription<AlertEvent> {
        self.subscribe(OWN_USER)
    }
}
