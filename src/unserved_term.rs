//! Unserved term: this node has the lease of the shared store, and no hub on it.
//!
//! All nodes send their requests to the owner. The lease is kept by a task of its own, which knows
//! nothing of engines: an owner whose hub does not open would refuse all of them, and look healthy. It
//! reports a fault therefore, and then leaves the store to the other nodes.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_service::NotifyRpc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::engine_store::EngineStore;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Time without a hub after which it is a fault.
const GRACE: Duration = Duration::from_secs(5);

/// Time without a hub after which the store is left to others. A hub with very many broadcasts and
/// schedules takes seconds to open.
const LONGEST: Duration = Duration::from_secs(30);

/// Finds out whether the owner of a shared store serves it.
#[derive(Debug, Default)]
pub(crate) struct UnservedTerm {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when this node owns the store without a hub.
    begun: Option<Instant>,
    fault: Option<String>,
}

impl UnservedTerm {
    /// Why this node does not serve the store that it owns. None if it does, or has only begun to, or
    /// does not own it.
    pub(crate) fn fault(&self) -> Option<String> {
        self.state.lock().fault.clone()
    }

    /// Looks until it is cancelled.
    pub(crate) async fn watch(self: Arc<Self>, store: EngineStore, service: NotifyRpc) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match store.now().filter(|_| !service.has_hub()) {
                None => *self.state.lock() = State::default(),
                Some(term) if self.is_too_long() => {
                    tracing::error!(
                        "notifications do not open: this node leaves the shared store to others"
                    );
                    term.give_up();
                    *self.state.lock() = State::default();
                }
                Some(_) => {}
            }
        }
    }

    /// Notes that the store is not served now. Returns whether that takes too long.
    fn is_too_long(&self) -> bool {
        let mut state = self.state.lock();
        let waited = state.begun.get_or_insert_with(Instant::now).elapsed();
        if waited >= GRACE {
            let seconds = waited.as_secs();
            state.fault = Some(format!(
                "this node owns it and has not opened notifications for {seconds} s"
            ));
        }
        waited >= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_term_that_is_not_served_is_a_fault_and_then_too_long() {
        let term = UnservedTerm::default();
        assert!(!term.is_too_long());
        assert_eq!(term.fault(), None);
        advance(GRACE).await;
        assert!(!term.is_too_long());
        assert!(term.fault().is_some_and(|fault| fault.contains("5 s")));
        advance(LONGEST - GRACE).await;
        assert!(term.is_too_long());
    }
}
