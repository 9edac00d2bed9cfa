//! Transports as labels: counts connections, bytes and deliveries by the name of each.
//!
//! An adapter defines a [`Transport`] and gives it with every connection. The core only
//! counts by it: no behaviour depends on a transport. A session looks its counters up once,
//! when it opens, so that a delivery finds them without a search.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use metrics::Counter;
use parking_lot::RwLock;

/// Label of a transport, such as `websocket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transport(&'static str);

impl Transport {
    /// A transport with this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Name in metrics and in the list of connections.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }
}

/// Counts of one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportStats {
    /// The transport.
    pub transport: Transport,
    /// Open connections.
    pub connections: usize,
    /// Bytes sent to all its connections so far, open and ended.
    pub bytes_sent: u64,
    /// Bytes received from them.
    pub bytes_received: u64,
    /// Messages handed to them.
    pub deliveries: u64,
}

/// Counters of one transport.
pub(crate) struct TransportCounters {
    transport: Transport,
    connects: Counter,
    deliveries: Counter,
    delivered: AtomicU64,
    /// Bytes of the connections that have ended.
    ended_sent: AtomicU64,
    ended_received: AtomicU64,
}

impl TransportCounters {
    fn new(transport: Transport) -> Self {
        let counter = |name: &'static str| metrics::counter!(name, "transport" => transport.name());
        Self {
            transport,
            connects: counter("tidewire_connects_total"),
            deliveries: counter("tidewire_deliveries_total"),
            delivered: AtomicU64::new(0),
            ended_sent: AtomicU64::new(0),
            ended_received: AtomicU64::new(0),
        }
    }

    pub(crate) fn count_connect(&self) {
        self.connects.increment(1);
    }

    pub(crate) fn count_deliveries(&self, messages: usize) {
        self.deliveries.increment(messages as u64);
        self.delivered.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Adds the bytes of a connection that has ended.
    pub(crate) fn add_ended(&self, sent: u64, received: u64) {
        self.ended_sent.fetch_add(sent, Ordering::Relaxed);
        self.ended_received.fetch_add(received, Ordering::Relaxed);
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Counts of the connections that have ended, and the messages to all.
    fn ended(&self) -> TransportStats {
        TransportStats {
            transport: self.transport,
            connections: 0,
            bytes_sent: self.ended_sent.load(Ordering::Relaxed),
            bytes_received: self.ended_received.load(Ordering::Relaxed),
            deliveries: self.delivered.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for TransportCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TransportCounters")
            .field(&self.transport)
            .finish()
    }
}

/// Counters of all transports of a core.
#[derive(Debug)]
pub(crate) struct Transports(RwLock<Vec<Arc<TransportCounters>>>);

impl Transports {
    /// Counters of these transports, exposed as zero from the start.
    pub(crate) fn new(known: &[Transport]) -> Self {
        let counters = known.iter().copied().map(TransportCounters::new);
        Self(RwLock::new(counters.map(Arc::new).collect()))
    }

    /// Counters of a transport. A transport that is new here is added.
    pub(crate) fn counters(&self, transport: Transport) -> Arc<TransportCounters> {
        let find = |all: &[Arc<TransportCounters>]| {
            let found = all.iter().find(|one| one.transport == transport);
            found.cloned()
        };
        if let Some(counters) = find(&self.0.read()) {
            return counters;
        }
        let mut all = self.0.write();
        find(&all).unwrap_or_else(|| {
            let counters = Arc::new(TransportCounters::new(transport));
            all.push(counters.clone());
            counters
        })
    }

    /// Counts of the connections that have ended, by transport.
    pub(crate) fn ended(&self) -> Vec<TransportStats> {
        self.0.read().iter().map(|one| one.ended()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_has_one_set_of_counters() {
        const FIRST: Transport = Transport::new("first");
        let transports = Transports::new(&[FIRST]);
        transports.counters(FIRST).add_ended(3, 4);
        let second = transports.counters(Transport::new("second"));
        assert!(Arc::ptr_eq(
            &second,
            &transports.counters(Transport::new("second"))
        ));
        let ended = transports.ended();
        let counts: Vec<_> = ended
            .iter()
            .map(|one| (one.transport.name(), one.bytes_sent, one.bytes_received))
            .collect();
        assert_eq!(counts, [("first", 3, 4), ("second", 0, 0)]);
    }
}
