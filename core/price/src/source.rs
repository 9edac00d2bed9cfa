//! Sources: the connection to a venue and what is known of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use metrics::Counter;
use parking_lot::Mutex;
use tidewire_proto::v1::{ConnectionState, Source};
use tidewire_stream::SharedClock;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Symbol,
    book::{Book, FrameOutcome},
    config::SourceSpec,
    recording::Line,
    venue::{FaultKind, ParseError},
};

/// A connection has so long to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after the first failure, doubled with each further one up to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_LAST: Duration = Duration::from_secs(30);

/// A message from a venue may be so long, in bytes.
const MAX_MESSAGE: usize = 4 << 20;

/// A counter that can be read, and is a metric too.
#[derive(Debug)]
pub(crate) struct Tally {
    count: u64,
    metric: Counter,
}

impl Tally {
    fn new(metric: Counter) -> Self {
        Self { count: 0, metric }
    }

    pub(crate) fn count(&mut self) {
        self.count += 1;
        self.metric.increment(1);
    }
}

/// What is known of a source.
pub(crate) struct SourceRecord {
    pub(crate) spec: SourceSpec,
    /// Where each of the venue's names belongs: symbol, and quote in its book.
    pub(crate) names: HashMap<String, (usize, usize)>,
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) frames: Tally,
    pub(crate) trades: Tally,
    connects: Tally,
    faults: HashMap<FaultKind, u64>,
    state: ConnectionState,
    pub(crate) arrival_ms: Option<i64>,
    pub(crate) lost_ms: Option<i64>,
    last_error: Option<String>,
}

impl SourceRecord {
    pub(crate) fn new(spec: SourceSpec) -> Self {
        let tally =
            |name: &'static str| Tally::new(metrics::counter!(name, "source" => spec.name.clone()));
        Self {
            names: HashMap::new(),
            symbols: Vec::new(),
            frames: tally("tidewire_venue_frames_total"),
            trades: tally("tidewire_venue_trades_total"),
            connects: tally("tidewire_venue_connects_total"),
            faults: HashMap::new(),
            state: ConnectionState::Connecting,
            arrival_ms: None,
            lost_ms: None,
            last_error: None,
            spec,
        }
    }

    /// Counts a frame that cannot be used; each kind is logged once.
    pub(crate) fn fault(&mut self, error: &ParseError) {
        let count = self.faults.entry(error.kind).or_default();
        *count += 1;
        let labels = [
            ("source", self.spec.name.clone()),
            ("kind", error.kind.name().to_owned()),
        ];
        metrics::counter!("tidewire_venue_bad_frames_total", &labels).increment(1);
        if *count == 1 {
            tracing::warn!(
                source = self.spec.name, kind = %error.kind, detail = error.detail,
                "a frame cannot be used; further ones of this kind are counted only"
            );
        }
        self.last_error = Some(error.to_string());
    }

    pub(crate) fn refused(&mut self, reason: &str) {
        tracing::warn!(
            source = self.spec.name,
            reason,
            "the venue refuses a subscription"
        );
        self.last_error = Some(format!("refused: {reason}"));
    }

    pub(crate) fn connected(&mut self) {
        self.connects.count();
        self.lost_ms = None;
        self.set_state(ConnectionState::Mute);
    }

    pub(crate) fn disconnected(&mut self, reason: &str, now_ms: i64) {
        self.last_error = Some(reason.to_owned());
        self.lost_ms.get_or_insert(now_ms);
        self.set_state(ConnectionState::Waiting);
    }

    pub(crate) fn set_state(&mut self, state: ConnectionState) {
        self.state = state;
        let is_live = if state == ConnectionState::Live {
            1.0
        } else {
            0.0
        };
        metrics::gauge!("tidewire_venue_live", "source" => self.spec.name.clone()).set(is_live);
    }

    /// As ListSources shows it.
    pub(crate) fn show(&self, now_ms: i64, is_sample: bool) -> Source {
        Source {
            name: self.spec.name.clone(),
            kind: self.spec.kind.name().to_owned(),
            url: self.spec.url.clone(),
            state: self.state.into(),
            symbols: self
                .symbols
                .iter()
                .map(|symbol| symbol.as_str().to_owned())
                .collect(),
            frames: self.frames.count,
            bad_frames: self.faults.values().sum(),
            trades: self.trades.count,
            connects: self.connects.count,
            age_ms: self
                .arrival_ms
                .map(|arrival| u64::try_from(now_ms.saturating_sub(arrival)).unwrap_or(0)),
            last_error: self.last_error.clone(),
            sample: is_sample,
        }
    }
}

/// Keeps the connection to one venue.
pub(crate) struct SourceTask {
    pub(crate) index: usize,
    pub(crate) spec: SourceSpec,
    pub(crate) names: Vec<String>,
    pub(crate) book: Arc<Mutex<Book>>,
    pub(crate) clock: SharedClock,
    pub(crate) watchdog: Duration,
    /// Takes every frame, for a recording.
    pub(crate) recorder: Option<mpsc::Sender<Line>>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl SourceTask {
    /// Connects again and again until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut failures = 0_u32;
        while !cancel.is_cancelled() {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = cancel.cancelled() => return,
            };
            let reason = match connected {
                Ok(socket) => {
                    tracing::info!(source = self.spec.name, url = self.spec.url, "connected");
                    self.book.lock().connected(self.index);
                    let (reason, had_data) = tokio::select! {
                        ended = self.listen(socket) => ended,
                        () = cancel.cancelled() => return,
                    };
                    if had_data {
                        failures = 0;
                    }
                    reason
                }
                Err(reason) => reason,
            };
            failures = failures.saturating_add(1);
            let pause = backoff(failures);
            self.tell_failure(failures, &reason, pause);
            self.book
                .lock()
                .disconnected(self.index, &reason, self.clock.now_ms());
            tokio::select! {
                () = sleep(pause) => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    /// Says so at first, and then ever more seldom.
    fn tell_failure(&self, failures: u32, reason: &str, pause: Duration) {
        let (source, url, pause_ms) = (&self.spec.name, &self.spec.url, pause.as_millis());
        if failures.is_power_of_two() {
            tracing::warn!(
                source,
                url,
                reason,
                failures,
                pause_ms,
                "cannot reach {source} at {url}; it keeps trying, and prices from it are missing until then"
            );
        } else {
            tracing::debug!(source, reason, failures, pause_ms, "cannot reach {source}");
        }
    }

    async fn connect(&self) -> Result<Socket, String> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let connect = connect_async_with_config(&self.spec.url, Some(config), true);
        let connected = timeout(CONNECT_TIMEOUT, connect).await;
        let mut socket = match connected {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                return Err(format!(
                    "no connection within {} s",
                    CONNECT_TIMEOUT.as_secs()
                ));
            }
        };
        for request in self.spec.kind.subscribe(&self.names) {
            socket
                .send(Message::text(request))
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok(socket)
    }

    /// Takes frames until the connection ends. Gives the reason, and whether there
    /// was any data.
    async fn listen(&self, mut socket: Socket) -> (String, bool) {
        let mut data_at = Instant::now();
        let mut had_data = false;
        let keep_alive = self.spec.kind.keep_alive();
        let mut ping_at =
            Instant::now() + keep_alive.map_or(Duration::MAX / 4, |(interval, _)| interval);
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                () = sleep_until(data_at + self.watchdog) => {
                    return (format!("connected, but no data for {} s", self.watchdog.as_secs()), had_data);
                }
                () = sleep_until(ping_at), if keep_alive.is_some() => {
                    if let Some((interval, ping)) = keep_alive {
                        ping_at = Instant::now() + interval;
                        if let Err(error) = socket.send(Message::text(ping)).await {
                            return (error.to_string(), had_data);
                        }
                    }
                    continue;
                }
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                // Pings are answered by the library; binary frames are not spoken here.
                Some(Ok(Message::Close(_))) | None => {
                    return ("the venue closed the connection".to_owned(), had_data);
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return (error.to_string(), had_data),
            };
            match self.take(&text).await {
                FrameOutcome::Nothing => {}
                FrameOutcome::Data => {
                    data_at = Instant::now();
                    if !had_data {
                        had_data = true;
                        self.book.lock().sources[self.index].set_state(ConnectionState::Live);
                    }
                }
                FrameOutcome::Reconnect => {
                    return ("the venue announced its end".to_owned(), had_data);
                }
            }
        }
    }

    async fn take(&self, frame: &str) -> FrameOutcome {
        let arrival_ms = self.clock.now_ms();
        if let Some(recorder) = &self.recorder {
            let line = Line {
                time_ms: arrival_ms,
                source: self.index,
                frame: frame.to_owned(),
            };
            // The recorder has ended: so will this task.
            let _ = recorder.send(line).await;
        }
        self.book.lock().take_frame(self.index, frame, arrival_ms)
    }
}

/// Doubled with each failure, and spread so that many servers do not come at once.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled
        .min(BACKOFF_LAST)
        .mul_f64(rand::random_range(0.5..1.0))
}
