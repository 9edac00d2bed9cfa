//! Responses: effects of node responses on a watch, and the reason of a failed transaction.
//!
//! A node may lag behind the chain, or answer for another transaction. A response is therefore
//! believed only where it fits the chain that the updates show. At a height that they do not show,
//! the block must first be proved to be canonical. A missing response proves nothing.

use alloy::primitives::B256;
use serde_json::Value;
use tidewire_proto::v1::TransactionState;

use super::{
    NodeRequest, TrackerOutput, TransactionTracker,
    canonical::Membership,
    requests::{NodeTransaction, bytes, gas_limit, number, quantity},
    watch::{BlockNumHash, Phase},
};
use crate::{
    ReceiptId, RpcError,
    decode::{CustomErrors, revert_reason},
    receipt::outcome,
};

/// Error signatures of one transaction at most. Beyond, the oldest are dropped.
const MAX_SIGNATURES: usize = 50;

/// The start of a reason that no signature explains.
const UNKNOWN_ERROR: &str = "custom error 0x";

/// The longest time until the second check of a transaction that turned out pending, in
/// milliseconds.
const PENDING_CHECK_MS: i64 = 10_000;

type Response = Result<Value, RpcError>;

impl TransactionTracker {
    /// Applies the responses to the calls of `request`, in their order.
    pub fn apply_responses(
        &mut self,
        request: NodeRequest,
        responses: &[Response],
        now_ms: i64,
    ) -> TrackerOutput {
        let mut output = TrackerOutput::default();
        match request {
            NodeRequest::Transaction(hash) => {
                if let Some(Ok(response)) = responses.first() {
                    self.apply_transaction(hash, response, now_ms, &mut output);
                } else {
                    self.publish_unknown_once(hash, now_ms, &mut output);
                }
            }
            NodeRequest::Receipt {
                hash,
                at,
                index,
                call,
            } => {
                let id = ReceiptId {
                    transaction: hash,
                    block: at.hash,
                    index,
                };
                // Another receipt proves nothing. The next tick asks again.
                if let Some(Ok(receipt)) = responses.first()
                    && id.matches(receipt)
                {
                    self.apply_receipt(hash, at, call, receipt, now_ms, &mut output);
                }
            }
            NodeRequest::Inclusion {
                hash,
                at,
                anchor,
                call,
            } => {
                let id = ReceiptId {
                    transaction: hash,
                    block: at.hash,
                    index: None,
                };
                let receipt = responses
                    .first()
                    .and_then(|response| response.as_ref().ok());
                let receipt = receipt.filter(|receipt| id.matches(receipt));
                // A resync meanwhile leaves nothing to which the proof links.
                let is_linked = |anchor| self.chain.membership(anchor) == Membership::Canonical;
                match receipt.filter(|_| anchor.is_none_or(is_linked)) {
                    Some(receipt) => {
                        self.apply_inclusion(hash, at, call, receipt, now_ms, &mut output);
                    }
                    None => self.reject_inclusion(hash, responses.first(), now_ms, &mut output),
                }
            }
            NodeRequest::Reason {
                hash,
                at,
                call,
                gas,
            } => {
                let reason = self.failure_reason(&hash, &call, gas.0, responses);
                self.settle(hash, at, Some(reason), gas, now_ms, &mut output);
            }
            NodeRequest::Nonce { hash, .. } => {
                self.apply_nonce(hash, responses, now_ms, &mut output);
            }
        }
        output
    }

    /// Adds error signatures to a watched transaction. If it failed and no signature explained
    /// it, the reason is requested again.
    pub fn add_error_signatures(&mut self, hash: B256, abi: &[String]) -> Vec<NodeRequest> {
        let Some(watch) = self.table.get_mut(&hash) else {
            return Vec::new();
        };
        let mut all: Vec<_> = watch.abi.to_vec();
        all.retain(|known| !abi.contains(known));
        all.extend(abi.iter().cloned());
        all.drain(..all.len().saturating_sub(MAX_SIGNATURES));
        if *watch.abi == *all {
            return Vec::new();
        }
        watch.abi = all.into();
        let (phase, since) = (watch.phase.clone(), watch.since);
        self.table.mark_changed(hash);
        let Phase::Included {
            at,
            outcome: Some(outcome),
        } = phase
        else {
            return Vec::new();
        };
        let is_unexplained = outcome
            .failure
            .is_some_and(|reason| reason.starts_with(UNKNOWN_ERROR));
        if !is_unexplained {
            return Vec::new();
        }
        let phase = Phase::Included { at, outcome: None };
        self.table.set_phase(hash, phase, since);
        vec![NodeRequest::Transaction(hash)]
    }

    /// Applies a node's answer to where a transaction is.
    fn apply_transaction(
        &mut self,
        hash: B256,
        response: &Value,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        if !self.table.contains(&hash) {
            return;
        }
        if response.is_null() {
            return self.apply_missing(hash, now_ms, output);
        }
        let Some(found) = NodeTransaction::parse(hash, response) else {
            return;
        };
        self.table.set_account(hash, found.account);
        self.set_transfer(&hash, &found.call);
        let membership = found.at.map(|at| (at, self.chain.membership(at)));
        let canonical = membership.and_then(|(at, membership)| {
            let is_canonical = membership == Membership::Canonical;
            is_canonical.then_some(at)
        });
        let anchor = self.chain.oldest();
        let Some(watch) = self.table.get_mut(&hash) else {
            return;
        };
        watch.misses = 0;
        let (index, call) = (found.index, found.call);
        let is_open = watch.phase.block().is_none() || watch.phase.is_unsettled();
        if let Some((at, Membership::Unknown)) = membership {
            if is_open {
                output.requests.push(NodeRequest::Inclusion {
                    hash,
                    at,
                    anchor,
                    call,
                });
            }
            return;
        }
        match (watch.phase.clone(), canonical) {
            (Phase::Unknown | Phase::Pending { .. }, Some(at)) => {
                let phase = Phase::Included { at, outcome: None };
                self.table.set_phase(hash, phase, now_ms);
                output.requests.push(NodeRequest::Receipt {
                    hash,
                    at,
                    index,
                    call,
                });
            }
            (Phase::Included { at, outcome: None }, Some(found_at)) if at == found_at => {
                output.requests.push(NodeRequest::Receipt {
                    hash,
                    at,
                    index,
                    call,
                });
            }
            (Phase::Included { outcome: None, .. }, Some(_)) => {
                // The watch was stored before a reorg that no update showed.
                let phase = Phase::Pending { reorged: true };
                self.table.set_phase(hash, phase, now_ms);
                self.table.schedule(hash, now_ms);
                self.publish(hash, now_ms, output);
            }
            (Phase::Unknown, None) => {
                let phase = Phase::Pending { reorged: false };
                self.table.set_phase(hash, phase, now_ms);
                let interval = self.options.check_interval().min(PENDING_CHECK_MS);
                self.table.schedule(hash, now_ms + interval);
                self.publish(hash, now_ms, output);
            }
            _ => {}
        }
    }

    /// Applies a receipt from a block that is proved to be canonical.
    fn apply_inclusion(
        &mut self,
        hash: B256,
        at: BlockNumHash,
        call: Box<Value>,
        receipt: &Value,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let Some(watch) = self.table.get(&hash) else {
            return;
        };
        let is_open = watch.phase.block().is_none() || watch.phase.is_unsettled();
        if !is_open || self.chain.membership(at) == Membership::Other {
            return;
        }
        if watch.phase.block() != Some(at) {
            let phase = Phase::Included { at, outcome: None };
            self.table.set_phase(hash, phase, now_ms);
        }
        self.apply_receipt(hash, at, call, receipt, now_ms, output);
    }

    /// Applies that a node's word about the block of a transaction could not be proved. The
    /// transaction exists, and counts as pending until a later check. If no node answered, a
    /// stored block stays.
    fn reject_inclusion(
        &mut self,
        hash: B256,
        response: Option<&Response>,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let Some(watch) = self.table.get(&hash) else {
            return;
        };
        let is_answered = response.is_some_and(Result::is_ok);
        let is_refuted = is_answered && watch.phase.is_unsettled();
        if watch.phase != Phase::Unknown && !is_refuted {
            return;
        }
        let phase = Phase::Pending { reorged: false };
        self.table.set_phase(hash, phase, now_ms);
        let interval = self.options.check_interval().min(PENDING_CHECK_MS);
        self.table.schedule(hash, now_ms + interval);
        self.publish(hash, now_ms, output);
    }

    /// Counts a check that missed a transaction, and requests the state of its nonce.
    fn apply_missing(&mut self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.table.get_mut(&hash) else {
            return;
        };
        let was_unanswered = !watch.is_missed && watch.misses > 0;
        watch.is_missed = true;
        match watch.phase {
            // That no node answers was published, and is over.
            Phase::Unknown if was_unanswered => self.publish(hash, now_ms, output),
            Phase::Unknown => self.publish_unknown_once(hash, now_ms, output),
            Phase::Pending { .. } => {
                let Some((from, _)) = watch.account else {
                    return;
                };
                if watch.misses == 0 {
                    watch.first_miss = now_ms;
                }
                watch.misses = watch.misses.saturating_add(1);
                let head = self.chain.head();
                output
                    .requests
                    .push(NodeRequest::Nonce { hash, from, head });
                let interval = self.options.check_interval();
                self.table.schedule(hash, now_ms + interval);
            }
            // The updates know better than a node that lags.
            Phase::Included { .. } | Phase::Superseded { .. } => {}
        }
    }

    /// Publishes that a hash is unknown, once: a watch begins with a status.
    fn publish_unknown_once(&mut self, hash: B256, now_ms: i64, output: &mut TrackerOutput) {
        let Some(watch) = self.table.get_mut(&hash) else {
            return;
        };
        if watch.phase == Phase::Unknown && watch.misses == 0 {
            watch.misses = 1;
            self.publish(hash, now_ms, output);
        }
    }

    fn apply_receipt(
        &mut self,
        hash: B256,
        at: BlockNumHash,
        call: Box<Value>,
        receipt: &Value,
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let price = receipt.get("effectiveGasPrice").and_then(quantity);
        let price = price.and_then(|price| price.try_into().ok()).unwrap_or(0);
        let gas = (number(receipt, "gasUsed").unwrap_or(0), price);
        match outcome(receipt) {
            Some(false) => output.requests.push(NodeRequest::Reason {
                hash,
                at,
                call,
                gas,
            }),
            Some(true) => self.settle(hash, at, None, gas, now_ms, output),
            // The next tick asks again.
            None => {}
        }
    }

    /// Judges whether the nonce of a missing transaction is used, pending or free.
    fn apply_nonce(
        &mut self,
        hash: B256,
        responses: &[Response],
        now_ms: i64,
        output: &mut TrackerOutput,
    ) {
        let Some(watch) = self.table.get(&hash) else {
            return;
        };
        let count = |index: usize| {
            let response = responses.get(index)?.as_ref().ok()?;
            u64::try_from(quantity(response)?).ok()
        };
        let (Some(used), Some(taken), Some((_, nonce))) = (count(0), count(1), watch.account)
        else {
            return;
        };
        let Phase::Pending { reorged } = watch.phase else {
            return;
        };
        let is_missing_long = watch.misses >= self.options.drop_checks
            && now_ms - watch.first_miss >= self.options.drop_after;
        if !is_missing_long {
            return;
        }
        let (state, reason) = if used > nonce {
            let reason = "another transaction with its nonce is in the chain";
            (TransactionState::Replaced, reason)
        } else if taken > nonce {
            // A pending transaction took the nonce. Its block will name it.
            return;
        } else if reorged {
            let reason = "a reorg took its block back, and no node keeps it in its pool";
            (TransactionState::Dropped, reason)
        } else {
            let reason = "no node keeps it in its pool, and its nonce is free";
            (TransactionState::Dropped, reason)
        };
        let mut status = self.describe(&hash, watch, now_ms);
        status.set_state(state);
        status.reorged = None;
        status.reason = Some(reason.to_owned());
        self.end_provisionally(hash, status, output);
    }

    /// Reason of a failed transaction: from its trace, its gas, or else its call repeated now.
    fn failure_reason(
        &self,
        hash: &B256,
        call: &Value,
        gas_used: u64,
        responses: &[Response],
    ) -> String {
        let (trace, calls) = match responses {
            [trace, calls @ ..] => (trace.as_ref().ok(), calls),
            [] => (None, &[][..]),
        };
        let by_trace = trace.and_then(|trace| {
            let error = trace.get("error")?.as_str()?;
            let output = trace.get("output").and_then(bytes).unwrap_or_default();
            Some(match output.as_slice() {
                [] if error != "execution reverted" => error.to_owned(),
                data => self.explain(hash, data),
            })
        });
        let by_gas = || {
            let is_all = gas_limit(call).is_some_and(|limit| limit == gas_used);
            is_all.then(|| "out of gas".to_owned())
        };
        let by_call = || {
            calls
                .iter()
                .find_map(|response| self.refusal(hash, response))
        };
        by_trace
            .or_else(by_gas)
            .or_else(by_call)
            .unwrap_or_else(|| "reverted, and no node returned a reason".to_owned())
    }

    /// The reason in a node's refusal of a call.
    fn refusal(&self, hash: &B256, response: &Response) -> Option<String> {
        match response {
            Err(RpcError::Refused {
                message,
                data: Some(data),
                ..
            }) => {
                // Some nodes wrap the data of the revert in an object.
                let data = data.get("data").unwrap_or(data);
                let explained = bytes(data).map(|data| self.explain(hash, &data));
                Some(explained.unwrap_or_else(|| message.clone()))
            }
            Err(RpcError::Refused {
                code: 3, message, ..
            }) => Some(message.clone()),
            _ => None,
        }
    }

    /// Explains the data of a revert: by the watchers' signatures, then by the operator's.
    fn explain(&self, hash: &B256, data: &[u8]) -> String {
        let abi = self.table.get(hash).map(|watch| &watch.abi);
        let mut own = CustomErrors::default();
        for signature in abi.into_iter().flatten() {
            if let Err(error) = own.add(signature) {
                // The engine checks signatures before the tracker receives them.
                tracing::debug!(%error, "an error signature is refused");
            }
        }
        let reason = revert_reason(data, &own);
        if reason.starts_with(UNKNOWN_ERROR) {
            return revert_reason(data, &self.errors);
        }
        reason
    }
}
