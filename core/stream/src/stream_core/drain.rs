//! Drain: ends all sessions before the server stops.
//!
//! Each session is sent `reconnect` with a random time, and closed once its outbox is empty. Sessions are
//! ended in steps over half of the window, and that time grows with their number up to the window, so
//! that clients do not all come back at once, and few clients do not wait for long. The message goes through the shard like a
//! publication, and so overtakes none. Publications reach the other sessions meanwhile.
//!
//! The first step waits for a fifth of the window: a proxy that asks `/readyz` each second has to
//! learn of the drain before a client comes back, or sends it here again.

use std::time::Duration;

use super::StreamCore;

/// Steps in which sessions are ended: enough that one step is a small part of them.
const STEPS: u32 = 20;

/// Time that each session adds to that within which clients come back: as long as that is below the
/// window, other servers get 500 clients a second.
const PER_SESSION: Duration = Duration::from_millis(2);

/// Part of the window before the first step, as a divisor.
const NOTICE: u32 = 5;

impl StreamCore {
    /// Ends all sessions, spread over `window`. A session that opens later is ended at once.
    /// Without a session it returns at once.
    pub async fn drain(&self, window: Duration) {
        // Before the sessions are listed: one that opens afterwards sees it.
        self.context.start_draining(window);
        let mut sessions = self.context.registry().all();
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        let step = window / 2 / STEPS;
        let spread = PER_SESSION.saturating_mul(count).max(step).min(window);
        let per_step = sessions.len().div_ceil(STEPS as usize).max(1);
        if !sessions.is_empty() {
            tokio::time::sleep(window / NOTICE).await;
        }
        while !sessions.is_empty() {
            let rest = sessions.len().saturating_sub(per_step);
            for session in sessions.drain(rest..) {
                session.drain(spread);
            }
            if !sessions.is_empty() {
                tokio::time::sleep(step).await;
            }
        }
    }
}
