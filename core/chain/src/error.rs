//! Errors of the chain engine's methods.

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::StreamError;

use crate::{
    ChainOutage, abi::AbiError, address::AccountAddressError, events::FilterError,
    interest::RetentionLimit, transaction::WatchError,
};

/// Error signatures that a watch can bring along at most.
pub(crate) const MAX_SIGNATURES: usize = 20;

/// Why the chain engine refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain is not configured.
    #[error("there is no chain {given}{}, expected {}", absence(.given), names(.known))]
    UnknownChain {
        /// The chain as it was given.
        given: String,
        /// The ids of the configured chains.
        known: Vec<u64>,
    },
    /// No block of the chain was read yet.
    #[error("no block of chain {0} has been read yet")]
    NoBlock(u64),
    /// No block of the chain was read yet, as too few of its endpoints return usable results.
    #[error("no block of chain {0} has been read yet: {1}, see the server's log")]
    Outage(u64, ChainOutage),
    /// None of the chain's endpoints has returned usable results for some seconds.
    #[error("chain {0} is unavailable: {1}, see the server's log")]
    Unreachable(u64, ChainOutage),
    /// Not a transaction hash.
    #[error("{0:?} is not a transaction hash, expected 32 bytes of hex that begin with 0x")]
    Hash(String),
    /// No transaction hash at all.
    #[error("`txHash` is missing, expected 32 bytes of hex that begin with 0x")]
    NoHash,
    /// Not the part of a channel name after the colon.
    #[error("{given:?} names no channel, expected {expected}")]
    Channel {
        /// The name as it was given.
        given: String,
        /// The expected form of a name.
        expected: &'static str,
    },
    /// Not an address.
    #[error(transparent)]
    Address(#[from] AccountAddressError),
    /// No chain is configured, so no wallet can be followed.
    #[error("no [[chain]] is configured, so no wallet can be followed")]
    NoChain,
    /// More than the allowed number of error signatures.
    #[error("there are {0} signatures, expected at most {MAX_SIGNATURES}")]
    Signatures(usize),
    /// The event filter is refused.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The signature of an error is refused.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// A limit is reached; the text names it.
    #[error("{0}")]
    LimitReached(String),
    /// The client's share of a limit is used; the text names it. Another client may have room.
    #[error("{0}")]
    ShareReached(String),
    /// The store did not write within 20 seconds.
    #[error("the store is slow or does not answer, try again")]
    StoreTimeout,
    /// The chain did not answer within 20 seconds.
    #[error(
        "chain {0} does not answer in time: its nodes or the store are slow or do not answer, try again"
    )]
    Timeout(u64),
    /// The engine was not started, or is stopping.
    #[error("the chain engine is not running")]
    NotRunning,
}

impl From<WatchError> for ChainError {
    fn from(error: WatchError) -> Self {
        let text = error.to_string();
        match error {
            WatchError::TooManyOfClient(_) | WatchError::TooManyOfConnection(_) => {
                Self::ShareReached(text)
            }
            WatchError::TooMany(_) | WatchError::TooManyUsers => Self::LimitReached(text),
        }
    }
}

impl From<RetentionLimit> for ChainError {
    fn from(error: RetentionLimit) -> Self {
        let text = error.to_string();
        match error {
            RetentionLimit::OfClient(..) | RetentionLimit::OfConnection(..) => {
                Self::ShareReached(text)
            }
            RetentionLimit::Full(..) => Self::LimitReached(text),
        }
    }
}

impl From<ChainError> for StreamError {
    fn from(error: ChainError) -> Self {
        let code = match error {
            ChainError::UnknownChain { .. } => ErrorCode::NotFound,
            ChainError::NoBlock(_)
            | ChainError::Outage(..)
            | ChainError::Unreachable(..)
            | ChainError::Timeout(_)
            | ChainError::StoreTimeout
            | ChainError::NotRunning => ErrorCode::Unavailable,
            ChainError::Hash(_)
            | ChainError::NoHash
            | ChainError::Channel { .. }
            | ChainError::Address(_)
            | ChainError::Abi(_)
            | ChainError::Signatures(_)
            | ChainError::Filter(_) => ErrorCode::InvalidArgument,
            ChainError::NoChain => ErrorCode::FailedPrecondition,
            ChainError::LimitReached(_) | ChainError::ShareReached(_) => {
                ErrorCode::ResourceExhausted
            }
        };
        Self::new(code, error.to_string())
    }
}

/// The note of a field that was left out: its number is 0.
fn absence(given: &str) -> &'static str {
    match given {
        "0" => " (`chain` is 0 or missing)",
        _ => "",
    }
}

fn names(chains: &[u64]) -> String {
    let names: Vec<_> = chains.iter().map(u64::to_string).collect();
    match names.as_slice() {
        [] => "none: no [[chain]] is configured".to_owned(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}
