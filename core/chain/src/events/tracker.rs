//! Event tracker: matches logs against the filters in use, without a look at filters that do
//! not match.
//!
//! A filter is indexed under the fields that it fixes: the address and up to four topics. That
//! makes 32 sets of fields. A log is looked up once for each set that some filter uses.
//!
//! Example: 100,000 filters fix the address alone, and one fixes the first topic alone. A log
//! then costs two lookups: by its address, and by its first topic.

use std::collections::{BTreeMap, HashMap, VecDeque};

use alloy::{
    primitives::{Address, B256},
    rpc::types::Log,
};
use tidewire_proto::v1::EventLog;
use tidewire_stream::{ChannelName, Event};

use super::Filter;
use crate::{BlockData, ChainUpdate, channel::ChannelEvent};

/// Filters that a chain can have.
const MAX_FILTERS: usize = 100_000;
/// Contracts that all filters of a chain can name together. A filter that names none counts as
/// one.
const MAX_KEYS: usize = 1_000_000;
/// Blocks that are remembered, so that a retraction reaches only the filters that matched them.
const MAX_BLOCKS: usize = 1_024;

/// Why a filter cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTrackerError {
    /// The chain has its maximum of filters.
    #[error("{0} event filters are in use on this chain, which is the maximum")]
    TooManyFilters(usize),
    /// The filters of the chain name their maximum of contracts.
    #[error("the event filters on this chain name {0} contracts, {1} more would be too many")]
    TooManyContracts(usize, usize),
}

/// The fields that a filter fixes, and their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FilterKey {
    address: Option<Address>,
    topics: [Option<B256>; 4],
}

/// A set of fixed fields: bit 0 for the address, bits 1 to 4 for the topics.
type FieldMask = u8;

#[derive(Debug)]
struct ActiveFilter {
    filter: Filter,
    followers: u32,
    /// The update after which the filter was added. It matched no earlier block.
    since: u64,
}

/// All event filters of a chain.
#[derive(Debug)]
pub struct EventTracker {
    chain: u64,
    active: HashMap<ChannelName, ActiveFilter>,
    by_key: HashMap<FilterKey, Vec<ChannelName>>,
    /// The number of keys for each set of fields.
    masks: BTreeMap<FieldMask, usize>,
    /// The number of updates so far.
    updates: u64,
    /// The newest blocks, each with the number of its update.
    blocks: VecDeque<(B256, u64)>,
}

impl EventTracker {
    /// A tracker of the chain with this id, without filters.
    #[must_use]
    pub fn new(chain: u64) -> Self {
        Self {
            chain,
            active: HashMap::new(),
            by_key: HashMap::new(),
            masks: BTreeMap::new(),
            updates: 0,
            blocks: VecDeque::new(),
        }
    }

    /// Adds a filter and returns its channel. Equal filters share one.
    ///
    /// # Errors
    /// The chain has its maximum of filters or of contracts.
    pub fn add(&mut self, filter: Filter) -> Result<ChannelName, EventTrackerError> {
        let channel = filter.channel(self.chain);
        if let Some(active) = self.active.get_mut(&channel) {
            active.followers = active.followers.saturating_add(1);
            return Ok(channel);
        }
        if self.active.len() >= MAX_FILTERS {
            return Err(EventTrackerError::TooManyFilters(self.active.len()));
        }
        let keys = keys(&filter);
        let named: usize = self.masks.values().sum();
        if named + keys.len() > MAX_KEYS {
            return Err(EventTrackerError::TooManyContracts(named, keys.len()));
        }
        for key in keys {
            self.by_key.entry(key).or_default().push(channel.clone());
            *self.masks.entry(key.mask()).or_default() += 1;
        }
        let active = ActiveFilter {
            filter,
            followers: 1,
            since: self.updates,
        };
        self.active.insert(channel.clone(), active);
        Ok(channel)
    }

    /// Removes a filter that was added. The last removal of equal filters ends the channel.
    pub fn remove(&mut self, channel: &ChannelName) {
        let Some(active) = self.active.get_mut(channel) else {
            return;
        };
        active.followers -= 1;
        if active.followers > 0 {
            return;
        }
        let Some(active) = self.active.remove(channel) else {
            return;
        };
        for key in keys(&active.filter) {
            if let Some(channels) = self.by_key.get_mut(&key) {
                channels.retain(|other| other != channel);
                if channels.is_empty() {
                    self.by_key.remove(&key);
                }
            }
            if let Some(count) = self.masks.get_mut(&key.mask()) {
                *count -= 1;
                if *count == 0 {
                    self.masks.remove(&key.mask());
                }
            }
        }
    }

    /// The number of filters in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether no filter is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Applies an update of the chain: retracts the logs of its retracted blocks, the last first,
    /// then matches the logs of its block.
    pub fn apply(&mut self, update: &ChainUpdate) -> Vec<ChannelEvent> {
        let mut events = Vec::new();
        for block in &update.retracted {
            let included_at = self.forget(block.block.hash);
            for log in block.logs.iter().rev() {
                self.log(block, log, Some(included_at), &mut events);
            }
        }
        let block = &update.included;
        self.updates += 1;
        self.blocks.push_back((block.block.hash, self.updates));
        if self.blocks.len() > MAX_BLOCKS {
            self.blocks.pop_front();
        }
        for log in &block.logs {
            self.log(block, log, None, &mut events);
        }
        events
    }

    /// Forgets a retracted block, and returns the number of its update. Every filter retracts
    /// the logs of a block that is no longer remembered.
    fn forget(&mut self, hash: B256) -> u64 {
        let index = self.blocks.iter().rposition(|(other, _)| *other == hash);
        let block = index.and_then(|index| self.blocks.remove(index));
        block.map_or(u64::MAX, |(_, update)| update)
    }

    /// Adds an event for each filter that matches a log. A retracted log goes only to filters
    /// that were in use when its block came, in update `retracted`.
    fn log(
        &self,
        block: &BlockData,
        log: &Log,
        retracted: Option<u64>,
        events: &mut Vec<ChannelEvent>,
    ) {
        // The node took the log from another branch than the block's.
        if log.removed {
            return;
        }
        for mask in self.masks.keys() {
            let Some(key) = FilterKey::of(log, *mask) else {
                continue;
            };
            for channel in self.by_key.get(&key).into_iter().flatten() {
                let Some(active) = self.active.get(channel) else {
                    continue;
                };
                if retracted.is_some_and(|included_at| included_at <= active.since) {
                    continue;
                }
                let event = self.event(block, log, &active.filter, retracted.is_some());
                events.push(ChannelEvent {
                    channel: channel.clone(),
                    event: Event::EventLog(event),
                });
            }
        }
    }

    fn event(&self, block: &BlockData, log: &Log, filter: &Filter, removed: bool) -> EventLog {
        let data = &log.data().data;
        let decoded = filter.abi.decode(log.topics(), data);
        let (event, args) = decoded.unzip();
        EventLog {
            chain: self.chain,
            address: format!("{:?}", log.address()),
            event: event.map(str::to_owned),
            args: args.map(Into::into),
            topics: log.topics().iter().map(ToString::to_string).collect(),
            data: data.to_string(),
            block_number: block.block.number,
            block_hash: block.block.hash.to_string(),
            tx_hash: log.transaction_hash.unwrap_or_default().to_string(),
            log_index: log.log_index.and_then(|n| n.try_into().ok()).unwrap_or(0),
            removed,
            sample: false,
        }
    }
}

/// The keys that a filter is indexed under: one for each contract.
fn keys(filter: &Filter) -> Vec<FilterKey> {
    let topics = filter.topics;
    let key = |address| FilterKey { address, topics };
    if filter.addresses.is_empty() {
        return vec![key(None)];
    }
    filter
        .addresses
        .iter()
        .map(|address| key(Some(*address)))
        .collect()
}

impl FilterKey {
    fn mask(&self) -> FieldMask {
        let topics = self.topics.iter().enumerate();
        let topics =
            topics.map(|(position, topic)| FieldMask::from(topic.is_some()) << (position + 1));
        topics.fold(FieldMask::from(self.address.is_some()), |bits, bit| {
            bits | bit
        })
    }

    /// The key of a log for a set of fields. `None` if the log has too few topics.
    fn of(log: &Log, mask: FieldMask) -> Option<Self> {
        let mut topics = [None; 4];
        for (position, topic) in topics.iter_mut().enumerate() {
            if mask & (1 << (position + 1)) != 0 {
                *topic = Some(*log.topics().get(position)?);
            }
        }
        Some(Self {
            address: (mask & 1 != 0).then(|| log.address()),
            topics,
        })
    }
}
