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

mod delivery_times;
mod flush_schedule;
mod liveness;
pub mod shard;
mod subscriber_list;
mod taps;
mod timers;
mod write_coalescing;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use parking_lot::RwLock;
use tokio::time::Instant;

pub use delivery_times::DeliveryTimes;
pub(crate) use flush_schedule::FlushSchedule;
pub use liveness::LateShard;
pub use shard::{Shard, ShardId, Sink};
pub use taps::{Tap, TapListener};

use crate::{
    BatchInterval, ChannelName, Position, Publication,
    broker::LocalDelivery,
    session::{Session, SessionCore, Slot},
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
    /// The shards where each channel has subscribers.
    subscribers: RwLock<HashMap<ChannelName, ShardSet>>,
    /// The listeners of this server itself.
    taps: taps::Taps,
}

/// A set of shards, one bit each, so that a channel with subscribers takes few bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ShardSet([u64; 2]);

impl ShardSet {
    /// Number of shards that a set can hold.
    const CAPACITY: usize = 128;

    fn contains(self, shard: ShardId) -> bool {
        self.0[shard.0 / 64] & (1 << (shard.0 % 64)) != 0
    }

    fn insert(&mut self, shard: ShardId) {
        self.0[shard.0 / 64] |= 1 << (shard.0 % 64);
    }

    fn remove(&mut self, shard: ShardId) {
        self.0[shard.0 / 64] &= !(1 << (shard.0 % 64));
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Hub {
    /// Takes the delivery times of all shards since the last call.
    #[must_use]
    pub fn take_delivery_times(&self) -> DeliveryTimes {
        let mut times = DeliveryTimes::default();
        for shard in &self.shards {
            times.add(&shard.take_delivery_times());
        }
        times
    }

    /// The most shards with a thread of their own.
    pub const MAX_SHARDS: usize = ShardSet::CAPACITY - 1;

    /// A hub of `shards` shards without subscribers, at most [`MAX_SHARDS`](Self::MAX_SHARDS),
    /// whose sessions send batches of prices at an `interval`.
    #[must_use]
    pub fn new(shards: usize, interval: BatchInterval) -> Self {
        let shards = shards.min(Self::MAX_SHARDS);
        let started = Instant::now();
        let shard = || {
            let schedule = FlushSchedule::new(interval, started);
            Arc::new(Shard::new(schedule, started))
        };
        Self {
            shards: (0..=shards).map(|_| shard()).collect(),
            subscribers: RwLock::default(),
            taps: taps::Taps::default(),
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
    /// channel. Returns whether there are any.
    pub fn deliver(&self, publication: &Arc<Publication>) -> bool {
        let subscribers = self.subscribers.read();
        let Some(shards) = subscribers.get(publication.channel()) else {
            return false;
        };
        for (index, shard) in self.shards.iter().enumerate() {
            match ShardId(index) {
                id if !shards.contains(id) => {}
                ShardId::CALLER => shard.deliver_now(publication, Instant::now()),
                _ => shard.enqueue(publication.clone()),
            }
        }
        true
    }

    /// Adds a subscription of a session.
    pub(crate) fn add(
        &self,
        channel: &ChannelName,
        session: Arc<SessionCore>,
        slot: Slot,
    ) -> HubKey {
        let shard = session.shard_id();
        let mut subscribers = self.subscribers.write();
        let key = self.shards[shard.0].add(channel, session, slot);
        match subscribers.get_mut(channel) {
            Some(shards) => shards.insert(shard),
            None => {
                let mut shards = ShardSet::default();
                shards.insert(shard);
                subscribers.insert(channel.clone(), shards);
            }
        }
        HubKey::new(key)
    }

    /// Removes a subscription. Nothing is delivered to it afterwards.
    pub(crate) fn remove(&self, channel: &ChannelName, shard: ShardId, key: HubKey) {
        let mut subscribers = self.subscribers.write();
        if !self.shards[shard.0].remove(channel, key.index()) {
            return;
        }
        if let Some(shards) = subscribers.get_mut(channel) {
            shards.remove(shard);
            if shards.is_empty() {
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
        let shards = self.shards.iter();
        shards.map(|shard| shard.subscriber_count(channel)).sum()
    }

    /// How many channels have a subscriber.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.subscribers.read().len()
    }
}

impl LocalDelivery for Hub {
    fn deliver(&self, publication: &Arc<Publication>) -> bool {
        let is_tapped = self.taps.deliver(publication);
        self.deliver(publication) || is_tapped
    }

    fn note_newest(&self, channel: &ChannelName, newest: &Position) {
        let mut scan = SubscriberScan::default();
        let mut has_more = true;
        while has_more {
            let mut part = Vec::new();
            has_more = self.scan_part(channel, &mut scan, |session| part.push(session.clone()));
            for session in part {
                Session::from(session).start_new_epoch(channel, newest);
            }
        }
    }

    fn has_subscribers(&self, channel: &ChannelName) -> bool {
        self.subscribers.read().contains_key(channel) || self.taps.has(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_each_shard_by_itself() {
        let mut set = ShardSet::default();
        for index in (0..ShardSet::CAPACITY).rev() {
            assert!(!set.contains(ShardId(index)));
            set.insert(ShardId(index));
            assert!(set.contains(ShardId(index)));
        }
        for index in 0..ShardSet::CAPACITY {
            assert!(!set.is_empty());
            set.remove(ShardId(index));
            assert!(!set.contains(ShardId(index)));
        }
        assert!(set.is_empty());
    }

    #[test]
    fn a_hub_has_no_more_shards_than_a_set() {
        let interval = BatchInterval {
            usual: std::time::Duration::from_millis(50),
            busy: std::time::Duration::from_millis(80),
        };
        let hub = Hub::new(1_000, interval);
        assert_eq!(hub.shards().count(), Hub::MAX_SHARDS);
    }
}
