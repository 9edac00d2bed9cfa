//! Connection: one connection to a venue, from the handshake to its end.
//!
//! [`read_frames`] subscribes and passes frames to the sink until the connection ends. A connection
//! that must end is replaced first: the new one subscribes while the old one is still read, and
//! duplicates are dropped by the aggregator. So neither a renewal nor an announced shutdown loses a
//! trade.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use tidewire_stream::{deadline, redact_url};
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
    frame_sink::{FrameOutcome, FrameSink},
    sse::{self, MESSAGE_BYTES, SseError, SseItem, SseStream},
    subscriptions::Subscriptions,
};
use crate::{
    config::SourceSpec,
    venue::{KeepAlive, Refusal, VenueKind, VenueTransport, excerpt},
};

/// How long a handshake may take, and how long a request may take to be sent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a venue may take to answer a subscription, by an acknowledgement or data.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The age at which a connection is replaced. Venues close one after 24 hours, and at a moment of
/// their own.
const RENEW_AFTER: Duration = Duration::from_secs(23 * 3_600 + 50 * 60);

/// How long the old connection is read beside its replacement: longer than any venue takes to
/// activate subscriptions.
const OVERLAP: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An open connection to a venue. It sends the venue's keep-alive frames while it is read.
pub(super) struct VenueConnection {
    stream: TransportStream,
    /// The configured URL, whose parts are removed from texts of the venue.
    secret_url: Option<String>,
    keep_alive_timer: Option<KeepAliveTimer>,
    /// Markets that the venue refused when the connection was opened.
    pub(super) refused: Vec<(String, Refusal)>,
    /// The age at which it is replaced, so that markets that were refused then are requested again.
    pub(super) retry_after: Option<Duration>,
}

enum TransportStream {
    WebSocket(Box<Socket>),
    ServerSentEvents(Box<SseStream>),
}

/// The next keep-alive frame and when it is due.
struct KeepAliveTimer {
    keep_alive: KeepAlive,
    due: Pin<Box<Sleep>>,
}

/// One item read from a connection.
enum Incoming {
    Frame(Bytes),
    /// Anything without content, such as a ping.
    Control,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum EndReason {
    /// The venue announced that it will close the connection.
    Announced,
    /// It reached [`RENEW_AFTER`], or the time to request refused markets again.
    Renewed,
    /// It was open, and no market data arrived for this long.
    Mute(Duration),
    /// The handshake failed.
    Unreachable(String),
    /// Any other failure.
    Failed(String),
}

impl EndReason {
    /// Whether the connection is still open, so that it can be replaced without a gap.
    pub(super) fn is_replaceable(&self) -> bool {
        matches!(self, Self::Announced | Self::Renewed)
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::Announced => "the venue announced the end of the connection".to_owned(),
            Self::Renewed => "the connection is renewed".to_owned(),
            Self::Mute(silence) => format!("connected, but no data for {silence:?}"),
            Self::Unreachable(reason) | Self::Failed(reason) => reason.clone(),
        }
    }
}

/// Connects to a source's venue at `url`.
pub(super) async fn connect(
    spec: &SourceSpec,
    url: &str,
    tls: Arc<ClientConfig>,
) -> Result<VenueConnection, SseError> {
    let kind = spec.kind;
    let connecting = async {
        match kind.transport() {
            VenueTransport::WebSocket => {
                let opened = open_socket(url, tls).await;
                opened.map_err(|reason| SseError::Failed(spec.redact(&reason)))
            }
            VenueTransport::ServerSentEvents => {
                let stream = Box::pin(sse::connect(url, tls)).await?;
                Ok(TransportStream::ServerSentEvents(Box::new(stream)))
            }
        }
    };
    let stream = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| {
        let seconds = CONNECT_TIMEOUT.as_secs();
        SseError::Failed(format!("no connection within {seconds} s"))
    })??;
    let keep_alive_timer = kind.keep_alive().map(|keep_alive| KeepAliveTimer {
        due: Box::pin(sleep(keep_alive.interval)),
        keep_alive,
    });
    Ok(VenueConnection {
        stream,
        secret_url: spec.secret_url().map(str::to_owned),
        keep_alive_timer,
        refused: Vec::new(),
        retry_after: None,
    })
}

async fn open_socket(url: &str, tls: Arc<ClientConfig>) -> Result<TransportStream, String> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    // Without delay, because requests are small. Boxed, because the TLS handshake takes 16 KiB
    // once.
    let tls = Some(Connector::Rustls(tls));
    let connecting = Box::pin(connect_async_tls_with_config(url, Some(config), true, tls));
    let (socket, _) = connecting.await.map_err(|error| reason(&error))?;
    Ok(TransportStream::WebSocket(Box::new(socket)))
}

impl VenueConnection {
    /// The next item; meanwhile it sends keep-alive frames. Cancel safe.
    async fn next(&mut self) -> Result<Incoming, String> {
        loop {
            let Some(keep_alive_timer) = &mut self.keep_alive_timer else {
                return self.stream.next(self.secret_url.as_deref()).await;
            };
            select! {
                item = self.stream.next(self.secret_url.as_deref()) => return item,
                () = &mut keep_alive_timer.due => {}
            }
            // The timer is set first: if this future is dropped while it sends, the frame is not
            // sent twice.
            let next = Instant::now() + keep_alive_timer.keep_alive.interval;
            keep_alive_timer.due.as_mut().reset(next);
            self.stream
                .send(keep_alive_timer.keep_alive.frame.to_owned())
                .await?;
        }
    }

    async fn send(&mut self, frame: String) -> Result<(), String> {
        self.stream.send(frame).await
    }
}

impl TransportStream {
    /// The next item. A text of the venue is shown without the parts of the configured URL.
    async fn next(&mut self, secret_url: Option<&str>) -> Result<Incoming, String> {
        let shown = |text: &str| match secret_url {
            Some(url) => redact_url(text, url),
            None => text.to_owned(),
        };
        match self {
            Self::WebSocket(socket) => match socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    Ok(Incoming::Frame(message.into_data()))
                }
                // The library answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    Ok(Incoming::Control)
                }
                Some(Ok(Message::Close(frame))) => {
                    let said = frame.map(|frame| format!(": {}", shown(&frame.to_string())));
                    let said = said.unwrap_or_default();
                    Err(format!("the venue closed the connection{said}"))
                }
                None => Err("the venue closed the connection".to_owned()),
                Some(Err(error)) => Err(reason(&error)),
            },
            Self::ServerSentEvents(stream) => match stream.next().await {
                Some(Ok(SseItem::Data(data))) => Ok(Incoming::Frame(data)),
                Some(Ok(SseItem::Comment)) => Ok(Incoming::Control),
                Some(Ok(SseItem::Error(said))) => {
                    let said = excerpt(&shown(&said));
                    Err(format!("the venue ended the stream: {said}"))
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

/// The pending actions on a connection, and when each is due.
struct Schedule {
    kind: VenueKind,
    subscriptions: Subscriptions,
    request_at: Option<Instant>,
    answer_by: Option<Instant>,
    last_data_at: Instant,
    watchdog: Duration,
    renew_at: Instant,
    /// When the old connection is closed, if there is one.
    release_at: Option<Instant>,
}

/// Subscribes, and passes frames to `sink` until the connection ends. `old` is the connection that
/// this one replaces; it is read too until the new subscriptions are surely active. If this
/// connection ends before that, `old` is left in place.
pub(super) async fn read_frames(
    connection: &mut VenueConnection,
    old: &mut Option<VenueConnection>,
    names: &[String],
    watchdog: Duration,
    sink: &FrameSink,
) -> EndReason {
    let mut schedule = Schedule::new(sink.kind(), names, watchdog);
    for (name, refusal) in connection.refused.drain(..) {
        sink.record_refused(&[name], &refusal);
    }
    if let Some(pause) = connection.retry_after {
        schedule.renew_at = schedule.renew_at.min(Instant::now() + pause);
    }
    schedule.release_at = old.is_some().then(|| Instant::now() + OVERLAP);
    // One timer serves all deadlines. A frame that moves a deadline does not touch it; the timer is
    // set again when it fires.
    let timer = sleep_until(schedule.next_due());
    pin!(timer);
    loop {
        let item = select! {
            item = connection.next() => item,
            item = next_of(old) => {
                match item {
                    Ok(Incoming::Frame(frame)) => drop(sink.accept(&frame).await),
                    Ok(Incoming::Control) => {}
                    Err(_) => *old = None,
                }
                continue;
            }
            () = &mut timer => {
                if let Err(end) = schedule.run_due(connection).await {
                    return end;
                }
                if schedule.release_at.is_none() {
                    *old = None;
                }
                timer.as_mut().reset(schedule.next_due());
                continue;
            }
        };
        let frame = match item {
            Ok(Incoming::Frame(frame)) => frame,
            Ok(Incoming::Control) => continue,
            Err(reason) => return EndReason::Failed(reason),
        };
        match sink.accept(&frame).await {
            FrameOutcome::Nothing => {}
            FrameOutcome::Data => schedule.record_data(),
            FrameOutcome::Ack(id) => schedule.accepted(id),
            FrameOutcome::Shutdown => return EndReason::Announced,
            FrameOutcome::Refusal(refusal) => {
                let names = schedule.refuse(&refusal);
                sink.record_refused(&names, &refusal);
                timer.as_mut().reset(schedule.next_due());
            }
        }
    }
}

/// Reads the connection until `successor` is connected. `None` if it ends before.
pub(super) async fn read_until(
    connection: &mut VenueConnection,
    sink: &FrameSink,
    successor: impl Future<Output = VenueConnection>,
) -> Option<VenueConnection> {
    pin!(successor);
    loop {
        let item = select! {
            successor = &mut successor => return Some(successor),
            item = connection.next() => item,
        };
        if let Incoming::Frame(frame) = item.ok()? {
            sink.accept(&frame).await;
        }
    }
}

/// The next item of the old connection. Without one, it never resolves.
async fn next_of(old: &mut Option<VenueConnection>) -> Result<Incoming, String> {
    match old {
        Some(old) => old.next().await,
        None => pending().await,
    }
}

impl Schedule {
    fn new(kind: VenueKind, names: &[String], watchdog: Duration) -> Self {
        let now = Instant::now();
        Self {
            subscriptions: Subscriptions::new(kind, names),
            request_at: Some(now),
            // Over Server-Sent Events, the URL is the subscription.
            answer_by: (kind.transport() == VenueTransport::WebSocket)
                .then(|| now + ANSWER_TIMEOUT),
            renew_at: now + RENEW_AFTER,
            release_at: None,
            last_data_at: now,
            kind,
            watchdog,
        }
    }

    /// When the next action is due.
    fn next_due(&self) -> Instant {
        let others = [
            self.request_at,
            self.answer_by,
            self.release_at,
            self.subscriptions.retry_at(),
        ];
        let others = others.into_iter().flatten();
        let mute_at = deadline(self.last_data_at, self.watchdog);
        others.fold(mute_at.min(self.renew_at), Instant::min)
    }

    fn record_data(&mut self) {
        self.last_data_at = Instant::now();
        self.answer_by = None;
    }

    fn accepted(&mut self, id: Option<u64>) {
        self.answer_by = None;
        self.subscriptions.accepted(id);
    }

    /// Requests the others of a refused request again. Returns the refused markets.
    fn refuse(&mut self, refusal: &Refusal) -> Vec<String> {
        let now = Instant::now();
        let refused = self.subscriptions.refuse(refusal, now);
        if self.subscriptions.has_unsent() {
            // A pending request keeps its time: refusals in a row must not put it off.
            let spacing = self.kind.limits().request_spacing;
            self.request_at.get_or_insert(now + spacing);
        }
        refused
    }

    /// Runs the actions that are due. An error ends the connection.
    async fn run_due(&mut self, connection: &mut VenueConnection) -> Result<(), EndReason> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if deadline(self.last_data_at, self.watchdog) <= now {
            return Err(EndReason::Mute(self.watchdog));
        }
        // Not before all requests are sent: there may be many.
        if is_due(self.release_at) {
            self.release_at = self.subscriptions.has_unsent().then(|| now + OVERLAP);
        }
        if self.renew_at <= now {
            return Err(EndReason::Renewed);
        }
        if is_due(self.answer_by) {
            return Err(EndReason::Failed(format!(
                "no subscription was accepted within {ANSWER_TIMEOUT:?}"
            )));
        }
        if is_due(self.subscriptions.retry_at()) {
            self.subscriptions.retry_due(now);
            self.request_at.get_or_insert(now);
        }
        if is_due(self.request_at) {
            if let Some(frame) = self.subscriptions.next_frame() {
                connection.send(frame).await.map_err(EndReason::Failed)?;
            }
            let spacing = self.kind.limits().request_spacing;
            self.request_at = self.subscriptions.has_unsent().then(|| now + spacing);
        }
        Ok(())
    }
}

/// The text of an error, without the library's prefix for errors of the system.
fn reason(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
