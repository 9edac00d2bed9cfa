//! Request body: bounds the time in which a client sends it, and the bytes of those that have not
//! ended.
//!
//! A body must arrive within a time limit, and each second more costs
//! [`BYTES_PER_SECOND`] bytes. The time begins when a handler waits for the first byte, so
//! that a server that is slow itself refuses nobody. The body of a stream of messages has no
//! limit: its session ends silent clients.
//!
//! Over HTTP/2 a client has many requests at a time. The bytes of those that have not ended are
//! bounded for each connection: beyond the bound, the request that receives more is refused. One
//! alone may be larger.
//!
//! The end of a body waits until the connection has room for a further response: a handler
//! makes its response right after it, and many bodies can end at once.
//!
//! Over HTTP/1.1 the connection is closed, since its client still writes and reads no response.
//! Over HTTP/2 the request fails, and the connection's other requests go on.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tidewire_stream::deadline;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::unsent::{ConnectionFull, UnsentResponses};

/// The slowest rate at which a body may arrive after its time limit.
const BYTES_PER_SECOND: u64 = 1 << 10;

/// The error of a body that arrives too slowly.
#[derive(Debug, thiserror::Error)]
#[error(
    "the request body arrives too slowly: it had {limit:?} and a second for each {BYTES_PER_SECOND} bytes"
)]
pub(crate) struct SlowBody {
    limit: Duration,
    /// The error as gRPC reports it.
    #[source]
    status: tonic::Status,
}

/// The bytes of one connection's requests that have not ended.
#[derive(Debug)]
pub(crate) struct UnreadRequests {
    bytes: AtomicUsize,
    limit: usize,
    /// Of all connections, with their unsent responses.
    total: Arc<AtomicUsize>,
}

impl UnreadRequests {
    /// No bytes yet, and up to about `limit`. They count in `total` too.
    pub(crate) fn new(limit: usize, total: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicUsize::new(0),
            limit,
            total,
        })
    }
}

/// The bytes that one request holds.
struct HeldBytes {
    unread: Arc<UnreadRequests>,
    bytes: usize,
}

impl HeldBytes {
    /// Holds more.
    ///
    /// # Errors
    /// The requests of the connection hold too much together.
    fn add(&mut self, bytes: usize) -> Result<(), ConnectionFull> {
        let UnreadRequests {
            bytes: all,
            limit,
            total,
        } = &*self.unread;
        self.bytes += bytes;
        total.fetch_add(bytes, Ordering::Relaxed);
        let all = all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match all > *limit && all > self.bytes {
            true => Err(ConnectionFull::of_requests(*limit)),
            false => Ok(()),
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.unread.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.unread.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The body of a request.
pub(crate) struct RequestBody<B = Incoming> {
    body: B,
    /// `None` for a body that may take any time.
    limit: Option<Duration>,
    /// Cancelled when the time is over, to close the connection. `None` fails the request.
    close: Option<CancellationToken>,
    timer: Option<BodyTimer>,
    received: u64,
    /// The bytes that it holds. `None` for a body that is read as it arrives.
    held: Option<HeldBytes>,
    /// Where the end of the body waits for room. `None` for a body whose end does not wait.
    room: Option<Arc<UnsentResponses>>,
    /// The end of the body, while it waits.
    end: Option<RoomFuture>,
}

type RoomFuture = Pin<Box<dyn Future<Output = Result<(), ConnectionFull>> + Send>>;

/// The time limit of a body that a handler waits for.
struct BodyTimer {
    began: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl<B> RequestBody<B> {
    /// A body that has `limit` and the time that its bytes buy. Then `close` is cancelled, or
    /// the body fails if there is none. Its bytes count in `unread`. Its end waits for `room`.
    pub(crate) fn new(
        body: B,
        limit: Option<Duration>,
        close: Option<CancellationToken>,
        unread: Option<Arc<UnreadRequests>>,
        room: Option<Arc<UnsentResponses>>,
    ) -> Self {
        Self {
            body,
            limit,
            close,
            timer: None,
            received: 0,
            held: unread.map(|unread| HeldBytes { unread, bytes: 0 }),
            room,
            end: None,
        }
    }

    /// Waits at the end of the body until a further response has room.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionFull>> {
        let Some(room) = &self.room else {
            return Poll::Ready(Ok(()));
        };
        if self.end.is_none() && room.has_room() {
            return Poll::Ready(Ok(()));
        }
        let end = self.end.get_or_insert_with(|| {
            let room = room.clone();
            Box::pin(async move { room.wait_for_room().await })
        });
        let found = ready!(end.as_mut().poll(cx));
        (self.room, self.end) = (None, None);
        Poll::Ready(found)
    }

    /// Waits for the end of the time limit.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<SlowBody> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| {
            let began = Instant::now();
            BodyTimer {
                began,
                sleep: Box::pin(sleep_until(deadline(began, limit))),
            }
        });
        let bought = Duration::from_secs(self.received / BYTES_PER_SECOND);
        let deadline = deadline(timer.began, limit.saturating_add(bought));
        if timer.sleep.deadline() != deadline {
            timer.sleep.as_mut().reset(deadline);
        }
        ready!(timer.sleep.as_mut().poll(cx));
        if let Some(close) = &self.close {
            close.cancel();
            return Poll::Pending;
        }
        let status = tonic::Status::deadline_exceeded("the request body arrives too slowly");
        Poll::Ready(SlowBody { limit, status })
    }
}

impl<B> RequestBody<B> {
    /// The end of the body, as soon as it may be seen.
    fn poll_end<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, axum::BoxError>>> {
        let found = ready!(self.poll_room(cx));
        Poll::Ready(found.err().map(|full| Err(full.into())))
    }
}

impl<B> HttpBody for RequestBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if self.end.is_some() {
            return self.poll_end(cx);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(frame)) => {
                let bytes = frame
                    .as_ref()
                    .ok()
                    .and_then(Frame::data_ref)
                    .map_or(0, Bytes::len);
                self.received += bytes as u64;
                if let Some(held) = &mut self.held
                    && let Err(full) = held.add(bytes)
                {
                    return Poll::Ready(Some(Err(full.into())));
                }
                Poll::Ready(Some(frame.map_err(Into::into)))
            }
            Poll::Ready(None) => self.poll_end(cx),
            Poll::Pending => {
                let slow = ready!(self.poll_limit(cx));
                Poll::Ready(Some(Err(slow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A body of nothing has no end to wait at.
        let waits = self.room.is_some() && self.received > 0;
        !waits && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A body of `count` parts of `bytes` each, one every second, that never ends.
    fn dripping(count: u64, bytes: usize) -> Body {
        let parts = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::convert::Infallible>(Bytes::from(vec![0; bytes]))
        });
        Body::from_stream(parts.chain(stream::pending()))
    }

    /// The time after which the body fails, and the bytes before.
    async fn failure(body: Body, limit: Option<Duration>) -> (Duration, usize) {
        let began = Instant::now();
        let mut body = RequestBody::new(body, limit, None, None, None);
        let mut bytes = 0;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => bytes += frame.into_data().unwrap().len(),
                Some(Err(error)) => {
                    assert!(error.downcast_ref::<SlowBody>().is_some(), "{error}");
                    return (began.elapsed(), bytes);
                }
                None => panic!("the body ended"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_fails_after_its_time() {
        let (after, bytes) = failure(dripping(1, 10), Some(LIMIT)).await;
        assert_eq!((after.as_secs(), bytes), (10, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_closes_where_it_has_one_request() {
        let close = CancellationToken::new();
        let body = dripping(1, 10);
        let mut body = RequestBody::new(body, Some(LIMIT), Some(close.clone()), None, None);
        let began = Instant::now();
        tokio::select! {
            () = close.cancelled() => assert_eq!(began.elapsed().as_secs(), 10),
            _ = async { while body.frame().await.is_some() {} } => panic!("the body ended"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn grpc_reports_an_exceeded_deadline() {
        let mut body = RequestBody::new(dripping(0, 0), Some(LIMIT), None, None, None);
        let error = body.frame().await.unwrap().unwrap_err();
        let status = tonic::Status::from_error(error);
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_buy_time_at_the_least_rate() {
        // Half of the rate: 20 parts buy the 10 seconds after the limit.
        let (after, bytes) = failure(dripping(1_000, 512), Some(LIMIT)).await;
        assert!((19..=21).contains(&after.as_secs()), "{after:?}");
        assert!((18 * 512..=21 * 512).contains(&bytes), "{bytes}");
        // Above the rate, the body may take as long as it has bytes.
        let (after, bytes) = failure(dripping(100, 2_048), Some(LIMIT)).await;
        assert_eq!((after.as_secs(), bytes), (210, 100 * 2_048));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_messages_has_no_limit() {
        let failing = failure(dripping(1, 10), None);
        let waited = tokio::time::timeout(100 * LIMIT, failing).await;
        assert!(waited.is_err(), "it failed");
    }
}
