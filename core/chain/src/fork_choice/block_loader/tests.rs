//! Content of a block, against its header.

use alloy::primitives::{Address, U256, address};
use serde_json::{Value, json, value::to_raw_value};

use super::*;
use crate::proof::TransactionTypes;
use crate::sample::block::{Account, Action, BlockSeed, SampleBlock, make, transaction};

const ADA: Address = address!("5a3b1e00000000000000000000000000000000a1");
const BOB: Address = address!("5a3b1e00000000000000000000000000000000b2");

const STRICT: ProofPolicy = ProofPolicy {
    header: ProofCheck::Required,
    transactions: ProofCheck::Required,
    receipts: ProofCheck::Required,
    bloom: ProofCheck::Required,
    system_transactions: SystemTransactions::Refused,
    own_types: TransactionTypes::NONE,
};

/// A block of two payments of tokens.
fn block() -> SampleBlock {
    let account = Account {
        nonce: 0,
        coins: U256::from(10_u64.pow(18)),
        tokens: U256::from(100),
    };
    let pay = |nonce, amount| {
        let action = Action::PayTokens(BOB, U256::from(amount));
        transaction((ADA, nonce), action, (100, 1), nonce)
    };
    let seed = BlockSeed {
        parent: None,
        number: 7,
        timestamp: 1_750_000_000,
        base_fee: 10,
        serial: 1,
        accounts: [(ADA, account)].into(),
    };
    make(seed, &mut vec![pay(0, 5), pay(1, 7)])
}

fn block_ref(sample: &SampleBlock) -> BlockRef {
    BlockRef {
        number: sample.header.number,
        hash: sample.header.hash,
        parent: sample.header.parent_hash,
    }
}

/// The block as a node returns it, with these transactions.
fn body(sample: &SampleBlock, transactions: &[Value]) -> BlockJson {
    let mut body = serde_json::to_value(&sample.header).unwrap();
    body["transactions"] = json!(transactions);
    serde_json::from_str(&body.to_string()).unwrap()
}

fn raw_of<T: serde::Serialize>(values: &[T]) -> Vec<Box<RawValue>> {
    let values = values.iter();
    values.map(|value| to_raw_value(value).unwrap()).collect()
}

fn json_of<T: serde::Serialize>(values: &[T]) -> Vec<Value> {
    values.iter().map(|value| json!(value)).collect()
}

fn content(sample: &SampleBlock, proofs: ProofPolicy) -> Content {
    let block = block_ref(sample);
    Content {
        data: BlockData {
            block,
            timestamp: 0,
            base_fee: None,
            bloom: Bloom::ZERO,
            transactions: Vec::new(),
            logs: Vec::new(),
            receipts: Vec::new(),
            withdrawals: Vec::new(),
        },
        proofs,
        bloom: Some(sample.header.logs_bloom),
        system: system_transaction_hash(block),
        unknown: HashMap::new(),
    }
}

/// The content after these transactions and receipts, or the reason of the refusal.
fn load_json(
    sample: &SampleBlock,
    proofs: ProofPolicy,
    transactions: &[Value],
    receipts: &[Value],
) -> Result<BlockData, String> {
    let mut content = content(sample, proofs);
    let body = body(sample, transactions);
    let added = content.add_transactions(&body);
    let added = added.and_then(|()| content.add_receipts(&raw_of(receipts), body.receipts_root));
    match added {
        Ok(()) => Ok(content.data),
        Err(LoadError::Invalid(reason)) => Err(reason),
        Err(_) => Err("a call failed".to_owned()),
    }
}

#[test]
fn a_block_holds_what_its_hash_covers() {
    let sample = block();
    let (mut transactions, mut receipts) =
        (json_of(&sample.transactions), json_of(&sample.receipts));
    // No hash covers positions, the order of receipts and `removed`.
    transactions[1]["transactionIndex"] = json!("0x9");
    transactions[1]["blockNumber"] = json!("0x9");
    receipts[1]["transactionIndex"] = json!("0x9");
    // The sums of the gas decide, and not the gas beside them.
    receipts[0]["gasUsed"] = json!("0x1");
    receipts[1]["gasUsed"] = json!("0x1c9c380");
    receipts[0]["logs"][0]["removed"] = json!(true);
    for field in ["transactionIndex", "blockNumber"] {
        receipts[0]["logs"][0][field] = json!("0x9");
    }
    for field in ["transactionHash", "blockHash"] {
        receipts[0]["logs"][0][field] = json!(B256::repeat_byte(9));
    }
    receipts.reverse();
    let data = load_json(&sample, STRICT, &transactions, &receipts).unwrap();
    assert_eq!(data.transactions, sample.transactions);
    assert_eq!(data.receipts.len(), 2);
    for (index, receipt) in data.receipts.iter().enumerate() {
        assert_eq!(receipt.transaction_index, Some(index as u64));
        assert_eq!(receipt.gas_used, sample.receipts[index].gas_used);
        assert_eq!(
            receipt.transaction_hash,
            sample.receipts[index].transaction_hash
        );
    }
    let expected: Vec<_> = sample.receipts.iter().flat_map(logs_of).collect();
    assert_eq!(
        (data.logs, data.bloom),
        (expected, sample.header.logs_bloom)
    );
}

#[test]
fn changed_content_is_refused_where_the_check_is_on() {
    let sample = block();
    let (transactions, receipts) = (json_of(&sample.transactions), json_of(&sample.receipts));
    let change = |values: &[Value], pointer: &str, to: Value| {
        let mut values = json!(values);
        *values.pointer_mut(pointer).unwrap() = to;
        values.as_array().unwrap().clone()
    };
    let refused = |proofs, transactions: &[Value], receipts: &[Value]| {
        load_json(&sample, proofs, transactions, receipts).unwrap_err()
    };
    let value = change(&transactions, "/1/value", json!("0x1"));
    assert!(refused(STRICT, &value, &receipts).contains("hashes to"));
    let without_roots = ProofPolicy {
        transactions: ProofCheck::Waived,
        receipts: ProofCheck::Waived,
        ..STRICT
    };
    assert!(load_json(&sample, without_roots, &value, &receipts).is_ok());
    // The bloom covers the addresses and topics of logs, and the receipts root their data too.
    let data = change(&receipts, "/0/logs/0/data", json!(B256::repeat_byte(1)));
    assert!(refused(STRICT, &transactions, &data).contains("receipts_root"));
    assert!(load_json(&sample, without_roots, &transactions, &data).is_ok());
    let address = change(&receipts, "/0/logs/0/address", json!(BOB));
    assert!(refused(without_roots, &transactions, &address).contains("logs_bloom"));
    let without_bloom = ProofPolicy {
        bloom: ProofCheck::Waived,
        ..without_roots
    };
    let loaded = load_json(&sample, without_bloom, &transactions, &address).unwrap();
    assert_eq!(
        loaded.bloom,
        logs_bloom(loaded.logs.iter().map(|log| &log.inner))
    );
    let other_block = change(&receipts, "/1/blockHash", json!(B256::repeat_byte(1)));
    let other_transaction = change(&receipts, "/1/transactionHash", json!(B256::repeat_byte(1)));
    for receipts in [other_block, other_transaction] {
        let reason = refused(without_bloom, &transactions, &receipts);
        assert_eq!(reason, "a receipt is of another transaction or block");
    }
    let reason = refused(without_bloom, &transactions, &receipts[1..]);
    assert!(reason.starts_with("there are 1 receipts for 2 transactions"));
    let reason = refused(without_bloom, &transactions[1..], &receipts);
    assert!(reason.starts_with("there are 2 receipts for 1 transactions"));
}

#[test]
fn an_unknown_type_fails_the_proof_unless_the_chain_has_it() {
    let sample = block();
    let with_deposits = ProofPolicy {
        own_types: TransactionTypes::new(&[0x7E]),
        ..STRICT
    };
    for at in [0, 1] {
        let (mut transactions, mut receipts) =
            (json_of(&sample.transactions), json_of(&sample.receipts));
        // A receipt alone of such a type.
        receipts[at]["type"] = json!("0x7e");
        let reason = load_json(&sample, with_deposits, &transactions, &receipts).unwrap_err();
        assert!(
            reason.contains("another type than the transaction"),
            "{reason}"
        );
        let reason = load_json(&sample, STRICT, &transactions, &receipts).unwrap_err();
        assert!(
            reason.contains("0x7e") && reason.contains("transaction_types"),
            "{reason}"
        );
        receipts[at]["cumulativeGasUsed"] = json!("0x1");
        transactions[at]["type"] = json!("0x7e");
        let data = load_json(&sample, with_deposits, &transactions, &receipts).unwrap();
        assert_eq!((data.transactions.len(), data.receipts.len()), (2, 2));
        // The others are still proved by their own hashes.
        let mut forged = transactions.clone();
        forged[1 - at]["value"] = json!("0x1");
        let reason = load_json(&sample, with_deposits, &forged, &receipts).unwrap_err();
        assert!(reason.contains("hashes to"), "{reason}");
        for kind in ["0x7f", "0x7e0", "7e", ""] {
            transactions[at]["type"] = json!(kind);
            receipts[at]["type"] = json!(kind);
            for proofs in [STRICT, with_deposits] {
                let reason = load_json(&sample, proofs, &transactions, &receipts).unwrap_err();
                assert!(reason.contains("transaction_types"), "{kind}: {reason}");
            }
        }
    }
}

#[test]
fn the_chains_own_transaction_is_outside_the_roots() {
    let sample = block();
    let expected = ProofPolicy {
        system_transactions: SystemTransactions::Expected,
        ..STRICT
    };
    let own = json!(system_transaction_hash(block_ref(&sample)));
    let (mut transactions, mut receipts) =
        (json_of(&sample.transactions), json_of(&sample.receipts));
    let mut transaction = transactions[0].clone();
    transaction["hash"] = own.clone();
    transaction["type"] = json!("0x7f");
    transactions.push(transaction);
    let mut receipt = receipts[0].clone();
    receipt["transactionHash"] = own;
    receipts.push(receipt);
    // Some nodes return both, some one of them.
    for (transactions, receipts) in [
        (&transactions[..], &receipts[..]),
        (&transactions[..2], &receipts[..]),
        (&transactions[..], &receipts[..2]),
    ] {
        let data = load_json(&sample, expected, transactions, receipts).unwrap();
        assert_eq!(data.transactions.len(), transactions.len());
        assert_eq!(data.receipts.len(), receipts.len());
        assert_eq!(data.logs.len(), receipts.len());
        assert!(load_json(&sample, STRICT, transactions, receipts).is_err());
        // The others are still proved.
        let mut forged = transactions.to_vec();
        forged[0]["value"] = json!("0x1");
        assert!(load_json(&sample, expected, &forged, receipts).is_err());
    }
}

#[test]
fn logs_without_receipts_are_of_the_block_and_match_its_bloom() {
    let sample = block();
    let logs: Vec<_> = sample.receipts.iter().flat_map(logs_of).collect();
    let add = |proofs, logs: Vec<Log>| {
        let mut content = content(&sample, proofs);
        match content.add_logs(logs) {
            Ok(()) => Ok(content.data.logs),
            Err(LoadError::Invalid(reason)) => Err(reason),
            Err(_) => Err("a call failed".to_owned()),
        }
    };
    let mut reversed = logs.clone();
    reversed.reverse();
    assert_eq!(add(STRICT, reversed), Ok(logs.clone()));
    let change = |change: fn(&mut Log)| {
        let mut logs = logs.clone();
        change(&mut logs[1]);
        logs
    };
    let removed = change(|log| log.removed = true);
    let other = change(|log| log.block_hash = Some(B256::ZERO));
    for logs in [removed, other] {
        assert_eq!(
            add(STRICT, logs),
            Err("a log is of another block".to_owned())
        );
    }
    let address = change(|log| log.inner.address = BOB);
    let reason = add(STRICT, address.clone()).unwrap_err();
    assert!(reason.contains("logs_bloom"), "{reason}");
    let waived = ProofPolicy {
        bloom: ProofCheck::Waived,
        ..STRICT
    };
    assert_eq!(add(waived, address.clone()), Ok(address));
}
