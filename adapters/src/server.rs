//! The listener: HTTP/1.1 with upgrades and HTTP/2 on one port.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router as Routes, extract::ConnectInfo};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

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
const HEAD_BUFFER_BYTES: usize = 16 << 10;

/// Serves `routes` until `stop` is cancelled. Connections run in `tasks`; after
/// `stop` they finish what they do, and idle ones close.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                tasks.spawn(serve_connection(
                    stream,
                    address,
                    routes.clone(),
                    stop.clone(),
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

async fn serve_connection(
    stream: TcpStream,
    address: SocketAddr,
    routes: Routes,
    stop: CancellationToken,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "a socket cannot be tuned");
    }
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
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
