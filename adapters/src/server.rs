//! The listener: HTTP/1.1 with upgrades and HTTP/2 on one port.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router as Routes, extract::ConnectInfo};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tidewire_stream::ShardId;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    Gateway,
    front::{self, First, Rewound},
    websocket,
};

/// A client has so long to send the head of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer that acknowledges nothing for so long is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP/2 asks a silent peer for a sign of life after so long.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The socket's send buffer, in bytes: what waits in the kernel is out of reach
/// for conflation and for urgent messages.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Buffers of a request's head, in bytes.
const HEAD_BUFFER_BYTES: usize = 8 << 10;

/// Serves the gateway until `stop` is cancelled, on one thread for each shard of the
/// streaming core. A connection stays on the thread that accepted it. Connections run
/// in the gateway's tasks; after `stop` they finish what they do, and idle ones close.
///
/// # Errors
/// A thread cannot be started, or the listener cannot be shared between them.
pub fn serve(
    listener: std::net::TcpListener,
    gateway: &Gateway,
    stop: &CancellationToken,
) -> io::Result<ShardThreads> {
    listener.set_nonblocking(true)?;
    let stream = &gateway.stream;
    let site = Arc::new(Site {
        gateway: gateway.clone(),
        routes: gateway.routes(),
    });
    let (end, mut threads) = (CancellationToken::new(), Vec::new());
    for shard in stream.hub().shards() {
        let acceptor = Acceptor {
            shard,
            listener: listener.try_clone()?,
            site: site.clone(),
            stop: stop.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stream, end) = (stream.clone(), end.clone());
        let thread = std::thread::Builder::new()
            .name(format!("tidewire-{shard}"))
            .spawn(move || {
                runtime.block_on(end.run_until_cancelled(async {
                    tokio::spawn(acceptor.run());
                    let pause = stream.options().longest_pause;
                    stream.hub().shard(shard).run(pause).await;
                }));
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
    stop: CancellationToken,
}

/// What all connections are served from.
struct Site {
    gateway: Gateway,
    routes: Routes,
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
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let place = Place {
                        address,
                        shard: self.shard,
                    };
                    self.site.gateway.tasks.spawn(serve_connection(
                        stream,
                        place,
                        self.site.clone(),
                        self.stop.clone(),
                    ));
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

/// Where a connection comes from, and where it is served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) shard: ShardId,
}

async fn serve_connection(
    mut stream: TcpStream,
    place: Place,
    site: Arc<Site>,
    stop: CancellationToken,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "a socket cannot be tuned");
    }
    let read = match front::first(&mut stream, HEADER_TIMEOUT).await {
        Ok(First::WebSocket(upgrade)) => {
            let accepted = websocket::accept(&site.gateway, upgrade.request.headers(), place);
            if let Ok(accepted) = accepted {
                let rest = &upgrade.read[upgrade.head..];
                let head = front::head_bytes(&accepted.response);
                let ends = websocket::tcp_ends(stream);
                return websocket::serve(&site.gateway, ends, head, rest, accepted.arrival).await;
            }
            // hyper says why not.
            upgrade.read
        }
        Ok(First::Other(read)) => read,
        Err(error) => {
            tracing::debug!(%error, address = %place.address, "a connection asked for nothing");
            return;
        }
    };
    // Boxed, so that a WebSocket does not hold the room for an HTTP connection.
    Box::pin(serve_http(Rewound::new(read, stream), place, site, stop)).await;
}

async fn serve_http(
    stream: Rewound<TcpStream>,
    place: Place,
    site: Arc<Site>,
    stop: CancellationToken,
) {
    let address = place.address;
    let routes = site.routes.clone();
    drop(site);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(place);
        request.extensions_mut().insert(place.shard);
        request
            .extensions_mut()
            .insert(tonic::transport::server::TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(address),
            });
        routes.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE)
        .max_concurrent_streams(1_000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %address, "a connection ended early");
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(())
}
