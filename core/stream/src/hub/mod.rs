//! The hub: who follows which channel on this server, and on which shard.
//!
//! Connections belong to shards, one for each core. A publication enters a shard
//! once, however many of its connections follow the channel, under the channel's
//! lock and so in the channel's order; the shard hands it to them in its next tick
//! (see [`shard`]). Sessions without a shard of their own ([`ShardId::CALLER`]) get
//! it at once, from whoever publishes.
//!
//! Locks are taken in the order broker channel, hub, shard, session; a session never
//! calls the hub while it holds its own.

mod flush_schedule;
pub mod shard;
mod timers;
mod write_coalescing;

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use tokio::time::Instant;

pub use flush_schedule::BatchInterval;
pub(crate) use flush_schedule::FlushSchedule;
pub use shard::{Shard, ShardId};

use crate::{
    ChannelName, Publication,
    session::{SessionCore, Slot},
};

/// Where a subscriber stands in its channel's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HubKey(usize);

/// How far one has come in looking at all who follow a channel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Walk {
    shard: usize,
    from: usize,
}

/// Who follows which channel.
#[derive(Debug)]
pub struct Hub {
    shards: Box<[Arc<Shard>]>,
    /// How many follow a channel, by shard.
    followers: RwLock<HashMap<ChannelName, Box<[usize]>>>,
}

impl Hub {
    /// A hub of `shards` shards that nobody follows anything on, whose sessions gather
    /// prices for an `interval`.
    #[must_use]
    pub fn new(shards: usize, interval: BatchInterval) -> Self {
        let started = Instant::now();
        let shard = || Arc::new(Shard::new(FlushSchedule::new(interval, started)));
        Self {
            shards: (0..=shards).map(|_| shard()).collect(),
            followers: RwLock::default(),
        }
    }

    /// All shards that have a thread of their own.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..self.shards.len()).map(ShardId)
    }

    /// A shard.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> &Arc<Shard> {
        &self.shards[id.0]
    }

    /// Hands a publication to everyone who follows its channel. Called in the
    /// order of the channel.
    pub fn deliver(&self, publication: &Arc<Publication>) {
        let followers = self.followers.read();
        let Some(by_shard) = followers.get(publication.channel()) else {
            return;
        };
        for (index, shard) in self.shards.iter().enumerate() {
            match (by_shard[index], ShardId(index)) {
                (0, _) => {}
                (_, ShardId::CALLER) => {
                    shard.deliver_now(publication, Instant::now());
                }
                _ => shard.accept(publication.clone()),
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
        let mut followers = self.followers.write();
        let nobody = || vec![0; self.shards.len()].into_boxed_slice();
        followers.entry(channel.clone()).or_insert_with(nobody)[shard.0] += 1;
        HubKey(key)
    }

    /// Takes a subscription out. Nothing is delivered to it afterwards.
    pub(crate) fn remove(&self, channel: &ChannelName, shard: ShardId, key: HubKey) {
        if !self.shards[shard.0].remove(channel, key.0) {
            return;
        }
        let mut followers = self.followers.write();
        if let Some(by_shard) = followers.get_mut(channel) {
            by_shard[shard.0] -= 1;
            if by_shard.iter().all(|count| *count == 0) {
                followers.remove(channel);
            }
        }
    }

    /// Shows `look` a part of those who follow `channel`. False when that was the
    /// last part. Who comes or goes meanwhile may be missed.
    pub(crate) fn look(
        &self,
        channel: &ChannelName,
        walk: &mut Walk,
        mut look: impl FnMut(&Arc<SessionCore>),
    ) -> bool {
        let Some(shard) = self.shards.get(walk.shard) else {
            return false;
        };
        match shard.look(channel, walk.from, &mut look) {
            Some(from) => walk.from = from,
            None => {
                *walk = Walk {
                    shard: walk.shard + 1,
                    from: 0,
                }
            }
        }
        walk.shard < self.shards.len()
    }

    /// How many connections follow `channel`.
    #[must_use]
    pub fn subscriber_count(&self, channel: &ChannelName) -> usize {
        let followers = self.followers.read();
        followers
            .get(channel)
            .map_or(0, |by_shard| by_shard.iter().sum())
    }

    /// How many channels are followed.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.followers.read().len()
    }
}
