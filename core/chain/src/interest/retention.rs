//! Retention map: followed items, retained for ten minutes after the last follower left.
//!
//! A client that reconnects within that time misses nothing. Each period of following has an
//! epoch of its own, in which its channel counts `seq`. A client that returns after the item
//! expired finds another epoch, and so learns that publications may be missing.
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

/// How long an idle item is retained, in milliseconds: as long as channel histories.
pub(crate) const KEEP_MS: i64 = 10 * 60 * 1_000;

/// Items that a sweep checks before it yields, so that other tasks run.
const SWEEP_CHUNK: usize = 1_024;

/// Stands for `idle_since_ms` while the item has a follower, or is about to have one.
const IN_USE: i64 = i64::MAX;

/// All followed items of one kind.
#[derive(Debug)]
pub(crate) struct RetentionMap<K, V>(Mutex<State<K, V>>);

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
    /// The map has its maximum of items.
    Full,
}

impl<K, V> Default for RetentionMap<K, V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            items: HashMap::new(),
            dirty: HashSet::new(),
        }))
    }
}

impl<K: Clone + Eq + Hash, V: Clone> RetentionMap<K, V> {
    /// Adds `key` for a subscriber that is about to follow it, unless there are `max_items`. Calls
    /// `on_new` under the lock if the key is new.
    pub(crate) fn insert(
        &self,
        key: K,
        value: V,
        max_items: usize,
        on_new: impl FnOnce(),
    ) -> InsertOutcome {
        let mut state = self.0.lock();
        let State { items, dirty } = &mut *state;
        if let Some(item) = items.get_mut(&key) {
            if std::mem::replace(&mut item.idle_since_ms, IN_USE) != IN_USE {
                dirty.insert(key);
            }
            return InsertOutcome::Known;
        }
        if items.len() >= max_items {
            return InsertOutcome::Full;
        }
        let item = Item {
            epoch: unused_epoch(),
            idle_since_ms: IN_USE,
            has_published: false,
            value,
        };
        items.insert(key.clone(), item);
        dirty.insert(key);
        on_new();
        InsertOutcome::New
    }

    /// Whether the map holds `key`.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.lock().items.contains_key(key)
    }

    /// Marks `key` as about to be followed. Returns false if the map does not hold it.
    pub(crate) fn touch(&self, key: &K) -> bool {
        let mut state = self.0.lock();
        let Some(item) = state.items.get_mut(key) else {
            return false;
        };
        if std::mem::replace(&mut item.idle_since_ms, IN_USE) != IN_USE {
            state.dirty.insert(key.clone());
        }
        true
    }

    /// Removes an item that could not be followed after all.
    pub(crate) fn remove(&self, key: &K) {
        let mut state = self.0.lock();
        state.items.remove(key);
        state.dirty.insert(key.clone());
    }

    /// The epoch of the item's channel, while the map holds the item.
    pub(crate) fn epoch(&self, key: &K) -> Option<Epoch> {
        let state = self.0.lock();
        state.items.get(key).map(|item| to_epoch(item.epoch))
    }

    /// Gives the item's channel a new epoch, because publications were lost.
    pub(crate) fn renew(&self, key: &K) {
        let mut state = self.0.lock();
        if let Some(item) = state.items.get_mut(key) {
            (item.epoch, item.has_published) = (unused_epoch(), false);
            state.dirty.insert(key.clone());
        }
    }

    /// Marks the item's channel as published on. Returns false if the map does not hold the
    /// item; then nothing may be published.
    pub(crate) fn mark_published(&self, key: &K) -> bool {
        let mut state = self.0.lock();
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
        self.0.lock().items.keys().cloned().collect()
    }

    /// All keys, each with its value.
    pub(crate) fn entries(&self) -> Vec<(K, V)> {
        let state = self.0.lock();
        let items = state.items.iter();
        items
            .map(|(key, item)| (key.clone(), item.value.clone()))
            .collect()
    }

    /// Updates which items are in use, and returns the keys to [`forget`](Self::forget): those
    /// idle for [`KEEP_MS`], and of more than `max_idle` idle ones those idle longest.
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
            let mut state = self.0.lock();
            let Some(item) = state.items.get_mut(&key) else {
                continue;
            };
            match (is_used, item.idle_since_ms) {
                (true, IN_USE) => {}
                (true, _) => {
                    item.idle_since_ms = IN_USE;
                    state.dirty.insert(key);
                }
                (false, IN_USE) => {
                    item.idle_since_ms = now_ms;
                    idle.push((now_ms, key.clone()));
                    state.dirty.insert(key);
                }
                (false, since_ms) if now_ms - since_ms >= KEEP_MS => expired.push(key),
                (false, since_ms) => idle.push((since_ms, key)),
            }
        }
        if idle.len() > max_idle {
            idle.sort_unstable_by_key(|(since_ms, _)| *since_ms);
            let count = idle.len() - max_idle;
            expired.extend(idle.into_iter().take(count).map(|(_, key)| key));
        }
        expired
    }

    /// Removes an item that is still idle, and calls `on_forget` to undo its insertion.
    /// Returns false if the item stays.
    pub(crate) fn forget(&self, key: &K, on_forget: impl FnOnce()) -> bool {
        let mut state = self.0.lock();
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
        !self.0.lock().dirty.is_empty()
    }

    /// Takes up to `max_items` changes for the store: an item to write, or `None` to delete.
    pub(crate) fn take_dirty(&self, max_items: usize) -> Vec<(K, Option<StoredItem<V>>)> {
        let mut state = self.0.lock();
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
        let mut state = self.0.lock();
        let item = Item {
            epoch: epoch.unwrap_or_else(|_| unused_epoch()),
            idle_since_ms: stored.idle_since_ms.unwrap_or(now_ms).min(now_ms),
            has_published: stored.has_published,
            value: stored.value,
        };
        state.items.insert(key, item);
    }

    /// Gives a new epoch to each item that was published on but has no restored history.
    pub(crate) fn renew_lost(&self, is_restored: impl Fn(&K) -> bool) {
        let mut state = self.0.lock();
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
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn map() -> RetentionMap<u8, ()> {
        let map = RetentionMap::default();
        assert_eq!(map.insert(1, (), 2, || {}), InsertOutcome::New);
        map
    }

    fn swept(map: &RetentionMap<u8, ()>, now_ms: i64, is_used: bool) -> Vec<u8> {
        let used: fn(&u8) -> bool = if is_used { |_| true } else { |_| false };
        sweep(map, now_ms, 10, used)
    }

    /// A sweep of fewer items than a chunk never yields.
    fn sweep(
        map: &RetentionMap<u8, ()>,
        now_ms: i64,
        most: usize,
        is_used: fn(&u8) -> bool,
    ) -> Vec<u8> {
        map.sweep(now_ms, most, is_used).now_or_never().unwrap()
    }

    #[test]
    fn an_item_is_forgotten_ten_minutes_after_the_last_follower() {
        let map = map();
        let epoch = map.epoch(&1);
        assert!(swept(&map, 0, true).is_empty());
        assert!(!map.forget(&1, || unreachable!("it is in use")));
        assert!(swept(&map, 5, false).is_empty());
        assert!(swept(&map, 4 + KEEP_MS, false).is_empty());
        // A follower returns in time.
        assert_eq!(
            map.insert(1, (), 2, || unreachable!()),
            InsertOutcome::Known
        );
        assert!(swept(&map, 5 + KEEP_MS, false).is_empty());
        assert_eq!(swept(&map, 5 + 2 * KEEP_MS, false), [1]);
        // A follower returns between the sweep and `forget`.
        assert!(map.touch(&1));
        assert!(!map.forget(&1, || unreachable!("it is in use")));
        assert_eq!(map.epoch(&1), epoch);
        assert!(swept(&map, 6 + 2 * KEEP_MS, false).is_empty());
        assert!(map.forget(&1, || {}));
        assert_eq!((map.epoch(&1), map.touch(&1)), (None, false));
        // A new period has a new epoch.
        assert_eq!(map.insert(1, (), 2, || {}), InsertOutcome::New);
        assert_ne!(map.epoch(&1), epoch);
    }

    #[test]
    fn changes_for_the_store_are_taken_in_chunks() {
        let map = RetentionMap::<u8, ()>::default();
        for key in 0..5 {
            map.insert(key, (), 5, || {});
        }
        assert_eq!(map.take_dirty(3).len(), 3);
        assert_eq!(map.take_dirty(usize::MAX).len(), 2);
        assert!(!map.is_dirty());
    }

    #[test]
    fn items_and_idle_items_are_bounded() {
        let map = map();
        assert_eq!(map.insert(2, (), 2, || {}), InsertOutcome::New);
        assert_eq!(map.insert(3, (), 2, || unreachable!()), InsertOutcome::Full);
        // Of the idle items the one idle longest expires.
        sweep(&map, 1, 1, |key| *key == 2);
        assert_eq!(sweep(&map, 2, 1, |_| false), [1]);
    }

    #[test]
    fn a_restored_item_keeps_its_epoch_unless_its_history_is_lost() {
        let map = map();
        map.mark_published(&1);
        let stored = map.take_dirty(usize::MAX);
        assert!(!map.is_dirty());
        let (_, stored_item) = stored.into_iter().next().unwrap();
        let text = serde_json::to_string(&stored_item.unwrap()).unwrap();
        let again = RetentionMap::<u8, ()>::default();
        again.restore(1, serde_json::from_str(&text).unwrap(), 7);
        assert_eq!(again.epoch(&1), map.epoch(&1));
        // With its history the epoch stays, without it begins a new one.
        again.renew_lost(|_| true);
        assert!(!again.is_dirty());
        again.renew_lost(|_| false);
        assert_ne!(again.epoch(&1), map.epoch(&1));
        again.restore(2, again.take_dirty(usize::MAX).remove(0).1.unwrap(), 7);
        let before = again.epoch(&2);
        again.renew_lost(|_| false);
        assert_eq!(
            again.epoch(&2),
            before,
            "nothing was published in its epoch"
        );
        assert_eq!(swept(&again, 7 + KEEP_MS, false).len(), 2);
        assert!(again.forget(&1, || {}));
        assert_eq!(again.take_dirty(usize::MAX), [(1, None)]);
    }
}
