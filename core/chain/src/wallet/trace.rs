//! Block traces: the accounts whose coins an inner call moved.
//!
//! A contract that forwards coins leaves no log and no transaction for the receiver, only a
//! frame in the trace of the call. Nodes serve traces in three ways:
//!
//! | method | nodes |
//! |---|---|
//! | `debug_traceBlockByHash` with `callTracer` | Geth, Reth, Besu, Anvil |
//! | `debug_traceBlockByNumber` with `callTracer` | the same, where only heights are accepted |
//! | `trace_block`, flat traces | OpenEthereum, Erigon, Nethermind |
//!
//! [`Tracer`] tries them in this order, and begins the next block with the one that worked. A
//! node may answer a call by height with another block, so each trace is checked against the
//! block's transactions.

use std::collections::{BTreeSet, HashSet};

use alloy::primitives::{Address, B256, U256};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{BlockData, BlockRef, Call, RpcClient, RpcError};

/// A method to request the trace of a block from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TraceMethod {
    ByHash,
    ByHeight,
    Flat,
}

const METHODS: [TraceMethod; 3] = [
    TraceMethod::ByHash,
    TraceMethod::ByHeight,
    TraceMethod::Flat,
];

/// Fetches traces, and remembers which method worked.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    /// An index into [`METHODS`].
    preferred: usize,
}

/// No node returned a trace by any method, for this reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoTraces(pub(super) String);

impl Tracer {
    /// The accounts whose coins an inner call of `block` moved.
    ///
    /// # Errors
    /// All methods are refused, or answered with traces of another block, or no node answers in
    /// time.
    pub(super) async fn coin_accounts<R: RpcClient>(
        &mut self,
        block: &BlockData,
        client: &R,
    ) -> Result<BTreeSet<Address>, NoTraces> {
        let mut reason = "the traces are of another block".to_owned();
        for offset in 0..METHODS.len() {
            let index = (self.preferred + offset) % METHODS.len();
            let method = METHODS[index];
            let responses = client.call_all(vec![method.call(&block.block)]).await;
            match responses.into_iter().next() {
                Some(Ok(trace)) => {
                    if let Some(accounts) = method.coin_accounts(&trace, block) {
                        self.preferred = index;
                        return Ok(accounts);
                    }
                }
                Some(Err(error @ (RpcError::Refused { .. } | RpcError::Unavailable { .. }))) => {
                    reason = error.to_string()
                }
                Some(Err(error @ RpcError::Unreachable { .. })) => {
                    return Err(NoTraces(error.to_string()));
                }
                None => {}
            }
        }
        self.preferred = 0;
        Err(NoTraces(reason))
    }
}

impl TraceMethod {
    fn call(self, block: &BlockRef) -> Call {
        let height = || format!("{:#x}", block.number);
        let (method, params) = match self {
            Self::ByHash => (
                "debug_traceBlockByHash",
                json!([block.hash, {"tracer": "callTracer"}]),
            ),
            Self::ByHeight => (
                "debug_traceBlockByNumber",
                json!([height(), {"tracer": "callTracer"}]),
            ),
            Self::Flat => ("trace_block", json!([height()])),
        };
        Call::new(method, params)
    }

    /// Reads a trace. `None` if it is not a trace of `block`.
    fn coin_accounts(self, trace: &Value, block: &BlockData) -> Option<BTreeSet<Address>> {
        match self {
            Self::ByHash | Self::ByHeight => call_trace::coin_accounts(trace, block),
            Self::Flat => flat_trace::coin_accounts(trace, block),
        }
    }
}

/// Traces of `callTracer`: a tree of frames for each transaction.
mod call_trace {
    use super::*;

    pub(super) fn coin_accounts(trace: &Value, block: &BlockData) -> Option<BTreeSet<Address>> {
        let traces = trace.as_array()?;
        if traces.len() != block.transactions.len() {
            return None;
        }
        let mut accounts = BTreeSet::new();
        for (trace, transaction) in traces.iter().zip(&block.transactions) {
            // Most nodes name the transaction.
            let hash = trace.get("txHash").and_then(Value::as_str);
            if hash.is_some_and(|hash| hash.parse() != Ok(*transaction.inner.tx_hash())) {
                return None;
            }
            // The top frame is the transaction itself, which the block already shows.
            let top = trace.get("result")?;
            let mut frames = vec![top];
            let mut is_top = true;
            while let Some(frame) = frames.pop() {
                // A frame that failed reverted every frame below it.
                if frame.get("error").is_some() {
                    is_top = false;
                    continue;
                }
                if !is_top && moves_coins(frame) {
                    let sides = ["from", "to"].into_iter();
                    accounts.extend(sides.filter_map(|side| account(frame, side)));
                }
                is_top = false;
                let calls = frame.get("calls").and_then(Value::as_array);
                frames.extend(calls.into_iter().flatten());
            }
        }
        Some(accounts)
    }

    fn moves_coins(frame: &Value) -> bool {
        let text = |field| frame.get(field).and_then(Value::as_str).unwrap_or_default();
        let value = text("value").strip_prefix("0x").unwrap_or_default();
        // Delegated and static calls repeat the value of their caller, and move none.
        matches!(text("type"), "CALL" | "CREATE" | "CREATE2" | "SELFDESTRUCT")
            && U256::from_str_radix(value, 16).is_ok_and(|value| !value.is_zero())
    }

    fn account(frame: &Value, side: &str) -> Option<Address> {
        frame.get(side)?.as_str()?.parse().ok()
    }
}

/// Traces of `trace_block`: one list of frames, each with its path in the call tree.
mod flat_trace {
    use super::*;

    /// The fields of a frame that are read.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Frame {
        action: Action,
        block_hash: B256,
        /// `None` for a block reward.
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
        /// A contract that destroys itself; `refund_address` receives its `balance`.
        address: Option<Address>,
        refund_address: Option<Address>,
        balance: Option<U256>,
    }

    /// The contract that a `create` frame made.
    #[derive(Deserialize)]
    struct CreateResult {
        address: Option<Address>,
    }

    pub(super) fn coin_accounts(trace: &Value, block: &BlockData) -> Option<BTreeSet<Address>> {
        let frames = Vec::<Frame>::deserialize(trace).ok()?;
        let hashes: HashSet<_> = block
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
        if traced != hashes {
            return None;
        }
        let mut accounts = BTreeSet::new();
        for frame in &frames {
            let (Some(hash), false) = (frame.transaction_hash, frame.trace_address.is_empty())
            else {
                continue;
            };
            // A frame that failed reverted itself and every frame below it.
            let is_effective = (0..=frame.trace_address.len())
                .all(|depth| !failed.contains(&(hash, &frame.trace_address[..depth])));
            if is_effective {
                accounts.extend(frame.coin_accounts().into_iter().flatten());
            }
        }
        Some(accounts)
    }

    impl Frame {
        /// The payer and the payee, if the frame moves coins.
        fn coin_accounts(&self) -> [Option<Address>; 2] {
            let action = &self.action;
            let is_paid = |amount: Option<U256>| amount.is_some_and(|amount| !amount.is_zero());
            match self.kind.as_str() {
                // Delegated and static calls repeat the value of their caller, and move none.
                "call" if action.call_type.as_deref() == Some("call") && is_paid(action.value) => {
                    [action.from, action.to]
                }
                "create" if is_paid(action.value) => {
                    let created = self.result.as_ref().and_then(|result| result.address);
                    [action.from, created]
                }
                "suicide" | "selfdestruct" if is_paid(action.balance) => {
                    [action.address, action.refund_address]
                }
                _ => [None, None],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use alloy::{primitives::B256, rpc::types::Transaction};

    use super::*;

    const HASH: B256 = B256::repeat_byte(7);

    /// A node that serves one method.
    struct Node {
        method: &'static str,
        response: Value,
        methods: Mutex<Vec<&'static str>>,
    }

    impl Node {
        fn with(method: &'static str, response: Value) -> Self {
            Self {
                method,
                response,
                methods: Mutex::default(),
            }
        }

        fn take_methods(&self) -> Vec<&'static str> {
            let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *methods)
        }
    }

    impl RpcClient for Node {
        async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
            let responses = calls.iter().map(|call| {
                let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
                methods.push(call.method);
                if call.method == self.method {
                    return Ok(self.response.clone());
                }
                Err(RpcError::Refused {
                    code: -32_601,
                    message: String::new(),
                    data: None,
                })
            });
            responses.collect()
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
            withdrawals: Vec::new(),
        }
    }

    fn frame(path: &[u64], kind: &str, action: &Value, more: &Value) -> Value {
        let mut frame = json!({
            "action": action, "blockHash": B256::repeat_byte(5), "blockNumber": 5, "type": kind,
            "transactionHash": HASH, "transactionPosition": 0, "subtraces": 0,
            "traceAddress": path, "result": {"gasUsed": "0x0", "output": "0x"},
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
        let created = json!({"result": {"address": account(61), "code": "0x", "gasUsed": "0x0"}});
        let creates = json!({"from": account(60), "value": "0x1", "init": "0x"});
        let destroyed =
            json!({"address": account(70), "refundAddress": account(71), "balance": "0x1"});
        let reward = json!({"author": account(80), "value": "0x1", "rewardType": "block"});
        json!([
            frame(&[], "call", &call("call", 1, "0x9"), none),
            frame(&[0], "call", &call("call", 10, "0x5"), none),
            frame(&[0, 0], "call", &call("delegatecall", 20, "0x5"), none),
            frame(&[1], "call", &call("call", 30, "0x5"), &failed),
            frame(&[1, 0], "call", &call("call", 40, "0x5"), none),
            frame(&[2], "call", &call("call", 50, "0x0"), none),
            frame(&[3], "create", &creates, &created),
            frame(&[4], "suicide", &destroyed, &json!({"result": null})),
            frame(&[], "reward", &reward, &json!({"transactionHash": null})),
        ])
    }

    #[tokio::test]
    async fn flat_traces_yield_the_accounts_of_effective_inner_calls() {
        let node = Node::with("trace_block", flat());
        let mut tracer = Tracer::default();
        let expected: BTreeSet<_> = [10, 11, 60, 61, 70, 71].map(account).into();
        assert_eq!(
            tracer.coin_accounts(&block(), &node).await,
            Ok(expected.clone())
        );
        let all = [
            "debug_traceBlockByHash",
            "debug_traceBlockByNumber",
            "trace_block",
        ];
        assert_eq!(node.take_methods(), all);
        // The next block begins with the method that worked.
        assert_eq!(tracer.coin_accounts(&block(), &node).await, Ok(expected));
        assert_eq!(node.take_methods(), ["trace_block"]);
    }

    #[tokio::test]
    async fn a_trace_of_another_block_is_refused() {
        let mut of_another = flat();
        of_another[3]["blockHash"] = json!(B256::repeat_byte(6));
        let mut of_others = flat();
        for frame in of_others.as_array_mut().unwrap() {
            frame["transactionHash"] = json!(B256::repeat_byte(8));
        }
        let named = json!([{"txHash": B256::repeat_byte(8), "result": call("CALL", 1, "0x1")}]);
        for (method, response) in [
            ("trace_block", of_another),
            ("trace_block", of_others),
            ("trace_block", json!([])),
            ("trace_block", json!({"no": "list"})),
            ("debug_traceBlockByNumber", json!([])),
            ("debug_traceBlockByNumber", named),
        ] {
            let node = Node::with(method, response.clone());
            let accounts = Tracer::default().coin_accounts(&block(), &node).await;
            assert!(accounts.is_err(), "{response}");
        }
    }

    #[tokio::test]
    async fn a_node_that_accepts_only_heights_is_asked_by_height() {
        let inner = json!({"type": "CALL", "from": account(3), "to": account(4), "value": "0x1"});
        let top = json!({"type": "CALL", "from": account(1), "to": account(2), "value": "0x1", "calls": [inner]});
        let response = json!([{"txHash": HASH, "result": top}]);
        let node = Node::with("debug_traceBlockByNumber", response);
        let expected = [3, 4].map(account).into();
        let mut tracer = Tracer::default();
        assert_eq!(tracer.coin_accounts(&block(), &node).await, Ok(expected));
    }

    #[test]
    fn call_traces_yield_the_accounts_of_effective_inner_calls() {
        let frame = |kind: &str, from: u8, value: &str, calls: Value| {
            json!({
                "type": kind, "value": value, "calls": calls,
                "from": account(from), "to": account(from + 1),
            })
        };
        let below_failed = frame("CALL", 40, "0x1", json!([]));
        let mut failed = frame("CALL", 30, "0x1", json!([below_failed]));
        failed["error"] = json!("execution reverted");
        let below_delegated = frame("CALL", 50, "0x1", json!([]));
        let inner = json!([
            frame("CALL", 10, "0x5", json!([])),
            frame("DELEGATECALL", 20, "0x5", json!([below_delegated])),
            failed,
            frame("CALL", 60, "0x0", json!([])),
        ]);
        let trace = json!([{"result": frame("CALL", 1, "0x9", inner)}]);
        let expected = [10, 11, 50, 51].map(account);
        let accounts = call_trace::coin_accounts(&trace, &block());
        assert_eq!(accounts, Some(expected.into()));
        assert_eq!(call_trace::coin_accounts(&json!([]), &block()), None);
    }
}
