//! Canonical chain: the newest blocks, by which confirmations are counted.

use std::collections::BTreeMap;

use alloy::primitives::B256;

use super::BlockNumHash;
use crate::{BlockData, ChainUpdate};

/// Heights in memory at most, to distinguish blocks of this chain from others.
const MAX_HEIGHTS: usize = 1_024;

pub(super) fn num_hash(block: &BlockData) -> BlockNumHash {
    BlockNumHash {
        number: block.block.number,
        hash: block.block.hash,
    }
}

/// Whether a block that a node names is canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    /// It is.
    Canonical,
    /// Another block has its height, or none has yet.
    Other,
    /// The tracker does not have the block at this height: it began later, or resynced, or forgot
    /// it. A node's word proves nothing.
    Unknown,
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

    pub(super) fn include(&mut self, update: &ChainUpdate) {
        let BlockNumHash { number, hash } = num_hash(&update.included);
        self.head = Some(number);
        self.finalized = update.finalized_after(self.finalized);
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
        let count = (head - at.number).saturating_add(1);
        Some(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Whether a block that a node names is canonical. A block past the head is not: its update is
    /// still to come.
    pub(super) fn membership(&self, at: BlockNumHash) -> Membership {
        if self.head.is_some_and(|head| at.number > head) {
            return Membership::Other;
        }
        match self.hashes.get(&at.number) {
            Some(hash) if *hash == at.hash => Membership::Canonical,
            Some(_) => Membership::Other,
            None => Membership::Unknown,
        }
    }

    /// The oldest block that is known to be canonical.
    pub(super) fn oldest(&self) -> Option<BlockNumHash> {
        let (number, hash) = self.hashes.first_key_value()?;
        Some(BlockNumHash {
            number: *number,
            hash: *hash,
        })
    }

    /// The height of the newest final block. The chain's own finality overrides depth.
    pub(super) fn last_final(&self, depth: u64) -> Option<u64> {
        let head = self.head?;
        let by_depth = head.saturating_add(1).checked_sub(depth);
        self.finalized.or(by_depth).map(|last| last.min(head))
    }
}
