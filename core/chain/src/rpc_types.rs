//! RPC types: headers, blocks, transactions and receipts as nodes return them.
//!
//! Parsing is lenient where chains differ. Unknown header fields are ignored, and transactions
//! and receipts of unknown types are accepted.

use alloy::{
    primitives::{Address, B256, Bloom, U64, U256, logs_bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{BlockRef, Call, receipt::outcome};

/// Characters of an unknown type that are kept.
const MAX_TYPE_CHARS: usize = 16;

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
    /// None if the node returns none that can be read.
    #[serde(default, deserialize_with = "readable")]
    pub(crate) logs_bloom: Option<Bloom>,
    #[serde(default, deserialize_with = "readable")]
    pub(crate) receipts_root: Option<B256>,
    #[serde(default, deserialize_with = "readable")]
    pub(crate) transactions_root: Option<B256>,
    pub(crate) transactions: Vec<Box<RawValue>>,
    #[serde(default, deserialize_with = "withdrawals")]
    pub(crate) withdrawals: Vec<WithdrawalJson>,
}

/// The account that a withdrawal of a validator credits.
#[derive(Debug, Deserialize)]
pub(crate) struct WithdrawalJson {
    pub(crate) address: Address,
}

fn withdrawals<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<WithdrawalJson>, D::Error> {
    readable(from).map(Option::unwrap_or_default)
}

/// Reads a field that some chains fill with something else.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).ok())
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EncodingKind {
    Known,
    /// The type as the node wrote it.
    Unknown(Box<str>),
}

/// Parses a transaction. One of an unknown type becomes a legacy transaction with the same
/// hash, sender, recipient, value and data. Rollups have such types, for example deposits.
///
/// A field that is null counts as absent.
pub(crate) fn parse_transaction(
    raw: &RawValue,
) -> Result<(Transaction, EncodingKind), serde_json::Error> {
    let error = match serde_json::from_str(raw.get()) {
        Ok(transaction) => return Ok((transaction, EncodingKind::Known)),
        Err(error) => error,
    };
    let Some(mut fields) = present_fields(raw) else {
        return Err(error);
    };
    let kind = kind_of(&fields);
    if let Ok(transaction) = serde_json::from_value(Value::Object(fields.clone())) {
        return Ok((transaction, EncodingKind::Known));
    }
    fields.insert("type".to_owned(), json!("0x0"));
    fields.remove("yParity");
    fields.remove("accessList");
    fields.remove("chainId");
    // Transactions without a signature lack these fields.
    insert_missing(
        &mut fields,
        &[
            ("gasPrice", "0x0"),
            ("r", "0x0"),
            ("s", "0x0"),
            ("nonce", "0x0"),
        ],
    );
    fields.insert("v".to_owned(), json!("0x1b"));
    serde_json::from_value(Value::Object(fields))
        .map(|transaction| (transaction, kind))
        .map_err(|_| error)
}

/// Parses a receipt. One of an unknown type becomes a legacy receipt.
///
/// A field that is null counts as absent. A missing bloom is computed. A receipt that shows no
/// outcome gets the state root zero, see [`parsed_outcome`](crate::receipt::parsed_outcome).
pub(crate) fn parse_receipt(
    raw: &RawValue,
) -> Result<(TransactionReceipt, EncodingKind), serde_json::Error> {
    let error = match serde_json::from_str(raw.get()) {
        Ok(receipt) => return Ok((receipt, EncodingKind::Known)),
        Err(error) => error,
    };
    let Some(mut fields) = present_fields(raw) else {
        return Err(error);
    };
    let kind = kind_of(&fields);
    insert_missing(
        &mut fields,
        &[
            ("type", "0x0"),
            ("effectiveGasPrice", "0x0"),
            ("cumulativeGasUsed", "0x0"),
            ("gasUsed", "0x0"),
        ],
    );
    if !fields.contains_key("logsBloom") {
        let logs = fields.get("logs").cloned().unwrap_or_default();
        let logs: Vec<Log> = serde_json::from_value(logs).unwrap_or_default();
        let bloom = logs_bloom(logs.iter().map(|log| &log.inner));
        fields.insert("logsBloom".to_owned(), json!(bloom));
    }
    let receipt = Value::Object(fields.clone());
    if outcome(&receipt).is_none() {
        fields.remove("status");
        fields.insert("root".to_owned(), json!(B256::ZERO));
    }
    if let Ok(receipt) = serde_json::from_value(Value::Object(fields.clone())) {
        return Ok((receipt, EncodingKind::Known));
    }
    fields.insert("type".to_owned(), json!("0x0"));
    serde_json::from_value(Value::Object(fields))
        .map(|receipt| (receipt, kind))
        .map_err(|_| error)
}

/// Whether the type of an object is one of Ethereum's. An incomplete object of such a type is
/// still proved, and fails.
fn kind_of(fields: &Map<String, Value>) -> EncodingKind {
    let kind = fields.get("type").map(|kind| kind.as_str().unwrap_or(""));
    match kind {
        None
        | Some(
            "0x0" | "0x00" | "0x1" | "0x01" | "0x2" | "0x02" | "0x3" | "0x03" | "0x4" | "0x04",
        ) => EncodingKind::Known,
        Some(other) => EncodingKind::Unknown(other.chars().take(MAX_TYPE_CHARS).collect()),
    }
}

/// The fields of an object that are not null.
fn present_fields(raw: &RawValue) -> Option<Map<String, Value>> {
    let mut fields: Map<String, Value> = serde_json::from_str(raw.get()).ok()?;
    fields.retain(|_, value| !value.is_null());
    Some(fields)
}

fn insert_missing(fields: &mut Map<String, Value>, defaults: &[(&str, &str)]) {
    for (name, value) in defaults {
        fields.entry(*name).or_insert_with(|| json!(value));
    }
}

/// The call for a header by hash.
pub(crate) fn header_by_hash(hash: B256) -> Call {
    Call::new("eth_getBlockByHash", json!([hash, false]))
}

/// The call for a header by height.
pub(crate) fn header_by_number(number: u64) -> Call {
    header_by_tag(&format!("{number:#x}"))
}

/// The call for a header by tag, for example `latest`.
pub(crate) fn header_by_tag(tag: &str) -> Call {
    Call::new("eth_getBlockByNumber", json!([tag, false]))
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
        assert_eq!(kind, EncodingKind::Unknown("0x7e".into()));
        use alloy::consensus::Transaction as _;
        assert_eq!(*transaction.inner.tx_hash(), B256::repeat_byte(9));
        assert_eq!(transaction.value(), U256::from(7));
        assert_eq!(transaction.nonce(), 4);
        assert!(transaction.to().is_some());
    }

    /// A receipt with one log.
    fn receipt() -> Value {
        let log = json!({
            "address": "0x4200000000000000000000000000000000000015", "topics": [B256::repeat_byte(1)],
            "data": "0x", "blockHash": B256::repeat_byte(5), "blockNumber": "0x5", "logIndex": "0x0",
            "transactionHash": B256::repeat_byte(9), "transactionIndex": "0x0", "removed": false,
        });
        let parsed: Log = serde_json::from_value(log.clone()).unwrap();
        json!({
            "transactionHash": B256::repeat_byte(9), "transactionIndex": "0x0", "type": "0x2",
            "blockHash": B256::repeat_byte(5), "blockNumber": "0x5", "status": "0x1",
            "from": "0x4200000000000000000000000000000000000001", "to": null, "logs": [log],
            "contractAddress": null, "cumulativeGasUsed": "0x5208", "gasUsed": "0x5208",
            "effectiveGasPrice": "0x7", "logsBloom": logs_bloom([&parsed.inner]),
        })
    }

    #[test]
    fn a_receipt_without_newer_fields_is_parsed_and_none_becomes_a_success() {
        let parse = |value: &Value| {
            let raw = serde_json::value::to_raw_value(value).unwrap();
            parse_receipt(&raw).unwrap().0
        };
        let whole = parse(&receipt());
        let bloom = *whole.inner.logs_bloom();
        for (field, value, expected) in [
            ("status", Value::Null, None),
            ("status", json!("0x2"), None),
            ("status", json!("0x0"), Some(false)),
            ("logsBloom", Value::Null, Some(true)),
            ("effectiveGasPrice", Value::Null, Some(true)),
            ("cumulativeGasUsed", Value::Null, Some(true)),
            ("type", Value::Null, Some(true)),
            ("type", json!("0x7e"), Some(true)),
        ] {
            let mut changed = receipt();
            changed[field] = value.clone();
            let parsed = parse(&changed);
            let found = crate::receipt::parsed_outcome(&parsed);
            assert_eq!(found, expected, "{field}: {value}");
            assert_eq!(*parsed.inner.logs_bloom(), bloom, "{field}");
            if value.is_null() {
                changed.as_object_mut().unwrap().remove(field);
                assert_eq!(parse(&changed), parsed, "{field}");
            }
        }
        let mut before_byzantium = receipt();
        before_byzantium["status"] = Value::Null;
        before_byzantium["root"] = json!(B256::repeat_byte(3));
        let parsed = parse(&before_byzantium);
        assert_eq!(crate::receipt::parsed_outcome(&parsed), Some(true));
    }

    #[test]
    fn a_null_field_of_a_transaction_counts_as_absent() {
        let transaction = json!({
            "blockHash": null, "blockNumber": null, "from": "0xdeaddeaddeaddeaddeaddeaddeaddeaddead0001",
            "gas": "0xf4240", "gasPrice": "0x7", "hash": B256::repeat_byte(9), "input": "0x", "chainId": "0x1",
            "maxFeePerGas": "0x7", "maxPriorityFeePerGas": "0x1", "accessList": [], "nonce": "0x4",
            "r": "0x1", "s": "0x1", "v": "0x1", "yParity": "0x1", "transactionIndex": null, "type": "0x2",
            "to": "0x4200000000000000000000000000000000000015", "value": "0x7",
        });
        for kind in ["0x0", "0x2", "0x7e", "0x7f", "0xff"] {
            for field in [
                "gasPrice",
                "r",
                "s",
                "v",
                "yParity",
                "chainId",
                "accessList",
                "nonce",
            ] {
                let mut changed = transaction.clone();
                changed["type"] = json!(kind);
                changed[field] = Value::Null;
                let raw = serde_json::value::to_raw_value(&changed).unwrap();
                let parsed = parse_transaction(&raw);
                let (parsed, _) = parsed.unwrap_or_else(|error| panic!("{kind} {field}: {error}"));
                use alloy::consensus::Transaction as _;
                assert_eq!(parsed.value(), U256::from(7), "{kind} {field}");
            }
        }
    }

    #[test]
    fn other_json_is_refused() {
        let raw = serde_json::value::to_raw_value(&json!({"hash": "0x"})).unwrap();
        assert!(parse_transaction(&raw).is_err() && parse_receipt(&raw).is_err());
    }
}
