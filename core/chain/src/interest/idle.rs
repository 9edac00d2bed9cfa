//! Idle items: which of them are evicted while there are too many.
//!
//! Clients keep equally many. A client with fewer keeps all of its own, so that one that follows
//! and leaves very many items does not shorten the time in which others may return.
//!
//! Example with room for 10: Ada has 2 idle items, Bob 5 and Mallory 100. Ada keeps 2, and Bob and
//! Mallory keep 4 each, those that became idle last.

use std::{cmp::Reverse, collections::HashMap};

use tidewire_stream::ClientKey;

/// An item without a follower.
#[derive(Debug)]
pub(super) struct IdleItem<K> {
    pub(super) since_ms: i64,
    /// The client that it counts for. None stands for all back ends.
    pub(super) client: Option<ClientKey>,
    pub(super) key: K,
}

/// The items to evict, so that at most `max` are left.
pub(super) fn excess_idle<K>(mut items: Vec<IdleItem<K>>, max: usize) -> Vec<K> {
    if items.len() <= max {
        return Vec::new();
    }
    items.sort_by_key(|item| Reverse(item.since_ms));
    let mut counts: HashMap<_, usize> = HashMap::new();
    for item in &items {
        *counts.entry(item.client.clone()).or_default() += 1;
    }
    let most = most_of_each(counts.into_values().collect(), max);
    let mut kept: HashMap<_, usize> = HashMap::new();
    let evicted = items
        .into_iter()
        .filter_map(|IdleItem { client, key, .. }| {
            let kept = kept.entry(client).or_default();
            *kept += 1;
            (*kept > most).then_some(key)
        });
    evicted.collect()
}

/// How many items each client keeps at most, so that all together keep `max` at most.
fn most_of_each(mut counts: Vec<usize>, max: usize) -> usize {
    counts.sort_unstable();
    let (mut room, mut clients) = (max, counts.len());
    for count in counts {
        let most = room / clients;
        if count > most {
            return most;
        }
        room -= count;
        clients -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use tidewire_stream::UserId;

    use super::*;

    type Key = (&'static str, i64);

    fn items(counts: &[(&'static str, i64)]) -> Vec<IdleItem<Key>> {
        let mut items = Vec::new();
        for (name, count) in counts {
            items.extend((0..*count).map(|since_ms| IdleItem {
                since_ms,
                client: Some(ClientKey::User(UserId::new(name))),
                key: (*name, since_ms),
            }));
        }
        items
    }

    #[test]
    fn clients_keep_equally_many_and_the_newest() {
        let all = [("ada", 2), ("bob", 5), ("mallory", 100)];
        let mut evicted = excess_idle(items(&all), 10);
        evicted.sort();
        let mut expected = vec![("bob", 0)];
        expected.extend((0..96).map(|since_ms| ("mallory", since_ms)));
        assert_eq!(evicted, expected);
        assert!(excess_idle(items(&all), 107).is_empty());
        assert_eq!(excess_idle(items(&all), 106), [("mallory", 0)]);
        assert_eq!(excess_idle(items(&all), 0).len(), 107);
    }
}
