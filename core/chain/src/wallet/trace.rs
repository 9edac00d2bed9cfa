//! Transfers of the chain's own coin inside of transactions, out of `callTracer` traces.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, U256};
use serde_json::{Value, json};

use crate::{BlockData, Call};

pub(super) fn trace_block(hash: B256) -> Call {
    Call {
        method: "debug_traceBlockByHash",
        params: json!([hash, {"tracer": "callTracer"}]),
    }
}

/// Everyone whose coins an inner call moved. None if the answer is not a trace of `block`.
pub(super) fn moved(answer: &Value, block: &BlockData) -> Option<BTreeSet<Address>> {
    let traces = answer.as_array()?;
    if traces.len() != block.transactions.len() {
        return None;
    }
    let mut wallets = BTreeSet::new();
    for (trace, transaction) in traces.iter().zip(&block.transactions) {
        // Said by most nodes: by its height another block may be told.
        let told = trace.get("txHash").and_then(Value::as_str);
        if told.is_some_and(|told| told.parse() != Ok(*transaction.inner.tx_hash())) {
            return None;
        }
        // A frame that failed took all below it back. The top one is the transaction.
        let top = trace.get("result")?;
        let mut frames = vec![top];
        let mut is_top = true;
        while let Some(frame) = frames.pop() {
            if frame.get("error").is_some() {
                is_top = false;
                continue;
            }
            if !is_top && moves_coins(frame) {
                wallets.extend(
                    ["from", "to"]
                        .into_iter()
                        .filter_map(|side| party(frame, side)),
                );
            }
            is_top = false;
            frames.extend(
                frame
                    .get("calls")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten(),
            );
        }
    }
    Some(wallets)
}

/// Delegated and static calls carry the value of their caller, or none.
fn moves_coins(frame: &Value) -> bool {
    let kind = frame
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let value = frame
        .get("value")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let value = value.strip_prefix("0x").unwrap_or_default();
    matches!(kind, "CALL" | "CREATE" | "CREATE2" | "SELFDESTRUCT")
        && U256::from_str_radix(value, 16).is_ok_and(|value| !value.is_zero())
}

fn party(frame: &Value, side: &str) -> Option<Address> {
    frame.get(side)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stayed_moved() {
        let frame = |kind: &str, last: u8, value: &str, calls: Value| {
            json!({
                "type": kind, "value": value, "calls": calls,
                "from": Address::with_last_byte(last), "to": Address::with_last_byte(last + 1),
            })
        };
        let mut failed = frame(
            "CALL",
            30,
            "0x1",
            json!([frame("CALL", 40, "0x1", json!([]))]),
        );
        failed["error"] = json!("execution reverted");
        let inner = json!([
            frame("CALL", 10, "0x5", json!([])),
            frame(
                "DELEGATECALL",
                20,
                "0x5",
                json!([frame("CALL", 50, "0x1", json!([]))])
            ),
            failed,
            frame("CALL", 60, "0x0", json!([])),
        ]);
        let trace = json!([{"result": frame("CALL", 1, "0x9", inner)}]);
        let transactions = serde_json::from_value(json!([{
            "type": "0x0", "nonce": "0x0", "gas": "0x0", "gasPrice": "0x0", "value": "0x0",
            "input": "0x", "r": "0x1", "s": "0x1", "v": "0x1b", "to": null,
            "hash": B256::ZERO, "from": Address::ZERO,
        }]))
        .unwrap();
        let block = BlockData {
            block: crate::BlockRef {
                number: 1,
                hash: B256::ZERO,
                parent: B256::ZERO,
            },
            timestamp: 0,
            base_fee: None,
            bloom: Default::default(),
            transactions,
            logs: Vec::new(),
            receipts: Vec::new(),
        };
        let expected = [10, 11, 50, 51].map(Address::with_last_byte);
        assert_eq!(moved(&trace, &block), Some(expected.into()));
        assert_eq!(moved(&json!([]), &block), None);
    }
}
