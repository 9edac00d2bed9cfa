//! The way to ask a node.

use std::future::Future;

use serde_json::Value;

/// A call of JSON-RPC.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The method, for example `eth_getBalance`.
    pub method: &'static str,
    /// Its parameters, an array.
    pub params: Value,
}

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RpcError {
    /// No endpoint answered in time.
    #[error("no endpoint of chain {chain} answered: {reason}")]
    Unreachable {
        /// The chain's id.
        chain: u64,
        /// What the last endpoint said.
        reason: String,
    },
    /// The node refused the call.
    #[error("the node answered error {code}: {message}")]
    Refused {
        /// JSON-RPC's code.
        code: i64,
        /// What the node says.
        message: String,
        /// What comes with it, for example the data of a revert.
        data: Option<Value>,
    },
}

/// Asks a node of one chain.
pub trait RpcClient: Send + Sync + 'static {
    /// Makes all calls in as few requests as the endpoint allows, each with a time limit,
    /// and answers in their order.
    fn call_all(
        &self,
        calls: Vec<Call>,
    ) -> impl Future<Output = Vec<Result<Value, RpcError>>> + Send;
}
