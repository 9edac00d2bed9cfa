//! The feed's part that tells of transactions which are in no block: what comes into a
//! pool, and what becomes of it.

use alloy::{network::TransactionResponse as _, primitives::B256, rpc::types::Transaction};
use tidewire_proto::v1::{TransactionState, TransactionStatus, wallet_update::Data};

use super::{
    WalletTracker,
    activity::parties,
    tracker::{moved_by, news},
};
use crate::{ChannelEvent, WalletIndex, mempool::PendingWatch};

/// How many pending transactions are remembered as told.
const MAX_PENDING: usize = 10_000;

impl WalletTracker {
    /// A transaction that waits in the pool; it is told once.
    pub fn pending(
        &mut self,
        transaction: &Transaction,
        index: &WalletIndex,
        now_ms: i64,
    ) -> Vec<ChannelEvent> {
        let watched: Vec<_> = parties(transaction).filter(|w| index.contains(w)).collect();
        if watched.is_empty() || !self.is_new(transaction.tx_hash()) {
            return Vec::new();
        }
        self.waiting.insert(transaction, watched.clone());
        let told = watched.into_iter().map(|wallet| {
            let data = moved_by(wallet, transaction, TransactionState::Pending, None);
            (wallet, self.update(wallet, now_ms, Data::Transaction(data)))
        });
        news(told)
    }

    /// Whether a transaction was told neither as pending nor in a block.
    pub(super) fn is_new(&mut self, hash: B256) -> bool {
        if !self.pending.insert(hash) {
            return false;
        }
        self.pending_order.push_back(hash);
        if self.pending_order.len() > MAX_PENDING
            && let Some(oldest) = self.pending_order.pop_front()
        {
            self.pending.remove(&oldest);
        }
        true
    }

    /// What became of a transaction that may have been told as pending, as the monitor says.
    pub(crate) fn became(&mut self, status: &TransactionStatus) -> Vec<ChannelEvent> {
        use TransactionState::{Cancelled, Dropped, Pending, Replaced};
        let Ok(hash) = status.hash.parse::<B256>() else {
            return Vec::new();
        };
        let Some(one) = self.waiting.get(&hash) else {
            return Vec::new();
        };
        let state = status.state();
        let (state, replaced_by, removed) = match (state, &one.end) {
            (Replaced | Cancelled | Dropped, _) if one.ended_as(state) => return Vec::new(),
            (Replaced | Cancelled | Dropped, _) => (state, status.replaced_by.clone(), false),
            (Pending, Some((told, by))) if status.reorged == Some(true) => {
                let told = TransactionState::try_from(*told).unwrap_or(Replaced);
                (told, by.clone(), true)
            }
            _ => return Vec::new(),
        };
        let told: Vec<_> = one
            .wallets
            .iter()
            .map(|wallet| {
                let mut data = moved_by(*wallet, &one.transaction, state, None);
                data.replaced_by.clone_from(&replaced_by);
                let data = Data::Transaction(data);
                let mut update = self.update(*wallet, status.timestamp, data);
                update.removed = removed;
                (*wallet, update)
            })
            .collect();
        match state {
            Dropped => self.waiting.remove(&hash),
            _ if removed => self.waiting.ended(hash, None),
            _ => self.waiting.ended(hash, Some((state.into(), replaced_by))),
        }
        news(told.into_iter())
    }

    /// Transactions that were told as pending, and wait for what becomes of them.
    pub(crate) fn take_waiting(&mut self) -> Vec<PendingWatch> {
        self.waiting.take_new()
    }

    /// Those that wait no more.
    pub(crate) fn take_settled(&mut self) -> Vec<B256> {
        self.waiting.take_done()
    }
}
