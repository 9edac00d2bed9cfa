//! Session: one connection after another, as long as something is subscribed.
//!
//! The task opens a `Connect` stream, brings the server to what the registry wants, and applies
//! what comes. A dead link shows by HTTP/2 pings (`builder`). After the end of a connection the
//! task waits as [`crate::backoff`] says and opens the next one, unless the server refuses this
//! client for good.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Fuse, FusedFuture as _, OptionFuture, poll_fn},
    stream,
};
use tidewire_proto::v1::{
    AuthRequest, ClientMessage, ServerMessage, Welcome, client_message, server_message::Data,
    stream_service_client::StreamServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use crate::{
    backoff::{Backoff, LONGEST_ASKED},
    calls::{MAX_MESSAGE_BYTES, with_token},
    client::Inner,
    error::{Error, ErrorKind},
    state::ConnectionState,
    token::{Refusals, Token},
};

/// Time for which a connection without subscriptions stays open for the next one.
const LINGER: Duration = Duration::from_secs(10);

/// Time for a reply. The link is alive, so a longer silence is a fault of the server.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Delay of a renewal after the server's notice, or half of the token's time if that is shorter. It
/// bounds how often a source with short tokens is called.
const RENEWAL_DELAY: Duration = Duration::from_secs(5);

/// Messages on their way to the transport.
const OUTGOING: usize = 16;

/// The id of `auth` messages. Those of the registry are numbers.
const AUTH: &str = "auth";

/// Trailer of a stream that the server ended: the code with which it would close a WebSocket.
const CLOSE_CODE: &str = "tidewire-close-code";

/// Close code of a revoked token.
const REVOKED: u16 = 4504;

/// Close code of a server that cannot serve this client for the moment.
const TRY_AGAIN_LATER: u16 = 1013;

/// How a connection ended.
enum End {
    /// Nothing is subscribed.
    Unneeded,
    /// The server drains.
    Drained,
    /// It broke, or could not be opened.
    Lost(Error),
    /// The server has too much to do, or this client exceeded a limit.
    Overloaded(Error),
    /// The server does not accept the token.
    Unauthenticated(Error),
    /// The server refuses this client.
    Refused(Error),
}

/// Ends the streams when the connection's task does, for whatever reason.
struct Task(Arc<Inner>);

impl Drop for Task {
    fn drop(&mut self) {
        let text = "the client's task ended: its Tokio runtime was shut down, or it panicked";
        self.0.close(Some(Error::new(ErrorKind::Closed, text)));
    }
}

/// Keeps the client connected until it is closed.
pub(crate) async fn run(inner: Arc<Inner>) {
    let _task = Task(inner.clone());
    let mut backoff = Backoff::default();
    let mut refusals = Refusals::default();
    while !inner.registry.lock().is_closed() {
        if inner.registry.lock().is_empty() {
            inner.set_state(ConnectionState::Idle);
            inner.changed.notified().await;
            continue;
        }
        let began_at = Instant::now();
        let mut connection = Connection::new(&inner);
        let end = connection.run().await;
        let (was_open, token) = (connection.was_open, connection.token.take());
        let (lasted, drain_at) = (connection.opened_at.elapsed(), connection.drain_at);
        inner.registry.lock().on_disconnect();
        let mut is_stable = false;
        if was_open {
            is_stable = backoff.note_connection(lasted);
            refusals = Refusals::default();
        }
        let mut is_overload = false;
        let error = match end {
            End::Unneeded => continue,
            End::Drained if is_stable => continue,
            // A server that drains each new connection gets no storm of them.
            End::Drained => Error::new(ErrorKind::Unavailable, "the server drains"),
            End::Lost(error) => error,
            End::Overloaded(error) => {
                is_overload = true;
                error
            }
            End::Unauthenticated(error) => {
                // A token that an open connection outlived was good.
                let since = if was_open { Instant::now() } else { began_at };
                let renew = |token| inner.tokens.renew(&token, since, &mut refusals);
                if !token.is_some_and(renew) {
                    inner.close(Some(error));
                    return;
                }
                error
            }
            End::Refused(error) => {
                inner.close(Some(error));
                return;
            }
        };
        let attempt = backoff.attempt();
        let minimum = asked_delay(&error, drain_at, Instant::now());
        let delay = match is_overload {
            true => backoff.next_of_overload(minimum),
            false => backoff.next(minimum),
        };
        tracing::debug!(%error, attempt, ?delay, "reconnecting");
        inner.set_state(ConnectionState::Reconnecting {
            attempt,
            delay,
            error,
        });
        tokio::time::sleep(delay).await;
    }
}

/// The end of a connection that ended with this error: some forbid another attempt. The server's
/// close code, if there is one, tells more than the error.
fn end_of(error: Error, close_code: Option<u16>) -> End {
    match (error.kind(), close_code) {
        (_, Some(REVOKED)) => End::Refused(error),
        (ErrorKind::Unauthenticated, _) => End::Unauthenticated(error),
        // A token of the builder that no header can carry: one of a source is checked.
        (
            ErrorKind::Token
            | ErrorKind::PermissionDenied
            | ErrorKind::InvalidArgument
            | ErrorKind::Unimplemented
            | ErrorKind::InvalidOptions,
            _,
        ) => End::Refused(error),
        (ErrorKind::ResourceExhausted, _) | (_, Some(TRY_AGAIN_LATER)) => End::Overloaded(error),
        _ => End::Lost(error),
    }
}

/// The delay that the server asked for: in its error, or until the time at which the clients of a
/// draining server come back. One that is gone before that time ended all of them at once.
fn asked_delay(error: &Error, drain_at: Option<Instant>, now: Instant) -> Option<Duration> {
    let left = drain_at.map(|at| at.saturating_duration_since(now));
    error.retry_after().max(left.filter(|left| !left.is_zero()))
}

/// The close code in a status of the server.
fn close_code(status: &Status) -> Option<u16> {
    let value = status.metadata().get(CLOSE_CODE)?;
    value.to_str().ok()?.parse().ok()
}

type Renewal = BoxFuture<'static, Result<Option<Token>, Error>>;

/// One connection.
struct Connection<'a> {
    inner: &'a Arc<Inner>,
    was_open: bool,
    token: Option<Token>,
    /// When the server wants this client to come back.
    drain_at: Option<Instant>,
    /// When the connection closes, unless something is subscribed.
    linger_until: Option<Instant>,
    opened_at: Instant,
    /// The server's clock then, in milliseconds since the Unix epoch.
    server_time: i64,
    renewal: Fuse<OptionFuture<Renewal>>,
    /// A new token to send.
    auth: Option<String>,
    /// An error that the server sent before it closes the connection.
    last_error: Option<Error>,
}

impl<'a> Connection<'a> {
    fn new(inner: &'a Arc<Inner>) -> Self {
        Self {
            inner,
            was_open: false,
            token: None,
            drain_at: None,
            linger_until: None,
            opened_at: Instant::now(),
            server_time: 0,
            renewal: Fuse::terminated(),
            auth: None,
            last_error: None,
        }
    }

    /// Opens the connection, and serves it to its end.
    async fn run(&mut self) -> End {
        self.inner.set_state(ConnectionState::Connecting);
        let limit = self.inner.options.connect_timeout;
        // The token has a deadline of its own.
        match self.inner.tokens.get().await {
            Ok(token) => self.token = token,
            Err(error) => return End::Lost(error),
        }
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let opened = match timeout(limit, open(self.inner, self.token.as_ref(), receiver)).await {
            Ok(opened) => opened,
            Err(_) => {
                let text = format!("the server did not answer within {limit:?}");
                Err(Error::new(ErrorKind::Unavailable, text))
            }
        };
        let (stream, welcome) = match opened {
            Ok(opened) => opened,
            Err(error) => return end_of(error, None),
        };
        self.was_open = true;
        self.opened_at = Instant::now();
        self.server_time = welcome.server_time;
        {
            let mut registry = self.inner.registry.lock();
            registry.on_connect(welcome.user_id.clone(), &welcome.subscriptions);
        }
        self.inner.set_state(ConnectionState::Connected {
            connection_id: welcome.connection_id,
            user: welcome.user_id,
        });
        self.serve(stream, sender).await
    }

    async fn serve(
        &mut self,
        mut stream: Streaming<ServerMessage>,
        sender: mpsc::Sender<ClientMessage>,
    ) -> End {
        // When a transport that takes no messages any more is given up. The stream says why it
        // ended, but it may not end.
        let mut mute_until = None;
        loop {
            let now = Instant::now();
            let (has_message, reply_due, retry_at) = {
                let registry = self.inner.registry.lock();
                if registry.is_closed() {
                    return End::Unneeded;
                }
                self.linger_until = match self.linger_until {
                    until if !registry.is_empty() => until.and(None),
                    until => until.or(Some(now + LINGER)),
                };
                let reply_due = registry.oldest_request().map(|sent| sent + REPLY_TIMEOUT);
                let has_message = self.auth.is_some() || registry.has_message(now);
                (has_message, reply_due, registry.next_retry())
            };
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => self.apply(message),
                    Ok(None) => {
                        let text = "the server ended the stream";
                        return End::Lost(self.explain(Error::new(ErrorKind::Unavailable, text)));
                    }
                    Err(status) => {
                        let error = self.explain(Error::of_status(&status));
                        return end_of(error, close_code(&status));
                    }
                },
                permit = sender.reserve(), if has_message && mute_until.is_none() => match permit {
                    Ok(permit) => if let Some(message) = self.next_message() {
                        permit.send(message);
                    },
                    Err(_) => mute_until = Some(now + REPLY_TIMEOUT),
                },
                token = &mut self.renewal, if !self.renewal.is_terminated() => self.renew(token),
                () = at(self.drain_at) => return End::Drained,
                () = at(mute_until) => {
                    let text = "the transport takes no more messages";
                    return End::Lost(Error::new(ErrorKind::Unavailable, text));
                }
                () = at(reply_due) => {
                    let text = format!("the server gave no reply within {REPLY_TIMEOUT:?}");
                    return End::Lost(Error::new(ErrorKind::Unavailable, text));
                }
                () = at(self.linger_until) => return End::Unneeded,
                () = at(retry_at) => {}
                () = self.inner.changed.notified() => {}
            }
        }
    }

    fn next_message(&mut self) -> Option<ClientMessage> {
        if let Some(token) = self.auth.take() {
            return Some(ClientMessage {
                id: Some(AUTH.to_owned()),
                data: Some(client_message::Data::Auth(AuthRequest { token })),
            });
        }
        self.inner.registry.lock().next_message(Instant::now())
    }

    fn apply(&mut self, message: ServerMessage) {
        match &message.data {
            Some(Data::TokenExpiring(expiring)) => {
                let now = self.server_time + elapsed_ms(self.opened_at);
                let left = u64::try_from(expiring.expires_at - now).unwrap_or(0);
                self.renew_after(Duration::from_millis(left / 2).min(RENEWAL_DELAY));
            }
            Some(Data::Reconnect(reconnect)) => {
                let delay = Duration::from_millis(reconnect.after_ms.into()).min(LONGEST_ASKED);
                self.drain_at = Some(Instant::now() + delay);
            }
            Some(Data::Error(error)) if message.id.is_none() => {
                self.last_error = Some(error.clone().into());
            }
            // The server closes the connection when the old token expires. The reason is kept.
            Some(Data::Error(error)) if message.id.as_deref() == Some(AUTH) => {
                self.last_error = Some(error.clone().into());
            }
            Some(Data::Authenticated(_)) if message.id.as_deref() == Some(AUTH) => {
                // An earlier refusal of a token explains no later end.
                self.last_error = None;
            }
            _ => self.inner.registry.lock().apply(message, Instant::now()),
        }
    }

    /// Fetches a new token after a delay.
    fn renew_after(&mut self, delay: Duration) {
        let Some(old) = self.token.clone() else {
            return;
        };
        if !self.inner.tokens.is_renewable() {
            return;
        }
        let inner = self.inner.clone();
        let renewal = async move {
            tokio::time::sleep(delay).await;
            inner.tokens.invalidate(&old);
            inner.tokens.get().await
        };
        self.renewal = OptionFuture::from(Some(renewal.boxed())).fuse();
    }

    /// Takes the new token. If the source fails, the old token is still good for a while.
    fn renew(&mut self, renewed: Option<Result<Option<Token>, Error>>) {
        match renewed {
            Some(Ok(token)) => {
                self.auth = token.as_ref().map(|token| token.text.to_string());
                self.token = token;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the token expires, and there is no new one yet");
                self.renew_after(RENEWAL_DELAY);
            }
            None => {}
        }
    }

    /// Adds the server's own words to the status that ends a connection.
    fn explain(&mut self, end: Error) -> Error {
        match self.last_error.take() {
            Some(error) if error.kind() == end.kind() => error,
            _ => end,
        }
    }
}

/// Opens a `Connect` stream, up to its `welcome`.
async fn open(
    inner: &Inner,
    token: Option<&Token>,
    mut outgoing: mpsc::Receiver<ClientMessage>,
) -> Result<(Streaming<ServerMessage>, Welcome), Error> {
    let channel = inner.endpoint.connect().await;
    let channel = channel.map_err(Error::unreachable)?;
    let messages = stream::poll_fn(move |context| outgoing.poll_recv(context));
    let request = with_token(messages, token)?;
    let mut client = StreamServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.connect(request).await;
    let mut stream = answer
        .map_err(|status| Error::of_status(&status))?
        .into_inner();
    let first = stream.message().await;
    let first = first.map_err(|status| Error::of_status(&status))?;
    match first.and_then(|message| message.data) {
        Some(Data::Welcome(welcome)) => Ok((stream, welcome)),
        Some(Data::Error(error)) => Err(error.into()),
        _ => {
            let text = "the server's first message is not `welcome`";
            Err(Error::new(ErrorKind::Internal, text))
        }
    }
}

/// Milliseconds since a time.
fn elapsed_ms(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// Waits until a time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => poll_fn(|_| std::task::Poll::<()>::Pending).await,
    }
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::{self, ErrorCode};

    use super::*;

    #[test]
    fn a_draining_server_that_ends_early_is_not_met_before_its_time() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let lost = Error::new(ErrorKind::Unavailable, "draining");
        assert_eq!(asked_delay(&lost, None, now), None);
        assert_eq!(asked_delay(&lost, Some(now), now), None);
        let delay = asked_delay(&lost, Some(now + seconds(3)), now);
        assert_eq!(delay, Some(seconds(3)));
        let refused = v1::Error {
            retry_after_ms: Some(5_000),
            ..v1::Error::new(ErrorCode::Unavailable, "not yet")
        };
        let delay = asked_delay(&refused.into(), Some(now + seconds(3)), now);
        assert_eq!(delay, Some(seconds(5)));
    }

    #[test]
    fn the_close_code_tells_which_end_is_final() {
        let end = |kind, code| end_of(Error::new(kind, "an end"), code);
        let (unauthenticated, unavailable) = (ErrorKind::Unauthenticated, ErrorKind::Unavailable);
        assert!(matches!(end(unauthenticated, Some(4504)), End::Refused(_)));
        for code in [Some(4005), Some(4500), None] {
            assert!(matches!(
                end(unauthenticated, code),
                End::Unauthenticated(_)
            ));
        }
        assert!(matches!(end(unavailable, Some(1013)), End::Overloaded(_)));
        assert!(matches!(end(unavailable, Some(4003)), End::Lost(_)));
        let limited = end(ErrorKind::ResourceExhausted, Some(4004));
        assert!(matches!(limited, End::Overloaded(_)));
        let expelled = end(ErrorKind::PermissionDenied, Some(4503));
        assert!(matches!(expelled, End::Refused(_)));
    }
}
