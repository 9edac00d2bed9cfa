//! RPC client: the interface through which the engine calls a chain's nodes.
//!
//! [`EndpointPool`](crate::endpoint::EndpointPool) implements it over real nodes. Tests
//! implement it with scripted responses.

use std::future::Future;

use serde_json::Value;

/// A JSON-RPC call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The method, for example `eth_getBalance`.
    pub method: &'static str,
    /// The parameters, a JSON array.
    pub params: Value,
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
    /// results in the order of the calls.
    fn call_all(
        &self,
        calls: Vec<Call>,
    ) -> impl Future<Output = Vec<Result<Value, RpcError>>> + Send;
}
