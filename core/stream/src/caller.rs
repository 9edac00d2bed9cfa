//! Caller: a client as permissions and limits see it.
//!
//! An adapter makes the caller of each request and of each session. An operator's rights come
//! from the token of the caller, or from its locality: a server that listens on loopback serves
//! the user of its own machine without a token.

use std::net::IpAddr;

use crate::{Identity, Scope, StreamError, session::ConnectionId};

/// Whether a request comes from the user of the server's own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locality {
    /// It does: the server listens on loopback only, and no page, proxy or name stands between.
    Local,
    /// It comes from elsewhere, or nothing proves that it does not.
    #[default]
    Remote,
}

/// A client that sends a request or has a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Identity that the client has proved.
    pub identity: Identity,
    /// Address of the client, as far as it is trusted. None where it is not known.
    pub address: Option<IpAddr>,
    /// Whether the client is the user of the server's own machine.
    pub locality: Locality,
    /// The session of the request. None for a request without one.
    pub connection: Option<ConnectionId>,
}

impl Caller {
    /// Checks that the caller may operate the server: by the `admin` scope, or as the user of
    /// its machine.
    ///
    /// # Errors
    /// The caller is neither.
    pub fn require_operator(&self) -> Result<(), StreamError> {
        match self.locality {
            Locality::Local => Ok(()),
            Locality::Remote => self.identity.require(Scope::Admin),
        }
    }
}

impl From<&Identity> for Caller {
    /// A remote caller without a known address.
    fn from(identity: &Identity) -> Self {
        identity.clone().into()
    }
}

impl From<Identity> for Caller {
    /// A remote caller without a known address.
    fn from(identity: Identity) -> Self {
        Self {
            identity,
            address: None,
            locality: Locality::Remote,
            connection: None,
        }
    }
}
