//! Listener: one port, accepted by one thread per shard.

use std::{io, sync::Arc, time::Duration};

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tidewire_stream::{ShardId, deadline};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    context::{RequestContext, ServerContext},
    http::connection,
    routes::routes,
    tls::{PeerIdentity, TlsAcceptor},
    upgrade::{self, FirstRequest, Rewind, UpgradeRequest},
    websocket::{self, ByteStream},
};

/// Time without an acknowledgement after which the kernel closes a connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Time that a refused connection has to send a request and read the refusal.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a failed `accept`, so that closing connections can free file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Send buffer of a socket, in bytes. Conflation and urgent messages cannot reach bytes in
/// the kernel, so it is small.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Unsent bytes in the send buffer, at most. A slow reader's queue then stays in its
/// session, where newer values replace older ones.
#[cfg(target_os = "linux")]
const NOTSENT_BYTES: u32 = 64 << 10;

/// Connections that may wait to be accepted. The standard library asks for 128, fewer than the
/// clients that come back at the same moment after a restart. The system cuts this to its own
/// limit: `net.core.somaxconn`, 4,096 by default.
const ACCEPT_QUEUE: i32 = 65_535;

/// Serves the gateway until `halt` is cancelled, on one thread per shard of the streaming
/// core. A connection stays on the thread that accepted it, and runs in the gateway's
/// tasks. After `stop`, connections finish their requests and close. New ones are still
/// accepted, each for one request: so a load balancer hears that the server is not ready, and
/// a client that it should come back.
///
/// # Errors
/// The listener cannot be configured or shared, or a thread cannot be started.
pub fn serve(
    listener: &std::net::TcpListener,
    gateway: &Gateway,
    tls: Option<Arc<TlsAcceptor>>,
    stop: &CancellationToken,
    halt: &CancellationToken,
) -> io::Result<ShardThreads> {
    listener.set_nonblocking(true)?;
    set_socket_options(listener)?;
    let stream = &gateway.stream;
    let server = Arc::new(ServerContext {
        gateway: gateway.clone(),
        routes: routes(gateway, stop),
        tls,
        stop: stop.clone(),
        halt: halt.clone(),
    });
    let (end, mut threads) = (CancellationToken::new(), Vec::new());
    let (running, all_ended) = mpsc::channel::<()>(1);
    for shard in stream.hub().shards() {
        let acceptor = ShardAcceptor {
            shard,
            listener: listener.try_clone()?,
            server: server.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stream, end, running) = (stream.clone(), end.clone(), running.clone());
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
                drop((runtime, running));
            })?;
        threads.push(thread);
    }
    Ok(ShardThreads {
        end,
        threads,
        all_ended,
    })
}

/// The threads of the shards.
#[derive(Debug)]
pub struct ShardThreads {
    end: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Closed when each thread has dropped its sender at its end.
    all_ended: mpsc::Receiver<()>,
}

impl ShardThreads {
    /// Ends the threads, and the connections that are still open on them. A thread that has
    /// not ended at `deadline` is left to the end of the process.
    pub async fn end(mut self, deadline: Instant) {
        self.end.cancel();
        // Nothing is ever sent: the channel only closes.
        let has_ended = timeout_at(deadline, self.all_ended.recv()).await.is_ok();
        for thread in self.threads {
            if !has_ended && !thread.is_finished() {
                let name = thread.thread().name().unwrap_or_default();
                tracing::error!(thread = name, "a shard's thread does not end, and is left");
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a shard's thread panicked");
            }
        }
    }
}

/// Accepts connections for one shard. All shards share the listener, so that an idle shard
/// accepts the next connection.
struct ShardAcceptor {
    shard: ShardId,
    listener: std::net::TcpListener,
    server: Arc<ServerContext>,
}

impl ShardAcceptor {
    async fn run(self) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a shard cannot listen");
                return;
            }
        };
        let gateway = &self.server.gateway;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.server.halt.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let Some(guard) = gateway.admission.admit(address.ip()) else {
                        continue;
                    };
                    let context = RequestContext {
                        address,
                        shard: self.shard,
                        guard,
                        peer: None,
                    };
                    let connection = serve_connection(stream, context, self.server.clone());
                    gateway.tasks.spawn(connection);
                }
                Err(error) => {
                    // Most likely the process has no file descriptors left.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Performs the TLS handshake if there is one, then serves the connection.
async fn serve_connection(
    stream: TcpStream,
    mut context: RequestContext,
    server: Arc<ServerContext>,
) {
    let timeout = server.gateway.admission.options().handshake_timeout;
    let timeout = if context.guard.is_refused() {
        timeout.min(REFUSED_TIMEOUT)
    } else {
        timeout
    };
    let deadline = deadline(Instant::now(), timeout);
    let Some(tls) = server.tls.clone() else {
        return serve_stream(stream, context, server, deadline, websocket::split_tcp).await;
    };
    let address = context.address;
    // The futures are boxed, so that a plain connection does not hold their memory.
    match Box::pin(timeout_at(deadline, tls.accept(stream))).await {
        Ok(Ok(stream)) => {
            context.peer = PeerIdentity::of(&stream);
            let split = websocket::split_tls;
            Box::pin(serve_stream(stream, context, server, deadline, split)).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, %address, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake timed out"),
    }
}

/// Serves a WebSocket upgrade directly, and every other request over HTTP.
async fn serve_stream<I>(
    mut io: I,
    context: RequestContext,
    server: Arc<ServerContext>,
    deadline: Instant,
    split: fn(I) -> ByteStream,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, refusal) = match upgrade::read_first_request(&mut io, deadline).await {
        Ok(FirstRequest::WebSocket(request)) => {
            match accept_upgrade(request, &context, &server).await {
                Ok((handshake, rest)) => {
                    let gateway = &server.gateway;
                    return websocket::serve_handshake(gateway, split(io), handshake, &rest).await;
                }
                Err(refused) => refused,
            }
        }
        Ok(FirstRequest::Http(read)) => (read, None),
        Err(error) => {
            tracing::debug!(%error, address = %context.address, "a connection sent no request");
            return;
        }
    };
    // Boxed, so that a WebSocket does not hold the memory of an HTTP connection.
    let io = Rewind::new(read, io);
    Box::pin(connection::serve(io, context, server, deadline, refusal)).await;
}

/// Accepts an upgrade. A refused one is returned as it was read, with the response that HTTP
/// sends, so that nothing judges and counts it again.
async fn accept_upgrade(
    mut upgrade: UpgradeRequest,
    context: &RequestContext,
    server: &ServerContext,
) -> Result<(websocket::Handshake, Bytes), (Bytes, Option<Response>)> {
    if context.guard.is_refused() {
        return Err((upgrade.read, None));
    }
    context.insert_into(&mut upgrade.request, &server.gateway);
    // The request ends the handshake of the connection.
    let _request = context.guard.begin_request();
    match websocket::accept(&server.gateway, &upgrade.request).await {
        Ok(handshake) => Ok((handshake, upgrade.read.slice(upgrade.head_length..))),
        Err(error) => Err((upgrade.read, Some(error.into_response()))),
    }
}

/// Sets the options on the listener. Accepted sockets inherit them, which saves three
/// system calls per connection.
fn set_socket_options(listener: &std::net::TcpListener) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    // It listens already: this changes the length of the queue.
    socket.listen(ACCEPT_QUEUE)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_is_stuck_is_left_at_the_deadline() {
        let (running, all_ended) = mpsc::channel::<()>(1);
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let stuck = std::thread::spawn(move || {
            // Until the test has ended.
            let _ = stuck.recv();
            drop(running);
        });
        let threads = ShardThreads {
            end: CancellationToken::new(),
            threads: vec![stuck],
            all_ended,
        };
        threads.end(Instant::now() + Duration::from_secs(1)).await;
        drop(release);
    }
}
