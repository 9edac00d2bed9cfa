//! Price owner: has one node publish prices, candles and the market overview for all nodes.
//!
//! Each node with the role `prices` follows the venues. One of them owns the engine, by a lease in
//! Redis, and publishes. The others keep the newest value of each channel, and publish it where the
//! last owner did not get to it. A takeover therefore begins with warm windows, at the next price.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_service::PublishedPrices;
use tidewire_store::{Candidacy, EngineLease, EngineTerm, Ownership, Preference, Tenure as _};
use tidewire_stream::{
    ChannelName, Event, Namespaces, PageLimit, Publisher, StreamCore, broker::Fence,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    broker,
    config::{BrokerKind, Config},
    feed::OpenFeed,
    roles::Role,
};

/// The name of the engine in Redis.
const ENGINE: &str = "prices";

/// The namespaces of the engine.
const NAMESPACES: [&str; 3] = ["prices", "market", "candles"];

/// Time between two looks for values that were not published.
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

/// Publishes the events of the price engine while this node owns it.
pub(crate) struct OwnedPublisher {
    stream: Arc<StreamCore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The term of this node, and the proof of it.
    term: Option<(EngineTerm, Arc<Fence>)>,
    /// The newest event of each channel.
    newest: HashMap<ChannelName, Newest>,
}

/// The newest event of a channel.
struct Newest {
    event: Event,
    /// Whether it was handed to the broker in the term of this node.
    is_published: bool,
}

impl State {
    /// The proof that no other node owns the engine, if there is one now.
    fn fence(&self) -> Option<&Arc<Fence>> {
        let (_, fence) = self.term.as_ref().filter(|(term, _)| term.is_valid())?;
        Some(fence)
    }
}

impl OwnedPublisher {
    pub(crate) fn new(stream: Arc<StreamCore>) -> Arc<Self> {
        Arc::new(Self {
            stream,
            state: Mutex::default(),
        })
    }

    fn set_term(&self, term: Option<(EngineTerm, Arc<Fence>)>) {
        let mut state = self.state.lock();
        let name = |term: &Option<(EngineTerm, Arc<Fence>)>| {
            let (term, _) = term.as_ref()?;
            Some(term.term().to_owned())
        };
        if name(&state.term) != name(&term) {
            // The last ones of an earlier term may have been refused, or lost with Redis.
            let all = state.newest.values_mut();
            all.for_each(|one| one.is_published = false);
        }
        state.term = term;
    }

    /// Publishes events that were not, and are news beside the last publication of their channel.
    async fn publish_held(&self) {
        let held: Vec<ChannelName> = {
            let state = self.state.lock();
            match state.fence() {
                Some(_) => {
                    let held = state.newest.iter().filter(|(_, one)| !one.is_published);
                    held.map(|(channel, _)| channel.clone()).collect()
                }
                None => return,
            }
        };
        for channel in held {
            let newest = self
                .stream
                .broker()
                .history(&channel, None, PageLimit::NEWEST);
            // Redis is away: the next look tries again.
            let Ok(newest) = newest.await else { return };
            let newest = newest.publications.last().map(|one| one.event());
            let mut state = self.state.lock();
            let Some(fence) = state.fence().cloned() else {
                return;
            };
            // The engine may have published a newer one meanwhile.
            let held = state.newest.get_mut(&channel);
            let Some(held) = held.filter(|one| !one.is_published) else {
                continue;
            };
            held.is_published = true;
            if newest.is_none_or(|newest| is_news(&held.event, &newest)) {
                self.stream
                    .publish_fenced(&channel, held.event.clone(), &fence);
            }
        }
    }
}

impl Publisher for OwnedPublisher {
    fn publish(&self, channel: &ChannelName, event: Event) {
        // Under the lock: the events of a channel keep their order.
        let mut state = self.state.lock();
        let fence = state.fence().cloned();
        let newest = Newest {
            event: event.clone(),
            is_published: fence.is_some(),
        };
        match state.newest.get_mut(channel) {
            Some(known) => *known = newest,
            None => drop(state.newest.insert(channel.clone(), newest)),
        }
        if let Some(fence) = fence {
            self.stream.publish_fenced(channel, event, &fence);
        }
    }
}

/// Whether an event says more than the newest one of its channel, which another node may have
/// published. Volumes, averages and times of arrival differ between nodes, and are no news by
/// themselves.
fn is_news(event: &Event, newest: &Event) -> bool {
    match (event, newest) {
        (Event::Price(event), Event::Price(newest)) => {
            event.timestamp >= newest.timestamp
                && (&event.price, event.stale) != (&newest.price, newest.stale)
        }
        _ => event != newest,
    }
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
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let publisher = &self.publisher;
        let mut ownership = self.lease.ownership();
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            let term = match &*ownership.borrow_and_update() {
                Ownership::Own(term) => Some((term.clone(), self.fence(term))),
                _ => None,
            };
            publisher.set_term(term);
            publisher.publish_held().await;
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

    /// The prices that other nodes publish, for a node that does not run the engine.
    pub(crate) fn published(self: &Arc<Self>, stream: &Arc<StreamCore>) -> PublishedPrices {
        let owner = self.clone();
        PublishedPrices::new(stream.clone(), move || {
            match &*owner.lease.ownership().borrow() {
                Ownership::Other { node, .. } => Some(node.clone()),
                _ => None,
            }
        })
    }

    /// Stops to publish, and ends the lease: another node takes over at once.
    pub(crate) async fn end(&self) {
        self.publisher.set_term(None);
        self.lease.end().await;
    }
}
