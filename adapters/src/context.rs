//! Contexts: state that the server shares between connections, and data that a connection adds
//! to its requests.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router as Routes, extract::ConnectInfo};
use http::Request;
use tidewire_stream::ShardId;
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    access::{self, ConnectionGuard},
    tls::{PeerIdentity, TlsAcceptor},
};

/// The state that all connections share.
pub(crate) struct ServerContext {
    pub(crate) gateway: Gateway,
    pub(crate) routes: Routes,
    pub(crate) tls: Option<Arc<TlsAcceptor>>,
    /// Cancelled when the server begins to send its clients away.
    pub(crate) stop: CancellationToken,
    /// Cancelled when no connection is accepted any more.
    pub(crate) halt: CancellationToken,
}

/// The properties of a connection that each of its requests carries.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    pub(crate) address: SocketAddr,
    /// The shard that accepted the connection.
    pub(crate) shard: ShardId,
    pub(crate) guard: Arc<ConnectionGuard>,
    /// The identity of the client certificate, if there is one.
    pub(crate) peer: Option<PeerIdentity>,
}

impl RequestContext {
    /// Inserts the context into the extensions of a request, with the request's locality.
    pub(crate) fn insert_into<B>(&self, request: &mut Request<B>, gateway: &Gateway) {
        access::set_host(request);
        let (peer, proxies) = (self.address.ip(), gateway.admission.proxies());
        let locality = gateway.locality.of(request, peer, proxies);
        let extensions = request.extensions_mut();
        extensions.insert(locality);
        extensions.insert(ConnectInfo(self.address));
        extensions.insert(tonic::transport::server::TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(self.address),
        });
        extensions.insert(self.shard);
        extensions.insert(self.guard.clone());
        if let Some(peer) = &self.peer {
            extensions.insert(peer.clone());
        }
    }
}
