//! Personal channels: each session of a known user is subscribed to its own channel.
//!
//! `welcome` names the subscription. While the broker is away, `welcome` does not wait for it: the
//! session is subscribed as soon as the broker works again, and the client is sent `subscribed`.

use std::{sync::Arc, time::Duration};

use tidewire_proto::v1::{ErrorCode, Subscribed, server_message::Data};
use tokio::time::{Instant, timeout};

use super::{Command, Session, message, recovery::SubscribeOptions};
use crate::{Backoff, ChannelName, Identity, Namespace, StreamError};

/// Longest time for which `welcome` waits for a broker.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// First and longest pause before the next attempt. Each session draws its own, so that very many
/// of them neither ask at once, nor all come in the moment in which the broker is back.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

impl Command {
    /// Subscribes a known user to its personal channel.
    pub(super) async fn subscribe_to_personal_channels(&self) {
        let Identity::User(identity) = self.identity() else {
            return;
        };
        let namespaces = self.core().context.namespaces();
        for personal in namespaces.personal_channels(&identity.user) {
            let failed = match personal {
                Ok((channel, namespace)) => self.subscribe_soon(channel, namespace).await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                tracing::warn!(user = identity.user.as_str(), %error, "cannot subscribe a user to its personal channel");
            }
        }
    }

    /// Subscribes to a channel now, or later if the broker is away.
    async fn subscribe_soon(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        let subscribed = self.subscribe_to(channel.clone(), namespace, SubscribeOptions::default());
        match timeout(LONGEST_WAIT, subscribed).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if error.code() != ErrorCode::Unavailable => return Err(error),
            Ok(Err(_)) | Err(_) => {}
        }
        self.subscribe_later(channel, namespace.clone());
        Ok(())
    }
}

impl Session {
    /// Subscribes to a channel as soon as the broker works again, unless the session ends before.
    fn subscribe_later(&self, channel: ChannelName, namespace: Namespace) {
        // It does not keep a session that has ended.
        let core = Arc::downgrade(&self.0);
        let mut backoff = Backoff::with_jitter(PAUSES.0, PAUSES.1);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(backoff.next_pause()).await;
                let Some(session) = core.upgrade().map(Session) else {
                    return;
                };
                match session.subscribe_unasked(channel.clone(), &namespace).await {
                    Err(error) if error.code() == ErrorCode::Unavailable => {}
                    _ => return,
                }
            }
        });
    }

    /// Subscribes to a channel, and sends `subscribed` before its publications.
    async fn subscribe_unasked(
        &self,
        channel: ChannelName,
        namespace: &Namespace,
    ) -> Result<(), StreamError> {
        if self.is_closing() {
            return Ok(());
        }
        let options = SubscribeOptions::default();
        let (slot, result) = self.subscribe_held(channel, namespace, options).await?;
        let Some(slot) = slot else {
            return Ok(());
        };
        {
            let mut state = self.0.state.lock();
            if state.subscriptions.get_mut(slot).is_none() {
                return Ok(());
            }
            let channels = vec![result];
            state.send(message(Data::Subscribed(Subscribed { channels })));
            state.release_new(slot, Instant::now());
        }
        self.0.mark_dirty();
        Ok(())
    }
}
