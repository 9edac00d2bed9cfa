//! Call failures: classifies every way in which a call can fail by what to do next.
//!
//! | failure | next |
//! |---|---|
//! | `Unreachable`, `TimedOut`, `Invalid`, `WrongChain` | call another endpoint; this one backs off |
//! | `RateLimited` | call another endpoint; this one backs off for as long as it demands |
//! | `Unsupported`, `NotFound` | call another endpoint; this one stays healthy |
//! | `Refused` | return the error: every node would refuse the call |
//!
//! Nodes agree on few error codes, so the error's text is examined too.

use std::time::Duration;

use alloy::{
    rpc::json_rpc::{ErrorPayload, RpcError as AlloyRpcError},
    transports::{TransportError, TransportErrorKind},
};
use reqwest::header::{self, HeaderMap};
use serde_json::Value;

use crate::RpcError;

/// The reason why an endpoint did not return a result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The connection failed or ended.
    #[error("{0}")]
    Unreachable(String),
    /// No response came in time.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    /// The endpoint limits the rate of calls.
    #[error("rate limit: {message}")]
    RateLimited {
        /// The time until the next call is allowed, if the endpoint names it.
        after: Option<Duration>,
        /// The endpoint's message.
        message: String,
    },
    /// The endpoint does not implement the method.
    #[error("unknown method: {0}")]
    Unsupported(String),
    /// The endpoint does not have the block, or no longer has its state.
    #[error("not found: {0}")]
    NotFound(String),
    /// The endpoint refused the call, as every node would.
    #[error("error {code}: {message}")]
    Refused {
        /// The JSON-RPC error code.
        code: i64,
        /// The JSON-RPC error message.
        message: String,
        /// The JSON-RPC error data.
        data: Option<Value>,
    },
    /// The response is malformed or contradicts a hash.
    #[error("invalid response: {0}")]
    Invalid(String),
    /// The endpoint serves another chain.
    #[error("the endpoint serves chain {found}, expected {expected}")]
    WrongChain {
        /// The id of the chain that it serves.
        found: u64,
        /// The id of the configured chain.
        expected: u64,
    },
}

impl Failure {
    /// Whether another endpoint may return a result.
    #[must_use]
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// The failure as callers of an [`RpcClient`](crate::RpcClient) see it.
    #[must_use]
    pub fn into_rpc_error(self, chain: u64) -> RpcError {
        match self {
            Self::Refused {
                code,
                message,
                data,
            } => RpcError::Refused {
                code,
                message,
                data,
            },
            Self::Unsupported(message) => RpcError::Refused {
                code: METHOD_NOT_FOUND,
                message,
                data: None,
            },
            other => RpcError::Unreachable {
                chain,
                reason: other.to_string(),
            },
        }
    }
}

const METHOD_NOT_FOUND: i64 = -32601;

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        match error {
            AlloyRpcError::ErrorResp(payload) => classify(&payload),
            AlloyRpcError::Transport(kind) => transport_failure(&kind),
            AlloyRpcError::DeserError { err, .. } => Self::Invalid(err.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

fn transport_failure(kind: &TransportErrorKind) -> Failure {
    let Some(http) = kind.as_http_error() else {
        return Failure::Unreachable(without_url(&kind.to_string()));
    };
    // The body may be a whole HTML page.
    let body: String = http.body.chars().take(200).collect();
    let message = format!("HTTP status {}: {body}", http.status);
    let after = kind.retry_after();
    if http.status == 429 || after.is_some() {
        return Failure::RateLimited { after, message };
    }
    Failure::Unreachable(message)
}

/// The text of an error without the URL, which may hold an API key.
pub(super) fn without_url(text: &str) -> String {
    match (text.find(" for url ("), text.find("://")) {
        (Some(start), _) => text[..start].to_owned(),
        (None, Some(_)) => "the connection failed".to_owned(),
        (None, None) => text.to_owned(),
    }
}

/// The time in a `Retry-After` header, if it is in seconds.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Whether a text of a node mentions a rate limit.
pub(super) fn mentions_rate_limit(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let phrases = [
        "rate limit",
        "too many requests",
        "request limit",
        "compute units",
        "exceeded its",
        "capacity",
        "throttl",
    ];
    phrases.iter().any(|phrase| text.contains(phrase))
}

/// Classifies a JSON-RPC error by its code and its text.
fn classify(payload: &ErrorPayload) -> Failure {
    let message = payload.message.to_string();
    let text = message.to_ascii_lowercase();
    let mentions = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    let not_found = [
        "header not found",
        "unknown block",
        "block not found",
        "missing trie node",
        "not available",
        "pruned",
        "could not find block",
        "resource not found",
    ];
    let unsupported = ["method not found", "not supported", "does not exist/is not"];
    match payload.code {
        // Some providers use the rate limit's code for a result that is too long. A retry would
        // not make it shorter.
        _ if mentions(&["query returned more than"]) => refused(payload, message),
        429 | -32005 | -32029 => Failure::RateLimited {
            after: backoff_seconds(payload),
            message,
        },
        METHOD_NOT_FOUND | -32004 => Failure::Unsupported(message),
        // A reverted call: the text is the contract's, and must not be classified.
        3 => refused(payload, message),
        _ if mentions_rate_limit(&message) => Failure::RateLimited {
            after: None,
            message,
        },
        _ if mentions(&unsupported) => Failure::Unsupported(message),
        -32001 => Failure::NotFound(message),
        _ if mentions(&not_found) => Failure::NotFound(message),
        _ => refused(payload, message),
    }
}

/// The time to wait, from the error data. Infura sends it there, in seconds.
fn backoff_seconds(payload: &ErrorPayload) -> Option<Duration> {
    let data: Value = serde_json::from_str(payload.data.as_ref()?.get()).ok()?;
    let seconds = data.pointer("/rate/backoff_seconds")?.as_f64()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn refused(payload: &ErrorPayload, message: String) -> Failure {
    let data = payload.data.as_ref();
    Failure::Refused {
        code: payload.code,
        message,
        data: data.and_then(|data| serde_json::from_str(data.get()).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(code: i64, message: &'static str) -> Failure {
        classify(&ErrorPayload {
            code,
            message: message.into(),
            data: None,
        })
    }

    #[test]
    fn errors_are_classified_by_what_to_do_next() {
        assert!(matches!(
            classified(-32005, "x"),
            Failure::RateLimited { .. }
        ));
        let busy = classified(-32000, "Too Many Requests, slow down");
        assert!(matches!(busy, Failure::RateLimited { .. }));
        assert!(matches!(classified(-32601, "x"), Failure::Unsupported(_)));
        let gone = classified(-32000, "missing trie node 0xab");
        assert!(matches!(gone, Failure::NotFound(_)) && gone.is_local());
        // A contract may revert with any text.
        let reverted = classified(3, "execution reverted: rate limit exceeded");
        assert!(matches!(reverted, Failure::Refused { code: 3, .. }));
        assert!(!reverted.is_local());
    }

    #[test]
    fn a_rate_limit_may_carry_its_duration() {
        let data = r#"{"rate": {"allowed_rps": 1, "backoff_seconds": 30, "current_rps": 1.1}}"#;
        let limited = classify(&ErrorPayload {
            code: -32005,
            message: "daily request count exceeded".into(),
            data: serde_json::value::RawValue::from_string(data.to_owned()).ok(),
        });
        let after = Some(Duration::from_secs(30));
        assert!(matches!(limited, Failure::RateLimited { after: found, .. } if found == after));
        let long = classified(-32005, "query returned more than 10000 results");
        assert!(matches!(long, Failure::Refused { .. }));
    }

    #[test]
    fn an_error_text_does_not_reveal_the_url() {
        let text = "error sending request for url (https://node.example/secret)";
        assert_eq!(without_url(text), "error sending request");
        assert!(!without_url("no way to wss://x/secret").contains("secret"));
        assert_eq!(without_url("broken pipe"), "broken pipe");
    }
}
