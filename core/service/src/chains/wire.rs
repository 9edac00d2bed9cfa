//! Messages between a node and the owner of a chain, as protobuf. Nodes of different versions may run
//! side by side: a field keeps its number.

use bytes::Bytes;
use prost::Message;
use tidewire_proto::v1::{ErrorCode, EventFilter};
use tidewire_stream::{
    Caller, Identity, Locality, Scope, StreamError, UserId, identity::UserIdentity,
    session::ConnectionId,
};

/// A request that needs the engine of a chain.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChainCall {
    #[prost(uint64, tag = "1")]
    pub(super) chain: u64,
    /// The request, as protobuf.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) request: Bytes,
}

/// The name of a channel.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChannelReply {
    #[prost(string, tag = "1")]
    pub(crate) channel: String,
}

/// Whether a wallet is linked to a user.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LinkReply {
    #[prost(bool, tag = "1")]
    pub(super) is_linked: bool,
}

/// Changes to the interest of one node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InterestUpdate {
    /// The node.
    #[prost(string, tag = "1")]
    pub(super) node: String,
    /// The session of the node, whose interest begins empty. A later one has a greater number.
    #[prost(uint64, tag = "2")]
    pub(super) session: u64,
    /// The number of this update in the session, from 0.
    #[prost(uint64, tag = "3")]
    pub(super) number: u64,
    /// Channels that are not followed on the node any more. They go before those that are added.
    #[prost(string, repeated, tag = "4")]
    pub(super) removed: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    pub(super) added: Vec<Follower>,
}

/// A channel, and the first client of a node that follows it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Follower {
    #[prost(string, tag = "1")]
    pub(super) channel: String,
    #[prost(string, optional, tag = "2")]
    pub(super) user: Option<String>,
    #[prost(bool, tag = "3")]
    pub(super) is_service: bool,
    #[prost(string, optional, tag = "4")]
    pub(super) address: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(super) connection: Option<String>,
    /// The filter of an `events:` channel, if the node knows it.
    #[prost(message, optional, tag = "6")]
    pub(super) filter: Option<EventFilter>,
}

/// The answer of the owner to an update.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InterestAnswer {
    /// Whether the owner knows the session, and the update is its next one. Otherwise nothing was
    /// done, and the node begins a new session.
    #[prost(bool, tag = "1")]
    pub(super) is_in_step: bool,
    /// Channels that are not followed.
    #[prost(message, repeated, tag = "2")]
    pub(super) refusals: Vec<FollowRefusal>,
    /// Filters of channels that the node named without one.
    #[prost(message, repeated, tag = "3")]
    pub(super) filters: Vec<KnownFilter>,
}

/// Why a channel is not followed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FollowRefusal {
    /// Its index among the added ones.
    #[prost(uint32, tag = "1")]
    pub(super) index: u32,
    #[prost(int32, tag = "2")]
    code: i32,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(uint32, optional, tag = "4")]
    retry_after_ms: Option<u32>,
}

/// The filter of a channel.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KnownFilter {
    /// Its index among the added ones.
    #[prost(uint32, tag = "1")]
    pub(super) index: u32,
    #[prost(message, optional, tag = "2")]
    pub(super) filter: Option<EventFilter>,
}

impl Follower {
    pub(super) fn new(channel: String, caller: &Caller, filter: Option<EventFilter>) -> Self {
        let user = caller.identity.user();
        Self {
            channel,
            user: user.map(|user| user.as_str().to_owned()),
            is_service: caller.identity.has(Scope::Service),
            address: caller.address.map(|address| address.to_string()),
            connection: caller.connection.map(|id| id.as_str().to_owned()),
            filter,
        }
    }

    /// The caller, as far as the shares of limits need it. It has no other rights.
    pub(super) fn caller(&self) -> Caller {
        let identity = match &self.user {
            Some(user) => {
                let mut identity = UserIdentity::new(UserId::new(user), i64::MAX);
                if self.is_service {
                    identity.scopes.insert(Scope::Service);
                }
                identity.into()
            }
            None => Identity::Anonymous,
        };
        Caller {
            identity,
            address: self
                .address
                .as_ref()
                .and_then(|address| address.parse().ok()),
            locality: Locality::Remote,
            connection: self.connection.as_deref().and_then(ConnectionId::parse),
        }
    }
}

impl FollowRefusal {
    pub(super) fn new(index: usize, error: &StreamError) -> Self {
        Self {
            index: index_of(index),
            code: error.code().into(),
            message: error.message().to_owned(),
            retry_after_ms: error.retry_after_ms(),
        }
    }

    pub(super) fn error(&self) -> StreamError {
        let code = ErrorCode::try_from(self.code).unwrap_or(ErrorCode::Internal);
        let error = StreamError::new(code, self.message.clone());
        match self.retry_after_ms {
            Some(wait) => error.with_retry_after_ms(wait),
            None => error,
        }
    }
}

/// An index in a message, which has far fewer items than that.
pub(super) fn index_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tidewire_stream::ClientKey;

    use super::*;

    #[test]
    fn a_follower_has_the_share_of_the_client() {
        let mut service = UserIdentity::new(UserId::new("shop"), 7);
        service.scopes.insert(Scope::Service);
        let callers = [
            Caller {
                connection: Some(ConnectionId::random()),
                ..Identity::from(UserIdentity::new(UserId::new("ann"), 7)).into()
            },
            Caller {
                address: Some([127, 0, 0, 1].into()),
                ..Identity::Anonymous.into()
            },
            Identity::from(service).into(),
            Identity::Unknown.into(),
        ];
        for caller in callers {
            let sent = Follower::new("tx:1:0x".to_owned(), &caller, None);
            let read = Follower::decode(&*sent.encode_to_vec()).unwrap();
            let carried = read.caller();
            assert_eq!(ClientKey::sharing(&carried), ClientKey::sharing(&caller));
            assert_eq!(carried.connection, caller.connection);
        }
    }
}
