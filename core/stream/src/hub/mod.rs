//! Hub: the subscribers of each channel on this server, by shard.
//!
//! Connections belong to shards, one for each core. A publication enters a shard once, however
//! many of its connections are subscribed. It enters under the channel's lock, and so in the
//! channel's order; the shard delivers it in its next tick (see [`shard`]). Sessions without a
//! shard ([`ShardId::CALLER`]) get it at once, on the publisher's thread.
//!
//! Locks are acquired in the order broker channel, hub, shard, session; a session never calls the
//! hub while it holds its own lock. Hub and session know each other, as
//! [`session`](crate::session) explains: a delivery goes from one to the other without a
//! virtual call.

mod flush_schedule;
mod liveness;
pub mod shard;
mod timers;
mod write_coalescing;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use parking_lot::RwLock;
use tokio::time::Instant;

pub(crate) use flush_schedule::FlushSchedule;
pub use liveness::LateShard;
pub use shard::{Shard, ShardId, Sink};

use crate::{
    BatchInterval, ChannelName, Publication,
    broker::LocalDelivery,
    session::{SessionCore, Slot},
};

/// Key of a subscriber in its channel's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HubKey(NonZeroU32);

impl HubKey {
    fn new(index: usize) -> Self {
        // A shard has fewer connections than 2^32 - 1, and so has each of its lists.
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// How far a scan of a channel's subscribers has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SubscriberScan {
    shard: usize,
    from: usize,
}

/// Subscribers by channel.
#[derive(Debug)]
pub struct Hub {
    shards: Box<[Arc<Shard>]>,
    /// Number of subscribers of each channel, by shard.
    subscribers: RwLock<HashMap<ChannelName, Box<[u32]>>>,
}

impl Hub {
    /// A hub of `shards` shards without subscribers, whose sessions send batches of prices at
    /// an `interval`.
    #[must_use]
    pub fn new(shards: usize, interval: BatchInterval) -> Self {
        let started = Instant::now();
        let shard = || {
            let schedule = FlushSchedule::new(interval, started);
            Arc::new(Shard::new(schedule, started))
        };
        Self {
            shards: (0..=shards).map(|_| shard()).collect(),
            subscribers: RwLock::default(),
        }
    }

    /// All shards that have a thread.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..self.shards.len()).map(ShardId)
    }

    /// Asks every shard for a tick, so that [`late_shards`](Self::late_shards) shows those whose
    /// thread is stuck. Called several times a second.
    pub(crate) fn probe_shards(&self, now: Instant) {
        for shard in self.shards() {
            self.shard(shard).probe(now);
        }
    }

    /// The shards that have not finished a tick for a second.
    #[must_use]
    pub fn late_shards(&self, now: Instant) -> Vec<LateShard> {
        let late = self.shards().filter_map(|shard| {
            let late_for = self.shard(shard).late_for(now)?;
            Some(LateShard { shard, late_for })
        });
        late.collect()
    }

    /// A shard.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> &Arc<Shard> {
        &self.shards[id.0]
    }

    /// Delivers a publication to the subscribers of its channel. Called in the order of the
    /// channel.
    pub fn deliver(&self, publication: &Arc<Publication>) {
        let subscribers = self.subscribers.read();
        let Some(by_shard) = subscribers.get(publication.channel()) else {
            return;
        };
        for (index, shard) in self.shards.iter().enumerate() {
            match (by_shard[index], ShardId(index)) {
                (0, _) => {}
                (_, ShardId::CALLER) => {
                    shard.deliver_now(publication, Instant::now());
                }
                _ => shard.enqueue(publication.clone()),
            }
        }
    }

    /// Adds a subscription of a session.
    pub(crate) fn add(
        &self,
        channel: &ChannelName,
        session: Arc<SessionCore>,
        slot: Slot,
    ) -> HubKey {
        let shard = session.shard_id();
        let key = self.shards[shard.0].add(channel, session, slot);
        let mut subscribers = self.subscribers.write();
        let none = || vec![0; self.shards.len()].into_boxed_slice();
        subscribers.entry(channel.clone()).or_insert_with(none)[shard.0] += 1;
        HubKey::new(key)
    }

    /// Removes a subscription. Nothing is delivered to it afterwards.
    pub(crate) fn remove(&self, channel: &ChannelName, shard: ShardId, key: HubKey) {
        if !self.shards[shard.0].remove(channel, key.index()) {
            return;
        }
        let mut subscribers = self.subscribers.write();
        if let Some(by_shard) = subscribers.get_mut(channel) {
            by_shard[shard.0] -= 1;
            if by_shard.iter().all(|count| *count == 0) {
                subscribers.remove(channel);
            }
        }
    }

    /// Visits a part of a channel's subscribers. Returns false after the last part. A
    /// subscriber that comes or goes meanwhile may be missed.
    pub(crate) fn scan_part(
        &self,
        channel: &ChannelName,
        scan: &mut SubscriberScan,
        mut visit: impl FnMut(&Arc<SessionCore>),
    ) -> bool {
        let Some(shard) = self.shards.get(scan.shard) else {
            return false;
        };
        match shard.scan_part(channel, scan.from, &mut visit) {
            Some(from) => scan.from = from,
            None => {
                *scan = SubscriberScan {
                    shard: scan.shard + 1,
                    from: 0,
                }
            }
        }
        scan.shard < self.shards.len()
    }

    /// How many connections are subscribed to `channel`.
    #[must_use]
    pub fn subscriber_count(&self, channel: &ChannelName) -> usize {
        let subscribers = self.subscribers.read();
        subscribers.get(channel).map_or(0, |by_shard| {
            by_shard.iter().map(|count| *count as usize).sum()
        })
    }

    /// How many channels have a subscriber.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.subscribers.read().len()
    }
}

impl LocalDelivery for Hub {
    fn deliver(&self, publication: &Arc<Publication>) {
        self.deliver(publication);
    }

    fn has_subscribers(&self, channel: &ChannelName) -> bool {
        self.subscribers.read().contains_key(channel)
    }
}
