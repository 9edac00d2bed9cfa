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
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
};
use alloy_network_primitives::TransactionResponse as _;
use serde_json::json;
use tidewire_proto::v1::{
    BalanceSource, TransactionState, TransactionStatus, WalletUpdate, wallet_update::Data,
};
use tidewire_store::{Batch, Store, StoreError};
use tidewire_stream::Event;

use super::{
    Activity,
    reads::{ViewCall, call_all, coin_balance, decimals, is_unreachable, number, symbol, view_all},
    sent_updates::{ConfirmationRules, Retraction, SentUpdates, Updates},
    tokens::{TokenCache, TokenMetadata},
    trace::Tracer,
    update::{balance_change, token_updates, wallet_transaction},
};
use crate::{
    BlockData, BlockRef, Call, ChainUpdate, ChannelEvent, RpcClient, WalletIndex,
    channel::wallet_channel,
    mempool::{PendingTransactions, PendingWatch},
};

/// Blocks after which nodes that refused to trace are called again.
const TRACE_RETRY_BLOCKS: u64 = 1_000;

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
    tracer: Tracer,
    rules: ConfirmationRules,
    tokens: TokenCache,
    sent: SentUpdates,
    pending: PendingTransactions,
    /// Wallets whose balances no node returned.
    unread: BTreeSet<Address>,
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
            tracer: Tracer::default(),
            rules: ConfirmationRules::default(),
            tokens: TokenCache::default(),
            sent: SentUpdates::default(),
            pending: PendingTransactions::default(),
            unread: BTreeSet::new(),
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
        let block = &update.included;
        let traced = self.trace(block, is_watched, client).await;
        let traced_only: BTreeSet<_> = traced.difference(&activity.coins).copied().collect();
        activity.coins.extend(&traced_only);
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
        self.read_metadata(block, &activity, client).await;
        for (wallet, token_activity) in &activity.events {
            let token = self.tokens.get(&token_activity.contract);
            let is_nft = token.is_some_and(|token| token.is_nft);
            for data in token_updates(token_activity, block.block.number, is_nft) {
                updates.push((*wallet, self.wallet_update(*wallet, now_ms, data)));
            }
        }
        let balances = self.token_balance_updates(block, &activity, client, now_ms);
        updates.extend(balances.await);
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
            (wallet, self.wallet_update(wallet, now_ms, data))
        });
        channel_events(updates)
    }

    /// Applies a status of the transaction tracker. Returns updates if wallets received the
    /// transaction as pending, and it was replaced, cancelled or dropped, or a reorg undid that.
    pub(crate) fn apply_status(&mut self, status: &TransactionStatus) -> Vec<ChannelEvent> {
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

    fn settle(&mut self, update: &ChainUpdate, now_ms: i64) -> Vec<ChannelEvent> {
        let head = update.included.block.number;
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
        if self.tracing == Tracing::Off || number < self.trace_from || block.transactions.is_empty()
        {
            return BTreeSet::new();
        }
        let accounts = self.tracer.coin_accounts(block, client).await;
        let accounts = accounts.unwrap_or_else(|_| {
            self.trace_from = number + TRACE_RETRY_BLOCKS;
            BTreeSet::new()
        });
        accounts.into_iter().filter(is_watched).collect()
    }

    async fn transaction_updates<R: RpcClient>(
        &self,
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
            match block.receipts.get(position) {
                Some(receipt) => drop(succeeded.insert(position, receipt.status())),
                None => missing.push(position),
            }
        }
        let calls = missing.iter().filter_map(|position| {
            let hash = block.transactions.get(*position)?.tx_hash();
            Some(Call {
                method: "eth_getTransactionReceipt",
                params: json!([hash]),
            })
        });
        let responses = call_all(client, calls.collect()).await;
        for (position, response) in missing.into_iter().zip(responses) {
            if let Ok(receipt) = response
                && let Some(status) = receipt.get("status").and_then(|status| status.as_str())
            {
                succeeded.insert(position, status != "0x0");
            }
        }
        let updates = activity
            .transactions
            .iter()
            .filter_map(|(wallet, position)| {
                let transaction = block.transactions.get(*position)?;
                // Without a receipt nothing shows a failure.
                let state = match succeeded.get(position) {
                    Some(false) => TransactionState::Failed,
                    Some(true) | None => self.rules.initial_state(),
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
        let unread = pairs().filter(|(_, pair)| pair.iter().any(is_unreachable));
        self.unread.extend(unread.map(|(wallet, _)| *wallet));
        let updates = pairs().filter_map(|(wallet, pair)| {
            let amount = |index: usize| {
                let text = pair.get(index)?.as_ref().ok()?.as_str()?;
                U256::from_str_radix(text.strip_prefix("0x")?, 16).ok()
            };
            let source = if traced_only.contains(wallet) {
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
    ) {
        let tokens: BTreeSet<_> = activity.tokens.iter().map(|(_, token)| *token).collect();
        let unknown: Vec<_> = tokens
            .into_iter()
            .filter(|token| self.tokens.get(token).is_none())
            .collect();
        let views: Vec<_> = unknown
            .iter()
            .flat_map(|token| ViewCall::metadata(*token))
            .collect();
        let Some(results) = view_all(client, &views, &block.block).await else {
            // No node answered. The next block tries again.
            return;
        };
        for (token, results) in unknown.into_iter().zip(results.chunks(3)) {
            let result = |index: usize| results.get(index)?.as_deref();
            let metadata = TokenMetadata {
                symbol: result(0).and_then(symbol),
                decimals: result(1).and_then(decimals),
                is_nft: result(2).and_then(number) == Some(U256::ONE),
            };
            self.tokens.insert(token, metadata);
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
        let (Some(before), Some(after)) = (before, after) else {
            self.unread.extend(pairs.iter().map(|(wallet, _)| *wallet));
            return Updates::new();
        };
        let amount = |result: &Option<Vec<u8>>| result.as_deref().and_then(number);
        let balances = pairs.into_iter().zip(before.iter().zip(&after));
        let updates = balances.filter_map(|((wallet, token), (before, after))| {
            let source = BalanceSource::Balance;
            let number = block.block.number;
            let mut change = balance_change(amount(before), amount(after)?, source, number)?;
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
            data: Some(data),
        }
    }
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
