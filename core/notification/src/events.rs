//! Events: every change that clients see, as the hub publishes it.
//!
//! The hub publishes an event after its change is stored, and before it acknowledges the change.
//! Events of one user keep their order. A broadcast is one event, however many users there are;
//! the receiver fans it out to the connections.
//!
//! A commit may fail and have stored the change all the same. Its events are then published as
//! soon as the store can be read again, or a gap in their place.
//!
//! The receiver passes the events of users to [`UserPushes`](crate::UserPushes), which gathers those
//! of medium and low priority.

use std::sync::Arc;

use tidewire_proto::v1::{Dismissed, Notification, Preferences, ReadReceipt};
use tidewire_stream::{ChannelName, UserId};

use crate::{Audience, NotificationId, kind::Class};

/// A change that clients see.
#[derive(Debug, Clone, PartialEq)]
pub enum HubEvent {
    /// A notification for a user, who sees its class.
    Notification {
        /// The user.
        user: UserId,
        /// The notification. The users of a broadcast share it.
        notification: Arc<Notification>,
        /// Its class, by which delivery channels filter.
        class: Class,
        /// Number of unread notifications after it.
        unread_count: u64,
        /// Whether it is a broadcast.
        audience: Audience,
    },
    /// A notification for everyone. Users whose preferences hide its class do not see it.
    Broadcast {
        /// The notification.
        notification: Arc<Notification>,
        /// Its class.
        class: Class,
    },
    /// A notification for the subscribers of a channel. It is in no inbox: it stays in the store until
    /// the receiver calls [`channel_published`](crate::NotificationHub::channel_published), and comes
    /// again when a hub opens.
    Channel {
        /// The channel.
        channel: ChannelName,
        /// The notification.
        notification: Box<Notification>,
    },
    /// A user read notifications.
    Read {
        /// The user.
        user: UserId,
        /// The notifications, and the count after it.
        receipt: ReadReceipt,
    },
    /// A user dismissed notifications.
    Dismissed {
        /// The user.
        user: UserId,
        /// The notifications, and the count after it.
        dismissed: Dismissed,
    },
    /// A user's count changed by itself, or by new preferences.
    UnreadCount {
        /// The user.
        user: UserId,
        /// Number of unread notifications.
        unread_count: u64,
    },
    /// Broadcasts left all lists. The counts of users may have changed.
    BroadcastRemoval {
        /// The broadcasts.
        ids: Vec<NotificationId>,
    },
    /// A user set preferences. A notification that waits for the user's next batch, and is hidden
    /// now, is not pushed. A count that changes with them is published before.
    Preferences {
        /// The user.
        user: UserId,
        /// The new preferences.
        preferences: Box<Preferences>,
    },
    /// Changes of a user are in the store whose events cannot be published any more: the user's
    /// clients must read list and count again.
    Gap {
        /// The user.
        user: UserId,
    },
    /// The same for all users.
    GapForAll,
}

/// Receiver of events.
pub trait EventSink: Send + Sync + 'static {
    /// Receives an event. Never blocks.
    fn publish(&self, event: HubEvent);
}
