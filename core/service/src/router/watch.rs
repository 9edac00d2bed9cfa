//! The messages that `WatchService` answers.

use tidewire_proto::v1::{
    Error, GetLatestBlockRequest, server_message::Data, watch_service_server::WatchService as _,
};
use tidewire_stream::Session;

use super::handler::{Handler, Handlers, answered, answers, asking};
use crate::WatchRpc;

pub(super) fn register(handlers: &mut Handlers, watch: &WatchRpc) {
    handlers.add(GetBlock(watch.clone()));
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
