//! Canonical chain: the newest blocks, by which confirmations are counted.

use std::collections::BTreeMap;

use alloy::primitives::B256;

use super::BlockNumHash;
use crate::BlockData;

/// Heights in memory at most, to distinguish blocks of this chain from others.
const MAX_HEIGHTS: usize = 1_024;

pub(super) fn num_hash(block: &BlockData) -> BlockNumHash {
    BlockNumHash {
        number: block.block.number,
        hash: block.block.hash,
    }
}

/// The newest canonical blocks, as far as the tracker saw them.
#[derive(Debug, Default)]
pub(super) struct CanonicalChain {
    hashes: BTreeMap<u64, B256>,
    head: Option<u64>,
    /// The newest block that the chain itself calls final.
    finalized: Option<u64>,
}

impl CanonicalChain {
    /// The height of the newest block.
    pub(super) fn head(&self) -> Option<u64> {
        self.head
    }

    pub(super) fn include(&mut self, block: &BlockData, finalized: Option<u64>) {
        let BlockNumHash { number, hash } = num_hash(block);
        self.head = Some(number);
        self.finalized = self.finalized.max(finalized);
        self.hashes.split_off(&number);
        self.hashes.insert(number, hash);
        if self.hashes.len() > MAX_HEIGHTS {
            self.hashes.pop_first();
        }
    }

    pub(super) fn retract(&mut self, at: &BlockNumHash) {
        self.hashes.remove(&at.number);
    }

    /// Goes on from this block. Those before it are unknown.
    pub(super) fn resume(&mut self, tip: BlockNumHash) {
        self.hashes = BTreeMap::from([(tip.number, tip.hash)]);
        self.head = Some(tip.number);
    }

    /// Forgets all blocks but the newest: others before it are unknown.
    pub(super) fn forget_before_head(&mut self) {
        let head = self.head;
        self.hashes.retain(|number, _| Some(*number) == head);
    }

    /// Confirmations of a block's transactions. Their own block is the first. None before the first
    /// block of the chain is known.
    pub(super) fn confirmations(&self, at: BlockNumHash) -> Option<u32> {
        let head = self.head?.max(at.number);
        Some(u32::try_from(head - at.number + 1).unwrap_or(u32::MAX))
    }

    /// Whether a block that a node names is canonical, as far as is known. A block past the head
    /// is not: its update is still to come.
    pub(super) fn is_canonical(&self, at: BlockNumHash) -> bool {
        if self.head.is_some_and(|head| at.number > head) {
            return false;
        }
        let known = self.hashes.get(&at.number);
        known.is_none_or(|hash| *hash == at.hash)
    }

    /// The height of the newest final block. The chain's own finality overrides depth.
    pub(super) fn last_final(&self, depth: u64) -> Option<u64> {
        let head = self.head?;
        let by_depth = (head + 1).checked_sub(depth);
        self.finalized.or(by_depth).map(|last| last.min(head))
    }
}
