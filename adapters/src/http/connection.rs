//! HTTP connections: HTTP/1.1 with upgrades and HTTP/2 over hyper, and their idle timeout.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::Version;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    request_body::{RequestBody, UnreadRequests},
    response_body::{ResponseBody, ResponseKind},
    response_timeout::{ResponseIo, StreamExecutor, WriteActivity, current_progress},
    unsent::UnsentResponses,
};
use crate::{
    access::refusal,
    context::{RequestContext, ServerContext},
    grpc_web, sse,
};

/// Time that the peer has to answer an HTTP/2 ping.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest head of a request, in bytes: a `Last-Event-ID` of the longest accepted cursor,
/// and 8 KiB for the other fields. hyper refuses longer heads, and lets a response have as
/// many unsent bytes before it takes more from its body.
const HEAD_BYTES: usize = sse::MAX_CURSOR_BYTES + (8 << 10);

/// Bytes of an HTTP/2 stream that hyper buffers before they are written, beyond the part of a
/// body that it took last.
const STREAM_BUFFER_BYTES: usize = 64 << 10;

/// Serves a connection until it ends. The first request must arrive before `deadline`. A
/// `refusal` is its response, if it was judged already.
pub(crate) async fn serve<I>(
    io: I,
    context: RequestContext,
    server: Arc<ServerContext>,
    deadline: Instant,
    refusal: Option<Response>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let RequestContext { address, guard, .. } = context.clone();
    let routes = server.routes.clone();
    // Cancelled by the first request.
    let started = CancellationToken::new();
    let is_started = started.clone();
    let options = *server.gateway.admission.options();
    let gateway = server.gateway.clone();
    let first_refusal = Mutex::new(refusal);
    // Cancelled by a request body that does not arrive.
    let is_stalled = CancellationToken::new();
    let stalled = is_stalled.clone();
    let timeout = options.response_timeout;
    let total = server.gateway.admission.unsent_total();
    let unread = UnreadRequests::new(options.response_bytes, total.clone());
    let unsent = UnsentResponses::new(options.response_bytes, timeout, total);
    let activity = WriteActivity::new(guard.clone());
    let writes = activity.clone();
    let executor = StreamExecutor::new(unsent.clone(), timeout);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        started.cancel();
        let request_guard = context.guard.begin_request();
        let refusal = first_refusal.lock().take();
        let refusal = refusal.or_else(|| context.guard.refusal(request.headers()));
        context.insert_into(&mut request, &gateway);
        let (routes, stalled) = (routes.clone(), stalled.clone());
        let (unread, unsent) = (unread.clone(), unsent.clone());
        let is_http2 = request.version() == Version::HTTP_2;
        if !is_http2 {
            writes.begin_http1();
        }
        async move {
            let kind = response_kind(request.uri().path());
            let progress = current_progress(&unsent);
            let response = match refusal {
                Some(refusal) => Ok(refusal),
                None => match unsent.wait_for_room().await {
                    Err(full) => Ok(refusal::response_of(request.headers(), full.into())),
                    Ok(()) => {
                        let is_stream = grpc_web::streams_request(request.uri().path());
                        let limit = (!is_stream).then_some(options.body_timeout);
                        let (unread, room) = (!is_stream).then_some((unread, unsent)).unzip();
                        let close = (!is_http2).then_some(stalled);
                        let bounded =
                            |body| Body::new(RequestBody::new(body, limit, close, unread, room));
                        routes.oneshot(request.map(bounded)).await
                    }
                },
            };
            let follow = |body| ResponseBody::new(body, kind, progress, is_http2, request_guard);
            response.map(|response: Response| response.map(follow))
        }
    });
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_buf_size(HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(server.gateway.stream.options().keepalive)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .max_concurrent_streams(1_000);
    let io = ResponseIo::new(io, activity, timeout);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    // hyper bounds the time of a request head. This timer bounds the time without
    // requests: silence, half a preface, an idle connection.
    let mut idle_check = std::pin::pin!(tokio::time::sleep_until(deadline));
    // A connection that was accepted while the server stops has its request answered first.
    let stopping = async {
        server.stop.cancelled().await;
        tokio::select! {
            () = is_started.cancelled() => {}
            () = server.halt.cancelled() => {}
        }
    };
    let mut stopping = std::pin::pin!(stopping);
    let mut is_stopping = false;
    let served = loop {
        tokio::select! {
            served = connection.as_mut() => break served,
            () = stopping.as_mut(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = is_stalled.cancelled() => {
                tracing::debug!(%address, "closed a connection whose request body does not arrive");
                return;
            }
            () = idle_check.as_mut() => {
                if !guard.is_busy() {
                    tracing::debug!(%address, "closed an idle connection");
                    return;
                }
                let next = tidewire_stream::deadline(Instant::now(), options.idle_timeout);
                idle_check.as_mut().reset(next);
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %address, "a connection ended with an error");
    }
}

/// The kind of the responses at a path.
fn response_kind(path: &str) -> ResponseKind {
    match grpc_web::opens_session(path) || path == sse::PATH {
        true => ResponseKind::SessionStream,
        false => ResponseKind::Reply,
    }
}
