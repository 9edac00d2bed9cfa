//! The messages that `StreamService` answers.

use tidewire_proto::v1::{
    Error, GetHistoryRequest, PublishRequest, server_message::Data,
    stream_service_server::StreamService as _,
};
use tidewire_stream::Session;

use super::handler::{Handler, Handlers, answered, answers, asking};
use crate::StreamRpc;

pub(super) fn register(handlers: &mut Handlers, stream: &StreamRpc) {
    handlers.add(History(stream.clone()));
    handlers.add(Publish(stream.clone()));
}

/// Reads a channel's history.
struct History(StreamRpc);

impl Handler for History {
    answers!(History(GetHistoryRequest));

    async fn answer(&self, session: &Session, request: GetHistoryRequest) -> Result<Data, Error> {
        let answer = self.0.get_history(asking(session, request)).await;
        answered(answer, Data::History)
    }
}

/// Publishes to a channel.
struct Publish(StreamRpc);

impl Handler for Publish {
    answers!(Publish(PublishRequest));

    async fn answer(&self, session: &Session, request: PublishRequest) -> Result<Data, Error> {
        let answer = self.0.publish(asking(session, request)).await;
        answered(answer, Data::Published)
    }
}
