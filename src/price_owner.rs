//! Price owner: has one node publish prices, candles and the market overview for all nodes.
//!
//! Each node with the role `prices` follows the venues. One of them owns the engine, by a lease in
//! Redis, and publishes. The others keep the newest value of each channel, and publish it where the
//! last owner did not get to it. A takeover therefore begins with warm windows, at the next price.

use std::{sync::Arc, time::Duration};

use tidewire_price::PriceEngine;
use tidewire_service::PriceRpc;
use tidewire_store::{Candidacy, EngineLease, EngineTerm, Ownership, Preference, Tenure as _};
use tidewire_stream::{Namespaces, StreamCore, broker::Fence};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    broker,
    config::{BrokerKind, Config},
    feed::OpenFeed,
    price_publisher::OwnedPublisher,
    roles::Role,
};

/// The name of the engine in Redis.
const ENGINE: &str = "prices";

/// The namespaces of the engine.
const NAMESPACES: [&str; 3] = ["prices", "market", "candles"];

/// Time between two looks for channels that lack the newest value.
const LOOK: Duration = Duration::from_millis(250);

/// Whether the nodes share the channels of the price engine.
pub(crate) fn is_shared(config: &Config, feed: &OpenFeed) -> bool {
    config.broker.kind == BrokerKind::Redis && config.broker.share_prices && feed.is_live()
}

/// Has the channels of the price engine reach the clients of all nodes.
///
/// # Errors
/// A namespace does not exist.
pub(crate) fn share(namespaces: &mut Namespaces) -> anyhow::Result<()> {
    for namespace in NAMESPACES {
        namespaces.share(namespace)?;
    }
    Ok(())
}

/// The part of this node in the lease of the price engine.
pub(crate) struct PriceOwner {
    lease: EngineLease,
    publisher: Arc<OwnedPublisher>,
    key: String,
}

impl PriceOwner {
    /// Takes part in the lease. `publisher` is that of this node's engine. The owner of the shared
    /// `store` is preferred: it judges alerts by its own prices.
    ///
    /// # Errors
    /// The address of Redis is wrong.
    pub(crate) fn start(
        config: &Config,
        stream: &StreamCore,
        publisher: Arc<OwnedPublisher>,
        store: Option<watch::Receiver<Ownership>>,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(node) = stream.broker().node_tag() else {
            return Ok(None);
        };
        let candidacy = match Role::Prices.is_among(&config.server.roles) {
            true => Candidacy::Candidate,
            false => Candidacy::Observer,
        };
        let redis = broker::redis_options(&config.broker).map_err(anyhow::Error::msg)?;
        let key = EngineLease::key(&redis.prefix, ENGINE);
        let engine = (ENGINE, "the price engine of all nodes");
        Ok(Some(Arc::new(Self {
            lease: EngineLease::start(redis, node.as_str(), engine, candidacy, move || match store
                .as_ref()
                .map(|owner| owner.borrow())
                .as_deref()
            {
                None => Preference::Equal,
                Some(Ownership::Own(_)) => Preference::Wanted,
                Some(_) => Preference::HandOver,
            }),
            publisher,
            key,
        })))
    }

    /// Follows the lease until cancelled.
    pub(crate) async fn run(self: Arc<Self>, prices: PriceEngine, cancel: CancellationToken) {
        let publisher = &self.publisher;
        let mut ownership = self.lease.ownership();
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            let term = match &*ownership.borrow_and_update() {
                Ownership::Own(term) => Some((term.clone(), self.fence(term))),
                _ => None,
            };
            publisher.raise_fence(term.as_ref()).await;
            publisher.set_term(term);
            publisher.compare(&prices).await;
            tokio::select! {
                _ = ticks.tick() => {}
                changed = ownership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = cancel.cancelled() => return,
            }
        }
    }

    /// Tells the service of each change of the owner until cancelled: requests go to it.
    pub(crate) async fn tell(self: Arc<Self>, prices: PriceRpc, cancel: CancellationToken) {
        let mut ownership = self.lease.ownership();
        loop {
            prices.set_owner(&ownership.borrow_and_update());
            tokio::select! {
                changed = ownership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = cancel.cancelled() => return,
            }
        }
    }

    fn fence(&self, term: &EngineTerm) -> Arc<Fence> {
        Arc::new(Fence {
            lease: self.key.clone(),
            term: term.term().to_owned(),
        })
    }

    /// Whether this node is the owner.
    pub(crate) fn is_owner(&self) -> bool {
        self.lease.is_owner()
    }

    /// Why no prices can be published for all nodes. None if another node does it.
    pub(crate) fn fault(&self) -> Option<String> {
        self.lease.fault().map(|error| error.to_string())
    }

    /// Stops to publish, and ends the lease: another node takes over at once.
    pub(crate) async fn end(&self) {
        self.publisher.set_term(None);
        self.lease.end().await;
    }
}
