//! Filters in use, and the logs that they match.
//!
//! Filters are kept by what they fix: a filter of a contract and its first topic is found
//! under just these two, so that a log finds the filters that match it without looking at
//! one that does not. There are 32 sets of things that can be fixed (the address and four
//! topics); a log is looked up once for each set that is in use.

use std::collections::{BTreeMap, HashMap, VecDeque};

use alloy::{
    primitives::{Address, B256},
    rpc::types::Log,
};
use tidewire_proto::v1::EventLog;
use tidewire_stream::{ChannelName, ChannelNameError, Event};

use super::Filter;
use crate::{BlockData, ChainUpdate, publish::ChannelEvent};

/// How many filters a chain can have.
const MAX_FILTERS: usize = 100_000;
/// How many contracts all filters of a chain can name together; one that names none counts
/// for one.
const MAX_KEYS: usize = 1_000_000;
/// How many blocks are remembered, to tell what a filter has seen of them.
const REMEMBERED: usize = 1_024;

/// Why a filter cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventTrackerError {
    /// As many are in use as may be.
    #[error("{0} filters of events are in use on this chain, which is the most that may be")]
    TooMany(usize),
    /// They name as many contracts as they may.
    #[error("the filters of events on this chain name {0} contracts, {1} more would be too many")]
    TooManyContracts(usize, usize),
    /// The channel's name is refused.
    #[error(transparent)]
    Channel(#[from] ChannelNameError),
}

/// What a filter fixes, and so what a log must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FilterKey {
    address: Option<Address>,
    topics: [Option<B256>; 4],
}

/// A bit for the address and for each topic.
type FieldMask = u8;

#[derive(Debug)]
struct ActiveFilter {
    filter: Filter,
    interests: u32,
    /// Blocks that were included before this step were not told.
    since: u64,
}

/// All filters of a chain.
#[derive(Debug)]
pub struct EventTracker {
    chain: u64,
    active: HashMap<ChannelName, ActiveFilter>,
    by_key: HashMap<FilterKey, Vec<ChannelName>>,
    /// How many keys fix the same things.
    fixed: BTreeMap<FieldMask, usize>,
    /// Counts steps.
    steps: u64,
    /// When the newest blocks were included.
    included: VecDeque<(B256, u64)>,
}

impl EventTracker {
    /// A tracker of the chain with this id, without filters.
    #[must_use]
    pub fn new(chain: u64) -> Self {
        Self {
            chain,
            active: HashMap::new(),
            by_key: HashMap::new(),
            fixed: BTreeMap::new(),
            steps: 0,
            included: VecDeque::new(),
        }
    }

    /// Follows a filter and says on which channel. Equal filters share one.
    ///
    /// # Errors
    /// Too many are in use.
    pub fn add(&mut self, filter: Filter) -> Result<ChannelName, EventTrackerError> {
        let channel = filter.channel(self.chain)?;
        if let Some(active) = self.active.get_mut(&channel) {
            active.interests = active.interests.saturating_add(1);
            return Ok(channel);
        }
        if self.active.len() >= MAX_FILTERS {
            return Err(EventTrackerError::TooMany(self.active.len()));
        }
        let keys = keys(&filter);
        let named: usize = self.fixed.values().sum();
        if named + keys.len() > MAX_KEYS {
            return Err(EventTrackerError::TooManyContracts(named, keys.len()));
        }
        for key in keys {
            self.by_key.entry(key).or_default().push(channel.clone());
            *self.fixed.entry(key.fixed()).or_default() += 1;
        }
        let active = ActiveFilter {
            filter,
            interests: 1,
            since: self.steps,
        };
        self.active.insert(channel.clone(), active);
        Ok(channel)
    }

    /// Takes an interest in a channel back; the last one ends it.
    pub fn remove(&mut self, channel: &ChannelName) {
        let Some(active) = self.active.get_mut(channel) else {
            return;
        };
        active.interests -= 1;
        if active.interests > 0 {
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
            if let Some(count) = self.fixed.get_mut(&key.fixed()) {
                *count -= 1;
                if *count == 0 {
                    self.fixed.remove(&key.fixed());
                }
            }
        }
    }

    /// How many filters are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// One more block: first what a reorg took back, newest first, then what it brings.
    pub fn step(&mut self, step: &ChainUpdate) -> Vec<ChannelEvent> {
        let mut news = Vec::new();
        for block in &step.retracted {
            let included = self.forget(block.block.hash);
            for log in block.logs.iter().rev() {
                self.log(block, log, Some(included), &mut news);
            }
        }
        let block = &step.included;
        self.steps += 1;
        self.included.push_back((block.block.hash, self.steps));
        if self.included.len() > REMEMBERED {
            self.included.pop_front();
        }
        for log in &block.logs {
            self.log(block, log, None, &mut news);
        }
        news
    }

    /// When a block was included that now goes. What is not remembered was told to all.
    fn forget(&mut self, hash: B256) -> u64 {
        let place = self.included.iter().rposition(|(other, _)| *other == hash);
        let included = place.and_then(|place| self.included.remove(place));
        included.map_or(u64::MAX, |(_, step)| step)
    }

    /// Tells a log to the filters that it matches; to those that were told of its block,
    /// if it is taken back.
    fn log(
        &self,
        block: &BlockData,
        log: &Log,
        retracted: Option<u64>,
        news: &mut Vec<ChannelEvent>,
    ) {
        // A node that says `removed` speaks of another branch than the block's.
        if log.removed {
            return;
        }
        for fixed in self.fixed.keys() {
            let Some(key) = FilterKey::of(log, *fixed) else {
                continue;
            };
            for channel in self.by_key.get(&key).into_iter().flatten() {
                let Some(active) = self.active.get(channel) else {
                    continue;
                };
                if retracted.is_some_and(|included| included <= active.since) {
                    continue;
                }
                let event = self.event(block, log, &active.filter, retracted.is_some());
                news.push(ChannelEvent {
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
        }
    }
}

/// Under which keys a filter is found: one for each contract.
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
    fn fixed(&self) -> FieldMask {
        let topics = self.topics.iter().enumerate();
        let topics = topics.map(|(place, topic)| FieldMask::from(topic.is_some()) << (place + 1));
        topics.fold(FieldMask::from(self.address.is_some()), |bits, bit| {
            bits | bit
        })
    }

    /// What a log has of what is fixed; none if it has too few topics.
    fn of(log: &Log, fixed: FieldMask) -> Option<Self> {
        let mut topics = [None; 4];
        for (place, topic) in topics.iter_mut().enumerate() {
            if fixed & (1 << (place + 1)) != 0 {
                *topic = Some(*log.topics().get(place)?);
            }
        }
        Some(Self {
            address: (fixed & 1 != 0).then(|| log.address()),
            topics,
        })
    }
}
