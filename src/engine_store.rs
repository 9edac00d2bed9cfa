//! Engine store: where notifications and alerts keep what they have.
//!
//! It is the store of this server, or the one that all nodes share in Redis. Only the owner of a
//! shared store may open engines on it, for one term. Everything else that a server stores is its
//! own: candles, blocks and histories belong to engines that each node runs for itself.

use std::{sync::Arc, time::Duration};

use tidewire_store::{
    Candidacy, Ownership, RedisStore, RedisStoreOptions, SharedStore, StoreError, StoreLease,
};
use tidewire_stream::{SharedClock, StreamCore, broker::Fence};
use tokio::{sync::watch, time::timeout};

use crate::{
    broker,
    config::{Config, StoreKind},
    roles::Role,
    store_move,
    term_clock::TermClock,
};

/// Longest wait for the first look at the lease, while the server starts.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// A store for engines.
#[derive(Debug, Clone)]
pub(crate) enum EngineStore {
    /// The store of this server.
    Own(OwnStore),
    /// The store of all nodes.
    Shared(Arc<StoreLease>),
}

/// A store of this server alone.
#[derive(Clone)]
pub(crate) struct OwnStore(SharedStore);

impl std::fmt::Debug for OwnStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnStore").finish_non_exhaustive()
    }
}

/// A store on which this server may open engines, until the term ends.
#[derive(Clone)]
pub(crate) struct StoreTerm {
    pub(crate) store: SharedStore,
    shared: Option<RedisStore>,
}

impl StoreTerm {
    fn shared(store: &RedisStore) -> Self {
        Self {
            store: Arc::new(store.clone()),
            shared: Some(store.clone()),
        }
    }

    /// Whether there may be another term.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Ends the term of a shared store, since an engine cannot be opened here. Returns whether it is one,
    /// so that there will be another term.
    pub(crate) fn give_up(&self) -> bool {
        if let Some(store) = &self.shared {
            store.give_up();
        }
        self.shared.is_some()
    }

    /// The proof that no other node owns the store, for what its engines publish. None if there is no other
    /// node.
    pub(crate) fn fence(&self) -> Option<Arc<Fence>> {
        self.shared.as_ref().map(|store| {
            Arc::new(Fence {
                lease: store.lease_key(),
                term: store.term().to_owned(),
            })
        })
    }

    /// Has the owners of earlier terms refused. Called before an engine of this term is opened.
    pub(crate) async fn raise_fence(&self, stream: &StreamCore) {
        if let Some(fence) = self.fence() {
            raise_fence(stream, &fence).await;
        }
    }

    /// The clock of engines in this term, on a node with the clock `own`. None if that is it.
    ///
    /// # Errors
    /// The store cannot be read, or is moved at present.
    pub(crate) async fn clock(&self, own: &SharedClock) -> Result<Option<TermClock>, StoreError> {
        let Some(store) = &self.shared else {
            return Ok(None);
        };
        store_move::check(store).await?;
        TermClock::open(store, own.clone()).await.map(Some)
    }

    /// Waits until the term ends, and returns why. That of an own store does not.
    pub(crate) async fn ended(&self) -> StoreError {
        match &self.shared {
            Some(store) => store.ended().await,
            None => std::future::pending().await,
        }
    }
}

impl EngineStore {
    /// The store that the configuration names. `own` is that of this server.
    ///
    /// # Errors
    /// The address of Redis is wrong.
    pub(crate) async fn open(
        config: &Config,
        own: SharedStore,
        is_live: bool,
        stream: &Arc<StreamCore>,
    ) -> anyhow::Result<Self> {
        let node = stream.broker().node_tag();
        if (config.store.kind, is_live) == (StoreKind::Embedded, true) {
            store_move::note_own_use(&*own).await;
        }
        let (StoreKind::Redis, true, Some(node)) = (config.store.kind, is_live, node) else {
            return Ok(Self::Own(OwnStore(own)));
        };
        store_move::warn_of_unread(config, &*own).await;
        let lease = StoreLease::start(RedisStoreOptions {
            redis: broker::redis_options(&config.broker).map_err(anyhow::Error::msg)?,
            node: node.as_str().to_owned(),
            replicas: config.store.replicas,
            candidacy: match Role::Alerts.is_among(&config.server.roles) {
                true => Candidacy::Candidate,
                false => Candidacy::Observer,
            },
        });
        tracing::info!(
            node = node.as_str(),
            "notifications and alerts are in the store that all nodes share in Redis"
        );
        // A Redis that does not answer may come later.
        let _ = timeout(FIRST_LOOK, lease.ownership().changed()).await;
        Ok(Self::Shared(Arc::new(lease)))
    }

    /// A store on which engines may open now.
    pub(crate) fn now(&self) -> Option<StoreTerm> {
        match self {
            Self::Own(OwnStore(store)) => Some(StoreTerm {
                store: store.clone(),
                shared: None,
            }),
            Self::Shared(lease) => match &*lease.ownership().borrow() {
                Ownership::Own(store) if !store.has_ended() => Some(StoreTerm::shared(store)),
                _ => None,
            },
        }
    }

    /// Waits for a store on which engines may open. `absent` is given the node that owns it, if that
    /// is known, and the reason for which there is none here yet.
    pub(crate) async fn term(&self, absent: impl Fn(Option<&str>, String)) -> StoreTerm {
        let Self::Shared(lease) = self else {
            return match self.now() {
                Some(term) => term,
                None => std::future::pending().await,
            };
        };
        let mut ownership = lease.ownership();
        loop {
            if let Some(term) = self.now() {
                return term;
            }
            {
                let owner = ownership.borrow_and_update();
                absent(owner.node(), absence(&owner));
            }
            if ownership.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The owner of a shared store, now and later.
    pub(crate) fn ownership(&self) -> Option<watch::Receiver<Ownership>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(lease) => Some(lease.ownership()),
        }
    }

    /// The lease of a shared store.
    pub(crate) fn lease(&self) -> Option<&Arc<StoreLease>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(lease) => Some(lease),
        }
    }
}

/// Has the owners of earlier terms of a lease refused, before one publishes in a newer term.
pub(crate) async fn raise_fence(stream: &StreamCore, fence: &Fence) {
    if let Err(error) = stream.broker().raise_fence(fence).await {
        tracing::warn!(%error, lease = fence.lease, "the earlier owner of an engine is refused later");
    }
}

/// Why this node has no store for its engines.
fn absence(ownership: &Ownership) -> String {
    match ownership {
        Ownership::Own(_) => "the shared store is opened again".to_owned(),
        Ownership::Other { node, .. } => format!("node {node} has the shared store"),
        Ownership::Unknown(error) => format!("no node has the shared store: {error}"),
    }
}
