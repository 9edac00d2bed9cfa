//! The listener: one port, served by one thread for each shard.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router as Routes, extract::ConnectInfo};
use http::Extensions;
use tidewire_stream::ShardId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway, Ticket,
    front::{self, First, Rewound, Upgrade},
    http::connection,
    tls::{Acceptor as TlsAcceptor, PeerIdentity},
    websocket::{self, Ends},
};

/// A peer that acknowledges nothing for so long is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Who is refused has so long to hear why.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);

/// The socket's send buffer, in bytes: what waits in the kernel is out of reach
/// for conflation and for urgent messages.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Of it, so much may not have left yet: a slow reader's queue is with us, where
/// newer values replace older ones.
#[cfg(target_os = "linux")]
const NOTSENT_BYTES: u32 = 64 << 10;

/// What all connections are served from.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) routes: Routes,
    tls: Option<Arc<TlsAcceptor>>,
    /// Cancelled when the server is about to stop.
    pub(crate) stop: CancellationToken,
}

/// Serves the gateway until `stop` is cancelled, on one thread for each shard of the
/// streaming core. A connection stays on the thread that accepted it. Connections run
/// in the gateway's tasks; after `stop` they finish what they do, and idle ones close.
///
/// # Errors
/// A thread cannot be started, or the listener cannot be shared between them.
pub fn serve(
    listener: &std::net::TcpListener,
    gateway: &Gateway,
    tls: Option<Arc<TlsAcceptor>>,
    stop: &CancellationToken,
) -> io::Result<ShardThreads> {
    listener.set_nonblocking(true)?;
    tune(listener)?;
    let stream = &gateway.stream;
    let site = Arc::new(Site {
        gateway: gateway.clone(),
        routes: gateway.routes(),
        tls,
        stop: stop.clone(),
    });
    let (end, mut threads) = (CancellationToken::new(), Vec::new());
    for shard in stream.hub().shards() {
        let acceptor = Acceptor {
            shard,
            listener: listener.try_clone()?,
            site: site.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stream, end) = (stream.clone(), end.clone());
        let thread = std::thread::Builder::new()
            .name(format!("tidewire-{shard}"))
            .spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(acceptor.run());
                    tokio::spawn(async move {
                        let pause = stream.options().max_write_pause;
                        stream.hub().shard(shard).run(pause).await;
                    });
                    end.cancelled().await;
                });
            })?;
        threads.push(thread);
    }
    Ok(ShardThreads { end, threads })
}

/// The threads of the shards.
#[derive(Debug)]
pub struct ShardThreads {
    end: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl ShardThreads {
    /// Ends the threads, and the connections that still live on them.
    pub fn end(self) {
        self.end.cancel();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a shard's thread panicked");
            }
        }
    }
}

/// Accepts connections for one shard. The listener is shared: whoever has time for
/// it takes the next one.
struct Acceptor {
    shard: ShardId,
    listener: std::net::TcpListener,
    site: Arc<Site>,
}

impl Acceptor {
    async fn run(self) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a shard cannot listen");
                return;
            }
        };
        let gateway = &self.site.gateway;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.site.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let Some(ticket) = gateway.admission.arrive(address.ip()) else {
                        continue;
                    };
                    let visit = Visit {
                        address,
                        shard: self.shard,
                        ticket,
                        peer: None,
                    };
                    let welcome = welcome(stream, visit, self.site.clone());
                    gateway.tasks.spawn(welcome);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: those that close make room.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// A connection: where it comes from and where it is served.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) address: SocketAddr,
    pub(crate) shard: ShardId,
    pub(crate) ticket: Arc<Ticket>,
    /// Whose certificate it came with.
    peer: Option<PeerIdentity>,
}

impl Visit {
    /// Goes along with a request.
    pub(crate) fn enter(&self, extensions: &mut Extensions) {
        extensions.insert(ConnectInfo(self.address));
        extensions.insert(tonic::transport::server::TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(self.address),
        });
        extensions.insert(self.shard);
        extensions.insert(self.ticket.clone());
        if let Some(peer) = &self.peer {
            extensions.insert(peer.clone());
        }
    }
}

/// Sees a connection through its handshake.
async fn welcome(stream: TcpStream, mut visit: Visit, site: Arc<Site>) {
    let patience = site.gateway.admission.options().handshake_timeout;
    let patience = if visit.ticket.is_refused() {
        patience.min(REFUSED_TIMEOUT)
    } else {
        patience
    };
    let deadline = Instant::now() + patience;
    let Some(tls) = site.tls.clone() else {
        return serve_stream(stream, visit, site, deadline, websocket::tcp_ends).await;
    };
    let address = visit.address;
    match Box::pin(timeout_at(deadline, tls.accept(stream))).await {
        Ok(Ok(stream)) => {
            visit.peer = PeerIdentity::of(&stream);
            Box::pin(serve_stream(
                stream,
                visit,
                site,
                deadline,
                websocket::other_ends,
            ))
            .await;
        }
        Ok(Err(error)) => tracing::debug!(%error, %address, "no TLS connection"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}

/// Takes an upgrade itself, and leaves everything else to HTTP.
async fn serve_stream<I>(
    mut io: I,
    visit: Visit,
    site: Arc<Site>,
    deadline: Instant,
    ends: fn(I) -> Ends,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let read = match front::first(&mut io, deadline).await {
        Ok(First::WebSocket(upgrade)) => match upgrade_by_itself(upgrade, &visit, &site).await {
            Ok((accepted, rest)) => {
                let gateway = &site.gateway;
                return websocket::serve_accepted(gateway, ends(io), accepted, &rest).await;
            }
            Err(read) => read,
        },
        Ok(First::Other(read)) => read,
        Err(error) => {
            tracing::debug!(%error, address = %visit.address, "a connection asked for nothing");
            return;
        }
    };
    // Boxed, so that a WebSocket does not hold the room for an HTTP connection.
    let io = Rewound::new(read, io);
    Box::pin(connection::serve(io, visit, site, deadline)).await;
}

/// Judges an upgrade. One that is not granted is given back as it was read: HTTP
/// says why.
async fn upgrade_by_itself(
    mut upgrade: Upgrade,
    visit: &Visit,
    site: &Site,
) -> Result<(websocket::Accepted, bytes::Bytes), bytes::Bytes> {
    if visit.ticket.is_refused() {
        return Err(upgrade.read);
    }
    visit.enter(upgrade.request.extensions_mut());
    // Its handshake is over.
    let _in_flight = visit.ticket.begin();
    match websocket::accept(&site.gateway, &upgrade.request).await {
        Ok(accepted) => Ok((accepted, upgrade.read.slice(upgrade.head..))),
        Err(_) => Err(upgrade.read),
    }
}

/// Accepted sockets take these over from the listener, which saves three system calls
/// for each.
fn tune(listener: &std::net::TcpListener) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
    }
    Ok(())
}
