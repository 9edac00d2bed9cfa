//! Sink: publishes fires on the users' channels, and notifies through the notification hub. On a store that
//! other nodes share, it publishes under the fence of its term.

use std::sync::Arc;

use tidewire_alert::{AlertSink, SinkError, SinkFuture};
use tidewire_notification::NotificationError;
use tidewire_proto::v1::{AlertEvent, NotifyRequest, Priority, server_message::Data};
use tidewire_service::NotifyRpc;
use tidewire_stream::{ChannelName, StreamCore, Urgency, UserId, broker::Fence};

use super::TransactionWatches;

/// The sender of the notifications, to which their idempotency keys belong. No token has this
/// subject.
const SENDER: &str = "\0alerts";

/// Publishes and notifies.
#[derive(Clone)]
pub(super) struct ChannelSink {
    pub(super) stream: Arc<StreamCore>,
    notify: NotifyRpc,
    watches: Arc<TransactionWatches>,
    fence: Option<Arc<Fence>>,
}

impl ChannelSink {
    pub(super) fn new(
        stream: Arc<StreamCore>,
        notify: NotifyRpc,
        watches: Arc<TransactionWatches>,
    ) -> Self {
        Self {
            stream,
            notify,
            watches,
            fence: None,
        }
    }

    /// The sink of a term.
    pub(super) fn with_fence(&self, fence: Option<Arc<Fence>>) -> Self {
        Self {
            fence,
            ..self.clone()
        }
    }
}

impl AlertSink for ChannelSink {
    fn publish(&self, user: &UserId, event: AlertEvent) {
        let Ok(channel) = ChannelName::user(user.as_str()) else {
            return;
        };
        let priority = event.rule.as_ref().map(|rule| rule.priority());
        let urgency = match priority {
            Some(Priority::Urgent) => Urgency::Urgent,
            _ => Urgency::Ordinary,
        };
        // The log has it for a user who was not connected lately.
        self.stream
            .publish_if_known(&channel, Data::Alert(event), urgency, self.fence.as_ref());
    }

    fn is_watched(&self, user: &str) -> bool {
        ChannelName::user(user).is_ok_and(|channel| self.stream.is_known(&channel))
    }

    fn notify(&self, requests: Vec<NotifyRequest>) -> SinkFuture<'_, Vec<Result<(), SinkError>>> {
        Box::pin(async move {
            let hub = match self.notify.open_hub() {
                Ok(hub) => hub,
                Err(error) => {
                    let absent = || SinkError::Unavailable(error.message().to_owned());
                    return requests.iter().map(|_| Err(absent())).collect();
                }
            };
            let sender = UserId::new(SENDER);
            let results = hub.notify_batch(&sender, requests).await.into_iter();
            results
                .map(|result| match result {
                    // An earlier version of the server has sent it with another text.
                    Ok(_) | Err(NotificationError::KeyReuse(_)) => Ok(()),
                    Err(error @ NotificationError::Unavailable(_)) => {
                        Err(SinkError::Unavailable(error.to_string()))
                    }
                    Err(error) => Err(SinkError::Refused(error.to_string())),
                })
                .collect()
        })
    }

    fn follow(&self, user: &str, chain: u64, hash: &str) {
        self.watches.add(user, chain, hash);
    }
}
