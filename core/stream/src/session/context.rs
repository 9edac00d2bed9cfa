//! Context of a session: state that all sessions of one core share.
//!
//! Sessions hold the context and not the core, so that the core depends on sessions and
//! sessions do not depend on the core.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics::{Counter, Histogram};

use super::registry::Registry;
use crate::{
    Authenticator, Clock, Namespaces, SharedClock, StreamOptions, broker::Broker, health::Health,
    hub::Hub, transport::Transports,
};

/// State that all sessions of one core share.
pub(crate) struct SessionContext {
    namespaces: Arc<Namespaces>,
    hub: Arc<Hub>,
    broker: Arc<dyn Broker>,
    authenticator: Authenticator,
    clock: SharedClock,
    options: StreamOptions,
    registry: Registry,
    transports: Transports,
    health: Health,
    /// Set once the server is about to stop: the window in which clients come back.
    draining: OnceLock<Duration>,
    round_trips: Histogram,
    missed_heartbeats: Counter,
}

impl SessionContext {
    pub(crate) fn new(
        namespaces: Arc<Namespaces>,
        hub: Arc<Hub>,
        broker: Arc<dyn Broker>,
        authenticator: Authenticator,
        clock: SharedClock,
        options: StreamOptions,
    ) -> Self {
        Self {
            namespaces,
            hub,
            broker,
            authenticator,
            clock,
            options,
            registry: Registry::default(),
            transports: Transports::new(options.transports),
            health: Health::default(),
            draining: OnceLock::new(),
            round_trips: metrics::histogram!("tidewire_round_trip_seconds"),
            missed_heartbeats: metrics::counter!("tidewire_missed_beats_total"),
        }
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn options(&self) -> &StreamOptions {
        &self.options
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn transports(&self) -> &Transports {
        &self.transports
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Makes every session that opens from now on leave, to return within `window`.
    pub(crate) fn start_draining(&self, window: Duration) {
        // A second drain changes nothing: the first window counts.
        let _ = self.draining.set(window);
    }

    /// The window in which clients come back, once the server is about to stop.
    pub(super) fn draining(&self) -> Option<Duration> {
        self.draining.get().copied()
    }

    pub(super) fn record_round_trip(&self, round_trip: Duration) {
        self.round_trips.record(round_trip);
    }

    pub(super) fn count_missed_heartbeat(&self) {
        self.missed_heartbeats.increment(1);
    }
}

impl std::fmt::Debug for SessionContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionContext")
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}
