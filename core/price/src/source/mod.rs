//! Sources: the connections to the venues, kept for ever.
//!
//! A [`SourceTask`] connects, listens, and after the end of a connection connects
//! again, ever more seldom while it fails. `connection` is one connection, `tls` whom
//! it trusts, `feed` where its frames go, `status` what is known of a source.

mod connection;
mod events;
mod feed;
mod http;
mod status;
mod tls;

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use tidewire_stream::Backoff;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::connection::{Ending, Wire, connect, hear_until, listen};
pub use self::status::LinkState;
pub(crate) use self::{feed::Feed, http::get as http_get, status::SourceStatus, tls::tls_config};
use crate::config::SourceSpec;

/// Failures are told this often at most.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// The watchdog of a mute connection is doubled so often: 20 seconds become 11 minutes.
const MOST_DOUBLINGS: u32 = 5;

/// The pause after the first failed attempt, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that had data for this long counts as a success. A venue that accepts a
/// connection and closes it at once would otherwise be asked again without a pause, which
/// breaks the venue's limits.
const STABLE_AFTER: Duration = Duration::from_secs(10);

fn reconnect_backoff() -> Backoff {
    Backoff::with_jitter(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Keeps one connection to a venue.
pub(crate) struct SourceTask {
    pub(crate) spec: SourceSpec,
    /// What it is asked for, by the venue's names.
    pub(crate) names: Vec<String>,
    /// A connection without data for so long is set up anew; for twice as long each time
    /// it happens again, as its symbols may be quiet.
    pub(crate) watchdog: Duration,
    /// The pause before it is first set up.
    pub(crate) delay: Duration,
    /// Whom it trusts, where the address asks for encryption.
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) feed: Feed,
}

impl SourceTask {
    /// Connects again and again until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        // Nothing is left half done when it is dropped between two frames.
        cancel.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut backoff = reconnect_backoff();
        let mut outage = Outage::default();
        let mut mute = 0;
        sleep(self.delay).await;
        loop {
            self.feed.link(&LinkState::Connecting);
            let watchdog = self.watchdog.saturating_mul(1 << mute);
            let (ending, live) = self.connect_and_listen(watchdog).await;
            mute = match ending {
                Ending::Mute(_) => MOST_DOUBLINGS.min(mute + 1),
                _ => 0,
            };
            if live >= STABLE_AFTER {
                outage = Outage::default();
                backoff.reset();
            }
            let pause = backoff.next_pause();
            outage.tell(&self.spec, &ending, pause);
            self.feed.link(&LinkState::Lost(ending.reason()));
            sleep(pause).await;
        }
    }

    /// Gives how the connection ended, and for how long it stood if it had data. One that
    /// is to end is replaced first, and none of that shows. If it did not even hold for some
    /// time, the next is not set up at once: venues limit that too.
    async fn connect_and_listen(&self, watchdog: Duration) -> (Ending, Duration) {
        let mut wire = match self.connect().await {
            Ok(wire) => wire,
            Err(reason) => return (Ending::Unreachable(reason), Duration::ZERO),
        };
        let mut old = None;
        let mut backoff = reconnect_backoff();
        loop {
            let connected_at = Instant::now();
            self.feed.link(&LinkState::Connected);
            tracing::info!(
                source = self.spec.name,
                url = self.spec.url,
                symbols = self.names.len(),
                "connected"
            );
            let ending = listen(&mut wire, &mut old, &self.names, watchdog, &self.feed).await;
            let live = self.feed.is_live().then(|| connected_at.elapsed());
            let live = live.unwrap_or_default();
            if !ending.still_stands() {
                // One that fails before it has taken the other's place leaves that one.
                match old.take() {
                    Some(before) => wire = before,
                    None => return (ending, live),
                }
            }
            let pause = if live >= STABLE_AFTER {
                backoff.reset();
                Duration::ZERO
            } else {
                backoff.next_pause()
            };
            let (source, reason) = (&self.spec.name, ending.reason());
            tracing::info!(source, reason, ?pause, "connecting again");
            match hear_until(&mut wire, &self.feed, self.connect_after(pause)).await {
                Some(new) => old = Some(std::mem::replace(&mut wire, new)),
                None => return (ending, live),
            }
        }
    }

    async fn connect(&self) -> Result<Wire, String> {
        let kind = self.spec.kind;
        let url = kind.stream_url(&self.spec.url, &self.names);
        connect(kind, &url, self.tls.clone()).await
    }

    /// Connects after a pause, by as many tries as it takes.
    async fn connect_after(&self, pause: Duration) -> Wire {
        let mut backoff = reconnect_backoff();
        sleep(pause).await;
        loop {
            match self.connect().await {
                Ok(wire) => return wire,
                Err(_) => sleep(backoff.next_pause()).await,
            }
        }
    }
}

/// Tells of failures, seldom enough.
#[derive(Default)]
struct Outage {
    told_at: Option<Instant>,
    untold: u32,
}

impl Outage {
    fn tell(&mut self, spec: &SourceSpec, ending: &Ending, pause: Duration) {
        let (source, url, reason) = (&spec.name, &spec.url, ending.reason());
        let what = match ending {
            // It ended before another took its place.
            Ending::Announced | Ending::Renewed => {
                tracing::info!(source, reason, "connecting again");
                return;
            }
            Ending::Unreachable(_) => "cannot reach",
            Ending::Mute(_) | Ending::Failed(_) => "lost the connection to",
        };
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            self.untold += 1;
            tracing::debug!(source, url, reason, ?pause, "{what} {source}");
            return;
        }
        let further = match self.untold {
            0 => String::new(),
            untold => format!(" ({untold} more failures since this was last said)"),
        };
        tracing::warn!(
            "{what} {source} at {url}: {reason}{further}; trying again until it answers, next in {:.1} s",
            pause.as_secs_f64()
        );
        *self = Self {
            told_at: Some(Instant::now()),
            untold: 0,
        };
    }
}
