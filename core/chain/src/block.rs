//! Blocks as trackers see them, and the steps that a canonical chain goes.

use std::sync::Arc;

use alloy::{
    primitives::{B256, Bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};

/// Which block: enough to link it to its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The hash of the block before.
    pub parent: B256,
}

/// A block of the canonical chain with what it holds.
#[derive(Debug, Clone)]
pub struct BlockData {
    /// Which block.
    pub block: BlockRef,
    /// Its time, in milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The base fee in wei, where the chain has one.
    pub base_fee: Option<u64>,
    /// What its logs may hold.
    pub bloom: Bloom,
    /// Its transactions in order.
    pub transactions: Vec<Transaction>,
    /// Its logs in order, checked against the header.
    pub logs: Vec<Log>,
    /// The receipts in the order of the transactions; empty where nobody needs them.
    pub receipts: Vec<TransactionReceipt>,
}

/// One step of a canonical chain: one more block, and what its branch replaced.
#[derive(Debug, Clone)]
pub struct ChainUpdate {
    /// The chain's id.
    pub chain: u64,
    /// What the reorg took back, newest first; empty nearly always.
    pub retracted: Vec<Arc<BlockData>>,
    /// The block that is canonical now.
    pub included: Arc<BlockData>,
    /// The newest block that cannot be taken back, where the chain says so.
    pub finalized: Option<u64>,
}
