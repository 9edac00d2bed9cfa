//! Cache of users' states, bounded by bytes: counts of active users read no store, and memory
//! does not grow with users who are away.
//!
//! States are cached as they are stored. A writer replaces the state under the user's lock after
//! its commit, and a reader adds one only under that lock, so the cache is never behind.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use tidewire_stream::UserId;

/// Parts, so that readers on several cores seldom meet.
const SHARDS: usize = 16;

/// Bytes of an entry beside its id and its state, about: the list, the table, and the counts of
/// shared texts.
const ENTRY_BYTES: usize = 136;

/// Factor of the hash function FNV-1a.
const FNV_PRIME: u32 = 16_777_619;

#[derive(Debug)]
struct CacheShard {
    states: LruCache<UserId, Arc<[u8]>>,
    bytes: usize,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct StateCache {
    shards: Vec<Mutex<CacheShard>>,
    shard_bytes: usize,
}

impl StateCache {
    pub(crate) fn new(bytes: usize) -> Self {
        let shard = || CacheShard {
            states: LruCache::unbounded(),
            bytes: 0,
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            shard_bytes: bytes / SHARDS,
        }
    }

    /// The shard of a user. A poor hash suffices: users of one shard only share a lock and its
    /// room.
    fn shard(&self, user: &UserId) -> &Mutex<CacheShard> {
        let add = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(FNV_PRIME);
        let hash = user.as_str().as_bytes().iter().fold(0, add);
        &self.shards[hash as usize % SHARDS]
    }

    pub(crate) fn get(&self, user: &UserId) -> Option<Arc<[u8]>> {
        self.shard(user).lock().states.get(user).cloned()
    }

    /// Sets a user's state. The least recently used ones make room.
    pub(crate) fn put(&self, user: &UserId, state: Arc<[u8]>) {
        let mut shard = self.shard(user).lock();
        shard.bytes += entry_bytes(user, &state);
        if let Some(before) = shard.states.put(user.clone(), state) {
            shard.bytes -= entry_bytes(user, &before);
        }
        while shard.bytes > self.shard_bytes {
            let Some((user, state)) = shard.states.pop_lru() else {
                break;
            };
            shard.bytes -= entry_bytes(&user, &state);
        }
    }

    /// Forgets a user's state.
    pub(crate) fn remove(&self, user: &UserId) {
        let mut shard = self.shard(user).lock();
        if let Some(state) = shard.states.pop(user) {
            shard.bytes -= entry_bytes(user, &state);
        }
    }

    /// Bytes of all entries, about.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

fn entry_bytes(user: &UserId, state: &[u8]) -> usize {
    user.as_str().len() + state.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_states_make_room() {
        let cache = StateCache::new(SHARDS * 1_000);
        let user = |number: u32| UserId::new(&number.to_string());
        for number in 0..10_000 {
            cache.put(&user(number), vec![0; 50].into());
            cache.put(&user(number), vec![1; 60].into());
            assert!(cache.get(&user(number)).is_some());
            // A state that is in use stays.
            cache.get(&user(0));
        }
        assert!(
            cache.bytes() <= SHARDS * 1_000 && cache.bytes() > SHARDS * 700,
            "{}",
            cache.bytes()
        );
        assert_eq!(cache.get(&user(0)).as_deref(), Some([1; 60].as_slice()));
        assert!(cache.get(&user(1)).is_none());
    }
}
