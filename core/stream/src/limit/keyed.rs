//! Keyed buckets: the token buckets of many clients, bounded in number.
//!
//! A client whose buckets are full is removed, since new buckets are full too. Beyond the bound
//! the clients share one entry, so that made-up keys cannot fill the memory.

use std::{collections::HashMap, hash::Hash};

/// Clients with an entry of their own.
pub(super) const MAX_KEYS: usize = 100_000;

/// Below this number of entries a sweep is not worth its time.
const MIN_SWEEP: usize = 1_024;

/// Milliseconds between sweeps while [`MAX_KEYS`] are tracked, so that a flood of keys does not
/// cause a sweep per request.
const SWEEP_MS: i64 = 1_000;

/// The buckets of one client.
pub(super) trait Entry: Default {
    /// Whether they are full, and so equal new ones.
    fn is_full(&self, now_ms: i64) -> bool;
}

/// The buckets of each client.
#[derive(Debug)]
pub(super) struct KeyedBuckets<K, E> {
    by_key: HashMap<K, E>,
    /// Shared by the clients beyond [`MAX_KEYS`].
    overflow: E,
    sweep_at: usize,
    swept_ms: i64,
}

impl<K, E: Default> Default for KeyedBuckets<K, E> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            overflow: E::default(),
            sweep_at: 0,
            swept_ms: 0,
        }
    }
}

impl<K: Eq + Hash, E: Entry> KeyedBuckets<K, E> {
    /// The buckets of a client.
    pub(super) fn of(&mut self, key: K, now_ms: i64) -> &mut E {
        self.sweep(now_ms);
        if self.by_key.len() >= MAX_KEYS && !self.by_key.contains_key(&key) {
            return &mut self.overflow;
        }
        self.by_key.entry(key).or_default()
    }

    /// The number of clients with an entry of their own.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Removes full buckets whenever their number has doubled, so that each new client pays for
    /// the sweep of two. At [`MAX_KEYS`] it sweeps once per second.
    fn sweep(&mut self, now_ms: i64) {
        if self.by_key.len() < self.sweep_at.max(MIN_SWEEP) {
            return;
        }
        let is_soon = now_ms.abs_diff(self.swept_ms) < SWEEP_MS.unsigned_abs();
        if self.sweep_at >= MAX_KEYS && is_soon {
            return;
        }
        self.swept_ms = now_ms;
        self.by_key.retain(|_, entry| !entry.is_full(now_ms));
        self.sweep_at = (self.by_key.len() * 2).min(MAX_KEYS);
        self.by_key.shrink_to(self.sweep_at.max(MIN_SWEEP));
    }
}
