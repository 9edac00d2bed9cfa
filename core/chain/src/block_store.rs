//! Block store: the canonical blocks that a reorg can still retract, with their content.
//!
//! A restarted server resumes at the newest stored block. The content is stored too, because
//! nodes forget the blocks of an abandoned branch, while everything published about them must
//! be retracted.
//!
//! # Layout
//! | | bytes |
//! |---|---|
//! | key | chain id (8), height (8), both big-endian |
//! | value | hash (32), parent hash (32), then the content as deflated JSON |
//!
//! The hashes come first and uncompressed, so that the links can be read without the content.

use std::io::{Read as _, Write as _};

use alloy::{
    primitives::{Address, B256, Bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use serde::{Deserialize, Serialize};
use tidewire_store::{Batch, SharedStore, StoreError, Table};

use crate::{BlockData, BlockRef, ChainUpdate};

const BLOCKS: Table = Table("chain.blocks");

/// Blocks in one scan of the store. A block may have megabytes.
const PAGE: usize = 32;

/// The length of the two hashes at the start of a value, in bytes.
const HASHES: usize = 64;

/// The stored blocks of one chain.
#[derive(Clone)]
pub(crate) struct BlockStore {
    chain: u64,
    store: Option<SharedStore>,
}

/// The stored content of a block.
#[derive(Serialize, Deserialize)]
struct BlockContent {
    timestamp: i64,
    base_fee: Option<u64>,
    bloom: Bloom,
    transactions: Vec<Transaction>,
    logs: Vec<Log>,
    receipts: Vec<TransactionReceipt>,
    #[serde(default)]
    withdrawals: Vec<Address>,
}

impl BlockStore {
    /// The block store of a chain. Without a store it stays empty.
    pub(crate) fn new(chain: u64, store: Option<SharedStore>) -> Self {
        Self { chain, store }
    }

    fn key(&self, number: u64) -> Vec<u8> {
        let mut key = self.chain.to_be_bytes().to_vec();
        key.extend(number.to_be_bytes());
        key
    }

    /// The stored blocks, oldest first.
    pub(crate) async fn blocks(&self) -> Result<Vec<BlockRef>, StoreError> {
        let Some(store) = &self.store else {
            return Ok(Vec::new());
        };
        let prefix = self.chain.to_be_bytes().to_vec();
        let (mut blocks, mut after) = (Vec::new(), None);
        loop {
            let page = store.scan(BLOCKS, prefix.clone(), after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                let number = key.get(8..).and_then(|number| number.try_into().ok());
                blocks.extend(number.and_then(|number| {
                    Some(BlockRef {
                        number: u64::from_be_bytes(number),
                        hash: B256::try_from(value.get(..32)?).ok()?,
                        parent: B256::try_from(value.get(32..HASHES)?).ok()?,
                    })
                }));
            }
            if is_last {
                return Ok(blocks);
            }
        }
    }

    /// A block with its content. None if it is not stored or cannot be read; the log has the
    /// reason.
    pub(crate) async fn block(&self, block: BlockRef) -> Option<BlockData> {
        let store = self.store.as_ref()?;
        let value = match store.get(BLOCKS, self.key(block.number)).await {
            Ok(value) => value?,
            Err(error) => {
                tracing::warn!(chain = self.chain, number = block.number, %error, "the store failed to read a block");
                return None;
            }
        };
        if value.get(..32)? != block.hash.as_slice() {
            return None;
        }
        let content = decode(value.get(HASHES..)?);
        let content = content.inspect_err(|error| {
            tracing::warn!(chain = self.chain, number = block.number, %error, "a stored block cannot be decoded");
        });
        let content = content.ok()?;
        Some(BlockData {
            block,
            timestamp: content.timestamp,
            base_fee: content.base_fee,
            bloom: content.bloom,
            transactions: content.transactions,
            logs: content.logs,
            receipts: content.receipts,
            withdrawals: content.withdrawals,
        })
    }

    /// Adds the writes for a chain update to a batch: deletes retracted blocks and those below
    /// the reorg limit, and puts the included block.
    pub(crate) fn stage(&self, update: &ChainUpdate, reorg_limit: usize, batch: &mut Batch) {
        if self.store.is_none() {
            return;
        }
        let included = &update.included;
        let number = included.block.number;
        for retracted in &update.retracted {
            batch.delete(BLOCKS, self.key(retracted.block.number));
        }
        let oldest = number.saturating_sub(reorg_limit as u64);
        batch.delete_range(BLOCKS, self.key(0), self.key(oldest));
        match encode(included) {
            Ok(content) => {
                let mut value = Vec::with_capacity(HASHES + content.len());
                value.extend(included.block.hash);
                value.extend(included.block.parent);
                value.extend(content);
                batch.put(BLOCKS, self.key(number), value);
            }
            Err(error) => {
                tracing::error!(chain = self.chain, number, %error, "a block cannot be encoded for the store");
            }
        }
    }
}

fn encode(data: &BlockData) -> std::io::Result<Vec<u8>> {
    let content = BlockContent {
        timestamp: data.timestamp,
        base_fee: data.base_fee,
        bloom: data.bloom,
        transactions: data.transactions.clone(),
        logs: data.logs.clone(),
        receipts: data.receipts.clone(),
        withdrawals: data.withdrawals.clone(),
    };
    let json = serde_json::to_vec(&content)?;
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&json)?;
    encoder.finish()
}

fn decode(content: &[u8]) -> std::io::Result<BlockContent> {
    let mut json = Vec::new();
    DeflateDecoder::new(content).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
