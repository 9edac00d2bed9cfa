//! Health of the connections to Redis.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    error::RedisError,
    route::{Place, Route},
};
use crate::ChannelName;

/// Time within which a link that fails again for the same reason has no further lines in the log: a server
/// that accepts connections and refuses commands would fill it.
const LOG_PAUSE: Duration = Duration::from_secs(5);

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
    /// The last line of the log about a fault of each of them.
    lines: Mutex<BTreeMap<Link, FaultLine>>,
    route: Route,
}

/// A line of the log about a fault.
#[derive(Debug)]
struct FaultLine {
    at: Instant,
    fault: String,
    /// Whether the log has not said yet that the link works again.
    is_open: bool,
}

impl LinkHealth {
    pub(super) fn new(route: Route) -> Self {
        let faults = Mutex::default();
        Self {
            faults,
            since: Mutex::default(),
            lines: Mutex::default(),
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
        let mut lines = self.lines.lock();
        let is_told = lines.get(&link).is_some_and(|line| {
            line.fault == fault && (line.is_open || line.at.elapsed() < LOG_PAUSE)
        });
        if !is_told {
            tracing::warn!(%link, fault, "Redis does not work");
            let line = FaultLine {
                at: Instant::now(),
                fault: fault.clone(),
                is_open: true,
            };
            lines.insert(link.clone(), line);
        }
        drop(lines);
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
        let mut faults = self.faults.lock();
        if faults.remove(link).is_none() {
            return;
        }
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get_mut(link)
            && std::mem::replace(&mut line.is_open, false)
        {
            tracing::info!(%link, "Redis works again");
        }
    }

    /// Forgets the faults of a server that has no slots any more.
    pub(super) fn forget(&self, place: &Place) {
        let mut faults = self.faults.lock();
        faults.retain(|link, _| link.place() != Some(place));
        let mut since = self.since.lock();
        since.retain(|link, _| link.place() != Some(place));
        let mut lines = self.lines.lock();
        lines.retain(|link, _| link.place() != Some(place));
    }

    /// A fault in words, if there is one.
    pub(super) fn fault(&self) -> Option<String> {
        self.faults.lock().values().next().cloned()
    }

    /// A fault of a server, or one that is none of a server.
    pub(super) fn fault_at(&self, place: &Place) -> Option<String> {
        let faults = self.faults.lock();
        let of = |place: Option<&Place>| {
            let mut of_place = faults.iter().filter(|(link, _)| link.place() == place);
            of_place.next().map(|(_, fault)| fault.clone())
        };
        of(Some(place)).or_else(|| of(None))
    }

    /// The error of a call to a server that did not answer, with the fault that may be the reason.
    pub(super) fn timed_out(&self, place: &Place, after: Duration) -> RedisError {
        match self.fault_at(place) {
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
    fn a_call_is_told_of_the_fault_of_its_own_server() {
        let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
        let health = LinkHealth::new(Route::new(&cluster, &KeyNames::new("test", 0)));
        let places = [1, 2, 3].map(|port| {
            let server = ServerAddress::new("a", port);
            cluster.note_moved(Slot::of(&[u8::try_from(port).unwrap()]), &server);
            Place::Master(server)
        });
        health.fail(Link::Reads(places[0].clone()), &"it is lost");
        let told = |place| {
            health
                .timed_out(place, Duration::from_millis(5))
                .to_string()
        };
        assert_eq!(told(&places[0]), "no answer within 5 ms: a:1: it is lost");
        assert_eq!(told(&places[1]), "no answer within 5 ms");
        health.fail(Link::Publishing(places[1].clone(), 0), &"it hangs");
        assert_eq!(told(&places[1]), "no answer within 5 ms: a:2: it hangs");
        health.fail(Link::Slots, &"no server answers");
        assert_eq!(told(&places[2]), "no answer within 5 ms: no server answers");
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_fails_again_and_again_is_one_line() {
        let route = Route::new(&Cluster::default(), &KeyNames::new("test", 0));
        let health = LinkHealth::new(route);
        let at = || health.lines.lock()[&Link::Control].at;
        let fail = |fault: &str| {
            health.fail(Link::Control, &fault);
            let written_at = at();
            health.recover(&Link::Control);
            assert!(health.is_whole());
            written_at
        };
        let first = fail("CLUSTERDOWN");
        for _ in 0..40 {
            tokio::time::advance(LOG_PAUSE / 50).await;
            assert_eq!(fail("CLUSTERDOWN"), first);
        }
        let other = fail("it is lost");
        assert_eq!(other, Instant::now(), "another reason has its line");
        tokio::time::advance(LOG_PAUSE).await;
        assert_eq!(fail("it is lost"), Instant::now());
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
