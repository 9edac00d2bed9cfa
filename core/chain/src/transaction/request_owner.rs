//! Request owner: the unit in which room for watches and requests is shared.

use tidewire_stream::{Caller, ClientKey, session::ConnectionId};

/// The owner of requests: a connection of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestOwner {
    /// None for back ends, which have no share.
    pub(crate) client: Option<ClientKey>,
    /// None for an RPC, which has no session.
    pub(crate) connection: Option<ConnectionId>,
}

impl From<&Caller> for RequestOwner {
    fn from(caller: &Caller) -> Self {
        Self {
            client: ClientKey::sharing(caller),
            connection: caller.connection,
        }
    }
}
