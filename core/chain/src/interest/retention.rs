//! What is followed for its followers, and for a while after the last one has gone: so
//! that whoever comes back within that time has missed nothing.
//!
//! Each stretch of following has an epoch of its own, which its channel's numbers count
//! in. Whoever comes back after it was forgotten finds another one, and is told that
//! something may be lost. All of it is stored, by the journal: what is published, and that
//! something was, are in one transaction.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidewire_stream::Epoch;

/// What is kept is kept for so long without a follower, in milliseconds: as long as
/// histories are.
pub(crate) const KEEP_MS: i64 = 10 * 60 * 1_000;

/// So many are looked at before others have their turn.
const PART: usize = 1_024;

/// Stands for the time of the last follower while there is one, or is about to be.
const IN_USE: i64 = i64::MAX;

/// All of one kind that are followed.
#[derive(Debug)]
pub(crate) struct RetentionMap<K, V>(Mutex<State<K, V>>);

#[derive(Debug)]
struct State<K, V> {
    all: HashMap<K, Item<V>>,
    /// What is not stored as it is.
    dirty: HashSet<K>,
}

#[derive(Debug)]
struct Item<V> {
    epoch: u64,
    /// When it was first found without a follower.
    left_ms: i64,
    /// Something was published in this epoch.
    is_told: bool,
    value: V,
}

/// Item as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredItem<V> {
    epoch: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<i64>,
    #[serde(default)]
    told: bool,
    pub(crate) value: V,
}

/// What became of following one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InsertOutcome {
    /// It is followed from now on.
    New,
    /// It was already.
    Known,
    /// There are as many as there may be.
    Full,
}

impl<K, V> Default for RetentionMap<K, V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            all: HashMap::new(),
            dirty: HashSet::new(),
        }))
    }
}

impl<K: Clone + Eq + Hash, V: Clone> RetentionMap<K, V> {
    /// Notes that somebody is about to follow `key`. If that is new, `watch` does what is to
    /// be done for it.
    pub(crate) fn insert(
        &self,
        key: K,
        value: V,
        most: usize,
        watch: impl FnOnce(),
    ) -> InsertOutcome {
        let mut state = self.0.lock();
        let State { all, dirty } = &mut *state;
        if let Some(one) = all.get_mut(&key) {
            if std::mem::replace(&mut one.left_ms, IN_USE) != IN_USE {
                dirty.insert(key);
            }
            return InsertOutcome::Known;
        }
        if all.len() >= most {
            return InsertOutcome::Full;
        }
        let one = Item {
            epoch: unused(),
            left_ms: IN_USE,
            is_told: false,
            value,
        };
        all.insert(key.clone(), one);
        dirty.insert(key);
        watch();
        InsertOutcome::New
    }

    /// Whether `key` is kept.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.lock().all.contains_key(key)
    }

    /// Notes that somebody is about to follow `key`, if it is kept.
    pub(crate) fn touch(&self, key: &K) -> bool {
        let mut state = self.0.lock();
        let Some(one) = state.all.get_mut(key) else {
            return false;
        };
        if std::mem::replace(&mut one.left_ms, IN_USE) != IN_USE {
            state.dirty.insert(key.clone());
        }
        true
    }

    /// Takes one back that could not be followed.
    pub(crate) fn remove(&self, key: &K) {
        let mut state = self.0.lock();
        state.all.remove(key);
        state.dirty.insert(key.clone());
    }

    /// The epoch of its channel, while it is kept.
    pub(crate) fn epoch(&self, key: &K) -> Option<Epoch> {
        let state = self.0.lock();
        state.all.get(key).map(|one| named(one.epoch))
    }

    /// Gives its channel another epoch: something of it is lost.
    pub(crate) fn renew(&self, key: &K) {
        let mut state = self.0.lock();
        if let Some(one) = state.all.get_mut(key) {
            (one.epoch, one.is_told) = (unused(), false);
            state.dirty.insert(key.clone());
        }
    }

    /// Notes that something is published on its channel. False if it is not kept: then
    /// nothing may be.
    pub(crate) fn told(&self, key: &K) -> bool {
        let mut state = self.0.lock();
        let Some(one) = state.all.get_mut(key) else {
            return false;
        };
        if !std::mem::replace(&mut one.is_told, true) {
            state.dirty.insert(key.clone());
        }
        true
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<K> {
        self.0.lock().all.keys().cloned().collect()
    }

    /// What it was followed with.
    pub(crate) fn values(&self) -> Vec<(K, V)> {
        let state = self.0.lock();
        let all = state.all.iter();
        all.map(|(key, one)| (key.clone(), one.value.clone()))
            .collect()
    }

    /// Looks at all of them: which have followers, and which are to be forgotten, as they
    /// had none for long, or for the longest of more than `most` such.
    pub(crate) async fn sweep(
        &self,
        now_ms: i64,
        most: usize,
        is_used: impl Fn(&K) -> bool,
    ) -> Vec<K> {
        let mut old = Vec::new();
        let mut idle = Vec::new();
        // Without the lock and with breaks: there may be a million, and others are waiting.
        for (place, key) in self.keys().into_iter().enumerate() {
            if place % PART == PART - 1 {
                tokio::task::yield_now().await;
            }
            let is_used = is_used(&key);
            let mut state = self.0.lock();
            let Some(one) = state.all.get_mut(&key) else {
                continue;
            };
            match (is_used, one.left_ms) {
                (true, IN_USE) => {}
                (true, _) => {
                    one.left_ms = IN_USE;
                    state.dirty.insert(key);
                }
                (false, IN_USE) => {
                    one.left_ms = now_ms;
                    idle.push((now_ms, key.clone()));
                    state.dirty.insert(key);
                }
                (false, left_ms) if now_ms - left_ms >= KEEP_MS => old.push(key),
                (false, left_ms) => idle.push((left_ms, key)),
            }
        }
        if idle.len() > most {
            idle.sort_unstable_by_key(|(left_ms, _)| *left_ms);
            let count = idle.len() - most;
            old.extend(idle.into_iter().take(count).map(|(_, key)| key));
        }
        old
    }

    /// Forgets one, if nobody is about to follow it, and has `forget` undo what was done
    /// for it. False if it stays.
    pub(crate) fn forget(&self, key: &K, forget: impl FnOnce()) -> bool {
        let mut state = self.0.lock();
        let is_idle = state.all.get(key).is_some_and(|one| one.left_ms != IN_USE);
        if !is_idle {
            return false;
        }
        state.all.remove(key);
        state.dirty.insert(key.clone());
        // Under the lock: who comes back now has it watched again after this.
        forget();
        true
    }

    /// Whether the store has to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.0.lock().dirty.is_empty()
    }

    /// Takes what the store is to have, of `most` at the most: each as it is, or none if it
    /// was forgotten.
    pub(crate) fn take_dirty(&self, most: usize) -> Vec<(K, Option<StoredItem<V>>)> {
        let mut state = self.0.lock();
        let State { all, dirty } = &mut *state;
        let keys: Vec<_> = dirty.iter().take(most).cloned().collect();
        let records = keys.into_iter().map(|key| {
            dirty.remove(&key);
            let record = all.get(&key).map(|one| StoredItem {
                epoch: named(one.epoch).as_str().to_owned(),
                left: (one.left_ms != IN_USE).then_some(one.left_ms),
                told: one.is_told,
                value: one.value.clone(),
            });
            (key, record)
        });
        records.collect()
    }

    /// Takes one back from the store. Nobody is there who follows it yet.
    pub(crate) fn restore(&self, key: K, record: StoredItem<V>, now_ms: i64) {
        let epoch = u64::from_str_radix(&record.epoch, 16);
        let mut state = self.0.lock();
        let one = Item {
            epoch: epoch.unwrap_or_else(|_| unused()),
            left_ms: record.left.unwrap_or(now_ms).min(now_ms),
            is_told: record.told,
            value: record.value,
        };
        state.all.insert(key, one);
    }

    /// Gives those another epoch that something was published of which nothing is kept.
    pub(crate) fn renew_lost(&self, is_there: impl Fn(&K) -> bool) {
        let mut state = self.0.lock();
        let State { all, dirty } = &mut *state;
        for (key, one) in all {
            if one.is_told && !is_there(key) {
                (one.epoch, one.is_told) = (unused(), false);
                dirty.insert(key.clone());
            }
        }
    }
}

/// An epoch that was never used.
fn unused() -> u64 {
    let text = Epoch::random();
    // It is a number in hex, and no number would do for one.
    u64::from_str_radix(text.as_str(), 16).unwrap_or_default()
}

fn named(epoch: u64) -> Epoch {
    Epoch::new(&format!("{epoch:012x}"))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn kept() -> RetentionMap<u8, ()> {
        let kept = RetentionMap::default();
        assert_eq!(kept.insert(1, (), 2, || {}), InsertOutcome::New);
        kept
    }

    fn swept(kept: &RetentionMap<u8, ()>, now_ms: i64, is_used: bool) -> Vec<u8> {
        let used: fn(&u8) -> bool = if is_used { |_| true } else { |_| false };
        sweep(kept, now_ms, 10, used)
    }

    /// So few are swept in one go.
    fn sweep(
        kept: &RetentionMap<u8, ()>,
        now_ms: i64,
        most: usize,
        is_used: fn(&u8) -> bool,
    ) -> Vec<u8> {
        kept.sweep(now_ms, most, is_used).now_or_never().unwrap()
    }

    #[test]
    fn one_is_forgotten_a_while_after_the_last_follower() {
        let kept = kept();
        let epoch = kept.epoch(&1);
        assert!(swept(&kept, 0, true).is_empty());
        assert!(!kept.forget(&1, || unreachable!("it is in use")));
        assert!(swept(&kept, 5, false).is_empty());
        assert!(swept(&kept, 4 + KEEP_MS, false).is_empty());
        // Somebody comes back in time.
        assert_eq!(
            kept.insert(1, (), 2, || unreachable!()),
            InsertOutcome::Known
        );
        assert!(swept(&kept, 5 + KEEP_MS, false).is_empty());
        assert_eq!(swept(&kept, 5 + 2 * KEEP_MS, false), [1]);
        // Or just before it goes.
        assert!(kept.touch(&1));
        assert!(!kept.forget(&1, || unreachable!("it is in use")));
        assert_eq!(kept.epoch(&1), epoch);
        assert!(swept(&kept, 6 + 2 * KEEP_MS, false).is_empty());
        assert!(kept.forget(&1, || {}));
        assert_eq!((kept.epoch(&1), kept.touch(&1)), (None, false));
        // Another stretch has another epoch.
        assert_eq!(kept.insert(1, (), 2, || {}), InsertOutcome::New);
        assert_ne!(kept.epoch(&1), epoch);
    }

    #[test]
    fn so_many_are_stored_at_a_time() {
        let kept = RetentionMap::<u8, ()>::default();
        for key in 0..5 {
            kept.insert(key, (), 5, || {});
        }
        assert_eq!(kept.take_dirty(3).len(), 3);
        assert_eq!(kept.take_dirty(usize::MAX).len(), 2);
        assert!(!kept.is_dirty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let kept = kept();
        assert_eq!(kept.insert(2, (), 2, || {}), InsertOutcome::New);
        assert_eq!(
            kept.insert(3, (), 2, || unreachable!()),
            InsertOutcome::Full
        );
        // Of those without a follower the first that was left goes.
        sweep(&kept, 1, 1, |key| *key == 2);
        assert_eq!(sweep(&kept, 2, 1, |_| false), [1]);
    }

    #[test]
    fn what_is_stored_goes_on_in_its_epoch() {
        let kept = kept();
        kept.told(&1);
        let stored = kept.take_dirty(usize::MAX);
        assert!(!kept.is_dirty());
        let (_, record) = stored.into_iter().next().unwrap();
        let text = serde_json::to_string(&record.unwrap()).unwrap();
        let again = RetentionMap::<u8, ()>::default();
        again.restore(1, serde_json::from_str(&text).unwrap(), 7);
        assert_eq!(again.epoch(&1), kept.epoch(&1));
        // What was published of it is there, or it begins anew.
        again.renew_lost(|_| true);
        assert!(!again.is_dirty());
        again.renew_lost(|_| false);
        assert_ne!(again.epoch(&1), kept.epoch(&1));
        again.restore(2, again.take_dirty(usize::MAX).remove(0).1.unwrap(), 7);
        let before = again.epoch(&2);
        again.renew_lost(|_| false);
        assert_eq!(again.epoch(&2), before, "nothing was published of it");
        assert_eq!(swept(&again, 7 + KEEP_MS, false).len(), 2);
        assert!(again.forget(&1, || {}));
        assert_eq!(again.take_dirty(usize::MAX), [(1, None)]);
    }
}
