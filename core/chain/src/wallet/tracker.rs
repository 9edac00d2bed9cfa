//! The tracker: steps in, updates out, reads between.
//!
//! A block costs one trace where the endpoint can, and reads for the wallets that had a
//! part in it: balances of the coin at the block and at its parent, balances of tokens
//! likewise and what is not known of their contracts, a hundred in a call. What was told of
//! the newest blocks is remembered, so that a reorg takes it back word for word.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use alloy::{
    consensus::Transaction as _,
    network::TransactionResponse as _,
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
};
use serde_json::json;
use tidewire_proto::v1::{
    BalanceChange, BalanceSource, Direction, TransactionState, WalletTransaction, WalletUpdate,
    wallet_update::Data,
};
use tidewire_store::{Batch, Store, StoreError};

use super::{
    Activity,
    calls::{View, coin_balance, decimals, number, symbol},
    reads::{is_unreachable, read, view_all},
    sent_updates::{Retraction, SentUpdates, Stages, Updates},
    tokens::{Token, Tokens},
    tracer::Tracer,
    update::token_update,
};
use crate::{
    BlockData, BlockRef, Call, ChainUpdate, ChannelEvent, RpcClient, mempool::PendingTransactions,
    publish::wallet_channel,
};

/// After how many blocks a node that could not trace is asked again.
const TRACE_AGAIN: u64 = 1_000;

/// Whether blocks are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    /// Where the endpoint can.
    Auto,
    /// Never.
    Off,
}

/// The tracker of all wallets on a chain.
#[derive(Debug)]
pub struct WalletTracker {
    chain: u64,
    tracing: Tracing,
    /// Do not ask for traces before this block.
    trace_from: u64,
    tracer: Tracer,
    stages: Stages,
    tokens: Tokens,
    sent: SentUpdates,
    pub(super) waiting: PendingTransactions,
    pub(super) pending: BTreeSet<B256>,
    pub(super) pending_order: VecDeque<B256>,
    /// Wallets whose balance no node told.
    missed: BTreeSet<Address>,
    /// Something was told that is not remembered, and was taken back.
    is_forgotten: bool,
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
            stages: Stages::default(),
            tokens: Tokens::default(),
            sent: SentUpdates::default(),
            waiting: PendingTransactions::default(),
            pending: BTreeSet::new(),
            pending_order: VecDeque::new(),
            missed: BTreeSet::new(),
            is_forgotten: false,
        }
    }

    /// The same with other bounds for what is confirmed and final.
    #[must_use]
    pub fn with(mut self, stages: Stages) -> Self {
        self.stages = stages;
        self
    }

    /// Whether the last step took something back that was told and is not remembered: then
    /// everyone has to be told that something is lost.
    pub fn take_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.is_forgotten)
    }

    /// Adds what has to outlive the process.
    pub(crate) fn keep(&mut self, writes: &mut Batch) {
        self.sent.keep(self.chain, writes);
        self.waiting.keep(self.chain, writes);
    }

    /// Takes back what was stored.
    pub(crate) async fn restore(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let (table, prefix) = SentUpdates::stored(self.chain);
        for (key, value) in store.scan(table, prefix, None, usize::MAX).await? {
            if self.sent.restore(&key, &value).is_none() {
                tracing::warn!(chain = self.chain, "what wallets were told cannot be read");
            }
        }
        let (table, prefix) = PendingTransactions::stored(self.chain);
        for (_, value) in store.scan(table, prefix, None, usize::MAX).await? {
            match self.waiting.restore(&value) {
                Some(hash) => drop(self.is_new(hash)),
                None => tracing::warn!(chain = self.chain, "what is pending cannot be read"),
            }
        }
        Ok(())
    }

    /// The chain began anew: what was told before is neither taken back nor gone on with.
    pub(crate) fn resync(&mut self) {
        self.sent.clear();
    }

    /// Takes the wallets of which the last step could not tell all, because no node
    /// answered: who follows them has to be told so.
    pub fn take_missed(&mut self) -> BTreeSet<Address> {
        std::mem::take(&mut self.missed)
    }

    /// One more block while no wallet is followed: nothing is read for it, but what was told
    /// before is taken back, or goes on.
    pub fn pass(&mut self, step: &ChainUpdate, now_ms: i64) -> Vec<ChannelEvent> {
        let mut out = Vec::new();
        for block in &step.retracted {
            out.extend(self.retract(block.block));
        }
        out.extend(self.settle(step, now_ms));
        out
    }

    fn settle(&mut self, step: &ChainUpdate, now_ms: i64) -> Vec<ChannelEvent> {
        let head = step.included.block.number;
        let settled = self.sent.settle(head, step.finalized, self.stages, now_ms);
        news(settled.into_iter())
    }

    /// One more block: first what a reorg took back, then what it brings. `activity` is
    /// [`Activity::of`] the block; `is_watched` tells for those that a trace finds.
    pub async fn step<R: RpcClient>(
        &mut self,
        step: &ChainUpdate,
        mut activity: Activity,
        is_watched: impl Fn(&Address) -> bool + Send,
        client: &R,
        now_ms: i64,
    ) -> Vec<ChannelEvent> {
        let mut out = Vec::new();
        for block in &step.retracted {
            out.extend(self.retract(block.block));
        }
        let block = &step.included;
        let traced = self.trace(block, is_watched, client).await;
        let inner: BTreeSet<_> = traced.difference(&activity.coins).copied().collect();
        activity.coins.extend(&inner);
        let head = block.block.number;
        let settled = self.settle(step, now_ms);
        if activity.is_empty() {
            out.extend(settled);
            return out;
        }
        for (_, place) in &activity.transactions {
            // A node may tell of a block before it tells what it had in its pool.
            if let Some(transaction) = block.transactions.get(*place) {
                self.is_new(transaction.tx_hash());
                self.waiting.remove(&transaction.tx_hash());
            }
        }
        let mut told = self.transactions(block, &activity, client, now_ms).await;
        told.extend(self.coins(block, &activity, &inner, client, now_ms).await);
        self.learn(block, &activity, client).await;
        for (wallet, happened) in &activity.events {
            let token = self.tokens.get(&happened.contract);
            let is_nft = token.is_some_and(|token| token.is_nft);
            for data in token_update(happened, block.block.number, is_nft) {
                told.push((*wallet, self.update(*wallet, now_ms, data)));
            }
        }
        told.extend(self.balances(block, &activity, client, now_ms).await);
        out.extend(news(told.iter().cloned()));
        self.sent.push(head, block.block.hash, told, self.stages);
        out.extend(settled);
        out
    }

    /// Takes back what was told of a block, the last first.
    fn retract(&mut self, block: BlockRef) -> Vec<ChannelEvent> {
        let told = match self.sent.retract(block.number, block.hash) {
            Retraction::Told(told) => told,
            Retraction::Forgotten => {
                self.is_forgotten = true;
                return Vec::new();
            }
        };
        for (_, update) in &told {
            // A node that takes it back into its pool is believed again.
            if let Some(Data::Transaction(data)) = &update.data
                && let Ok(hash) = data.hash.parse::<B256>()
            {
                self.pending.remove(&hash);
            }
        }
        news(told.into_iter().rev().map(|(wallet, mut update)| {
            update.removed = true;
            (wallet, update)
        }))
    }

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
        let moved = self.tracer.moved(block, client).await;
        let moved = moved.unwrap_or_else(|_| {
            self.trace_from = number + TRACE_AGAIN;
            BTreeSet::new()
        });
        moved.into_iter().filter(is_watched).collect()
    }

    async fn transactions<R: RpcClient>(
        &self,
        block: &BlockData,
        activity: &Activity,
        client: &R,
        now_ms: i64,
    ) -> Updates {
        let places: BTreeSet<_> = activity
            .transactions
            .iter()
            .map(|(_, place)| *place)
            .collect();
        let mut succeeded: BTreeMap<usize, bool> = BTreeMap::new();
        let mut missing = Vec::new();
        for place in places {
            match block.receipts.get(place) {
                Some(receipt) => drop(succeeded.insert(place, receipt.status())),
                None => missing.push(place),
            }
        }
        let calls = missing.iter().filter_map(|place| {
            let hash = block.transactions.get(*place)?.tx_hash();
            Some(Call {
                method: "eth_getTransactionReceipt",
                params: json!([hash]),
            })
        });
        let answers = read(client, calls.collect()).await;
        for (place, answer) in missing.into_iter().zip(answers) {
            if let Ok(receipt) = answer
                && let Some(status) = receipt.get("status").and_then(|status| status.as_str())
            {
                succeeded.insert(place, status != "0x0");
            }
        }
        let told = activity.transactions.iter().filter_map(|(wallet, place)| {
            let transaction = block.transactions.get(*place)?;
            // Without a receipt nothing says that it failed.
            let state = match succeeded.get(place) {
                Some(false) => TransactionState::Failed,
                Some(true) | None => self.stages.first(),
            };
            let data = moved_by(*wallet, transaction, state, Some(block.block.number));
            Some((
                *wallet,
                self.update(*wallet, now_ms, Data::Transaction(data)),
            ))
        });
        told.collect()
    }

    /// Balances of the chain's own coin.
    async fn coins<R: RpcClient>(
        &mut self,
        block: &BlockData,
        activity: &Activity,
        inner: &BTreeSet<Address>,
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
        let answers = read(client, calls.collect()).await;
        let pairs = || activity.coins.iter().zip(answers.chunks(2));
        let missed = pairs().filter(|(_, pair)| pair.iter().any(is_unreachable));
        self.missed.extend(missed.map(|(wallet, _)| *wallet));
        let told = pairs().filter_map(|(wallet, pair)| {
            let amount = |place: usize| {
                let text = pair.get(place)?.as_ref().ok()?.as_str()?;
                U256::from_str_radix(text.strip_prefix("0x")?, 16).ok()
            };
            let how = if inner.contains(wallet) {
                BalanceSource::Trace
            } else {
                BalanceSource::Balance
            };
            let change = change(amount(0), amount(1)?, how, block.block.number)?;
            Some((*wallet, self.update(*wallet, now_ms, Data::Balance(change))))
        });
        told.collect()
    }

    /// Reads what is not known of the tokens of a block.
    async fn learn<R: RpcClient>(&mut self, block: &BlockData, activity: &Activity, client: &R) {
        let tokens: BTreeSet<_> = activity.tokens.iter().map(|(_, token)| *token).collect();
        let unknown: Vec<_> = tokens
            .into_iter()
            .filter(|t| self.tokens.get(t).is_none())
            .collect();
        let views: Vec<_> = unknown
            .iter()
            .flat_map(|token| View::metadata(*token))
            .collect();
        let Some(results) = view_all(client, &views, &block.block).await else {
            // Nobody answered: the next block asks again.
            return;
        };
        for (token, results) in unknown.into_iter().zip(results.chunks(3)) {
            let part = |place: usize| results.get(place)?.as_deref();
            let known = Token {
                symbol: part(0).and_then(symbol),
                decimals: part(1).and_then(decimals),
                is_nft: part(2).and_then(number) == Some(U256::ONE),
            };
            self.tokens.insert(token, known);
        }
    }

    /// Balances of tokens.
    async fn balances<R: RpcClient>(
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
            .map(|(wallet, token)| View::balance(*token, *wallet))
            .collect();
        let before = view_all(client, &views, &parent(block)).await;
        let after = view_all(client, &views, &block.block).await;
        let (Some(before), Some(after)) = (before, after) else {
            self.missed.extend(pairs.iter().map(|(wallet, _)| *wallet));
            return Updates::new();
        };
        let amount = |result: &Option<Vec<u8>>| result.as_deref().and_then(number);
        let told = pairs.into_iter().zip(before.iter().zip(&after));
        let told = told.filter_map(|((wallet, token), (before, after))| {
            let source = BalanceSource::Balance;
            let mut change = change(amount(before), amount(after)?, source, block.block.number)?;
            change.token = Some(format!("{token:?}"));
            if let Some(known) = self.tokens.get(token) {
                change.symbol = known.symbol.clone();
                change.decimals = known.decimals;
            }
            Some((*wallet, self.update(*wallet, now_ms, Data::Balance(change))))
        });
        told.collect()
    }

    pub(super) fn update(&self, wallet: Address, now_ms: i64, data: Data) -> WalletUpdate {
        WalletUpdate {
            address: format!("{wallet:?}"),
            chain: self.chain,
            timestamp: now_ms,
            removed: false,
            data: Some(data),
        }
    }
}

/// Where reads of the block before go.
fn parent(block: &BlockData) -> BlockRef {
    BlockRef {
        number: block.block.number.saturating_sub(1),
        hash: block.block.parent,
        parent: B256::ZERO,
    }
}

/// A change, if there is one. What was before may not be known: then nothing says how much
/// it changed.
fn change(
    before: Option<U256>,
    now: U256,
    how: BalanceSource,
    block_number: u64,
) -> Option<BalanceChange> {
    if before == Some(now) {
        return None;
    }
    let before_known = before?;
    let (larger, smaller) = (now.max(before_known), now.min(before_known));
    let sign = if now < before_known { "-" } else { "" };
    let mut change = BalanceChange {
        previous: Some(before_known.to_string()),
        current: now.to_string(),
        delta: format!("{sign}{}", larger - smaller),
        block_number,
        ..BalanceChange::default()
    };
    change.set_how(how);
    Some(change)
}

pub(super) fn moved_by(
    wallet: Address,
    transaction: &Transaction,
    state: TransactionState,
    block_number: Option<u64>,
) -> WalletTransaction {
    let (from, to) = (transaction.from(), transaction.to());
    let direction = match (from == wallet, to == Some(wallet)) {
        (true, true) => Direction::Self_,
        (true, false) => Direction::Out,
        (false, _) => Direction::In,
    };
    let mut moved = WalletTransaction {
        hash: transaction.tx_hash().to_string(),
        from: format!("{from:?}"),
        to: to.map(|to| format!("{to:?}")),
        value: transaction.value().to_string(),
        block_number,
        ..WalletTransaction::default()
    };
    moved.set_direction(direction);
    moved.set_status(state);
    moved
}

pub(super) fn news(told: impl Iterator<Item = (Address, WalletUpdate)>) -> Vec<ChannelEvent> {
    let news = told.filter_map(|(wallet, update)| {
        Some(ChannelEvent {
            channel: wallet_channel(&wallet).ok()?,
            event: tidewire_stream::Event::WalletUpdate(update),
        })
    });
    news.collect()
}
