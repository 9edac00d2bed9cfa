//! Route: the server of Redis that each channel is on.
//!
//! It is the same for all channels, unless Redis is a cluster: then the map of its slots decides, which
//! changes when slots move and when a replica becomes a master.

use std::sync::Arc;

use tidewire_redis::{Cluster, ServerAddress, Slot, SlotMap};
use tokio::sync::watch;

use super::keys::{KeyNames, PARTITIONS, partition};
use crate::ChannelName;

/// A server of Redis, as one to connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// The only one, or the master that sentinels name.
    Only,
    /// A master of a cluster.
    Master(ServerAddress),
    /// None: no server of the cluster serves the slot now.
    Nowhere,
}

impl Place {
    /// The master of a cluster.
    pub(super) fn master(&self) -> Option<&ServerAddress> {
        match self {
            Self::Master(master) => Some(master),
            Self::Only | Self::Nowhere => None,
        }
    }
}

/// Where each channel is. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Route {
    cluster: Cluster,
    /// The slot of each partition.
    slots: Arc<[Slot]>,
}

impl Route {
    pub(super) fn new(cluster: &Cluster, keys: &KeyNames) -> Self {
        let slot = |partition| Slot::of(keys.partition(partition).as_bytes());
        Self {
            cluster: cluster.clone(),
            slots: (0..PARTITIONS).map(slot).collect(),
        }
    }

    /// The place of a channel.
    pub(super) fn of(&self, channel: &ChannelName) -> Place {
        if self.cluster.is_empty() {
            return Place::Only;
        }
        self.place(self.slot(channel))
    }

    /// The slot of a channel.
    pub(super) fn slot(&self, channel: &ChannelName) -> Slot {
        // The remainder is below the number of partitions.
        self.slots[partition(channel) as usize]
    }

    /// The place of a key.
    pub(super) fn of_key(&self, key: &[u8]) -> Place {
        match self.cluster.is_empty() {
            true => Place::Only,
            false => self.place(Slot::of(key)),
        }
    }

    fn place(&self, slot: Slot) -> Place {
        let map = self.cluster.map();
        map.master(slot)
            .map_or(Place::Nowhere, |master| Place::Master(master.clone()))
    }

    /// All places that have channels.
    pub(super) fn places(&self) -> Vec<Place> {
        if self.cluster.is_empty() {
            return vec![Place::Only];
        }
        let map = self.cluster.map();
        let masters = map.masters().iter().cloned();
        masters.map(Place::Master).collect()
    }

    /// Whether a place has no channels any more.
    pub(super) fn is_gone(&self, place: &Place) -> bool {
        place
            .master()
            .is_some_and(|master| !self.cluster.map().masters().contains(master))
    }

    /// Waits until a place has no channels any more.
    pub(super) async fn gone(&self, place: &Place) {
        let Some(master) = place.master() else {
            return std::future::pending().await;
        };
        let mut maps = self.cluster.changes();
        // The sender is in the cluster, which lives as long as this.
        let _ = maps.wait_for(|map| !map.masters().contains(master)).await;
    }

    /// The map that decides.
    pub(super) fn map(&self) -> Arc<SlotMap> {
        self.cluster.map()
    }

    /// The map, now and later.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<SlotMap>> {
        self.cluster.changes()
    }

    /// Whether there is a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        !self.cluster.is_empty()
    }
}
