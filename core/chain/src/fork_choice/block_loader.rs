//! Block loader: loads a block with transactions and logs, and rejects every incomplete response.
//!
//! The loader checks, in this order:
//! 1. The header hashes to the block's hash.
//! 2. The transactions hash to the header's transactions root.
//! 3. There is one receipt for each transaction, of this block. The receipts hash to the
//!    header's receipts root, and their logs to its bloom.
//!
//! If an endpoint cannot return the receipts of a whole block, the logs are read by the block's
//! hash and checked against the bloom alone.

use alloy::{
    primitives::{B256, Bloom, logs_bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use serde_json::{json, value::RawValue};

use crate::{
    BlockData, BlockRef, Call,
    endpoint::{Endpoint, EndpointPool, Failure},
    proof::{self, ProofCheck, ProofError, ProofPolicy},
    rpc_types::{BlockJson, EncodingKind, parse_receipt, parse_transaction},
};

/// Loads a block from the first endpoint that returns all of it.
pub(super) async fn load(
    pool: &EndpointPool,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<BlockData, Failure> {
    let mut last = Failure::Unreachable("there is no endpoint".to_owned());
    for endpoint in pool.by_health(block.number) {
        match load_from(&endpoint, block, proofs).await {
            Ok(data) => return Ok(data),
            Err(LoadError::Failure(failure)) => last = failure,
            Err(LoadError::Invalid(reason)) => {
                endpoint.report_invalid(&format!("block {}: {reason}", block.number));
                last = Failure::Invalid(reason);
            }
        }
    }
    Err(last)
}

/// The reason why an endpoint did not provide a block.
enum LoadError {
    /// A call failed.
    Failure(Failure),
    /// A response contradicts the block's hashes.
    Invalid(String),
}

impl From<Failure> for LoadError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<ProofError> for LoadError {
    fn from(error: ProofError) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError::Invalid(reason.into()))
}

fn no_response() -> Failure {
    Failure::Invalid("it returned no response to a call".to_owned())
}

async fn load_from(
    endpoint: &Endpoint,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<BlockData, LoadError> {
    let body = Call {
        method: "eth_getBlockByHash",
        params: json!([block.hash, true]),
    };
    let mut calls = vec![body];
    let with_receipts = endpoint.supports_block_receipts();
    calls.push(if with_receipts {
        receipts_of(block)
    } else {
        logs_of(block)
    });
    let mut responses = endpoint.call_all(&calls).await.into_iter();
    let (Some(body), Some(content)) = (responses.next(), responses.next()) else {
        return Err(no_response().into());
    };
    let raw = body?;
    let body: Option<BlockJson> = endpoint.parse(&raw)?;
    let Some(body) = body else {
        return Err(Failure::NotFound(format!("block {}", block.hash)).into());
    };
    if body.block() != block {
        return invalid("it returned another block than the requested one");
    }
    if proofs.header == ProofCheck::Required {
        proof::header(&raw, block.hash)?;
    }
    let content = match content {
        Err(Failure::Unsupported(_) | Failure::Refused { .. }) if with_receipts => {
            endpoint.disable_block_receipts();
            let responses = endpoint.call_all(&[logs_of(block)]).await;
            let response = responses.into_iter().next();
            LogSource::Logs(response.unwrap_or_else(|| Err(no_response()))?)
        }
        content if with_receipts => LogSource::Receipts(content?),
        content => LogSource::Logs(content?),
    };
    let transactions = parse_transactions(&body, block, proofs)?;
    let mut data = BlockData {
        block,
        timestamp: i64::try_from(body.timestamp.to::<u64>().saturating_mul(1_000))
            .unwrap_or(i64::MAX),
        base_fee: body.base_fee_per_gas.map(|fee| fee.saturating_to()),
        bloom: body.logs_bloom,
        transactions,
        logs: Vec::new(),
        receipts: Vec::new(),
    };
    match content {
        LogSource::Receipts(raw) => {
            let raw: Option<Vec<Box<RawValue>>> = endpoint.parse(&raw)?;
            let Some(raw) = raw else {
                return Err(Failure::NotFound(format!("receipts of {}", block.hash)).into());
            };
            add_receipts(&mut data, &raw, body.receipts_root, proofs)?;
        }
        LogSource::Logs(raw) => {
            let logs: Option<Vec<Log>> = endpoint.parse(&raw)?;
            let Some(logs) = logs else {
                return Err(Failure::NotFound(format!("logs of {}", block.hash)).into());
            };
            add_logs(&mut data, logs)?;
        }
    }
    Ok(data)
}

/// The response that holds the logs: all receipts, or the logs alone.
enum LogSource {
    Receipts(Box<RawValue>),
    Logs(Box<RawValue>),
}

fn receipts_of(block: BlockRef) -> Call {
    Call {
        method: "eth_getBlockReceipts",
        params: json!([block.hash]),
    }
}

fn logs_of(block: BlockRef) -> Call {
    Call {
        method: "eth_getLogs",
        params: json!([{ "blockHash": block.hash }]),
    }
}

/// The transactions of a block, with the positions that the block gives them. If one has an
/// unknown type, none is proved, as it cannot be hashed.
fn parse_transactions(
    body: &BlockJson,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<Vec<Transaction>, LoadError> {
    let mut all_known = true;
    let mut transactions = Vec::with_capacity(body.transactions.len());
    for (index, raw) in body.transactions.iter().enumerate() {
        let (mut transaction, kind) = match parse_transaction(raw) {
            Ok(parsed) => parsed,
            Err(error) => return invalid(format!("a transaction cannot be parsed: {error}")),
        };
        all_known &= kind == EncodingKind::Known;
        transaction.block_hash = Some(block.hash);
        transaction.block_number = Some(block.number);
        transaction.transaction_index = Some(index as u64);
        transactions.push(transaction);
    }
    if proofs.transactions == ProofCheck::Required && all_known {
        proof::transactions(&transactions, body.transactions_root)?;
    }
    Ok(transactions)
}

fn add_receipts(
    data: &mut BlockData,
    raw: &[Box<RawValue>],
    root: B256,
    proofs: ProofPolicy,
) -> Result<(), LoadError> {
    if raw.len() != data.transactions.len() {
        return invalid(format!(
            "{} receipts for {} transactions",
            raw.len(),
            data.transactions.len()
        ));
    }
    let mut all_known = true;
    let mut receipts: Vec<TransactionReceipt> = Vec::with_capacity(raw.len());
    for (raw, transaction) in raw.iter().zip(&data.transactions) {
        let (receipt, kind) = match parse_receipt(raw) {
            Ok(parsed) => parsed,
            Err(error) => return invalid(format!("a receipt cannot be parsed: {error}")),
        };
        all_known &= kind == EncodingKind::Known;
        if receipt.transaction_hash != *transaction.inner.tx_hash()
            || receipt.block_hash != Some(data.block.hash)
        {
            return invalid("a receipt is of another transaction or block");
        }
        receipts.push(receipt);
    }
    let logs: Vec<Log> = receipts
        .iter()
        .flat_map(|receipt| receipt.inner.logs().iter().map(|log| log_of(receipt, log)))
        .collect();
    check_bloom(&data.bloom, &logs)?;
    if proofs.receipts == ProofCheck::Required && all_known {
        proof::receipts(&receipts, root)?;
    }
    data.logs = logs;
    data.receipts = receipts;
    Ok(())
}

/// A log with the position of its receipt. The receipts root does not cover the position that
/// the node writes beside the log. `removed` is ignored, as only headers decide a reorg.
fn log_of(receipt: &TransactionReceipt, log: &Log) -> Log {
    Log {
        inner: log.inner.clone(),
        block_hash: receipt.block_hash,
        block_number: receipt.block_number,
        transaction_hash: Some(receipt.transaction_hash),
        transaction_index: receipt.transaction_index,
        removed: false,
        ..*log
    }
}

fn add_logs(data: &mut BlockData, mut logs: Vec<Log>) -> Result<(), LoadError> {
    if logs
        .iter()
        .any(|log| log.block_hash != Some(data.block.hash) || log.removed)
    {
        return invalid("a log is of another block");
    }
    check_bloom(&data.bloom, &logs)?;
    logs.sort_by_key(|log| log.log_index);
    data.logs = logs;
    Ok(())
}

/// Checks that the bloom of the logs equals the header's.
fn check_bloom(bloom: &Bloom, logs: &[Log]) -> Result<(), LoadError> {
    if logs_bloom(logs.iter().map(|log| &log.inner)) != *bloom {
        return invalid("the logs do not match the header's bloom");
    }
    Ok(())
}
