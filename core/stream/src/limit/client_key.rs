//! Client key: the unit in which clients without a session are counted.

use crate::{Caller, Scope, UserId};

use super::NetworkKey;

/// A user, or the network of a client without a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// The user of a token.
    User(UserId),
    /// Clients without a token at one address.
    Network(NetworkKey),
    /// Clients without a token whose address is not known.
    Unknown,
}

impl ClientKey {
    /// The client of which shares of common room are counted. None for a back end, which has as
    /// much as it needs.
    #[must_use]
    pub fn sharing(caller: &Caller) -> Option<Self> {
        (!caller.identity.has(Scope::Service)).then(|| caller.into())
    }
}

impl From<&Caller> for ClientKey {
    fn from(caller: &Caller) -> Self {
        match (caller.identity.user(), caller.address) {
            (Some(user), _) => Self::User(user.clone()),
            (None, Some(address)) => Self::Network(address.into()),
            (None, None) => Self::Unknown,
        }
    }
}
