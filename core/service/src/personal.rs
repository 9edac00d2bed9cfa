//! Personal requests: whose data a request concerns, and the stream of a user's own channel.
//!
//! Notifications and alerts share the rules: a request concerns the caller's own data, and a back
//! end, with the `service` scope, names the user.

use std::pin::Pin;

use futures::{Stream, StreamExt as _, stream};
use tidewire_proto::v1::{ErrorCode, server_message::Data};
use tidewire_stream::{
    Caller, ChannelName, Connection, ConnectionInfo, OutgoingMessage, Scope, StreamCore,
    StreamError, Target,
};
use tonic::Status;

use crate::connection::{BATCH_BYTES, close_status};

/// Names of one kind of personal data, in errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PersonalData {
    /// The owner that a missing `user` would name: "the user whose inbox it is".
    pub(crate) expected: &'static str,
    /// Whose the data is: "an inbox belongs to a user".
    pub(crate) ownership: &'static str,
    /// The end of a stream after a gap: "notifications were missed: list them, …".
    pub(crate) missed: &'static str,
}

impl PersonalData {
    /// The user whose data a request concerns.
    pub(crate) fn owner(&self, caller: &Caller, user: Option<&str>) -> Result<String, StreamError> {
        caller.identity.require_known()?;
        if caller.identity.has(Scope::Service) {
            return user.map(str::to_owned).ok_or_else(|| {
                let text = format!("`user` is missing, expected {}", self.expected);
                StreamError::new(ErrorCode::InvalidArgument, text)
            });
        }
        let Some(own) = caller.identity.user() else {
            let text = format!("{}: this needs a token", self.ownership);
            return Err(StreamError::new(ErrorCode::PermissionDenied, text));
        };
        match user {
            Some(other) if other != own.as_str() => {
                let text = "`user` is another user, expected your own id or none";
                Err(StreamError::new(ErrorCode::PermissionDenied, text))
            }
            _ => Ok(own.as_str().to_owned()),
        }
    }

    /// The events of a user's channel from which `select` makes items. It ends with the session, or
    /// when events were missed.
    ///
    /// # Errors
    /// The id cannot name a channel, or the session cannot be subscribed.
    pub(crate) async fn stream<T: Send + 'static>(
        &self,
        core: &StreamCore,
        user: &str,
        info: ConnectionInfo,
        select: fn(&Data, &mut Vec<Result<T, Status>>),
    ) -> Result<PersonalStream<T>, StreamError> {
        let channel = ChannelName::user(user).map_err(|error| {
            let text = format!("`user`: {user:?} is not the id of a user: {error}");
            StreamError::new(ErrorCode::InvalidArgument, text)
        })?;
        let connection = core.connect(info).await;
        // A user's own session is subscribed already. A back end's is subscribed here.
        if !connection.is_subscribed(&channel) {
            let target = Target::Connection(connection.id().as_str());
            core.subscribe_target(target, channel.as_str()).await?;
        }
        Ok(Box::pin(events(connection, channel, self.missed, select)))
    }
}

/// A stream of a user's events.
pub(crate) type PersonalStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn events<T: Send + 'static>(
    connection: Connection,
    channel: ChannelName,
    missed: &'static str,
    select: fn(&Data, &mut Vec<Result<T, Status>>),
) -> impl Stream<Item = Result<T, Status>> + Send {
    let start = Some((connection, channel));
    let batches = stream::unfold(start, move |state| async move {
        let (connection, channel) = state?;
        let mut out = Vec::new();
        if let Err(reason) = connection.next(BATCH_BYTES, &mut out).await {
            return Some((vec![Err(close_status(reason))], None));
        }
        let mut items = Vec::new();
        for message in &out {
            match message {
                OutgoingMessage::Publication(publication) if *publication.channel() == channel => {
                    select(&publication.event(), &mut items);
                }
                OutgoingMessage::Direct(direct)
                    if matches!(direct.to_message().data, Some(Data::Gap(_))) =>
                {
                    items.push(Err(Status::unavailable(missed)));
                    return Some((items, None));
                }
                _ => {}
            }
        }
        Some((items, Some((connection, channel))))
    });
    batches.flat_map(stream::iter)
}
