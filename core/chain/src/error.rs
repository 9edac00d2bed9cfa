//! What can be wrong with what the engine is asked.

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
}

fn names(chains: &[u64]) -> String {
    let names: Vec<_> = chains.iter().map(u64::to_string).collect();
    match names.as_slice() {
        [] => "none: no [[chain]] is configured".to_owned(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}
