//! Admission: limits connections before a byte of them is read.
//!
//! The acceptor calls [`Admission::admit`] for each connection. The returned
//! [`ConnectionGuard`] holds the permits of the connection until its last clone is dropped;
//! a session holds a clone through its quota. A guard can carry a refusal. The connection is
//! then answered with the refusal and closed. Without a guard the connection is closed at
//! once.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use tidewire_stream::{
    LimitError, SessionLimits, SharedClock,
    limit::{AddressLimits, CallLimits, LimitOptions, NetworkKey, semaphore::KeyedPermit},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{TrustedProxies, refusal};

/// Connections that are answered with a refusal at once. Further ones are closed without
/// an answer, so that a flood costs little.
const MAX_REFUSALS: usize = 256;

/// Milliseconds after which a client may try again when too many handshakes are open.
const RETRY_HANDSHAKE_MS: u32 = 1_000;

/// The limits on connections that the operator configures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionOptions {
    /// The limits on sessions. Those by address count for connections too.
    pub limits: LimitOptions,
    /// Connections without a request yet. 0 means no limit.
    pub concurrent_handshakes: usize,
    /// The time until the first request of a connection, TLS included.
    pub handshake_timeout: Duration,
    /// The time that a connection may be open without a request.
    pub idle_timeout: Duration,
    /// The time for the body of a request, to which each received KiB adds a second.
    pub body_timeout: Duration,
    /// The time in which a client takes at least one byte of a response that waits for it.
    pub response_timeout: Duration,
    /// The bytes of responses that wait for the client of one connection. Beyond them, its
    /// further requests wait.
    pub response_bytes: usize,
}

/// The limits on connections and sessions, and their current use.
#[derive(Debug)]
pub struct Admission {
    options: AdmissionOptions,
    connections: AddressLimits,
    handshakes: Option<Arc<Semaphore>>,
    refusals: Arc<Semaphore>,
    sessions: SessionLimits,
    calls: CallLimits,
    proxies: TrustedProxies,
    unsent: Arc<AtomicUsize>,
}

impl Admission {
    /// Limits by `options`, without any connections yet.
    #[must_use]
    pub fn new(
        options: AdmissionOptions,
        proxies: TrustedProxies,
        clock: SharedClock,
    ) -> Arc<Self> {
        let LimitOptions {
            connections_per_ip,
            handshakes_per_second,
            ..
        } = options.limits;
        let handshakes = options.concurrent_handshakes.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            connections: AddressLimits::new(
                connections_per_ip,
                handshakes_per_second,
                clock.clone(),
            ),
            handshakes: (handshakes > 0).then(|| Arc::new(Semaphore::new(handshakes))),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            calls: CallLimits::new(&options.limits, clock.clone()),
            sessions: SessionLimits::new(options.limits, clock),
            options,
            proxies,
            unsent: Arc::default(),
        })
    }

    /// Admits a connection from `peer`, or returns a guard with a refusal. `None` means to
    /// close the connection at once.
    #[must_use]
    pub fn admit(&self, peer: IpAddr) -> Option<Arc<ConnectionGuard>> {
        match self.acquire(peer) {
            Ok((permit, handshake)) => Some(ConnectionGuard::new(permit, handshake, None)),
            Err(refusal) => {
                metrics::counter!("tidewire_connections_refused_total").increment(1);
                let permit = self.refusals.clone().try_acquire_owned().ok()?;
                Some(ConnectionGuard::new(None, Some(permit), Some(refusal)))
            }
        }
    }

    fn acquire(&self, peer: IpAddr) -> Result<ConnectionPermits, Refusal> {
        // The clients behind a proxy are counted one by one when they open sessions.
        let permit = if self.proxies.trusts(peer) {
            None
        } else {
            let admitted = self.connections.admit(NetworkKey::from(peer));
            Some(admitted.map_err(|error| Refusal {
                status: StatusCode::TOO_MANY_REQUESTS,
                error,
            })?)
        };
        let handshake = match &self.handshakes {
            Some(handshakes) => {
                let handshake = handshakes.clone().try_acquire_owned();
                Some(handshake.map_err(|_| Refusal {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    error: LimitError::new(
                        "too many clients connect at this moment".to_owned(),
                        RETRY_HANDSHAKE_MS,
                    ),
                })?)
            }
            None => None,
        };
        Ok((permit, handshake))
    }

    /// The limits of sessions.
    #[must_use]
    pub fn sessions(&self) -> &SessionLimits {
        &self.sessions
    }

    /// The limits of calls without a session.
    #[must_use]
    pub fn calls(&self) -> &CallLimits {
        &self.calls
    }

    /// The bytes of responses that wait for clients, without those of sessions.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.load(Ordering::Relaxed)
    }

    /// The counter of [`unsent_bytes`](Self::unsent_bytes).
    pub(crate) fn unsent_total(&self) -> Arc<AtomicUsize> {
        self.unsent.clone()
    }

    /// The trusted proxies.
    #[must_use]
    pub fn proxies(&self) -> &TrustedProxies {
        &self.proxies
    }

    /// The configured limits.
    #[must_use]
    pub fn options(&self) -> &AdmissionOptions {
        &self.options
    }
}

type ConnectionPermits = (
    Option<KeyedPermit<NetworkKey>>,
    Option<OwnedSemaphorePermit>,
);

/// The reason for refusing a connection.
#[derive(Debug, Clone)]
struct Refusal {
    status: StatusCode,
    error: LimitError,
}

/// The permits of a connection, and its requests in flight.
#[derive(Debug)]
pub struct ConnectionGuard {
    /// Never read: dropping it gives the permit back.
    _permit: Option<KeyedPermit<NetworkKey>>,
    handshake: Mutex<Option<OwnedSemaphorePermit>>,
    refusal: Option<Box<Refusal>>,
    was_active: AtomicBool,
    in_flight: AtomicUsize,
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<ConnectionGuard>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.was_active.store(true, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionGuard {
    fn new(
        permit: Option<KeyedPermit<NetworkKey>>,
        handshake: Option<OwnedSemaphorePermit>,
        refusal: Option<Refusal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            _permit: permit,
            handshake: Mutex::new(handshake),
            refusal: refusal.map(Box::new),
            was_active: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Begins a request. The first one ends the handshake.
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        // A refused connection keeps its refusal permit until it is closed.
        if !self.was_active.swap(true, Ordering::Relaxed) && self.refusal.is_none() {
            self.handshake.lock().take();
        }
        RequestGuard(self.clone())
    }

    /// Notes that the client took bytes of a response.
    pub(crate) fn note_activity(&self) {
        self.was_active.store(true, Ordering::Relaxed);
    }

    /// Whether a request is in flight, or bytes of one, or were since the previous call.
    pub(crate) fn is_busy(&self) -> bool {
        let was_active = self.was_active.swap(false, Ordering::Relaxed);
        self.in_flight.load(Ordering::Relaxed) > 0 || (was_active && !self.is_refused())
    }

    /// The response to every request of the connection, if it is refused.
    pub(crate) fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let Refusal { status, error } = *self.refusal.clone()?;
        let mut response = refusal::response(headers, status, error);
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        Some(response)
    }

    /// Whether the connection is refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }
}

#[cfg(test)]
mod tests {
    use tidewire_stream::ManualClock;

    use super::*;

    fn admission(limits: LimitOptions, concurrent_handshakes: usize) -> Arc<Admission> {
        let options = AdmissionOptions {
            limits,
            concurrent_handshakes,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(30),
            response_bytes: 1 << 20,
        };
        let proxies = TrustedProxies::parse(&["10.0.0.0/8"], crate::ProxyHeader::XForwardedFor);
        Admission::new(options, proxies.unwrap(), ManualClock::at(0))
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1));
    const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn the_permit_is_held_as_long_as_the_guard() {
        let limits = LimitOptions {
            connections_per_ip: 1,
            ..LimitOptions::default()
        };
        let admission = admission(limits, 0);
        let first = admission.admit(CLIENT).unwrap();
        assert!(!first.is_refused());
        let session = first.clone();
        drop(first);
        assert!(admission.admit(CLIENT).unwrap().is_refused());
        assert!(!admission.admit(PROXY).unwrap().is_refused());
        drop(session);
        assert!(!admission.admit(CLIENT).unwrap().is_refused());
        assert_eq!(admission.connections.connected(), 0);
    }

    #[test]
    fn a_handshake_ends_with_the_first_request() {
        let admission = admission(LimitOptions::default(), 1);
        let first = admission.admit(CLIENT).unwrap();
        assert!(admission.admit(CLIENT).unwrap().is_refused());
        let request = first.begin_request();
        assert!(first.is_busy());
        let second = admission.admit(CLIENT).unwrap();
        assert!(!second.is_refused() && !second.is_busy());
        drop(request);
        // The first call reports the request that has just ended, the second call none.
        assert!(first.is_busy());
        assert!(!first.is_busy());
    }

    #[test]
    fn refused_connections_are_bounded() {
        let admission = admission(LimitOptions::default(), 1);
        let _first = admission.admit(CLIENT).unwrap();
        let refused: Vec<_> = (0..MAX_REFUSALS)
            .map(|_| admission.admit(CLIENT).unwrap())
            .collect();
        assert!(admission.admit(CLIENT).is_none());
        drop(refused);
        let refused = admission.admit(CLIENT).unwrap();
        let response = refused.refusal(&HeaderMap::new()).unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
}
