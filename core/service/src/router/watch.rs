//! The messages that `WatchService` answers.

use tidewire_proto::v1::{
    Error, GetLatestBlockRequest, SessionWatchRequest, server_message::Data,
    watch_service_server::WatchService as _,
};
use tidewire_stream::Session;

use super::handler::{Handler, Handlers, answered, answers, asking, said};
use crate::WatchRpc;

pub(super) fn register(handlers: &mut Handlers, watch: &WatchRpc) {
    handlers.add(GetBlock(watch.clone()));
    handlers.add(Watch(watch.clone()));
    handlers.add(Unwatch(watch.clone()));
}

/// Tells the newest block of a chain.
struct GetBlock(WatchRpc);

impl Handler for GetBlock {
    answers!(GetBlock(GetLatestBlockRequest));

    async fn answer(
        &self,
        session: &Session,
        request: GetLatestBlockRequest,
    ) -> Result<Data, Error> {
        let answer = self.0.get_latest_block(asking(session, request)).await;
        answered(answer, Data::Block)
    }
}

/// Watches a transaction or events.
struct Watch(WatchRpc);

impl Handler for Watch {
    answers!(Watch(SessionWatchRequest));

    async fn answer(&self, session: &Session, request: SessionWatchRequest) -> Result<Data, Error> {
        said(self.0.watch_in(session, request).await, Data::Watching)
    }
}

/// Watches them no more.
struct Unwatch(WatchRpc);

impl Handler for Unwatch {
    answers!(Unwatch(SessionWatchRequest));

    async fn answer(&self, session: &Session, request: SessionWatchRequest) -> Result<Data, Error> {
        let ended = self.0.unwatch_in(session, &request);
        said(ended, |()| Data::Unwatched(request))
    }
}
