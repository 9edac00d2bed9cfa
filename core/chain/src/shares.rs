//! Client shares: how much of one of the server's limits a client takes.
//!
//! A client without the `service` scope has a share, and each of its connections a part of that, so
//! that none takes the room of others. Watched transactions, followed wallets, event filters and
//! transactions with a subscriber each have shares of their own.

use tidewire_stream::{
    ClientKey,
    limit::semaphore::{KeyedPermit, KeyedSemaphore},
    session::ConnectionId,
};

use crate::transaction::RequestOwner;

/// Parts of a limit of which one client takes one at most. Then all transactions of a client are
/// checked once a minute, however many are watched.
pub(crate) const CLIENT_PARTS: usize = 20;

/// Parts of a limit of which one connection takes one at most.
pub(crate) const CONNECTION_PARTS: usize = 50;

/// The use of one limit, by client and by connection.
#[derive(Debug)]
pub(crate) struct ClientShares {
    max: usize,
    clients: KeyedSemaphore<ClientKey>,
    connections: KeyedSemaphore<ConnectionId>,
}

/// Room in the share of a client, and in that of its connection. Dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Share {
    client: ClientKey,
    _client: KeyedPermit<ClientKey>,
    _connection: Option<KeyedPermit<ConnectionId>>,
}

/// A share without enough room. Holds the size of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShareError {
    Client(u32),
    Connection(u32),
}

/// Whether something may count for a client beyond its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// The client is refused.
    Refused,
    /// The client has no room for others then.
    Allowed,
}

impl ClientShares {
    /// Shares of a limit, all unused.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            clients: KeyedSemaphore::default(),
            connections: KeyedSemaphore::default(),
        }
    }

    /// The limit that is shared.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Room for something that counts as `count`. None for a back end, which has no share.
    ///
    /// # Errors
    /// The share of the owner's client or connection has too little room.
    pub(crate) fn acquire(
        &self,
        owner: &RequestOwner,
        count: u32,
    ) -> Result<Option<Share>, ShareError> {
        let Some(client) = &owner.client else {
            return Ok(None);
        };
        let connection = owner.connection.as_ref().map(|connection| {
            let most = self.part(CONNECTION_PARTS);
            let permit = self.connections.try_acquire_many(connection, count, most);
            permit.ok_or(ShareError::Connection(most))
        });
        let connection = connection.transpose()?;
        let most = self.part(CLIENT_PARTS);
        let permit = self.clients.try_acquire_many(client, count, most);
        Ok(Some(Share {
            client: client.clone(),
            _client: permit.ok_or(ShareError::Client(most))?,
            _connection: connection,
        }))
    }

    /// Room in the share of a client without a connection. With [`Excess::Allowed`] also beyond the
    /// share, which then has no room.
    ///
    /// # Errors
    /// The share has no room.
    pub(crate) fn acquire_for(
        &self,
        client: &ClientKey,
        excess: Excess,
    ) -> Result<Share, ShareError> {
        let most = self.part(CLIENT_PARTS);
        let limit = match excess {
            Excess::Refused => most,
            Excess::Allowed => u32::MAX,
        };
        let permit = self.clients.try_acquire(client, limit);
        Ok(Share {
            client: client.clone(),
            _client: permit.ok_or(ShareError::Client(most))?,
            _connection: None,
        })
    }

    fn part(&self, parts: usize) -> u32 {
        u32::try_from((self.max / parts).max(1)).unwrap_or(u32::MAX)
    }
}

impl Share {
    /// The client whose share it is in.
    pub(crate) fn client(&self) -> &ClientKey {
        &self.client
    }
}
