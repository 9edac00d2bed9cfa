//! Blocks and chain updates: messages of the fork choice to the processor.
//!
//! Where a reorg is decided: [`fork_choice`](crate::fork_choice) chooses the head, and
//! [`HeaderTree::plan`](crate::tree::HeaderTree::plan) decides how far the reorg reaches.

use std::sync::Arc;

use alloy::{
    primitives::{Address, B256, Bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};

/// The identity of a block, and the link to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// The block's height.
    pub number: u64,
    /// The block's hash.
    pub hash: B256,
    /// The parent's hash.
    pub parent: B256,
}

/// A canonical block with its content.
#[derive(Debug, Clone)]
pub struct BlockData {
    /// The block's identity.
    pub block: BlockRef,
    /// The block's time, in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The base fee in wei, on chains that have one.
    pub base_fee: Option<u64>,
    /// The bloom filter of the logs.
    pub bloom: Bloom,
    /// The transactions, in block order.
    pub transactions: Vec<Transaction>,
    /// The logs, in block order.
    pub logs: Vec<Log>,
    /// The receipts, in the order of the transactions. Empty if the chain's configuration waives
    /// their proof and no endpoint returns the receipts of a whole block.
    pub receipts: Vec<TransactionReceipt>,
    /// The accounts that withdrawals of validators credit.
    pub withdrawals: Vec<Address>,
}

impl BlockData {
    /// The receipt of the transaction at a position. None if the block has none.
    #[must_use]
    pub fn receipt_of(&self, position: usize) -> Option<&TransactionReceipt> {
        let hash = *self.transactions.get(position)?.inner.tx_hash();
        let at_position = self.receipts.get(position);
        // Positions differ in a block with transactions of the chain itself.
        let at_position = at_position.filter(|receipt| receipt.transaction_hash == hash);
        at_position.or_else(|| {
            let mut all = self.receipts.iter();
            all.find(|receipt| receipt.transaction_hash == hash)
        })
    }
}

/// One change of the canonical chain: a new tip, and the blocks that it replaces.
///
/// # Example
/// The chain `a1 b2 c3` reorgs to `a1 x2 y3`. The first update retracts `[c3, b2]` and includes
/// `x2`. The second one retracts nothing and includes `y3`.
#[derive(Debug, Clone)]
pub struct ChainUpdate {
    /// The chain's id.
    pub chain: u64,
    /// The blocks that a reorg retracts, newest first. Almost always empty.
    pub retracted: Vec<Arc<BlockData>>,
    /// The new tip.
    pub included: Arc<BlockData>,
    /// The height of the newest final block. None if no node reports one.
    pub finalized: Option<u64>,
}

impl ChainUpdate {
    /// The newest final height after this update, from the one before it.
    ///
    /// It only rises, but for a reorg that retracts blocks that were called final: an endpoint was
    /// wrong about them.
    ///
    /// # Example
    /// Height 9 was final. A reorg retracts the blocks 8 to 12, so that nothing is known to be final
    /// until a node names a final block again.
    #[must_use]
    pub fn finalized_after(&self, before: Option<u64>) -> Option<u64> {
        let lowest = self.retracted.iter().map(|data| data.block.number).min();
        let is_kept = |height: &u64| lowest.is_none_or(|lowest| *height < lowest);
        before.filter(is_kept).max(self.finalized)
    }
}
