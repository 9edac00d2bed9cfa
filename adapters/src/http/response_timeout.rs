//! Response timeout: ends responses whose client takes none of their bytes.
//!
//! Over HTTP/2 a client can leave one response unread and take others, so each stream has a
//! timer of its own: [`StreamExecutor`] runs the streams, and resets one whose bytes make no
//! progress. A connection whose socket takes no bytes fails as a whole: [`ResponseIo`].
//!
//! # Example
//! With a timeout of 30 s, a client that takes a byte every 20 s is never cut. One that took its
//! last byte 30 s ago is, whether it announces no window or does not read its socket.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{response_body::ResponseProgress, unsent::UnsentResponses};
use crate::access::ConnectionGuard;

tokio::task_local! {
    /// The progress of the response on the HTTP/2 stream that this task serves.
    static PROGRESS: Arc<ResponseProgress>;
}

/// The progress of the response to the request that this task serves. Outside of a
/// [`StreamExecutor`], nothing watches it.
pub(super) fn current_progress(connection: &Arc<UnsentResponses>) -> Arc<ResponseProgress> {
    let current = PROGRESS.try_with(Clone::clone);
    current.unwrap_or_else(|_| ResponseProgress::new(connection.clone()))
}

/// Runs the streams of one HTTP/2 connection, each until its response ends or stalls.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor {
    connection: Arc<UnsentResponses>,
    timeout: Duration,
}

impl StreamExecutor {
    /// Resets streams whose responses make no progress for `timeout`.
    pub(super) fn new(connection: Arc<UnsentResponses>, timeout: Duration) -> Self {
        Self {
            connection,
            timeout,
        }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let progress = ResponseProgress::new(self.connection.clone());
        let timeout = self.timeout;
        let stream = PROGRESS.scope(progress.clone(), stream);
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            tokio::select! {
                biased;
                () = stream.as_mut() => {}
                // The stream is dropped, and so reset.
                () = stall(&progress, timeout) => {
                    tracing::debug!("reset a stream whose client does not read the response");
                }
            }
        });
    }
}

/// Waits until a response has had unsent bytes and no progress for `timeout`. Poll it again after
/// the stream, which makes bytes wait.
async fn stall(progress: &ResponseProgress, timeout: Duration) {
    // One timer serves all parts of a response. It is set again when it fires.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut is_set = false;
    let deadline = || progress.last_progress() + timeout;
    poll_fn(|cx| {
        loop {
            if !is_set && progress.unsent() == 0 {
                return Poll::Pending;
            }
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline())));
            if !is_set {
                timer.as_mut().reset(deadline());
                is_set = true;
            }
            ready!(timer.as_mut().poll(cx));
            is_set = false;
            if progress.unsent() > 0 && deadline() <= Instant::now() {
                return Poll::Ready(());
            }
        }
    })
    .await;
}

/// Records that the peer of an HTTP/1.1 connection takes bytes: hyper may have a whole response,
/// and the request is over for the server. Over HTTP/2 a response lasts until its bytes are
/// written, and a ping is no sign of a request.
#[derive(Debug)]
pub(super) struct WriteActivity {
    guard: Arc<ConnectionGuard>,
    is_http1: AtomicBool,
}

impl WriteActivity {
    /// No activity yet.
    pub(super) fn new(guard: Arc<ConnectionGuard>) -> Arc<Self> {
        Arc::new(Self {
            guard,
            is_http1: AtomicBool::new(false),
        })
    }

    /// Notes that the connection has a request of HTTP/1.1.
    pub(super) fn begin_http1(&self) {
        self.is_http1.store(true, Ordering::Relaxed);
    }

    fn note_write(&self) {
        if self.is_http1.load(Ordering::Relaxed) {
            self.guard.note_activity();
        }
    }
}

/// The I/O of a connection. It fails when the peer takes no bytes for a time.
pub(super) struct ResponseIo<I> {
    io: I,
    activity: Arc<WriteActivity>,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The operation that waits for the peer.
    blocked: Option<Operation>,
}

/// An operation that waits until the peer takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Write,
    /// Bytes that were written wait in TLS.
    Flush,
}

impl<I> ResponseIo<I> {
    /// I/O that fails when the peer takes no bytes for `timeout`.
    pub(super) fn new(io: I, activity: Arc<WriteActivity>, timeout: Duration) -> Self {
        Self {
            io,
            activity,
            timeout,
            timer: None,
            blocked: None,
        }
    }

    /// Passes the result of an operation on, or an error if the peer takes no bytes for too long.
    fn judge<T>(
        &mut self,
        operation: Operation,
        result: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            // A flush of nothing unblocks no write.
            if operation == Operation::Write || self.blocked == Some(operation) {
                self.blocked = None;
            }
            if operation == Operation::Write {
                self.activity.note_write();
            }
            return result;
        }
        let deadline = Instant::now() + self.timeout;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if self.blocked.is_none() {
            timer.as_mut().reset(deadline);
            self.blocked = Some(operation);
        }
        ready!(timer.as_mut().poll(cx));
        let text = "the client does not read the response";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ResponseIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for ResponseIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(Operation::Write, written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.judge(Operation::Write, written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(Operation::Flush, flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge(Operation::Flush, ended, cx)
    }
}

#[cfg(test)]
mod tests;
