//! Inclusion prover: receipts of transactions, proved as the blocks of the chain are.
//!
//! A node names the block of a transaction and its receipt. Neither is believed on one node's word:
//! 1. A block of a height that the trackers do not have must be canonical. Its headers must link it
//!    to the oldest known block, over [`MAX_LINKS`] blocks at most. Of an older block `agreement`
//!    endpoints must have the hash at its height, and more of them than have another one.
//! 2. The receipt is taken from the whole block, which matches the roots of its header. Where the
//!    configuration waives the receipts root, the receipt alone is read.
//!
//! # Example
//! The chain began at block 900. A node says that a transaction is in block 850, `x`. The headers
//! 850 to 900 are read. They link, the last one is the block 900 of the chain, and the first one is
//! `x`: the block is canonical. Its content is loaded with proofs, and has the receipt.

use std::collections::{HashMap, hash_map::Entry};

use alloy::primitives::B256;
use futures::future::join_all;
use serde_json::{Value, value::RawValue};

use crate::{
    BlockData, BlockRef, ReceiptId, RpcClient as _, RpcError,
    block_store::BlockStore,
    endpoint::{Endpoint, EndpointPool, Failure},
    fork_choice::{fetch_header, load, parse_header},
    proof::{ProofCheck, ProofPolicy},
    receipt::parsed_outcome,
    rpc_types::{header_by_hash, header_by_number},
    transaction::{BlockNumHash, NodeRequest},
};

/// Blocks over which headers link a block to the oldest known one, at most. Beyond, reading them
/// would cost more than asking several endpoints.
const MAX_LINKS: u64 = 128;

/// Proves receipts of a chain.
#[derive(Clone)]
pub(crate) struct InclusionProver {
    pub(crate) pool: EndpointPool,
    pub(crate) proofs: ProofPolicy,
    /// The number of endpoints that must have a block.
    pub(crate) agreement: usize,
    pub(crate) block_store: BlockStore,
}

/// A block whose receipts are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct BlockQuery {
    at: BlockNumHash,
    /// How to show that it is canonical. None if it is known to be.
    anchor: Option<Option<BlockNumHash>>,
}

impl InclusionProver {
    /// The responses to requests, in their order, each with those to its calls.
    pub(crate) async fn respond(
        &self,
        requests: Vec<NodeRequest>,
    ) -> Vec<(NodeRequest, Vec<Result<Value, RpcError>>)> {
        let mut blocks: HashMap<BlockQuery, Result<Option<BlockData>, Failure>> = HashMap::new();
        let mut canonical: HashMap<BlockQuery, Result<bool, Failure>> = HashMap::new();
        let mut plain = Vec::new();
        for request in &requests {
            let Some((query, _)) = block_query(request) else {
                plain.extend(request.calls());
                continue;
            };
            if let Entry::Vacant(unknown) = canonical.entry(query) {
                unknown.insert(self.is_canonical(query).await);
            }
            let is_canonical = matches!(canonical.get(&query), Some(Ok(true)));
            match self.proofs.receipts {
                ProofCheck::Waived if is_canonical => plain.extend(request.calls()),
                ProofCheck::Required if is_canonical && !blocks.contains_key(&query) => {
                    blocks.insert(query, self.load(query.at).await);
                }
                _ => {}
            }
        }
        let mut responses = self.pool.call_all(plain).await.into_iter();
        let respond = |request: NodeRequest| {
            let proved = block_query(&request).and_then(|(query, id)| {
                match (canonical.get(&query), self.proofs.receipts) {
                    (Some(Ok(true)), ProofCheck::Waived) => None,
                    (Some(Ok(true)), ProofCheck::Required) => Some(match blocks.get(&query) {
                        Some(Ok(block)) => Ok(receipt(block.as_ref(), &id)),
                        Some(Err(failure)) => Err(failure.clone()),
                        None => Ok(Value::Null),
                    }),
                    (Some(Err(failure)), _) => Some(Err(failure.clone())),
                    _ => Some(Ok(Value::Null)),
                }
            });
            let responses = match proved {
                Some(proved) => {
                    let chain = self.pool.chain();
                    vec![proved.map_err(|failure| failure.into_rpc_error(chain))]
                }
                None => {
                    let count = request.calls().len();
                    responses.by_ref().take(count).collect()
                }
            };
            (request, responses)
        };
        requests.into_iter().map(respond).collect()
    }

    /// Loads a block with proofs. None if no endpoint has its header.
    async fn load(&self, at: BlockNumHash) -> Result<Option<BlockData>, Failure> {
        let stored = BlockRef {
            number: at.number,
            hash: at.hash,
            parent: B256::ZERO,
        };
        if let Some(data) = self.block_store.block(stored).await {
            return Ok(Some(data));
        }
        let mut failure = None;
        for endpoint in self.pool.by_health(at.number) {
            match fetch_header(&endpoint, header_by_hash(at.hash), self.proofs).await {
                Ok(Some(header)) if header.hash == at.hash && header.number == at.number => {
                    return load(&self.pool, header, self.proofs).await.map(Some);
                }
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    async fn is_canonical(&self, query: BlockQuery) -> Result<bool, Failure> {
        let Some(anchor) = query.anchor else {
            return Ok(true);
        };
        let at = query.at;
        let near = anchor.filter(|anchor| {
            let distance = anchor.number.checked_sub(at.number);
            distance.is_some_and(|distance| distance <= MAX_LINKS)
        });
        match (near, self.proofs.header) {
            (Some(anchor), ProofCheck::Required) => self.links(at, anchor).await,
            _ => self.has_agreement(at).await,
        }
    }

    /// Whether headers link a block to a later one that is canonical.
    async fn links(&self, at: BlockNumHash, anchor: BlockNumHash) -> Result<bool, Failure> {
        let calls: Vec<_> = (at.number..=anchor.number).map(header_by_number).collect();
        let mut failure = Failure::NotFound(format!("the headers from block {}", at.number));
        for endpoint in self.pool.by_health(anchor.number) {
            match self.read_headers(&endpoint, &calls).await {
                Ok(headers) => {
                    let is_linked = headers
                        .windows(2)
                        .all(|pair| pair[1].parent == pair[0].hash);
                    let is_ours = headers.last().map(|last| last.hash) == Some(anchor.hash);
                    if is_linked && is_ours {
                        return Ok(headers.first().map(|first| first.hash) == Some(at.hash));
                    }
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn read_headers(
        &self,
        endpoint: &Endpoint,
        calls: &[crate::Call],
    ) -> Result<Vec<BlockRef>, Failure> {
        let responses = endpoint.call_all(calls).await.into_iter();
        let parse = |response: Result<Box<RawValue>, Failure>| {
            let raw: Option<Box<RawValue>> = endpoint.parse(&response?)?;
            let raw = raw.ok_or_else(|| Failure::NotFound("a header".to_owned()))?;
            parse_header(endpoint, &raw, self.proofs)
        };
        responses.map(parse).collect()
    }

    /// Whether enough endpoints have this block at its height, and fewer another one.
    async fn has_agreement(&self, at: BlockNumHash) -> Result<bool, Failure> {
        let endpoints = self.pool.endpoints().iter();
        let reads = endpoints
            .map(|endpoint| fetch_header(endpoint, header_by_number(at.number), self.proofs));
        let (mut same, mut other) = (0, 0);
        let mut failure = None;
        for read in join_all(reads).await {
            match read {
                Ok(Some(header)) if header.number == at.number && header.hash == at.hash => {
                    same += 1;
                }
                Ok(Some(_)) => other += 1,
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        if same >= self.agreement && same > other {
            return Ok(true);
        }
        match failure {
            Some(failure) if same + other == 0 => Err(failure),
            _ => Ok(false),
        }
    }
}

/// The block that must be proved for a request, and the receipt that it must have. None if the
/// request is about no receipt.
fn block_query(request: &NodeRequest) -> Option<(BlockQuery, ReceiptId)> {
    let (hash, at, anchor, index) = match request {
        NodeRequest::Receipt {
            hash, at, index, ..
        } => (hash, at, None, *index),
        NodeRequest::Inclusion {
            hash, at, anchor, ..
        } => (hash, at, Some(*anchor), None),
        NodeRequest::Transaction(_) | NodeRequest::Reason { .. } | NodeRequest::Nonce { .. } => {
            return None;
        }
    };
    let id = ReceiptId {
        transaction: *hash,
        block: at.hash,
        index,
    };
    Some((BlockQuery { at: *at, anchor }, id))
}

/// The receipt of a transaction of a block. Null if the block does not have it.
fn receipt(block: Option<&BlockData>, id: &ReceiptId) -> Value {
    let found = block.and_then(|block| {
        let mut transactions = block.transactions.iter();
        let position = transactions.position(|one| *one.inner.tx_hash() == id.transaction)?;
        block.receipt_of(position)
    });
    let Some(found) = found else {
        return Value::Null;
    };
    let mut json = serde_json::to_value(found).unwrap_or_default();
    // Such a receipt has a made-up root, which must not show an outcome.
    if parsed_outcome(found).is_none()
        && let Some(fields) = json.as_object_mut()
    {
        fields.remove("root");
    }
    json
}
