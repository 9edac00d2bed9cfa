//! RPC types: headers, blocks, transactions and receipts as nodes return them.
//!
//! Parsing is lenient where chains differ. Unknown header fields are ignored, and transactions
//! and receipts of unknown types are accepted.

use alloy::{
    primitives::{B256, Bloom, U64, U256},
    rpc::types::{Transaction, TransactionReceipt},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{BlockRef, Call};

/// The fields of a header that link blocks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeaderJson {
    number: U64,
    hash: B256,
    parent_hash: B256,
}

impl HeaderJson {
    pub(crate) fn block(&self) -> BlockRef {
        BlockRef {
            number: self.number.to(),
            hash: self.hash,
            parent: self.parent_hash,
        }
    }
}

/// A block with its transactions.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockJson {
    number: U64,
    hash: B256,
    parent_hash: B256,
    pub(crate) timestamp: U64,
    pub(crate) base_fee_per_gas: Option<U256>,
    pub(crate) logs_bloom: Bloom,
    pub(crate) receipts_root: B256,
    #[serde(default)]
    pub(crate) transactions_root: B256,
    pub(crate) transactions: Vec<Box<RawValue>>,
}

impl BlockJson {
    pub(crate) fn block(&self) -> BlockRef {
        BlockRef {
            number: self.number.to(),
            hash: self.hash,
            parent: self.parent_hash,
        }
    }
}

/// Whether the type of a transaction or receipt is known. Only a known type can be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncodingKind {
    Known,
    Unknown,
}

/// Parses a transaction. One of an unknown type becomes a legacy transaction with the same
/// hash, sender, recipient, value and data. Rollups have such types, for example deposits.
pub(crate) fn parse_transaction(
    raw: &RawValue,
) -> Result<(Transaction, EncodingKind), serde_json::Error> {
    let error = match serde_json::from_str(raw.get()) {
        Ok(transaction) => return Ok((transaction, EncodingKind::Known)),
        Err(error) => error,
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_str(raw.get()) else {
        return Err(error);
    };
    fields.insert("type".to_owned(), json!("0x0"));
    fields.remove("yParity");
    fields.remove("accessList");
    // Transactions without a signature lack these fields.
    for (name, value) in [
        ("gasPrice", "0x0"),
        ("r", "0x0"),
        ("s", "0x0"),
        ("nonce", "0x0"),
    ] {
        fields.entry(name).or_insert_with(|| json!(value));
    }
    fields.insert("v".to_owned(), json!("0x1b"));
    serde_json::from_value(Value::Object(fields))
        .map(|transaction| (transaction, EncodingKind::Unknown))
        .map_err(|_| error)
}

/// Parses a receipt. One of an unknown type becomes a legacy receipt.
pub(crate) fn parse_receipt(
    raw: &RawValue,
) -> Result<(TransactionReceipt, EncodingKind), serde_json::Error> {
    let error = match serde_json::from_str(raw.get()) {
        Ok(receipt) => return Ok((receipt, EncodingKind::Known)),
        Err(error) => error,
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_str(raw.get()) else {
        return Err(error);
    };
    fields.insert("type".to_owned(), json!("0x0"));
    fields
        .entry("effectiveGasPrice")
        .or_insert_with(|| json!("0x0"));
    serde_json::from_value(Value::Object(fields))
        .map(|receipt| (receipt, EncodingKind::Unknown))
        .map_err(|_| error)
}

/// The call for a header by hash.
pub(crate) fn header_by_hash(hash: B256) -> Call {
    Call {
        method: "eth_getBlockByHash",
        params: json!([hash, false]),
    }
}

/// The call for a header by height.
pub(crate) fn header_by_number(number: u64) -> Call {
    header_by_tag(&format!("{number:#x}"))
}

/// The call for a header by tag, for example `latest`.
pub(crate) fn header_by_tag(tag: &str) -> Call {
    Call {
        method: "eth_getBlockByNumber",
        params: json!([tag, false]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_of_an_unknown_type_is_parsed() {
        let text = json!({
            "blockHash": B256::repeat_byte(1), "blockNumber": "0x5", "from": "0xdeaddeaddeaddeaddeaddeaddeaddeaddead0001",
            "gas": "0xf4240", "gasPrice": "0x0", "hash": B256::repeat_byte(9), "input": "0x440a5e20",
            "mint": "0x0", "nonce": "0x4", "r": "0x0", "s": "0x0", "sourceHash": B256::repeat_byte(2),
            "to": "0x4200000000000000000000000000000000000015", "transactionIndex": "0x0", "type": "0x7e",
            "v": "0x0", "value": "0x7",
        });
        let raw = serde_json::value::to_raw_value(&text).unwrap();
        let (transaction, kind) = parse_transaction(&raw).unwrap();
        assert_eq!(kind, EncodingKind::Unknown);
        use alloy::consensus::Transaction as _;
        assert_eq!(*transaction.inner.tx_hash(), B256::repeat_byte(9));
        assert_eq!(transaction.value(), U256::from(7));
        assert_eq!(transaction.nonce(), 4);
        assert!(transaction.to().is_some());
    }

    #[test]
    fn other_json_is_refused() {
        let raw = serde_json::value::to_raw_value(&json!({"hash": "0x"})).unwrap();
        assert!(parse_transaction(&raw).is_err() && parse_receipt(&raw).is_err());
    }
}
