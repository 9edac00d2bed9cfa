//! Sending everyone away before the server stops.
//!
//! Each session is told when to come back, a time of its own within the window, and
//! closed once it has taken all that waits for it. They are told in steps over half of
//! the window, so that not all ends and all that comes of it fall into one moment. What
//! is published meanwhile still reaches those who were not told yet: the word goes the way
//! of the publications, through the shard, and overtakes none.

use std::time::Duration;

use tidewire_proto::v1::{Reconnect, ServerMessage, server_message::Data};

use crate::{Session, StreamCore};

/// In how many steps they are told.
const STEPS: u32 = 20;

impl StreamCore {
    /// Sends everyone away, spread over `window`: each is told to come back after
    /// a time of its own, then closed. Whoever still comes is sent away at once.
    pub async fn drain(&self, window: Duration) {
        // Before the sessions are looked at: whoever registers after that sees it.
        let _ = self.draining.set(window);
        let mut sessions = self.sessions();
        let a_step = sessions.len().div_ceil(STEPS as usize).max(1);
        while !sessions.is_empty() {
            let rest = sessions.len().saturating_sub(a_step);
            for session in sessions.drain(rest..) {
                session.send_away(reconnect(window));
            }
            if !sessions.is_empty() {
                tokio::time::sleep(window / 2 / STEPS).await;
            }
        }
    }
}

impl Session {
    /// Sends the client away if the server drains already.
    pub(crate) fn leave_if_draining(&self, stream: &StreamCore) {
        if let Some(window) = stream.draining.get() {
            self.send_away(reconnect(*window));
        }
    }
}

/// The word to come back after a time within the window.
fn reconnect(window: Duration) -> ServerMessage {
    let window_ms = u32::try_from(window.as_millis()).unwrap_or(u32::MAX).max(1);
    let reconnect = Reconnect {
        reason: "the server is about to stop".to_owned(),
        after_ms: rand::random_range(0..window_ms),
    };
    ServerMessage {
        data: Some(Data::Reconnect(reconnect)),
        ..ServerMessage::default()
    }
}
