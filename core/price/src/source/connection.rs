//! One connection to a venue, from the handshake to its end.

use std::{collections::VecDeque, future::pending, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    pin, select,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use super::{
    events::{self, EventStream},
    feed::{Feed, Meaning},
};
use crate::venue::{Carrier, KeepAlive, VenueKind};

/// A connection has so long to come about, and a request to be sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A venue has so long to answer a subscription, by an acknowledgement or data.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A message may be so long, in bytes. The longest that is asked for, a ticker
/// snapshot, takes a few hundred a symbol.
pub(super) const MESSAGE_BYTES: usize = 1 << 20;

/// Venues end a connection after 24 hours. It is renewed a little before, so that it is
/// known when.
const RENEW_AFTER: Duration = Duration::from_secs(23 * 3_600 + 50 * 60);

/// So long the old connection is heard beside the one that takes its place.
const OVERLAP: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection to a venue, kept open as it wants for as long as it is heard.
pub(super) struct Wire {
    link: Link,
    pulse: Option<Pulse>,
}

enum Link {
    WebSocket(Box<Socket>),
    Events(Box<EventStream>),
}

/// What a venue wants to hear every now and then.
struct Pulse {
    keep_alive: KeepAlive,
    due: Pin<Box<Sleep>>,
}

/// What comes from a venue.
enum Heard {
    Frame(Bytes),
    /// The connection is there; that is all.
    Sign,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The venue said before that it would close it.
    Announced,
    /// It was old, and is renewed before the venue ends it.
    Renewed,
    /// Connected, and nothing of any symbol came for so long.
    Mute(Duration),
    /// It did not come about.
    Unreachable(String),
    /// Anything else.
    Failed(String),
}

impl Ending {
    /// Whether the connection still stands, so that another can take its place before it
    /// goes.
    pub(super) fn still_stands(&self) -> bool {
        matches!(self, Self::Announced | Self::Renewed)
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::Announced => "the venue announced the end of the connection".to_owned(),
            Self::Renewed => "the connection is renewed before the venue ends it".to_owned(),
            Self::Mute(silence) => format!("connected, but no data for {silence:?}"),
            Self::Unreachable(reason) | Self::Failed(reason) => reason.clone(),
        }
    }
}

/// Connects.
pub(super) async fn connect(
    kind: VenueKind,
    url: &str,
    tls: Arc<ClientConfig>,
) -> Result<Wire, String> {
    let connecting = async {
        match kind.carrier() {
            Carrier::WebSocket => open_socket(url, tls).await,
            Carrier::Events => {
                let stream = Box::pin(events::connect(url, tls)).await?;
                Ok(Link::Events(Box::new(stream)))
            }
        }
    };
    let link = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))??;
    let pulse = kind.keep_alive().map(|keep_alive| Pulse {
        due: Box::pin(sleep(keep_alive.interval)),
        keep_alive,
    });
    Ok(Wire { link, pulse })
}

async fn open_socket(url: &str, tls: Arc<ClientConfig>) -> Result<Link, String> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    // No delay: requests are small. Boxed: the TLS handshake takes 16 KiB, once.
    let tls = Some(Connector::Rustls(tls));
    let connecting = Box::pin(connect_async_tls_with_config(url, Some(config), true, tls));
    let (socket, _) = connecting.await.map_err(|error| reason(&error))?;
    Ok(Link::WebSocket(Box::new(socket)))
}

impl Wire {
    /// What comes next. Meanwhile it is kept open. Nothing is lost if this is dropped while
    /// it waits.
    async fn next(&mut self) -> Result<Heard, String> {
        loop {
            let Some(pulse) = &mut self.pulse else {
                return self.link.next().await;
            };
            select! {
                heard = self.link.next() => return heard,
                () = &mut pulse.due => {}
            }
            // First the next time: if this is dropped while it sends, it does not send twice.
            let next = Instant::now() + pulse.keep_alive.interval;
            pulse.due.as_mut().reset(next);
            self.link.send(pulse.keep_alive.frame.to_owned()).await?;
        }
    }

    async fn send(&mut self, frame: String) -> Result<(), String> {
        self.link.send(frame).await
    }
}

impl Link {
    async fn next(&mut self) -> Result<Heard, String> {
        match self {
            Self::WebSocket(socket) => match socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    Ok(Heard::Frame(message.into_data()))
                }
                // The library answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    Ok(Heard::Sign)
                }
                Some(Ok(Message::Close(frame))) => {
                    let said = frame.map(|frame| format!(": {frame}")).unwrap_or_default();
                    Err(format!("the venue closed the connection{said}"))
                }
                None => Err("the venue closed the connection".to_owned()),
                Some(Err(error)) => Err(reason(&error)),
            },
            Self::Events(stream) => match stream.next().await {
                Some(Ok(events::Heard::Data(data))) => Ok(Heard::Frame(data)),
                Some(Ok(events::Heard::Sign)) => Ok(Heard::Sign),
                Some(Ok(events::Heard::Error(reason))) => {
                    Err(format!("the venue ended the stream: {reason}"))
                }
                Some(Err(reason)) => Err(reason),
                None => Err("the venue ended the stream".to_owned()),
            },
        }
    }

    async fn send(&mut self, frame: String) -> Result<(), String> {
        let Self::WebSocket(socket) = self else {
            return Ok(());
        };
        match timeout(SEND_TIMEOUT, socket.send(Message::text(frame))).await {
            Ok(sent) => sent.map_err(|error| reason(&error)),
            Err(_) => Err(format!("nothing could be sent for {SEND_TIMEOUT:?}")),
        }
    }
}

/// What is still to do on a connection, and when.
struct Agenda {
    kind: VenueKind,
    /// What is asked for, by the venue's names.
    names: Vec<String>,
    requests: VecDeque<String>,
    request_at: Option<Instant>,
    answer_by: Option<Instant>,
    data_at: Instant,
    watchdog: Duration,
    renew_at: Instant,
    /// When the old connection is heard no more, if there is one.
    release_at: Option<Instant>,
}

/// Subscribes, and takes frames until the connection ends. The one whose place it takes
/// is heard too until its subscriptions are surely there; trades that both tell count
/// once. The other is left there if the connection ends before that.
pub(super) async fn listen(
    wire: &mut Wire,
    old: &mut Option<Wire>,
    names: &[String],
    watchdog: Duration,
    feed: &Feed,
) -> Ending {
    let mut agenda = Agenda::new(feed.kind(), names.to_vec(), watchdog);
    agenda.release_at = old.is_some().then(|| Instant::now() + OVERLAP);
    // One timer for everything: what moves a deadline back, as each frame does, does
    // not touch it, and it is set anew when it fires.
    let timer = sleep_until(agenda.next());
    pin!(timer);
    loop {
        let heard = select! {
            heard = wire.next() => heard,
            heard = next_of(old) => {
                match heard {
                    Ok(Heard::Frame(frame)) => drop(feed.take(&frame).await),
                    Ok(Heard::Sign) => {}
                    Err(_) => *old = None,
                }
                continue;
            }
            () = &mut timer => {
                if let Err(ending) = agenda.work(wire).await {
                    return ending;
                }
                if agenda.release_at.is_none() {
                    *old = None;
                }
                timer.as_mut().reset(agenda.next());
                continue;
            }
        };
        let frame = match heard {
            Ok(Heard::Frame(frame)) => frame,
            Ok(Heard::Sign) => continue,
            Err(reason) => return Ending::Failed(reason),
        };
        match feed.take(&frame).await {
            Meaning::Nothing => {}
            Meaning::Data => agenda.heard_data(),
            Meaning::Ack => agenda.answer_by = None,
            Meaning::Shutdown => return Ending::Announced,
            Meaning::Refusal(reason) => {
                agenda.refused(&reason);
                timer.as_mut().reset(agenda.next());
            }
        }
    }
}

/// Hears the connection until `successor` is there. `None` if it ends before.
pub(super) async fn hear_until(
    wire: &mut Wire,
    feed: &Feed,
    successor: impl Future<Output = Wire>,
) -> Option<Wire> {
    pin!(successor);
    loop {
        let heard = select! {
            successor = &mut successor => return Some(successor),
            heard = wire.next() => heard,
        };
        if let Heard::Frame(frame) = heard.ok()? {
            feed.take(&frame).await;
        }
    }
}

/// What comes next from the old connection. Without one nothing ever does.
async fn next_of(old: &mut Option<Wire>) -> Result<Heard, String> {
    match old {
        Some(old) => old.next().await,
        None => pending().await,
    }
}

impl Agenda {
    fn new(kind: VenueKind, names: Vec<String>, watchdog: Duration) -> Self {
        let now = Instant::now();
        Self {
            requests: kind.subscribe(&names).into(),
            request_at: Some(now),
            // Where nothing is asked for, the address was the question.
            answer_by: (kind.carrier() == Carrier::WebSocket).then(|| now + ANSWER_TIMEOUT),
            renew_at: now + RENEW_AFTER,
            release_at: None,
            data_at: now,
            kind,
            names,
            watchdog,
        }
    }

    /// When there is something to do.
    fn next(&self) -> Instant {
        let others = [self.request_at, self.answer_by, self.release_at];
        let others = others.into_iter().flatten();
        let mute_at = self.data_at + self.watchdog;
        others.fold(mute_at.min(self.renew_at), Instant::min)
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
    async fn work(&mut self, wire: &mut Wire) -> Result<(), Ending> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.data_at + self.watchdog <= now {
            return Err(Ending::Mute(self.watchdog));
        }
        // Not before all is asked for: it may be much.
        if is_due(self.release_at) {
            self.release_at = (!self.requests.is_empty()).then(|| now + OVERLAP);
        }
        if self.renew_at <= now {
            return Err(Ending::Renewed);
        }
        if is_due(self.answer_by) {
            return Err(Ending::Failed(format!(
                "no subscription was accepted within {ANSWER_TIMEOUT:?}"
            )));
        }
        if is_due(self.request_at) {
            if let Some(request) = self.requests.pop_front() {
                wire.send(request).await.map_err(Ending::Failed)?;
            }
            let spacing = self.kind.limits().request_spacing;
            self.request_at = (!self.requests.is_empty()).then(|| now + spacing);
        }
        Ok(())
    }
}

/// What the system says, where it is the system that says it.
fn reason(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
