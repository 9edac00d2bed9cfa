//! Health of the connections to Redis.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    error::RedisError,
    route::{Place, Route},
};
use crate::ChannelName;

/// A part of the broker that may fail alone, and the server that it uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    /// The slots of a cluster: some have no server.
    Slots,
    /// The connection of a writer.
    Publishing(Place, u64),
    /// The connection of reads.
    Reads(Place),
    /// The connection on which this node hears of publications.
    Subscriptions(Place),
    /// The connection on which this node hears the requests of operators.
    Control,
    /// The nodes that this one shares its channels with.
    Nodes,
    /// The writes of probes, on any connection.
    Writes(Place),
    /// The eviction policy of the server. Everything works, and may be lost later.
    Eviction(Place),
}

impl Link {
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Slots | Self::Control | Self::Nodes => None,
            Self::Publishing(place, _)
            | Self::Reads(place)
            | Self::Subscriptions(place)
            | Self::Writes(place)
            | Self::Eviction(place) => Some(place),
        }
    }
}

/// The faults of the connections.
#[derive(Debug)]
pub(super) struct LinkHealth {
    faults: Mutex<BTreeMap<Link, String>>,
    /// Since when each of them has not worked.
    since: Mutex<BTreeMap<Link, Instant>>,
    route: Route,
}

impl LinkHealth {
    pub(super) fn new(route: Route) -> Self {
        let faults = Mutex::default();
        Self {
            faults,
            since: Mutex::default(),
            route,
        }
    }

    /// Notes a fault, and logs it if it is another than before. One of a server that has no slots any
    /// more is none: a call that waited for it may end later, and nobody uses the server again to find
    /// out that it works.
    pub(super) fn fail(&self, link: Link, fault: &dyn std::fmt::Display) {
        let fault = match link.place().and_then(Place::master) {
            Some(server) => format!("{server}: {fault}"),
            None => fault.to_string(),
        };
        let mut faults = self.faults.lock();
        // Asked under the lock: whoever forgets a server that is gone does it afterwards.
        if link.place().is_some_and(|place| self.route.is_gone(place)) {
            return;
        }
        if faults.get(&link) != Some(&fault) {
            tracing::warn!(%link, fault, "Redis does not work");
        }
        let mut since = self.since.lock();
        since.entry(link.clone()).or_insert_with(Instant::now);
        drop(since);
        faults.insert(link, fault);
    }

    /// The server of a channel.
    pub(super) fn place_of(&self, channel: &ChannelName) -> Place {
        self.route.of(channel)
    }

    /// Whether a connection has not worked at any time since then.
    pub(super) fn has_failed_since(&self, link: &Link, then: Instant) -> bool {
        let since = self.since.lock();
        since.get(link).is_some_and(|since| *since <= then)
    }

    /// Notes that a connection works.
    pub(super) fn recover(&self, link: &Link) {
        self.since.lock().remove(link);
        if self.faults.lock().remove(link).is_some() {
            tracing::info!(%link, "Redis works again");
        }
    }

    /// Forgets the faults of a server that has no slots any more.
    pub(super) fn forget(&self, place: &Place) {
        let mut faults = self.faults.lock();
        faults.retain(|link, _| link.place() != Some(place));
        let mut since = self.since.lock();
        since.retain(|link, _| link.place() != Some(place));
    }

    /// A fault in words, if there is one.
    pub(super) fn fault(&self) -> Option<String> {
        self.faults.lock().values().next().cloned()
    }

    /// The error of a call without an answer, with the fault that may be the reason.
    pub(super) fn timed_out(&self, after: Duration) -> RedisError {
        match self.fault() {
            Some(fault) => RedisError::Hindered(after.as_millis(), fault),
            None => RedisError::TimedOut(after.as_millis()),
        }
    }

    /// Whether all connections work.
    pub(super) fn is_whole(&self) -> bool {
        let faults = self.faults.lock();
        faults.keys().all(|link| matches!(link, Link::Eviction(_)))
    }

    /// Whether shared channels can be used: in a cluster, those of one server at least. A node without one
    /// of several servers is no worse than the others: most likely they lack it as well.
    pub(super) fn is_available(&self) -> bool {
        let faults = self.faults.lock();
        let hinders = |link: &Link| !matches!(link, Link::Eviction(_));
        if !faults.keys().any(hinders) {
            return true;
        }
        // Without a common protocol, this node alone is left out.
        if !self.route.is_cluster() || faults.contains_key(&Link::Nodes) {
            return false;
        }
        let works = |place: &Place| {
            let mut of_place = faults.keys().filter(|link| link.place() == Some(place));
            !of_place.any(hinders)
        };
        self.route.places().iter().any(works)
    }
}

#[cfg(test)]
mod tests {
    use tidewire_redis::{Cluster, ServerAddress, Slot};

    use super::{super::keys::KeyNames, *};

    #[test]
    fn a_cluster_is_available_while_one_of_its_servers_works() {
        let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
        let health = LinkHealth::new(Route::new(&cluster, &KeyNames::new("test", 0)));
        health.fail(Link::Slots, &"no server has answered yet");
        assert!(!health.is_available(), "nothing works yet");
        let places = [1, 2].map(|port| {
            let server = ServerAddress::new("a", port);
            cluster.note_moved(Slot::of(&[u8::try_from(port).unwrap()]), &server);
            Place::Master(server)
        });
        assert!(health.is_available() && !health.is_whole());
        health.fail(Link::Reads(places[0].clone()), &"it is lost");
        health.fail(Link::Control, &"it is lost");
        assert!(health.is_available() && !health.is_whole());
        health.fail(Link::Publishing(places[1].clone(), 0), &"it is lost");
        assert!(!health.is_available(), "no server works");
        health.recover(&Link::Reads(places[0].clone()));
        assert!(health.is_available());
        health.fail(Link::Nodes, &"the others are of another release");
        assert!(!health.is_available(), "this node alone is left out");
    }

    #[test]
    fn a_single_server_is_available_while_all_connections_work() {
        let route = Route::new(&Cluster::default(), &KeyNames::new("test", 0));
        let health = LinkHealth::new(route);
        health.fail(Link::Eviction(Place::Only), &"keys may be dropped");
        assert!(health.is_available() && health.is_whole());
        health.fail(Link::Control, &"it is lost");
        assert!(!health.is_available() && !health.is_whole());
    }
}
