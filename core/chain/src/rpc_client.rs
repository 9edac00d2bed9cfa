//! RPC client: the interface through which the engine calls a chain's nodes.
//!
//! [`EndpointPool`](crate::endpoint::EndpointPool) implements it over real nodes. Tests
//! implement it with scripted responses.

use std::future::Future;

use alloy::primitives::B256;
use serde_json::Value;

use crate::receipt::ReceiptId;

/// A JSON-RPC call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The method, for example `eth_getBalance`.
    pub method: &'static str,
    /// The parameters, a JSON array.
    pub params: Value,
    /// The result that ends the search for an endpoint that has it.
    pub expected: ExpectedResult,
}

/// The result that a call expects. Another result is not believed, and the next endpoint is
/// called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedResult {
    /// Anything but null.
    Any,
    /// The transaction with this hash.
    Transaction(B256),
    /// This receipt.
    Receipt(ReceiptId),
}

/// The relation of a result to the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultMatch {
    /// It is the expected one.
    Expected,
    /// The endpoint does not have it, or has it on another branch. Another one may.
    Missing,
    /// It is about something else.
    Invalid,
}

impl Call {
    /// A call that expects any result but null.
    #[must_use]
    pub fn new(method: &'static str, params: Value) -> Self {
        Self {
            method,
            params,
            expected: ExpectedResult::Any,
        }
    }

    /// The same call, which expects this result.
    #[must_use]
    pub fn expecting(mut self, expected: ExpectedResult) -> Self {
        self.expected = expected;
        self
    }
}

impl ExpectedResult {
    /// Compares a result with the expected one.
    pub(crate) fn compare(&self, result: &Value) -> ResultMatch {
        if result.is_null() {
            return ResultMatch::Missing;
        }
        match self {
            Self::Any => ResultMatch::Expected,
            Self::Transaction(hash) => {
                let found = result.get("hash").and_then(Value::as_str);
                match found.and_then(|found| found.parse().ok()) == Some(*hash) {
                    true => ResultMatch::Expected,
                    false => ResultMatch::Invalid,
                }
            }
            Self::Receipt(id) if id.matches(result) => ResultMatch::Expected,
            Self::Receipt(id) if id.is_of_transaction(result) => ResultMatch::Missing,
            Self::Receipt(_) => ResultMatch::Invalid,
        }
    }
}

/// The reason why a call has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RpcError {
    /// No endpoint responded in time.
    #[error("no endpoint of chain {chain} responded: {reason}")]
    Unreachable {
        /// The chain's id.
        chain: u64,
        /// The failure of the endpoint that was called last.
        reason: String,
    },
    /// Endpoints responded with errors of their own, which are no answer to the call.
    #[error("no endpoint of chain {chain} has an answer: {reason}")]
    Unavailable {
        /// The chain's id.
        chain: u64,
        /// The failure of the endpoint that was called last.
        reason: String,
    },
    /// The node refused the call. Other nodes would refuse it too.
    #[error("the node returned error {code}: {message}")]
    Refused {
        /// The JSON-RPC error code.
        code: i64,
        /// The JSON-RPC error message.
        message: String,
        /// The JSON-RPC error data, for example the data of a revert.
        data: Option<Value>,
    },
}

/// Calls the nodes of one chain.
pub trait RpcClient: Send + Sync + 'static {
    /// Makes all calls in as few requests as possible, each with a time limit. Returns the
    /// results in the order of the calls. Null means that no endpoint has the expected result.
    fn call_all(
        &self,
        calls: Vec<Call>,
    ) -> impl Future<Output = Vec<Result<Value, RpcError>>> + Send;
}
