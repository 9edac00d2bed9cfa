//! Notice tracker: decides which users learn about which transactions, and when.
//!
//! A transaction or payment of a block is a *candidate*. Its users are notified once the block has
//! the required confirmations, or is final. They are the users of the wallet at that time, and the
//! users for whom a back end watches the transaction. If a reorg takes the block back, the
//! candidate is forgotten; users who were notified learn that.
//!
//! Candidates are stored in the transaction of the block, so a restart changes nothing.
//!
//! Example with 3 confirmations: block 10 pays Ada's wallet. Block 12 notifies Ada of the payment.
//! A reorg of block 10 notifies her that it was taken back. The new branch has the transaction
//! in block 11, so block 13 notifies her of the payment again.
//!
//! These notify nobody:
//!
//! - a payment of nothing, and a suspicious one;
//! - a payment between two wallets of one user, whose sender learns about the transaction;
//! - a failed transaction of somebody else;
//! - coins that a contract moves: only a trace shows them, which nothing proves;
//! - in linked wallets, what was confirmed more than [`MAX_AGE_MS`] ago and comes after an outage.

mod candidate;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, U256};
use tidewire_proto::v1::{
    Direction, TransactionState, TransactionStatus, WalletTransaction, server_message::Data,
    wallet_update,
};
use tidewire_store::{Batch, Store, StoreError};
use tidewire_stream::UserId;

use self::candidate::{Candidate, CandidateBlock, Outcome, Subject};
use super::{
    CANDIDATES, Notice, NoticeFacts, NoticeState, NoticeToken, NoticeTopic, PaymentLimits,
};
use crate::{
    BlockData, ChainUpdate, ChannelEvent,
    interest::Links,
    transaction::{BlockNumHash, Concern},
    wallet::{ConfirmationRules, TokenPayment},
};

/// Candidates of a chain at most. Beyond, the oldest blocks are forgotten.
const MAX_CANDIDATES: usize = 50_000;

/// Payments of tokens that are not listed, of one wallet in one block, that are candidates.
const MAX_UNLISTED_IN_BLOCK: usize = 16;

/// The age from which a block that confirms transactions notifies no user of a linked wallet.
const MAX_AGE_MS: i64 = 24 * 60 * 60 * 1_000;

/// The time for which the notices of a transaction are remembered: a back end may watch it later,
/// or repeat its call, and must cause no second one.
const KEEP_MS: i64 = 24 * 60 * 60 * 1_000;

/// The engine's part of a call of the tracker.
#[derive(Clone, Copy)]
pub(crate) struct NoticeContext<'a> {
    pub(crate) links: &'a Links,
    pub(crate) now_ms: i64,
}

/// The candidates of a chain.
#[derive(Debug)]
pub(crate) struct NoticeTracker {
    chain: u64,
    rules: ConfirmationRules,
    listed: BTreeSet<Address>,
    limits: PaymentLimits,
    blocks: BTreeMap<BlockNumHash, CandidateBlock>,
    count: usize,
    head: Option<BlockNumHash>,
    /// The time of the head, in milliseconds since the Unix epoch.
    head_time_ms: i64,
    finalized: Option<u64>,
    /// Blocks whose row in the store is out of date.
    changed: BTreeSet<BlockNumHash>,
}

impl NoticeTracker {
    /// A tracker of a chain, on which these tokens are listed.
    pub(crate) fn new(
        chain: u64,
        rules: ConfirmationRules,
        listed: BTreeSet<Address>,
        limits: PaymentLimits,
    ) -> Self {
        Self {
            chain,
            rules,
            listed,
            limits,
            blocks: BTreeMap::new(),
            count: 0,
            head: None,
            head_time_ms: 0,
            finalized: None,
            changed: BTreeSet::new(),
        }
    }

    /// Applies an update of the chain: its retractions, then the wallet events and payments of its
    /// block, then what its depth confirms.
    pub(crate) fn apply(
        &mut self,
        update: &ChainUpdate,
        events: &[ChannelEvent],
        payments: Vec<TokenPayment>,
        context: NoticeContext<'_>,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        for block in &update.retracted {
            self.retract(num_hash(block), context, &mut notices);
        }
        let block = &update.included;
        let at = num_hash(block);
        self.head = Some(at);
        self.head_time_ms = block.timestamp;
        self.finalized = update.finalized_after(self.finalized);
        for event in events {
            if let Data::WalletUpdate(update) = &event.event
                && let Some(wallet_update::Data::Transaction(sent)) = &update.data
                && !update.removed
                && let Ok(wallet) = update.address.parse()
            {
                let is_suspicious = update.suspicious.is_some();
                self.add_transaction(block, wallet, sent, is_suspicious, context);
            }
        }
        self.add_token_payments(block, payments, context);
        self.confirm(context, &mut notices);
        self.bound();
        notices
    }

    /// Applies a status of a transaction that a back end watches for users.
    pub(crate) fn apply_status(
        &mut self,
        status: &TransactionStatus,
        concern: &Concern,
        context: NoticeContext<'_>,
    ) -> Vec<Notice> {
        use TransactionState::{Cancelled, Confirmed, Confirming, Dropped, Failed, Replaced};
        let users: BTreeSet<String> = concern.users.iter().map(ToString::to_string).collect();
        let Ok(hash) = status.hash.parse() else {
            return Vec::new();
        };
        let by = status.replaced_by.as_ref();
        let by = by.and_then(|hash| hash.parse::<B256>().ok());
        let (outcome, at) = match status.state() {
            Confirming | Confirmed => (Outcome::Succeeded, block_of(status)),
            Failed => (Outcome::Failed, block_of(status)),
            Replaced => (Outcome::Replaced, self.head.filter(|_| by.is_some())),
            Cancelled => (Outcome::Cancelled, self.head.filter(|_| by.is_some())),
            Dropped => (Outcome::Dropped, None),
            _ => return Vec::new(),
        };
        let facts = NoticeFacts {
            from: status.from.as_ref().and_then(|from| from.parse().ok()),
            to: concern.transfer.as_ref().and_then(|transfer| transfer.to),
            value: concern.transfer.as_ref().map(|transfer| transfer.value),
            reason: status.reason.clone(),
            replaced_by: by,
            ..NoticeFacts::default()
        };
        let subject = Subject::transaction(hash);
        let mut notices = Vec::new();
        let at = match outcome {
            Outcome::Succeeded | Outcome::Failed => at,
            // It is in no block, and its status may come more than once.
            _ => self.find(&subject, outcome).or(at),
        };
        let Some(at) = at else {
            let mut candidate = Candidate::of_watch(outcome, facts, users);
            self.notify(subject, None, &mut candidate, context, &mut notices);
            return notices;
        };
        if self.is_known(at, &subject, outcome, &users) {
            return notices;
        }
        let mut block = self.blocks.remove(&at).unwrap_or_default();
        let is_new = !block.candidates.contains_key(&subject);
        let candidate = block.candidates.entry(subject);
        let candidate = candidate.or_insert_with(|| Candidate::new(None, NoticeFacts::default()));
        candidate.outcome = Some(outcome);
        candidate.merge(facts);
        candidate.watchers.extend(users);
        if self.is_deep(at.number) {
            // Others of the block may have been notified already.
            self.notify(subject, Some(at), candidate, context, &mut notices);
        }
        self.count += usize::from(is_new);
        self.changed.insert(at);
        self.blocks.insert(at, block);
        notices
    }

    /// Whether a status changes nothing: most only count confirmations.
    fn is_known(
        &self,
        at: BlockNumHash,
        subject: &Subject,
        outcome: Outcome,
        users: &BTreeSet<String>,
    ) -> bool {
        let block = self.blocks.get(&at);
        let candidate = block.and_then(|block| block.candidates.get(subject));
        candidate.is_some_and(|candidate| {
            let is_notified = || {
                users
                    .iter()
                    .all(|user| candidate.notified.contains_key(user))
            };
            candidate.outcome == Some(outcome)
                && users.is_subset(&candidate.watchers)
                && (!self.is_deep(at.number) || is_notified())
        })
    }

    /// Forgets the users for whom a back end watched a transaction.
    pub(crate) fn unwatch(&mut self, hash: &B256) {
        let subject = Subject::transaction(*hash);
        for (at, block) in &mut self.blocks {
            if let Some(candidate) = block.candidates.get_mut(&subject) {
                candidate.watchers.clear();
                self.changed.insert(*at);
            }
        }
    }

    /// Forgets what was not notified yet: after a resync nothing shows which blocks are canonical.
    /// Watched transactions are found again.
    pub(crate) fn resync(&mut self) {
        self.head = None;
        self.finalized = None;
        let keys: Vec<_> = self.blocks.keys().copied().collect();
        for at in keys {
            self.retain(at, |_, candidate| !candidate.notified.is_empty());
        }
    }

    /// Forgets the blocks that no reorg can reach, except for transactions that are watched or whose
    /// users were notified not long ago.
    pub(crate) fn prune(&mut self, is_watched: impl Fn(&B256) -> bool, now_ms: i64) {
        let Some(head) = self.head else {
            return;
        };
        let end = head.number.saturating_sub(self.rules.reorg_limit);
        let old = self.blocks.iter().take_while(|(at, _)| at.number < end);
        let old: Vec<_> = old
            .filter(|(at, _)| self.is_deep(at.number))
            .map(|(at, _)| *at)
            .collect();
        for at in old {
            self.retain(at, |subject, candidate| {
                let is_recent = |notified_ms: i64| now_ms - notified_ms < KEEP_MS;
                let is_watched = !candidate.watchers.is_empty() && is_watched(&subject.hash);
                let is_transaction = subject.topic == NoticeTopic::Transaction;
                is_watched || (is_transaction && candidate.notified_ms.is_some_and(is_recent))
            });
        }
    }

    /// Adds the changes to a write of the store.
    pub(crate) fn stage(&mut self, writes: &mut Batch) {
        for at in std::mem::take(&mut self.changed) {
            let key = candidate::key(self.chain, at);
            match self.blocks.get(&at).and_then(CandidateBlock::encode) {
                Some(value) => writes.put(CANDIDATES, key, value),
                None => writes.delete(CANDIDATES, key),
            }
        }
    }

    /// Reads the stored candidates back.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn restore(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let prefix = self.chain.to_be_bytes().to_vec();
        for (key, value) in store.scan(CANDIDATES, prefix, None, usize::MAX).await? {
            match candidate::decode(&key, &value) {
                Some((at, block)) => {
                    self.count += block.candidates.len();
                    self.blocks.insert(at, block);
                }
                None => tracing::warn!(
                    chain = self.chain,
                    "stored candidates of notifications are unreadable"
                ),
            }
        }
        Ok(())
    }

    /// Adds a transaction of a linked wallet, or the outcome that was unknown at first.
    fn add_transaction(
        &mut self,
        block: &BlockData,
        wallet: Address,
        sent: &WalletTransaction,
        is_suspicious: bool,
        context: NoticeContext<'_>,
    ) {
        let outcome = match sent.status() {
            TransactionState::Confirming
            | TransactionState::Confirmed
            | TransactionState::Finalized => Some(Outcome::Succeeded),
            TransactionState::Failed => Some(Outcome::Failed),
            TransactionState::Unknown => None,
            _ => return,
        };
        let (Ok(hash), Some(number)) = (sent.hash.parse(), sent.block_number) else {
            return;
        };
        let value = sent.value.parse::<U256>().unwrap_or_default();
        let subject = match sent.direction() {
            Direction::Out | Direction::Self_ => Subject::transaction(hash),
            Direction::In if value.is_zero() || is_suspicious => return,
            Direction::In if outcome == Some(Outcome::Failed) => return,
            Direction::In => Subject::payment(hash, wallet, None),
            Direction::Unspecified => return,
        };
        let at = num_hash(block);
        if number != at.number {
            return self.resolve(number, &subject, outcome);
        }
        if !context.links.has_user(&wallet) {
            return;
        }
        let facts = NoticeFacts {
            from: sent.from.parse().ok(),
            to: sent.to.as_ref().and_then(|to| to.parse().ok()),
            value: Some(value),
            ..NoticeFacts::default()
        };
        let candidate = self.candidate(block, subject);
        candidate.wallet = Some(wallet);
        candidate.outcome = candidate.outcome.or(outcome);
        candidate.merge(facts);
    }

    /// Sets the outcome of a candidate of an earlier block.
    fn resolve(&mut self, number: u64, subject: &Subject, outcome: Option<Outcome>) {
        for (at, block) in &mut self.blocks {
            if at.number == number
                && let Some(candidate) = block.candidates.get_mut(subject)
                && candidate.outcome.is_none()
                && outcome.is_some()
            {
                candidate.outcome = outcome;
                block.is_settled = false;
                self.changed.insert(*at);
            }
        }
    }

    fn add_token_payments(
        &mut self,
        block: &BlockData,
        payments: Vec<TokenPayment>,
        context: NoticeContext<'_>,
    ) {
        let mut unlisted: BTreeMap<Address, usize> = BTreeMap::new();
        for payment in payments {
            let wallet = payment.wallet;
            if !context.links.has_user(&wallet) {
                continue;
            }
            let is_listed = self.listed.contains(&payment.token);
            let subject = Subject::payment(payment.hash, wallet, Some(payment.token));
            let is_known = self
                .blocks
                .get(&num_hash(block))
                .is_some_and(|block| block.candidates.contains_key(&subject));
            if !is_listed && !is_known {
                let count = unlisted.entry(wallet).or_default();
                *count += 1;
                if *count > MAX_UNLISTED_IN_BLOCK {
                    count_suppressed("unlisted");
                    continue;
                }
            }
            let candidate = self.candidate(block, subject);
            candidate.wallet = Some(wallet);
            candidate.outcome = Some(Outcome::Succeeded);
            let before = candidate.facts.value.unwrap_or_default();
            candidate.facts = NoticeFacts {
                from: Some(candidate.facts.from.unwrap_or(payment.from)),
                to: Some(wallet),
                value: Some(before.saturating_add(payment.value)),
                token: Some(NoticeToken {
                    address: payment.token,
                    symbol: payment.symbol.filter(|_| is_listed),
                    decimals: payment.decimals,
                    is_listed,
                }),
                ..NoticeFacts::default()
            };
        }
    }

    /// The candidate of a subject in the newest block.
    fn candidate(&mut self, block: &BlockData, subject: Subject) -> &mut Candidate {
        let at = num_hash(block);
        self.changed.insert(at);
        let entry = self.blocks.entry(at).or_default();
        let count = &mut self.count;
        entry.candidates.entry(subject).or_insert_with(|| {
            *count += 1;
            Candidate::new(None, NoticeFacts::default())
        })
    }

    /// Notifies the users of all blocks that are deep enough now.
    fn confirm(&mut self, context: NoticeContext<'_>, notices: &mut Vec<Notice>) {
        let open = self.blocks.iter().filter(|(_, block)| !block.is_settled);
        let deep: Vec<_> = open
            .filter(|(at, _)| self.is_deep(at.number))
            .map(|(at, _)| *at)
            .collect();
        for at in deep {
            let Some(mut block) = self.blocks.remove(&at) else {
                continue;
            };
            for (subject, candidate) in &mut block.candidates {
                self.notify(*subject, Some(at), candidate, context, notices);
            }
            block.is_settled = true;
            self.changed.insert(at);
            self.blocks.insert(at, block);
        }
    }

    /// Notifies the users of a candidate who do not know it yet. `at` is its block.
    fn notify(
        &self,
        subject: Subject,
        at: Option<BlockNumHash>,
        candidate: &mut Candidate,
        context: NoticeContext<'_>,
        notices: &mut Vec<Notice>,
    ) {
        let Some(state) = candidate.outcome.map(Outcome::state) else {
            return;
        };
        let is_payment = subject.topic == NoticeTopic::Payment;
        if is_payment && state != NoticeState::Confirmed {
            return;
        }
        let is_recent = context.now_ms - self.head_time_ms <= MAX_AGE_MS;
        let owners = match candidate.wallet {
            Some(wallet) if is_recent => context.links.users(&wallet),
            _ => Vec::new(),
        };
        let owners: BTreeSet<String> = owners
            .into_iter()
            .map(|user| user.as_str().to_owned())
            .collect();
        for user in owners.union(&candidate.watchers.clone()) {
            if candidate.notified.contains_key(user) {
                continue;
            }
            let grouping = match is_payment {
                true => match self.admit(user, candidate, context) {
                    Some(grouping) => grouping,
                    None => continue,
                },
                false => super::Grouping::Single,
            };
            candidate.notified.insert(user.clone(), grouping);
            candidate.notified_ms = Some(context.now_ms);
            let wallet = candidate.wallet.filter(|_| owners.contains(user));
            notices.push(Notice {
                chain: self.chain,
                user: user.clone(),
                topic: subject.topic,
                state,
                grouping,
                hash: subject.hash,
                wallet,
                block: at,
                facts: candidate.facts.clone(),
            });
        }
    }

    /// How a user is notified of a payment. None if the user is not.
    fn admit(
        &self,
        user: &str,
        candidate: &Candidate,
        context: NoticeContext<'_>,
    ) -> Option<super::Grouping> {
        let from = candidate.facts.from;
        let owner = UserId::new(user);
        if from.is_some_and(|from| context.links.is_linked(&from, &owner)) {
            return None;
        }
        let token = candidate.facts.token.as_ref();
        let is_listed = token.is_none_or(|token| token.is_listed);
        let grouping = self.limits.admit(user, is_listed, context.now_ms);
        if grouping.is_none() {
            count_suppressed("unlisted");
        }
        grouping
    }

    /// Forgets a block that a reorg took back, and notifies those who were notified of it.
    fn retract(&mut self, at: BlockNumHash, context: NoticeContext<'_>, notices: &mut Vec<Notice>) {
        let Some(block) = self.blocks.remove(&at) else {
            return;
        };
        self.count -= block.candidates.len();
        self.changed.insert(at);
        for (subject, candidate) in block.candidates {
            for (user, grouping) in candidate.notified {
                let owner = UserId::new(&user);
                let wallet = candidate.wallet;
                let wallet = wallet.filter(|wallet| context.links.is_linked(wallet, &owner));
                if wallet.is_none() && !candidate.watchers.contains(&user) {
                    continue;
                }
                notices.push(Notice {
                    chain: self.chain,
                    user,
                    topic: subject.topic,
                    state: NoticeState::Reorged,
                    grouping,
                    hash: subject.hash,
                    wallet,
                    block: Some(at),
                    facts: NoticeFacts {
                        reason: None,
                        ..candidate.facts.clone()
                    },
                });
            }
        }
    }

    /// The block of a candidate with this outcome.
    fn find(&self, subject: &Subject, outcome: Outcome) -> Option<BlockNumHash> {
        let mut blocks = self.blocks.iter();
        let found = blocks.find(|(_, block)| {
            let candidate = block.candidates.get(subject);
            candidate.is_some_and(|candidate| candidate.outcome == Some(outcome))
        });
        found.map(|(at, _)| *at)
    }

    /// Whether a block has the required confirmations, or is final.
    fn is_deep(&self, number: u64) -> bool {
        let Some(head) = self.head else {
            return false;
        };
        let next = head.number.saturating_add(1);
        let depth = next.saturating_sub(number);
        let by_depth = next.checked_sub(self.rules.finality_depth);
        let last_final = self.finalized.or(by_depth);
        depth >= self.rules.required.into() || last_final.is_some_and(|last| number <= last)
    }

    fn retain(&mut self, at: BlockNumHash, is_kept: impl Fn(&Subject, &Candidate) -> bool) {
        let Some(block) = self.blocks.get_mut(&at) else {
            return;
        };
        let before = block.candidates.len();
        block
            .candidates
            .retain(|subject, candidate| is_kept(subject, candidate));
        let after = block.candidates.len();
        if after < before {
            self.count -= before - after;
            self.changed.insert(at);
        }
        if after == 0 {
            self.blocks.remove(&at);
        }
    }

    /// Forgets the oldest blocks beyond the maximum of candidates.
    fn bound(&mut self) {
        while self.count > MAX_CANDIDATES
            && self.blocks.len() > 1
            && let Some((at, block)) = self.blocks.pop_first()
        {
            let (chain, count) = (self.chain, block.candidates.len());
            let mut candidates = block.candidates.values();
            if candidates.any(|candidate| candidate.notified.is_empty()) {
                tracing::warn!(
                    chain,
                    count,
                    "too many transactions wait for their confirmations: the oldest notify nobody"
                );
            }
            self.count -= count;
            self.changed.insert(at);
        }
    }
}

fn count_suppressed(reason: &'static str) {
    metrics::counter!("tidewire_chain_notices_suppressed_total", "reason" => reason).increment(1);
}

fn num_hash(block: &BlockData) -> BlockNumHash {
    BlockNumHash {
        number: block.block.number,
        hash: block.block.hash,
    }
}

/// The block of a status.
fn block_of(status: &TransactionStatus) -> Option<BlockNumHash> {
    let hash = status.block_hash.as_ref()?.parse().ok()?;
    let number = status.block_number?;
    Some(BlockNumHash { number, hash })
}
