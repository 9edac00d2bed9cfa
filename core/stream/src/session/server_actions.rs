//! Server actions: changes of a session without a command of its client.
//!
//! Operators subscribe, unsubscribe and disconnect sessions. The server ends subscriptions that
//! a fresh token does not allow, and sessions to drain.

use std::time::Duration;

use tidewire_proto::v1::{
    Error, ErrorCode, Reconnect, Subscribed, Unsubscribed, server_message::Data,
};
use tokio::time::Instant;

use super::{CloseReason, Session, lifetime::closing_error, message, recovery::SubscribeOptions};
use crate::{ChannelName, Identity, Namespace, Position, StreamError, hub::ShardId};

impl Session {
    /// Subscribes the session to a channel, and sends `subscribed` before its publications. A
    /// session that is subscribed already is sent nothing.
    pub(crate) async fn server_subscribe(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        if self.is_closing() {
            return Err(closing_error());
        }
        if self.identity() == Identity::Unknown {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                "the client has not sent a token yet, and this server requires one",
            ));
        }
        let granted = channel.clone();
        let (slot, result) = self
            .subscribe_held(channel, namespace, SubscribeOptions::default())
            .await?;
        {
            let mut state = self.0.state.lock();
            let Some(slot) = slot else {
                // The client is subscribed already. From now on it needs no permission.
                if let Some(subscription) = state.subscriptions.on_mut(&granted) {
                    subscription.grant();
                }
                return Ok(());
            };
            let Some(subscription) = state.subscriptions.get_mut(slot) else {
                // The client unsubscribed, or subscribed again, meanwhile.
                return Ok(());
            };
            subscription.grant();
            let channels = vec![result];
            state.send(message(Data::Subscribed(Subscribed { channels })));
            state.release_new(slot, Instant::now());
        }
        self.0.mark_dirty();
        Ok(())
    }

    /// Unsubscribes the session from a channel, and sends `unsubscribed`. True if it was
    /// subscribed.
    pub(crate) fn server_unsubscribe(
        &self,
        channel: &ChannelName,
        reason: UnsubscribeReason,
    ) -> bool {
        let was_subscribed = self.unsubscribe_from(channel).is_some();
        if was_subscribed {
            self.send_unsubscribed([channel], reason);
        }
        was_subscribed
    }

    /// Ends the subscriptions that the client may not read any more, and sends `unsubscribed`.
    /// Those of an operator stay.
    pub(super) fn recheck_subscriptions(&self) {
        let identity = self.identity();
        let own: Vec<ChannelName> = {
            let state = self.0.state.lock();
            let all = state.subscriptions.iter().map(|(_, one)| one);
            let own = all.filter(|one| !one.is_granted());
            own.map(|one| one.channel().clone()).collect()
        };
        let namespaces = self.0.context.namespaces();
        let may_read = |channel: &ChannelName| {
            let namespace = namespaces.find(channel)?;
            namespaces.may_read(&identity, channel, namespace)
        };
        let mut lost = own;
        lost.retain(|channel| {
            may_read(channel).is_err() && self.unsubscribe_from(channel).is_some()
        });
        if !lost.is_empty() {
            self.send_unsubscribed(&lost, UnsubscribeReason::NotPermitted);
        }
    }

    fn send_unsubscribed<'a>(
        &self,
        channels: impl IntoIterator<Item = &'a ChannelName>,
        reason: UnsubscribeReason,
    ) {
        let channels = channels.into_iter();
        self.send(message(Data::Unsubscribed(Unsubscribed {
            channels: channels.map(|one| one.as_str().to_owned()).collect(),
            reason: Some(reason.text().to_owned()),
        })));
    }

    /// Sends `gap` if the session is subscribed to a channel that begins a new epoch.
    pub(crate) fn start_new_epoch(&self, channel: &ChannelName, newest: &Position) {
        self.0.state.lock().start_new_epoch(channel, newest);
        self.0.mark_dirty();
    }

    /// Ends the session at once: no publication is sent any more, and no command runs in the
    /// client's name. True if it was not about to end already.
    pub(crate) fn disconnect(&self, reason: CloseReason) -> bool {
        self.expel(reason, disconnect_error(reason))
    }

    /// Ends the session because the server stops: the client is to come back within `window`,
    /// at a random time. Publications of before are sent first.
    pub(crate) fn drain(&self, window: Duration) {
        let window_ms = u32::try_from(window.as_millis()).unwrap_or(u32::MAX).max(1);
        let reconnect = message(Data::Reconnect(Reconnect {
            reason: "the server is about to stop".to_owned(),
            after_ms: rand::random_range(0..window_ms),
        }));
        match self.0.shard_id() {
            ShardId::CALLER => self.0.leave(reconnect),
            // The message goes the way of the publications, and overtakes none.
            shard => {
                let shard = self.0.context.hub().shard(shard);
                shard.leave(self.0.clone(), reconnect);
            }
        }
    }

    /// Ends a session that opens while the server drains.
    pub(super) fn leave_if_draining(&self) {
        if let Some(window) = self.0.context.draining() {
            self.drain(window);
        }
    }

    /// Ends all subscriptions, and drops their queued publications.
    pub(super) fn unsubscribe_from_all(&self) {
        let subscriptions = self.0.state.lock().unsubscribe_all();
        for subscription in subscriptions {
            if let Some(key) = subscription.hub_key() {
                self.remove_from_hub(subscription.channel(), key);
            }
        }
    }
}

/// Why the server ends a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnsubscribeReason {
    /// An operator ended it.
    Operator,
    /// The client may not read the channel any more.
    NotPermitted,
}

impl UnsubscribeReason {
    fn text(self) -> &'static str {
        match self {
            Self::Operator => "an operator ended the subscription",
            Self::NotPermitted => "the client may not read the channel any more",
        }
    }
}

fn disconnect_error(reason: CloseReason) -> Error {
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
