//! A WebSocket to a node: what alloy's own does, and the reason of its end is kept.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy::{
    pubsub::{ConnectionHandle, ConnectionInterface, PubSubConnect},
    rpc::json_rpc::PubSubItem,
    transports::{Authorization, TransportErrorKind, TransportResult, utils::guess_local_url},
};
use futures::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use reqwest::Url;
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        http::{HeaderMap, HeaderValue, StatusCode, header},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    Failure,
    connection::MESSAGE_BYTES,
    failure::{retry_after, speaks_of_limits, without_address},
};

/// A node that says nothing for so long is asked for a sign of life, and is gone if it gives
/// none in as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection has ended, once it has.
pub(super) type CloseReason = Arc<OnceLock<Failure>>;

/// A connection that stands, for alloy to take once.
pub(super) struct WebSocket {
    url: Url,
    stream: Mutex<Option<Stream>>,
    ended: CloseReason,
}

impl WebSocket {
    /// Connects.
    pub(super) async fn open(url: &Url, tls: Arc<ClientConfig>) -> Result<Self, Failure> {
        let broken = |error: Error| match error {
            Error::Http(response) => refused(response.status(), response.headers()),
            other => Failure::Unreachable(without_address(&other.to_string())),
        };
        let mut request = url.as_str().into_client_request().map_err(broken)?;
        if let Some(authorization) = Authorization::extract_from_url(url) {
            let value = HeaderValue::from_str(&authorization.to_string());
            let value = value.map_err(|error| Failure::Unreachable(error.to_string()))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        let connector = Connector::Rustls(tls);
        // A future of some kilobytes.
        let connecting = Box::pin(connect_async_tls_with_config(
            request,
            Some(config),
            true,
            Some(connector),
        ));
        let (stream, _) = connecting.await.map_err(broken)?;
        Ok(Self {
            url: url.clone(),
            stream: Mutex::new(Some(stream)),
            ended: CloseReason::default(),
        })
    }

    /// Where the reason of its end will be.
    pub(super) fn ended(&self) -> CloseReason {
        self.ended.clone()
    }
}

impl PubSubConnect for WebSocket {
    fn is_local(&self) -> bool {
        guess_local_url(self.url.as_str())
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        let stream = self.stream.lock().take();
        let stream = stream
            .ok_or_else(|| TransportErrorKind::non_retryable_str("the connection was taken"))?;
        let (handle, interface) = ConnectionHandle::new();
        tokio::spawn(carry(stream, interface, self.ended.clone()));
        Ok(handle)
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str(
            "the connection ended",
        ))
    }
}

/// Carries messages until either side ends. Ends with the link that holds its other side.
async fn carry(mut stream: Stream, mut interface: ConnectionInterface, ended: CloseReason) {
    let (mut is_asked, mut due) = (false, Instant::now() + KEEPALIVE);
    let why = loop {
        let turn = tokio::select! {
            biased;
            message = interface.recv_from_frontend() => match message {
                Some(message) => send(&mut stream, Message::text(message.get())).await,
                // Nobody needs it any more.
                None => {
                    let _ = timeout(KEEPALIVE, stream.close(None)).await;
                    return;
                }
            },
            message = stream.next() => {
                (is_asked, due) = (false, Instant::now() + KEEPALIVE);
                take(message, &interface)
            }
            () = sleep_until(due) => {
                if is_asked {
                    let message = format!("no sign of life within {KEEPALIVE:?}");
                    break Failure::Unreachable(message);
                }
                (is_asked, due) = (true, Instant::now() + KEEPALIVE);
                send(&mut stream, Message::Ping(Vec::new().into())).await
            }
        };
        if let Err(failure) = turn {
            break failure;
        }
    };
    // Kept before anyone learns that it ended.
    let _ = ended.set(why);
    interface.close_with_error();
}

async fn send(stream: &mut Stream, message: Message) -> Result<(), Failure> {
    let stuck = || Failure::Unreachable(format!("it takes nothing within {KEEPALIVE:?}"));
    let sent = timeout(KEEPALIVE, stream.send(message)).await;
    let sent = sent.map_err(|_| stuck())?;
    sent.map_err(|error| Failure::Unreachable(without_address(&error.to_string())))
}

fn take(
    message: Option<Result<Message, Error>>,
    interface: &ConnectionInterface,
) -> Result<(), Failure> {
    let text = match message {
        Some(Ok(Message::Text(text))) => text,
        Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref())),
        Some(Ok(_)) => return Ok(()),
        Some(Err(error)) => {
            return Err(Failure::Unreachable(without_address(&error.to_string())));
        }
        None => return Err(Failure::Unreachable("the connection ended".to_owned())),
    };
    let item: PubSubItem = serde_json::from_str(&text)
        .map_err(|error| Failure::Nonsense(format!("a message that is no JSON-RPC: {error}")))?;
    let gone = |_| Failure::Unreachable("the connection was given up".to_owned());
    interface.send_to_frontend(item).map_err(gone)
}

/// What an upgrade that is refused means.
fn refused(status: StatusCode, headers: &HeaderMap) -> Failure {
    let message = format!("HTTP status {}", status.as_u16());
    let after = retry_after(headers);
    if status == StatusCode::TOO_MANY_REQUESTS || after.is_some() {
        return Failure::Limited { after, message };
    }
    Failure::Unreachable(message)
}

/// What it means that a node closes. Those that limit rates have no code of their own for it:
/// they say that the client broke a rule, is to come again later, or write it out.
fn closed(frame: Option<&CloseFrame>) -> Failure {
    let Some(frame) = frame else {
        return Failure::Unreachable("it closed the connection".to_owned());
    };
    let message = format!(
        "it closed the connection with {}: {}",
        frame.code, frame.reason
    );
    let is_limit = matches!(frame.code, CloseCode::Policy | CloseCode::Again)
        || speaks_of_limits(&frame.reason);
    if is_limit {
        return Failure::Limited {
            after: None,
            message,
        };
    }
    Failure::Unreachable(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_told_apart_by_what_to_do() {
        let close = |code: u16, reason: &'static str| {
            closed(Some(&CloseFrame {
                code: code.into(),
                reason: reason.into(),
            }))
        };
        for (code, reason) in [
            (1008, ""),
            (1013, "try again later"),
            (4029, "Too Many Requests"),
            (1000, "rate limit reached"),
        ] {
            let failure = close(code, reason);
            assert!(matches!(failure, Failure::Limited { .. }), "{failure}");
        }
        for (code, reason) in [(1000, ""), (1001, "going away"), (1011, "oops")] {
            let failure = close(code, reason);
            assert!(matches!(failure, Failure::Unreachable(_)), "{failure}");
        }
        assert!(matches!(closed(None), Failure::Unreachable(_)));
    }

    #[test]
    fn a_refused_upgrade_may_say_when_to_come_again() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let expected = Failure::Limited {
            after: Some(Duration::from_secs(7)),
            message: "HTTP status 503".to_owned(),
        };
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, &headers), expected);
        let limited = refused(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new());
        assert!(matches!(limited, Failure::Limited { after: None, .. }));
        let forbidden = refused(StatusCode::FORBIDDEN, &HeaderMap::new());
        assert!(matches!(forbidden, Failure::Unreachable(_)));
    }
}
