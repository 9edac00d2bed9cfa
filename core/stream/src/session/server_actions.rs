//! What an operator does to a session: nobody asked for it on the connection itself.

use tidewire_proto::v1::{
    Error, ErrorCode, Subscribed, SubscriptionResult, Unsubscribed, server_message::Data,
};
use tokio::time::Instant;

use super::{
    CloseReason, Session, message,
    subscription::{HeldUntil, Wish},
};
use crate::{ChannelName, Identity, Namespace, Position, StreamError};

impl Session {
    /// When the session was opened, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn opened_at_ms(&self) -> i64 {
        self.0.opened_at_ms
    }

    /// Whether the session follows a channel.
    #[must_use]
    pub fn is_subscribed(&self, channel: &ChannelName) -> bool {
        self.0.state.lock().by_channel.contains_key(channel)
    }

    /// Subscribes the session to a channel and tells the client so, before what the
    /// channel says. Nothing is told to a client that follows it already.
    pub(crate) async fn be_subscribed(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        if self.0.state.lock().closing.is_some() {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                "the connection is about to end",
            ));
        }
        if self.identity() == Identity::Unknown {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                "the client has not given a token yet, and this server wants one",
            ));
        }
        // Held apart from what the client itself asks for meanwhile, whose reply
        // would set it free too early.
        let until = HeldUntil::Announced;
        let (slot, result) = self
            .follow_until(until, channel, namespace, Wish::default())
            .await?;
        let Some(slot) = slot else {
            return Ok(());
        };
        {
            let mut state = self.0.state.lock();
            if state.get(slot).is_none() {
                // The client left the channel, or subscribed anew, meanwhile.
                return Ok(());
            }
            state.send(message(Data::Subscribed(subscribed(result))));
            state.begin(slot, Instant::now());
        }
        self.0.mark();
        Ok(())
    }

    /// Unsubscribes the session from a channel and tells the client so. True if it
    /// followed the channel.
    pub(crate) fn be_unsubscribed(&self, channel: &ChannelName) -> bool {
        let followed = self.unfollow(channel);
        if followed {
            let channels = vec![channel.as_str().to_owned()];
            self.send(message(Data::Unsubscribed(Unsubscribed { channels })));
        }
        followed
    }

    /// Tells the client that a channel it follows began anew at `top`.
    pub(crate) fn be_renewed(&self, channel: &ChannelName, top: &Position) {
        self.0.state.lock().renewed(channel, top);
        self.0.mark();
    }

    /// Ends the session at once: nothing published is sent any more, and nothing is
    /// done in the client's name. True if it was not about to end already.
    pub(crate) fn dismiss(&self, reason: CloseReason) -> bool {
        let was_open = {
            let mut state = self.0.state.lock();
            let was_open = state.closing.replace(reason).is_none();
            state.identity = Identity::Unknown;
            if was_open {
                // Where there is no close code, this tells why.
                state.send(message(Data::Error(parting_word(reason))));
            }
            was_open
        };
        self.leave_all();
        self.0.mark();
        self.0.drained.notify_waiters();
        was_open
    }

    /// Leaves all channels. What waits of them is not sent any more.
    pub(super) fn leave_all(&self) {
        let subscriptions = {
            let mut state = self.0.state.lock();
            state.by_channel.clear();
            std::mem::take(&mut state.subscriptions)
        };
        for (_, subscription) in subscriptions {
            if let Some(key) = subscription.hub_key {
                self.remove_from_hub(&subscription.channel, key);
            }
        }
    }
}

fn subscribed(result: SubscriptionResult) -> Subscribed {
    Subscribed {
        channels: vec![result],
    }
}

fn parting_word(reason: CloseReason) -> Error {
    let (code, message) = match reason {
        CloseReason::Revoked => (ErrorCode::Unauthenticated, "the token was revoked"),
        _ => (
            ErrorCode::PermissionDenied,
            "an operator ended this connection",
        ),
    };
    Error {
        code: code.into(),
        message: message.to_owned(),
        retry_after_ms: None,
    }
}
