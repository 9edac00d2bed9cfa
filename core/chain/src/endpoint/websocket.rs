//! WebSocket transport: carries JSON-RPC to a node, and records why the connection ended.
//!
//! It replaces alloy's own transport, which hides the reason. The reason matters: a node that
//! closes a connection for its rate must be left alone for longer than one that crashed.

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
    connection::MAX_MESSAGE_BYTES,
    failure::{mentions_rate_limit, retry_after, without_url},
};

/// The silence after which the node is pinged. After as much silence again the connection is
/// dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The reason why a connection ended. Empty while it is open.
pub(super) type CloseReason = Arc<OnceLock<Failure>>;

/// An open connection, which alloy takes over once.
pub(super) struct WebSocket {
    url: Url,
    stream: Mutex<Option<Stream>>,
    close_reason: CloseReason,
}

impl WebSocket {
    /// Connects to a node.
    pub(super) async fn connect_to(url: &Url, tls: Arc<ClientConfig>) -> Result<Self, Failure> {
        let failure = |error: Error| match error {
            Error::Http(response) => refused(response.status(), response.headers()),
            other => Failure::Unreachable(without_url(&other.to_string())),
        };
        let mut request = url.as_str().into_client_request().map_err(failure)?;
        if let Some(authorization) = Authorization::extract_from_url(url) {
            let value = HeaderValue::from_str(&authorization.to_string());
            let value = value.map_err(|error| Failure::Unreachable(error.to_string()))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let connector = Connector::Rustls(tls);
        // Boxed, as this future has some kilobytes.
        let connecting = Box::pin(connect_async_tls_with_config(
            request,
            Some(config),
            true,
            Some(connector),
        ));
        let (stream, _) = connecting.await.map_err(failure)?;
        Ok(Self {
            url: url.clone(),
            stream: Mutex::new(Some(stream)),
            close_reason: CloseReason::default(),
        })
    }

    /// The cell that receives the reason when the connection ends.
    pub(super) fn close_reason(&self) -> CloseReason {
        self.close_reason.clone()
    }
}

impl PubSubConnect for WebSocket {
    fn is_local(&self) -> bool {
        guess_local_url(self.url.as_str())
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        let stream = self.stream.lock().take();
        let stream = stream.ok_or_else(|| {
            TransportErrorKind::non_retryable_str("the connection is in use already")
        })?;
        let (handle, interface) = ConnectionHandle::new();
        tokio::spawn(forward(stream, interface, self.close_reason.clone()));
        Ok(handle)
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str(
            "the connection ended",
        ))
    }
}

/// Forwards messages until one side ends. The task ends with the connection that owns the
/// other side of `interface`.
async fn forward(
    mut stream: Stream,
    mut interface: ConnectionInterface,
    close_reason: CloseReason,
) {
    let (mut is_pinged, mut due) = (false, Instant::now() + KEEP_ALIVE);
    let reason = loop {
        let result = tokio::select! {
            biased;
            message = interface.recv_from_frontend() => match message {
                Some(message) => send(&mut stream, Message::text(message.get())).await,
                // The owner dropped the connection.
                None => {
                    let _ = timeout(KEEP_ALIVE, stream.close(None)).await;
                    return;
                }
            },
            message = stream.next() => {
                (is_pinged, due) = (false, Instant::now() + KEEP_ALIVE);
                receive(message, &interface)
            }
            () = sleep_until(due) => {
                if is_pinged {
                    let message = format!("no response to a ping within {KEEP_ALIVE:?}");
                    break Failure::Unreachable(message);
                }
                (is_pinged, due) = (true, Instant::now() + KEEP_ALIVE);
                send(&mut stream, Message::Ping(Vec::new().into())).await
            }
        };
        if let Err(failure) = result {
            break failure;
        }
    };
    // Set first, so that the owner finds the reason when its calls fail.
    let _ = close_reason.set(reason);
    interface.close_with_error();
}

async fn send(stream: &mut Stream, message: Message) -> Result<(), Failure> {
    let stuck =
        || Failure::Unreachable(format!("a message could not be sent within {KEEP_ALIVE:?}"));
    let sent = timeout(KEEP_ALIVE, stream.send(message)).await;
    let sent = sent.map_err(|_| stuck())?;
    sent.map_err(|error| Failure::Unreachable(without_url(&error.to_string())))
}

fn receive(
    message: Option<Result<Message, Error>>,
    interface: &ConnectionInterface,
) -> Result<(), Failure> {
    let text = match message {
        Some(Ok(Message::Text(text))) => text,
        Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref())),
        Some(Ok(_)) => return Ok(()),
        Some(Err(error)) => {
            return Err(Failure::Unreachable(without_url(&error.to_string())));
        }
        None => return Err(Failure::Unreachable("the connection ended".to_owned())),
    };
    let item: PubSubItem = serde_json::from_str(&text)
        .map_err(|error| Failure::Invalid(format!("a message is not JSON-RPC: {error}")))?;
    let gone = |_| Failure::Unreachable("the connection was dropped".to_owned());
    interface.send_to_frontend(item).map_err(gone)
}

/// The failure that a refused upgrade means.
fn refused(status: StatusCode, headers: &HeaderMap) -> Failure {
    let message = format!("HTTP status {}", status.as_u16());
    let after = retry_after(headers);
    if status == StatusCode::TOO_MANY_REQUESTS || after.is_some() {
        return Failure::RateLimited { after, message };
    }
    Failure::Unreachable(message)
}

/// The failure that a close frame means.
///
/// No close code stands for a rate limit. Providers use 1008 (policy violation), 1013 (try again
/// later) or a text.
fn closed(frame: Option<&CloseFrame>) -> Failure {
    let Some(frame) = frame else {
        return Failure::Unreachable("the node closed the connection".to_owned());
    };
    let message = format!(
        "the node closed the connection with {}: {}",
        frame.code, frame.reason
    );
    let is_rate_limit = matches!(frame.code, CloseCode::Policy | CloseCode::Again)
        || mentions_rate_limit(&frame.reason);
    if is_rate_limit {
        return Failure::RateLimited {
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
    fn a_close_for_a_rate_limit_is_told_from_other_closes() {
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
            assert!(matches!(failure, Failure::RateLimited { .. }), "{failure}");
        }
        for (code, reason) in [(1000, ""), (1001, "going away"), (1011, "oops")] {
            let failure = close(code, reason);
            assert!(matches!(failure, Failure::Unreachable(_)), "{failure}");
        }
        assert!(matches!(closed(None), Failure::Unreachable(_)));
    }

    #[test]
    fn a_refused_upgrade_may_carry_a_retry_time() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let expected = Failure::RateLimited {
            after: Some(Duration::from_secs(7)),
            message: "HTTP status 503".to_owned(),
        };
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, &headers), expected);
        let limited = refused(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new());
        assert!(matches!(limited, Failure::RateLimited { after: None, .. }));
        let forbidden = refused(StatusCode::FORBIDDEN, &HeaderMap::new());
        assert!(matches!(forbidden, Failure::Unreachable(_)));
    }
}
