//! Transfers of the chain's own coin inside of transactions, out of flat traces: those of
//! `trace_block`, which Erigon, Nethermind and others have instead of `callTracer`.

use std::collections::{BTreeSet, HashSet};

use alloy::primitives::{Address, B256, U256};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{BlockData, BlockRef, Call};

/// It takes a height alone, so the answer says of which block it is.
pub(super) fn trace_flat(block: &BlockRef) -> Call {
    Call {
        method: "trace_block",
        params: json!([format!("{:#x}", block.number)]),
    }
}

/// One frame. What is not looked at is left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frame {
    action: Action,
    block_hash: B256,
    /// None for what a block gives its miner.
    transaction_hash: Option<B256>,
    error: Option<Value>,
    #[serde(default)]
    trace_address: Vec<u64>,
    result: Option<CreateResult>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    call_type: Option<String>,
    from: Option<Address>,
    to: Option<Address>,
    value: Option<U256>,
    /// Of a contract that ends, whom it pays, and how much.
    address: Option<Address>,
    refund_address: Option<Address>,
    balance: Option<U256>,
}

/// What a frame made, if it made a contract.
#[derive(Deserialize)]
struct CreateResult {
    address: Option<Address>,
}

/// Everyone whose coins an inner call moved. None if the answer is not a trace of `block`.
pub(super) fn moved_flat(answer: &Value, block: &BlockData) -> Option<BTreeSet<Address>> {
    let frames: Vec<Frame> = serde_json::from_value(answer.clone()).ok()?;
    let ours: HashSet<B256> = block
        .transactions
        .iter()
        .map(|transaction| *transaction.inner.tx_hash())
        .collect();
    let mut traced = HashSet::new();
    let mut failed: HashSet<(B256, &[u64])> = HashSet::new();
    for frame in &frames {
        if frame.block_hash != block.block.hash {
            return None;
        }
        let Some(hash) = frame.transaction_hash else {
            continue;
        };
        traced.insert(hash);
        if frame.error.is_some() {
            failed.insert((hash, &frame.trace_address));
        }
    }
    if traced != ours {
        return None;
    }
    let mut wallets = BTreeSet::new();
    for frame in &frames {
        let (Some(hash), false) = (frame.transaction_hash, frame.trace_address.is_empty()) else {
            continue;
        };
        // A frame that failed took itself and all below it back.
        let stayed = (0..=frame.trace_address.len())
            .all(|depth| !failed.contains(&(hash, &frame.trace_address[..depth])));
        if stayed {
            wallets.extend(frame.parties().into_iter().flatten());
        }
    }
    Some(wallets)
}

impl Frame {
    /// Who paid, and who was paid, if anyone was.
    fn parties(&self) -> [Option<Address>; 2] {
        let action = &self.action;
        let pays = |amount: Option<U256>| amount.is_some_and(|amount| !amount.is_zero());
        match self.kind.as_str() {
            // Delegated and static calls carry the value of their caller, or none.
            "call" if action.call_type.as_deref() == Some("call") && pays(action.value) => {
                [action.from, action.to]
            }
            "create" if pays(action.value) => {
                let made = self.result.as_ref().and_then(|made| made.address);
                [action.from, made]
            }
            "suicide" | "selfdestruct" if pays(action.balance) => {
                [action.address, action.refund_address]
            }
            _ => [None, None],
        }
    }
}
