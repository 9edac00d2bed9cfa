//! Requests: calls of the tracker to a node, and how the fields of a response are read.
//!
//! Responses are read field by field. Chains have transaction types that no library knows, and
//! a watch must work for those too.

use alloy::{
    consensus::Transaction as _,
    hex,
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
};
use alloy_network_primitives::TransactionResponse as _;
use serde_json::{Value, json};

use super::watch::{BlockNumHash, Transfer};
use crate::{Call, ExpectedResult, ReceiptId};

/// A request to a node, of one or more calls.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeRequest {
    /// Where a transaction is.
    Transaction(B256),
    /// The receipt of an included transaction.
    Receipt {
        /// The transaction.
        hash: B256,
        /// The block that should hold it.
        at: BlockNumHash,
        /// Its position in the block, if it is known.
        index: Option<u64>,
        /// The transaction as a call, to find out why it failed.
        call: Box<Value>,
    },
    /// The receipt of a transaction in a block of a height that the tracker does not have. It is
    /// only believed once the block is proved to be canonical: whoever makes the call does so
    /// first, and otherwise responds with null.
    Inclusion {
        /// The transaction.
        hash: B256,
        /// The block that should hold it.
        at: BlockNumHash,
        /// The oldest block that is known to be canonical.
        anchor: Option<BlockNumHash>,
        /// The transaction as a call, to find out why it failed.
        call: Box<Value>,
    },
    /// Why a transaction failed.
    Reason {
        /// The transaction.
        hash: B256,
        /// Its block.
        at: BlockNumHash,
        /// The transaction as a call.
        call: Box<Value>,
        /// The gas used and its price, after the receipt.
        gas: (u64, u128),
    },
    /// Whether the nonce of a missing transaction is used in a block or a mempool.
    Nonce {
        /// The transaction.
        hash: B256,
        /// Its sender.
        from: Address,
        /// The height of the newest block that the tracker knows.
        head: Option<u64>,
    },
}

impl NodeRequest {
    /// The calls that the request consists of.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let call = Call::new;
        match self {
            Self::Transaction(hash) => {
                let call = call("eth_getTransactionByHash", json!([hash]));
                vec![call.expecting(ExpectedResult::Transaction(*hash))]
            }
            Self::Receipt {
                hash, at, index, ..
            } => {
                let id = ReceiptId {
                    transaction: *hash,
                    block: at.hash,
                    index: *index,
                };
                vec![id.call()]
            }
            Self::Inclusion { hash, at, .. } => {
                let id = ReceiptId {
                    transaction: *hash,
                    block: at.hash,
                    index: None,
                };
                vec![id.call()]
            }
            Self::Reason {
                hash,
                at,
                call: request,
                ..
            } => vec![
                // The trace shows the past execution; the calls only show one at the newest block.
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

    /// The transaction that the request is about.
    #[must_use]
    pub fn hash(&self) -> B256 {
        match self {
            Self::Transaction(hash)
            | Self::Receipt { hash, .. }
            | Self::Inclusion { hash, .. }
            | Self::Reason { hash, .. }
            | Self::Nonce { hash, .. } => *hash,
        }
    }
}

/// A transaction as a node returned it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeTransaction {
    /// Sender and nonce.
    pub(super) account: (Address, u64),
    /// Its block; `None` while it is pending.
    pub(super) at: Option<BlockNumHash>,
    /// Its position in the block, if the node names it.
    pub(super) index: Option<u64>,
    /// The transaction as a call.
    pub(super) call: Box<Value>,
}

impl NodeTransaction {
    /// Reads a response. `None` if it is about another transaction or lacks a field.
    pub(super) fn parse(hash: B256, response: &Value) -> Option<Self> {
        if word(response, "hash")? != hash {
            return None;
        }
        let from = address(response, "from")?;
        let at = word(response, "blockHash").zip(number(response, "blockNumber"));
        let mut call = json!({
            "from": from, "value": response.get("value")?, "data": response.get("input")?,
            "gas": response.get("gas")?,
        });
        if let Some(to) = address(response, "to") {
            call["to"] = json!(to);
        }
        Some(Self {
            account: (from, number(response, "nonce")?),
            at: at.map(|(hash, number)| BlockNumHash { number, hash }),
            index: number(response, "transactionIndex"),
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

/// The transfer of a call.
pub(super) fn transfer(call: &Value) -> Option<Transfer> {
    Some(Transfer {
        to: address(call, "to"),
        value: quantity(call.get("value")?)?,
    })
}

/// The gas limit of a call.
pub(super) fn gas_limit(call: &Value) -> Option<u64> {
    number(call, "gas")
}

pub(super) fn word(response: &Value, field: &str) -> Option<B256> {
    response.get(field)?.as_str()?.parse().ok()
}

fn address(response: &Value, field: &str) -> Option<Address> {
    response.get(field)?.as_str()?.parse().ok()
}

pub(super) fn number(response: &Value, field: &str) -> Option<u64> {
    quantity(response.get(field)?)?.try_into().ok()
}

/// Reads a JSON-RPC quantity.
pub(super) fn quantity(value: &Value) -> Option<U256> {
    let digits = value.as_str()?.strip_prefix("0x")?;
    U256::from_str_radix(digits, 16).ok()
}

/// Reads JSON-RPC bytes.
pub(super) fn bytes(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?).ok()
}
