//! Watch handlers: latest block, watch and unwatch.

use tidewire_proto::v1::{
    Error, GetLatestBlockRequest, SessionWatchRequest, server_message::Data,
    watch_service_server::WatchService as _,
};
use tidewire_stream::Command;

use super::handler::{
    Handler, HandlerRegistry, handles, reply_from_core, reply_from_service, request_as,
};
use crate::WatchRpc;

pub(super) fn register(handlers: &mut HandlerRegistry, watch: &WatchRpc) {
    handlers.add(GetBlock(watch.clone()));
    handlers.add(Watch(watch.clone()));
    handlers.add(Unwatch(watch.clone()));
}

/// Reads the latest block of a chain.
struct GetBlock(WatchRpc);

impl Handler for GetBlock {
    handles!(GetBlock(GetLatestBlockRequest));

    async fn answer(
        &self,
        command: &Command,
        request: GetLatestBlockRequest,
    ) -> Result<Data, Error> {
        let answer = self.0.get_latest_block(request_as(command, request)).await;
        reply_from_service(answer, Data::Block)
    }
}

/// Subscribes the session to a transaction or to contract events.
struct Watch(WatchRpc);

impl Handler for Watch {
    handles!(Watch(SessionWatchRequest));

    fn visit_channels(&self, request: &SessionWatchRequest, visit: &mut dyn FnMut(&str)) {
        if let Ok(channel) = self.0.watched_channel(request) {
            visit(&channel);
        }
    }

    async fn answer(&self, command: &Command, request: SessionWatchRequest) -> Result<Data, Error> {
        reply_from_core(self.0.watch_in(command, request).await, Data::Watching)
    }
}

/// Ends a watch of the session.
struct Unwatch(WatchRpc);

impl Handler for Unwatch {
    handles!(Unwatch(SessionWatchRequest));

    fn visit_channels(&self, request: &SessionWatchRequest, visit: &mut dyn FnMut(&str)) {
        if let Ok(channel) = self.0.watched_channel(request) {
            visit(&channel);
        }
    }

    async fn answer(&self, command: &Command, request: SessionWatchRequest) -> Result<Data, Error> {
        let ended = self.0.unwatch_in(command, &request);
        reply_from_core(ended, |()| Data::Unwatched(request))
    }
}
