//! Names of links, as the log shows them in the field `link`.

use std::fmt;

use super::{health::Link, route::Place};

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots => f.write_str("slots of the cluster"),
            Self::Publishing(place, number) => {
                write!(f, "publishing {number}{}", At(place))
            }
            Self::Reads(place) => write!(f, "reads{}", At(place)),
            Self::Subscriptions(place) => write!(f, "subscriptions{}", At(place)),
            Self::Control => f.write_str("control"),
            Self::Nodes => f.write_str("nodes"),
            Self::Writes(place) => write!(f, "writes{}", At(place)),
            Self::Eviction(place) => write!(f, "eviction policy{}", At(place)),
        }
    }
}

/// The server of a link, if there are several.
struct At<'a>(&'a Place);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Only => Ok(()),
            Place::Master(server) => write!(f, " at {server}"),
            Place::Nowhere => f.write_str(" of slots without a server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewire_redis::ServerAddress;

    use super::*;

    #[test]
    fn a_link_is_named_in_words() {
        let master = || Place::Master(ServerAddress::new("10.0.0.1", 6_379));
        for (link, name) in [
            (Link::Publishing(Place::Only, 1), "publishing 1"),
            (Link::Writes(master()), "writes at 10.0.0.1:6379"),
            (
                Link::Reads(Place::Nowhere),
                "reads of slots without a server",
            ),
            (Link::Slots, "slots of the cluster"),
        ] {
            assert_eq!(link.to_string(), name);
        }
    }
}
