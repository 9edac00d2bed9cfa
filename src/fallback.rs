//! Fallback: plays the built-in sample where a server without configuration reaches no venue.
//!
//! A first run without internet would show an empty board for ever. So a server that nobody
//! configured, and that listens on loopback alone, waits for the first price of a venue. If none
//! comes within [`PATIENCE`], it serves sample data, and tries the venues on. Once a venue delivers,
//! the sample server stops, and a new one begins with other epochs and another store. Sample data
//! and market data therefore never mix. A configured server never plays the sample: in an outage
//! its prices are stale.

use std::{sync::Arc, time::Duration};

use tidewire_price::{PriceEngine, PriceListener};
use tidewire_stream::SystemClock;
use tokio::{sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{cli::NullPublisher, config::Config};

/// Time in which a venue has to deliver before the sample plays, or is named in the log.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Connections to the venues that only find out whether one delivers.
pub(crate) struct VenueProbe {
    engine: PriceEngine,
    has_delivered: Arc<Notify>,
    _listener: PriceListener,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl VenueProbe {
    /// Connects to the configured venues.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Self> {
        let clock = Arc::new(SystemClock);
        let engine = PriceEngine::new(&config.prices, Arc::new(NullPublisher), clock)?;
        let has_delivered = Arc::new(Notify::new());
        let delivered = has_delivered.clone();
        let listener = engine.on_price(move |_| delivered.notify_one());
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        engine.connect(&tasks, &cancel);
        Ok(Self {
            engine,
            has_delivered,
            _listener: listener,
            tasks,
            cancel,
        })
    }

    /// Whether a venue delivers within [`PATIENCE`].
    pub(crate) async fn delivers_soon(&self) -> bool {
        timeout(PATIENCE, self.delivered()).await.is_ok()
    }

    /// Waits until a venue delivers.
    pub(crate) async fn delivered(&self) {
        self.has_delivered.notified().await;
    }

    /// The engine, whose sources show how far each venue has come.
    pub(crate) fn engine(&self) -> &PriceEngine {
        &self.engine
    }

    /// Ends the connections.
    pub(crate) async fn end(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
