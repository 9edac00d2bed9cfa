//! Scripted chain and node: blocks, a mempool, and the responses of the node.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, sync::Arc};

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    rpc::types::{Log, Transaction},
};
use alloy_network_primitives::TransactionResponse as _;
use serde_json::{Value, json};
use tidewire_chain::{BlockData, BlockRef, Call, ChainUpdate, RpcError};

pub(crate) const CHAIN: u64 = 31_337;

pub(crate) fn account(last: u8) -> Address {
    Address::with_last_byte(last)
}

pub(crate) fn hash(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

/// A transaction of `from` with `nonce`. With `value` 0 to the sender it is a cancellation.
pub(crate) fn transaction(
    hash: B256,
    from: Address,
    nonce: u64,
    to: Address,
    value: u64,
) -> Transaction {
    serde_json::from_value(json!({
        "type": "0x2", "chainId": format!("{CHAIN:#x}"), "nonce": format!("{nonce:#x}"),
        "gas": "0x5208", "value": format!("{value:#x}"), "maxFeePerGas": "0x2",
        "maxPriorityFeePerGas": "0x1", "input": "0x", "accessList": [],
        "r": "0x1", "s": "0x1", "yParity": "0x0", "v": "0x0", "hash": hash,
        "from": from, "to": to, "blockHash": null, "blockNumber": null,
        "transactionIndex": null,
    }))
    .unwrap()
}

/// A node with a chain of its own.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) blocks: Vec<Arc<BlockData>>,
    pub(crate) mempool: BTreeMap<B256, Transaction>,
    /// Transactions that revert.
    pub(crate) failing: Vec<B256>,
    /// The trace of each transaction. Without it the node has no traces.
    pub(crate) trace: Option<Value>,
    /// The node's treatment of receipts.
    pub(crate) receipt_fault: Option<fn(Value) -> Result<Value, RpcError>>,
    /// Whether the node answers nothing.
    pub(crate) is_down: bool,
    /// The number of calls so far.
    pub(crate) calls: usize,
    mined_count: u64,
}

impl Node {
    pub(crate) fn head(&self) -> Option<&Arc<BlockData>> {
        self.blocks.last()
    }

    /// Mines a block of these transactions, and removes them from the mempool.
    pub(crate) fn mine(&mut self, transactions: &[B256]) -> ChainUpdate {
        self.mine_on(transactions, Vec::new(), Vec::new())
    }

    pub(crate) fn mine_logs(&mut self, logs: Vec<Log>) -> ChainUpdate {
        self.mine_on(&[], logs, Vec::new())
    }

    /// Retracts `depth` blocks, and mines one block of these transactions in their place.
    pub(crate) fn reorg(&mut self, depth: usize, transactions: &[B256]) -> ChainUpdate {
        let parent = self.blocks.len() - depth;
        let mut retracted = self.blocks.split_off(parent);
        retracted.reverse();
        self.mine_on(transactions, Vec::new(), retracted)
    }

    fn mine_on(
        &mut self,
        transactions: &[B256],
        logs: Vec<Log>,
        retracted: Vec<Arc<BlockData>>,
    ) -> ChainUpdate {
        self.mined_count += 1;
        let mined: Vec<_> = transactions
            .iter()
            .filter_map(|hash| self.mempool.remove(hash))
            .collect();
        let parent = self.head().map(|block| block.block);
        let block = Arc::new(BlockData {
            block: BlockRef {
                number: parent.map_or(1, |parent| parent.number + 1),
                hash: keccak256([b"block".as_slice(), &self.mined_count.to_be_bytes()].concat()),
                parent: parent.map_or(B256::ZERO, |parent| parent.hash),
            },
            timestamp: 0,
            base_fee: None,
            bloom: Default::default(),
            transactions: mined,
            logs,
            receipts: Vec::new(),
            withdrawals: Vec::new(),
        });
        self.blocks.push(block.clone());
        ChainUpdate {
            chain: CHAIN,
            retracted,
            included: block,
            finalized: None,
        }
    }

    pub(crate) fn send(&mut self, transaction: Transaction) {
        self.mempool.insert(transaction.tx_hash(), transaction);
    }

    /// The block that holds a transaction.
    pub(crate) fn block_of(&self, hash: B256) -> Option<(&Arc<BlockData>, &Transaction)> {
        self.blocks.iter().find_map(|block| {
            let mut all = block.transactions.iter();
            Some((block, all.find(|other| other.tx_hash() == hash)?))
        })
    }

    pub(crate) fn respond(&mut self, call: &Call) -> Result<Value, RpcError> {
        self.calls += 1;
        if self.is_down {
            return Err(RpcError::Unreachable {
                chain: CHAIN,
                reason: "down".to_owned(),
            });
        }
        let first = call.params.get(0).cloned().unwrap_or_default();
        let hash = || first.as_str().unwrap().parse::<B256>().unwrap();
        match call.method {
            "eth_getTransactionByHash" => Ok(self.transaction(hash())),
            "eth_getTransactionReceipt" => {
                let receipt = self.receipt(hash());
                self.receipt_fault
                    .map_or(Ok(receipt.clone()), |fault| fault(receipt))
            }
            "eth_getTransactionCount" => {
                let from: Address = first.as_str().unwrap().parse().unwrap();
                let with_mempool = call.params[1] == "pending";
                Ok(json!(format!("{:#x}", self.count(from, with_mempool))))
            }
            "debug_traceTransaction" => self.trace.clone().ok_or(refused(-32_601, None)),
            "eth_call" => Err(refused(
                3,
                Some(json!(alloy::hex::encode_prefixed(
                    [
                        &keccak256("Panic(uint256)")[..4],
                        &U256::from(1).to_be_bytes::<32>()
                    ]
                    .concat()
                ))),
            )),
            _ => Err(refused(-32_601, None)),
        }
    }

    fn transaction(&self, hash: B256) -> Value {
        if let Some(pending) = self.mempool.get(&hash) {
            return serde_json::to_value(pending).unwrap();
        }
        let Some((block, found)) = self.block_of(hash) else {
            return Value::Null;
        };
        let mut value = serde_json::to_value(found).unwrap();
        value["blockHash"] = json!(block.block.hash);
        value["blockNumber"] = json!(format!("{:#x}", block.block.number));
        let mut all = block.transactions.iter();
        let index = all.position(|other| other.tx_hash() == hash).unwrap();
        value["transactionIndex"] = json!(format!("{index:#x}"));
        value
    }

    fn receipt(&self, hash: B256) -> Value {
        let Some((block, _)) = self.block_of(hash) else {
            return Value::Null;
        };
        let mut all = block.transactions.iter();
        let index = all.position(|other| other.tx_hash() == hash).unwrap();
        let status = if self.failing.contains(&hash) {
            "0x0"
        } else {
            "0x1"
        };
        json!({
            "transactionHash": hash, "blockHash": block.block.hash,
            "transactionIndex": format!("{index:#x}"),
            "blockNumber": format!("{:#x}", block.block.number), "status": status,
            "gasUsed": "0x5207", "effectiveGasPrice": "0x2",
        })
    }

    fn count(&self, from: Address, with_mempool: bool) -> u64 {
        let mined = self.blocks.iter().flat_map(|block| &block.transactions);
        let pending = self.mempool.values().filter(|_| with_mempool);
        mined
            .chain(pending)
            .filter(|transaction| transaction.from() == from)
            .map(|transaction| alloy::consensus::Transaction::nonce(transaction) + 1)
            .max()
            .unwrap_or(0)
    }
}

/// Receipts that prove nothing about a transaction.
pub(crate) const RECEIPT_FAULTS: [fn(Value) -> Result<Value, RpcError>; 9] = [
    |_| Ok(Value::Null),
    |_| Err(refused(-32_000, None)),
    |receipt| with(receipt, "transactionHash", json!(hash(99))),
    |receipt| with(receipt, "blockHash", json!(hash(99))),
    |receipt| with(receipt, "blockHash", Value::Null),
    |receipt| with(receipt, "transactionIndex", json!("0x7")),
    |receipt| with(receipt, "status", Value::Null),
    |receipt| with(receipt, "status", json!("0x2")),
    |receipt| with(receipt, "status", json!("success")),
];

fn with(mut receipt: Value, field: &str, value: Value) -> Result<Value, RpcError> {
    receipt[field] = value;
    Ok(receipt)
}

pub(crate) fn refused(code: i64, data: Option<Value>) -> RpcError {
    RpcError::Refused {
        code,
        message: "refused".to_owned(),
        data,
    }
}
