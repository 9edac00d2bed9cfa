//! Counts of what is open, by key. A place is given back when its holder is
//! dropped; a key that nobody holds takes no memory.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// How many hold a place, by key. Cheap to clone.
#[derive(Debug)]
pub struct Counts<K: Eq + Hash>(Arc<Mutex<HashMap<K, u32>>>);

impl<K: Eq + Hash> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Counts<K> {
    /// Takes a place if fewer than `limit` are taken; 0 is no limit, and then
    /// nothing is counted.
    #[must_use]
    pub fn take(&self, key: &K, limit: u32) -> Option<Place<K>> {
        if limit == 0 {
            return Some(Place { held: None });
        }
        let mut counts = self.0.lock();
        let count = counts.entry(key.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place {
            held: Some((self.clone(), key.clone())),
        })
    }

    /// How many hold a place under `key`.
    #[must_use]
    pub fn of(&self, key: &K) -> u32 {
        self.0.lock().get(key).copied().unwrap_or_default()
    }

    /// How many keys have a holder.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.lock().len()
    }

    fn give_back(&self, key: &K) {
        let mut counts = self.0.lock();
        let Some(count) = counts.get_mut(key) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
            // A wave that has gone must not hold its memory.
            if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
                counts.shrink_to_fit();
            }
        }
    }
}

/// A place that is held. Dropped, it is given back.
#[derive(Debug)]
pub struct Place<K: Eq + Hash + Clone> {
    held: Option<(Counts<K>, K)>,
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        if let Some((counts, key)) = self.held.take() {
            counts.give_back(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_nothing_is_left() {
        let counts = Counts::default();
        let places: Vec<_> = (0..3).map(|_| counts.take(&"a", 3).unwrap()).collect();
        assert!(counts.take(&"a", 3).is_none());
        let other = counts.take(&"b", 3).unwrap();
        assert_eq!((counts.of(&"a"), counts.of(&"b"), counts.keys()), (3, 1, 2));
        drop(places);
        assert_eq!((counts.of(&"a"), counts.keys()), (0, 1));
        drop(other);
        assert_eq!(counts.keys(), 0);
        // Without a limit nothing is counted.
        let place = counts.take(&"a", 0);
        assert!(place.is_some() && counts.keys() == 0);
    }

    #[test]
    fn a_wave_leaves_no_memory() {
        let counts = Counts::default();
        let places: Vec<_> = (0..10_000).map(|key| counts.take(&key, 1)).collect();
        drop(places);
        assert_eq!(counts.keys(), 0);
        assert!(counts.0.lock().capacity() <= 64);
    }
}
