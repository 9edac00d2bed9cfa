//! Sources: one task for each connection to a venue, which reconnects until it is cancelled.
//!
//! [`SourceTask`] connects, reads, and reconnects with back-off. `connection` is one connection,
//! `sse` the Server-Sent Events of an oracle, `frame_sink` the way of the frames into the
//! aggregator.

mod connection;
mod frame_sink;
mod sse;
mod subscriptions;

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tidewire_stream::{Backoff, redacted_url};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::connection::{EndReason, VenueConnection, connect, read_frames, read_until};
pub(crate) use self::frame_sink::FrameSink;
use self::{
    sse::SseError,
    subscriptions::{Parts, retry_pause},
};
use crate::{
    LinkState,
    config::SourceSpec,
    supervisor::restart_on_panic,
    venue::{Refusal, excerpt},
};

/// The shortest time between two logged failures of a source.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How often the watchdog of a mute connection is doubled: 20 seconds become 11 minutes.
const MAX_DOUBLINGS: u32 = 5;

/// The back-off's first and longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that had data for this long counts as a success and resets the back-off. Without
/// this, a venue that accepts a connection and closes it at once would be called again without a
/// pause, which breaks the venue's limits.
const STABLE_AFTER: Duration = Duration::from_secs(10);

fn reconnect_backoff() -> Backoff {
    Backoff::with_jitter(FIRST_PAUSE, LONGEST_PAUSE)
}

/// The task of one connection to a venue.
pub(crate) struct SourceTask {
    pub(crate) spec: SourceSpec,
    /// The markets to subscribe to, by the venue's names.
    pub(crate) names: Vec<String>,
    /// How long a connection may have no data before it is replaced. Doubled each time it happens
    /// again, because the markets may be quiet.
    pub(crate) watchdog: Duration,
    /// The pause before the first attempt, so that a source's connections do not start at once.
    pub(crate) delay: Duration,
    /// The certificate authorities that encrypted connections trust.
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) sink: FrameSink,
}

impl SourceTask {
    /// Connects and reconnects until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        // Dropping the future between two frames interrupts no frame.
        let tasks = restart_on_panic(
            &self.spec.name,
            || self.reconnect_forever(),
            |reason| {
                let reason = format!("a fault of this server ended the connection: {reason}");
                self.sink.set_link_state(&LinkState::Lost(reason));
            },
        );
        cancel.run_until_cancelled(tasks).await;
    }

    async fn reconnect_forever(&self) {
        let mut backoff = reconnect_backoff();
        let mut outage = OutageLog::default();
        let mut mute = 0;
        sleep(self.delay).await;
        loop {
            self.sink.set_link_state(&LinkState::Connecting);
            let watchdog = self.watchdog.saturating_mul(1 << mute);
            let (end, live) = self.connect_and_read(watchdog).await;
            mute = match end {
                EndReason::Mute(_) => MAX_DOUBLINGS.min(mute + 1),
                _ => 0,
            };
            if live >= STABLE_AFTER {
                outage = OutageLog::default();
                backoff.reset();
            }
            let pause = backoff.next_pause();
            outage.log(&self.spec, &end, pause);
            self.sink.set_link_state(&LinkState::Lost(end.reason()));
            sleep(pause).await;
        }
    }

    /// Returns why the connection ended, and how long it had data. A connection that must end is
    /// replaced first, so that no gap shows. If it had data only briefly, the replacement waits
    /// too, because venues limit new connections.
    async fn connect_and_read(&self, watchdog: Duration) -> (EndReason, Duration) {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(reason) => return (EndReason::Unreachable(reason), Duration::ZERO),
        };
        let mut old = None;
        let mut backoff = reconnect_backoff();
        // Connections in a row without markets that the venue refuses.
        let mut partial = 0;
        loop {
            if connection.refused.is_empty() {
                partial = 0;
            } else {
                connection.retry_after = Some(retry_pause(partial));
                partial += 1;
            }
            let connected_at = Instant::now();
            self.sink.set_link_state(&LinkState::Connected);
            tracing::info!(
                source = self.spec.name,
                url = redacted_url(&self.spec.url),
                symbols = self.names.len(),
                "connected"
            );
            let end =
                read_frames(&mut connection, &mut old, &self.names, watchdog, &self.sink).await;
            let live = self.sink.is_live().then(|| connected_at.elapsed());
            let live = live.unwrap_or_default();
            if !end.is_replaceable() {
                // If the new connection fails before it has replaced the old one, the old one goes
                // on.
                match old.take() {
                    Some(before) => connection = before,
                    None => return (end, live),
                }
            }
            let pause = if live >= STABLE_AFTER {
                backoff.reset();
                Duration::ZERO
            } else {
                backoff.next_pause()
            };
            let (source, reason) = (&self.spec.name, end.reason());
            tracing::info!(source, reason, ?pause, "reconnecting");
            match read_until(&mut connection, &self.sink, self.connect_after(pause)).await {
                Some(new) => old = Some(std::mem::replace(&mut connection, new)),
                None => return (end, live),
            }
        }
    }

    /// Connects, if need be without markets that the venue refuses.
    async fn connect(&self) -> Result<VenueConnection, String> {
        match self.connect_to(&self.names).await {
            Ok(connection) => Ok(connection),
            Err(SseError::Failed(reason)) => Err(reason),
            Err(SseError::Refused(refusal)) if self.names.len() < 2 => {
                self.sink.record_refused(&self.names, &refusal);
                Err(self.redacted(&refusal))
            }
            Err(SseError::Refused(refusal)) => self.connect_without_refused(refusal).await,
        }
    }

    async fn connect_to(&self, names: &[String]) -> Result<VenueConnection, SseError> {
        let url = self.spec.kind.stream_url(&self.spec.url, names);
        let connected = connect(&self.spec, &url, self.tls.clone()).await;
        connected.map_err(|error| match error {
            // It is of no market, and passes.
            SseError::Refused(refusal) if refusal.is_rate_limit() => {
                SseError::Failed(self.redacted(&refusal))
            }
            error => error,
        })
    }

    /// A refusal's reason for logs and RPCs. It may list all feeds, and quote the URL.
    fn redacted(&self, refusal: &Refusal) -> String {
        excerpt(&self.spec.redact(&refusal.reason))
    }

    /// Connects after the venue refused all markets together: without the ones that the refusal
    /// names, or else in halves, until those that are refused are alone.
    async fn connect_without_refused(&self, first: Refusal) -> Result<VenueConnection, String> {
        let spacing = self.spec.kind.limits().connect_spacing;
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        let mut lists: Vec<Vec<String>> = Vec::new();
        let parts = Parts::of(self.names.clone(), &first);
        refused.extend(parts.refused.into_iter().map(|name| (name, first.clone())));
        lists.extend(parts.rest);
        while let Some(names) = lists.pop() {
            sleep(spacing).await;
            match self.connect_to(&names).await {
                Ok(mut connection) if accepted.is_empty() && lists.is_empty() => {
                    connection.refused = refused;
                    return Ok(connection);
                }
                Ok(_) => accepted.extend(names),
                Err(SseError::Refused(refusal)) => {
                    let parts = Parts::of(names, &refusal);
                    let alone = parts.refused.into_iter();
                    refused.extend(alone.map(|name| (name, refusal.clone())));
                    lists.extend(parts.rest);
                }
                Err(SseError::Failed(reason)) => return Err(reason),
            }
        }
        if accepted.is_empty() {
            for (name, refusal) in refused {
                self.sink.record_refused(&[name], &refusal);
            }
            return Err(self.redacted(&first));
        }
        sleep(spacing).await;
        match self.connect_to(&accepted).await {
            Ok(mut connection) => {
                connection.refused = refused;
                Ok(connection)
            }
            Err(SseError::Failed(reason)) => Err(reason),
            Err(SseError::Refused(refusal)) => Err(self.redacted(&refusal)),
        }
    }

    /// Connects after a pause, with any number of attempts.
    async fn connect_after(&self, pause: Duration) -> VenueConnection {
        let mut backoff = reconnect_backoff();
        sleep(pause).await;
        loop {
            match self.connect().await {
                Ok(connection) => return connection,
                Err(_) => sleep(backoff.next_pause()).await,
            }
        }
    }
}

/// Logs failures of a source, at most once a minute.
#[derive(Default)]
struct OutageLog {
    logged_at: Option<Instant>,
    suppressed: u32,
}

impl OutageLog {
    fn log(&mut self, spec: &SourceSpec, end: &EndReason, pause: Duration) {
        let (source, url, reason) = (&spec.name, redacted_url(&spec.url), end.reason());
        let what = match end {
            // It ended before it was replaced.
            EndReason::Announced | EndReason::Renewed => {
                tracing::info!(source, reason, "reconnecting");
                return;
            }
            EndReason::Unreachable(_) => "cannot reach",
            EndReason::Mute(_) | EndReason::Failed(_) => "lost the connection to",
        };
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            self.suppressed += 1;
            tracing::debug!(source, url, reason, ?pause, "{what} {source}");
            return;
        }
        let further = match self.suppressed {
            0 => String::new(),
            suppressed => format!(" ({suppressed} more failures since the last report)"),
        };
        tracing::warn!(
            "{what} {source} at {url}: {reason}{further}; trying again until it answers, next in {:.1} s",
            pause.as_secs_f64()
        );
        *self = Self {
            logged_at: Some(Instant::now()),
            suppressed: 0,
        };
    }
}
