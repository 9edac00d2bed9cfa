//! Publications: what was said on a channel.

use crate::ChannelName;

/// What a publication says: the `type` and `data` of a server message.
pub type Event = tidewire_proto::v1::server_message::Data;

/// Takes what engines have to say.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes `event` on `channel`. Never blocks: on one channel, events keep
    /// their order.
    fn publish(&self, channel: &ChannelName, event: Event);
}
