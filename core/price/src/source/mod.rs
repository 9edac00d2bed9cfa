//! Sources: the connections to the venues, kept for ever.
//!
//! A [`SourceTask`] connects, listens, and after the end of a connection connects
//! again, ever more seldom while it fails. `connection` is one connection, `feed`
//! where its frames go, `status` what is known of a source.

mod backoff;
mod connection;
mod feed;
mod status;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use self::status::LinkState;
use self::{
    backoff::Backoff,
    connection::{Ending, connect, listen},
};
pub(crate) use self::{feed::Feed, status::SourceStatus};
use crate::config::SourceSpec;

/// Failures are told this often at most.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the connection to one venue.
pub(crate) struct SourceTask {
    pub(crate) spec: SourceSpec,
    /// What it is asked for, by the venue's names.
    pub(crate) names: Vec<String>,
    /// A connection without data for so long is set up anew.
    pub(crate) watchdog: Duration,
    pub(crate) feed: Feed,
}

impl SourceTask {
    /// Connects again and again until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        // Nothing is left half done when it is dropped between two frames.
        cancel.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut backoff = Backoff::default();
        let mut outage = Outage::default();
        loop {
            self.feed.link(&LinkState::Connecting);
            let ending = self.connect_and_listen().await;
            if self.feed.is_live() {
                backoff.reset();
            }
            let pause = backoff.pause();
            let reason = match ending {
                Ending::Announced => {
                    let reason = "the venue announced the end of the connection";
                    tracing::info!(source = self.spec.name, reason, "connecting again");
                    reason.to_owned()
                }
                Ending::Failed(reason) => {
                    outage.tell(&self.spec, &reason, pause);
                    reason
                }
            };
            self.feed.link(&LinkState::Lost(reason));
            sleep(pause).await;
        }
    }

    async fn connect_and_listen(&self) -> Ending {
        let socket = match connect(&self.spec.url).await {
            Ok(socket) => socket,
            Err(reason) => return Ending::Failed(reason),
        };
        self.feed.link(&LinkState::Connected);
        tracing::info!(
            source = self.spec.name,
            url = self.spec.url,
            symbols = self.names.len(),
            "connected"
        );
        listen(socket, &self.names, self.watchdog, &self.feed).await
    }
}

/// Tells of failures, seldom enough.
#[derive(Default)]
struct Outage {
    told_at: Option<Instant>,
    untold: u32,
}

impl Outage {
    fn tell(&mut self, spec: &SourceSpec, reason: &str, pause: Duration) {
        let (source, url) = (&spec.name, &spec.url);
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            self.untold += 1;
            tracing::debug!(source, url, reason, ?pause, "cannot reach {source}");
            return;
        }
        tracing::warn!(
            source,
            url,
            untold_failures = self.untold,
            "cannot reach {source} at {url}: {reason}; trying again in {:.1} s, prices from it are missing until then",
            pause.as_secs_f64()
        );
        *self = Self {
            told_at: Some(Instant::now()),
            untold: 0,
        };
    }
}
