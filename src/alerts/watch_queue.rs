//! Watch queue: the order in which watches of rules' transactions are begun.
//!
//! Chains do not wait for one another, and users of a chain take turns, so that neither a chain
//! that stands still nor a user with very many transactions delays others. A watch that ended
//! without a final block is begun anew after a pause. While no node sees the transaction, the
//! pause doubles.
//!
//! A transaction that several users need is in the line of each, and its watch counts for the user
//! whose turn comes first: the *payer*. If the payer's share is used, the others are tried, so that a
//! watch waits only while all of them are over their share.
//!
//! Example: Mallory's share is used, and a rule of hers is about `H`. Victor registers a rule about
//! `H`. It is in his line from now on, and is watched in his share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use tidewire_stream::UserId;
use tokio::time::Instant;

/// Watches of one chain that are begun at the same time.
const OF_CHAIN: usize = 16;

/// Watches of one user that are begun at the same time, on one chain.
const OF_USER: usize = 4;

/// Lines that one transaction is in at the same time.
const LINES: usize = 64;

/// First and longest pause after an attempt that failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// First and longest pause after a watch that ended without a final block.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 60));

/// A chain and a hash.
pub(super) type Transaction = (u64, String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// It is in lines: the users, and its places there.
    Ready(Vec<(UserId, u64)>),
    /// The chain engine was called, for this user.
    Beginning(UserId),
    /// The chain engine watches it, for this user.
    Watched(UserId),
    /// It waits for this time. Then it is in the lines of these users.
    Waiting(Instant, Vec<UserId>),
}

#[derive(Debug)]
struct Entry {
    stage: Stage,
    /// Users whose share is used, since the last pause.
    refused: HashSet<UserId>,
    retry: Duration,
    again: Duration,
}

/// The lines of a chain.
#[derive(Debug, Default)]
struct ChainQueue {
    beginning: usize,
    /// Users with a line, in turn.
    turns: VecDeque<UserId>,
    lines: HashMap<UserId, BTreeMap<u64, String>>,
    beginning_of: HashMap<UserId, usize>,
    /// Places that were given.
    places: u64,
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
    pub(super) fn add(&mut self, user: &UserId, transaction: &Transaction) {
        let Some(entry) = self.entries.get_mut(transaction) else {
            let entry = Entry {
                stage: Stage::Ready(Vec::new()),
                refused: HashSet::new(),
                retry: RETRY.0,
                again: AGAIN.0,
            };
            self.entries.insert(transaction.clone(), entry);
            return self.line_up(transaction, std::slice::from_ref(user));
        };
        if entry.refused.contains(user) {
            return;
        }
        match &mut entry.stage {
            Stage::Ready(_) => self.line_up(transaction, std::slice::from_ref(user)),
            Stage::Waiting(..) if !entry.refused.is_empty() => {
                // It waits for the shares of others alone.
                self.cancel_timer(transaction);
                self.line_up(transaction, std::slice::from_ref(user));
            }
            Stage::Waiting(_, users) if !users.contains(user) && users.len() < LINES => {
                users.push(user.clone());
            }
            // The payer has it, or all users are tried.
            Stage::Waiting(..) | Stage::Beginning(_) | Stage::Watched(_) => {}
        }
    }

    /// Puts a transaction into the lines of users.
    fn line_up(&mut self, transaction: &Transaction, users: &[UserId]) {
        let Some(entry) = self.entries.get_mut(transaction) else {
            return;
        };
        if !matches!(entry.stage, Stage::Ready(_)) {
            entry.stage = Stage::Ready(Vec::new());
        }
        let Stage::Ready(places) = &mut entry.stage else {
            return;
        };
        let queue = self.chains.entry(transaction.0).or_default();
        for user in users {
            let is_in = places.iter().any(|(other, _)| other == user);
            if is_in || places.len() >= LINES {
                continue;
            }
            queue.places += 1;
            let line = queue.lines.entry(user.clone()).or_default();
            if line.is_empty() {
                queue.turns.push_back(user.clone());
            }
            line.insert(queue.places, transaction.1.clone());
            places.push((user.clone(), queue.places));
        }
    }

    /// Takes a transaction out of all lines.
    fn leave_lines(&mut self, transaction: &Transaction) {
        let entry = self.entries.get_mut(transaction);
        let queue = self.chains.get_mut(&transaction.0);
        let (Some(entry), Some(queue)) = (entry, queue) else {
            return;
        };
        let Stage::Ready(places) = &mut entry.stage else {
            return;
        };
        for (user, place) in places.drain(..) {
            let Some(line) = queue.lines.get_mut(&user) else {
                continue;
            };
            if line.remove(&place).is_some() && line.is_empty() {
                queue.lines.remove(&user);
                queue.turns.retain(|other| *other != user);
            }
        }
    }

    /// The next watch to begin, and the user for whom it is. None if all that may begin have begun.
    pub(super) fn next(&mut self, now: Instant) -> Option<(UserId, Transaction)> {
        while let Some((due, _)) = self.timers.first()
            && *due <= now
            && let Some((_, transaction)) = self.timers.pop_first()
        {
            let entry = self.entries.get_mut(&transaction);
            let users = entry.and_then(|entry| {
                entry.refused.clear();
                match &mut entry.stage {
                    Stage::Waiting(_, users) => Some(std::mem::take(users)),
                    _ => None,
                }
            });
            self.line_up(&transaction, &users.unwrap_or_default());
        }
        let mut queues = self.chains.iter_mut();
        let (user, transaction) = queues.find_map(|(chain, queue)| {
            let (user, hash) = queue.next()?;
            Some((user, (*chain, hash)))
        })?;
        self.leave_lines(&transaction);
        if let Some(entry) = self.entries.get_mut(&transaction) {
            entry.stage = Stage::Beginning(user.clone());
        }
        Some((user, transaction))
    }

    /// When the next watch is due that waits for a time.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Notes that the chain engine watches a transaction.
    pub(super) fn begun(&mut self, transaction: &Transaction) {
        if let Some(user) = self.leave_chain(transaction)
            && let Some(entry) = self.entries.get_mut(transaction)
        {
            entry.stage = Stage::Watched(user);
            entry.refused.clear();
            entry.retry = RETRY.0;
        }
    }

    /// Notes that a watch could not be begun. It is tried again, for these users.
    pub(super) fn failed(&mut self, transaction: &Transaction, users: Vec<UserId>, now: Instant) {
        if self.leave_chain(transaction).is_some()
            && let Some(entry) = self.entries.get_mut(transaction)
        {
            let pause = entry.retry;
            entry.retry = (pause * 2).min(RETRY.1);
            self.wait(transaction, now + pause, users);
        }
    }

    /// Notes that the share of the user is used for whom a watch was to begin. The others of these
    /// users are tried, and all of them after a pause.
    pub(super) fn refused(&mut self, transaction: &Transaction, users: Vec<UserId>, now: Instant) {
        let Some(entry) = self.entries.get_mut(transaction) else {
            return;
        };
        if let Stage::Beginning(user) = &entry.stage {
            entry.refused.insert(user.clone());
        }
        let others = users.iter().filter(|user| !entry.refused.contains(*user));
        let others: Vec<_> = others.take(LINES).cloned().collect();
        if others.is_empty() {
            return self.failed(transaction, users, now);
        }
        self.leave_chain(transaction);
        self.line_up(transaction, &others);
    }

    /// Puts a transaction whose watch was to begin for a user without a rule about it into the lines
    /// of those who have one.
    pub(super) fn reassign(&mut self, transaction: &Transaction, users: &[UserId]) {
        if self.leave_chain(transaction).is_some() {
            self.line_up(transaction, users);
        }
    }

    /// Notes that a watch ended without a final block.
    pub(super) fn ended(&mut self, transaction: &Transaction, now: Instant) {
        if let Some(entry) = self.entries.get_mut(transaction)
            && let Stage::Watched(user) = &entry.stage
        {
            let (pause, users) = (entry.again, vec![user.clone()]);
            entry.again = (pause * 2).min(AGAIN.1);
            self.wait(transaction, now + pause, users);
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
        self.leave_lines(transaction);
        self.cancel_timer(transaction);
        self.entries.remove(transaction);
    }

    /// The transactions that are watched, and for whom.
    pub(super) fn watched(&self) -> Vec<(UserId, Transaction)> {
        let entries = self.entries.iter();
        let watched = entries.filter_map(|(transaction, entry)| match &entry.stage {
            Stage::Watched(user) => Some((user.clone(), transaction.clone())),
            _ => None,
        });
        watched.collect()
    }

    /// Notes that a watch counts for another user.
    pub(super) fn set_payer(&mut self, transaction: &Transaction, user: &UserId) {
        if let Some(entry) = self.entries.get_mut(transaction)
            && let Stage::Watched(payer) = &mut entry.stage
        {
            *payer = user.clone();
        }
    }

    fn wait(&mut self, transaction: &Transaction, due: Instant, mut users: Vec<UserId>) {
        if let Some(entry) = self.entries.get_mut(transaction) {
            users.truncate(LINES);
            entry.stage = Stage::Waiting(due, users);
            self.timers.insert((due, transaction.clone()));
        }
    }

    fn cancel_timer(&mut self, transaction: &Transaction) {
        if let Some(entry) = self.entries.get(transaction)
            && let Stage::Waiting(due, _) = &entry.stage
        {
            self.timers.remove(&(*due, transaction.clone()));
        }
    }

    /// Frees the place of a watch that was being begun. Returns its user.
    fn leave_chain(&mut self, transaction: &Transaction) -> Option<UserId> {
        let Stage::Beginning(user) = &self.entries.get(transaction)?.stage else {
            return None;
        };
        if let Some(queue) = self.chains.get_mut(&transaction.0) {
            queue.beginning -= 1;
            if let Some(count) = queue.beginning_of.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    queue.beginning_of.remove(user);
                }
            }
        }
        Some(user.clone())
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
            let first = line.pop_first();
            match line.is_empty() {
                true => drop(self.lines.remove(&user)),
                false => self.turns.push_back(user.clone()),
            }
            if let Some((_, hash)) = first {
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
            queue.add(&user, &transaction(1, number));
        }
        assert_eq!(all_next(&mut queue, now).len(), OF_CHAIN);
        let ada = UserId::new("ada");
        queue.add(&ada, &transaction(2, 1));
        assert_eq!(all_next(&mut queue, now), [(ada, transaction(2, 1))]);
    }

    #[test]
    fn a_user_with_very_many_transactions_delays_no_other() {
        let (mut queue, now) = (WatchQueue::default(), Instant::now());
        let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
        for number in 0..1_000 {
            queue.add(&ada, &transaction(1, number));
        }
        let begun = all_next(&mut queue, now);
        assert_eq!(begun.len(), OF_USER);
        queue.add(&bob, &transaction(1, 5_000));
        assert_eq!(all_next(&mut queue, now), [(bob, transaction(1, 5_000))]);
        // One place is free again.
        queue.begun(&begun[0].1);
        assert_eq!(all_next(&mut queue, now), [(ada, transaction(1, 4))]);
    }

    #[test]
    fn a_watch_that_ended_is_begun_again_with_longer_pauses() {
        let (mut queue, mut now) = (WatchQueue::default(), Instant::now());
        let (ada, one) = (UserId::new("ada"), transaction(1, 1));
        queue.add(&ada, &one);
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
        queue.add(&UserId::new("ada"), &one);
        assert_eq!(all_next(&mut queue, now).len(), 1);
        queue.failed(&one, vec![UserId::new("ada")], now);
        // It is needed already.
        queue.add(&UserId::new("bob"), &one);
        assert_eq!(all_next(&mut queue, now), []);
        assert_eq!(all_next(&mut queue, now + RETRY.0).len(), 1);
    }

    #[test]
    fn a_transaction_is_in_the_line_of_each_of_its_users() {
        let (mut queue, now) = (WatchQueue::default(), Instant::now());
        let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
        for number in 0..1_000 {
            queue.add(&ada, &transaction(1, number));
        }
        assert_eq!(all_next(&mut queue, now).len(), OF_USER);
        let shared = transaction(1, 900);
        queue.add(&bob, &shared);
        assert_eq!(all_next(&mut queue, now), [(bob.clone(), shared.clone())]);
        queue.begun(&shared);
        assert_eq!(queue.watched(), [(bob, shared.clone())]);
        // It has left the other line.
        let mut begun: Vec<_> = (0..OF_USER).map(|number| transaction(1, number)).collect();
        let mut seen = 0;
        while let Some(one) = begun.pop() {
            assert_ne!(one, shared);
            queue.begun(&one);
            seen += 1;
            begun.extend(all_next(&mut queue, now).into_iter().map(|(_, one)| one));
        }
        assert_eq!(seen, 999);
        assert!(queue.chains[&1].turns.is_empty() && queue.chains[&1].lines.is_empty());
    }

    #[test]
    fn a_watch_waits_only_while_the_shares_of_all_are_used() {
        let (mut queue, now) = (WatchQueue::default(), Instant::now());
        let [ada, bob, cleo] = ["ada", "bob", "cleo"].map(UserId::new);
        let one = transaction(1, 1);
        queue.add(&ada, &one);
        assert_eq!(all_next(&mut queue, now), [(ada.clone(), one.clone())]);
        queue.refused(&one, vec![ada.clone(), bob.clone()], now);
        assert_eq!(all_next(&mut queue, now), [(bob.clone(), one.clone())]);
        let both = vec![ada.clone(), bob.clone()];
        queue.refused(&one, both, now);
        assert_eq!(all_next(&mut queue, now), []);
        // Another rule of the same user does not help, and one of another user does.
        queue.add(&ada, &one);
        assert_eq!(all_next(&mut queue, now), []);
        queue.add(&cleo, &one);
        assert_eq!(queue.next_due(), None);
        assert_eq!(all_next(&mut queue, now), [(cleo.clone(), one.clone())]);
        queue.refused(&one, vec![ada, bob, cleo], now);
        let due = queue.next_due().unwrap();
        assert_eq!(due, now + RETRY.0 * 2);
        assert_eq!(all_next(&mut queue, due).len(), 1);
        queue.remove(&one);
        assert!(queue.chains[&1].lines.is_empty() && queue.chains[&1].turns.is_empty());
    }
}
