//! What can become of a call: told apart by what to do about it.

use std::time::Duration;

use alloy::{
    rpc::json_rpc::{ErrorPayload, RpcError as AlloyError},
    transports::{TransportError, TransportErrorKind},
};
use reqwest::header::{self, HeaderMap};
use serde_json::Value;

use crate::RpcError;

/// Why an endpoint gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// It does not take the connection, or broke it. Another may answer.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It wants to be asked less.
    #[error("it wants to be asked less: {message}")]
    Limited {
        /// When it may be asked again, if it says so.
        after: Option<Duration>,
        /// What it says.
        message: String,
    },
    /// It cannot do this, and will not be able to.
    #[error("it does not know the method: {0}")]
    Unsupported(String),
    /// It does not have the block, or no longer its state. Another may.
    #[error("it does not have it: {0}")]
    Missing(String),
    /// It refuses, as every node would.
    #[error("error {code}: {message}")]
    Refused {
        /// JSON-RPC's code.
        code: i64,
        /// What it says.
        message: String,
        /// What comes with it.
        data: Option<Value>,
    },
    /// What it answers makes no sense.
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
    /// It serves another chain.
    #[error("it serves chain {found}, expected {expected}")]
    WrongChain {
        /// What it serves.
        found: u64,
        /// What was configured.
        expected: u64,
    },
}

impl Failure {
    /// Whether another endpoint may answer.
    #[must_use]
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// The failure as whoever reads a chain sees it.
    #[must_use]
    pub fn into_read_error(self, chain: u64) -> RpcError {
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
            AlloyError::ErrorResp(payload) => refused(&payload),
            AlloyError::Transport(kind) => transport(&kind),
            AlloyError::DeserError { err, .. } => Self::Nonsense(err.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

fn transport(kind: &TransportErrorKind) -> Failure {
    let Some(http) = kind.as_http_error() else {
        return Failure::Unreachable(without_address(&kind.to_string()));
    };
    // The body may be a page: its beginning says enough.
    let body: String = http.body.chars().take(200).collect();
    let message = format!("HTTP status {}: {body}", http.status);
    let after = kind.retry_after();
    if http.status == 429 || after.is_some() {
        return Failure::Limited { after, message };
    }
    Failure::Unreachable(message)
}

/// reqwest tells the URL, which may hold a key.
pub(super) fn without_address(text: &str) -> String {
    match (text.find(" for url ("), text.find("://")) {
        (Some(place), _) => text[..place].to_owned(),
        (None, Some(_)) => "the connection failed".to_owned(),
        (None, None) => text.to_owned(),
    }
}

/// How long to wait, where the head of an answer over HTTP says so in seconds.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Whether a node says that it is asked too much.
pub(super) fn speaks_of_limits(text: &str) -> bool {
    let words = text.to_ascii_lowercase();
    let limited = [
        "rate limit",
        "too many requests",
        "request limit",
        "compute units",
        "exceeded its",
        "capacity",
        "throttl",
    ];
    limited.iter().any(|word| words.contains(word))
}

/// Nodes agree on few codes, so words count too.
fn refused(payload: &ErrorPayload) -> Failure {
    let message = payload.message.to_string();
    let words = message.to_ascii_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    let missing = [
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
        // The same code for an answer that would be too long: asked again it would be no
        // shorter.
        _ if says(&["query returned more than"]) => as_it_is(payload, message),
        429 | -32005 | -32029 => Failure::Limited {
            after: backoff(payload),
            message,
        },
        METHOD_NOT_FOUND | -32004 => Failure::Unsupported(message),
        // A reverted call: what it says is the contract's.
        3 => as_it_is(payload, message),
        _ if speaks_of_limits(&message) => Failure::Limited {
            after: None,
            message,
        },
        _ if says(&unsupported) => Failure::Unsupported(message),
        -32001 => Failure::Missing(message),
        _ if says(&missing) => Failure::Missing(message),
        _ => as_it_is(payload, message),
    }
}

/// How long to wait, where a node says so beside the error: as Infura does, in seconds.
fn backoff(payload: &ErrorPayload) -> Option<Duration> {
    let data: Value = serde_json::from_str(payload.data.as_ref()?.get()).ok()?;
    let seconds = data.pointer("/rate/backoff_seconds")?.as_f64()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn as_it_is(payload: &ErrorPayload, message: String) -> Failure {
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

    fn of(code: i64, message: &'static str) -> Failure {
        refused(&ErrorPayload {
            code,
            message: message.into(),
            data: None,
        })
    }

    #[test]
    fn answers_are_told_apart_by_what_to_do() {
        assert!(matches!(of(-32005, "x"), Failure::Limited { .. }));
        let busy = of(-32000, "Too Many Requests, slow down");
        assert!(matches!(busy, Failure::Limited { .. }));
        assert!(matches!(of(-32601, "x"), Failure::Unsupported(_)));
        let gone = of(-32000, "missing trie node 0xab");
        assert!(matches!(gone, Failure::Missing(_)) && gone.is_local());
        // A contract may say anything.
        let reverted = of(3, "execution reverted: rate limit exceeded");
        assert!(matches!(reverted, Failure::Refused { code: 3, .. }));
        assert!(!reverted.is_local());
    }

    #[test]
    fn a_limit_may_say_how_long_it_lasts() {
        let data = r#"{"rate": {"allowed_rps": 1, "backoff_seconds": 30, "current_rps": 1.1}}"#;
        let limited = refused(&ErrorPayload {
            code: -32005,
            message: "daily request count exceeded".into(),
            data: serde_json::value::RawValue::from_string(data.to_owned()).ok(),
        });
        let after = Some(Duration::from_secs(30));
        assert!(matches!(limited, Failure::Limited { after: told, .. } if told == after));
        let long = of(-32005, "query returned more than 10000 results");
        assert!(matches!(long, Failure::Refused { .. }));
    }

    #[test]
    fn no_address_is_told() {
        let text = "error sending request for url (https://node.example/secret)";
        assert_eq!(without_address(text), "error sending request");
        assert!(!without_address("no way to wss://x/secret").contains("secret"));
        assert_eq!(without_address("broken pipe"), "broken pipe");
    }
}
