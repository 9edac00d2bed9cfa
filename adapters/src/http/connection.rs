//! HTTP connections: hyper's HTTP/1.1 with upgrades and HTTP/2, and how long they may
//! be idle.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use hyper::{
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tower::ServiceExt as _;

use crate::{
    admission::InFlight,
    server::{Site, Visit},
};

/// HTTP/2 asks a silent peer for a sign of life after so long.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Buffers of a request's head, in bytes.
const HEAD_BUFFER_BYTES: usize = 8 << 10;

/// Serves a connection until it ends. It has until `deadline` for its first request.
pub(crate) async fn serve<I>(io: I, visit: Visit, site: Arc<Site>, deadline: Instant)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Visit {
        address, ticket, ..
    } = visit.clone();
    let (routes, stop) = (site.routes.clone(), site.stop.clone());
    let asked = ticket.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let in_flight = asked.begin();
        let refusal = asked.refusal(request.headers());
        let extensions = request.extensions_mut();
        visit.enter(extensions);
        let routes = routes.clone();
        async move {
            let response = match refusal {
                Some(refusal) => Ok(refusal),
                None => routes.oneshot(request.map(Body::new)).await,
            };
            response.map(|response: Response| {
                response.map(|body| Answering {
                    body,
                    _in_flight: in_flight,
                })
            })
        }
    });
    let options = *site.gateway.admission.options();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .keep_alive_timeout(HTTP2_KEEP_ALIVE)
        .max_concurrent_streams(1_000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    // hyper bounds the head of a request; what comes before one is bounded here:
    // silence, half a preface, a connection that asks for nothing more.
    let mut look_at = std::pin::pin!(tokio::time::sleep_until(deadline));
    let mut is_stopping = false;
    let served = loop {
        tokio::select! {
            served = connection.as_mut() => break served,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = look_at.as_mut() => {
                if !ticket.is_busy() {
                    tracing::debug!(%address, "a connection that asks for nothing is closed");
                    return;
                }
                look_at.as_mut().reset(Instant::now() + options.idle_timeout);
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %address, "a connection ended early");
    }
}

/// A body that is on its way. Its request is being answered until it is dropped.
struct Answering {
    body: Body,
    _in_flight: InFlight,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
