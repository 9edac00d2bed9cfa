//! Channel handlers: publish and history.

use std::sync::Arc;

use tidewire_proto::v1::{Error, GetHistoryRequest, PublishRequest, server_message::Data};
use tidewire_stream::{Command, StreamCore};

use super::handler::{Handler, HandlerRegistry, handles, reply_from_core};
use crate::channels::ChannelOperations;

pub(super) fn register(handlers: &mut HandlerRegistry, stream: &Arc<StreamCore>) {
    let channels = ChannelOperations::new(stream.clone());
    handlers.add(GetHistory(channels.clone()));
    handlers.add(Publish(channels));
}

/// Reads the history of a channel.
struct GetHistory(ChannelOperations);

impl Handler for GetHistory {
    handles!(History(GetHistoryRequest));

    fn visit_channels(&self, request: &GetHistoryRequest, visit: &mut dyn FnMut(&str)) {
        visit(&request.channel);
    }

    async fn answer(&self, command: &Command, request: GetHistoryRequest) -> Result<Data, Error> {
        // The reply counts in the outbox before it is made.
        let room = command.reserve_reply(self.0.page_bytes() / 2);
        let identity = command.identity();
        let history = self.0.history(&identity, request, room.bytes()).await;
        reply_from_core(history, Data::History)
    }
}

/// Publishes to a channel.
struct Publish(ChannelOperations);

impl Handler for Publish {
    handles!(Publish(PublishRequest));

    fn visit_channels(&self, request: &PublishRequest, visit: &mut dyn FnMut(&str)) {
        visit(&request.channel);
    }

    async fn answer(&self, command: &Command, request: PublishRequest) -> Result<Data, Error> {
        let published = self.0.publish(command.caller(), request).await;
        reply_from_core(published, Data::Published)
    }
}
