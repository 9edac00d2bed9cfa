//! Health of the connections to Redis.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use super::error::RedisError;

/// A part of the broker that may fail alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    /// The connection of a writer.
    Publishing(u64),
    /// The connection of reads.
    Reads,
    /// The connection on which this node hears of publications.
    Subscriptions,
    /// The connection on which this node hears the requests of operators.
    Control,
    /// The nodes that this one shares its channels with.
    Nodes,
    /// The writes of probes, on any connection.
    Writes,
    /// The eviction policy of the server. Everything works, and may be lost later.
    Eviction,
}

/// The faults of the connections.
#[derive(Debug, Default)]
pub(super) struct LinkHealth(Mutex<BTreeMap<Link, String>>);

impl LinkHealth {
    /// Notes a fault, and logs it if it is another than before.
    pub(super) fn fail(&self, link: Link, fault: &dyn std::fmt::Display) {
        let fault = fault.to_string();
        let before = self.0.lock().insert(link, fault.clone());
        if before.as_ref() != Some(&fault) {
            tracing::warn!(?link, fault, "Redis does not work");
        }
    }

    /// Notes that a connection works.
    pub(super) fn recover(&self, link: Link) {
        if self.0.lock().remove(&link).is_some() {
            tracing::info!(?link, "Redis works again");
        }
    }

    /// A fault in words, if there is one.
    pub(super) fn fault(&self) -> Option<String> {
        self.0.lock().values().next().cloned()
    }

    /// The error of a call without an answer, with the fault that may be the reason.
    pub(super) fn timed_out(&self, after: Duration) -> RedisError {
        match self.fault() {
            Some(fault) => RedisError::Hindered(after.as_millis(), fault),
            None => RedisError::TimedOut(after.as_millis()),
        }
    }

    /// Whether all connections work.
    pub(super) fn is_available(&self) -> bool {
        self.0.lock().keys().all(|link| *link == Link::Eviction)
    }
}
