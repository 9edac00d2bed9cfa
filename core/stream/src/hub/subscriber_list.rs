//! Subscriber list: the sessions on one shard that are subscribed to one channel.
//!
//! Most channels of a server have one subscriber, so the first one needs no memory of its own.

use slab::Slab;

/// The subscribers of a channel. A subscriber keeps its key; keys of removed ones are used again.
#[derive(Debug)]
pub(super) struct SubscriberList<T> {
    /// The subscriber with key 0.
    first: Option<T>,
    /// The subscribers with the keys from 1 on.
    others: Option<Box<Slab<T>>>,
}

impl<T> Default for SubscriberList<T> {
    fn default() -> Self {
        Self {
            first: None,
            others: None,
        }
    }
}

impl<T> SubscriberList<T> {
    /// Adds a subscriber, and returns its key.
    pub(super) fn insert(&mut self, subscriber: T) -> usize {
        if self.first.is_none() {
            self.first = Some(subscriber);
            return 0;
        }
        let others = self.others.get_or_insert_default();
        others.insert(subscriber) + 1
    }

    /// Removes the subscriber with a key. True if there was one.
    pub(super) fn remove(&mut self, key: usize) -> bool {
        let Some(key) = key.checked_sub(1) else {
            return self.first.take().is_some();
        };
        let Some(others) = &mut self.others else {
            return false;
        };
        let removed = others.try_remove(key).is_some();
        if others.is_empty() {
            self.others = None;
        }
        removed
    }

    /// The subscriber with a key.
    pub(super) fn get(&self, key: usize) -> Option<&T> {
        match key.checked_sub(1) {
            None => self.first.as_ref(),
            Some(key) => self.others.as_ref()?.get(key),
        }
    }

    /// Number of subscribers.
    pub(super) fn len(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |others| others.len());
        usize::from(self.first.is_some()) + others
    }

    /// All keys are below this one.
    pub(super) fn keys_end(&self) -> usize {
        1 + self.others.as_ref().map_or(0, |others| others.capacity())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_subscriber_keeps_its_key() {
        let mut list = SubscriberList::default();
        let mut model = BTreeMap::new();
        // Grows, and ends empty: 7 and 100 have no common divisor, so every number comes once.
        for round in 0..3 {
            for index in 0..100 {
                let number = round * 100 + index * 7 % 100;
                assert!(model.insert(list.insert(number), number).is_none());
                if index % 3 == 2 {
                    let (key, _) = model.pop_first().unwrap();
                    assert!(list.remove(key) && !list.remove(key));
                }
                assert_eq!(list.len(), model.len());
                assert!(model.keys().all(|key| *key < list.keys_end()));
                let all = (0..list.keys_end()).filter_map(|key| Some((key, *list.get(key)?)));
                assert!(all.eq(model.iter().map(|(key, number)| (*key, *number))));
            }
            while let Some((key, _)) = model.pop_last() {
                assert!(list.remove(key));
            }
            assert_eq!((list.len(), list.keys_end()), (0, 1));
        }
    }
}
