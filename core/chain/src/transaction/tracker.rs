//! The state machine: steps, checks, ends. Answers are in `answer`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use alloy::{
    consensus::Transaction as _,
    network::TransactionResponse as _,
    primitives::{Address, B256},
    rpc::types::Transaction,
};
use smallvec::SmallVec;
use tidewire_proto::v1::{TransactionState, TransactionStatus};

use super::{
    Interest, NodeRequest, StoredWatch, TransactionOptions,
    requests::as_call,
    watch::{BlockNumHash, Outcome, Phase, Watch},
};
use crate::{BlockData, ChainUpdate, decode::CustomErrors};

/// How many heights are remembered, to tell blocks of this chain from others.
const REMEMBERED: usize = 1_024;

/// Why a transaction cannot be watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// As many are watched as may be.
    #[error("{0} transactions are watched on this chain, which is the most that may be")]
    TooMany(usize),
}

/// What came of a call of the monitor.
#[derive(Debug, Default, PartialEq)]
pub struct TrackerOutput {
    /// States to publish, in order.
    pub states: Vec<TransactionStatus>,
    /// What to ask the node; the answers go to [`TransactionTracker::answered`].
    pub requests: Vec<NodeRequest>,
}

/// All watched transactions of a chain.
#[derive(Debug)]
pub struct TransactionTracker {
    pub(super) options: TransactionOptions,
    pub(super) errors: CustomErrors,
    pub(super) watches: HashMap<B256, Watch>,
    pub(super) by_account: HashMap<(Address, u64), SmallVec<[B256; 1]>>,
    /// Watches by the block that they depend on.
    pub(super) by_block: BTreeMap<BlockNumHash, BTreeSet<B256>>,
    /// Included, and not confirmed yet.
    pub(super) confirming: BTreeSet<B256>,
    /// Included, and the outcome could not be read yet.
    pub(super) unsettled: BTreeSet<B256>,
    pub(super) checks: BTreeSet<(i64, B256)>,
    pub(super) deadlines: BTreeSet<(i64, B256)>,
    pub(super) canonical: BTreeMap<u64, B256>,
    pub(super) head: Option<u64>,
    /// The newest block that the chain itself calls final.
    finalized: Option<u64>,
    pub(super) ended: HashMap<B256, TransactionStatus>,
    pub(super) ended_order: VecDeque<B256>,
    pub(super) changed: BTreeSet<B256>,
}

impl TransactionTracker {
    /// A monitor that watches nothing yet.
    #[must_use]
    pub fn new(options: TransactionOptions, errors: CustomErrors) -> Self {
        Self {
            options,
            errors,
            watches: HashMap::new(),
            by_account: HashMap::new(),
            by_block: BTreeMap::new(),
            confirming: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            checks: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            canonical: BTreeMap::new(),
            head: None,
            finalized: None,
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Watches a transaction. The first interest asks the node at once.
    ///
    /// # Errors
    /// Too many are watched.
    pub fn watch(
        &mut self,
        hash: B256,
        interest: Interest,
        now_ms: i64,
    ) -> Result<Vec<NodeRequest>, WatchError> {
        let is_new = !self.watches.contains_key(&hash);
        if is_new {
            if self.watches.len() >= self.options.max_watches {
                return Err(WatchError::TooMany(self.watches.len()));
            }
            self.insert(hash, None, Phase::Unknown, now_ms, now_ms);
        }
        if let Some(watch) = self.watches.get_mut(&hash) {
            match interest {
                Interest::Session => watch.sessions = watch.sessions.saturating_add(1),
                Interest::Durable(user) => {
                    watch.durable = Some(user.map(String::into_boxed_str));
                    self.changed.insert(hash);
                }
            }
        }
        if !is_new {
            return Ok(Vec::new());
        }
        self.schedule(hash, now_ms + 5_000);
        Ok(vec![NodeRequest::Transaction(hash)])
    }

    /// Watches a transaction that a pool has told of, for as long as somebody minds it. It
    /// is looked for in one of the next turns.
    pub fn mind(&mut self, hash: B256, account: (Address, u64), now_ms: i64) {
        if !self.watches.contains_key(&hash) {
            if self.watches.len() >= self.options.max_watches {
                return;
            }
            let phase = Phase::Pending { reorged: false };
            self.insert(hash, Some(account), phase, now_ms, now_ms);
            self.schedule(hash, now_ms + self.options.check_pause().min(5_000));
        }
        if let Some(watch) = self.watches.get_mut(&hash) {
            watch.sessions = watch.sessions.saturating_add(1);
        }
    }

    /// Takes an interest back; the last one ends the watch without a word.
    pub fn unwatch(&mut self, hash: &B256, interest: &Interest) {
        let Some(watch) = self.watches.get_mut(hash) else {
            return;
        };
        match interest {
            Interest::Session => watch.sessions = watch.sessions.saturating_sub(1),
            Interest::Durable(_) => {
                watch.durable = None;
                self.changed.insert(*hash);
            }
        }
        if watch.sessions == 0 && watch.durable.is_none() {
            self.remove(hash);
        }
    }

    /// The state of a transaction that is watched, or was until lately.
    #[must_use]
    pub fn status(&self, hash: &B256, now_ms: i64) -> Option<TransactionStatus> {
        let watch = self.watches.get(hash);
        let live = watch.map(|watch| self.describe(hash, watch, now_ms));
        live.or_else(|| self.ended.get(hash).cloned())
    }

    /// How many are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether none is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// One more block, and what it replaced.
    pub fn step(&mut self, step: &ChainUpdate, now_ms: i64) -> TrackerOutput {
        let mut output = TrackerOutput::default();
        for block in &step.retracted {
            self.retract(block, now_ms, &mut output);
        }
        let block = &step.included;
        self.head = Some(block.block.number);
        self.finalized = self.finalized.max(step.finalized);
        self.canonical.split_off(&block.block.number);
        self.canonical.insert(block.block.number, block.block.hash);
        if self.canonical.len() > REMEMBERED {
            self.canonical.pop_first();
        }
        self.count(now_ms, &mut output);
        for (place, transaction) in block.transactions.iter().enumerate() {
            self.transaction(block, place, transaction, now_ms, &mut output);
        }
        self.finalize(now_ms, &mut output);
        self.tick_into(now_ms, &mut output);
        output
    }

    /// Time passes: checks and limits.
    pub fn tick(&mut self, now_ms: i64) -> TrackerOutput {
        let mut output = TrackerOutput::default();
        self.tick_into(now_ms, &mut output);
        output
    }

    /// The chain went on without steps that tell all: everything is looked at again.
    pub fn resync(&mut self, now_ms: i64) {
        self.canonical.clear();
        self.head = None;
        let hashes: Vec<_> = self.watches.keys().copied().collect();
        for hash in hashes {
            if let Some(Phase::Included { at, .. }) = self.watches.get(&hash).map(|w| &w.phase) {
                let phase = Phase::Included {
                    at: *at,
                    outcome: None,
                };
                self.enter(hash, phase, now_ms);
            } else if let Some(Phase::Superseded { .. }) = self.watches.get(&hash).map(|w| &w.phase)
            {
                self.enter(hash, Phase::Pending { reorged: false }, now_ms);
            }
            self.schedule(hash, now_ms);
        }
    }

    /// All watches that outlive connections.
    #[must_use]
    pub fn export(&self) -> Vec<StoredWatch> {
        let stored = self.watches.iter();
        stored
            .filter_map(|(hash, watch)| watch.stored(*hash))
            .collect()
    }

    /// Takes a stored watch over. It is checked in one of the next turns.
    pub fn import(&mut self, stored: StoredWatch, now_ms: i64) {
        let hash = stored.hash;
        if !self.watches.contains_key(&hash) {
            let phase = stored.phase.into();
            self.insert(hash, stored.account, phase, stored.since, now_ms);
            self.schedule(hash, now_ms);
        }
        if let Some(watch) = self.watches.get_mut(&hash) {
            watch.durable = Some(stored.user.map(String::into_boxed_str));
            watch.abi = stored.abi.into();
        }
    }

    /// What to store since the last call: a watch as it is now, or none if it ended.
    pub fn take_changes(&mut self) -> Vec<(B256, Option<StoredWatch>)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let stored = |hash: &B256| self.watches.get(hash).and_then(|watch| watch.stored(*hash));
        changed.map(|hash| (hash, stored(&hash))).collect()
    }

    fn retract(&mut self, block: &BlockData, now_ms: i64, output: &mut TrackerOutput) {
        let at = BlockNumHash {
            number: block.block.number,
            hash: block.block.hash,
        };
        self.canonical.remove(&at.number);
        for hash in self.by_block.remove(&at).unwrap_or_default() {
            let was_told = self
                .watches
                .get(&hash)
                .is_some_and(|watch| !matches!(watch.phase, Phase::Included { outcome: None, .. }));
            self.enter(hash, Phase::Pending { reorged: true }, now_ms);
            self.schedule(hash, now_ms);
            // What was never said to be in a block is not said to have left it.
            if was_told {
                self.tell(hash, now_ms, output);
            }
        }
    }

    /// A transaction of a canonical block: one that is watched, or one that took its nonce.
    fn transaction(
        &mut self,
        block: &BlockData,
        place: usize,
        transaction: &Transaction,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let hash = transaction.tx_hash();
        let at = BlockNumHash {
            number: block.block.number,
            hash: block.block.hash,
        };
        let account = (transaction.from(), transaction.nonce());
        let others = self.by_account.get(&account).cloned().unwrap_or_default();
        for other in others.into_iter().filter(|other| *other != hash) {
            let cancelled = transaction.to() == Some(account.0)
                && transaction.value().is_zero()
                && transaction.input().is_empty();
            self.enter(
                other,
                Phase::Superseded {
                    at,
                    by: hash,
                    cancelled,
                },
                now_ms,
            );
            self.tell(other, now_ms, output);
        }
        if !self.watches.contains_key(&hash) {
            return;
        }
        self.set_account(hash, account);
        self.enter(hash, Phase::Included { at, outcome: None }, now_ms);
        let call = as_call(transaction);
        let receipt = block.receipts.get(place);
        match receipt.filter(|receipt| receipt.transaction_hash == hash) {
            None => output
                .requests
                .push(NodeRequest::Receipt { hash, at, call }),
            Some(receipt) => {
                let gas = (receipt.gas_used, receipt.effective_gas_price);
                if receipt.status() {
                    self.settle(hash, at, None, gas, now_ms, output);
                } else {
                    output.requests.push(NodeRequest::Reason {
                        hash,
                        at,
                        call,
                        gas,
                    });
                }
            }
        }
    }

    /// Inclusion came to something.
    pub(super) fn settle(
        &mut self,
        hash: B256,
        at: BlockNumHash,
        failure: Option<String>,
        gas: (u64, u128),
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let phase = self.watches.get_mut(&hash).map(|watch| &mut watch.phase);
        let Some(Phase::Included {
            at: now_at,
            outcome,
        }) = phase
        else {
            return;
        };
        // A reorg may have come before the answer.
        if *now_at != at || outcome.is_some() {
            return;
        }
        *outcome = Some(Outcome {
            failure: failure.map(String::into_boxed_str),
            gas_used: gas.0,
            gas_price: gas.1,
        });
        self.unsettled.remove(&hash);
        if self.confirmations(at) < self.options.required {
            self.confirming.insert(hash);
        }
        self.tell(hash, now_ms, output);
        self.finalize(now_ms, output);
    }

    /// Tells those that wait for confirmations what the new block makes of them.
    fn count(&mut self, now_ms: i64, output: &mut TrackerOutput) {
        for hash in self.confirming.clone() {
            self.tell(hash, now_ms, output);
            let at = self.watches.get(&hash).and_then(|watch| watch.phase.at());
            if at.is_none_or(|at| self.confirmations(at) >= self.options.required) {
                self.confirming.remove(&hash);
            }
        }
    }

    /// Ends what cannot be taken back any more.
    fn finalize(&mut self, now_ms: i64, output: &mut TrackerOutput) {
        let Some(head) = self.head else { return };
        let by_depth = (head + 1).checked_sub(self.options.finality_depth);
        // Where the chain says what is final, depth says nothing.
        let Some(last) = self.finalized.or(by_depth) else {
            return;
        };
        let last = last.min(head);
        let blocks: Vec<_> = self
            .by_block
            .range(
                ..=BlockNumHash {
                    number: last,
                    hash: B256::repeat_byte(0xFF),
                },
            )
            .map(|(at, hashes)| (*at, hashes.clone()))
            .collect();
        for (_, hashes) in blocks {
            for hash in hashes {
                let Some(watch) = self.watches.get(&hash) else {
                    continue;
                };
                match &watch.phase {
                    Phase::Included { outcome: None, .. } => continue,
                    Phase::Included {
                        outcome: Some(outcome),
                        ..
                    } if outcome.failure.is_none() => {
                        let mut status = self.describe(&hash, watch, now_ms);
                        status.set_state(TransactionState::Finalized);
                        self.end(hash, status.clone());
                        output.states.push(status);
                    }
                    _ => {
                        let status = self.describe(&hash, watch, now_ms);
                        self.end(hash, status);
                    }
                }
            }
        }
    }

    fn tick_into(&mut self, now_ms: i64, output: &mut TrackerOutput) {
        while let Some((deadline, hash)) = self.deadlines.first().copied() {
            if deadline > now_ms {
                break;
            }
            self.deadlines.pop_first();
            self.time_out(hash, now_ms, output);
        }
        let mut left = self.options.checks_per_turn;
        let asked: BTreeSet<_> = output.requests.iter().map(NodeRequest::hash).collect();
        let unsettled: Vec<_> = self.unsettled.iter().copied().take(left).collect();
        for hash in unsettled.into_iter().filter(|hash| !asked.contains(hash)) {
            left -= 1;
            output.requests.push(NodeRequest::Transaction(hash));
        }
        while left > 0 {
            let Some((due, hash)) = self.checks.first().copied() else {
                break;
            };
            if due > now_ms {
                break;
            }
            left -= 1;
            let pause = self.pause(&hash);
            self.schedule(hash, now_ms + pause);
            output.requests.push(NodeRequest::Transaction(hash));
        }
    }

    /// How long until a transaction is checked again: longer and longer, but not while it
    /// is missing.
    fn pause(&mut self, hash: &B256) -> i64 {
        let Some(watch) = self.watches.get_mut(hash) else {
            return i64::MAX / 2;
        };
        watch.checks = watch.checks.saturating_add(1);
        let is_unknown = watch.phase == Phase::Unknown;
        let shortest = self.options.check_pause();
        if watch.misses > 0 && !is_unknown {
            return shortest;
        }
        let longest = if is_unknown { 60_000 } else { 300_000 };
        let shortest = if is_unknown {
            5_000
        } else {
            shortest.min(5_000)
        };
        (shortest << watch.checks.min(10)).min(longest)
    }

    fn time_out(&mut self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.watches.get(&hash) else {
            return;
        };
        let minutes = (now_ms - watch.since) / 60_000;
        let mut status = self.describe(&hash, watch, now_ms);
        let known = status.reason.take().map(|reason| format!("; {reason}"));
        let what = match &watch.phase {
            Phase::Unknown => "no node has seen it",
            Phase::Pending { .. } => "it is still pending",
            Phase::Included { outcome: None, .. } => "its receipt could not be read",
            Phase::Included { .. } | Phase::Superseded { .. } => "its block is not final yet",
        };
        status.reason = Some(format!(
            "timed out: {what} after {minutes} minutes{}",
            known.unwrap_or_default()
        ));
        self.end(hash, status.clone());
        output.states.push(status);
    }
}
