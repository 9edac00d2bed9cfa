//! Hearing: whether this node hears what other nodes send to it.
//!
//! An answer that is sent while the connection for messages is away is lost. Nobody is asked meanwhile,
//! and once the connection is there again, what waits for an answer is asked again.

use tokio::sync::watch;

/// Hearing of a node. It begins without.
#[derive(Debug)]
pub(super) struct Hearing(watch::Sender<State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_on: bool,
    /// How often it has begun.
    begun: u64,
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State::default()))
    }

    /// Notes that nothing that is sent from now on is missed.
    pub(super) fn begin(&self) {
        self.0.send_modify(|state| {
            state.is_on = true;
            state.begun += 1;
        });
    }

    /// Notes that what is sent is lost.
    pub(super) fn end(&self) {
        self.0.send_modify(|state| state.is_on = false);
    }

    /// Waits until this node hears, and has begun to after it had `begun` so often. Returns how often
    /// it has begun.
    pub(super) async fn after(&self, begun: u64) -> u64 {
        let mut changes = self.0.subscribe();
        let heard = changes
            .wait_for(|state| state.is_on && state.begun > begun)
            .await
            .map(|state| state.begun);
        match heard {
            Ok(begun) => begun,
            // The sender is in `self`.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_hearing_is_told_each_time() {
        let hearing = Hearing::new();
        let second = Duration::from_secs(1);
        assert!(timeout(second, hearing.after(0)).await.is_err());
        hearing.begin();
        let first = hearing.after(0).await;
        assert!(timeout(second, hearing.after(first)).await.is_err());
        hearing.end();
        assert!(timeout(second, hearing.after(0)).await.is_err());
        hearing.begin();
        assert!(hearing.after(first).await > first);
    }
}
