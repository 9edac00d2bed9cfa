//! Loads a block with all it holds, and believes no answer that is not whole.
//!
//! The header is held against its hash, and the transactions against the header. So are
//! receipts: as many as transactions, of this block, and hashing to its root and its bloom.
//! Where an endpoint cannot give receipts, logs are read by the block's hash and held
//! against the bloom.

use alloy::{
    primitives::{B256, Bloom, logs_bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use serde_json::{json, value::RawValue};

use crate::{
    BlockData, BlockRef, Call,
    endpoint::{Endpoint, EndpointPool, Failure},
    proof::{self, ProofCheck, ProofError, ProofPolicy},
    rpc_types::{self, BlockJson, Kind},
};

/// Loads a block from the first endpoint that has all of it.
pub(super) async fn load(
    pool: &EndpointPool,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<BlockData, Failure> {
    let mut last = Failure::Unreachable("there is no endpoint".to_owned());
    for endpoint in pool.by_health(block.number) {
        match load_from(&endpoint, block, proofs).await {
            Ok(data) => return Ok(data),
            Err(Problem::Failed(failure)) => last = failure,
            Err(Problem::Lie(what)) => {
                endpoint.caught_lying(&format!("block {}: {what}", block.number));
                last = Failure::Nonsense(what);
            }
        }
    }
    Err(last)
}

/// Why a block was not loaded.
enum Problem {
    Failed(Failure),
    Lie(String),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ProofError> for Problem {
    fn from(error: ProofError) -> Self {
        Self::Lie(error.to_string())
    }
}

fn lie<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Lie(what.into()))
}

async fn load_from(
    endpoint: &Endpoint,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<BlockData, Problem> {
    let body = Call {
        method: "eth_getBlockByHash",
        params: json!([block.hash, true]),
    };
    let mut calls = vec![body];
    let with_receipts = endpoint.gives_receipts();
    calls.push(if with_receipts {
        receipts_of(block)
    } else {
        logs_of(block)
    });
    let mut answers = endpoint.ask_all(&calls).await.into_iter();
    let (Some(body), Some(content)) = (answers.next(), answers.next()) else {
        return Err(Failure::Nonsense("no answer".to_owned()).into());
    };
    let raw = body?;
    let body: Option<BlockJson> = endpoint.read(&raw)?;
    let Some(body) = body else {
        return Err(Failure::Missing(format!("block {}", block.hash)).into());
    };
    if body.block() != block {
        return lie("it is not the block that was asked for");
    }
    if proofs.header == ProofCheck::Required {
        proof::header(&raw, block.hash)?;
    }
    let content = match content {
        Err(Failure::Unsupported(_) | Failure::Refused { .. }) if with_receipts => {
            endpoint.gives_no_receipts();
            let answer = endpoint.ask_all(&[logs_of(block)]).await.into_iter().next();
            let answer = answer.unwrap_or_else(|| Err(Failure::Nonsense("no answer".to_owned())));
            Content::Logs(answer?)
        }
        content if with_receipts => Content::Receipts(content?),
        content => Content::Logs(content?),
    };
    let transactions = take_transactions(&body, block, proofs)?;
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
        Content::Receipts(raw) => {
            let raw: Option<Vec<Box<RawValue>>> = endpoint.read(&raw)?;
            let Some(raw) = raw else {
                return Err(Failure::Missing(format!("receipts of {}", block.hash)).into());
            };
            take_receipts(&mut data, &raw, body.receipts_root, proofs)?;
        }
        Content::Logs(raw) => {
            let logs: Option<Vec<Log>> = endpoint.read(&raw)?;
            let Some(logs) = logs else {
                return Err(Failure::Missing(format!("logs of {}", block.hash)).into());
            };
            take_logs(&mut data, logs)?;
        }
    }
    Ok(data)
}

/// What the second answer holds.
enum Content {
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

/// The transactions of a block, placed as the block places them. One whose type is not known
/// here cannot be hashed; then only its receipt and the bloom stand for the block.
fn take_transactions(
    body: &BlockJson,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<Vec<Transaction>, Problem> {
    let mut all_known = true;
    let mut transactions = Vec::with_capacity(body.transactions.len());
    for (index, raw) in body.transactions.iter().enumerate() {
        let (mut transaction, kind) = match rpc_types::transaction(raw) {
            Ok(read) => read,
            Err(error) => return lie(format!("a transaction cannot be read: {error}")),
        };
        all_known &= kind == Kind::Known;
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

fn take_receipts(
    data: &mut BlockData,
    raw: &[Box<RawValue>],
    root: B256,
    proofs: ProofPolicy,
) -> Result<(), Problem> {
    if raw.len() != data.transactions.len() {
        return lie(format!(
            "{} receipts for {} transactions",
            raw.len(),
            data.transactions.len()
        ));
    }
    let mut all_known = true;
    let mut receipts: Vec<TransactionReceipt> = Vec::with_capacity(raw.len());
    for (raw, transaction) in raw.iter().zip(&data.transactions) {
        let (receipt, kind) = match rpc_types::receipt(raw) {
            Ok(read) => read,
            Err(error) => return lie(format!("a receipt cannot be read: {error}")),
        };
        all_known &= kind == Kind::Known;
        if receipt.transaction_hash != *transaction.inner.tx_hash()
            || receipt.block_hash != Some(data.block.hash)
        {
            return lie("a receipt is of another transaction or block");
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

/// A log as its receipt places it. The root does not cover what a node writes beside it; and
/// whether a block was taken back is for the headers to say, not for `removed`.
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

fn take_logs(data: &mut BlockData, mut logs: Vec<Log>) -> Result<(), Problem> {
    if logs
        .iter()
        .any(|log| log.block_hash != Some(data.block.hash) || log.removed)
    {
        return lie("a log is of another block");
    }
    check_bloom(&data.bloom, &logs)?;
    logs.sort_by_key(|log| log.log_index);
    data.logs = logs;
    Ok(())
}

/// A bloom holds exactly what the logs of its block put into it.
fn check_bloom(bloom: &Bloom, logs: &[Log]) -> Result<(), Problem> {
    if logs_bloom(logs.iter().map(|log| &log.inner)) != *bloom {
        return lie("the logs are not those that the header's bloom tells of");
    }
    Ok(())
}
