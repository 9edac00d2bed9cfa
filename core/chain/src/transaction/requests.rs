//! What the tracker asks a node, and how answers are read.
//!
//! Answers are read field by field, not as a whole: chains have kinds of transactions that
//! no library knows, and a watch must not hang on them.

use alloy::{
    consensus::Transaction as _,
    hex,
    network::TransactionResponse as _,
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
};
use serde_json::{Value, json};

use super::watch::BlockNumHash;
use crate::Call;

/// A question for a node.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeRequest {
    /// Where a transaction is.
    Transaction(B256),
    /// What inclusion in a block came to.
    Receipt {
        /// The transaction.
        hash: B256,
        /// The block that should hold it.
        at: BlockNumHash,
        /// The transaction as a call, to ask why it failed.
        call: Box<Value>,
    },
    /// Why it failed.
    Reason {
        /// The transaction.
        hash: B256,
        /// Its block.
        at: BlockNumHash,
        /// The transaction as a call.
        call: Box<Value>,
        /// What the receipt says it used, and at which price.
        gas: (u64, u128),
    },
    /// Whether its nonce is used or taken.
    Nonce {
        /// The transaction.
        hash: B256,
        /// Its sender.
        from: Address,
        /// The newest block that the monitor knows.
        head: Option<u64>,
    },
}

impl NodeRequest {
    /// The calls that answer it.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let call = |method, params| Call { method, params };
        match self {
            Self::Transaction(hash) => vec![call("eth_getTransactionByHash", json!([hash]))],
            Self::Receipt { hash, .. } => vec![call("eth_getTransactionReceipt", json!([hash]))],
            Self::Reason {
                hash,
                at,
                call: request,
                ..
            } => vec![
                // What really ran, where the endpoint can tell.
                call(
                    "debug_traceTransaction",
                    json!([hash, {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": true}}]),
                ),
                call("eth_call", json!([request, {"blockHash": at.hash}])),
                call("eth_call", json!([request, format!("{:#x}", at.number)])),
            ],
            Self::Nonce { from, head, .. } => {
                let head = head.map_or_else(|| "latest".to_owned(), |head| format!("{head:#x}"));
                vec![
                    call("eth_getTransactionCount", json!([from, head])),
                    call("eth_getTransactionCount", json!([from, "pending"])),
                ]
            }
        }
    }

    /// Whom it is about.
    #[must_use]
    pub fn hash(&self) -> B256 {
        match self {
            Self::Transaction(hash)
            | Self::Receipt { hash, .. }
            | Self::Reason { hash, .. }
            | Self::Nonce { hash, .. } => *hash,
        }
    }
}

/// What a node says of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeTransaction {
    pub(super) account: (Address, u64),
    pub(super) at: Option<BlockNumHash>,
    pub(super) call: Box<Value>,
}

impl NodeTransaction {
    /// None if the answer is of another transaction or makes no sense.
    pub(super) fn parse(hash: B256, answer: &Value) -> Option<Self> {
        if word(answer, "hash")? != hash {
            return None;
        }
        let from = address(answer, "from")?;
        let at = word(answer, "blockHash").zip(number(answer, "blockNumber"));
        let mut call = json!({
            "from": from, "value": answer.get("value")?, "data": answer.get("input")?,
            "gas": answer.get("gas")?,
        });
        if let Some(to) = address(answer, "to") {
            call["to"] = json!(to);
        }
        Some(Self {
            account: (from, number(answer, "nonce")?),
            at: at.map(|(hash, number)| BlockNumHash { number, hash }),
            call: Box::new(call),
        })
    }
}

/// A transaction of a block as a call.
pub(super) fn as_call(transaction: &Transaction) -> Box<Value> {
    let mut call = json!({
        "from": transaction.from(),
        "value": transaction.value(),
        "data": transaction.input(),
        "gas": format!("{:#x}", transaction.gas_limit()),
    });
    if let Some(to) = transaction.to() {
        call["to"] = json!(to);
    }
    Box::new(call)
}

/// The gas that a call may use.
pub(super) fn gas_limit(call: &Value) -> Option<u64> {
    number(call, "gas")
}

pub(super) fn word(answer: &Value, field: &str) -> Option<B256> {
    answer.get(field)?.as_str()?.parse().ok()
}

fn address(answer: &Value, field: &str) -> Option<Address> {
    answer.get(field)?.as_str()?.parse().ok()
}

pub(super) fn number(answer: &Value, field: &str) -> Option<u64> {
    quantity(answer.get(field)?)?.try_into().ok()
}

/// A number as JSON-RPC writes it.
pub(super) fn quantity(answer: &Value) -> Option<U256> {
    let digits = answer.as_str()?.strip_prefix("0x")?;
    U256::from_str_radix(digits, 16).ok()
}

/// Bytes as JSON-RPC writes them.
pub(super) fn bytes(answer: &Value) -> Option<Vec<u8>> {
    hex::decode(answer.as_str()?).ok()
}
