//! Retention map: followed items, retained for ten minutes after the last follower left.
//!
//! A client that reconnects within that time misses nothing. Each period of following has an
//! epoch of its own, in which its channel counts `seq`. A client that returns after the item
//! expired finds another epoch, and so learns that publications may be missing.
//!
//! An item counts in the share of the client that followed it first, until it is forgotten. If
//! it was idle, it counts for the client that follows it again. After a restart, items count for
//! nobody until they are followed again.
//!
//! The journal writes items to the store. A publication and the mark that its item has
//! published share a transaction.
//!
//! Example: a client subscribes to a wallet at minute 0 and leaves at minute 5. The sweep marks
//! the wallet idle since minute 5. A subscription at minute 14 continues in the same epoch; one
//! at minute 16 begins a new one.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidewire_stream::Epoch;

use super::idle::{IdleItem, excess_idle};
use crate::{
    shares::{ClientShares, Share, ShareError},
    transaction::RequestOwner,
};

/// How long an idle item is retained, in milliseconds: as long as channel histories.
pub(crate) const KEEP_MS: i64 = 10 * 60 * 1_000;

/// Items that a sweep checks before it yields, so that other tasks run.
const SWEEP_CHUNK: usize = 1_024;

/// Stands for `idle_since_ms` while the item has a follower, or is about to have one.
const IN_USE: i64 = i64::MAX;

/// All followed items of one kind.
#[derive(Debug)]
pub(crate) struct RetentionMap<K, V> {
    /// The kind, in the plural.
    kind: &'static str,
    shares: ClientShares,
    state: Mutex<State<K, V>>,
}

/// A value of an item, which counts in the share of a client.
pub(crate) trait Retained: Clone {
    /// The size of the item in that share.
    fn count(&self) -> u32 {
        1
    }
}

impl Retained for () {}

#[derive(Debug)]
struct State<K, V> {
    items: HashMap<K, Item<V>>,
    /// Keys whose stored item is out of date.
    dirty: HashSet<K>,
}

#[derive(Debug)]
struct Item<V> {
    epoch: u64,
    /// When a sweep first found it without a follower, or [`IN_USE`].
    idle_since_ms: i64,
    /// Whether something was published in this epoch.
    has_published: bool,
    /// The share that it counts in. None for items of back ends, and for restored ones.
    share: Option<Share>,
    value: V,
}

/// An item as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredItem<V> {
    epoch: String,
    #[serde(default, rename = "left", skip_serializing_if = "Option::is_none")]
    idle_since_ms: Option<i64>,
    #[serde(default, rename = "told")]
    has_published: bool,
    pub(crate) value: V,
}

/// The result of [`RetentionMap::insert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InsertOutcome {
    /// The item was added.
    New,
    /// The item was there already.
    Known,
}

/// Why an item is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RetentionLimit {
    /// The map has its maximum of items.
    #[error("{0} {1} are followed, which is the maximum")]
    Full(usize, &'static str),
    /// The client's share has no room.
    #[error("{0} {1} are followed for this client, which is its share")]
    OfClient(u32, &'static str),
    /// The connection's part of the share has no room.
    #[error("{0} {1} are followed for this connection, which is its share")]
    OfConnection(u32, &'static str),
}

impl RetentionLimit {
    fn of_share(error: ShareError, kind: &'static str) -> Self {
        match error {
            ShareError::Client(most) => Self::OfClient(most, kind),
            ShareError::Connection(most) => Self::OfConnection(most, kind),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Retained> RetentionMap<K, V> {
    /// A map for up to `max_items` items of a kind, such as "wallets".
    pub(crate) fn new(max_items: usize, kind: &'static str) -> Self {
        Self {
            kind,
            shares: ClientShares::new(max_items),
            state: Mutex::new(State {
                items: HashMap::new(),
                dirty: HashSet::new(),
            }),
        }
    }

    /// Adds `key` for a subscriber of `owner` that is about to follow it. Calls `on_new` under the
    /// lock if the key is new.
    ///
    /// # Errors
    /// The map has its maximum of items, or the item does not fit in the owner's share.
    pub(crate) fn insert(
        &self,
        key: K,
        value: V,
        owner: &RequestOwner,
        on_new: impl FnOnce(),
    ) -> Result<InsertOutcome, RetentionLimit> {
        let mut state = self.state.lock();
        let State { items, dirty } = &mut *state;
        if let Some(item) = items.get_mut(&key) {
            if self.follow_again(item, owner)? {
                dirty.insert(key);
            }
            return Ok(InsertOutcome::Known);
        }
        if items.len() >= self.shares.max() {
            return Err(RetentionLimit::Full(self.shares.max(), self.kind));
        }
        let item = Item {
            epoch: unused_epoch(),
            idle_since_ms: IN_USE,
            has_published: false,
            share: self.share(owner, value.count())?,
            value,
        };
        items.insert(key.clone(), item);
        dirty.insert(key);
        on_new();
        Ok(InsertOutcome::New)
    }

    /// Whether the map holds `key`.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.state.lock().items.contains_key(key)
    }

    /// The value of `key`, if the map holds it.
    pub(crate) fn value(&self, key: &K) -> Option<V> {
        let state = self.state.lock();
        state.items.get(key).map(|item| item.value.clone())
    }

    /// Marks `key` as about to be followed for `owner`. Returns false if the map does not hold it.
    ///
    /// # Errors
    /// The item was idle, and does not fit in the owner's share.
    pub(crate) fn touch(&self, key: &K, owner: &RequestOwner) -> Result<bool, RetentionLimit> {
        let mut state = self.state.lock();
        let Some(item) = state.items.get_mut(key) else {
            return Ok(false);
        };
        if self.follow_again(item, owner)? {
            state.dirty.insert(key.clone());
        }
        Ok(true)
    }

    /// Notes that `owner` is about to follow an item. Returns whether the store is out of date.
    fn follow_again(
        &self,
        item: &mut Item<V>,
        owner: &RequestOwner,
    ) -> Result<bool, RetentionLimit> {
        if item.idle_since_ms == IN_USE {
            return Ok(false);
        }
        let client = item.share.as_ref().map(Share::client);
        if client != owner.client.as_ref() {
            item.share = self.share(owner, item.value.count())?;
        }
        item.idle_since_ms = IN_USE;
        Ok(true)
    }

    fn share(&self, owner: &RequestOwner, count: u32) -> Result<Option<Share>, RetentionLimit> {
        let share = self.shares.acquire(owner, count);
        share.map_err(|error| RetentionLimit::of_share(error, self.kind))
    }

    /// Removes an item that could not be followed after all.
    pub(crate) fn remove(&self, key: &K) {
        let mut state = self.state.lock();
        state.items.remove(key);
        state.dirty.insert(key.clone());
    }

    /// The epoch of the item's channel, while the map holds the item.
    pub(crate) fn epoch(&self, key: &K) -> Option<Epoch> {
        let state = self.state.lock();
        state.items.get(key).map(|item| to_epoch(item.epoch))
    }

    /// Gives the item's channel a new epoch, because publications were lost.
    pub(crate) fn renew(&self, key: &K) {
        let mut state = self.state.lock();
        if let Some(item) = state.items.get_mut(key) {
            (item.epoch, item.has_published) = (unused_epoch(), false);
            state.dirty.insert(key.clone());
        }
    }

    /// Marks the item's channel as published on. Returns false if the map does not hold the
    /// item; then nothing may be published.
    pub(crate) fn mark_published(&self, key: &K) -> bool {
        let mut state = self.state.lock();
        let Some(item) = state.items.get_mut(key) else {
            return false;
        };
        if !std::mem::replace(&mut item.has_published, true) {
            state.dirty.insert(key.clone());
        }
        true
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<K> {
        self.state.lock().items.keys().cloned().collect()
    }

    /// All keys, each with its value.
    pub(crate) fn entries(&self) -> Vec<(K, V)> {
        let state = self.state.lock();
        let items = state.items.iter();
        items
            .map(|(key, item)| (key.clone(), item.value.clone()))
            .collect()
    }

    /// Updates which items are in use, and returns the keys to [`forget`](Self::forget): those
    /// idle for [`KEEP_MS`], and those [in excess](excess_idle) of `max_idle` idle ones.
    pub(crate) async fn sweep(
        &self,
        now_ms: i64,
        max_idle: usize,
        is_used: impl Fn(&K) -> bool,
    ) -> Vec<K> {
        let mut expired = Vec::new();
        let mut idle = Vec::new();
        // The lock is acquired per item and the task yields between chunks: the map may hold a
        // million items, and subscriptions wait for the lock.
        for (index, key) in self.keys().into_iter().enumerate() {
            if index % SWEEP_CHUNK == SWEEP_CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            let is_used = is_used(&key);
            let mut state = self.state.lock();
            let Some(item) = state.items.get_mut(&key) else {
                continue;
            };
            let mut add_idle = |since_ms, key| {
                let client = item.share.as_ref().map(|share| share.client().clone());
                idle.push(IdleItem {
                    since_ms,
                    client,
                    key,
                });
            };
            match (is_used, item.idle_since_ms) {
                (true, IN_USE) => {}
                (true, _) => {
                    item.idle_since_ms = IN_USE;
                    state.dirty.insert(key);
                }
                (false, IN_USE) => {
                    add_idle(now_ms, key.clone());
                    item.idle_since_ms = now_ms;
                    state.dirty.insert(key);
                }
                (false, since_ms) if now_ms - since_ms >= KEEP_MS => expired.push(key),
                (false, since_ms) => add_idle(since_ms, key),
            }
        }
        expired.extend(excess_idle(idle, max_idle));
        expired
    }

    /// Removes an item that is still idle, and calls `on_forget` to undo its insertion.
    /// Returns false if the item stays.
    pub(crate) fn forget(&self, key: &K, on_forget: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        let item = state.items.get(key);
        if item.is_none_or(|item| item.idle_since_ms == IN_USE) {
            return false;
        }
        state.items.remove(key);
        state.dirty.insert(key.clone());
        // Under the lock, so that a new follower's `on_new` runs after this.
        on_forget();
        true
    }

    /// Whether the store is out of date.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.state.lock().dirty.is_empty()
    }

    /// Takes up to `max_items` changes for the store: an item to write, or `None` to delete.
    pub(crate) fn take_dirty(&self, max_items: usize) -> Vec<(K, Option<StoredItem<V>>)> {
        let mut state = self.state.lock();
        let State { items, dirty } = &mut *state;
        let keys: Vec<_> = dirty.iter().take(max_items).cloned().collect();
        let changes = keys.into_iter().map(|key| {
            dirty.remove(&key);
            let stored = items.get(&key).map(|item| StoredItem {
                epoch: to_epoch(item.epoch).as_str().to_owned(),
                idle_since_ms: (item.idle_since_ms != IN_USE).then_some(item.idle_since_ms),
                has_published: item.has_published,
                value: item.value.clone(),
            });
            (key, stored)
        });
        changes.collect()
    }

    /// Adds an item from the store. It is idle until a client follows it.
    pub(crate) fn restore(&self, key: K, stored: StoredItem<V>, now_ms: i64) {
        let epoch = u64::from_str_radix(&stored.epoch, 16);
        let mut state = self.state.lock();
        let item = Item {
            epoch: epoch.unwrap_or_else(|_| unused_epoch()),
            idle_since_ms: stored.idle_since_ms.unwrap_or(now_ms).min(now_ms),
            has_published: stored.has_published,
            share: None,
            value: stored.value,
        };
        state.items.insert(key, item);
    }

    /// Gives a new epoch to each item that was published on but has no restored history.
    pub(crate) fn renew_lost(&self, is_restored: impl Fn(&K) -> bool) {
        let mut state = self.state.lock();
        let State { items, dirty } = &mut *state;
        for (key, item) in items {
            if item.has_published && !is_restored(key) {
                (item.epoch, item.has_published) = (unused_epoch(), false);
                dirty.insert(key.clone());
            }
        }
    }
}

fn unused_epoch() -> u64 {
    let text = Epoch::random();
    // A random epoch is a hexadecimal number, so the fallback is never used.
    u64::from_str_radix(text.as_str(), 16).unwrap_or_default()
}

fn to_epoch(epoch: u64) -> Epoch {
    Epoch::new(&format!("{epoch:012x}"))
}

#[cfg(test)]
mod tests;
