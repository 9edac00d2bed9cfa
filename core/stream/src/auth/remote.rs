//! Keys of an identity provider, fetched, kept and renewed.
//!
//! The set is renewed now and then, and when a token names a key that it does not
//! hold, though only so often ([`INTERVAL_MS`], [`BURST`]): made-up key ids cost the
//! provider next to nothing. While the provider cannot be reached the last
//! keys stay in force. How a set is fetched is the adapter's business.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify};

use super::keys::{self, VerifyingKey};
use crate::{
    SharedClock,
    limit::bucket::{Bucket, Rate},
};

/// The set is asked for once in so many milliseconds at most,
const INTERVAL_MS: u32 = 15_000;

/// but so often in a row after a quiet time.
const BURST: u32 = 4;

/// How often the set is asked for while all is well.
const PERIOD: Duration = Duration::from_secs(300);

/// How often while it cannot be had.
const PERIOD_FAILING: Duration = Duration::from_secs(30);

/// What a fetch comes to: the document, or why there is none.
pub type Fetched<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;

/// Where a key set comes from. Has to bound the time and the size of an answer.
pub trait KeySource: std::fmt::Debug + Send + Sync + 'static {
    /// Gets the document.
    fn fetch(&self) -> Fetched<'_>;
}

/// The keys of an identity provider.
pub struct RemoteKeys {
    source: Box<dyn KeySource>,
    clock: SharedClock,
    held: RwLock<Held>,
    /// Whoever holds it fetches; the others wait for what it brings.
    turn: Mutex<Turn>,
    wanted: Notify,
}

#[derive(Clone)]
struct Held {
    /// Counts the sets that were held: tells a waiter that there is a newer one.
    generation: u64,
    keys: Arc<[VerifyingKey]>,
}

#[derive(Default)]
struct Turn {
    tries: Bucket,
    is_failing: bool,
}

impl std::fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteKeys")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl RemoteKeys {
    /// No keys yet; call [`refresh`](Self::refresh), then run
    /// [`keep_fresh`](Self::keep_fresh) in a task.
    #[must_use]
    pub fn new(source: Box<dyn KeySource>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            source,
            clock,
            held: RwLock::new(Held {
                generation: 0,
                keys: Arc::from([]),
            }),
            turn: Mutex::default(),
            wanted: Notify::new(),
        })
    }

    /// The keys at hand, and which set they are.
    pub(super) fn held(&self) -> (u64, Arc<[VerifyingKey]>) {
        let held = self.held.read();
        (held.generation, held.keys.clone())
    }

    /// Asks for a newer set soon, without waiting for it.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Fetches the set.
    pub async fn refresh(&self) {
        let (generation, _) = self.held();
        self.refresh_past(generation).await;
    }

    /// Fetches a set newer than `generation`, or waits for whoever does. Returns
    /// without one when the last try was a moment ago, or failed.
    pub(super) async fn refresh_past(&self, generation: u64) {
        let mut turn = self.turn.lock().await;
        if self.held.read().generation != generation {
            return;
        }
        let now_ms = self.clock.now_ms();
        let rate = Rate::one_in(INTERVAL_MS, BURST);
        if turn.tries.take(rate, now_ms, 1).is_err() {
            return;
        }
        let fetched = self.source.fetch().await;
        match fetched.and_then(|bytes| keys::from_key_set(&bytes).map_err(|e| e.to_string())) {
            Ok(keys) => {
                if std::mem::take(&mut turn.is_failing) {
                    tracing::info!(keys = keys.len(), "the key set can be had again");
                }
                let mut held = self.held.write();
                held.generation += 1;
                held.keys = keys.into();
            }
            Err(reason) => {
                // Once an outage, not once a try.
                if !std::mem::replace(&mut turn.is_failing, true) {
                    let keys = self.held.read().keys.len();
                    tracing::warn!(
                        reason,
                        keys,
                        source = ?self.source,
                        "the key set cannot be had; the keys at hand stay in force"
                    );
                }
            }
        }
    }

    /// Renews the set for as long as it is polled.
    pub async fn keep_fresh(&self) {
        loop {
            let period = if self.turn.lock().await.is_failing {
                PERIOD_FAILING
            } else {
                PERIOD
            };
            // Either way it is time.
            let _ = tokio::time::timeout(period, self.wanted.notified()).await;
            self.refresh().await;
        }
    }
}
