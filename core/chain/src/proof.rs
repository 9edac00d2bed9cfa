//! Block proofs: checks a block's header, transactions and receipts against its hash.
//!
//! A block's hash is a commitment to all of its content:
//!
//! ```text
//! block hash ── header ─┬─ transactions root ── every transaction
//!                       ├─ receipts root ────── every receipt, with its logs
//!                       └─ parent hash ──────── the block before
//! ```
//!
//! A node can return any content, but not content that hashes to a hash which other blocks link
//! to. It can therefore withhold a block, but neither invent nor change one.
//!
//! # Limits
//! - Fields that a chain adds to its responses, and does not hash, are ignored.
//! - Transactions of types that only one chain has cannot be hashed. A block that holds one is not
//!   proved against its roots, and only on chains that have such types ([`TransactionTypes`]).
//! - Content that no hash covers is not proved. The sender of a transaction is an example: the
//!   node reports it.
//!
//! # Example
//! A node adds a zero to the value of one transfer. The transaction then hashes to another hash
//! than the one beside it. If the node changes that hash too, the transactions root differs. If
//! it changes the root too, the header hashes to another hash than the requested one.

use alloy::{
    consensus::{
        Header,
        proofs::{calculate_receipt_root, ordered_trie_root_encoded},
    },
    eips::Encodable2718 as _,
    primitives::{B256, Bloom, keccak256, logs_bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use serde_json::value::RawValue;

use crate::{
    BlockRef, ChainConfig,
    profiles::{Profile, own_types},
    rpc_types::{EncodingKind, parse_transaction},
};

/// The proofs that a chain requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofPolicy {
    /// The header against the block's hash.
    pub header: ProofCheck,
    /// The transactions against the header's root and their own hashes.
    pub transactions: ProofCheck,
    /// The receipts against the header's root.
    pub receipts: ProofCheck,
    /// The logs against the header's bloom.
    pub bloom: ProofCheck,
    /// Whether blocks hold transactions of the chain itself, outside the roots and the bloom.
    pub system_transactions: SystemTransactions,
    /// The transaction types that the chain has besides Ethereum's.
    pub own_types: TransactionTypes,
}

/// A set of transaction types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionTypes([u128; 2]);

impl TransactionTypes {
    /// No type.
    pub const NONE: Self = Self([0; 2]);

    /// The set of these types.
    #[must_use]
    pub fn new(types: &[u8]) -> Self {
        let mut set = Self::default();
        for one in types {
            set.0[usize::from(one >> 7)] |= 1 << (one & 0x7F);
        }
        set
    }

    /// Whether the set has a type.
    #[must_use]
    pub fn contains(&self, one: u8) -> bool {
        self.0[usize::from(one >> 7)] & (1 << (one & 0x7F)) != 0
    }
}

/// Whether blocks may hold transactions or receipts outside their header's roots and bloom.
///
/// Polygon passes state from Ethereum in such transactions. They have no sender and a hash that
/// follows from the block. Some nodes return the transaction, some its receipt, some both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemTransactions {
    /// Blocks may hold them.
    Expected,
    /// Blocks hold none.
    Refused,
}

/// The hash of the system transaction of a block, as Polygon computes it.
#[must_use]
pub fn system_transaction_hash(block: BlockRef) -> B256 {
    let number = block.number.to_be_bytes();
    keccak256(
        [
            b"matic-bor-receipt-".as_slice(),
            &number,
            block.hash.as_slice(),
        ]
        .concat(),
    )
}

/// Whether a proof is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofCheck {
    /// Content that does not match its hash is rejected.
    Required,
    /// The chain hashes in another way, so the content is accepted without proof.
    Waived,
}

impl ProofCheck {
    fn of(is_required: bool) -> Self {
        if is_required {
            Self::Required
        } else {
            Self::Waived
        }
    }
}

impl ProofPolicy {
    /// The proofs that a chain's configuration requires.
    #[must_use]
    pub fn of(config: &ChainConfig) -> Self {
        let profile = Profile::of(config.id);
        let check =
            |configured: Option<bool>, default| ProofCheck::of(configured.unwrap_or(default));
        let has_system = config.system_transactions;
        Self {
            header: check(config.header_hash, profile.header_hash),
            transactions: check(config.transactions_root, profile.transactions_root),
            receipts: check(config.receipts_root, profile.receipts_root),
            bloom: check(config.logs_bloom, profile.logs_bloom),
            system_transactions: match has_system.unwrap_or(profile.system_transactions) {
                true => SystemTransactions::Expected,
                false => SystemTransactions::Refused,
            },
            own_types: TransactionTypes::new(
                config
                    .transaction_types
                    .as_deref()
                    .unwrap_or_else(|| own_types(config.id)),
            ),
        }
    }
}

impl ProofPolicy {
    /// Checks that the chain has an unknown type of transaction.
    pub(crate) fn check_type(&self, transaction: B256, found: &str) -> Result<(), ProofError> {
        let digits = found.strip_prefix("0x");
        let number = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if number.is_some_and(|number| self.own_types.contains(number)) {
            return Ok(());
        }
        Err(ProofError::UnknownType {
            transaction,
            found: found.to_owned(),
        })
    }
}

/// The reason why content does not match its hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A field of the header is missing or malformed.
    #[error(
        "its header cannot be hashed: {0}; set `header_hash = false` only if the chain's headers differ from Ethereum's"
    )]
    Header(String),
    /// The header hashes to another hash.
    #[error(
        "its header hashes to {found}; set `header_hash = false` only if the chain's headers never hash to their hash"
    )]
    HeaderHash {
        /// The computed hash.
        found: B256,
    },
    /// A transaction hashes to another hash.
    #[error(
        "transaction {reported} hashes to {found}; set `transactions_root = false` only if the chain's transactions never hash to their hash"
    )]
    TransactionHash {
        /// The hash that the node reports.
        reported: B256,
        /// The computed hash.
        found: B256,
    },
    /// A transaction cannot be parsed.
    #[error("a transaction cannot be parsed: {0}")]
    Malformed(String),
    /// A transaction or receipt has a type that neither Ethereum nor the chain has.
    #[error(
        "transaction {transaction} has the type {found}, which cannot be hashed; add it to `transaction_types` only if the chain has this type"
    )]
    UnknownType {
        /// The transaction.
        transaction: B256,
        /// Its type, as the node wrote it.
        found: String,
    },
    /// A receipt has an unknown type that its transaction does not have.
    #[error("the receipt of transaction {0} has another type than the transaction")]
    ReceiptType(B256),
    /// The transactions have another root.
    #[error(
        "the transactions do not hash to the header's root; set `transactions_root = false` only if the chain's transactions never do"
    )]
    Transactions,
    /// The logs have another bloom.
    #[error(
        "the logs do not match the header's bloom; set `logs_bloom = false` only if the chain's bloom never does"
    )]
    Bloom,
    /// The header has no bloom.
    #[error(
        "the header has no bloom that can be read; set `logs_bloom = false` only if the chain's headers never have one"
    )]
    NoBloom,
    /// There is not one receipt for each transaction.
    #[error(
        "there are {receipts} receipts for {transactions} transactions; set `system_transactions = true` only if the chain adds transactions or receipts of its own"
    )]
    ReceiptCount {
        /// The number of receipts.
        receipts: usize,
        /// The number of transactions.
        transactions: usize,
    },
    /// The receipts have another root.
    #[error(
        "the receipts do not hash to the header's root; set `receipts_root = false` only if the chain's receipts never do"
    )]
    Receipts,
}

/// Checks the JSON of a header against the block's hash.
///
/// # Errors
/// The header hashes to another hash, or lacks a field that is hashed.
pub fn header(raw: &RawValue, hash: B256) -> Result<(), ProofError> {
    let header: Header =
        serde_json::from_str(raw.get()).map_err(|error| ProofError::Header(error.to_string()))?;
    let found = header.hash_slow();
    if found == hash {
        return Ok(());
    }
    Err(ProofError::HeaderHash { found })
}

/// Checks transactions against the root in their header, and each one against its own hash.
///
/// # Errors
/// A transaction is changed, added or missing.
pub fn transactions<'a>(
    transactions: impl IntoIterator<Item = &'a Transaction>,
    root: B256,
) -> Result<(), ProofError> {
    let encoded = transactions.into_iter().map(encoded);
    let encoded: Vec<_> = encoded.collect::<Result<_, _>>()?;
    if ordered_trie_root_encoded(&encoded) == root {
        return Ok(());
    }
    Err(ProofError::Transactions)
}

/// Checks a transaction against its own hash.
///
/// # Errors
/// The transaction is changed.
pub fn transaction(transaction: &Transaction) -> Result<(), ProofError> {
    encoded(transaction).map(|_| ())
}

/// The encoding of a transaction, which hashes to its hash.
fn encoded(transaction: &Transaction) -> Result<Vec<u8>, ProofError> {
    // The hash is computed, as the node could report any.
    let bytes = transaction.inner.inner().encoded_2718();
    let (reported, found) = (*transaction.inner.tx_hash(), keccak256(&bytes));
    if reported != found {
        return Err(ProofError::TransactionHash { reported, found });
    }
    Ok(bytes)
}

/// Checks the JSON of a transaction that a node returned outside of its block against its own hash.
///
/// # Errors
/// The transaction is changed or malformed, or has a type that the chain does not have. One of a
/// type of the chain's own cannot be checked, and passes.
pub(crate) fn single_transaction(raw: &RawValue, proofs: ProofPolicy) -> Result<(), ProofError> {
    if proofs.transactions == ProofCheck::Waived {
        return Ok(());
    }
    let (parsed, kind) =
        parse_transaction(raw).map_err(|error| ProofError::Malformed(error.to_string()))?;
    let hash = *parsed.inner.tx_hash();
    let block = parsed.block_number.zip(parsed.block_hash);
    let is_system = block.is_some_and(|(number, block)| {
        let block = BlockRef {
            number,
            hash: block,
            parent: B256::ZERO,
        };
        hash == system_transaction_hash(block)
    });
    match kind {
        _ if is_system && proofs.system_transactions == SystemTransactions::Expected => Ok(()),
        EncodingKind::Known => transaction(&parsed),
        EncodingKind::Unknown(found) => proofs.check_type(hash, &found),
    }
}

/// Checks receipts against the root in their header.
///
/// # Errors
/// A receipt is changed, added or missing.
pub fn receipts<'a>(
    receipts: impl IntoIterator<Item = &'a TransactionReceipt>,
    root: B256,
) -> Result<(), ProofError> {
    let plain = receipts
        .into_iter()
        .map(|receipt| receipt.inner.clone().map_logs(|log| log.inner));
    let plain: Vec<_> = plain.collect();
    if calculate_receipt_root(&plain) == root {
        return Ok(());
    }
    Err(ProofError::Receipts)
}

/// Checks the logs of a block against the bloom in its header, and returns the bloom.
///
/// # Errors
/// A log is missing, or its address or topics are changed. The bloom does not cover its data.
pub fn bloom<'a>(
    logs: impl IntoIterator<Item = &'a Log>,
    bloom: Option<Bloom>,
) -> Result<Bloom, ProofError> {
    let expected = bloom.ok_or(ProofError::NoBloom)?;
    let logs = logs.into_iter().map(|log| &log.inner);
    if logs_bloom(logs) == expected {
        return Ok(expected);
    }
    Err(ProofError::Bloom)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::b256;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    /// The hash of the genesis block of Ethereum's main network.
    const GENESIS: B256 = b256!("d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3");

    /// The header of the genesis block, as nodes return it.
    fn genesis() -> Value {
        let empty = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421";
        json!({
            "number": "0x0", "hash": GENESIS, "parentHash": B256::ZERO, "nonce": "0x0000000000000042",
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
        header(&to_raw_value(header_json).unwrap(), GENESIS)
    }

    #[test]
    fn a_header_hashes_to_its_hash() {
        let mut header_json = genesis();
        assert_eq!(prove(&header_json), Ok(()));
        // Fields that a chain adds are not hashed.
        header_json["l1BlockNumber"] = json!("0x5");
        header_json["milliTimestamp"] = json!("0x18bcfe56800");
        assert_eq!(prove(&header_json), Ok(()));
    }

    #[test]
    fn a_header_with_a_changed_or_missing_field_is_refused() {
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
            let mut header_json = genesis();
            header_json[field] = other;
            let refused = prove(&header_json);
            assert!(
                matches!(refused, Err(ProofError::HeaderHash { .. })),
                "{field}: {refused:?}"
            );
        }
        for field in ["mixHash", "stateRoot", "extraData", "miner"] {
            let mut header_json = genesis();
            header_json.as_object_mut().unwrap().remove(field);
            assert!(prove(&header_json).is_err(), "{field}");
        }
    }

    #[test]
    fn an_empty_block_has_the_empty_root() {
        let root = b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");
        assert_eq!(transactions(&[], root), Ok(()));
        assert_eq!(receipts(&[], root), Ok(()));
        assert_eq!(transactions(&[], B256::ZERO), Err(ProofError::Transactions));
        assert_eq!(receipts(&[], B256::ZERO), Err(ProofError::Receipts));
    }
}
