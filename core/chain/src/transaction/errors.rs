//! Why a transaction failed, by the errors that the operator knows, and those that whoever
//! watches it does.

use alloy::primitives::B256;

use super::{NodeRequest, tracker::TransactionTracker, watch::Phase};
use crate::decode::{CustomErrors, revert_reason};

/// How many signatures are kept for one transaction; the first go first.
const MOST: usize = 50;

/// How a reason begins that no signature explains.
const UNKNOWN: &str = "custom error 0x";

impl TransactionTracker {
    /// Takes further signatures of errors for a watched transaction. One that has failed
    /// already is asked for again, if nothing explained it.
    pub fn explain_by(&mut self, hash: B256, abi: &[String]) -> Vec<NodeRequest> {
        let Some(watch) = self.watches.get_mut(&hash) else {
            return Vec::new();
        };
        let mut all: Vec<_> = watch.abi.to_vec();
        all.retain(|known| !abi.contains(known));
        all.extend(abi.iter().cloned());
        all.drain(..all.len().saturating_sub(MOST));
        if *watch.abi == *all {
            return Vec::new();
        }
        watch.abi = all.into();
        let phase = watch.phase.clone();
        self.note(hash);
        let Phase::Included {
            at,
            outcome: Some(outcome),
        } = phase
        else {
            return Vec::new();
        };
        let is_unexplained = outcome
            .failure
            .is_some_and(|reason| reason.starts_with(UNKNOWN));
        if !is_unexplained {
            return Vec::new();
        }
        let since = self.watches.get(&hash).map_or(0, |watch| watch.since);
        self.enter(hash, Phase::Included { at, outcome: None }, since);
        vec![NodeRequest::Transaction(hash)]
    }

    /// The data of a revert as a reason.
    pub(super) fn explain(&self, hash: &B256, data: &[u8]) -> String {
        let abi = self.watches.get(hash).map(|watch| &watch.abi);
        let mut own = CustomErrors::default();
        for signature in abi.into_iter().flatten() {
            if let Err(error) = own.add(signature) {
                // They were checked before they were taken.
                tracing::debug!(%error, "a signature is refused");
            }
        }
        let reason = revert_reason(data, &own);
        if reason.starts_with(UNKNOWN) {
            return revert_reason(data, &self.errors);
        }
        reason
    }
}
