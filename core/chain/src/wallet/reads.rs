//! Reads of a node, many in a call.

use serde_json::Value;

use super::calls::{TOGETHER, View, aggregate, aggregated, returned};
use crate::{BlockRef, Call, RpcClient, RpcError};

pub(super) type Answer = Result<Value, RpcError>;

pub(super) async fn read<R: RpcClient>(client: &R, calls: Vec<Call>) -> Vec<Answer> {
    if calls.is_empty() {
        return Vec::new();
    }
    client.call_all(calls).await
}

pub(super) fn is_unreachable(answer: &Answer) -> bool {
    matches!(answer, Err(RpcError::Unreachable { .. }))
}

/// Makes calls of contracts, through Multicall3 where it is deployed. None if no node
/// answered.
pub(super) async fn view_all<R: RpcClient>(
    client: &R,
    views: &[View],
    block: &BlockRef,
) -> Option<Vec<Option<Vec<u8>>>> {
    let chunks: Vec<_> = views.chunks(TOGETHER).collect();
    let calls = chunks.iter().map(|chunk| aggregate(chunk, block)).collect();
    let answers = read(client, calls).await;
    let mut results = Vec::with_capacity(views.len());
    for (chunk, answer) in chunks.into_iter().zip(answers) {
        let together = answer
            .as_ref()
            .ok()
            .and_then(|answer| aggregated(answer, chunk.len()));
        if let Some(together) = together {
            results.extend(together);
            continue;
        }
        let calls = chunk.iter().map(|view| view.call(block)).collect();
        let alone = read(client, calls).await;
        if alone.iter().all(is_unreachable) {
            return None;
        }
        results.extend(
            alone
                .iter()
                .map(|answer| answer.as_ref().ok().and_then(returned)),
        );
    }
    Some(results)
}
