//! Server id: the name of a server in its cluster, by which a subscriber knows whose script made a batch.
//!
//! The servers of a shard tell each other what is published on shard channels, over the bus of the
//! cluster. A master that was replaced while it hung does so too when it wakes: it carries out what
//! waited in its sockets, before it has heard of the next master. Its publication has the position that
//! the next master gives to another one. Each batch therefore names the server whose script made it, and
//! a subscriber delivers those of its own server alone. At one of another server, it compares the channel
//! with Redis. Example, with the master M, its replica R and a node that is subscribed at R by now:
//!
//! ```text
//!  M wakes, and makes 5 ──(bus)──► R ──► node: M is not R, so the channel is compared: the newest is 4
//!                  R makes 5 ──────────► node: delivers it
//! ```
//!
//! A server tells its id to a user with the right `+cluster|myid`. Without it, nothing is named or compared.

use super::{connection::RedisConnection, error::RedisError, route::Route};

/// The id of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerId(Box<str>);

impl ServerId {
    /// The id of the server of a connection. None outside of a cluster, or if the server does not tell.
    ///
    /// # Errors
    /// The connection broke, or the server does not answer questions yet.
    pub(super) async fn ask(
        connection: &mut RedisConnection,
        route: &Route,
    ) -> Result<Option<Self>, RedisError> {
        if !route.is_cluster() {
            return Ok(None);
        }
        match connection.call(&["CLUSTER", "MYID"]).await {
            Ok(reply) => Ok(Some(Self(reply.string()?.into()))),
            Err(error @ RedisError::Refused(_)) if !error.is_transient() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a batch is of another server. One that names none may be of an earlier release.
    pub(super) fn is_other_than(&self, named: Option<&str>) -> bool {
        named.is_some_and(|named| named != &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_without_a_name_is_of_no_other_server() {
        let own = ServerId("a".into());
        let named = [None, Some("a"), Some("b")];
        let others = named.map(|named| own.is_other_than(named));
        assert_eq!(others, [false, false, true]);
    }
}
