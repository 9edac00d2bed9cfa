//! Fan-out of broadcasts: the events of one connected user.
//!
//! They are published under the user's lock, so that what the user does meanwhile comes before
//! or after all of them, and the last count that a client gets is the true one.

use tidewire_proto::v1::Notification;
use tidewire_stream::UserId;

use super::{NotificationHub, parse_id};
use crate::{Audience, Class, HubEvent, NotificationError, draft, work::Work};

impl NotificationHub {
    /// Publishes a broadcast to a user, then the user's count. The notification is left out if
    /// the user does not see its class, or does not have it any more. `notification` is that of
    /// the event.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn publish_broadcast(
        &self,
        user: &str,
        notification: &Notification,
        class: Class,
    ) -> Result<(), NotificationError> {
        let user = draft::check_user("user", user)?;
        let id = parse_id("id", &notification.id)?;
        self.with_user(&user, async |work| {
            let (live, floor) = work.load_for(&user, &[]).await?;
            let unread_count = work.unread(&user);
            let inbox = work.inbox(&user);
            let state = &inbox.state;
            let is_listed = inbox.has_broadcast(id.order, &live, floor);
            if is_listed && state.visibility().shows(class) {
                let read = id.order <= state.broadcast_watermark || state.mark(id.order).is_some();
                let notification = Notification {
                    read,
                    ..notification.clone()
                };
                work.events.push(HubEvent::Notification {
                    user: user.clone(),
                    notification: Box::new(notification),
                    class,
                    unread_count,
                    audience: Audience::Everyone,
                });
            }
            push_count(work, &user);
            Ok(())
        })
        .await
    }

    /// Publishes a user's count.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn publish_count(&self, user: &str) -> Result<(), NotificationError> {
        let user = draft::check_user("user", user)?;
        self.with_user(&user, async |work| {
            work.load([&user], Vec::new()).await?;
            push_count(work, &user);
            Ok(())
        })
        .await
    }
}

pub(super) fn push_count(work: &mut Work<'_>, user: &UserId) {
    let unread_count = work.unread(user);
    work.events.push(HubEvent::UnreadCount {
        user: user.clone(),
        unread_count,
    });
}
