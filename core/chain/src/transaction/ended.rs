//! Ended watches: the final statuses of transactions, as long as they are remembered.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::{Address, B256};
use smallvec::SmallVec;
use tidewire_proto::v1::TransactionStatus;

use super::watch::{BlockNumHash, Transfer};

/// A watch that a final block ended. A reorg of that block continues it.
#[derive(Debug)]
pub(super) struct EndedWatch {
    pub(super) status: TransactionStatus,
    /// The final block.
    pub(super) at: Option<BlockNumHash>,
    pub(super) account: Option<(Address, u64)>,
    pub(super) transfer: Option<Box<Transfer>>,
    pub(super) durable: Option<SmallVec<[Box<str>; 1]>>,
    pub(super) rules: bool,
    pub(super) abi: Box<[String]>,
}

/// The newest watches that ended, with their final statuses.
#[derive(Debug)]
pub(super) struct EndedStatuses {
    max: usize,
    statuses: HashMap<B256, EndedWatch>,
    order: VecDeque<B256>,
}

impl EndedStatuses {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            statuses: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn get(&self, hash: &B256) -> Option<&TransactionStatus> {
        self.statuses.get(hash).map(|ended| &ended.status)
    }

    /// Takes those that this block ended.
    pub(super) fn take_block(&mut self, at: &BlockNumHash) -> Vec<(B256, EndedWatch)> {
        let is_of_block = |_: &B256, ended: &mut EndedWatch| ended.at == Some(*at);
        let taken: Vec<_> = self.statuses.extract_if(is_of_block).collect();
        if !taken.is_empty() {
            let statuses = &self.statuses;
            self.order.retain(|hash| statuses.contains_key(hash));
        }
        taken
    }

    pub(super) fn insert(&mut self, hash: B256, ended: EndedWatch) {
        if self.statuses.insert(hash, ended).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.statuses.remove(&oldest);
        }
    }
}
