//! Watch table: all watches of a chain, indexed by account, block, next check and deadline.
//!
//! Every change of a watch's phase or schedule goes through the table, so that the indexes agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy::primitives::{Address, B256};
use smallvec::SmallVec;

use super::{
    TransactionOptions, WatchSlot,
    watch::{BlockNumHash, Outcome, Phase, Watch},
};

/// All watches of a chain.
#[derive(Debug)]
pub(super) struct WatchTable {
    unknown_limit: i64,
    pending_limit: i64,
    settle_limit: i64,
    watches: HashMap<B256, Watch>,
    by_account: HashMap<(Address, u64), SmallVec<[B256; 1]>>,
    by_block: BTreeMap<BlockNumHash, BTreeSet<B256>>,
    /// Included and settled, with too few confirmations yet.
    confirming: BTreeSet<B256>,
    /// Included, with an unknown outcome.
    unsettled: BTreeSet<B256>,
    checks: BTreeSet<(i64, B256)>,
    deadlines: BTreeSet<(i64, B256)>,
    /// Durable watches whose row in the store is out of date.
    changed: BTreeSet<B256>,
}

impl WatchTable {
    pub(super) fn new(options: &TransactionOptions) -> Self {
        Self {
            unknown_limit: options.unknown_limit,
            pending_limit: options.pending_limit,
            settle_limit: options.settle_limit,
            watches: HashMap::new(),
            by_account: HashMap::new(),
            by_block: BTreeMap::new(),
            confirming: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            checks: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    pub(super) fn contains(&self, hash: &B256) -> bool {
        self.watches.contains_key(hash)
    }

    pub(super) fn get(&self, hash: &B256) -> Option<&Watch> {
        self.watches.get(hash)
    }

    /// A watch to change in fields that no index depends on.
    pub(super) fn get_mut(&mut self, hash: &B256) -> Option<&mut Watch> {
        self.watches.get_mut(hash)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&B256, &Watch)> {
        self.watches.iter()
    }

    /// The watches of transactions with this sender and nonce.
    pub(super) fn of_account(&self, account: &(Address, u64)) -> SmallVec<[B256; 1]> {
        self.by_account.get(account).cloned().unwrap_or_default()
    }

    /// The watches that depend on blocks up to a height, by block.
    pub(super) fn up_to(&self, number: u64) -> Vec<B256> {
        let last = BlockNumHash {
            number,
            hash: B256::repeat_byte(0xFF),
        };
        let blocks = self.by_block.range(..=last);
        blocks.flat_map(|(_, hashes)| hashes).copied().collect()
    }

    /// Removes a retracted block from the index, and returns the watches that depended on it.
    pub(super) fn take_block(&mut self, at: &BlockNumHash) -> BTreeSet<B256> {
        self.by_block.remove(at).unwrap_or_default()
    }

    pub(super) fn confirming(&self) -> BTreeSet<B256> {
        self.confirming.clone()
    }

    pub(super) fn add_confirming(&mut self, hash: B256) {
        self.confirming.insert(hash);
    }

    pub(super) fn remove_confirming(&mut self, hash: &B256) {
        self.confirming.remove(hash);
    }

    /// Up to `count` watches that are included, with an unknown outcome.
    pub(super) fn unsettled(&self, count: usize) -> Vec<B256> {
        self.unsettled.iter().copied().take(count).collect()
    }

    /// The watch whose check is due first, if one is due.
    pub(super) fn due_check(&self, now_ms: i64) -> Option<B256> {
        let (due, hash) = self.checks.first()?;
        (*due <= now_ms).then_some(*hash)
    }

    /// Takes the watch whose deadline passed first, if one passed.
    pub(super) fn pop_expired(&mut self, now_ms: i64) -> Option<B256> {
        let (deadline, _) = self.deadlines.first()?;
        if *deadline > now_ms {
            return None;
        }
        self.deadlines.pop_first().map(|(_, hash)| hash)
    }

    /// Adds the watch of a slot's transaction.
    pub(super) fn insert(
        &mut self,
        slot: WatchSlot,
        account: Option<(Address, u64)>,
        phase: Phase,
        since: i64,
        now_ms: i64,
    ) {
        let hash = slot.transaction();
        let watch = Watch {
            _slot: slot,
            account: None,
            phase: Phase::Unknown,
            since,
            next_check: i64::MAX,
            deadline: i64::MAX,
            checks: 0,
            misses: 0,
            first_miss: 0,
            transfer: None,
            is_missed: false,
            sessions: 0,
            durable: None,
            rules: false,
            abi: Vec::new().into(),
        };
        self.watches.insert(hash, watch);
        if let Some(account) = account {
            self.set_account(hash, account);
        }
        self.set_phase(hash, phase, now_ms);
        self.set_since(hash, since);
    }

    /// Begins a phase of a watch.
    pub(super) fn set_phase(&mut self, hash: B256, phase: Phase, now_ms: i64) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        let before = watch.phase.block();
        let after = phase.block();
        let is_unsettled = phase.is_unsettled();
        watch.phase = phase;
        (watch.checks, watch.misses) = (0, 0);
        self.mark_changed(hash);
        if let Some(at) = before {
            self.remove_from_block(at, &hash);
        }
        self.confirming.remove(&hash);
        self.unsettled.remove(&hash);
        if is_unsettled {
            self.unsettled.insert(hash);
        }
        if let Some(at) = after {
            self.by_block.entry(at).or_default().insert(hash);
            self.schedule(hash, i64::MAX);
        }
        self.set_since(hash, now_ms);
    }

    /// Sets the outcome of an included transaction. Returns false if a reorg moved it since, or
    /// its outcome is known.
    pub(super) fn set_outcome(&mut self, hash: &B256, block: BlockNumHash, known: Outcome) -> bool {
        let phase = self.watches.get_mut(hash).map(|watch| &mut watch.phase);
        let Some(Phase::Included { at, outcome }) = phase else {
            return false;
        };
        if *at != block || outcome.is_some() {
            return false;
        }
        *outcome = Some(known);
        self.unsettled.remove(hash);
        true
    }

    /// Sets the start of the phase, and the deadline that follows from it.
    fn set_since(&mut self, hash: B256, since: i64) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        let limit = match watch.phase {
            Phase::Unknown => self.unknown_limit,
            Phase::Pending { .. } => self.pending_limit,
            Phase::Included { .. } | Phase::Superseded { .. } => self.settle_limit,
        };
        watch.since = since;
        self.deadlines.remove(&(watch.deadline, hash));
        watch.deadline = since.saturating_add(limit);
        self.deadlines.insert((watch.deadline, hash));
    }

    /// Sets the time of the next check. A transaction in a block needs none.
    pub(super) fn schedule(&mut self, hash: B256, at_ms: i64) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        self.checks.remove(&(watch.next_check, hash));
        watch.next_check = at_ms;
        if at_ms < i64::MAX && watch.phase.block().is_none() {
            self.checks.insert((at_ms, hash));
        }
    }

    pub(super) fn set_account(&mut self, hash: B256, account: (Address, u64)) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        if watch.account == Some(account) {
            return;
        }
        watch.account = Some(account);
        self.by_account.entry(account).or_default().push(hash);
        self.mark_changed(hash);
    }

    pub(super) fn remove(&mut self, hash: &B256) {
        let Some(watch) = self.watches.remove(hash) else {
            return;
        };
        self.checks.remove(&(watch.next_check, *hash));
        self.deadlines.remove(&(watch.deadline, *hash));
        self.confirming.remove(hash);
        self.unsettled.remove(hash);
        if let Some(at) = watch.phase.block() {
            self.remove_from_block(at, hash);
        }
        if let Some(account) = watch.account
            && let Some(hashes) = self.by_account.get_mut(&account)
        {
            hashes.retain(|other| other != hash);
            if hashes.is_empty() {
                self.by_account.remove(&account);
            }
        }
        if watch.is_durable() {
            self.changed.insert(*hash);
        }
    }

    fn remove_from_block(&mut self, at: BlockNumHash, hash: &B256) {
        if let Some(hashes) = self.by_block.get_mut(&at) {
            hashes.remove(hash);
            if hashes.is_empty() {
                self.by_block.remove(&at);
            }
        }
    }

    /// Marks the stored row of a durable watch as out of date.
    pub(super) fn mark_changed(&mut self, hash: B256) {
        let watch = self.watches.get(&hash);
        if watch.is_some_and(Watch::is_durable) {
            self.changed.insert(hash);
        }
    }

    /// Marks the stored row of a watch as out of date in which somebody is no longer interested.
    pub(super) fn mark_removed(&mut self, hash: B256) {
        self.changed.insert(hash);
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<B256> {
        std::mem::take(&mut self.changed)
    }
}
