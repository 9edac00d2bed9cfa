//! Rules of a user: filters of the channels, and quiet hours, at a moment.
//!
//! The planner applies them when it makes a job, and the job's store again before each attempt:
//! the user may have set other preferences meanwhile.

use tidewire_notification::{Class, NotificationError, NotificationHub, QuietHours};
use tidewire_proto::v1::{DeliveryFilter, Preferences};
use tidewire_stream::UserId;

use crate::Channel;

/// The rules of a user at a moment.
pub(super) struct Rules {
    preferences: Preferences,
    /// When quiet hours end, if they hold.
    quiet_until_ms: Option<i64>,
}

impl Rules {
    /// The rules that hold at `now_ms`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn read(
        hub: &NotificationHub,
        user: &UserId,
        now_ms: i64,
    ) -> Result<Self, NotificationError> {
        let preferences = hub.preferences(user.as_str()).await?;
        // They were checked when they were set.
        let hours = preferences.quiet_hours.as_ref();
        let hours = hours.and_then(|hours| QuietHours::parse(hours).ok());
        Ok(Self {
            quiet_until_ms: hours.and_then(|hours| hours.end_ms(now_ms)),
            preferences,
        })
    }

    /// Whether one message is to replace all that quiet hours held back.
    pub(super) fn wants_digest(&self) -> bool {
        self.preferences.digest.unwrap_or(false)
    }

    /// Whether a channel is to be used while the user is connected.
    pub(super) fn is_always(&self, channel: Channel) -> bool {
        let filter = self.filter(channel);
        filter.and_then(|filter| filter.always).unwrap_or(false)
    }

    /// Whether a channel delivers this class to the user.
    pub(super) fn passes(&self, hub: &NotificationHub, channel: Channel, class: Class) -> bool {
        hub.passes(self.filter(channel), class)
    }

    /// When the quiet hours end that hold this class back. None if nothing does. Webhooks have no
    /// quiet hours: programs read them.
    pub(super) fn held_until_ms(&self, channel: Channel, class: Class) -> Option<i64> {
        match channel {
            Channel::Webhook => None,
            Channel::Push | Channel::Email => self.quiet_until_ms.filter(|_| !class.is_exempt()),
        }
    }

    fn filter(&self, channel: Channel) -> Option<&DeliveryFilter> {
        let channels = self.preferences.channels.as_ref()?;
        match channel {
            Channel::Webhook => channels.webhook.as_ref(),
            Channel::Push => channels.push.as_ref(),
            Channel::Email => channels.email.as_ref(),
        }
    }
}
