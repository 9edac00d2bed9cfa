//! Succession: the server that a failover promotes, before the sentinels have agreed on it.
//!
//! The sentinel that leads a failover announces the replica that it selected (`+selected-slave`), and
//! then makes it a master. It names it as the master (`+switch-master`) only once it has read the new
//! role, up to a second later, and once the other replicas follow it. Worked example, with the times of
//! a failover after a kill:
//!
//! ```text
//!   0 ms  the master is killed
//! 520 ms  +odown            down-after-milliseconds are over
//! 700 ms  +selected-slave   the leader has chosen a replica: a node asks it for its role
//! 760 ms  REPLICAOF NO ONE  the role is "master": the node uses it
//! 1.6 s   +switch-master    the leader names it
//! ```
//!
//! From the selection on, the replaced master is not used: what it acknowledged would be lost if it had
//! not reached the replica by the promotion. If nothing is promoted within [`HOLD`], it is used again.
//!
//! A selected server is used only if it is selected in place of the master that is known (a sentinel may
//! watch another Redis), and says itself that it is a master. It then stands for the replaced one in the
//! answers of sentinels that have not heard of it, as long as the failover is under way and
//! [`CONFIRMATION`] longer. If no sentinel has named it by then, or the failover was given up, the
//! answers count again as they are.

use std::time::Duration;

use tokio::time::Instant;

use crate::sentinels::Master;

/// Time for which a promoted server is used without a sentinel that has a failover under way or names
/// it. Other sentinels hear of it within two seconds.
pub(crate) const CONFIRMATION: Duration = Duration::from_secs(3);

/// Time between two questions for the role of a selected server.
pub(crate) const ROLES: Duration = Duration::from_millis(20);

/// Longest wait for the answer of a selected server.
pub(crate) const ROLE_TIME: Duration = Duration::from_millis(500);

/// Time for which a master is not used once another server was selected. Sentinels promote it within
/// two of their ticks of 100 ms, if they can.
pub(crate) const HOLD: Duration = Duration::from_secs(1);

/// Time for which a selected server is asked. Sentinels promote it at once.
pub(crate) const SELECTION: Duration = Duration::from_secs(10);

/// Events of sentinels that nodes listen to.
pub(crate) const EVENTS: [&str; 3] = [SWITCHED, SELECTED, GIVEN_UP];

/// Another server is the master.
const SWITCHED: &str = "+switch-master";

/// The leader of a failover has selected a replica.
const SELECTED: &str = "+selected-slave";

/// The leader of a failover has given up the replica that it selected.
const GIVEN_UP: &str = "-failover-abort-slave-timeout";

/// Host and port of a server.
pub(crate) type Place = (String, u16);

/// An event of a sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// The master has changed, or may have: the sentinels are to be asked.
    Switched,
    /// A replica is to take the place of a master.
    Selected {
        /// The replica.
        replica: Place,
        /// The master that it replaces.
        master: Place,
    },
    /// The replacement of this master was given up.
    GivenUp(Place),
}

impl Announcement {
    /// Reads an event. None if it is about a master with another name.
    pub(crate) fn parse(event: &str, text: &str, name: &str) -> Option<Self> {
        let parts: Vec<_> = text.split(' ').collect();
        let place = |host: &str, port: &str| Some((host.to_owned(), port.parse().ok()?));
        match (event, &*parts) {
            (SWITCHED, [of, ..]) => (*of == name).then_some(Self::Switched),
            // `slave NAME HOST PORT @ MASTER HOST PORT`
            (SELECTED, [_, _, host, port, "@", of, master, master_port]) if *of == name => {
                Some(Self::Selected {
                    replica: place(host, port)?,
                    master: place(master, master_port)?,
                })
            }
            // The same, of the selected replica.
            (GIVEN_UP, [.., "@", of, master, master_port]) if *of == name => {
                Some(Self::GivenUp(place(master, master_port)?))
            }
            _ => None,
        }
    }
}

/// A server that is used before the sentinels name it.
#[derive(Debug)]
pub(crate) struct Successor {
    /// The server.
    successor: Place,
    /// The master before it.
    replaced: Place,
    /// The failover that made that one the master.
    failover: u64,
    /// Until when it stands for the one before.
    until: Instant,
}

impl Successor {
    /// A server that takes the place of this master now.
    pub(crate) fn of(replaced: &Master, successor: Place, now: Instant) -> Self {
        Self {
            successor,
            replaced: replaced.place(),
            failover: replaced.failover,
            until: now + CONFIRMATION,
        }
    }

    /// Whether it took the place of this one, and still stands for it.
    pub(crate) fn stands_for(&self, replaced: &Place, now: Instant) -> bool {
        self.replaced == *replaced && now < self.until
    }

    /// Puts it in the place of the replaced one where a sentinel has a failover under way, or has not
    /// heard of one. A later failover may have made the replaced one the master again.
    pub(crate) fn stand_in(&mut self, named: &mut [Master], now: Instant) {
        let is_before = |master: &Master| master.place() == self.replaced;
        if named.iter().any(|one| is_before(one) && one.is_replaced) {
            self.until = now + CONFIRMATION;
        }
        if now >= self.until {
            return;
        }
        for master in named {
            let is_stale = master.is_replaced || master.failover <= self.failover;
            if master.place() == self.replaced && is_stale {
                (master.host, master.port) = self.successor.clone();
                master.is_replaced = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        ("10.0.0.1".to_owned(), port)
    }

    #[test]
    fn events_name_both_servers() {
        let parse = |event, text| Announcement::parse(event, text, "tidewire");
        let selected = "slave 10.0.0.1:2 10.0.0.1 2 @ tidewire 10.0.0.1 1";
        assert_eq!(
            parse("+selected-slave", selected),
            Some(Announcement::Selected {
                replica: place(2),
                master: place(1)
            })
        );
        assert_eq!(
            parse("-failover-abort-slave-timeout", selected),
            Some(Announcement::GivenUp(place(1)))
        );
        assert_eq!(
            parse("+switch-master", "tidewire 10.0.0.1 1 10.0.0.1 2"),
            Some(Announcement::Switched)
        );
        for (event, text) in [
            ("+selected-slave", "slave a 10.0.0.1 2 @ other 10.0.0.1 1"),
            (
                "+selected-slave",
                "slave a 10.0.0.1 x @ tidewire 10.0.0.1 1",
            ),
            ("+selected-slave", "slave a 10.0.0.1 2"),
            ("+switch-master", "other 10.0.0.1 1 10.0.0.1 2"),
            ("+sdown", selected),
            ("", ""),
        ] {
            assert_eq!(parse(event, text), None, "{event} {text}");
        }
    }
}
