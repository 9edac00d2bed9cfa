//! Admission: how many requests to notify are on their way to the store at once.
//!
//! A request holds the locks of its recipients until its transaction is stored. Under load, the
//! requests that wait for one lock would form a long line. An urgent notification would wait behind
//! all of them. So ordinary requests wait here first, and only as many go on as fill a few
//! transactions. Urgent ones do not wait here.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::draft::Draft;

/// Ordinary requests that are on their way at once: one large call, or as many small ones as share
/// a flush. Large calls have users in common, so that a second one would only wait for locks.
const REQUESTS: u32 = PART as u32;

/// Requests of a call that share a transaction at most. An urgent notification may have to wait for
/// it: some milliseconds.
pub(crate) const PART: usize = 512;

/// Requests of an urgent call at most. A larger one would hold others up.
const URGENT_REQUESTS: usize = 64;

/// How a call of requests is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// In its turn.
    Ordinary,
    /// Before ordinary ones.
    Urgent,
}

impl Haste {
    /// How a call with these drafts is handled.
    pub(crate) fn of<E>(drafts: &[Result<Draft, E>]) -> Self {
        let is_urgent = |draft: &Draft| draft.is_urgent();
        match drafts.len() <= URGENT_REQUESTS && drafts.iter().flatten().any(is_urgent) {
            true => Self::Urgent,
            false => Self::Ordinary,
        }
    }
}

/// Admits calls.
#[derive(Debug)]
pub(crate) struct Admission(Arc<Semaphore>);

impl Default for Admission {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REQUESTS as usize)))
    }
}

impl Admission {
    /// Waits until `count` requests may go on. They end with the permit.
    pub(crate) async fn enter(&self, count: usize, haste: Haste) -> Option<OwnedSemaphorePermit> {
        if haste == Haste::Urgent {
            return None;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(REQUESTS);
        // The semaphore is never closed.
        self.0.clone().acquire_many_owned(count).await.ok()
    }
}
