//! What is followed beyond a connection: wallets and filters of events, by their channels.
//! The journal asks here whether and under which epoch something is published, and stores
//! what changed along with it.

use std::collections::{HashMap, HashSet};

use alloy::primitives::{Address, B256};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tidewire_proto::v1::EventFilter;
use tidewire_store::{Batch, Store, StoreError, Table};
use tidewire_stream::{ChannelName, Epoch, UserId};

use super::{RetentionMap, StoredItem, WalletInterest};
use crate::publish::{transaction_channel, wallet_channel};

const WALLETS: Table = Table("chain.wallets");
const LINKS: Table = Table("chain.links");
const FILTERS: Table = Table("chain.filters");

/// How many filters may be kept without a follower.
const IDLE_FILTERS: usize = 10_000;

/// How many transactions may be kept without a follower.
const IDLE_TRANSACTIONS: usize = 10_000;

/// So many of a kind are written to the store together, so that no block waits for a
/// million wallets.
const TOGETHER: usize = 1_000;

/// How much is read from the store at once.
const PAGE: usize = 1_000;

/// Begins a key of the links: the wallet, then the user.
const ADDRESS: usize = 20;

/// What is followed beyond a connection.
#[derive(Debug, Default)]
pub(crate) struct InterestRegistry {
    pub(crate) wallets: WalletInterest,
    pub(crate) filters: RetentionMap<ChannelName, FilterSpec>,
    /// Transactions by chain. Their states say all, so none is missed for good: who comes
    /// back after they were forgotten has them told anew, and they are not stored.
    pub(crate) transactions: RetentionMap<(u64, B256), ()>,
    /// Filters that were forgotten, until their chain's desk hears of it.
    gone: Mutex<HashMap<u64, Vec<ChannelName>>>,
}

/// A filter as a client has given it.
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

impl From<FilterSpec> for EventFilter {
    fn from(kept: FilterSpec) -> Self {
        Self {
            addresses: kept.addresses,
            topics: kept.topics,
            abi: kept.abi,
        }
    }
}

/// What a channel tells of, as far as it matters here.
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
    /// Nothing yet but the chains' wallets.
    pub(crate) fn new(wallets: WalletInterest) -> Self {
        Self {
            wallets,
            ..Self::default()
        }
    }

    /// Whether the epoch of a channel is decided here.
    pub(crate) fn knows(channel: &ChannelName) -> bool {
        !matches!(subject(channel), Subject::Other)
    }

    /// The epoch of a channel, while what it tells of is followed.
    pub(crate) fn epoch(&self, channel: &ChannelName) -> Option<Epoch> {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.retained.epoch(&address),
            Subject::Events(channel) => self.filters.epoch(channel),
            Subject::Other => None,
        }
    }

    /// Notes that something is published. False if it must not be: nobody follows it, and
    /// whoever comes is told so by another epoch.
    pub(crate) fn told(&self, channel: &ChannelName) -> bool {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.retained.told(&address),
            Subject::Events(channel) => self.filters.told(channel),
            Subject::Other => true,
        }
    }

    /// Gives a channel another epoch.
    pub(crate) fn renew(&self, channel: &ChannelName) {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.retained.renew(&address),
            Subject::Events(channel) => self.filters.renew(channel),
            Subject::Other => {}
        }
    }

    /// Forgets what a channel tells of, unless somebody came for it.
    pub(crate) fn forget(&self, channel: &ChannelName) -> bool {
        match subject(channel) {
            Subject::Wallet(address) => self.wallets.forget(&address),
            Subject::Events(channel) => self.filters.forget(channel, || {
                let chain = channel.rest().split(':').next();
                if let Some(chain) = chain.and_then(|id| id.parse().ok()) {
                    self.gone
                        .lock()
                        .entry(chain)
                        .or_default()
                        .push(channel.clone());
                }
            }),
            Subject::Other => false,
        }
    }

    /// The channels whose followers lost something when a chain began anew.
    pub(crate) fn channels(&self, chain: u64) -> Vec<ChannelName> {
        let wallets = self.wallets.retained.keys().into_iter();
        let mut channels: Vec<_> = wallets
            .filter_map(|address| wallet_channel(&address).ok())
            .collect();
        let filters = self.filters.values().into_iter();
        channels.extend(
            filters
                .filter(|(_, filter)| filter.chain == chain)
                .map(|(channel, _)| channel),
        );
        channels
    }

    /// The filters of a chain.
    pub(crate) fn filters_of(&self, chain: u64) -> Vec<EventFilter> {
        let filters = self.filters.values().into_iter();
        let own = filters.filter(|(_, filter)| filter.chain == chain);
        own.map(|(_, filter)| filter.into()).collect()
    }

    /// Takes the filters of a chain that were forgotten.
    pub(crate) fn take_gone(&self, chain: u64) -> Vec<ChannelName> {
        self.gone.lock().remove(&chain).unwrap_or_default()
    }

    /// Looks at everything, and gives what is to be forgotten.
    pub(crate) async fn sweep(
        &self,
        now_ms: i64,
        is_followed: impl Fn(&ChannelName) -> bool,
    ) -> Vec<ChannelName> {
        let channel = |address: &Address| wallet_channel(address).ok();
        let is_used =
            |address: &Address| channel(address).is_some_and(|channel| is_followed(&channel));
        let old = self.wallets.sweep(now_ms, is_used).await;
        let mut old: Vec<_> = old.iter().filter_map(channel).collect();
        old.extend(self.filters.sweep(now_ms, IDLE_FILTERS, &is_followed).await);
        old
    }

    /// Looks at the transactions, and gives those that nobody has followed for a while.
    pub(crate) async fn sweep_transactions(
        &self,
        now_ms: i64,
        is_followed: impl Fn(&ChannelName) -> bool,
    ) -> Vec<(u64, B256)> {
        let is_used = |(chain, hash): &(u64, B256)| {
            transaction_channel(*chain, hash).is_ok_and(|channel| is_followed(&channel))
        };
        let swept = self.transactions.sweep(now_ms, IDLE_TRANSACTIONS, is_used);
        let old = swept.await;
        old.into_iter()
            .filter(|key| self.transactions.forget(key, || {}))
            .collect()
    }

    /// Whether the store has to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        let is_dirty = self.wallets.retained.is_dirty() || self.wallets.links.is_dirty();
        is_dirty || self.filters.is_dirty() || self.transactions.is_dirty()
    }

    /// Adds what the store is to have: a part of it, or all of it where channels begin anew.
    /// Their old epochs must not come back after a restart, as if nothing had been lost.
    pub(crate) fn keep(&self, writes: &mut Batch, has_renewed: bool) {
        let most = if has_renewed { usize::MAX } else { TOGETHER };
        self.transactions.take_dirty(usize::MAX);
        for ((address, user), is_there) in self.wallets.links.take_dirty() {
            let key = [address.as_slice(), user.as_str().as_bytes()].concat();
            match is_there {
                true => writes.put(LINKS, key, Vec::new()),
                false => writes.delete(LINKS, key),
            }
        }
        for (address, record) in self.wallets.retained.take_dirty(most) {
            put(writes, WALLETS, address.as_slice(), record.as_ref());
        }
        for (channel, record) in self.filters.take_dirty(most) {
            let key = channel.as_str().as_bytes();
            put(writes, FILTERS, key, record.as_ref());
        }
    }

    /// Takes back what was stored.
    pub(crate) async fn restore(&self, store: &dyn Store, now_ms: i64) -> Result<(), StoreError> {
        for (key, _) in all(store, LINKS).await? {
            let Some((address, user)) = key.split_at_checked(ADDRESS) else {
                continue;
            };
            match std::str::from_utf8(user) {
                Ok(user) => {
                    let address = Address::from_slice(address);
                    self.wallets.links.restore(address, &UserId::new(user));
                }
                Err(_) => tracing::warn!(?key, "a link in the store cannot be read"),
            }
        }
        for (key, value) in all(store, WALLETS).await? {
            let address = Address::try_from(key.as_slice()).ok();
            if let Some((address, record)) = address.zip(parsed(&value)) {
                self.wallets.retained.restore(address, record, now_ms);
            }
        }
        for (key, value) in all(store, FILTERS).await? {
            let channel = std::str::from_utf8(&key).ok();
            let channel = channel.and_then(|name| ChannelName::parse(name).ok());
            if let Some((channel, record)) = channel.zip(parsed(&value)) {
                self.filters.restore(channel, record, now_ms);
            }
        }
        self.wallets.watch_all();
        // Tied just before the end, perhaps.
        self.wallets.follow_linked();
        Ok(())
    }

    /// Gives those channels another epoch that something was published on of which the
    /// store keeps nothing any more.
    pub(crate) fn renew_lost(&self, restored: &HashSet<ChannelName>) {
        self.wallets.retained.renew_lost(|address| {
            wallet_channel(address).is_ok_and(|channel| restored.contains(&channel))
        });
        self.filters
            .renew_lost(|channel| restored.contains(channel));
    }
}

fn put<V: Serialize>(writes: &mut Batch, table: Table, key: &[u8], record: Option<&StoredItem<V>>) {
    match record.and_then(|record| serde_json::to_vec(record).ok()) {
        Some(value) => writes.put(table, key, value),
        None => writes.delete(table, key),
    }
}

fn parsed<V: DeserializeOwned>(value: &[u8]) -> Option<StoredItem<V>> {
    let record = serde_json::from_slice(value);
    record
        .inspect_err(
            |error| tracing::warn!(%error, "what is followed cannot be read from the store"),
        )
        .ok()
}

async fn all(store: &dyn Store, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(table, Vec::new(), after, PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        found.extend(page);
        if is_last {
            return Ok(found);
        }
    }
}
