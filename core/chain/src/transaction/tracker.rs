//! Transaction tracker: applies blocks, checks and time-outs to the watches. `responses` holds
//! the part that reads responses of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, UNIX_EPOCH},
};

use alloy::{
    consensus::Transaction as _,
    primitives::{Address, B256},
    rpc::types::Transaction,
};
use alloy_network_primitives::TransactionResponse as _;
use serde_json::Value;
use smallvec::SmallVec;
use tidewire_proto::v1::{TransactionState, TransactionStatus};

use super::{
    Interest, NodeRequest, RequestOwner, StoredWatch, TransactionOptions, WatchSlot, WatchSlots,
    canonical::{CanonicalChain, num_hash},
    ended::{EndedStatuses, EndedWatch},
    requests::{as_call, transfer},
    watch::{BlockNumHash, Outcome, Phase, Transfer, Watch},
    watch_table::WatchTable,
};
use crate::{BlockData, ChainUpdate, decode::CustomErrors, receipt::parsed_outcome};

/// The first check of an unknown transaction, in milliseconds after the watch began.
const FIRST_CHECK_MS: i64 = 5_000;

/// Users whom one watched transaction can concern.
const MAX_USERS: usize = 100;

/// The begin of the reason of a watch that reached no final state in time.
const TIMED_OUT: &str = "timed out: ";

/// Whether a watch ended with this status, although no final block shows it. The transaction may
/// still be sent again and included: watch it anew to learn that.
#[must_use]
pub fn is_provisional_end(status: &TransactionStatus) -> bool {
    match status.state() {
        TransactionState::Dropped => true,
        // The block of another transaction names it.
        TransactionState::Replaced if status.replaced_by.is_none() => true,
        _ => {
            let reason = status.reason.as_deref().unwrap_or_default();
            reason.starts_with(TIMED_OUT)
        }
    }
}

/// Why a transaction cannot be watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The chain has its maximum of watched transactions.
    #[error("{0} transactions are watched on this chain, which is the maximum")]
    TooMany(usize),
    /// A client has its share of them.
    #[error("{0} transactions are watched for this client, which is its share")]
    TooManyOfClient(u32),
    /// A connection has its share of its client's.
    #[error("{0} transactions are watched for this connection, which is its share")]
    TooManyOfConnection(u32),
    /// The transaction concerns its maximum of users.
    #[error("the transaction is watched for {MAX_USERS} users, which is the maximum")]
    TooManyUsers,
}

/// Output of a call of the tracker: statuses to publish and requests to send.
#[derive(Debug, Default, PartialEq)]
pub struct TrackerOutput {
    /// Statuses to publish, in order.
    pub statuses: Vec<TransactionStatus>,
    /// Requests to send; the responses go to [`TransactionTracker::apply_responses`].
    pub requests: Vec<NodeRequest>,
    /// Watches that ended without a final block. A later subscription watches anew.
    pub ended: Vec<B256>,
    /// Whom the transactions of the statuses concern, if back ends watch them for users.
    pub concerns: BTreeMap<B256, Concern>,
}

/// The users for whom back ends watch a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// Their ids.
    pub users: Vec<Box<str>>,
    /// The transfer of the transaction, once known.
    pub transfer: Option<Transfer>,
}

/// All watched transactions of a chain.
#[derive(Debug)]
pub struct TransactionTracker {
    pub(super) options: TransactionOptions,
    pub(super) errors: CustomErrors,
    pub(super) table: WatchTable,
    pub(super) chain: CanonicalChain,
    slots: WatchSlots,
    /// The ends that final blocks show.
    ended: EndedStatuses,
}

impl TransactionTracker {
    /// A tracker that watches nothing yet, and explains failures by `errors`.
    #[must_use]
    pub fn new(options: TransactionOptions, errors: CustomErrors) -> Self {
        Self {
            table: WatchTable::new(&options),
            chain: CanonicalChain::default(),
            ended: EndedStatuses::new(options.max_ended),
            slots: WatchSlots::new(options.max_watches),
            options,
            errors,
        }
    }

    /// The same tracker, whose watches take these places.
    #[must_use]
    pub fn with_slots(mut self, slots: WatchSlots) -> Self {
        self.slots = slots;
        self
    }

    /// Reserves the place of a transaction for the owner of a request.
    ///
    /// # Errors
    /// The chain has its maximum of watched transactions, or the owner its share.
    pub(crate) fn reserve(
        &self,
        hash: B256,
        owner: &RequestOwner,
    ) -> Result<WatchSlot, WatchError> {
        self.slots.reserve_for(hash, owner)
    }

    /// Watches a transaction. The first interest returns a request to look for it.
    ///
    /// # Errors
    /// The chain has its maximum of watched transactions, or the transaction its maximum of users.
    pub fn watch(
        &mut self,
        hash: B256,
        interest: Interest,
        now_ms: i64,
    ) -> Result<Vec<NodeRequest>, WatchError> {
        let is_new = !self.table.contains(&hash);
        if is_new {
            let slot = self.slots.reserve(hash)?;
            let phase = Phase::Unknown;
            self.table.insert(slot, None, phase, now_ms, now_ms);
        }
        if let Some(watch) = self.table.get_mut(&hash) {
            match interest {
                Interest::Session => watch.sessions = watch.sessions.saturating_add(1),
                Interest::Rules => {
                    watch.rules = true;
                    self.table.mark_changed(hash);
                }
                Interest::Durable(user) => {
                    let users = watch.durable.get_or_insert_default();
                    let user = user.map(String::into_boxed_str);
                    if let Some(user) = user
                        && let Err(place) = users.binary_search(&user)
                    {
                        if users.len() >= MAX_USERS {
                            return Err(WatchError::TooManyUsers);
                        }
                        users.insert(place, user);
                    }
                    self.table.mark_changed(hash);
                }
            }
        }
        if !is_new {
            return Ok(Vec::new());
        }
        self.table.schedule(hash, now_ms + FIRST_CHECK_MS);
        Ok(vec![NodeRequest::Transaction(hash)])
    }

    /// Watches a transaction that a mempool reported, with a session's interest. The node is
    /// called at one of the next ticks. At the maximum of watches nothing happens.
    pub fn watch_pending(&mut self, hash: B256, account: (Address, u64), now_ms: i64) {
        if !self.table.contains(&hash) {
            let Ok(slot) = self.slots.reserve(hash) else {
                return;
            };
            let phase = Phase::Pending { reorged: false };
            self.table
                .insert(slot, Some(account), phase, now_ms, now_ms);
            let interval = self.options.check_interval().min(FIRST_CHECK_MS);
            self.table.schedule(hash, now_ms + interval);
        }
        if let Some(watch) = self.table.get_mut(&hash) {
            watch.sessions = watch.sessions.saturating_add(1);
        }
    }

    /// Removes an interest. The last one ends the watch, and nothing is published.
    pub fn unwatch(&mut self, hash: &B256, interest: &Interest) {
        let Some(watch) = self.table.get_mut(hash) else {
            return;
        };
        match interest {
            Interest::Session => watch.sessions = watch.sessions.saturating_sub(1),
            Interest::Durable(_) => watch.durable = None,
            Interest::Rules => watch.rules = false,
        }
        let is_unused = watch.sessions == 0 && !watch.is_durable();
        if !matches!(interest, Interest::Session) {
            self.table.mark_removed(*hash);
        }
        if is_unused {
            self.table.remove(hash);
        }
    }

    /// The status of a transaction that is watched, or that a final block settled not long ago.
    #[must_use]
    pub fn status(&self, hash: &B256, now_ms: i64) -> Option<TransactionStatus> {
        let watch = self.table.get(hash);
        let live = watch.map(|watch| self.describe(hash, watch, now_ms));
        live.or_else(|| self.ended.get(hash).cloned())
    }

    /// Whether a transaction is watched.
    #[must_use]
    pub fn is_watched(&self, hash: &B256) -> bool {
        self.table.contains(hash)
    }

    /// The number of watched transactions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no transaction is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Applies an update of the chain: its retractions, its block, then due checks.
    pub fn apply(&mut self, update: &ChainUpdate, now_ms: i64) -> TrackerOutput {
        let mut output = TrackerOutput::default();
        for block in &update.retracted {
            self.retract(block, now_ms, &mut output);
        }
        let block = &update.included;
        self.chain.include(update);
        self.count_confirmations(now_ms, &mut output);
        for (position, transaction) in block.transactions.iter().enumerate() {
            self.include(block, position, transaction, now_ms, &mut output);
        }
        self.finalize(now_ms, &mut output);
        self.check_due(now_ms, &mut output);
        output
    }

    /// Ends watches whose time is up, and returns requests for those whose check is due.
    pub fn tick(&mut self, now_ms: i64) -> TrackerOutput {
        let mut output = TrackerOutput::default();
        self.check_due(now_ms, &mut output);
        output
    }

    /// Goes on from a stored block, by which confirmations are counted until the first update.
    pub fn resume(&mut self, tip: BlockNumHash) {
        self.chain.resume(tip);
    }

    /// Checks every transaction again, because blocks before the newest update are unknown.
    pub fn resync(&mut self, now_ms: i64) {
        self.chain.forget_before_head();
        let phases: Vec<_> = self
            .table
            .iter()
            .map(|(hash, watch)| (*hash, watch.phase.clone()))
            .collect();
        for (hash, phase) in phases {
            match phase {
                Phase::Included { at, .. } => {
                    let phase = Phase::Included { at, outcome: None };
                    self.table.set_phase(hash, phase, now_ms);
                }
                Phase::Superseded { .. } => {
                    let phase = Phase::Pending { reorged: false };
                    self.table.set_phase(hash, phase, now_ms);
                }
                Phase::Unknown | Phase::Pending { .. } => {}
            }
            self.table.schedule(hash, now_ms);
        }
    }

    /// All watches that a back end or a rule is interested in.
    #[must_use]
    pub fn export(&self) -> Vec<StoredWatch> {
        let watches = self.table.iter();
        watches
            .filter_map(|(hash, watch)| watch.stored(*hash))
            .collect()
    }

    /// Adds a stored watch. It is checked at one of the next ticks.
    pub fn import(&mut self, stored: StoredWatch, now_ms: i64) {
        let hash = stored.hash;
        if !self.table.contains(&hash) {
            let (slot, phase) = (self.slots.occupy(hash), stored.phase.into());
            self.table
                .insert(slot, stored.account, phase, stored.since, now_ms);
            self.table.schedule(hash, now_ms);
        }
        if let Some(watch) = self.table.get_mut(&hash) {
            let users = stored.user.into_iter().chain(stored.further_users);
            let mut users: SmallVec<_> = users.map(String::into_boxed_str).collect();
            users.sort_unstable();
            users.dedup();
            watch.durable = (!stored.only_rules).then_some(users);
            watch.rules = stored.rules;
            watch.abi = stored.abi.into();
        }
    }

    /// Takes the changes for the store since the last call: a watch, or `None` if it ended.
    pub fn take_changes(&mut self) -> Vec<(B256, Option<StoredWatch>)> {
        let changed = self.table.take_changed().into_iter();
        let stored = |hash: &B256| self.table.get(hash).and_then(|watch| watch.stored(*hash));
        changed.map(|hash| (hash, stored(&hash))).collect()
    }

    fn retract(&mut self, block: &BlockData, now_ms: i64, output: &mut TrackerOutput) {
        let at = num_hash(block);
        self.chain.retract(&at);
        self.reopen(&at, now_ms, output);
        for hash in self.table.take_block(&at) {
            let watch = self.table.get(&hash);
            // Without an outcome the inclusion was never published, so neither is its end.
            let was_published = watch.is_some_and(|watch| !watch.phase.is_unsettled());
            let phase = Phase::Pending { reorged: true };
            self.table.set_phase(hash, phase, now_ms);
            self.table.schedule(hash, now_ms);
            if was_published {
                self.publish(hash, now_ms, output);
            }
        }
    }

    /// Watches the transactions again that ended in a block which a reorg retracts although it was
    /// called final.
    fn reopen(&mut self, at: &BlockNumHash, now_ms: i64, output: &mut TrackerOutput) {
        for (hash, ended) in self.ended.take_block(at) {
            tracing::warn!(chain = self.options.chain, %hash, number = at.number, "a reorg retracts a final transaction: an endpoint called its block final too early");
            if self.table.contains(&hash) {
                continue;
            }
            let slot = self.slots.occupy(hash);
            let phase = Phase::Pending { reorged: true };
            self.table
                .insert(slot, ended.account, phase, now_ms, now_ms);
            if let Some(watch) = self.table.get_mut(&hash) {
                watch.durable = ended.durable;
                watch.rules = ended.rules;
                watch.transfer = ended.transfer;
                watch.abi = ended.abi;
            }
            self.table.mark_changed(hash);
            self.table.schedule(hash, now_ms);
            self.publish(hash, now_ms, output);
        }
    }

    /// Applies a transaction of a canonical block, if it is watched or used a watched nonce.
    fn include(
        &mut self,
        block: &BlockData,
        position: usize,
        transaction: &Transaction,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let hash = transaction.tx_hash();
        let at = num_hash(block);
        let account = (transaction.from(), transaction.nonce());
        let same_nonce = self.table.of_account(&account).into_iter();
        for other in same_nonce.filter(|other| *other != hash) {
            let cancelled = transaction.to() == Some(account.0)
                && transaction.value().is_zero()
                && transaction.input().is_empty();
            let phase = Phase::Superseded {
                at,
                by: hash,
                cancelled,
            };
            self.table.set_phase(other, phase, now_ms);
            self.publish(other, now_ms, output);
        }
        if !self.table.contains(&hash) {
            return;
        }
        self.table.set_account(hash, account);
        let phase = Phase::Included { at, outcome: None };
        self.table.set_phase(hash, phase, now_ms);
        let call = as_call(transaction);
        self.set_transfer(&hash, &call);
        let known = block.receipt_of(position).and_then(|receipt| {
            let gas = (receipt.gas_used, receipt.effective_gas_price);
            Some((parsed_outcome(receipt)?, gas))
        });
        match known {
            Some((true, gas)) => self.settle(hash, at, None, gas, now_ms, output),
            Some((false, gas)) => output.requests.push(NodeRequest::Reason {
                hash,
                at,
                call,
                gas,
            }),
            None => output.requests.push(NodeRequest::Receipt {
                hash,
                at,
                index: Some(position as u64),
                call,
            }),
        }
    }

    /// Sets the outcome of an included transaction, and publishes it.
    pub(super) fn settle(
        &mut self,
        hash: B256,
        at: BlockNumHash,
        failure: Option<String>,
        (gas_used, gas_price): (u64, u128),
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let outcome = Outcome {
            failure: failure.map(String::into_boxed_str),
            gas_used,
            gas_price,
        };
        if !self.table.set_outcome(&hash, at, outcome) {
            return;
        }
        let confirmations = self.chain.confirmations(at);
        if confirmations.is_none_or(|count| count < self.options.required) {
            self.table.add_confirming(hash);
        }
        // Without a block to count from, the first update publishes it.
        if confirmations.is_some() {
            self.publish(hash, now_ms, output);
        }
        self.finalize(now_ms, output);
    }

    /// Publishes one more confirmation for each confirming transaction.
    fn count_confirmations(&mut self, now_ms: i64, output: &mut TrackerOutput) {
        for hash in self.table.confirming() {
            self.publish(hash, now_ms, output);
            let at = self.table.get(&hash).and_then(|watch| watch.phase.block());
            let confirmations = at.and_then(|at| self.chain.confirmations(at));
            if confirmations.is_none_or(|count| count >= self.options.required) {
                self.table.remove_confirming(&hash);
            }
        }
    }

    /// Ends the watches whose block is final.
    fn finalize(&mut self, now_ms: i64, output: &mut TrackerOutput) {
        let Some(last) = self.chain.last_final(self.options.finality_depth) else {
            return;
        };
        for hash in self.table.up_to(last) {
            let Some(watch) = self.table.get(&hash) else {
                continue;
            };
            if watch.phase.is_unsettled() {
                continue;
            }
            let is_success = matches!(
                &watch.phase,
                Phase::Included { outcome: Some(outcome), .. } if outcome.failure.is_none()
            );
            let mut status = self.describe(&hash, watch, now_ms);
            if is_success {
                status.set_state(TransactionState::Finalized);
                self.push(hash, status.clone(), output);
            }
            let at = watch.phase.block();
            let ended = EndedWatch {
                status,
                at,
                account: watch.account,
                transfer: watch.transfer.clone(),
                durable: watch.durable.clone(),
                rules: watch.rules,
                abi: watch.abi.clone(),
            };
            self.table.remove(&hash);
            self.ended.insert(hash, ended);
        }
    }

    fn check_due(&mut self, now_ms: i64, output: &mut TrackerOutput) {
        while let Some(hash) = self.table.pop_expired(now_ms) {
            self.time_out(hash, now_ms, output);
        }
        let mut left = self.options.checks_per_tick;
        let requested: BTreeSet<_> = output.requests.iter().map(NodeRequest::hash).collect();
        let unsettled = self.table.unsettled(left).into_iter();
        for hash in unsettled.filter(|hash| !requested.contains(hash)) {
            left -= 1;
            output.requests.push(NodeRequest::Transaction(hash));
        }
        while left > 0 {
            let Some(hash) = self.table.due_check(now_ms) else {
                break;
            };
            left -= 1;
            let interval = self.next_interval(&hash);
            self.table.schedule(hash, now_ms + interval);
            output.requests.push(NodeRequest::Transaction(hash));
        }
    }

    /// The time until the next check of a transaction. It doubles with each check, but not while
    /// the transaction is missing.
    fn next_interval(&mut self, hash: &B256) -> i64 {
        let Some(watch) = self.table.get_mut(hash) else {
            return i64::MAX / 2;
        };
        watch.checks = watch.checks.saturating_add(1);
        let is_unknown = watch.phase == Phase::Unknown;
        let missing = self.options.check_interval();
        if watch.misses > 0 && !is_unknown {
            return missing;
        }
        let longest = if is_unknown { 60_000 } else { 300_000 };
        let shortest = if is_unknown {
            FIRST_CHECK_MS
        } else {
            missing.min(FIRST_CHECK_MS)
        };
        (shortest << watch.checks.min(10)).min(longest)
    }

    fn time_out(&mut self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.table.get(&hash) else {
            return;
        };
        let minutes = (now_ms - watch.since) / 60_000;
        let mut status = self.describe(&hash, watch, now_ms);
        let reason = status.reason.take().map(|reason| format!("; {reason}"));
        let what = match &watch.phase {
            Phase::Unknown => watch.why_unknown(),
            Phase::Pending { .. } => "it is still pending",
            Phase::Included { outcome: None, .. } => "its receipt could not be read",
            Phase::Included { .. } | Phase::Superseded { .. } => "its block is not final yet",
        };
        status.reason = Some(format!(
            "{TIMED_OUT}{what} after {minutes} minutes{}",
            reason.unwrap_or_default()
        ));
        self.end_provisionally(hash, status, output);
    }

    /// Ends a watch with a status that no final block shows. It is not remembered, so that the
    /// next request asks the nodes.
    pub(super) fn end_provisionally(
        &mut self,
        hash: B256,
        status: TransactionStatus,
        output: &mut TrackerOutput,
    ) {
        self.push(hash, status, output);
        self.table.remove(&hash);
        output.ended.push(hash);
    }

    pub(super) fn publish(&self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        if let Some(watch) = self.table.get(&hash) {
            self.push(hash, self.describe(&hash, watch, now_ms), output);
        }
    }

    /// Adds a status to publish, with those whom it concerns.
    fn push(&self, hash: B256, status: TransactionStatus, output: &mut TrackerOutput) {
        if let Some(concern) = self.concern(&hash) {
            output.concerns.insert(hash, concern);
        }
        output.statuses.push(status);
    }

    /// The users for whom back ends watch a transaction. None if there are none.
    #[must_use]
    pub fn concern(&self, hash: &B256) -> Option<Concern> {
        let watch = self.table.get(hash)?;
        let users: Vec<_> = watch.durable.iter().flatten().cloned().collect();
        let transfer = watch.transfer.as_deref().cloned();
        (!users.is_empty()).then_some(Concern { users, transfer })
    }

    /// Notes what a transaction moves.
    pub(super) fn set_transfer(&mut self, hash: &B256, call: &Value) {
        if let Some(watch) = self.table.get_mut(hash) {
            watch.transfer = transfer(call).map(Box::new);
        }
    }

    /// The status of a watch as clients receive it.
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
                let why = watch.why_unknown();
                status.reason = Some(format!("{why}, looking since {}", utc(watch.since)));
                TransactionState::Unknown
            }
            Phase::Pending { reorged } => {
                status.reorged = reorged.then_some(true);
                TransactionState::Pending
            }
            Phase::Included { at, outcome } => match (outcome, self.chain.confirmations(*at)) {
                (Some(outcome), Some(confirmations)) => {
                    status.confirmations = confirmations;
                    status.block_number = Some(at.number);
                    status.block_hash = Some(at.hash.to_string());
                    status.gas_used = Some(outcome.gas_used);
                    status.effective_gas_price = Some(outcome.gas_price.to_string());
                    status.reason = outcome.failure.as_ref().map(ToString::to_string);
                    match outcome.failure {
                        Some(_) => TransactionState::Failed,
                        None if confirmations >= self.options.required => {
                            TransactionState::Confirmed
                        }
                        None => TransactionState::Confirming,
                    }
                }
                // Not published before both are known; a request meanwhile returns this.
                _ => TransactionState::Pending,
            },
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

/// A time as a reader writes it, in UTC: `2026-11-29T21:00:00Z`. The field `since` has it exactly.
fn utc(ms: i64) -> humantime::Rfc3339Timestamp {
    // To the end of the year 9999, the last that the form has.
    let since_1970 = Duration::from_millis(ms.clamp(0, 253_402_300_799_000).unsigned_abs());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_1970)
}
