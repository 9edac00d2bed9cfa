//! Keyed semaphore: counts the open connections of each address or user.
//!
//! Dropping a permit gives it back. A key without permits uses no memory.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// The permits in use, by key. Cheap to clone.
#[derive(Debug)]
pub struct KeyedSemaphore<K: Eq + Hash>(Arc<Mutex<HashMap<K, u32>>>);

impl<K: Eq + Hash> Clone for KeyedSemaphore<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash> Default for KeyedSemaphore<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> KeyedSemaphore<K> {
    /// A permit for `key`, or `None` when `limit` permits are in use. With a limit of 0
    /// every call succeeds and nothing is counted.
    #[must_use]
    pub fn try_acquire(&self, key: &K, limit: u32) -> Option<KeyedPermit<K>> {
        self.try_acquire_many(key, 1, limit)
    }

    /// A permit that counts as `count` for `key`, or `None` when more than `limit` would then be in
    /// use. With a limit of 0 every call succeeds and nothing is counted.
    #[must_use]
    pub fn try_acquire_many(&self, key: &K, count: u32, limit: u32) -> Option<KeyedPermit<K>> {
        let counted = (limit > 0 && count > 0).then(|| (self.clone(), key.clone()));
        if counted.is_some() {
            let mut counts = self.0.lock();
            let in_use = counts.get(key).copied().unwrap_or_default();
            let sum = in_use.checked_add(count).filter(|sum| *sum <= limit)?;
            counts.insert(key.clone(), sum);
        }
        Some(KeyedPermit { counted, count })
    }

    /// The number of permits of `key` in use.
    #[must_use]
    pub fn in_use(&self, key: &K) -> u32 {
        self.0.lock().get(key).copied().unwrap_or_default()
    }

    /// The number of keys with a permit in use.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.lock().len()
    }

    fn release(&self, key: &K, count: u32) {
        let mut counts = self.0.lock();
        let Some(in_use) = counts.get_mut(key) else {
            return;
        };
        *in_use -= count;
        if *in_use == 0 {
            counts.remove(key);
            // After a burst of clients has gone, the map returns its memory.
            if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
                counts.shrink_to_fit();
            }
        }
    }
}

/// A permit. Dropping it gives it back to its semaphore.
#[derive(Debug)]
pub struct KeyedPermit<K: Eq + Hash + Clone> {
    counted: Option<(KeyedSemaphore<K>, K)>,
    count: u32,
}

impl<K: Eq + Hash + Clone> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        if let Some((semaphore, key)) = self.counted.take() {
            semaphore.release(&key, self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_permits_are_returned_and_their_keys_removed() {
        let semaphore = KeyedSemaphore::default();
        let permits: Vec<_> = (0..3)
            .map(|_| semaphore.try_acquire(&"a", 3).unwrap())
            .collect();
        assert!(semaphore.try_acquire(&"a", 3).is_none());
        let other = semaphore.try_acquire(&"b", 3).unwrap();
        let in_use = (semaphore.in_use(&"a"), semaphore.in_use(&"b"));
        assert_eq!((in_use, semaphore.keys()), ((3, 1), 2));
        drop(permits);
        assert_eq!((semaphore.in_use(&"a"), semaphore.keys()), (0, 1));
        drop(other);
        assert_eq!(semaphore.keys(), 0);
        // Without a limit nothing is counted.
        let permit = semaphore.try_acquire(&"a", 0);
        assert!(permit.is_some() && semaphore.keys() == 0);
    }

    #[test]
    fn a_permit_can_count_as_several() {
        let semaphore = KeyedSemaphore::default();
        let three = semaphore.try_acquire_many(&"a", 3, 4).unwrap();
        assert!(semaphore.try_acquire_many(&"a", 2, 4).is_none());
        assert!(semaphore.try_acquire_many(&"b", 5, 4).is_none());
        assert_eq!((semaphore.in_use(&"a"), semaphore.keys()), (3, 1));
        let one = semaphore.try_acquire(&"a", 4).unwrap();
        drop(three);
        assert_eq!(semaphore.in_use(&"a"), 1);
        drop(one);
        assert_eq!(semaphore.keys(), 0);
    }

    #[test]
    fn memory_is_returned_after_a_burst_of_keys() {
        let semaphore = KeyedSemaphore::default();
        let permits: Vec<_> = (0..10_000)
            .map(|key| semaphore.try_acquire(&key, 1))
            .collect();
        drop(permits);
        assert_eq!(semaphore.keys(), 0);
        assert!(semaphore.0.lock().capacity() <= 64);
    }
}
