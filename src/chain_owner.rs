//! Chain owners: has one node follow each chain for all nodes.
//!
//! Each chain is a shard of its own: a lease in Redis, `chain-<id>`, and a store beside it, whose commits
//! are checked against that lease. The owner runs an engine of this one chain on the store, and its
//! publications bear the term of the lease. A takeover is thus a restart on the same store: the next
//! owner reads what was stored, publishes what was not, and goes on. A node that does not own a chain
//! does not connect to its endpoints, but for a [probe](crate::chain_reach) before it takes the chain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_chain::{ChainConfig, ChainEngine, notice::NoticeSink};
use tidewire_proto::v1::ErrorCode;
use tidewire_service::ChainSlots;
use tidewire_store::{
    Balance, Candidacy, EngineLease, Ownership, Preference, RedisStore, RedisStoreOptions,
    Store as _, StoreError, StoreLease,
};
use tidewire_stream::{
    ChannelName, DurablePublisher, Epoch, Event, Namespaces, Position, Publisher, SharedClock,
    StoredPublication, StreamCore, StreamError,
    broker::{BrokerFuture, Fence, PublishFuture},
};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker,
    chain_reach::ChainReach,
    config::{BrokerKind, Config, StoreKind},
    engine_store::raise_fence,
    feed::OpenFeed,
    roles::Role,
    term_clock::TermClock,
};

/// The namespaces of the engine.
const NAMESPACES: [&str; 4] = ["blocks", "tx", "wallet", "events"];

/// Time between two attempts to open an engine while Redis does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// Longest wait for the tasks of an engine whose node stops, before the lease ends.
const STOP: Duration = Duration::from_millis(500);

/// Whether the nodes share the chains.
pub(crate) fn is_shared(config: &Config, feed: &OpenFeed) -> bool {
    config.broker.kind == BrokerKind::Redis && config.broker.share_chains && feed.is_live()
}

/// Has the channels of chains reach the clients of all nodes.
///
/// # Errors
/// A namespace does not exist.
pub(crate) fn share(namespaces: &mut Namespaces) -> anyhow::Result<()> {
    for namespace in NAMESPACES {
        namespaces.share(namespace)?;
    }
    Ok(())
}

/// The faults in `broker.share_chains`, and in the keys that it depends on.
pub(crate) fn check(config: &Config, problems: &mut Vec<String>) {
    if !config.broker.share_chains {
        return;
    }
    if config.broker.kind != BrokerKind::Redis {
        problems.push("broker.share_chains is true, and broker.kind is \"memory\", expected broker.kind = \"redis\": the nodes share chains over Redis".to_owned());
    } else if config.store.kind != StoreKind::Redis {
        problems.push("broker.share_chains is true, and store.kind is \"embedded\", expected store.kind = \"redis\": the next owner of a chain must find what this one stored".to_owned());
    }
}

/// The engine of a chain on this node, in one term.
#[derive(Debug, Clone)]
struct LocalEngine {
    engine: ChainEngine,
    /// The store of the term.
    store: RedisStore,
}

/// The part of this node in the leases of all chains.
pub(crate) struct ChainOwners {
    /// By the id as channels name it.
    shards: BTreeMap<String, Arc<ChainShard>>,
    /// Spreads the chains over the nodes that may own them. None on one that may not.
    balance: Option<Arc<Balance>>,
}

impl ChainOwners {
    /// Takes part in the lease of each chain. Engines are put into `slots` while this node owns their
    /// chains. `sink` receives the notices to users. None if the nodes share nothing.
    ///
    /// # Errors
    /// The address of Redis is wrong.
    pub(crate) fn start(
        config: &Config,
        (stream, slots, clock): (&Arc<StreamCore>, &ChainSlots, &SharedClock),
        sink: Option<&Arc<dyn NoticeSink>>,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(node) = stream.broker().node_tag() else {
            return Ok(None);
        };
        let redis = broker::redis_options(&config.broker).map_err(anyhow::Error::msg)?;
        let is_candidate = Role::Chain.is_among(&config.server.roles);
        let candidacy = match is_candidate {
            true => Candidacy::Candidate,
            false => Candidacy::Observer,
        };
        let balance = is_candidate.then(|| Balance::start(redis.clone(), node.as_str()));
        let mut shards = BTreeMap::new();
        for chain in &config.chain {
            let name = format!("chain-{}", chain.id);
            let options = RedisStoreOptions {
                redis: redis.clone(),
                node: node.as_str().to_owned(),
                replicas: config.store.replicas,
                candidacy,
            };
            let label = chain.label();
            let reach = balance
                .clone()
                .map(|balance| ChainReach::new(chain, name.clone(), balance))
                .transpose()?;
            let lease = match balance.as_ref().map(|balance| balance.shard(&name)) {
                Some(shard) => StoreLease::start_engine(options, (&name, &label), shard),
                None => StoreLease::start_engine(options, (&name, &label), || Preference::Equal),
            };
            let shard = ChainShard {
                key: EngineLease::key(&redis.prefix, &name),
                lease,
                reach: reach.map(Arc::new),
                config: chain.clone(),
                stream: stream.clone(),
                slots: slots.clone(),
                clock: clock.clone(),
                sink: sink.cloned(),
                engine: Mutex::default(),
                failure: Mutex::default(),
            };
            shards.insert(chain.id.to_string(), Arc::new(shard));
        }
        Ok(Some(Arc::new(Self {
            shards,
            balance: balance.map(Arc::new),
        })))
    }

    /// Follows the leases, and runs the engines of those that this node has, in `tasks` until
    /// cancelled. Leases end with it.
    pub(crate) fn run(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        for shard in self.shards.values() {
            tasks.spawn(shard.clone().run(cancel.clone()));
            if let Some(reach) = shard.reach.clone() {
                let cancel = cancel.clone();
                tasks.spawn(async move { cancel.run_until_cancelled(reach.probe()).await });
            }
        }
        if let Some(balance) = self.balance.clone() {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                cancel.cancelled().await;
                balance.leave().await;
            });
        }
    }

    /// The engine of a chain, if this node owns the chain now.
    pub(crate) fn engine(&self, chain: &str) -> Option<ChainEngine> {
        let local = self.shards.get(chain)?.engine.lock().clone()?;
        local.store.is_current().then_some(local.engine)
    }

    /// Whether this node owns a chain, for each chain.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (&str, bool)> {
        let shards = self.shards.iter();
        shards.map(|(chain, shard)| (chain.as_str(), shard.lease.is_owner()))
    }

    /// Whether this node can follow a chain, for each chain of which it has found out.
    pub(crate) fn reached(&self) -> impl Iterator<Item = (&str, bool)> {
        let shards = self.shards.iter();
        shards
            .filter_map(|(chain, shard)| Some((chain.as_str(), shard.reach.as_ref()?.is_given()?)))
    }

    /// The number of chains that some node owns.
    pub(crate) fn count_owned(&self) -> usize {
        let faults = self.shards.values().map(|shard| shard.fault());
        faults.filter(Option::is_none).count()
    }

    /// How many chains this node has handed over to nodes that have fewer.
    pub(crate) fn handovers(&self) -> Option<u64> {
        self.balance.as_ref().map(|balance| balance.handovers())
    }

    /// Why no node follows a chain, as far as this one knows. None if another node owns it.
    pub(crate) fn fault(&self, chain: &str) -> Option<String> {
        self.shards.get(chain)?.fault()
    }
}

/// The part of this node in the lease of one chain.
struct ChainShard {
    lease: StoreLease,
    /// Whether this node can follow the chain. None on one that may not own it.
    reach: Option<Arc<ChainReach>>,
    /// The key of the lease.
    key: String,
    config: ChainConfig,
    stream: Arc<StreamCore>,
    slots: ChainSlots,
    clock: SharedClock,
    sink: Option<Arc<dyn NoticeSink>>,
    engine: Mutex<Option<LocalEngine>>,
    /// Why the engine cannot be opened on this node.
    failure: Mutex<Option<String>>,
}

impl ChainShard {
    async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut ownership = self.lease.ownership();
        loop {
            let owned = self.announce(&ownership.borrow_and_update());
            if let Some(store) = owned {
                let served = self.serve(&store, &cancel);
                served.await;
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                changed = ownership.changed() => if changed.is_err() {
                    return;
                },
            }
        }
        self.lease.end().await;
    }

    /// Has requests go to the owner, or wait for it. Returns the store if the owner is this node.
    fn announce(&self, ownership: &Ownership) -> Option<RedisStore> {
        let chain = self.config.id;
        match ownership {
            Ownership::Own(_) => self.slots.begin_opening(chain),
            Ownership::Other { node, .. } => {
                let reason = format!("node {node} owns it");
                self.slots.close(chain, Some(node), reason);
            }
            Ownership::Unknown(error) => self.slots.close(chain, None, error.to_string()),
        }
        match ownership {
            Ownership::Own(store) if !store.has_ended() => Some(store.clone()),
            _ => None,
        }
    }

    /// Runs the engine until the term ends or the server stops.
    async fn serve(&self, store: &RedisStore, cancel: &CancellationToken) {
        let (tasks, until) = (TaskTracker::new(), CancellationToken::new());
        let opened = tokio::select! {
            opened = self.open(store, &tasks, &until) => opened,
            _ = store.ended() => None,
            () = cancel.cancelled() => None,
        };
        if let Some(engine) = opened {
            let store = store.clone();
            self.slots
                .open(self.config.id, engine.clone(), Arc::new(store.clone()));
            if let Some(reach) = self.reach.clone() {
                let (engine, until) = (engine.clone(), until.clone());
                tasks.spawn(async move {
                    until.run_until_cancelled(reach.watch(&engine)).await;
                });
            }
            *self.engine.lock() = Some(LocalEngine { engine, store });
        }
        let (is_stopping, reason) = tokio::select! {
            reason = store.ended() => {
                match reason {
                    StoreError::Closed => {
                        tracing::info!(chain = self.config.id, "the engine of a chain ends: this node hands the chain over, or stops");
                    }
                    _ => {
                        tracing::warn!(chain = self.config.id, %reason, "the engine of a chain ends with the term of its lease");
                    }
                }
                (false, reason.to_string())
            }
            () = cancel.cancelled() => (true, "the server is about to stop".to_owned()),
        };
        self.slots.close(self.config.id, None, reason);
        *self.engine.lock() = None;
        until.cancel();
        tasks.close();
        // What was stored and not published is for the next owner.
        if is_stopping && timeout(STOP, tasks.wait()).await.is_err() {
            tracing::warn!(
                chain = self.config.id,
                "the tasks of a chain did not end in time"
            );
        }
    }

    /// Opens the engine. None if that is left to other nodes.
    async fn open(
        &self,
        store: &RedisStore,
        tasks: &TaskTracker,
        until: &CancellationToken,
    ) -> Option<ChainEngine> {
        loop {
            let error = match self.try_open(store, tasks, until).await {
                Ok(engine) => {
                    *self.failure.lock() = None;
                    return Some(engine);
                }
                Err(error) => error,
            };
            let chain = self.config.id;
            *self.failure.lock() = Some(error.to_string());
            if store.failure().is_none() {
                tracing::error!(chain, %error, "the engine of a chain cannot be opened: other nodes try");
                store.give_up();
                return None;
            }
            tracing::warn!(chain, %error, "the engine of a chain is opened later");
            sleep(RETRY).await;
        }
    }

    async fn try_open(
        &self,
        store: &RedisStore,
        tasks: &TaskTracker,
        until: &CancellationToken,
    ) -> anyhow::Result<ChainEngine> {
        let fence = Arc::new(Fence {
            lease: self.key.clone(),
            term: store.term().to_owned(),
        });
        raise_fence(&self.stream, &fence).await;
        let clock = TermClock::open(store, self.clock.clone()).await?;
        let publisher = ChainPublisher {
            stream: self.stream.clone(),
            store: store.clone(),
            fence,
        };
        let engine = ChainEngine::new(
            std::slice::from_ref(&self.config),
            Arc::new(publisher),
            clock.clock(),
            Some(Arc::new(store.clone())),
        )?;
        if let Some(sink) = &self.sink {
            engine.notify_users(sink.clone());
        }
        engine.start(tasks, until).await?;
        let until = until.clone();
        tasks.spawn(async move { clock.follow(until).await });
        Ok(engine)
    }

    fn fault(&self) -> Option<String> {
        if let Some(error) = self.lease.fault() {
            return Some(error.to_string());
        }
        let failure = self.failure.lock().clone();
        failure.filter(|_| self.lease.is_owner())
    }
}

/// Publishes for the engine of a chain in one term.
struct ChainPublisher {
    stream: Arc<StreamCore>,
    store: RedisStore,
    fence: Arc<Fence>,
}

impl ChainPublisher {
    /// Checks that no other node can have taken over: a new epoch bears no term.
    fn check(&self) -> Result<(), StreamError> {
        match self.store.failure() {
            None => Ok(()),
            Some(error) => Err(StreamError::new(ErrorCode::Unavailable, error.to_string())),
        }
    }
}

impl Publisher for ChainPublisher {
    fn publish(&self, channel: &ChannelName, event: Event) {
        self.stream.publish_fenced(channel, event, &self.fence);
    }
}

impl DurablePublisher for ChainPublisher {
    fn term(&self) -> Option<&str> {
        Some(&self.fence.term)
    }

    fn publish_once(&self, channel: &ChannelName, event: Event, key: &str) -> PublishFuture {
        let stream = &self.stream;
        stream.publish_fenced_once(channel, event, key, &self.fence)
    }

    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position> {
        self.stream.position(channel)
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        self.stream.restore(channel, epoch, publications)
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            self.check()?;
            self.stream.start_new_epoch(channel).await
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            self.check()?;
            self.stream.forget(channel).await
        })
    }
}
