//! What the store keeps of a chain: the canonical blocks that can still be taken back,
//! whole. The newest of them is where a restarted server goes on.
//!
//! A key is the chain and the height, a value the block with all it holds, compressed:
//! nodes forget a block that a reorg took back, and what was published of it has to be
//! taken back too.

use std::io::{Read as _, Write as _};

use alloy::{
    primitives::{B256, Bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use serde::{Deserialize, Serialize};
use tidewire_store::{Batch, SharedStore, StoreError, Table};

use crate::{BlockData, BlockRef, ChainUpdate};

const BLOCKS: Table = Table("chain.blocks");

/// How many blocks are read from the store at once.
const PAGE: usize = 32;

/// The blocks of one chain, as the store keeps them.
#[derive(Clone)]
pub(crate) struct BlockStore {
    chain: u64,
    store: Option<SharedStore>,
}

/// A block as it is kept. What is looked at without the rest comes first, uncompressed.
#[derive(Serialize, Deserialize)]
struct Kept {
    timestamp: i64,
    base_fee: Option<u64>,
    bloom: Bloom,
    transactions: Vec<Transaction>,
    logs: Vec<Log>,
    receipts: Vec<TransactionReceipt>,
}

/// The two hashes that a value begins with.
const HASHES: usize = 64;

impl BlockStore {
    /// The archive of a chain. Without a store it keeps nothing.
    pub(crate) fn new(chain: u64, store: Option<SharedStore>) -> Self {
        Self { chain, store }
    }

    fn key(&self, number: u64) -> Vec<u8> {
        let mut key = self.chain.to_be_bytes().to_vec();
        key.extend(number.to_be_bytes());
        key
    }

    /// The blocks that are kept, oldest first.
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

    /// A block, if it is kept.
    pub(crate) async fn block(&self, block: BlockRef) -> Option<BlockData> {
        let store = self.store.as_ref()?;
        let value = match store.get(BLOCKS, self.key(block.number)).await {
            Ok(value) => value?,
            Err(error) => {
                tracing::warn!(chain = self.chain, number = block.number, %error, "a block cannot be read from the store");
                return None;
            }
        };
        if value.get(..32)? != block.hash.as_slice() {
            return None;
        }
        let kept = read(value.get(HASHES..)?);
        let kept = kept.inspect_err(|error| {
            tracing::warn!(chain = self.chain, number = block.number, %error, "a block in the store cannot be read");
        });
        let kept = kept.ok()?;
        Some(BlockData {
            block,
            timestamp: kept.timestamp,
            base_fee: kept.base_fee,
            bloom: kept.bloom,
            transactions: kept.transactions,
            logs: kept.logs,
            receipts: kept.receipts,
        })
    }

    /// The writes that keep a step: what it takes back goes, what it includes comes, and
    /// what cannot be taken back any more goes too.
    pub(crate) fn stage(&self, step: &ChainUpdate, limit: usize, batch: &mut Batch) {
        if self.store.is_none() {
            return;
        }
        let included = &step.included;
        let number = included.block.number;
        for retracted in &step.retracted {
            batch.delete(BLOCKS, self.key(retracted.block.number));
        }
        let oldest = number.saturating_sub(limit as u64);
        batch.delete_range(BLOCKS, self.key(0), self.key(oldest));
        match write(included) {
            Ok(content) => {
                let mut value = Vec::with_capacity(HASHES + content.len());
                value.extend(included.block.hash);
                value.extend(included.block.parent);
                value.extend(content);
                batch.put(BLOCKS, self.key(number), value);
            }
            Err(error) => {
                tracing::error!(chain = self.chain, number, %error, "a block cannot be kept");
            }
        }
    }
}

fn write(data: &BlockData) -> std::io::Result<Vec<u8>> {
    let kept = Kept {
        timestamp: data.timestamp,
        base_fee: data.base_fee,
        bloom: data.bloom,
        transactions: data.transactions.clone(),
        logs: data.logs.clone(),
        receipts: data.receipts.clone(),
    };
    let text = serde_json::to_vec(&kept)?;
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&text)?;
    encoder.finish()
}

fn read(content: &[u8]) -> std::io::Result<Kept> {
    let mut text = Vec::new();
    DeflateDecoder::new(content).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
