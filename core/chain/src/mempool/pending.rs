//! Transactions that wallets were told of as pending, until it is known what becomes of
//! them. They are stored, so that it is told after a restart too; the monitor of
//! transactions finds it out.

use std::collections::{BTreeSet, HashMap, VecDeque};

use alloy::{
    consensus::Transaction as _,
    network::TransactionResponse as _,
    primitives::{Address, B256},
    rpc::types::Transaction,
};
use serde::{Deserialize, Serialize};
use tidewire_proto::v1::TransactionState;
use tidewire_store::{Batch, Table};

const WAITING: Table = Table("chain.waiting");

/// How many are remembered; the one that came first goes first.
const MOST: usize = 10_000;

/// A transaction that is to be looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingWatch {
    pub(crate) hash: B256,
    /// Sender and nonce.
    pub(crate) account: (Address, u64),
}

/// PendingTransaction that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PendingTransaction {
    /// Whom it was told.
    pub(crate) wallets: Vec<Address>,
    pub(crate) transaction: Transaction,
    /// The end that it was told to have come to, if a reorg may still undo it, and what took
    /// its place.
    #[serde(default)]
    pub(crate) end: Option<(i32, Option<String>)>,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct PendingTransactions {
    all: HashMap<B256, PendingTransaction>,
    order: VecDeque<B256>,
    /// What is not stored as it is.
    changed: BTreeSet<B256>,
    /// What nobody looks after yet.
    new: Vec<PendingWatch>,
    /// What nobody has to look after any more.
    done: Vec<B256>,
}

impl PendingTransaction {
    /// Whether the end that was told is this one.
    pub(crate) fn ended_as(&self, state: TransactionState) -> bool {
        self.end
            .as_ref()
            .is_some_and(|(told, _)| *told == i32::from(state))
    }
}

impl PendingTransactions {
    /// Adds one that these wallets were told of.
    pub(crate) fn insert(&mut self, transaction: &Transaction, wallets: Vec<Address>) {
        let one = PendingTransaction {
            wallets,
            transaction: transaction.clone(),
            end: None,
        };
        let hash = transaction.tx_hash();
        self.changed.insert(hash);
        self.enter(hash, one);
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front()
                && self.all.remove(&oldest).is_some()
            {
                self.changed.insert(oldest);
                self.done.push(oldest);
            }
        }
    }

    fn enter(&mut self, hash: B256, one: PendingTransaction) {
        let account = (one.transaction.from(), one.transaction.nonce());
        // PendingTransaction that a pool tells of again is looked after already.
        if self.all.insert(hash, one).is_none() {
            self.order.push_back(hash);
            self.new.push(PendingWatch { hash, account });
        }
    }

    /// PendingTransaction that waits.
    pub(crate) fn get(&self, hash: &B256) -> Option<&PendingTransaction> {
        self.all.get(hash)
    }

    /// Notes the end that one was told to have come to, or that it waits again.
    pub(crate) fn ended(&mut self, hash: B256, end: Option<(i32, Option<String>)>) {
        if let Some(one) = self.all.get_mut(&hash) {
            one.end = end;
            self.changed.insert(hash);
        }
    }

    /// It waits no more.
    pub(crate) fn remove(&mut self, hash: &B256) {
        if self.all.remove(hash).is_none() {
            return;
        }
        self.order.retain(|other| other != hash);
        self.changed.insert(*hash);
        self.done.push(*hash);
    }

    /// Takes what is to be looked after from now on.
    pub(crate) fn take_new(&mut self) -> Vec<PendingWatch> {
        std::mem::take(&mut self.new)
    }

    /// Takes what is not to be looked after any more.
    pub(crate) fn take_done(&mut self) -> Vec<B256> {
        std::mem::take(&mut self.done)
    }

    /// Adds what the store is to have.
    pub(crate) fn keep(&mut self, chain: u64, writes: &mut Batch) {
        for hash in std::mem::take(&mut self.changed) {
            let key = [&chain.to_be_bytes()[..], hash.as_slice()].concat();
            let one = self.all.get(&hash);
            match one.and_then(|one| serde_json::to_vec(one).ok()) {
                Some(value) => writes.put(WAITING, key, value),
                None => writes.delete(WAITING, key),
            }
        }
    }

    /// Where the store has those of a chain.
    pub(crate) fn stored(chain: u64) -> (Table, Vec<u8>) {
        (WAITING, chain.to_be_bytes().to_vec())
    }

    /// Takes one back from the store.
    pub(crate) fn restore(&mut self, value: &[u8]) -> Option<B256> {
        let one: PendingTransaction = serde_json::from_slice(value).ok()?;
        let hash = one.transaction.tx_hash();
        self.enter(hash, one);
        Some(hash)
    }
}
