//! One connection to a venue, from the handshake to its end.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    pin, select,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use super::feed::{Feed, Heard};
use crate::venue::VenueKind;

/// A connection has so long to come about, and a request to be sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A venue has so long to answer a subscription, by an acknowledgement or data.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A message may be so long, in bytes. The longest that is asked for, a ticker
/// snapshot, takes a few hundred a symbol.
const MESSAGE_BYTES: usize = 1 << 20;

/// A connection to a venue.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The venue said before that it would close it.
    Announced,
    /// It did not come about.
    Unreachable(String),
    /// Anything else.
    Failed(String),
}

impl Ending {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Announced => "the venue announced the end of the connection",
            Self::Unreachable(reason) | Self::Failed(reason) => reason,
        }
    }
}

/// Connects.
pub(super) async fn connect(url: &str, tls: Arc<ClientConfig>) -> Result<Socket, String> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    // No delay: requests are small. Boxed: the TLS handshake takes 16 KiB, once.
    let tls = Some(Connector::Rustls(tls));
    let connecting = Box::pin(connect_async_tls_with_config(url, Some(config), true, tls));
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(error)) => Err(reason(&error)),
        Err(_) => Err(format!(
            "no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        )),
    }
}

/// What is still to do on a connection, and when.
struct Agenda {
    kind: VenueKind,
    /// What is asked for, by the venue's names.
    names: Vec<String>,
    requests: VecDeque<String>,
    request_at: Option<Instant>,
    ping_at: Option<Instant>,
    answer_by: Option<Instant>,
    data_at: Instant,
    watchdog: Duration,
}

/// Subscribes, and takes frames until the connection ends.
pub(super) async fn listen(
    mut socket: Socket,
    names: &[String],
    watchdog: Duration,
    feed: &Feed,
) -> Ending {
    let mut agenda = Agenda::new(feed.kind(), names.to_vec(), watchdog);
    // One timer for everything: what moves a deadline back, as each frame does, does
    // not touch it, and it is set anew when it fires.
    let timer = sleep_until(agenda.next());
    pin!(timer);
    loop {
        let message = select! {
            message = socket.next() => message,
            () = &mut timer => {
                if let Err(reason) = agenda.work(&mut socket).await {
                    return Ending::Failed(reason);
                }
                timer.as_mut().reset(agenda.next());
                continue;
            }
        };
        let frame = match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => message.into_data(),
            // The library answers pings.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(frame))) => {
                let said = frame.map(|frame| format!(": {frame}")).unwrap_or_default();
                return Ending::Failed(format!("the venue closed the connection{said}"));
            }
            None => return Ending::Failed("the venue closed the connection".to_owned()),
            Some(Err(error)) => return Ending::Failed(reason(&error)),
        };
        match feed.take(&frame).await {
            Heard::Nothing => {}
            Heard::Data => agenda.heard_data(),
            Heard::Ack => agenda.answer_by = None,
            Heard::Shutdown => return Ending::Announced,
            Heard::Refusal(reason) => {
                agenda.refused(&reason);
                timer.as_mut().reset(agenda.next());
            }
        }
    }
}

impl Agenda {
    fn new(kind: VenueKind, names: Vec<String>, watchdog: Duration) -> Self {
        let now = Instant::now();
        Self {
            requests: kind.subscribe(&names).into(),
            request_at: Some(now),
            ping_at: kind.keep_alive().map(|ping| now + ping.interval),
            answer_by: Some(now + ANSWER_TIMEOUT),
            data_at: now,
            kind,
            names,
            watchdog,
        }
    }

    /// When there is something to do.
    fn next(&self) -> Instant {
        let others = [self.request_at, self.ping_at, self.answer_by];
        let others = others.into_iter().flatten();
        others.fold(self.data_at + self.watchdog, Instant::min)
    }

    fn heard_data(&mut self) {
        self.data_at = Instant::now();
        self.answer_by = None;
    }

    /// Asks for the rest, where one name has a whole request refused.
    fn refused(&mut self, reason: &str) {
        let again = self.kind.subscribe_again(&mut self.names, reason);
        if again.is_empty() {
            return;
        }
        self.requests.extend(again);
        self.request_at = Some(Instant::now() + self.kind.limits().request_spacing);
    }

    /// Does what is due. An error ends the connection.
    async fn work(&mut self, socket: &mut Socket) -> Result<(), String> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.data_at + self.watchdog <= now {
            return Err(format!("connected, but no data for {:?}", self.watchdog));
        }
        if is_due(self.answer_by) {
            return Err(format!(
                "no subscription was accepted within {ANSWER_TIMEOUT:?}"
            ));
        }
        if is_due(self.request_at) {
            if let Some(request) = self.requests.pop_front() {
                send(socket, request).await?;
            }
            let spacing = self.kind.limits().request_spacing;
            self.request_at = (!self.requests.is_empty()).then(|| now + spacing);
        }
        if let Some(ping) = self.kind.keep_alive()
            && is_due(self.ping_at)
        {
            self.ping_at = Some(now + ping.interval);
            send(socket, ping.frame.to_owned()).await?;
        }
        Ok(())
    }
}

async fn send(socket: &mut Socket, frame: String) -> Result<(), String> {
    match timeout(SEND_TIMEOUT, socket.send(Message::text(frame))).await {
        Ok(sent) => sent.map_err(|error| reason(&error)),
        Err(_) => Err(format!("nothing could be sent for {SEND_TIMEOUT:?}")),
    }
}

/// What the system says, where it is the system that says it.
fn reason(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
