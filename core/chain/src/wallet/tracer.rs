//! Asks for the trace of a block in whichever way a node has one.
//!
//! Ways are tried in their order, and the one that a node took is tried first from then on.
//! By its height a node may tell of another block than was meant: what it says is held
//! against the block's transactions.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use serde_json::{Value, json};

use super::{
    flat::{moved_flat, trace_flat},
    trace::{moved, trace_block},
};
use crate::{BlockData, BlockRef, Call, RpcClient, RpcError};

/// How nodes are asked for traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TraceMethod {
    /// Geth, Reth, Besu and Anvil.
    ByHash,
    /// The same, where only heights are taken.
    ByHeight,
    /// OpenEthereum, Erigon and Nethermind.
    Flat,
}

const TRACE_METHODS: [TraceMethod; 3] = [
    TraceMethod::ByHash,
    TraceMethod::ByHeight,
    TraceMethod::Flat,
];

/// Asks for traces, and remembers how.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    way: usize,
}

/// No node has traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoTraces;

impl Tracer {
    /// Everyone whose coins an inner call of a block moved; nobody where no node answers in
    /// time, or none that fits.
    ///
    /// # Errors
    /// All nodes refuse, in every way.
    pub(super) async fn moved<R: RpcClient>(
        &mut self,
        block: &BlockData,
        client: &R,
    ) -> Result<BTreeSet<Address>, NoTraces> {
        for turn in 0..TRACE_METHODS.len() {
            let place = (self.way + turn) % TRACE_METHODS.len();
            let way = TRACE_METHODS[place];
            let answers = client.call_all(vec![way.call(&block.block)]).await;
            match answers.into_iter().next() {
                Some(Ok(answer)) => {
                    if let Some(moved) = way.moved(&answer, block) {
                        self.way = place;
                        return Ok(moved);
                    }
                }
                Some(Err(RpcError::Refused { .. })) => {}
                Some(Err(RpcError::Unreachable { .. })) | None => return Ok(BTreeSet::new()),
            }
        }
        self.way = 0;
        Err(NoTraces)
    }
}

impl TraceMethod {
    fn call(self, block: &BlockRef) -> Call {
        match self {
            Self::ByHash => trace_block(block.hash),
            Self::ByHeight => Call {
                method: "debug_traceBlockByNumber",
                params: json!([format!("{:#x}", block.number), {"tracer": "callTracer"}]),
            },
            Self::Flat => trace_flat(block),
        }
    }

    fn moved(self, answer: &Value, block: &BlockData) -> Option<BTreeSet<Address>> {
        match self {
            Self::ByHash | Self::ByHeight => moved(answer, block),
            Self::Flat => moved_flat(answer, block),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use alloy::{primitives::B256, rpc::types::Transaction};

    use super::*;

    const HASH: B256 = B256::repeat_byte(7);

    /// A node that knows one way.
    struct Node {
        method: &'static str,
        answer: Value,
        asked: Mutex<Vec<&'static str>>,
    }

    impl Node {
        fn with(method: &'static str, answer: Value) -> Self {
            Self {
                method,
                answer,
                asked: Mutex::default(),
            }
        }

        fn asked(&self) -> Vec<&'static str> {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *asked)
        }
    }

    impl RpcClient for Node {
        async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
            let answers = calls.iter().map(|call| {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.push(call.method);
                if call.method == self.method {
                    return Ok(self.answer.clone());
                }
                Err(RpcError::Refused {
                    code: -32_601,
                    message: String::new(),
                    data: None,
                })
            });
            answers.collect()
        }
    }

    fn account(last: u8) -> Address {
        Address::with_last_byte(last)
    }

    fn block() -> BlockData {
        let transaction: Transaction = serde_json::from_value(json!({
            "type": "0x0", "nonce": "0x0", "gas": "0x0", "gasPrice": "0x0", "value": "0x0",
            "input": "0x", "r": "0x1", "s": "0x1", "v": "0x1b", "to": null,
            "hash": HASH, "from": Address::ZERO,
        }))
        .unwrap();
        BlockData {
            block: BlockRef {
                number: 5,
                hash: B256::repeat_byte(5),
                parent: B256::ZERO,
            },
            timestamp: 0,
            base_fee: None,
            bloom: Default::default(),
            transactions: vec![transaction],
            logs: Vec::new(),
            receipts: Vec::new(),
        }
    }

    fn frame(place: &[u64], kind: &str, action: &Value, more: &Value) -> Value {
        let mut frame = json!({
            "action": action, "blockHash": B256::repeat_byte(5), "blockNumber": 5, "type": kind,
            "transactionHash": HASH, "transactionPosition": 0, "subtraces": 0,
            "traceAddress": place, "result": {"gasUsed": "0x0", "output": "0x"},
        });
        for (name, value) in more.as_object().unwrap() {
            frame[name] = value.clone();
        }
        frame
    }

    fn call(kind: &str, from: u8, value: &str) -> Value {
        json!({
            "callType": kind, "from": account(from), "to": account(from + 1), "gas": "0x0",
            "input": "0x", "value": value,
        })
    }

    fn flat() -> Value {
        let none = &json!({});
        let failed = json!({"error": "Reverted", "result": null});
        let made = json!({"result": {"address": account(61), "code": "0x", "gasUsed": "0x0"}});
        let makes = json!({"from": account(60), "value": "0x1", "init": "0x"});
        let ended = json!({"address": account(70), "refundAddress": account(71), "balance": "0x1"});
        let reward = json!({"author": account(80), "value": "0x1", "rewardType": "block"});
        json!([
            frame(&[], "call", &call("call", 1, "0x9"), none),
            frame(&[0], "call", &call("call", 10, "0x5"), none),
            frame(&[0, 0], "call", &call("delegatecall", 20, "0x5"), none),
            frame(&[1], "call", &call("call", 30, "0x5"), &failed),
            frame(&[1, 0], "call", &call("call", 40, "0x5"), none),
            frame(&[2], "call", &call("call", 50, "0x0"), none),
            frame(&[3], "create", &makes, &made),
            frame(&[4], "suicide", &ended, &json!({"result": null})),
            frame(&[], "reward", &reward, &json!({"transactionHash": null})),
        ])
    }

    #[tokio::test]
    async fn of_flat_traces_only_what_stayed_moved() {
        let node = Node::with("trace_block", flat());
        let mut tracer = Tracer::default();
        let expected: BTreeSet<_> = [10, 11, 60, 61, 70, 71].map(account).into();
        assert_eq!(tracer.moved(&block(), &node).await, Ok(expected.clone()));
        let all = [
            "debug_traceBlockByHash",
            "debug_traceBlockByNumber",
            "trace_block",
        ];
        assert_eq!(node.asked(), all);
        // The next block is asked for in the way that worked.
        assert_eq!(tracer.moved(&block(), &node).await, Ok(expected));
        assert_eq!(node.asked(), ["trace_block"]);
    }

    #[tokio::test]
    async fn a_trace_of_another_block_is_none() {
        let mut of_another = flat();
        of_another[3]["blockHash"] = json!(B256::repeat_byte(6));
        let mut of_others = flat();
        for frame in of_others.as_array_mut().unwrap() {
            frame["transactionHash"] = json!(B256::repeat_byte(8));
        }
        let named = json!([{"txHash": B256::repeat_byte(8), "result": call("CALL", 1, "0x1")}]);
        for (method, answer) in [
            ("trace_block", of_another),
            ("trace_block", of_others),
            ("trace_block", json!([])),
            ("trace_block", json!({"no": "list"})),
            ("debug_traceBlockByNumber", json!([])),
            ("debug_traceBlockByNumber", named),
        ] {
            let node = Node::with(method, answer.clone());
            let moved = Tracer::default().moved(&block(), &node).await;
            assert_eq!(moved, Err(NoTraces), "{answer}");
        }
    }

    #[tokio::test]
    async fn where_only_heights_are_taken_they_are_given() {
        let inner = json!({"type": "CALL", "from": account(3), "to": account(4), "value": "0x1"});
        let top = json!({"type": "CALL", "from": account(1), "to": account(2), "value": "0x1", "calls": [inner]});
        let answer = json!([{"txHash": HASH, "result": top}]);
        let node = Node::with("debug_traceBlockByNumber", answer);
        let expected = [3, 4].map(account).into();
        let mut tracer = Tracer::default();
        assert_eq!(tracer.moved(&block(), &node).await, Ok(expected));
    }
}
