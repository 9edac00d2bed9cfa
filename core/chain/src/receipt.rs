//! Receipt checks: whether a receipt is the one that was asked for, and the outcome it shows.
//!
//! Nodes behind one address may lag or be on another branch. A receipt therefore counts only if
//! its hash, its block and its index are those of the transaction. A receipt without a status
//! that can be read shows no outcome: it is never taken for a success.

use alloy::{
    consensus::Eip658Value,
    primitives::{B256, U256},
    rpc::types::TransactionReceipt,
};
use serde_json::{Value, json};

use crate::{Call, ExpectedResult};

/// The transaction that a receipt must be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptId {
    /// The transaction's hash.
    pub transaction: B256,
    /// The hash of its block.
    pub block: B256,
    /// The transaction's position in the block, from 0. None if it is not known.
    pub index: Option<u64>,
}

impl ReceiptId {
    /// The call for the receipt, which expects no other one.
    #[must_use]
    pub fn call(&self) -> Call {
        Call::new("eth_getTransactionReceipt", json!([self.transaction]))
            .expecting(ExpectedResult::Receipt(*self))
    }

    /// Whether a receipt is of this transaction, in this block and at this index.
    #[must_use]
    pub fn matches(&self, receipt: &Value) -> bool {
        self.is_of_transaction(receipt)
            && word(receipt, "blockHash") == Some(self.block)
            && self.index.is_none_or(|index| {
                quantity(receipt, "transactionIndex") == Some(U256::from(index))
            })
    }

    /// Whether a receipt names this transaction.
    pub(crate) fn is_of_transaction(&self, receipt: &Value) -> bool {
        word(receipt, "transactionHash") == Some(self.transaction)
    }
}

/// Whether the transaction of a receipt succeeded. None if the receipt does not show it.
///
/// Receipts before the Byzantium fork have a state root instead of a status, and do not show a
/// failure.
#[must_use]
pub(crate) fn outcome(receipt: &Value) -> Option<bool> {
    match receipt.get("status") {
        None | Some(Value::Null) => word(receipt, "root").map(|_| true),
        Some(_) => match quantity(receipt, "status")?.try_into() {
            Ok(0_u8) => Some(false),
            Ok(1) => Some(true),
            _ => None,
        },
    }
}

/// Whether the transaction of a parsed receipt succeeded, as [`outcome`] decides it.
/// [`parse_receipt`](crate::rpc_types::parse_receipt) gives a receipt without an outcome the
/// state root zero.
pub(crate) fn parsed_outcome(receipt: &TransactionReceipt) -> Option<bool> {
    let receipt = receipt.inner.as_receipt()?;
    match receipt.status {
        Eip658Value::Eip658(status) => Some(status),
        Eip658Value::PostState(root) => (!root.is_zero()).then_some(true),
    }
}

fn word(receipt: &Value, field: &str) -> Option<B256> {
    receipt.get(field)?.as_str()?.parse().ok()
}

fn quantity(receipt: &Value, field: &str) -> Option<U256> {
    let digits = receipt.get(field)?.as_str()?.strip_prefix("0x")?;
    U256::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_checked_by_hash_block_and_index() {
        let (transaction, block) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let id = ReceiptId {
            transaction,
            block,
            index: Some(3),
        };
        let right =
            json!({"transactionHash": transaction, "blockHash": block, "transactionIndex": "0x3"});
        assert!(id.matches(&right));
        for (field, other) in [
            ("transactionHash", json!(B256::ZERO)),
            ("blockHash", json!(B256::ZERO)),
            ("blockHash", Value::Null),
            ("transactionIndex", json!("0x4")),
            ("transactionIndex", Value::Null),
        ] {
            let mut wrong = right.clone();
            wrong[field] = other;
            assert!(!id.matches(&wrong), "{wrong}");
        }
        assert!(!id.matches(&Value::Null));
    }

    #[test]
    fn only_a_status_or_a_root_shows_an_outcome() {
        for (receipt, expected) in [
            (json!({"status": "0x1"}), Some(true)),
            (json!({"status": "0x01"}), Some(true)),
            (json!({"status": "0x0"}), Some(false)),
            (json!({"status": "0x2"}), None),
            (json!({"status": "ok"}), None),
            (json!({"status": true}), None),
            (json!({"status": null}), None),
            (json!({}), None),
            (json!({"root": B256::repeat_byte(7)}), Some(true)),
            (
                json!({"status": null, "root": B256::repeat_byte(7)}),
                Some(true),
            ),
            (
                json!({"status": "0x0", "root": B256::repeat_byte(7)}),
                Some(false),
            ),
        ] {
            assert_eq!(outcome(&receipt), expected, "{receipt}");
        }
    }
}
