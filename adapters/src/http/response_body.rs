//! Response body: follows the bytes of a response until the client takes them.
//!
//! hyper takes a part of a body before the client has room for it. So the parts count as unsent
//! until hyper has written them ([`UnsentBytes`]), and [`ResponseProgress`] knows when it last
//! wrote some. Over HTTP/2, the body ends only when all of it is written: until then the stream
//! can still be reset.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use futures::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Buf, Bytes, Frame, SizeHint};
use tokio::time::Instant;

use super::unsent::UnsentResponses;
use crate::access::RequestGuard;

/// Unsent bytes of an HTTP/2 stream from which on no further part is taken from its body. Small
/// parts then share a write, and what a slow client waits for stays in its session.
const STREAM_BYTES: usize = 16 << 10;

/// Which bound the bytes of a response count towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseKind {
    /// They count towards the bound of the connection.
    Reply,
    /// They are a session's, whose outbox has a bound of its own.
    SessionStream,
}

/// The bytes of one response that its client has not taken, and when it last took some.
#[derive(Debug)]
pub(crate) struct ResponseProgress {
    connection: Arc<UnsentResponses>,
    began: Instant,
    /// Bytes that hyper took and has not written.
    unsent: AtomicUsize,
    /// Milliseconds from `began` to the last progress.
    progress_ms: AtomicU64,
    /// Wakes the body when hyper has written bytes.
    body: AtomicWaker,
}

impl ResponseProgress {
    /// A response of which nothing was taken yet.
    pub(crate) fn new(connection: Arc<UnsentResponses>) -> Arc<Self> {
        Arc::new(Self {
            connection,
            began: Instant::now(),
            unsent: AtomicUsize::new(0),
            progress_ms: AtomicU64::new(0),
            body: AtomicWaker::new(),
        })
    }

    /// Bytes that hyper took and has not written.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.load(Ordering::Relaxed)
    }

    /// When bytes of the response were last written, or began to wait.
    pub(super) fn last_progress(&self) -> Instant {
        self.began + Duration::from_millis(self.progress_ms.load(Ordering::Relaxed))
    }

    fn note_progress(&self) {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress_ms.store(passed, Ordering::Relaxed);
    }

    /// Notes bytes that hyper takes.
    fn hand_over(&self, bytes: usize) {
        if self.unsent.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.note_progress();
        }
    }

    /// Notes that hyper has written bytes, or has dropped them.
    fn release(&self, kind: ResponseKind, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.unsent.fetch_sub(bytes, Ordering::Relaxed);
        if kind == ResponseKind::Reply {
            self.connection.remove(bytes);
        }
        self.note_progress();
        self.body.wake();
    }
}

/// A part of a response, which counts as unsent until hyper has written it.
pub(crate) struct UnsentBytes {
    bytes: Bytes,
    kind: ResponseKind,
    progress: Arc<ResponseProgress>,
}

impl Buf for UnsentBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.progress.release(self.kind, count);
    }
}

impl Drop for UnsentBytes {
    fn drop(&mut self) {
        self.progress.release(self.kind, self.bytes.len());
    }
}

/// A response body. Its request counts as in flight until the body is dropped.
pub(crate) struct ResponseBody {
    body: Body,
    kind: ResponseKind,
    progress: Arc<ResponseProgress>,
    /// Bytes that count for the connection and that hyper has not taken.
    whole: usize,
    /// The end of the body, which waits for the bytes before it.
    end: Option<Option<Frame<UnsentBytes>>>,
    /// Whether the body waits for its bytes to be written: it is on an HTTP/2 stream.
    is_paced: bool,
    _guard: RequestGuard,
}

impl ResponseBody {
    /// A body of this kind. `is_paced` if it is on an HTTP/2 stream.
    pub(crate) fn new(
        body: Body,
        kind: ResponseKind,
        progress: Arc<ResponseProgress>,
        is_paced: bool,
        guard: RequestGuard,
    ) -> Self {
        // A reply is in memory as a whole, if its size is known.
        let whole = match kind {
            ResponseKind::Reply => usize::try_from(body.size_hint().lower()).unwrap_or(0),
            ResponseKind::SessionStream => 0,
        };
        progress.connection.add(whole);
        Self {
            body,
            kind,
            progress,
            whole,
            end: None,
            is_paced,
            _guard: guard,
        }
    }

    /// Hands a part over to hyper.
    fn hand_over(&mut self, bytes: Bytes) -> UnsentBytes {
        let counted = self.whole.min(bytes.len());
        self.whole -= counted;
        if self.kind == ResponseKind::Reply {
            self.progress.connection.add(bytes.len() - counted);
        }
        self.progress.hand_over(bytes.len());
        UnsentBytes {
            bytes,
            kind: self.kind,
            progress: self.progress.clone(),
        }
    }

    /// Waits until fewer than `bytes` are unsent.
    fn poll_sent(&self, bytes: usize, cx: &Context<'_>) -> Poll<()> {
        if !self.is_paced || self.progress.unsent() < bytes {
            return Poll::Ready(());
        }
        self.progress.body.register(cx.waker());
        // Bytes that were written meanwhile woke nobody.
        if self.progress.unsent() < bytes {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.progress.connection.remove(self.whole);
    }
}

impl HttpBody for ResponseBody {
    type Data = UnsentBytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<UnsentBytes>, axum::Error>>> {
        if self.end.is_none() {
            std::task::ready!(self.poll_sent(STREAM_BYTES, cx));
            let end = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => None,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        let part = self.hand_over(bytes);
                        return Poll::Ready(Some(Ok(Frame::data(part))));
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => Some(Frame::trailers(trailers)),
                        // There is no third kind of frame.
                        Err(_) => None,
                    },
                },
            };
            self.end = Some(end);
        }
        std::task::ready!(self.poll_sent(1, cx));
        Poll::Ready(self.end.replace(None).flatten().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let is_sent = !self.is_paced || self.progress.unsent() == 0;
        match &self.end {
            Some(end) => end.is_none() && is_sent,
            None => is_sent && self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
