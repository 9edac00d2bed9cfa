//! The monitor's tables: every change of a watch goes through here, so that they agree.

use alloy::primitives::{Address, B256};
use tidewire_proto::v1::{TransactionState, TransactionStatus};

use super::{
    tracker::{TrackerOutput, TransactionTracker},
    watch::{BlockNumHash, Phase, Watch},
};

impl TransactionTracker {
    pub(super) fn insert(
        &mut self,
        hash: B256,
        account: Option<(Address, u64)>,
        phase: Phase,
        since: i64,
        now_ms: i64,
    ) {
        let watch = Watch {
            account: None,
            phase: Phase::Unknown,
            since,
            next_check: i64::MAX,
            deadline: i64::MAX,
            checks: 0,
            misses: 0,
            first_miss: 0,
            sessions: 0,
            durable: None,
            abi: Vec::new().into(),
        };
        self.watches.insert(hash, watch);
        if let Some(account) = account {
            self.set_account(hash, account);
        }
        self.enter(hash, phase, now_ms);
        self.set_since(hash, since);
    }

    /// Puts a watch into a phase that begins now.
    pub(super) fn enter(&mut self, hash: B256, phase: Phase, now_ms: i64) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        let before = watch.phase.at();
        let after = phase.at();
        let is_unsettled = matches!(phase, Phase::Included { outcome: None, .. });
        watch.phase = phase;
        (watch.checks, watch.misses) = (0, 0);
        self.note(hash);
        if let Some(at) = before {
            self.leave_block(at, &hash);
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

    /// Sets when the phase began, and with it when it is given up.
    fn set_since(&mut self, hash: B256, since: i64) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        let limit = match watch.phase {
            Phase::Unknown => self.options.unknown_limit,
            Phase::Pending { .. } => self.options.pending_limit,
            Phase::Included { .. } | Phase::Superseded { .. } => self.options.settle_limit,
        };
        watch.since = since;
        self.deadlines.remove(&(watch.deadline, hash));
        watch.deadline = since.saturating_add(limit);
        self.deadlines.insert((watch.deadline, hash));
    }

    /// Sets when a transaction is checked next; never, if its block says all.
    pub(super) fn schedule(&mut self, hash: B256, at_ms: i64) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        self.checks.remove(&(watch.next_check, hash));
        watch.next_check = at_ms;
        if at_ms < i64::MAX && watch.phase.at().is_none() {
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
        self.note(hash);
    }

    /// The final state is reached.
    pub(super) fn end(&mut self, hash: B256, status: TransactionStatus) {
        self.note(hash);
        self.remove(&hash);
        if self.ended.insert(hash, status).is_none() {
            self.ended_order.push_back(hash);
        }
        if self.ended_order.len() > self.options.max_ended
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    pub(super) fn remove(&mut self, hash: &B256) {
        let Some(watch) = self.watches.remove(hash) else {
            return;
        };
        self.checks.remove(&(watch.next_check, *hash));
        self.deadlines.remove(&(watch.deadline, *hash));
        self.confirming.remove(hash);
        self.unsettled.remove(hash);
        if let Some(at) = watch.phase.at() {
            self.leave_block(at, hash);
        }
        if let Some(account) = watch.account
            && let Some(hashes) = self.by_account.get_mut(&account)
        {
            hashes.retain(|other| other != hash);
            if hashes.is_empty() {
                self.by_account.remove(&account);
            }
        }
    }

    fn leave_block(&mut self, at: BlockNumHash, hash: &B256) {
        if let Some(hashes) = self.by_block.get_mut(&at) {
            hashes.remove(hash);
            if hashes.is_empty() {
                self.by_block.remove(&at);
            }
        }
    }

    /// Remembers that what is stored of a watch is not what it is.
    pub(super) fn note(&mut self, hash: B256) {
        if self
            .watches
            .get(&hash)
            .is_some_and(|watch| watch.durable.is_some())
        {
            self.changed.insert(hash);
        }
    }

    /// How many blocks confirm what `at` holds.
    pub(super) fn confirmations(&self, at: BlockNumHash) -> u32 {
        let head = self.head.unwrap_or(at.number).max(at.number);
        u32::try_from(head - at.number + 1).unwrap_or(u32::MAX)
    }

    /// Whether a block that a node names is one of this chain, as far as is known. Blocks
    /// past the head are not: their step comes.
    pub(super) fn is_canonical(&self, at: BlockNumHash) -> bool {
        if self.head.is_some_and(|head| at.number > head) {
            return false;
        }
        let known = self.canonical.get(&at.number);
        known.is_none_or(|hash| *hash == at.hash)
    }

    pub(super) fn tell(&self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        if let Some(watch) = self.watches.get(&hash) {
            output.states.push(self.describe(&hash, watch, now_ms));
        }
    }

    /// The state as it is told.
    pub(super) fn describe(&self, hash: &B256, watch: &Watch, now_ms: i64) -> TransactionStatus {
        let mut status = TransactionStatus {
            chain: self.options.chain,
            hash: hash.to_string(),
            required: self.options.required,
            from: watch.account.map(|(from, _)| format!("{from:?}")),
            nonce: watch.account.map(|(_, nonce)| nonce),
            timestamp: now_ms,
            ..TransactionStatus::default()
        };
        let state = match &watch.phase {
            Phase::Unknown => {
                status.since = Some(watch.since);
                status.reason = Some(format!(
                    "no node has seen it, looking since {}",
                    watch.since
                ));
                TransactionState::Unknown
            }
            Phase::Pending { reorged } => {
                status.reorged = reorged.then_some(true);
                TransactionState::Pending
            }
            // Not told before the outcome is known: whoever asks meanwhile gets this.
            Phase::Included { outcome: None, .. } => TransactionState::Pending,
            Phase::Included {
                at,
                outcome: Some(outcome),
            } => {
                status.confirmations = self.confirmations(*at);
                status.block_number = Some(at.number);
                status.block_hash = Some(at.hash.to_string());
                status.gas_used = Some(outcome.gas_used);
                status.effective_gas_price = Some(outcome.gas_price.to_string());
                status.reason = outcome.failure.as_ref().map(ToString::to_string);
                match outcome.failure {
                    Some(_) => TransactionState::Failed,
                    None if status.confirmations >= self.options.required => {
                        TransactionState::Confirmed
                    }
                    None => TransactionState::Confirming,
                }
            }
            Phase::Superseded { by, cancelled, .. } => {
                status.replaced_by = Some(by.to_string());
                if *cancelled {
                    TransactionState::Cancelled
                } else {
                    TransactionState::Replaced
                }
            }
        };
        status.set_state(state);
        status
    }
}
