//! JWKS cache: the public keys of an identity provider, fetched and refreshed.
//!
//! The set is refreshed every five minutes, and when a token names a key that the set
//! lacks. A token bucket ([`FETCH_INTERVAL_MS`], [`FETCH_BURST`]) bounds the fetches, so
//! that made-up key ids cannot flood the provider. While the provider is unreachable the
//! last keys stay in force. The transport of a fetch is the adapter's ([`JwksSource`]).

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify};

use super::keys::{self, VerifyingKey};
use crate::{
    SharedClock,
    limit::bucket::{Rate, TokenBucket},
};

/// Milliseconds in which one fetch is allowed.
const FETCH_INTERVAL_MS: u32 = 15_000;

/// Fetches allowed in a row after a quiet time.
const FETCH_BURST: u32 = 4;

/// Time between refreshes while fetches succeed.
const REFRESH_PERIOD: Duration = Duration::from_secs(300);

/// Time between refreshes while fetches fail.
const RETRY_PERIOD: Duration = Duration::from_secs(30);

/// The result of a fetch: the JSON document, or the reason for having none.
pub type JwksFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;

/// Fetches a JSON Web Key Set. Implementations bound the time and the size of a response.
pub trait JwksSource: std::fmt::Debug + Send + Sync + 'static {
    /// Fetches the document.
    fn fetch(&self) -> JwksFuture<'_>;
}

/// The cached keys of an identity provider.
pub struct RemoteKeySet {
    source: Box<dyn JwksSource>,
    clock: SharedClock,
    cache: RwLock<KeyCache>,
    /// Locked while a fetch runs. Other callers wait for its result.
    fetch: Mutex<FetchState>,
    refresh_request: Notify,
}

#[derive(Clone)]
struct KeyCache {
    /// Incremented by each successful fetch, so that a waiter notices a newer set.
    generation: u64,
    keys: Arc<[VerifyingKey]>,
}

#[derive(Default)]
struct FetchState {
    attempts: TokenBucket,
    is_failing: bool,
}

/// Whether the identity provider answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProviderState {
    /// The last fetch succeeded.
    Available,
    /// The last fetch failed: the set may lack keys.
    Unavailable,
}

impl FetchState {
    fn state(&self) -> ProviderState {
        match self.is_failing {
            true => ProviderState::Unavailable,
            false => ProviderState::Available,
        }
    }
}

impl std::fmt::Debug for RemoteKeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteKeySet")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl RemoteKeySet {
    /// An empty set. Call [`refresh`](Self::refresh) once, then run
    /// [`refresh_periodically`](Self::refresh_periodically) in a task.
    #[must_use]
    pub fn new(source: Box<dyn JwksSource>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            source,
            clock,
            cache: RwLock::new(KeyCache {
                generation: 0,
                keys: Arc::from([]),
            }),
            fetch: Mutex::default(),
            refresh_request: Notify::new(),
        })
    }

    /// The cached keys and their generation.
    pub(super) fn keys(&self) -> (u64, Arc<[VerifyingKey]>) {
        let cache = self.cache.read();
        (cache.generation, cache.keys.clone())
    }

    /// Requests a refresh in the background.
    pub(super) fn request_refresh(&self) {
        self.refresh_request.notify_one();
    }

    /// Fetches the set. A failure is logged, and the cached keys stay in force.
    pub async fn refresh(&self) {
        let (generation, _) = self.keys();
        self.refresh_newer_than(generation).await;
    }

    /// Fetches a set newer than `generation`, or waits for a fetch in progress. There may be
    /// no newer set afterwards, because the provider has none, or because the rate allows no
    /// fetch now.
    pub(super) async fn refresh_newer_than(&self, generation: u64) -> ProviderState {
        let mut fetch = self.fetch.lock().await;
        if self.cache.read().generation != generation {
            return ProviderState::Available;
        }
        let now_ms = self.clock.now_ms();
        let rate = Rate::one_in(FETCH_INTERVAL_MS, FETCH_BURST);
        if fetch.attempts.take(rate, now_ms, 1).is_err() {
            return fetch.state();
        }
        let document = self.source.fetch().await;
        match document.and_then(|bytes| keys::from_jwks(&bytes).map_err(|e| e.to_string())) {
            Ok(keys) => {
                if std::mem::take(&mut fetch.is_failing) {
                    tracing::info!(keys = keys.len(), "the key set was fetched again");
                }
                let mut cache = self.cache.write();
                cache.generation += 1;
                cache.keys = keys.into();
            }
            Err(reason) => {
                // Logged once per outage, not once per attempt.
                if !std::mem::replace(&mut fetch.is_failing, true) {
                    let keys = self.cache.read().keys.len();
                    tracing::warn!(
                        reason,
                        keys,
                        source = ?self.source,
                        "the key set cannot be fetched; the cached keys stay in force"
                    );
                }
            }
        }
        fetch.state()
    }

    /// Refreshes the set periodically and on request, for as long as it is polled.
    pub async fn refresh_periodically(&self) {
        loop {
            let period = if self.fetch.lock().await.is_failing {
                RETRY_PERIOD
            } else {
                REFRESH_PERIOD
            };
            // A timeout and a request both lead to a refresh.
            let _ = tokio::time::timeout(period, self.refresh_request.notified()).await;
            self.refresh().await;
        }
    }
}
