//! Reads by height: for nodes that accept a height where others accept a block's hash.
//!
//! EIP-1898 lets a read name its block by hash. A node without it refuses such a read as invalid.
//! The read is then made by height, in one request with the header at that height. The result
//! counts only if that header has the hash. Many reads take several requests, each with the header.
//!
//! Example: the balance at block `b7` is asked for, and refused. The header `b7` has the height
//! 7. The balance at height 7 is 5, and the header at height 7, read after it, is `b7`: the
//! balance at `b7` is 5. If the header is `x7`, the result is not found.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use super::{Endpoint, Failure, connection::Response};
use crate::{
    BlockRef, Call,
    rpc_types::{HeaderJson, header_by_hash, header_by_number},
};

/// The code of a call with invalid parameters.
const INVALID_PARAMS: i64 = -32602;

/// Makes the calls again by height that the endpoint refused because they name a block by hash.
/// Replaces their responses.
pub(super) async fn retry_by_height(
    endpoint: &Endpoint,
    calls: &[Call],
    responses: &mut [Response],
) {
    let mut by_block: BTreeMap<B256, Vec<usize>> = BTreeMap::new();
    for (index, (call, response)) in calls.iter().zip(&*responses).enumerate() {
        if let Err(Failure::Refused { code, .. }) = response
            && *code == INVALID_PARAMS
            && let Some(hash) = block_of(call)
        {
            by_block.entry(hash).or_default().push(index);
        }
    }
    // The header takes one place of each request.
    let size = endpoint.batch_size.get(Instant::now()).max(2) - 1;
    for (hash, indexes) in by_block {
        let found = endpoint.call_in_batches(&[header_by_hash(hash)]).await;
        let Some(known) = header(&found, 0).filter(|known| known.hash == hash) else {
            continue;
        };
        for indexes in indexes.chunks(size) {
            let reads = indexes
                .iter()
                .map(|index| at_height(&calls[*index], known.number));
            let reads: Vec<_> = reads.chain([header_by_number(known.number)]).collect();
            let results = endpoint.call_in_batches(&reads).await;
            let is_confirmed = header(&results, indexes.len()) == Some(known);
            for (index, result) in indexes.iter().zip(results) {
                responses[*index] = match is_confirmed {
                    true => result,
                    false => Err(Failure::NotFound(format!("block {hash} by its height"))),
                };
            }
        }
    }
}

/// The block that a call names by hash, as its last parameter.
fn block_of(call: &Call) -> Option<B256> {
    let last = call.params.as_array()?.last()?;
    last.get("blockHash")?.as_str()?.parse().ok()
}

fn at_height(call: &Call, height: u64) -> Call {
    let mut call = call.clone();
    if let Some(last) = call.params.as_array_mut().and_then(|all| all.last_mut()) {
        *last = json!(format!("{height:#x}"));
    }
    call
}

fn header(responses: &[Response], index: usize) -> Option<BlockRef> {
    let raw: &RawValue = responses.get(index)?.as_ref().ok()?;
    let header: Option<HeaderJson> = serde_json::from_str(raw.get()).ok()?;
    header.map(|header| header.block())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_a_call_that_names_its_block_by_hash_is_made_by_height() {
        let hash = B256::repeat_byte(7);
        let call = Call::new("eth_getBalance", json!(["0x1", {"blockHash": hash}]));
        assert_eq!(block_of(&call), Some(hash));
        assert_eq!(at_height(&call, 31).params, json!(["0x1", "0x1f"]));
        for params in [json!(["0x1", "0x5"]), json!([hash, false]), Value::Null] {
            assert_eq!(block_of(&Call::new("eth_getBalance", params)), None);
        }
    }
}
