//! Who may connect: counted and timed before anything of a connection is read.
//!
//! The acceptor asks [`Admission::arrive`] for each connection and closes it at once
//! without a [`Ticket`]. The ticket goes along with the connection: it holds its
//! places for as long as anything holds the ticket, which a session does through its
//! allowance. A ticket may carry a refusal; the connection is then answered with it
//! and closed.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use tidewire_proto::v1;
use tidewire_stream::{
    LimitError, SessionLimits, SharedClock,
    limit::{AddressLimits, LimitOptions, NetworkKey, count::Place},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Proxies, http::reply::HttpError};

/// So many connections at once are told why they are refused; those beyond are cut.
const MAX_REFUSALS: usize = 256;

/// Whoever finds too many handshakes going on may ask again after so many
/// milliseconds.
const RETRY_HANDSHAKE_MS: u32 = 1_000;

/// What the operator decides about connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionOptions {
    /// What holds for sessions, and by address for connections too.
    pub limits: LimitOptions,
    /// Connections that have not asked for anything yet, 0 for any number.
    pub concurrent_handshakes: usize,
    /// How long a connection has until its first request, TLS included.
    pub handshake_timeout: Duration,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
}

/// Who may connect.
#[derive(Debug)]
pub struct Admission {
    options: AdmissionOptions,
    connections: AddressLimits,
    handshakes: Option<Arc<Semaphore>>,
    refusals: Arc<Semaphore>,
    sessions: SessionLimits,
    proxies: Proxies,
}

impl Admission {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(options: AdmissionOptions, proxies: Proxies, clock: SharedClock) -> Arc<Self> {
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
            sessions: SessionLimits::new(options.limits, clock),
            options,
            proxies,
        })
    }

    /// Admits a connection, or gives a ticket with its refusal. None: cut it.
    #[must_use]
    pub fn arrive(&self, peer: IpAddr) -> Option<Arc<Ticket>> {
        match self.places(peer) {
            Ok((place, handshake)) => Some(Ticket::new(place, handshake, None)),
            Err(refusal) => {
                metrics::counter!("tidewire_connections_refused_total").increment(1);
                let permit = self.refusals.clone().try_acquire_owned().ok()?;
                Some(Ticket::new(None, Some(permit), Some(refusal)))
            }
        }
    }

    fn places(&self, peer: IpAddr) -> Result<Places, Refusal> {
        // A proxy has many clients: these are counted one by one as they ask.
        let place = if self.proxies.trusts(peer) {
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
                let permit = handshakes.clone().try_acquire_owned();
                Some(permit.map_err(|_| Refusal {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    error: LimitError::new(
                        "too many clients connect at this moment".to_owned(),
                        RETRY_HANDSHAKE_MS,
                    ),
                })?)
            }
            None => None,
        };
        Ok((place, handshake))
    }

    /// The limits of sessions.
    #[must_use]
    pub fn sessions(&self) -> &SessionLimits {
        &self.sessions
    }

    /// The proxies that are trusted.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// What the operator decided.
    #[must_use]
    pub fn options(&self) -> &AdmissionOptions {
        &self.options
    }
}

type Places = (Option<Place<NetworkKey>>, Option<OwnedSemaphorePermit>);

/// Why a connection is refused.
#[derive(Debug, Clone)]
struct Refusal {
    status: StatusCode,
    error: LimitError,
}

/// A connection's places, and how busy it is.
#[derive(Debug)]
pub struct Ticket {
    _place: Option<Place<NetworkKey>>,
    handshake: Mutex<Option<OwnedSemaphorePermit>>,
    refusal: Option<Box<Refusal>>,
    was_active: AtomicBool,
    in_flight: AtomicUsize,
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Ticket>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.was_active.store(true, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ticket {
    fn new(
        place: Option<Place<NetworkKey>>,
        handshake: Option<OwnedSemaphorePermit>,
        refusal: Option<Refusal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            _place: place,
            handshake: Mutex::new(handshake),
            refusal: refusal.map(Box::new),
            was_active: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// The connection asks for something: its handshake is over.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        // Whoever is refused holds its place among the refused until it has gone.
        if !self.was_active.swap(true, Ordering::Relaxed) && self.refusal.is_none() {
            self.handshake.lock().take();
        }
        InFlight(self.clone())
    }

    /// Whether it is being answered, or was since the last time that this was asked.
    pub(crate) fn is_busy(&self) -> bool {
        let was_active = self.was_active.swap(false, Ordering::Relaxed);
        self.in_flight.load(Ordering::Relaxed) > 0 || (was_active && !self.is_refused())
    }

    /// The answer to each of its requests, if it is refused.
    pub(crate) fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let Refusal { status, error } = *self.refusal.clone()?;
        let is_grpc = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let mut response = if is_grpc {
            tonic::Status::resource_exhausted(error.to_string()).into_http()
        } else {
            HttpError::of(status, v1::Error::from(error)).into_response()
        };
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        Some(response)
    }

    /// Whether it is refused.
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
        };
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let proxies = Proxies::new(trusted, crate::ProxyHeader::XForwardedFor);
        Admission::new(options, proxies, ManualClock::at(0))
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1));
    const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn a_place_is_held_as_long_as_the_ticket() {
        let limits = LimitOptions {
            connections_per_ip: 1,
            ..LimitOptions::default()
        };
        let admission = admission(limits, 0);
        let first = admission.arrive(CLIENT).unwrap();
        assert!(!first.is_refused());
        let session = first.clone();
        drop(first);
        assert!(admission.arrive(CLIENT).unwrap().is_refused());
        assert!(!admission.arrive(PROXY).unwrap().is_refused());
        drop(session);
        assert!(!admission.arrive(CLIENT).unwrap().is_refused());
        assert_eq!(admission.connections.held(), 0);
    }

    #[test]
    fn a_handshake_ends_with_the_first_request() {
        let admission = admission(LimitOptions::default(), 1);
        let first = admission.arrive(CLIENT).unwrap();
        assert!(admission.arrive(CLIENT).unwrap().is_refused());
        let request = first.begin();
        assert!(first.is_busy());
        let second = admission.arrive(CLIENT).unwrap();
        assert!(!second.is_refused() && !second.is_busy());
        drop(request);
        // It was busy until a moment ago; then it was not.
        assert!(first.is_busy());
        assert!(!first.is_busy());
    }

    #[test]
    fn the_refused_are_bounded() {
        let admission = admission(LimitOptions::default(), 1);
        let _first = admission.arrive(CLIENT).unwrap();
        let refused: Vec<_> = (0..MAX_REFUSALS)
            .map(|_| admission.arrive(CLIENT).unwrap())
            .collect();
        assert!(admission.arrive(CLIENT).is_none());
        drop(refused);
        let refused = admission.arrive(CLIENT).unwrap();
        let response = refused.refusal(&HeaderMap::new()).unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
}
