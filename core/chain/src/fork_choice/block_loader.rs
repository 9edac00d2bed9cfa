//! Block loader: loads a block with transactions and logs, and rejects every incomplete response.
//!
//! The loader checks, in this order:
//! 1. The header hashes to the block's hash.
//! 2. The transactions hash to the header's transactions root.
//! 3. There is one receipt for each transaction, of this block. The receipts hash to the
//!    header's receipts root, and their logs to its bloom.
//!
//! # Where receipts come from
//! First every endpoint is asked for all receipts of the block. If none returns them, the receipt
//! of each transaction is read, and the same root proves them. Logs alone are read only where
//! the configuration waives the receipts root: the bloom does not cover their data, so an
//! endpoint could change an amount.
//!
//! Example: endpoint A does not know `eth_getBlockReceipts`, and B does. Blocks are loaded from B.
//! While B is down, A returns the receipts of the block's 180 transactions in four batches.

use std::collections::HashMap;

use alloy::{
    primitives::{B256, Bloom, logs_bloom},
    rpc::types::{Log, Transaction, TransactionReceipt},
};
use serde_json::{json, value::RawValue};

use crate::{
    BlockData, BlockRef, Call, ReceiptId,
    endpoint::{Endpoint, EndpointPool, Failure},
    proof::{
        self, ProofCheck, ProofError, ProofPolicy, SystemTransactions, system_transaction_hash,
    },
    rpc_types::{BlockJson, EncodingKind, parse_receipt, parse_transaction},
};

/// The method that returns all receipts of a block.
const BLOCK_RECEIPTS: &str = "eth_getBlockReceipts";

/// Loads a block from the first endpoint that returns all of it.
pub(crate) async fn load(
    pool: &EndpointPool,
    block: BlockRef,
    proofs: ProofPolicy,
) -> Result<BlockData, Failure> {
    let mut last = Failure::Unreachable("there is no endpoint".to_owned());
    let order = pool.by_health_for(block.number, &[BLOCK_RECEIPTS]);
    let mut without_receipts = Vec::new();
    for endpoint in order {
        if !endpoint.method_pause(BLOCK_RECEIPTS).is_zero() {
            without_receipts.push(endpoint);
            continue;
        }
        match load_from(&endpoint, block, proofs, LogSource::BlockReceipts).await {
            Ok(data) => return Ok(data),
            Err(LoadError::NoBlockReceipts) => without_receipts.push(endpoint),
            Err(error) => last = error.report(&endpoint, block),
        }
    }
    let source = match proofs.receipts {
        ProofCheck::Required => LogSource::SingleReceipts,
        ProofCheck::Waived => LogSource::Logs,
    };
    for endpoint in without_receipts {
        match load_from(&endpoint, block, proofs, source).await {
            Ok(data) => return Ok(data),
            Err(error) => last = error.report(&endpoint, block),
        }
    }
    Err(last)
}

/// The calls that the logs of a block come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogSource {
    /// All receipts of the block, in one call.
    BlockReceipts,
    /// The receipt of each transaction.
    SingleReceipts,
    /// The logs alone.
    Logs,
}

/// The reason why an endpoint did not provide a block.
enum LoadError {
    /// A call failed.
    Failure(Failure),
    /// A response contradicts the block's hashes.
    Invalid(String),
    /// The endpoint does not return all receipts of a block.
    NoBlockReceipts,
}

impl LoadError {
    /// Reports an invalid response, and returns the failure.
    fn report(self, endpoint: &Endpoint, block: BlockRef) -> Failure {
        match self {
            Self::Failure(failure) => failure,
            Self::Invalid(reason) => {
                // It may quote the response.
                let reason = endpoint.redact(&reason);
                endpoint.report_invalid(&format!("block {}: {reason}", block.number));
                Failure::Invalid(reason)
            }
            Self::NoBlockReceipts => Failure::Unsupported(BLOCK_RECEIPTS.to_owned()),
        }
    }
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

async fn load_from(
    endpoint: &Endpoint,
    block: BlockRef,
    proofs: ProofPolicy,
    source: LogSource,
) -> Result<BlockData, LoadError> {
    let mut calls = vec![Call::new("eth_getBlockByHash", json!([block.hash, true]))];
    match source {
        LogSource::BlockReceipts => calls.push(Call::new(BLOCK_RECEIPTS, json!([block.hash]))),
        LogSource::Logs => calls.push(Call::new(
            "eth_getLogs",
            json!([{ "blockHash": block.hash }]),
        )),
        // The transactions are not known yet.
        LogSource::SingleReceipts => {}
    }
    let mut responses = endpoint.call_all(&calls).await.into_iter();
    let raw = responses.next().unwrap_or(Err(Failure::Incomplete))?;
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
    let mut content = Content {
        data: BlockData {
            block,
            timestamp: i64::try_from(body.timestamp.to::<u64>().saturating_mul(1_000))
                .unwrap_or(i64::MAX),
            base_fee: body.base_fee_per_gas.map(|fee| fee.saturating_to()),
            bloom: body.logs_bloom.unwrap_or_default(),
            transactions: Vec::new(),
            logs: Vec::new(),
            receipts: Vec::new(),
            withdrawals: body.withdrawals.iter().map(|one| one.address).collect(),
        },
        proofs,
        bloom: body.logs_bloom,
        system: system_transaction_hash(block),
        unknown: HashMap::new(),
    };
    content.add_transactions(&body)?;
    let response = responses.next().unwrap_or(Err(Failure::Incomplete));
    match source {
        LogSource::BlockReceipts => {
            let raw = block_receipts(endpoint, block, response)?;
            content.add_receipts(&raw, body.receipts_root)?;
        }
        LogSource::SingleReceipts => {
            let raw = single_receipts(endpoint, &content.data).await?;
            content.add_receipts(&raw, body.receipts_root)?;
        }
        LogSource::Logs => {
            let logs: Option<Vec<Log>> = endpoint.parse(&response?)?;
            let Some(logs) = logs else {
                return Err(Failure::NotFound(format!("logs of {}", block.hash)).into());
            };
            content.add_logs(logs)?;
        }
    }
    Ok(content.data)
}

/// The receipts in the response to a call for all of them. An error or null is a refusal: the
/// endpoint rests for the method, and is asked again.
fn block_receipts(
    endpoint: &Endpoint,
    block: BlockRef,
    response: Result<Box<RawValue>, Failure>,
) -> Result<Vec<Box<RawValue>>, LoadError> {
    let failure = match response {
        Ok(raw) => match endpoint.parse::<Option<Vec<Box<RawValue>>>>(&raw)? {
            Some(receipts) => return Ok(receipts),
            None => Failure::NotFound(format!("receipts of {}", block.hash)),
        },
        // The endpoint has recorded these itself.
        Err(Failure::Unsupported(_) | Failure::Unavailable { .. }) => {
            return Err(LoadError::NoBlockReceipts);
        }
        Err(failure @ (Failure::Refused { .. } | Failure::NotFound(_))) => failure,
        Err(failure) => return Err(failure.into()),
    };
    endpoint.refuse_method(BLOCK_RECEIPTS, &failure);
    Err(LoadError::NoBlockReceipts)
}

/// The receipt of each transaction of a block.
async fn single_receipts(
    endpoint: &Endpoint,
    data: &BlockData,
) -> Result<Vec<Box<RawValue>>, LoadError> {
    let ids = data.transactions.iter().map(|transaction| ReceiptId {
        transaction: *transaction.inner.tx_hash(),
        block: data.block.hash,
        index: transaction.transaction_index,
    });
    let calls: Vec<_> = ids.map(|id| id.call()).collect();
    let responses = endpoint.call_all(&calls).await;
    let mut receipts = Vec::with_capacity(responses.len());
    for response in responses {
        let receipt = response?;
        if receipt.get() == "null" {
            let missing = format!("a receipt of {}", data.block.hash);
            return Err(Failure::NotFound(missing).into());
        }
        receipts.push(receipt);
    }
    Ok(receipts)
}

/// The content of a block, while it is checked.
struct Content {
    data: BlockData,
    proofs: ProofPolicy,
    /// The bloom of the header, if it has one.
    bloom: Option<Bloom>,
    /// The hash of the transaction that the chain itself may add.
    system: B256,
    /// The transactions of unknown types.
    unknown: HashMap<B256, EncodingKind>,
}

impl Content {
    /// Whether the chain itself added a transaction or receipt, outside the header's roots.
    fn is_system(&self, hash: B256) -> bool {
        self.proofs.system_transactions == SystemTransactions::Expected && hash == self.system
    }

    /// Adds the transactions, with the positions that the block gives them. Where one has a type
    /// of the chain's own, which cannot be hashed, the others are proved by their hashes alone.
    fn add_transactions(&mut self, body: &BlockJson) -> Result<(), LoadError> {
        let mut transactions: Vec<Transaction> = Vec::with_capacity(body.transactions.len());
        for (index, raw) in body.transactions.iter().enumerate() {
            let (mut transaction, kind) = match parse_transaction(raw) {
                Ok(parsed) => parsed,
                Err(error) => return invalid(format!("a transaction cannot be parsed: {error}")),
            };
            let hash = *transaction.inner.tx_hash();
            if let EncodingKind::Unknown(found) = &kind
                && !self.is_system(hash)
            {
                if self.proofs.transactions == ProofCheck::Required {
                    self.proofs.check_type(hash, found)?;
                }
                self.unknown.insert(hash, kind);
            }
            transaction.block_hash = Some(self.data.block.hash);
            transaction.block_number = Some(self.data.block.number);
            transaction.transaction_index = Some(index as u64);
            transactions.push(transaction);
        }
        if self.proofs.transactions == ProofCheck::Required {
            let mut proved = transactions.iter().filter(|transaction| {
                let hash = transaction.inner.tx_hash();
                !self.is_system(*hash) && !self.unknown.contains_key(hash)
            });
            if self.unknown.is_empty() {
                proof::transactions(proved, body.transactions_root.unwrap_or_default())?;
            } else {
                proved.try_for_each(proof::transaction)?;
            }
        }
        self.data.transactions = transactions;
        Ok(())
    }

    /// Adds receipts, in the order of the transactions. Those of the chain itself may lack their
    /// transaction, and come last.
    fn add_receipts(&mut self, raw: &[Box<RawValue>], root: Option<B256>) -> Result<(), LoadError> {
        let mut all_known = true;
        let mut by_hash: HashMap<B256, TransactionReceipt> = HashMap::with_capacity(raw.len());
        for raw in raw {
            let (receipt, kind) = match parse_receipt(raw) {
                Ok(parsed) => parsed,
                Err(error) => return invalid(format!("a receipt cannot be parsed: {error}")),
            };
            let hash = receipt.transaction_hash;
            if let EncodingKind::Unknown(found) = &kind
                && !self.is_system(hash)
            {
                all_known = false;
                if self.proofs.receipts == ProofCheck::Required {
                    self.proofs.check_type(hash, found)?;
                    if self.unknown.get(&hash) != Some(&kind) {
                        return Err(ProofError::ReceiptType(hash).into());
                    }
                }
            }
            if receipt.block_hash != Some(self.data.block.hash) {
                return invalid("a receipt is of another transaction or block");
            }
            by_hash.insert(receipt.transaction_hash, receipt);
        }
        let mut receipts = Vec::with_capacity(raw.len());
        let mut without_receipt = 0;
        for transaction in &self.data.transactions {
            let hash = *transaction.inner.tx_hash();
            match by_hash.remove(&hash) {
                Some(mut receipt) => {
                    receipt.transaction_index = transaction.transaction_index;
                    receipts.push(receipt);
                }
                None if self.is_system(hash) => {}
                None => without_receipt += 1,
            }
        }
        let (system, others): (Vec<_>, Vec<_>) = by_hash
            .into_values()
            .partition(|receipt| self.is_system(receipt.transaction_hash));
        if without_receipt > 0 && raw.len() == self.data.transactions.len() {
            return invalid("a receipt is of another transaction or block");
        }
        if without_receipt > 0 || !others.is_empty() {
            let (receipts, transactions) = (raw.len(), self.data.transactions.len());
            return Err(ProofError::ReceiptCount {
                receipts,
                transactions,
            }
            .into());
        }
        let proved = || {
            let receipts = receipts.iter();
            receipts.filter(|receipt| !self.is_system(receipt.transaction_hash))
        };
        let bloom = self.bloom_of(proved().flat_map(|receipt| receipt.inner.logs()))?;
        let is_proved = self.proofs.receipts == ProofCheck::Required && all_known;
        if is_proved {
            proof::receipts(proved(), root.unwrap_or_default())?;
        }
        if is_proved {
            let is_system = |receipt: &TransactionReceipt| self.is_system(receipt.transaction_hash);
            let proved = receipts.iter_mut().filter(|receipt| !is_system(receipt));
            set_gas_used(proved);
        }
        self.data.bloom = bloom;
        receipts.extend(system);
        self.data.logs = receipts.iter().flat_map(logs_of).collect();
        self.data.receipts = receipts;
        Ok(())
    }

    fn add_logs(&mut self, mut logs: Vec<Log>) -> Result<(), LoadError> {
        let is_other = |log: &Log| log.block_hash != Some(self.data.block.hash) || log.removed;
        if logs.iter().any(is_other) {
            return invalid("a log is of another block");
        }
        let proved = logs.iter();
        let proved = proved.filter(|log| {
            !log.transaction_hash
                .is_some_and(|hash| self.is_system(hash))
        });
        self.data.bloom = self.bloom_of(proved)?;
        logs.sort_by_key(|log| log.log_index);
        self.data.logs = logs;
        Ok(())
    }

    /// The bloom of logs, which must be the header's where that is checked.
    fn bloom_of<'a>(&self, logs: impl Iterator<Item = &'a Log>) -> Result<Bloom, LoadError> {
        match self.proofs.bloom {
            ProofCheck::Required => Ok(proof::bloom(logs, self.bloom)?),
            ProofCheck::Waived => Ok(logs_bloom(logs.map(|log| &log.inner))),
        }
    }
}

/// Sets the gas of each transaction from proved receipts, in the order of the block. The receipts
/// root covers only the sum of the gas up to each transaction, not the gas that the node writes
/// beside it.
fn set_gas_used<'a>(receipts: impl Iterator<Item = &'a mut TransactionReceipt>) {
    let mut before = 0;
    for receipt in receipts {
        let sum = receipt.inner.cumulative_gas_used();
        receipt.gas_used = sum.saturating_sub(before);
        before = sum;
    }
}

fn logs_of(receipt: &TransactionReceipt) -> impl Iterator<Item = Log> {
    receipt.inner.logs().iter().map(|log| log_of(receipt, log))
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

#[cfg(test)]
mod tests;
