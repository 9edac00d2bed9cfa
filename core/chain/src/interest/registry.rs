//! Registry: all followed wallets, event filters and transactions, by channel.
//!
//! The journal reads from the registry the epoch of a channel, and whether the channel may
//! publish at all. The journal also writes changes of the registry, in the transaction of the
//! publications that they belong to.

use std::collections::{HashMap, HashSet};

use alloy::primitives::{Address, B256};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidewire_proto::v1::EventFilter;
use tidewire_store::{Batch, Store, StoreError, Table};
use tidewire_stream::{ChannelName, Epoch, UserId};

use super::{Retained, RetentionMap, StoredItem, WalletInterest};
use crate::channel::{transaction_channel, wallet_channel};

const WALLETS: Table = Table("chain.wallets");
const LINKS: Table = Table("chain.links");
const FILTERS: Table = Table("chain.filters");

/// Event filters in use at most, on all chains together.
const MAX_FILTERS: usize = 100_000;

/// Transactions that are followed at most, on all chains together.
const MAX_TRANSACTIONS: usize = 100_000;

/// Contracts that a filter names and that count as one filter: the chain has room for ten times as
/// many contracts as filters.
const CONTRACTS_PER_COUNT: usize = 10;

/// Idle filters in memory at most.
const MAX_IDLE_FILTERS: usize = 10_000;

/// Idle transactions in memory at most.
const MAX_IDLE_TRANSACTIONS: usize = 10_000;

/// Items of one kind in a write to the store, so that no block waits for a million wallets.
const WRITE_CHUNK: usize = 1_000;

/// Rows in one read of the store.
const PAGE: usize = 1_000;

/// Bytes of an address. A key of [`LINKS`] is an address and a user id.
const ADDRESS_BYTES: usize = 20;

/// Everything that is followed beyond a connection.
#[derive(Debug)]
pub(crate) struct InterestRegistry {
    pub(crate) wallets: WalletInterest,
    pub(crate) filters: RetentionMap<ChannelName, FilterSpec>,
    /// Transactions by chain and hash. They are not stored: one status is complete, so a client
    /// that returns after one expired misses nothing for good.
    pub(crate) transactions: RetentionMap<(u64, B256), ()>,
    /// Filters that expired, by chain, until its processor takes them.
    expired_filters: Mutex<HashMap<u64, Vec<ChannelName>>>,
}

/// An event filter as a client wrote it, with its chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterSpec {
    chain: u64,
    addresses: Vec<String>,
    topics: Vec<String>,
    abi: Vec<String>,
}

impl FilterSpec {
    pub(crate) fn new(chain: u64, filter: EventFilter) -> Self {
        let EventFilter {
            addresses,
            topics,
            abi,
        } = filter;
        Self {
            chain,
            addresses,
            topics,
            abi,
        }
    }
}

impl Retained for FilterSpec {
    fn count(&self) -> u32 {
        let count = self.addresses.len().div_ceil(CONTRACTS_PER_COUNT);
        u32::try_from(count.max(1)).unwrap_or(u32::MAX)
    }
}

impl From<FilterSpec> for EventFilter {
    fn from(spec: FilterSpec) -> Self {
        Self {
            addresses: spec.addresses,
            topics: spec.topics,
            abi: spec.abi,
        }
    }
}

/// Subject of a channel: a wallet, an event filter, or nothing that the registry holds.
enum Subject<'a> {
    Wallet(Address),
    Events(&'a ChannelName),
    Other,
}

fn subject(channel: &ChannelName) -> Subject<'_> {
    match channel.namespace() {
        "wallet" => match channel.rest().parse() {
            Ok(address) => Subject::Wallet(address),
            Err(_) => Subject::Other,
        },
        "events" => Subject::Events(channel),
        _ => Subject::Other,
    }
}

impl InterestRegistry {
    /// A registry with the wallet lookups of all chains, in which nothing is followed.
    pub(crate) fn new(wallets: WalletInterest) -> Self {
        Self {
            wallets,
            filters: RetentionMap::new(MAX_FILTERS, "event filters"),
            transactions: RetentionMap::new(MAX_TRANSACTIONS, "transactions"),
            expired_filters: Mutex::default(),
        }
    }

    /// Whether the registry decides the epoch of a channel.
    pub(crate) fn manages(channel: &ChannelName) -> bool {
        !matches!(subject(channel), Subject::Other)
    }

    /// The epoch of a channel, while its wallet or filter is retained.
    pub(crate) fn epoch(&self, channel: &ChannelName) -> Option<Epoch> {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.retained.epoch(&address),
            Subject::Events(channel) => self.filters.epoch(channel),
            Subject::Other => None,
        }
    }

    /// Marks a channel as published on. Returns false if it has no followers: then nothing may
    /// be published, and the next subscriber finds another epoch.
    pub(crate) fn mark_published(&self, channel: &ChannelName) -> bool {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.retained.mark_published(&address),
            Subject::Events(channel) => self.filters.mark_published(channel),
            Subject::Other => true,
        }
    }

    /// Gives a channel a new epoch.
    pub(crate) fn renew(&self, channel: &ChannelName) {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.retained.renew(&address),
            Subject::Events(channel) => self.filters.renew(channel),
            Subject::Other => {}
        }
    }

    /// Forgets the wallet or filter of a channel. Returns false if it has followers again.
    pub(crate) fn forget(&self, channel: &ChannelName) -> bool {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.forget(&address),
            Subject::Events(channel) => self.filters.forget(channel, || {
                let chain = channel.rest().split(':').next();
                if let Some(chain) = chain.and_then(|id| id.parse().ok()) {
                    self.expired_filters
                        .lock()
                        .entry(chain)
                        .or_default()
                        .push(channel.clone());
                }
            }),
            Subject::Other => false,
        }
    }

    /// The channels that lost publications when a chain resynchronised: of all wallets, and of
    /// the chain's filters.
    pub(crate) fn channels(&self, chain: u64) -> Vec<ChannelName> {
        let wallets = self.wallets.retained.keys().into_iter();
        let mut channels: Vec<_> = wallets.map(|address| wallet_channel(&address)).collect();
        channels.extend(self.event_channels(chain));
        channels
    }

    /// The channels of a chain's filters.
    pub(crate) fn event_channels(&self, chain: u64) -> Vec<ChannelName> {
        let filters = self.filters.entries().into_iter();
        let own = filters.filter(|(_, filter)| filter.chain == chain);
        own.map(|(channel, _)| channel).collect()
    }

    /// The filters of a chain.
    pub(crate) fn filters_of(&self, chain: u64) -> Vec<EventFilter> {
        let filters = self.filters.entries().into_iter();
        let own = filters.filter(|(_, filter)| filter.chain == chain);
        own.map(|(_, filter)| filter.into()).collect()
    }

    /// Takes the filters of a chain that expired since the last call.
    pub(crate) fn take_expired_filters(&self, chain: u64) -> Vec<ChannelName> {
        self.expired_filters
            .lock()
            .remove(&chain)
            .unwrap_or_default()
    }

    /// Checks all wallets and filters, and returns the channels to forget.
    pub(crate) async fn sweep(
        &self,
        now_ms: i64,
        has_subscriber: impl Fn(&ChannelName) -> bool,
    ) -> Vec<ChannelName> {
        let is_used = |address: &Address| has_subscriber(&wallet_channel(address));
        let wallets = self.wallets.sweep(now_ms, is_used).await;
        let mut expired: Vec<_> = wallets.iter().map(wallet_channel).collect();
        let filters = self
            .filters
            .sweep(now_ms, MAX_IDLE_FILTERS, &has_subscriber);
        expired.extend(filters.await);
        expired
    }

    /// Forgets the transactions that expired, and returns their chains and hashes.
    pub(crate) async fn expire_transactions(
        &self,
        now_ms: i64,
        has_subscriber: impl Fn(&ChannelName) -> bool,
    ) -> Vec<(u64, B256)> {
        let is_used =
            |(chain, hash): &(u64, B256)| has_subscriber(&transaction_channel(*chain, hash));
        let swept = self
            .transactions
            .sweep(now_ms, MAX_IDLE_TRANSACTIONS, is_used);
        let expired = swept.await;
        expired
            .into_iter()
            .filter(|key| self.transactions.forget(key, || {}))
            .collect()
    }

    /// Whether the store is out of date.
    pub(crate) fn is_dirty(&self) -> bool {
        let is_dirty = self.wallets.retained.is_dirty() || self.wallets.links.is_dirty();
        is_dirty || self.filters.is_dirty() || self.transactions.is_dirty()
    }

    /// Adds a chunk of the changes to a write of the store.
    ///
    /// With `has_renewed` all changes are added: an old epoch that came back after a restart
    /// would hide a gap.
    pub(crate) fn stage(&self, writes: &mut Batch, has_renewed: bool) {
        let max_items = if has_renewed { usize::MAX } else { WRITE_CHUNK };
        self.transactions.take_dirty(usize::MAX);
        for ((address, user), is_linked) in self.wallets.links.take_dirty() {
            let key = [address.as_slice(), user.as_str().as_bytes()].concat();
            match is_linked {
                true => writes.put(LINKS, key, Vec::new()),
                false => writes.delete(LINKS, key),
            }
        }
        for (address, item) in self.wallets.retained.take_dirty(max_items) {
            put(writes, WALLETS, address.as_slice(), item.as_ref());
        }
        for (channel, item) in self.filters.take_dirty(max_items) {
            put(writes, FILTERS, channel.as_str().as_bytes(), item.as_ref());
        }
    }

    /// Reads the stored interest back.
    pub(crate) async fn restore(&self, store: &dyn Store, now_ms: i64) -> Result<(), StoreError> {
        for (key, _) in scan_all(store, LINKS).await? {
            let Some((address, user)) = key.split_at_checked(ADDRESS_BYTES) else {
                continue;
            };
            match std::str::from_utf8(user) {
                Ok(user) => {
                    let address = Address::from_slice(address);
                    self.wallets.links.restore(address, &UserId::new(user));
                }
                Err(_) => tracing::warn!(?key, "a stored wallet link is unreadable"),
            }
        }
        for (key, value) in scan_all(store, WALLETS).await? {
            let address = Address::try_from(key.as_slice()).ok();
            if let Some((address, item)) = address.zip(parse_item(&value)) {
                self.wallets.retained.restore(address, item, now_ms);
            }
        }
        for (key, value) in scan_all(store, FILTERS).await? {
            let channel = std::str::from_utf8(&key).ok();
            let channel = channel.and_then(|name| ChannelName::parse(name).ok());
            if let Some((channel, item)) = channel.zip(parse_item(&value)) {
                self.filters.restore(channel, item, now_ms);
            }
        }
        self.wallets.watch_all();
        // The server may have stopped between the write of a link and that of its wallet.
        self.wallets.follow_linked();
        Ok(())
    }

    /// Gives a new epoch to each channel that was published on but whose history the store no
    /// longer has.
    pub(crate) fn renew_lost(&self, restored: &HashSet<ChannelName>) {
        self.wallets
            .retained
            .renew_lost(|address| restored.contains(&wallet_channel(address)));
        self.filters
            .renew_lost(|channel| restored.contains(channel));
    }
}

fn put<V: Serialize>(writes: &mut Batch, table: Table, key: &[u8], item: Option<&StoredItem<V>>) {
    match item.and_then(|item| serde_json::to_vec(item).ok()) {
        Some(value) => writes.put(table, key, value),
        None => writes.delete(table, key),
    }
}

fn parse_item<V: DeserializeOwned>(value: &[u8]) -> Option<StoredItem<V>> {
    let item = serde_json::from_slice(value);
    item.inspect_err(|error| tracing::warn!(%error, "a stored wallet or filter is unreadable"))
        .ok()
}

async fn scan_all(store: &dyn Store, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(table, Vec::new(), after, PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        rows.extend(page);
        if is_last {
            return Ok(rows);
        }
    }
}
