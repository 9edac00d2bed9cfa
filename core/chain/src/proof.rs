//! Whether a block is what its hash says: an endpoint can make up whatever it likes, but not
//! so that it hashes to what other blocks are linked to.
//!
//! A header is what its hash is of, the transactions are what its transactions root is of,
//! the receipts what its receipts root is of. Fields that a chain adds to what nodes answer,
//! and does not hash, are passed over. What a hash does not cover is not proved: a
//! transaction's sender, for one, is taken as the node tells it.

use alloy::{
    consensus::{
        Header,
        proofs::{calculate_receipt_root, ordered_trie_root_encoded},
    },
    eips::Encodable2718 as _,
    primitives::{B256, keccak256},
    rpc::types::{Transaction, TransactionReceipt},
};
use serde_json::value::RawValue;

use crate::ChainConfig;

/// What of a block is held against its hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofPolicy {
    /// Its header, against its hash.
    pub header: ProofCheck,
    /// Its transactions, against the header's root and their own hashes.
    pub transactions: ProofCheck,
    /// Its receipts, against the header's root.
    pub receipts: ProofCheck,
}

/// Whether something is held against its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofCheck {
    /// What does not hash to it is not believed.
    Asked,
    /// On this chain it does not hash to it.
    Waived,
}

impl ProofCheck {
    fn of(is_asked: bool) -> Self {
        if is_asked { Self::Asked } else { Self::Waived }
    }
}

impl ProofPolicy {
    /// What is asked for on a chain.
    #[must_use]
    pub fn of(config: &ChainConfig) -> Self {
        Self {
            header: ProofCheck::of(config.header_hash),
            transactions: ProofCheck::of(config.transactions_root),
            receipts: ProofCheck::of(config.receipts_root),
        }
    }
}

/// What a block is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A field of the header is missing or is none.
    #[error(
        "its header cannot be hashed: {0}; `header_hash = false` is for chains whose headers are others"
    )]
    Header(String),
    /// The header is another one's.
    #[error(
        "its header hashes to {found}; `header_hash = false` is for chains whose headers never hash to their hash"
    )]
    HeaderHash {
        /// What it hashes to.
        found: B256,
    },
    /// A transaction is another one.
    #[error(
        "transaction {told} hashes to {found}; `transactions_root = false` is for chains where they never do"
    )]
    TransactionHash {
        /// What the node calls it.
        told: B256,
        /// What it hashes to.
        found: B256,
    },
    /// Transactions are missing, or others.
    #[error(
        "the transactions do not hash to the header's root; `transactions_root = false` is for chains where they never do"
    )]
    Transactions,
    /// Receipts are others.
    #[error(
        "the receipts do not hash to the header's root; `receipts_root = false` is for chains where they never do"
    )]
    Receipts,
}

/// Holds a header, as a node writes it, against its hash.
///
/// # Errors
/// It is another one's, or lacks what its hash is of.
pub fn header(raw: &RawValue, hash: B256) -> Result<(), ProofError> {
    let header: Header =
        serde_json::from_str(raw.get()).map_err(|error| ProofError::Header(error.to_string()))?;
    let found = header.hash_slow();
    if found == hash {
        return Ok(());
    }
    Err(ProofError::HeaderHash { found })
}

/// Holds transactions against the root of their header, and each against its own hash.
///
/// # Errors
/// One is another, or one is missing.
pub fn transactions(transactions: &[Transaction], root: B256) -> Result<(), ProofError> {
    let mut encoded = Vec::with_capacity(transactions.len());
    for transaction in transactions {
        // Not the hash that it carries: that is what the node says.
        let bytes = transaction.inner.inner().encoded_2718();
        let (told, found) = (*transaction.inner.tx_hash(), keccak256(&bytes));
        if told != found {
            return Err(ProofError::TransactionHash { told, found });
        }
        encoded.push(bytes);
    }
    if ordered_trie_root_encoded(&encoded) == root {
        return Ok(());
    }
    Err(ProofError::Transactions)
}

/// Holds receipts against the root of their header.
///
/// # Errors
/// One is another, or one is missing.
pub fn receipts(receipts: &[TransactionReceipt], root: B256) -> Result<(), ProofError> {
    let plain = receipts
        .iter()
        .map(|receipt| receipt.inner.clone().map_logs(|log| log.inner));
    let plain: Vec<_> = plain.collect();
    if calculate_receipt_root(&plain) == root {
        return Ok(());
    }
    Err(ProofError::Receipts)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::b256;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    /// The first block of Ethereum's main network, as nodes write it.
    const FIRST: B256 = b256!("d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3");

    fn first() -> Value {
        let empty = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421";
        json!({
            "number": "0x0", "hash": FIRST, "parentHash": B256::ZERO, "nonce": "0x0000000000000042",
            "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
            "logsBloom": format!("0x{}", "0".repeat(512)), "transactionsRoot": empty,
            "stateRoot": "0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544",
            "receiptsRoot": empty, "miner": "0x0000000000000000000000000000000000000000",
            "difficulty": "0x400000000", "totalDifficulty": "0x400000000", "gasLimit": "0x1388",
            "extraData": "0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa",
            "gasUsed": "0x0", "timestamp": "0x0", "mixHash": B256::ZERO, "size": "0x21c",
            "transactions": [], "uncles": [],
        })
    }

    fn prove(header_json: &Value) -> Result<(), ProofError> {
        header(&to_raw_value(header_json).unwrap(), FIRST)
    }

    #[test]
    fn a_header_is_what_its_hash_is_of() {
        let mut told = first();
        assert_eq!(prove(&told), Ok(()));
        // What a chain adds to it is not hashed.
        told["l1BlockNumber"] = json!("0x5");
        told["milliTimestamp"] = json!("0x18bcfe56800");
        assert_eq!(prove(&told), Ok(()));
    }

    #[test]
    fn a_header_with_any_field_changed_is_none() {
        for (field, other) in [
            ("number", json!("0x1")),
            ("parentHash", json!(B256::repeat_byte(1))),
            ("timestamp", json!("0x1")),
            ("transactionsRoot", json!(B256::repeat_byte(1))),
            ("receiptsRoot", json!(B256::repeat_byte(1))),
            ("logsBloom", json!(format!("0x{}", "1".repeat(512)))),
            ("gasUsed", json!("0x1")),
            ("baseFeePerGas", json!("0x1")),
            ("withdrawalsRoot", json!(B256::ZERO)),
        ] {
            let mut told = first();
            told[field] = other;
            let refused = prove(&told);
            assert!(
                matches!(refused, Err(ProofError::HeaderHash { .. })),
                "{field}: {refused:?}"
            );
        }
        for field in ["mixHash", "stateRoot", "extraData", "miner"] {
            let mut told = first();
            told.as_object_mut().unwrap().remove(field);
            assert!(prove(&told).is_err(), "{field}");
        }
    }

    #[test]
    fn no_transactions_have_the_root_of_nothing() {
        let root = b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");
        assert_eq!(transactions(&[], root), Ok(()));
        assert_eq!(receipts(&[], root), Ok(()));
        assert_eq!(transactions(&[], B256::ZERO), Err(ProofError::Transactions));
        assert_eq!(receipts(&[], B256::ZERO), Err(ProofError::Receipts));
    }
}
