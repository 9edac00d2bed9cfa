//! Posted commands: messages of SSE clients, which come as requests of their own, perhaps to another
//! server than the one of the event stream.

use std::pin::Pin;

use http::StatusCode;
use tidewire_proto::{
    json,
    v1::{Error, ErrorCode},
};
use tidewire_service::Router;
use tidewire_stream::{PostHandler, PostedCommand, Session, StreamError, UserId};

use crate::reply::{HttpError, parse_failure};

/// Carries out commands that other servers received.
#[derive(Debug)]
pub(crate) struct Posts(Router);

impl Posts {
    pub(crate) fn new(router: Router) -> Self {
        Self(router)
    }

    async fn carry_out(
        &self,
        session: Option<Session>,
        command: &PostedCommand,
    ) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let session = session.filter(takes_posts).ok_or_else(no_such_connection)?;
        if !has_key(&session, command.key.as_deref()) {
            check_user(&session, command.user.as_ref())?;
        }
        answer(&self.0, &session, &command.body).await
    }
}

impl PostHandler for Posts {
    fn post<'a>(
        &'a self,
        session: Option<Session>,
        command: &'a PostedCommand,
    ) -> Pin<Box<dyn Future<Output = (u16, Vec<u8>)> + Send + 'a>> {
        Box::pin(async move {
            let (status, body) = match self.carry_out(session, command).await {
                Ok(reply) => reply,
                Err(error) => {
                    let status = error.status();
                    (status, json::to_vec(&error.into_error()))
                }
            };
            (status.as_u16(), body)
        })
    }
}

/// Whether commands for a session come beside its connection.
pub(super) fn takes_posts(session: &Session) -> bool {
    session.post_key().is_some()
}

/// Whether a request proves by the key that it is the client's.
pub(super) fn has_key(session: &Session, key: Option<&str>) -> bool {
    key.is_some() && key == session.post_key()
}

/// Checks that a request without the key comes from the user of the session.
pub(super) fn check_user(session: &Session, user: Option<&UserId>) -> Result<(), HttpError> {
    if user.is_some() && user == session.identity().user() {
        return Ok(());
    }
    Err(StreamError::new(
        ErrorCode::PermissionDenied,
        "this connection belongs to another client: send its `postKey` as `?key=`, or a token of its user",
    )
    .into())
}

/// The status and the reply to a command.
///
/// # Errors
/// The session has ended.
pub(super) async fn answer(
    router: &Router,
    session: &Session,
    body: &[u8],
) -> Result<(StatusCode, Vec<u8>), HttpError> {
    session.record_received(body.len());
    if let Some(quota) = session.quota() {
        quota.record_received(body.len());
    }
    if session.is_closing() {
        return Err(no_such_connection());
    }
    // Publications that the command releases follow on the event stream after the reply.
    let command = session.begin_command();
    let (status, reply) = match json::parse_client(body) {
        Ok(message) => (StatusCode::OK, router.answer(&command, message).await),
        Err(error) => {
            let (id, error): (_, Error) = parse_failure(error);
            let reply = router.answer_unreadable(session, id, error);
            (StatusCode::BAD_REQUEST, reply)
        }
    };
    Ok((status, json::to_vec(&reply)))
}

pub(super) fn no_such_connection() -> HttpError {
    StreamError::new(ErrorCode::NotFound, "there is no such SSE connection here").into()
}
