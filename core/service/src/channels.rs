//! Channel operations: publish and history, as RPCs and session messages share them.

use std::sync::Arc;

use tidewire_proto::v1::{
    ErrorCode, GetHistoryRequest, GetHistoryResponse, PublishRequest, PublishResponse,
};
use tidewire_stream::{Caller, Identity, PageLimit, Position, StreamCore, StreamError};

/// Messages that `GetHistory` returns when the request sets no limit.
const HISTORY_LIMIT: u32 = 100;

/// The highest limit that `GetHistory` accepts. It bounds the size of a response.
const MAX_HISTORY_LIMIT: u32 = 10_000;

/// Publish and history over the streaming core. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ChannelOperations {
    stream: Arc<StreamCore>,
}

impl ChannelOperations {
    pub(crate) fn new(stream: Arc<StreamCore>) -> Self {
        Self { stream }
    }

    /// Publishes to a channel.
    pub(crate) async fn publish(
        &self,
        caller: Caller,
        request: PublishRequest,
    ) -> Result<PublishResponse, StreamError> {
        let key = request.idempotency_key.as_deref();
        let (channel, position) = self
            .stream
            .publish_as(caller, &request.channel, request.data, key)
            .await?;
        Ok(PublishResponse {
            channel: channel.as_str().to_owned(),
            epoch: position.epoch.as_str().to_owned(),
            seq: position.seq,
        })
    }

    /// Length that the history in a response should not exceed, in bytes: as much as may wait
    /// for a client.
    pub(crate) fn page_bytes(&self) -> usize {
        self.stream.options().outbox_bytes
    }

    /// Reads the history of a channel, up to about `bytes`.
    pub(crate) async fn history(
        &self,
        identity: &Identity,
        request: GetHistoryRequest,
        bytes: usize,
    ) -> Result<GetHistoryResponse, StreamError> {
        let GetHistoryRequest {
            channel,
            since,
            limit,
        } = request;
        let limit = limit.unwrap_or(HISTORY_LIMIT);
        if limit > MAX_HISTORY_LIMIT {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!("`limit` is {limit}, expected at most {MAX_HISTORY_LIMIT}"),
            ));
        }
        let since = since.map(Position::from);
        let page = PageLimit {
            items: limit as usize,
            bytes,
        };
        let (channel, history) = self
            .stream
            .history_as(identity, &channel, since, page)
            .await?;
        let messages = history.publications.iter().map(|publication| {
            let mut message = publication.to_message();
            // The response names the channel once.
            message.channel = None;
            message
        });
        Ok(GetHistoryResponse {
            channel: channel.as_str().to_owned(),
            epoch: history.top.epoch.as_str().to_owned(),
            seq: history.top.seq,
            messages: messages.collect(),
        })
    }
}
