//! Watch queue: the order in which watches of rules' transactions are begun.
//!
//! Chains do not wait for one another, and users of a chain take turns, so that neither a chain
//! that stands still nor a user with very many transactions delays others. A watch that ended
//! without a final block is begun anew after a pause. While no node sees the transaction, the
//! pause doubles.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tidewire_stream::UserId;
use tokio::time::Instant;

/// Watches of one chain that are begun at the same time.
const OF_CHAIN: usize = 16;

/// Watches of one user that are begun at the same time, on one chain.
const OF_USER: usize = 4;

/// First and longest pause after an attempt that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// First and longest pause after a watch that ended without a final block.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 60));

/// A chain and a hash.
pub(super) type Transaction = (u64, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is in its user's line.
    Ready,
    /// The chain engine was called.
    Beginning,
    /// The chain engine watches it.
    Watched,
    /// It waits for this time.
    Waiting(Instant),
}

#[derive(Debug)]
struct Entry {
    /// The user who needed it first.
    user: UserId,
    stage: Stage,
    retry: Duration,
    again: Duration,
}

/// The lines of a chain.
#[derive(Debug, Default)]
struct ChainQueue {
    beginning: usize,
    /// Users with a line, in turn.
    turns: VecDeque<UserId>,
    lines: HashMap<UserId, VecDeque<String>>,
    beginning_of: HashMap<UserId, usize>,
}

/// The transactions that rules need.
#[derive(Debug, Default)]
pub(super) struct WatchQueue {
    entries: HashMap<Transaction, Entry>,
    chains: BTreeMap<u64, ChainQueue>,
    timers: BTreeSet<(Instant, Transaction)>,
}

impl WatchQueue {
    /// Adds a transaction that a user's rule needs.
    pub(super) fn add(&mut self, user: &UserId, transaction: Transaction) {
        if !self.entries.contains_key(&transaction) {
            let entry = Entry {
                user: user.clone(),
                stage: Stage::Ready,
                retry: RETRY.0,
                again: AGAIN.0,
            };
            self.entries.insert(transaction.clone(), entry);
            self.line_up(transaction);
        }
    }

    fn line_up(&mut self, (chain, hash): Transaction) {
        let Some(entry) = self.entries.get_mut(&(chain, hash.clone())) else {
            return;
        };
        entry.stage = Stage::Ready;
        let queue = self.chains.entry(chain).or_default();
        let line = queue.lines.entry(entry.user.clone()).or_default();
        if line.is_empty() {
            queue.turns.push_back(entry.user.clone());
        }
        line.push_back(hash);
    }

    /// The next watch to begin, and its user. None if all that may begin have begun.
    pub(super) fn next(&mut self, now: Instant) -> Option<(UserId, Transaction)> {
        while let Some((due, _)) = self.timers.first()
            && *due <= now
            && let Some((_, transaction)) = self.timers.pop_first()
        {
            self.line_up(transaction);
        }
        let mut queues = self.chains.iter_mut();
        let (user, transaction) = queues.find_map(|(chain, queue)| {
            let (user, hash) = queue.next()?;
            Some((user, (*chain, hash)))
        })?;
        if let Some(entry) = self.entries.get_mut(&transaction) {
            entry.stage = Stage::Beginning;
        }
        Some((user, transaction))
    }

    /// When the next watch is due that waits for a time.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Notes that the chain engine watches a transaction.
    pub(super) fn begun(&mut self, transaction: &Transaction) {
        self.leave_chain(transaction);
        if let Some(entry) = self.entries.get_mut(transaction) {
            entry.stage = Stage::Watched;
            entry.retry = RETRY.0;
        }
    }

    /// Notes that a watch could not be begun. It is tried again.
    pub(super) fn failed(&mut self, transaction: &Transaction, now: Instant) {
        self.leave_chain(transaction);
        if let Some(entry) = self.entries.get_mut(transaction) {
            let pause = entry.retry;
            entry.retry = (pause * 2).min(RETRY.1);
            self.wait(transaction, now + pause);
        }
    }

    /// Notes that a watch ended without a final block.
    pub(super) fn ended(&mut self, transaction: &Transaction, now: Instant) {
        if let Some(entry) = self.entries.get_mut(transaction)
            && entry.stage == Stage::Watched
        {
            let pause = entry.again;
            entry.again = (pause * 2).min(AGAIN.1);
            self.wait(transaction, now + pause);
        }
    }

    /// Notes that a node knows a transaction.
    pub(super) fn seen(&mut self, transaction: &Transaction) {
        if let Some(entry) = self.entries.get_mut(transaction) {
            entry.again = AGAIN.0;
        }
    }

    /// Removes a transaction that no rule needs any more.
    pub(super) fn remove(&mut self, transaction: &Transaction) {
        self.leave_chain(transaction);
        let entry = self.entries.remove(transaction);
        if let Some(Stage::Waiting(due)) = entry.map(|entry| entry.stage) {
            self.timers.remove(&(due, transaction.clone()));
        }
    }

    /// The transactions that are watched.
    pub(super) fn watched(&self) -> Vec<Transaction> {
        let entries = self.entries.iter();
        let watched = entries.filter(|(_, entry)| entry.stage == Stage::Watched);
        watched
            .map(|(transaction, _)| transaction.clone())
            .collect()
    }

    fn wait(&mut self, transaction: &Transaction, due: Instant) {
        if let Some(entry) = self.entries.get_mut(transaction) {
            entry.stage = Stage::Waiting(due);
            self.timers.insert((due, transaction.clone()));
        }
    }

    /// Frees the place of a watch that was being begun.
    fn leave_chain(&mut self, transaction: &Transaction) {
        let Some(entry) = self.entries.get(transaction) else {
            return;
        };
        if entry.stage != Stage::Beginning {
            return;
        }
        if let Some(queue) = self.chains.get_mut(&transaction.0) {
            queue.beginning -= 1;
            if let Some(count) = queue.beginning_of.get_mut(&entry.user) {
                *count -= 1;
                if *count == 0 {
                    queue.beginning_of.remove(&entry.user);
                }
            }
        }
    }
}

impl ChainQueue {
    fn next(&mut self) -> Option<(UserId, String)> {
        if self.beginning >= OF_CHAIN {
            return None;
        }
        for _ in 0..self.turns.len() {
            let user = self.turns.pop_front()?;
            let count = self.beginning_of.get(&user).copied().unwrap_or(0);
            if count >= OF_USER {
                // At most a few users have all of their places.
                self.turns.push_back(user);
                continue;
            }
            let Some(line) = self.lines.get_mut(&user) else {
                continue;
            };
            let hash = line.pop_front();
            match line.is_empty() {
                true => drop(self.lines.remove(&user)),
                false => self.turns.push_back(user.clone()),
            }
            if let Some(hash) = hash {
                self.beginning += 1;
                *self.beginning_of.entry(user.clone()).or_default() += 1;
                return Some((user, hash));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(chain: u64, number: usize) -> Transaction {
        (chain, format!("0x{number:064x}"))
    }

    fn all_next(queue: &mut WatchQueue, now: Instant) -> Vec<(UserId, Transaction)> {
        std::iter::from_fn(|| queue.next(now)).collect()
    }

    #[test]
    fn a_chain_that_stands_still_delays_no_other() {
        let (mut queue, now) = (WatchQueue::default(), Instant::now());
        for number in 0..100 {
            let user = UserId::new(&format!("user-{number}"));
            queue.add(&user, transaction(1, number));
        }
        assert_eq!(all_next(&mut queue, now).len(), OF_CHAIN);
        let ada = UserId::new("ada");
        queue.add(&ada, transaction(2, 1));
        assert_eq!(all_next(&mut queue, now), [(ada, transaction(2, 1))]);
    }

    #[test]
    fn a_user_with_very_many_transactions_delays_no_other() {
        let (mut queue, now) = (WatchQueue::default(), Instant::now());
        let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
        for number in 0..1_000 {
            queue.add(&ada, transaction(1, number));
        }
        let begun = all_next(&mut queue, now);
        assert_eq!(begun.len(), OF_USER);
        queue.add(&bob, transaction(1, 5_000));
        assert_eq!(all_next(&mut queue, now), [(bob, transaction(1, 5_000))]);
        // One place is free again.
        queue.begun(&begun[0].1);
        assert_eq!(all_next(&mut queue, now), [(ada, transaction(1, 4))]);
    }

    #[test]
    fn a_watch_that_ended_is_begun_again_with_longer_pauses() {
        let (mut queue, mut now) = (WatchQueue::default(), Instant::now());
        let (ada, one) = (UserId::new("ada"), transaction(1, 1));
        queue.add(&ada, one.clone());
        for pause in [60, 120, 240, 480, 960, 1_800, 1_800] {
            assert_eq!(all_next(&mut queue, now).len(), 1);
            queue.begun(&one);
            queue.ended(&one, now);
            let due = now + Duration::from_secs(pause);
            assert_eq!(queue.next_due(), Some(due));
            assert_eq!(all_next(&mut queue, due - Duration::from_millis(1)), []);
            now = due;
        }
        assert_eq!(all_next(&mut queue, now).len(), 1);
        queue.begun(&one);
        queue.seen(&one);
        queue.ended(&one, now);
        assert_eq!(queue.next_due(), Some(now + AGAIN.0));
        queue.remove(&one);
        assert_eq!(queue.next_due(), None);
        assert!(queue.watched().is_empty());
    }

    #[test]
    fn an_attempt_that_failed_is_repeated() {
        let (mut queue, now) = (WatchQueue::default(), Instant::now());
        let one = transaction(1, 1);
        queue.add(&UserId::new("ada"), one.clone());
        assert_eq!(all_next(&mut queue, now).len(), 1);
        queue.failed(&one, now);
        // It is needed already.
        queue.add(&UserId::new("bob"), one.clone());
        assert_eq!(all_next(&mut queue, now), []);
        assert_eq!(all_next(&mut queue, now + RETRY.0).len(), 1);
    }
}
