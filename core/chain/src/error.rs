//! What can be wrong with what the engine is asked.

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::StreamError;

/// How many signatures of errors a watch can come with.
pub(crate) const MAX_SIGNATURES: usize = 20;

/// Why the engine cannot answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain is not configured.
    #[error("there is no chain {asked}, expected {}", names(.known))]
    UnknownChain {
        /// What was asked for, as it was written.
        asked: String,
        /// The chains that there are.
        known: Vec<u64>,
    },
    /// No block was read yet.
    #[error("no block of chain {0} has been read yet")]
    NoBlock(u64),
    /// Not the hash of a transaction.
    #[error("{0:?} is no hash of a transaction, expected 32 bytes of hex that begin with 0x")]
    Hash(String),
    /// Not the name of a channel of a chain.
    #[error("{asked:?} names nothing, expected {expected}")]
    Name {
        /// What was asked for.
        asked: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Not a wallet.
    #[error("{0:?} is no address, expected 20 bytes of hex that begin with 0x")]
    Address(String),
    /// An address in mixed case that is not written as its checksum demands.
    #[error("address {given} has a wrong checksum, expected {expected} or lower case throughout")]
    Checksum {
        /// What was given.
        given: String,
        /// The same address, written right.
        expected: String,
    },
    /// Nothing can happen to wallets.
    #[error("no [[chain]] is configured, so there is none to follow a wallet on")]
    NoChain,
    /// The store has been stuck for too long.
    #[error("the store is slow or stuck, try again")]
    Stuck,
    /// More signatures than may be.
    #[error("there are {0} signatures, expected at most {MAX_SIGNATURES}")]
    Signatures(usize),
    /// A filter of events is refused.
    #[error(transparent)]
    Filter(#[from] crate::events::FilterError),
    /// The signature of an error is refused.
    #[error(transparent)]
    Abi(#[from] crate::abi::AbiError),
    /// As many are watched as may be.
    #[error("{0}")]
    TooMany(String),
    /// Its node, or the store, has been stuck for too long.
    #[error(
        "chain {0} does not answer in time: its nodes or the store are slow or stuck, try again"
    )]
    Slow(u64),
    /// The engine is about to stop, or was not started.
    #[error("the chain engine does not run")]
    Ended,
}

impl From<ChainError> for StreamError {
    fn from(error: ChainError) -> Self {
        let code = match error {
            ChainError::UnknownChain { .. } => ErrorCode::NotFound,
            ChainError::NoBlock(_)
            | ChainError::Slow(_)
            | ChainError::Stuck
            | ChainError::Ended => ErrorCode::Unavailable,
            ChainError::Hash(_)
            | ChainError::Name { .. }
            | ChainError::Address(_)
            | ChainError::Checksum { .. }
            | ChainError::Abi(_)
            | ChainError::Signatures(_)
            | ChainError::Filter(_) => ErrorCode::InvalidArgument,
            ChainError::NoChain => ErrorCode::FailedPrecondition,
            ChainError::TooMany(_) => ErrorCode::ResourceExhausted,
        };
        Self::new(code, error.to_string())
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
