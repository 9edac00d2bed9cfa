//! Fair semaphore: shares permits among keys, so that a key which keeps its permits leaves some to others.
//!
//! A key gets a further permit while it has less than half as many as are free. With 96 permits, a first
//! key that gives none back has 32, a second one then 22, a third one 14. Ten such keys leave one to an
//! eleventh, and a key alone need not wait for reserved ones.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::Hash,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Acquisitions of one key that wait at most.
const MAX_WAITING: usize = 4_096;

/// Permits that keys share. Cheap to clone.
pub struct FairSemaphore<K: Eq + Hash + Clone>(Arc<Mutex<State<K>>>);

struct State<K: Eq + Hash + Clone> {
    free: usize,
    keys: HashMap<K, KeyState<K>>,
}

struct KeyState<K: Eq + Hash + Clone> {
    in_use: usize,
    /// Acquisitions that wait, the oldest first. Some may have ended.
    waiting: VecDeque<oneshot::Sender<FairPermit<K>>>,
}

impl<K: Eq + Hash + Clone> KeyState<K> {
    fn may_have_another(&self, free: usize) -> bool {
        2 * self.in_use < free
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for FairSemaphore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("FairSemaphore")
            .field("free", &state.free)
            .field("keys", &state.keys.len())
            .finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone> Clone for FairSemaphore<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> FairSemaphore<K> {
    /// A semaphore of so many permits.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: permits,
            keys: HashMap::new(),
        })))
    }

    /// A permit for `key`, or `None` if it would have to wait.
    #[must_use]
    pub fn try_acquire(&self, key: &K) -> Option<FairPermit<K>> {
        let mut state = self.0.lock();
        state.take(key).then(|| self.permit(key))
    }

    /// Waits for a permit for `key`. Those of a key are served in their order. `None` if 4,096 of the key
    /// wait already.
    pub async fn acquire(&self, key: &K) -> Option<FairPermit<K>> {
        let granted = {
            let mut state = self.0.lock();
            if state.take(key) {
                return Some(self.permit(key));
            }
            let of_key = state.keys.entry(key.clone()).or_default();
            if of_key.waiting.len() >= MAX_WAITING {
                of_key.waiting.retain(|waiting| !waiting.is_closed());
            }
            if of_key.waiting.len() >= MAX_WAITING {
                return None;
            }
            let (grant, granted) = oneshot::channel();
            of_key.waiting.push_back(grant);
            granted
        };
        granted.await.ok()
    }

    fn permit(&self, key: &K) -> FairPermit<K> {
        FairPermit(Some((self.clone(), key.clone())))
    }

    /// Takes a permit back, and hands out those that may be.
    fn release(&self, key: &K) {
        let mut state = self.0.lock();
        state.give_back(key);
        while let Some((key, grant)) = state.next_grant() {
            if let Err(mut permit) = grant.send(self.permit(&key)) {
                // Nobody waits for it any more. The lock is held: it is not dropped as it is.
                permit.0 = None;
                state.give_back(&key);
            }
        }
    }
}

impl<K: Eq + Hash + Clone> Default for KeyState<K> {
    fn default() -> Self {
        Self {
            in_use: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    /// Takes a permit for a key, unless others of the key wait for one.
    fn take(&mut self, key: &K) -> bool {
        let is_granted = match self.keys.get(key) {
            Some(of_key) => of_key.waiting.is_empty() && of_key.may_have_another(self.free),
            None => self.free > 0,
        };
        if is_granted {
            self.free -= 1;
            self.keys.entry(key.clone()).or_default().in_use += 1;
        }
        is_granted
    }

    fn give_back(&mut self, key: &K) {
        if let Some(of_key) = self.keys.get_mut(key) {
            of_key.in_use -= 1;
            self.free += 1;
            if of_key.in_use == 0 && of_key.waiting.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Takes a permit for the key with the fewest among those that wait for one and may have it.
    fn next_grant(&mut self) -> Option<(K, oneshot::Sender<FairPermit<K>>)> {
        let free = self.free;
        let waits =
            |of_key: &KeyState<K>| !of_key.waiting.is_empty() && of_key.may_have_another(free);
        let keys = self.keys.iter_mut().filter(|(_, of_key)| waits(of_key));
        let (key, of_key) = keys.min_by_key(|(_, of_key)| of_key.in_use)?;
        let grant = of_key.waiting.pop_front()?;
        of_key.in_use += 1;
        self.free -= 1;
        Some((key.clone(), grant))
    }
}

/// A permit. Dropping it gives it back to its semaphore.
#[derive(Debug)]
pub struct FairPermit<K: Eq + Hash + Clone>(Option<(FairSemaphore<K>, K)>);

impl<K: Eq + Hash + Clone> Drop for FairPermit<K> {
    fn drop(&mut self) {
        if let Some((semaphore, key)) = self.0.take() {
            semaphore.release(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn take_all(semaphore: &FairSemaphore<u32>, key: u32) -> Vec<FairPermit<u32>> {
        std::iter::from_fn(|| semaphore.try_acquire(&key)).collect()
    }

    #[test]
    fn keys_that_give_nothing_back_leave_permits_to_others() {
        let semaphore = FairSemaphore::new(96);
        let taken: Vec<_> = (0..10).map(|key| take_all(&semaphore, key)).collect();
        let counts: Vec<_> = taken.iter().map(Vec::len).collect();
        assert_eq!(counts[..4], [32, 22, 14, 10], "{counts:?}");
        assert!(semaphore.try_acquire(&10).is_some());
        drop(taken);
        let state = semaphore.0.lock();
        assert_eq!((state.free, state.keys.len()), (96, 0));
    }

    #[tokio::test]
    async fn those_that_wait_get_what_is_given_back() {
        let semaphore = FairSemaphore::new(3);
        let mut first = take_all(&semaphore, 1);
        let second = take_all(&semaphore, 2);
        assert_eq!((first.len(), second.len()), (1, 1));
        // One that waits no longer is left out, and its key keeps its order.
        let mut gone = Box::pin(semaphore.acquire(&1));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = Box::pin(semaphore.acquire(&1));
        assert!(next.as_mut().now_or_never().is_none());
        drop(gone);
        assert!(semaphore.try_acquire(&1).is_none());
        first.pop();
        let permit = next.await.unwrap();
        // One that was granted, and is dropped before it was seen, goes back too.
        let mut unseen = Box::pin(semaphore.acquire(&1));
        assert!(unseen.as_mut().now_or_never().is_none());
        drop(permit);
        drop(unseen);
        drop(second);
        let state = semaphore.0.lock();
        assert_eq!((state.free, state.keys.len()), (3, 0));
    }

    #[test]
    fn a_line_has_an_end() {
        let semaphore = FairSemaphore::new(1);
        let permit = semaphore.try_acquire(&1).unwrap();
        let mut line: Vec<_> = (0..MAX_WAITING)
            .map(|_| Box::pin(semaphore.acquire(&1)))
            .collect();
        for waiting in &mut line {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        assert!(matches!(semaphore.acquire(&1).now_or_never(), Some(None)));
        line.pop();
        let mut waiting = Box::pin(semaphore.acquire(&1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(permit);
        assert!(semaphore.try_acquire(&1).is_none(), "the first one has it");
    }
}
