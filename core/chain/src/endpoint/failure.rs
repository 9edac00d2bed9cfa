//! Call failures: classifies every way in which a call can fail by what to do next.
//!
//! | failure | next |
//! |---|---|
//! | `Unreachable`, `TimedOut`, `Invalid`, `WrongChain` | call another endpoint; this one backs off |
//! | `RateLimited` | call another endpoint; this one backs off for as long as it demands |
//! | `Unsupported`, `Unavailable` | call another endpoint; this one rests for the method |
//! | `NotFound` | call another endpoint; this one stays healthy |
//! | `Incomplete`, and others of a batch whose calls succeed alone | make the calls again, in smaller batches |
//! | `Refused` | return the error: every node would refuse the call |
//!
//! Only a revert and invalid parameters are every node's answer. Whatever else a provider
//! returns concerns its own plan, quota or database.
//!
//! # Texts of contracts
//! The text of a revert is a stranger's. A revert is recognised by its code, by its data, or by
//! the words that the node puts *before* the contract's text. The error of a call that runs code
//! is never searched for words, so no contract makes an endpoint back off.

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
    /// The endpoint has trouble of its own with the call: its plan, its quota, its database.
    #[error("error {code}: {message}")]
    Unavailable {
        /// The JSON-RPC error code, or the HTTP status.
        code: i64,
        /// The endpoint's message.
        message: String,
    },
    /// The response to a batch lacks the answer to the call.
    #[error("the response to a batch lacks an answer")]
    Incomplete,
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

    /// The same failure, with each text of the endpoint changed.
    pub(super) fn map_text(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Unreachable(text) => Self::Unreachable(change(&text)),
            Self::RateLimited { after, message } => Self::RateLimited {
                after,
                message: change(&message),
            },
            Self::Unsupported(text) => Self::Unsupported(change(&text)),
            Self::Unavailable { code, message } => Self::Unavailable {
                code,
                message: change(&message),
            },
            Self::NotFound(text) => Self::NotFound(change(&text)),
            Self::Refused {
                code,
                message,
                data,
            } => Self::Refused {
                code,
                message: change(&message),
                data,
            },
            Self::Invalid(text) => Self::Invalid(change(&text)),
            other @ (Self::TimedOut(_) | Self::Incomplete | Self::WrongChain { .. }) => other,
        }
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
            failure @ (Self::Unavailable { .. } | Self::NotFound(_)) => RpcError::Unavailable {
                chain,
                reason: failure.to_string(),
            },
            other => RpcError::Unreachable {
                chain,
                reason: other.to_string(),
            },
        }
    }
}

const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::of_call("", error)
    }
}

impl Failure {
    /// The failure of a call of this method.
    pub(super) fn of_call(method: &str, error: TransportError) -> Self {
        match error {
            AlloyRpcError::ErrorResp(payload) => classify(method, &payload),
            AlloyRpcError::Transport(TransportErrorKind::MissingBatchResponse(_)) => {
                Self::Incomplete
            }
            AlloyRpcError::Transport(kind) => transport_failure(&kind),
            AlloyRpcError::DeserError { err, .. } => Self::Invalid(err.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }

    /// Whether the size of a batch may be the reason that its calls failed.
    pub(super) fn may_be_of_batch(&self) -> bool {
        matches!(
            self,
            Self::Incomplete
                | Self::Invalid(_)
                | Self::Unavailable { .. }
                | Self::Unreachable(_)
                | Self::RateLimited { .. }
                | Self::TimedOut(_)
        )
    }

    /// Whether the endpoint refuses the method, and not only this call of it. A call that runs
    /// code may fail in a contract's own way.
    pub(super) fn is_of_method(&self, method: &str) -> bool {
        match self {
            Self::Unsupported(_) => true,
            Self::Unavailable { code, .. } => !(runs_code(method) && *code == SERVER_ERROR),
            _ => false,
        }
    }
}

/// The code of errors that have no other one, and of many reverts.
const SERVER_ERROR: i64 = -32000;

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
    match http.status {
        // The gateway could not reach the node, or gave it up.
        408 | 500.. => Failure::Unreachable(message),
        status => Failure::Unavailable {
            code: status.into(),
            message,
        },
    }
}

/// The text of an error without the URL, which may hold an API key.
pub(super) fn without_url(text: &str) -> String {
    match (text.find(" for url ("), text.find("://")) {
        (Some(start), _) => text[..start].to_owned(),
        (None, Some(_)) => "the connection failed".to_owned(),
        (None, None) => text.to_owned(),
    }
}

/// The time in a `Retry-After` header: a number of seconds, or a date, from that of the response.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // The node's own clock counts. A date that has passed names no time.
    let now = headers.get(header::DATE)?.to_str().ok()?;
    let [now, at] = [now, value].map(httpdate::parse_http_date);
    at.ok()?.duration_since(now.ok()?).ok()
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

/// Whether a method runs code of contracts, so that its error may have a contract's text.
fn runs_code(method: &str) -> bool {
    matches!(method, "eth_call" | "eth_estimateGas")
        || method.starts_with("debug_trace")
        || method.starts_with("trace_")
}

/// Whether an error shows that code ran and failed. Only the beginning of the text is the
/// node's; what follows may be a contract's.
fn is_execution_error(payload: &ErrorPayload) -> bool {
    /// Code of a revert with data, and of OpenEthereum and Nethermind.
    const EXECUTION_CODES: [i64; 2] = [3, -32015];
    const BEGINNINGS: [&str; 19] = [
        "execution reverted",
        "vm execution error",
        "vm exception",
        "evm error",
        "reverted",
        "invalid opcode",
        "out of gas",
        "stack underflow",
        "stack overflow",
        "stack limit reached",
        "invalid jump destination",
        "write protection",
        "return data out of bounds",
        "gas uint64 overflow",
        "max code size exceeded",
        "max initcode size exceeded",
        "invalid code: must not begin",
        "contract address collision",
        "contract creation code storage",
    ];
    let data = payload.data.as_ref();
    let data = data.and_then(|data| serde_json::from_str::<Value>(data.get()).ok());
    // Some nodes wrap the data of a revert in an object, or put a word before it.
    let data = data.as_ref().map(|data| data.get("data").unwrap_or(data));
    let is_revert_data = data.and_then(Value::as_str).is_some_and(|data| {
        let digits = data.strip_prefix("Reverted ").unwrap_or(data);
        let digits = digits.strip_prefix("0x");
        digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    });
    let text = payload.message.to_ascii_lowercase();
    EXECUTION_CODES.contains(&payload.code)
        || is_revert_data
        || BEGINNINGS.iter().any(|begin| text.starts_with(begin))
}

/// Classifies a JSON-RPC error by the method, by its code, and by its text where that is the
/// node's own.
fn classify(method: &str, payload: &ErrorPayload) -> Failure {
    let message = payload.message.to_string();
    let text = message.to_ascii_lowercase();
    let mentions = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    let not_found = [
        "header not found",
        "unknown block",
        "block not found",
        "missing trie node",
        "could not find block",
        "resource not found",
    ];
    let runs_code = runs_code(method);
    let code = payload.code;
    match code {
        _ if (runs_code || code == 3) && is_execution_error(payload) => refused(payload, message),
        INVALID_PARAMS => refused(payload, message),
        // Some providers use the rate limit's code for a result that is too long. A pause would
        // not make it shorter.
        _ if !runs_code && mentions(&["query returned more than"]) => {
            Failure::Unavailable { code, message }
        }
        429 | -32005 | -32007 | -32012 | -32016 | -32029 => Failure::RateLimited {
            after: backoff_seconds(payload),
            message,
        },
        METHOD_NOT_FOUND | -32004 => Failure::Unsupported(message),
        -32001 => Failure::NotFound(message),
        _ if runs_code => Failure::Unavailable { code, message },
        _ if mentions_rate_limit(&message) => Failure::RateLimited {
            after: None,
            message,
        },
        _ if mentions(&not_found) => Failure::NotFound(message),
        _ => Failure::Unavailable { code, message },
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
        classified_in("eth_getBlockByHash", code, message, None)
    }

    fn classified_in(
        method: &str,
        code: i64,
        message: &'static str,
        data: Option<&str>,
    ) -> Failure {
        let data = data.map(|data| serde_json::value::RawValue::from_string(data.to_owned()));
        let payload = ErrorPayload {
            code,
            message: message.into(),
            data: data.map(Result::unwrap),
        };
        classify(method, &payload)
    }

    #[test]
    fn errors_are_classified_by_what_to_do_next() {
        for code in [429, -32005, -32007, -32012, -32016, -32029] {
            let limited = classified(code, "x");
            assert!(matches!(limited, Failure::RateLimited { .. }), "{code}");
        }
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
    fn only_a_revert_and_invalid_parameters_are_every_nodes_answer() {
        for (code, message) in [
            (-32603, "Internal error"),
            (-32000, "daily quota reached, upgrade your plan"),
            (
                30,
                "Request timeout on the free tier, please upgrade your tier",
            ),
            (-32002, "project ID does not have access to this network"),
            (
                -32000,
                "eth_getBlockReceipts is not available on the Free tier",
            ),
            (-32600, "batch requests are not supported"),
            (-32700, "parse error"),
            (-32000, "execution reverted"),
        ] {
            let failure = classified(code, message);
            assert!(
                matches!(failure, Failure::Unavailable { .. }) && failure.is_local(),
                "{message}: {failure:?}"
            );
            assert!(failure.is_of_method("eth_getBlockByHash"), "{message}");
        }
        assert!(!classified(-32602, "invalid argument 1").is_local());
    }

    #[test]
    fn a_text_of_a_contract_is_never_taken_for_the_nodes() {
        let text = r#""0x08c379a0""#;
        for (code, message, data) in [
            (-32000, "execution reverted: rate limit exceeded", None),
            (-32000, "execution reverted", None),
            (-32000, "rate limit exceeded", Some(text)),
            (
                -32000,
                "too many requests",
                Some(r#"{"data": "0x08c379a0"}"#),
            ),
            (
                -32015,
                "VM execution error.",
                Some(r#""Reverted 0x08c379a0""#),
            ),
            (-32000, "out of gas", None),
            (-32000, "invalid opcode: INVALID", None),
            (3, "compute units", Some(text)),
        ] {
            for method in ["eth_call", "debug_traceTransaction"] {
                let failure = classified_in(method, code, message, data);
                assert!(
                    matches!(failure, Failure::Refused { .. }),
                    "{message}: {failure:?}"
                );
            }
        }
        // Without a code or data of a revert, another endpoint is asked. None backs off.
        for message in [
            "rate limit exceeded",
            "method not found",
            "header not found",
        ] {
            let failure = classified_in("eth_call", -32000, message, None);
            assert!(
                matches!(failure, Failure::Unavailable { .. }),
                "{failure:?}"
            );
            assert!(!failure.is_of_method("eth_call"));
        }
    }

    #[test]
    fn a_rate_limit_may_carry_its_duration() {
        let data = r#"{"rate": {"allowed_rps": 1, "backoff_seconds": 30, "current_rps": 1.1}}"#;
        let message = "daily request count exceeded";
        let limited = classified_in("eth_getLogs", -32005, message, Some(data));
        let after = Some(Duration::from_secs(30));
        assert!(matches!(limited, Failure::RateLimited { after: found, .. } if found == after));
        let long = classified(-32005, "query returned more than 10000 results");
        assert!(matches!(long, Failure::Unavailable { .. }));
    }

    #[test]
    fn a_retry_time_may_be_a_date() {
        let header = |value: &str| {
            let mut headers = HeaderMap::new();
            let now = "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap();
            headers.insert(header::DATE, now);
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(header(" 7 "), Some(Duration::from_secs(7)));
        let later = header("Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(later, Some(Duration::from_secs(30)));
        assert_eq!(header("Sun, 06 Nov 1994 08:49:00 GMT"), None);
        assert_eq!(header("soon"), None);
    }

    #[test]
    fn an_error_text_does_not_reveal_the_url() {
        let text = "error sending request for url (https://node.example/secret)";
        assert_eq!(without_url(text), "error sending request");
        assert!(!without_url("no way to wss://x/secret").contains("secret"));
        assert_eq!(without_url("broken pipe"), "broken pipe");
    }
}
