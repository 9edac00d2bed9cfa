//! What answers of a node mean.
//!
//! An endpoint may lag, or answer for another transaction; so an answer is believed only
//! where it fits the chain that the steps tell, and an answer that is missing says nothing.

use alloy::primitives::B256;
use serde_json::Value;
use tidewire_proto::v1::TransactionState;

use super::{
    NodeRequest,
    requests::{NodeTransaction, bytes, gas_limit, number, quantity, word},
    tracker::{TrackerOutput, TransactionTracker},
    watch::{BlockNumHash, Phase},
};
use crate::RpcError;

type Answer = Result<Value, RpcError>;

impl TransactionTracker {
    /// Takes the answers to the calls of `ask`, in their order.
    pub fn answered(&mut self, ask: NodeRequest, answers: &[Answer], now_ms: i64) -> TrackerOutput {
        let mut output = TrackerOutput::default();
        match ask {
            NodeRequest::Transaction(hash) => {
                if let Some(Ok(answer)) = answers.first() {
                    self.looked(hash, answer, now_ms, &mut output);
                } else {
                    self.tell_unknown_once(hash, now_ms, &mut output);
                }
            }
            NodeRequest::Receipt { hash, at, call } => {
                if let Some(Ok(receipt)) = answers.first() {
                    self.receipt(hash, at, call, receipt, now_ms, &mut output);
                }
            }
            NodeRequest::Reason {
                hash,
                at,
                call,
                gas,
            } => {
                let reason = self.reason(&hash, &call, gas.0, answers);
                self.settle(hash, at, Some(reason), gas, now_ms, &mut output);
            }
            NodeRequest::Nonce { hash, .. } => self.nonce(hash, answers, now_ms, &mut output),
        }
        output
    }

    /// A node says where a transaction is.
    fn looked(&mut self, hash: B256, answer: &Value, now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        if answer.is_null() {
            return self.missing(hash, now_ms, output);
        }
        let Some(seen) = NodeTransaction::parse(hash, answer) else {
            return;
        };
        watch.misses = 0;
        self.set_account(hash, seen.account);
        let in_chain = seen.at.filter(|at| self.is_canonical(*at));
        let phase = self.watches.get(&hash).map(|watch| watch.phase.clone());
        match (phase, in_chain) {
            (Some(Phase::Unknown | Phase::Pending { .. }), Some(at)) => {
                self.enter(hash, Phase::Included { at, outcome: None }, now_ms);
                let call = seen.call;
                output
                    .requests
                    .push(NodeRequest::Receipt { hash, at, call });
            }
            (Some(Phase::Included { at, outcome: None }), Some(seen_at)) => {
                if at == seen_at {
                    let call = seen.call;
                    output
                        .requests
                        .push(NodeRequest::Receipt { hash, at, call });
                } else {
                    // Stored before a reorg that no step told.
                    self.enter(hash, Phase::Pending { reorged: true }, now_ms);
                    self.schedule(hash, now_ms);
                    self.tell(hash, now_ms, output);
                }
            }
            (Some(Phase::Unknown), None) => {
                self.enter(hash, Phase::Pending { reorged: false }, now_ms);
                let pause = self.options.check_pause().min(10_000);
                self.schedule(hash, now_ms + pause);
                self.tell(hash, now_ms, output);
            }
            _ => {}
        }
    }

    /// A node does not know a transaction.
    fn missing(&mut self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        let pause = self.options.check_pause();
        let head = self.head;
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        match watch.phase {
            Phase::Unknown => self.tell_unknown_once(hash, now_ms, output),
            Phase::Pending { .. } => {
                let Some((from, _)) = watch.account else {
                    return;
                };
                if watch.misses == 0 {
                    watch.first_miss = now_ms;
                }
                watch.misses = watch.misses.saturating_add(1);
                output
                    .requests
                    .push(NodeRequest::Nonce { hash, from, head });
                self.schedule(hash, now_ms + pause);
            }
            // The steps know better than an endpoint that lags.
            Phase::Included { .. } | Phase::Superseded { .. } => {}
        }
    }

    /// A watch begins with what is known; for a hash that is not, that is said once.
    fn tell_unknown_once(&mut self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        if watch.phase == Phase::Unknown && watch.misses == 0 {
            watch.misses = 1;
            self.tell(hash, now_ms, output);
        }
    }

    fn receipt(
        &mut self,
        hash: B256,
        at: BlockNumHash,
        call: Box<Value>,
        receipt: &Value,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        // Another transaction's receipt, or one of another branch: asked again next time.
        if word(receipt, "transactionHash") != Some(hash)
            || word(receipt, "blockHash") != Some(at.hash)
        {
            return;
        }
        let price = receipt.get("effectiveGasPrice").and_then(quantity);
        let price = price.and_then(|price| price.try_into().ok()).unwrap_or(0);
        let gas = (number(receipt, "gasUsed").unwrap_or(0), price);
        match number(receipt, "status") {
            Some(0) => output.requests.push(NodeRequest::Reason {
                hash,
                at,
                call,
                gas,
            }),
            // Before Byzantium receipts have no status; nothing says that it failed.
            Some(_) | None => self.settle(hash, at, None, gas, now_ms, output),
        }
    }

    /// Why a transaction failed: what the trace shows, else what the call says now.
    fn reason(&self, hash: &B256, call: &Value, gas_used: u64, answers: &[Answer]) -> String {
        let (trace, calls) = match answers {
            [trace, calls @ ..] => (trace.as_ref().ok(), calls),
            [] => (None, &[][..]),
        };
        let traced = trace.and_then(|trace| {
            let error = trace.get("error")?.as_str()?;
            let output = trace.get("output").and_then(bytes).unwrap_or_default();
            Some(match output.as_slice() {
                [] if error != "execution reverted" => error.to_owned(),
                data => self.explain(hash, data),
            })
        });
        let called = || {
            calls.iter().find_map(|answer| match answer {
                Err(RpcError::Refused {
                    message,
                    data: Some(data),
                    ..
                }) => {
                    // Some nodes wrap the data.
                    let data = data.get("data").unwrap_or(data);
                    Some(
                        bytes(data)
                            .map_or_else(|| message.clone(), |data| self.explain(hash, &data)),
                    )
                }
                Err(RpcError::Refused {
                    code: 3, message, ..
                }) => Some(message.clone()),
                _ => None,
            })
        };
        let out_of_gas = || {
            let all = gas_limit(call).is_some_and(|limit| limit == gas_used);
            all.then(|| "out of gas".to_owned())
        };
        traced
            .or_else(out_of_gas)
            .or_else(called)
            .unwrap_or_else(|| "reverted, and no node says why".to_owned())
    }

    /// Whether the nonce of a missing transaction is used, taken or free.
    fn nonce(&mut self, hash: B256, answers: &[Answer], now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return;
        };
        let count = |place: usize| {
            let answer = answers.get(place)?.as_ref().ok()?;
            u64::try_from(quantity(answer)?).ok()
        };
        let (Some(used), Some(taken), Some((_, nonce))) = (count(0), count(1), watch.account)
        else {
            return;
        };
        let was_reorged = match watch.phase {
            Phase::Pending { reorged } => reorged,
            _ => return,
        };
        let is_long_enough = watch.misses >= self.options.drop_checks
            && now_ms - watch.first_miss >= self.options.drop_after;
        if !is_long_enough {
            return;
        }
        let (state, reason) = if used > nonce {
            let reason = "another transaction with its nonce is in the chain";
            (TransactionState::Replaced, reason)
        } else if taken > nonce {
            // Whatever took the nonce is in the pool: the block that has it will say more.
            return;
        } else if was_reorged {
            let reason = "a reorg took its block back, and no node keeps it in its pool";
            (TransactionState::Dropped, reason)
        } else {
            let reason = "no node keeps it in its pool, and its nonce is free";
            (TransactionState::Dropped, reason)
        };
        let Some(watch) = self.watches.get(&hash) else {
            return;
        };
        let mut status = self.describe(&hash, watch, now_ms);
        status.set_state(state);
        status.reorged = None;
        status.reason = Some(reason.to_owned());
        self.end(hash, status.clone());
        output.states.push(status);
    }
}
