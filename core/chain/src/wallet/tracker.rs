//! Wallet tracker: turns chain updates into wallet updates, with reads of the node between.
//!
//! For a block that concerns watched wallets the tracker reads, a hundred calls in one:
//!
//! - one trace, where the node serves traces, for coins that contracts moved;
//! - the coin balance of each wallet at the block and at its parent;
//! - the token balances likewise, and the metadata of tokens that it sees first.
//!
//! [`SentUpdates`] remembers the updates of the newest blocks, so that a reorg can retract
//! them. [`PendingTransactions`] remembers the updates of pending transactions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use alloy::{
    consensus::Transaction as _,
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
};
use alloy_network_primitives::TransactionResponse as _;
use tidewire_proto::v1::{
    BalanceSource, TransactionState, TransactionStatus, WalletUpdate, wallet_update::Data,
};
use tidewire_store::{Batch, Store, StoreError};
use tidewire_stream::Event;

use super::{
    Activity, TokenPayment,
    payment::token_payments,
    reads::{
        Reading, Response, ViewCall, call_all, coin_balance, decimals, number, read_outcomes,
        symbol, view_all,
    },
    sent_updates::{ConfirmationRules, Retraction, SentUpdates, Updates},
    suspicion::Recipients,
    tokens::{TokenCache, TokenMetadata},
    trace::{NoTraces, Tracer},
    update::{TokenFacts, balance_change, token_updates, wallet_transaction},
};
use crate::{
    BlockData, BlockRef, ChainUpdate, ChannelEvent, ReceiptId, RpcClient, WalletIndex,
    channel::wallet_channel,
    decode::TokenEvent,
    mempool::{PendingTransactions, PendingWatch},
    receipt::parsed_outcome,
};

/// Blocks at most that pass before nodes that returned no trace are called again.
const MAX_TRACE_PAUSE: u64 = 1_000;

/// Transactions without a receipt that one block asks for again.
const MAX_UNKNOWN: usize = 100;

/// Whether blocks are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    /// Where the node serves traces.
    Auto,
    /// Never.
    Off,
}

/// The tracker of all wallets on one chain.
#[derive(Debug)]
pub struct WalletTracker {
    chain: u64,
    tracing: Tracing,
    /// The first block to trace.
    trace_from: u64,
    /// The blocks that passed untraced after the last failure, which doubles with each one. Zero
    /// after a trace.
    trace_pause: u64,
    tracer: Tracer,
    rules: ConfirmationRules,
    tokens: TokenCache,
    sent: SentUpdates,
    pending: PendingTransactions,
    /// Wallets whose balances no node returned.
    unread: BTreeSet<Address>,
    recipients: Recipients,
    /// The token payments of the newest block.
    payments: Vec<TokenPayment>,
    /// The positions in their blocks of transactions that were sent as unknown.
    unknown_positions: BTreeMap<(B256, B256), u64>,
    /// Whether a reorg took back updates that are no longer remembered.
    has_incomplete_retraction: bool,
}

impl WalletTracker {
    /// A tracker of the chain with this id.
    #[must_use]
    pub fn new(chain: u64, tracing: Tracing) -> Self {
        Self {
            chain,
            tracing,
            trace_from: 0,
            trace_pause: 0,
            tracer: Tracer::default(),
            rules: ConfirmationRules::default(),
            tokens: TokenCache::default(),
            sent: SentUpdates::default(),
            pending: PendingTransactions::default(),
            unread: BTreeSet::new(),
            recipients: Recipients::default(),
            payments: Vec::new(),
            unknown_positions: BTreeMap::new(),
            has_incomplete_retraction: false,
        }
    }

    /// Sets when a transaction is confirmed and final.
    #[must_use]
    pub fn with_rules(mut self, rules: ConfirmationRules) -> Self {
        self.rules = rules;
        self
    }

    /// Whether a reorg took back updates that are no longer remembered, since the last call.
    /// Then every wallet's channel has a gap.
    pub fn take_incomplete_retraction(&mut self) -> bool {
        std::mem::take(&mut self.has_incomplete_retraction)
    }

    /// Takes the wallets whose balances no node returned since the last call. Their channels
    /// have a gap.
    pub fn take_unread(&mut self) -> BTreeSet<Address> {
        std::mem::take(&mut self.unread)
    }

    /// Takes the token payments of the newest block.
    pub(crate) fn take_payments(&mut self) -> Vec<TokenPayment> {
        std::mem::take(&mut self.payments)
    }

    /// Adds the changes to a write of the store.
    pub(crate) fn stage(&mut self, writes: &mut Batch) {
        self.sent.stage(self.chain, writes);
        self.pending.stage(self.chain, writes);
    }

    /// Reads the stored state back.
    pub(crate) async fn restore(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let (table, prefix) = SentUpdates::rows(self.chain);
        for (key, value) in store.scan(table, prefix, None, usize::MAX).await? {
            if self.sent.restore(&key, &value).is_none() {
                tracing::warn!(
                    chain = self.chain,
                    "a stored block of wallet updates is unreadable"
                );
            }
        }
        let (table, prefix) = PendingTransactions::rows(self.chain);
        for (_, value) in store.scan(table, prefix, None, usize::MAX).await? {
            if self.pending.restore(&value).is_none() {
                tracing::warn!(
                    chain = self.chain,
                    "a stored pending transaction is unreadable"
                );
            }
        }
        Ok(())
    }

    /// Forgets the sent updates: after a resync none of them is retracted, confirmed or final.
    pub(crate) fn resync(&mut self) {
        self.sent.clear();
    }

    /// Applies an update of the chain: first its retractions, then its block.
    ///
    /// `activity` is [`Activity::of`] the block. `is_watched` judges the accounts that only a
    /// trace finds. Balances that no node returns are reported by
    /// [`take_unread`](Self::take_unread).
    pub async fn apply<R: RpcClient>(
        &mut self,
        update: &ChainUpdate,
        mut activity: Activity,
        is_watched: impl Fn(&Address) -> bool + Send,
        client: &R,
        now_ms: i64,
    ) -> Vec<ChannelEvent> {
        let mut events = self.retract_all(update);
        self.payments.clear();
        let block = &update.included;
        let traced = self.trace(block, is_watched, client).await;
        let traced_only: BTreeSet<_> = traced.difference(&activity.coins).copied().collect();
        activity.coins.extend(&traced_only);
        events.extend(self.resolve_unknown(client, now_ms).await);
        let settled = self.settle(update, now_ms);
        if activity.is_empty() {
            events.extend(settled);
            return events;
        }
        for (_, position) in &activity.transactions {
            // A node may report a block before it reports the block's transactions as pending.
            if let Some(transaction) = block.transactions.get(*position) {
                self.pending.mark_seen(transaction.tx_hash());
                self.pending.remove(&transaction.tx_hash());
            }
        }
        let mut updates = self
            .transaction_updates(block, &activity, client, now_ms)
            .await;
        let coins = self.coin_updates(block, &activity, &traced_only, client, now_ms);
        updates.extend(coins.await);
        self.read_metadata(block, &activity, client, now_ms).await;
        let supplies = self.read_supplies(block, &activity, client).await;
        for (wallet, token_activity) in &activity.events {
            let contract = token_activity.contract;
            let token = self.tokens.get(&contract);
            let allowance = token_activity.event.allowance(contract);
            let facts = TokenFacts {
                is_nft: token.is_some_and(|token| token.is_nft),
                supply: allowance.and_then(|(token, _)| supplies.get(&token).copied()),
            };
            for data in token_updates(token_activity, block.block.number, facts) {
                updates.push((*wallet, self.wallet_update(*wallet, now_ms, data)));
            }
        }
        let balances = self.token_balance_updates(block, &activity, client, now_ms);
        updates.extend(balances.await);
        for (wallet, update) in &mut updates {
            update.suspicious = self.recipients.suspicion(wallet, update);
        }
        self.payments = token_payments(&activity, &self.tokens, &self.recipients);
        self.remember_recipients(block, &activity);
        events.extend(channel_events(updates.iter().cloned()));
        let BlockRef { number, hash, .. } = block.block;
        self.sent.push(number, hash, updates, self.rules);
        events.extend(settled);
        events
    }

    /// Applies an update while no wallet is watched. Nothing is read from a node; updates that
    /// were sent before are still retracted, confirmed and final.
    pub fn apply_unwatched(&mut self, update: &ChainUpdate, now_ms: i64) -> Vec<ChannelEvent> {
        let mut events = self.retract_all(update);
        events.extend(self.settle(update, now_ms));
        events
    }

    /// Returns the updates about a transaction from a mempool, unless it was seen before.
    pub fn apply_pending(
        &mut self,
        transaction: &Transaction,
        index: &WalletIndex,
        now_ms: i64,
    ) -> Vec<ChannelEvent> {
        let wallets: Vec<_> = index.watched_parties(transaction).collect();
        if wallets.is_empty() || !self.pending.mark_seen(transaction.tx_hash()) {
            return Vec::new();
        }
        self.pending.insert(transaction, wallets.clone());
        let updates = wallets.into_iter().map(|wallet| {
            let data = wallet_transaction(wallet, transaction, TransactionState::Pending, None);
            let data = Data::Transaction(data);
            let mut update = self.wallet_update(wallet, now_ms, data);
            update.suspicious = self.recipients.suspicion(&wallet, &update);
            (wallet, update)
        });
        channel_events(updates)
    }

    /// Applies a status of the transaction tracker. Returns updates if wallets received the
    /// transaction as pending, and it was replaced, cancelled or dropped, or a reorg undid that.
    pub fn apply_status(&mut self, status: &TransactionStatus) -> Vec<ChannelEvent> {
        use TransactionState::{Cancelled, Dropped, Pending, Replaced};
        let Ok(hash) = status.hash.parse::<B256>() else {
            return Vec::new();
        };
        let Some(pending) = self.pending.get(&hash) else {
            return Vec::new();
        };
        let state = status.state();
        let (state, replaced_by, removed) = match (state, &pending.end) {
            (Replaced | Cancelled | Dropped, _) if pending.has_ended_as(state) => {
                return Vec::new();
            }
            (Replaced | Cancelled | Dropped, _) => (state, status.replaced_by.clone(), false),
            (Pending, Some((sent, by))) if status.reorged == Some(true) => {
                let sent = TransactionState::try_from(*sent).unwrap_or(Replaced);
                (sent, by.clone(), true)
            }
            _ => return Vec::new(),
        };
        let updates: Vec<_> = pending
            .wallets
            .iter()
            .map(|wallet| {
                let mut data = wallet_transaction(*wallet, &pending.transaction, state, None);
                data.replaced_by.clone_from(&replaced_by);
                let data = Data::Transaction(data);
                let mut update = self.wallet_update(*wallet, status.timestamp, data);
                update.removed = removed;
                (*wallet, update)
            })
            .collect();
        match state {
            Dropped => self.pending.remove(&hash),
            _ if removed => self.pending.set_end(hash, None),
            _ => self
                .pending
                .set_end(hash, Some((state.into(), replaced_by))),
        }
        channel_events(updates.into_iter())
    }

    /// Takes the pending transactions that the transaction tracker is to watch from now on.
    pub(crate) fn take_new_pending(&mut self) -> Vec<PendingWatch> {
        self.pending.take_new()
    }

    /// Takes the transactions that need no watch any more.
    pub(crate) fn take_settled_pending(&mut self) -> Vec<B256> {
        self.pending.take_done()
    }

    /// Asks again for the receipts of transactions that were sent as unknown.
    async fn resolve_unknown<R: RpcClient>(
        &mut self,
        client: &R,
        now_ms: i64,
    ) -> Vec<ChannelEvent> {
        let mut ids = self.sent.unknown_transactions(MAX_UNKNOWN);
        let known = std::mem::take(&mut self.unknown_positions);
        for id in &mut ids {
            let key = (id.block, id.transaction);
            id.index = known.get(&key).copied();
            self.unknown_positions
                .extend(id.index.map(|index| (key, index)));
        }
        let outcomes = read_outcomes(client, &ids).await;
        let mut updates = Updates::new();
        for (id, outcome) in ids.iter().zip(outcomes) {
            if let Some(succeeded) = outcome {
                updates.extend(self.sent.resolve(id, succeeded, now_ms));
            }
        }
        channel_events(updates.into_iter())
    }

    fn settle(&mut self, update: &ChainUpdate, now_ms: i64) -> Vec<ChannelEvent> {
        let head = update.included.block.number;
        self.sent.correct_finalized(update);
        let updates = self
            .sent
            .advance(head, update.finalized, self.rules, now_ms);
        channel_events(updates.into_iter())
    }

    fn retract_all(&mut self, update: &ChainUpdate) -> Vec<ChannelEvent> {
        let blocks = update.retracted.iter();
        blocks.flat_map(|data| self.retract(data.block)).collect()
    }

    /// Retracts the updates of a block, the last first.
    fn retract(&mut self, block: BlockRef) -> Vec<ChannelEvent> {
        let updates = match self.sent.retract(block.number, block.hash) {
            Retraction::Complete(updates) => updates,
            Retraction::Incomplete => {
                self.has_incomplete_retraction = true;
                return Vec::new();
            }
        };
        for (_, update) in &updates {
            // The transaction may be pending again.
            if let Some(Data::Transaction(data)) = &update.data
                && let Ok(hash) = data.hash.parse::<B256>()
            {
                self.pending.unmark_seen(&hash);
            }
        }
        channel_events(updates.into_iter().rev().map(|(wallet, mut update)| {
            update.removed = true;
            (wallet, update)
        }))
    }

    /// The watched accounts whose coins an inner call moved.
    async fn trace<R: RpcClient>(
        &mut self,
        block: &Arc<BlockData>,
        is_watched: impl Fn(&Address) -> bool + Send,
        client: &R,
    ) -> BTreeSet<Address> {
        let number = block.block.number;
        if self.tracing == Tracing::Off || block.transactions.is_empty() {
            return BTreeSet::new();
        }
        if number >= self.trace_from {
            match self.tracer.coin_accounts(block, client).await {
                Ok(accounts) => {
                    self.trace_pause = 0;
                    return accounts.into_iter().filter(is_watched).collect();
                }
                Err(NoTraces(reason)) => {
                    if self.trace_pause == 0 {
                        tracing::warn!(
                            chain = self.chain,
                            reason,
                            "no endpoint returns traces: coins that contracts send are not seen, until an endpoint does"
                        );
                    }
                    self.trace_pause = (self.trace_pause * 2).clamp(1, MAX_TRACE_PAUSE);
                    self.trace_from = number.saturating_add(self.trace_pause);
                }
            }
        }
        let id = self.chain.to_string();
        metrics::counter!("tidewire_chain_blocks_untraced_total", "chain" => id).increment(1);
        BTreeSet::new()
    }

    async fn transaction_updates<R: RpcClient>(
        &mut self,
        block: &BlockData,
        activity: &Activity,
        client: &R,
        now_ms: i64,
    ) -> Updates {
        let positions: BTreeSet<_> = activity
            .transactions
            .iter()
            .map(|(_, position)| *position)
            .collect();
        let mut succeeded: BTreeMap<usize, bool> = BTreeMap::new();
        let mut missing = Vec::new();
        for position in positions {
            let Some(transaction) = block.transactions.get(position) else {
                continue;
            };
            let transaction = transaction.tx_hash();
            match block.receipt_of(position).and_then(parsed_outcome) {
                Some(outcome) => drop(succeeded.insert(position, outcome)),
                None => missing.push((
                    position,
                    ReceiptId {
                        transaction,
                        block: block.block.hash,
                        index: Some(position as u64),
                    },
                )),
            }
        }
        let ids: Vec<_> = missing.iter().map(|(_, id)| *id).collect();
        let outcomes = read_outcomes(client, &ids).await;
        for ((position, id), outcome) in missing.into_iter().zip(outcomes) {
            match outcome {
                Some(outcome) => drop(succeeded.insert(position, outcome)),
                None => {
                    let key = (id.block, id.transaction);
                    self.unknown_positions.insert(key, position as u64);
                }
            }
        }
        let updates = activity
            .transactions
            .iter()
            .filter_map(|(wallet, position)| {
                let transaction = block.transactions.get(*position)?;
                // Without its receipt nothing shows whether it failed. Later blocks ask again.
                let state = match succeeded.get(position) {
                    Some(false) => TransactionState::Failed,
                    Some(true) => self.rules.initial_state(),
                    None => TransactionState::Unknown,
                };
                let number = Some(block.block.number);
                let data = wallet_transaction(*wallet, transaction, state, number);
                let data = Data::Transaction(data);
                Some((*wallet, self.wallet_update(*wallet, now_ms, data)))
            });
        updates.collect()
    }

    async fn coin_updates<R: RpcClient>(
        &mut self,
        block: &BlockData,
        activity: &Activity,
        traced_only: &BTreeSet<Address>,
        client: &R,
        now_ms: i64,
    ) -> Updates {
        let parent = parent(block);
        let calls = activity.coins.iter().flat_map(|wallet| {
            [
                coin_balance(*wallet, &parent),
                coin_balance(*wallet, &block.block),
            ]
        });
        let responses = call_all(client, calls.collect()).await;
        let pairs = || activity.coins.iter().zip(responses.chunks(2));
        let unread = pairs().filter(|(_, pair)| pair.iter().any(|one| amount_of(one).is_none()));
        self.unread.extend(unread.map(|(wallet, _)| *wallet));
        let updates = pairs().filter_map(|(wallet, pair)| {
            let amount = |index: usize| amount_of(pair.get(index)?);
            let source = if activity.withdrawals.contains(wallet) {
                BalanceSource::Withdrawal
            } else if traced_only.contains(wallet) {
                BalanceSource::Trace
            } else {
                BalanceSource::Balance
            };
            let change = balance_change(amount(0), amount(1)?, source, block.block.number)?;
            let data = Data::Balance(change);
            Some((*wallet, self.wallet_update(*wallet, now_ms, data)))
        });
        updates.collect()
    }

    /// Reads the metadata of tokens that are not in the cache.
    async fn read_metadata<R: RpcClient>(
        &mut self,
        block: &BlockData,
        activity: &Activity,
        client: &R,
        now_ms: i64,
    ) {
        let mut tokens: BTreeSet<_> = activity.tokens.iter().map(|(_, token)| *token).collect();
        // An approval of three topics may be of an ERC-721 that does not index its ids.
        tokens.extend(activity.events.iter().filter_map(|(_, one)| {
            matches!(one.event, TokenEvent::Erc20Approval { .. }).then_some(one.contract)
        }));
        let unknown: Vec<_> = tokens
            .into_iter()
            .filter(|token| self.tokens.is_due(token, now_ms))
            .collect();
        let views: Vec<_> = unknown
            .iter()
            .flat_map(|token| ViewCall::metadata(*token))
            .collect();
        let readings = view_all(client, &views, &block.block).await;
        for (token, readings) in unknown.into_iter().zip(readings.chunks(3)) {
            let data = |index: usize| readings.get(index).and_then(Reading::data);
            let metadata = TokenMetadata {
                symbol: data(0).and_then(symbol),
                decimals: data(1).and_then(decimals),
                is_nft: data(2).and_then(number) == Some(U256::ONE),
            };
            let is_complete = metadata.symbol.is_some()
                && (metadata.is_nft || metadata.decimals.is_some())
                && !readings.contains(&Reading::Unread);
            self.tokens.insert(token, metadata, is_complete, now_ms);
        }
    }

    /// The supplies of the tokens that allowances are of, where the number alone does not show
    /// that they are unlimited.
    async fn read_supplies<R: RpcClient>(
        &self,
        block: &BlockData,
        activity: &Activity,
        client: &R,
    ) -> BTreeMap<Address, U256> {
        let limited = activity.events.iter().filter_map(|(_, one)| {
            let (token, amount) = one.event.allowance(one.contract)?;
            let is_nft = self.tokens.get(&token).is_some_and(|token| token.is_nft);
            let is_open = !amount.is_zero() && !one.event.is_unlimited() && !is_nft;
            is_open.then_some(token)
        });
        let tokens: BTreeSet<_> = limited.collect();
        let views: Vec<_> = tokens
            .iter()
            .map(|token| ViewCall::supply(*token))
            .collect();
        let readings = view_all(client, &views, &block.block).await;
        let supplies = tokens.into_iter().zip(&readings);
        supplies
            .filter_map(|(token, reading)| Some((token, reading.data().and_then(number)?)))
            .collect()
    }

    /// Remembers whom wallets paid to, to mark addresses that look alike.
    fn remember_recipients(&mut self, block: &BlockData, activity: &Activity) {
        for (wallet, position) in &activity.transactions {
            let Some(transaction) = block.transactions.get(*position) else {
                continue;
            };
            let is_paid = transaction.from() == *wallet && !transaction.value().is_zero();
            if let Some(to) = transaction.to().filter(|_| is_paid) {
                self.recipients.insert(*wallet, to);
            }
        }
        if activity.events.is_empty() {
            return;
        }
        let transactions = block.transactions.iter();
        let senders: HashMap<_, _> = transactions
            .map(|transaction| (transaction.tx_hash(), transaction.from()))
            .collect();
        for (wallet, one) in &activity.events {
            if let TokenEvent::Erc20Transfer {
                from, to, value, ..
            } = &one.event
                && from == wallet
                && !value.is_zero()
                // Anyone can log a transfer of a token of their own making, but not in a
                // transaction of the wallet.
                && senders.get(&one.transaction) == Some(wallet)
            {
                self.recipients.insert(*wallet, *to);
            }
        }
    }

    async fn token_balance_updates<R: RpcClient>(
        &mut self,
        block: &BlockData,
        activity: &Activity,
        client: &R,
        now_ms: i64,
    ) -> Updates {
        let is_nft = |token: &Address| self.tokens.get(token).is_some_and(|known| known.is_nft);
        let pairs: Vec<_> = activity
            .tokens
            .iter()
            .filter(|(_, token)| !is_nft(token))
            .collect();
        let views: Vec<_> = pairs
            .iter()
            .map(|(wallet, token)| ViewCall::balance(*token, *wallet))
            .collect();
        let before = view_all(client, &views, &parent(block)).await;
        let after = view_all(client, &views, &block.block).await;
        let balances = || pairs.iter().zip(before.iter().zip(&after));
        let unread =
            balances().filter(|(_, (before, after))| [before, after].contains(&&&Reading::Unread));
        self.unread.extend(unread.map(|((wallet, _), _)| *wallet));
        let amount = |reading: &Reading| reading.data().and_then(number);
        let amount_before = |reading: &Reading| match reading {
            // There was no contract yet.
            Reading::Data(data) if data.is_empty() => Some(U256::ZERO),
            reading => amount(reading),
        };
        let updates = balances().filter_map(|((wallet, token), (before, after))| {
            let source = BalanceSource::Balance;
            let number = block.block.number;
            let before = amount_before(before);
            let mut change = balance_change(before, amount(after)?, source, number)?;
            change.token = Some(format!("{token:?}"));
            if let Some(metadata) = self.tokens.get(token) {
                change.symbol = metadata.symbol.clone();
                change.decimals = metadata.decimals;
            }
            let data = Data::Balance(change);
            Some((*wallet, self.wallet_update(*wallet, now_ms, data)))
        });
        updates.collect()
    }

    fn wallet_update(&self, wallet: Address, now_ms: i64, data: Data) -> WalletUpdate {
        WalletUpdate {
            address: format!("{wallet:?}"),
            chain: self.chain,
            timestamp: now_ms,
            removed: false,
            suspicious: None,
            sample: false,
            data: Some(data),
        }
    }
}

/// The balance in a response. None if no node returned one.
fn amount_of(response: &Response) -> Option<U256> {
    let text = response.as_ref().ok()?.as_str()?;
    U256::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// A reference to the block before, good enough for reads by hash.
fn parent(block: &BlockData) -> BlockRef {
    BlockRef {
        number: block.block.number.saturating_sub(1),
        hash: block.block.parent,
        parent: B256::ZERO,
    }
}

fn channel_events(updates: impl Iterator<Item = (Address, WalletUpdate)>) -> Vec<ChannelEvent> {
    let events = updates.map(|(wallet, update)| ChannelEvent {
        channel: wallet_channel(&wallet),
        event: Event::WalletUpdate(update),
    });
    events.collect()
}
