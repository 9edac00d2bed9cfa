//! Pending transactions: those that wallets received as pending, until their outcome is known.
//!
//! They are stored, so that a wallet receives the outcome after a restart too. The transaction
//! tracker finds the outcome out: it watches each hash from [`PendingTransactions::take_new`]
//! until [`PendingTransactions::take_done`] returns it.

use std::collections::{BTreeSet, HashMap, VecDeque};

use alloy::{
    consensus::Transaction as _,
    primitives::{Address, B256},
    rpc::types::Transaction,
};
use alloy_network_primitives::TransactionResponse as _;
use serde::{Deserialize, Serialize};
use tidewire_proto::v1::TransactionState;
use tidewire_store::{Batch, Table};

/// Pending transactions by chain and hash. Existing stores have this name.
const PENDING: Table = Table("chain.waiting");

/// Pending transactions in memory at most. Beyond, the oldest are dropped.
const MAX_PENDING: usize = 10_000;

/// Hashes that are remembered as seen at most. Beyond, the oldest are forgotten.
const MAX_SEEN: usize = 10_000;

/// A transaction for the transaction tracker to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingWatch {
    pub(crate) hash: B256,
    /// Sender and nonce.
    pub(crate) account: (Address, u64),
}

/// A transaction that wallets received as pending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PendingTransaction {
    /// The wallets that received it.
    pub(crate) wallets: Vec<Address>,
    pub(crate) transaction: Transaction,
    /// The final state that the wallets received, and the hash of the replacement, while a
    /// reorg may still undo it.
    #[serde(default)]
    pub(crate) end: Option<(i32, Option<String>)>,
}

/// The pending transactions of a chain.
#[derive(Debug, Default)]
pub(crate) struct PendingTransactions {
    all: HashMap<B256, PendingTransaction>,
    order: VecDeque<B256>,
    /// Transactions that wallets received as pending or in a block: a late report from a
    /// mempool is not sent again.
    seen: BTreeSet<B256>,
    seen_order: VecDeque<B256>,
    /// Transactions whose row in the store is out of date.
    changed: BTreeSet<B256>,
    new: Vec<PendingWatch>,
    done: Vec<B256>,
}

impl PendingTransaction {
    /// Whether the wallets received this final state.
    pub(crate) fn has_ended_as(&self, state: TransactionState) -> bool {
        self.end
            .as_ref()
            .is_some_and(|(sent, _)| *sent == i32::from(state))
    }
}

impl PendingTransactions {
    /// Marks a transaction as seen. Returns false if it was seen before.
    pub(crate) fn mark_seen(&mut self, hash: B256) -> bool {
        if !self.seen.insert(hash) {
            return false;
        }
        self.seen_order.push_back(hash);
        if self.seen_order.len() > MAX_SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    /// Forgets that a transaction was seen: a reorg took its block back, so a report that it is
    /// pending counts again.
    pub(crate) fn unmark_seen(&mut self, hash: &B256) {
        self.seen.remove(hash);
    }

    /// Adds a transaction that these wallets received as pending.
    pub(crate) fn insert(&mut self, transaction: &Transaction, wallets: Vec<Address>) {
        let pending = PendingTransaction {
            wallets,
            transaction: transaction.clone(),
            end: None,
        };
        let hash = transaction.tx_hash();
        self.changed.insert(hash);
        self.add(hash, pending);
        while self.order.len() > MAX_PENDING {
            if let Some(oldest) = self.order.pop_front()
                && self.all.remove(&oldest).is_some()
            {
                self.changed.insert(oldest);
                self.done.push(oldest);
            }
        }
    }

    fn add(&mut self, hash: B256, pending: PendingTransaction) {
        let account = (pending.transaction.from(), pending.transaction.nonce());
        // A transaction that a mempool reports twice is watched already.
        if self.all.insert(hash, pending).is_none() {
            self.order.push_back(hash);
            self.new.push(PendingWatch { hash, account });
        }
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<&PendingTransaction> {
        self.all.get(hash)
    }

    /// Sets the final state that the wallets received, or `None` after a reorg undid it.
    pub(crate) fn set_end(&mut self, hash: B256, end: Option<(i32, Option<String>)>) {
        if let Some(pending) = self.all.get_mut(&hash) {
            pending.end = end;
            self.changed.insert(hash);
        }
    }

    /// Removes a transaction that is no longer pending.
    pub(crate) fn remove(&mut self, hash: &B256) {
        if self.all.remove(hash).is_none() {
            return;
        }
        self.order.retain(|other| other != hash);
        self.changed.insert(*hash);
        self.done.push(*hash);
    }

    /// Takes the transactions to watch from now on.
    pub(crate) fn take_new(&mut self) -> Vec<PendingWatch> {
        std::mem::take(&mut self.new)
    }

    /// Takes the transactions to watch no longer.
    pub(crate) fn take_done(&mut self) -> Vec<B256> {
        std::mem::take(&mut self.done)
    }

    /// Adds the changes to a write of the store.
    pub(crate) fn stage(&mut self, chain: u64, writes: &mut Batch) {
        for hash in std::mem::take(&mut self.changed) {
            let key = [&chain.to_be_bytes()[..], hash.as_slice()].concat();
            let pending = self.all.get(&hash);
            match pending.and_then(|pending| serde_json::to_vec(pending).ok()) {
                Some(value) => writes.put(PENDING, key, value),
                None => writes.delete(PENDING, key),
            }
        }
    }

    /// The table of pending transactions, and the prefix of a chain's keys.
    pub(crate) fn rows(chain: u64) -> (Table, Vec<u8>) {
        (PENDING, chain.to_be_bytes().to_vec())
    }

    /// Adds a transaction from the store. Returns `None` if the row is unreadable.
    pub(crate) fn restore(&mut self, value: &[u8]) -> Option<()> {
        let pending: PendingTransaction = serde_json::from_slice(value).ok()?;
        let hash = pending.transaction.tx_hash();
        self.add(hash, pending);
        self.mark_seen(hash);
        Some(())
    }
}
