//! Byte stream: the read and write halves of a connection, over plain TCP or TLS.
//!
//! A stream can accept bytes and hold them, as TLS does. [`Written`] therefore counts the held
//! ones apart. Plain TCP and TLS have paths of their own, on which a write goes straight to the
//! kernel.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::tls::TlsStream;

/// Buffer of one read, in bytes.
const READ_BYTES: usize = 64 << 10;

/// A stream that is read and written.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

thread_local! {
    /// The read buffer of a shard thread, so that an idle connection needs none.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Both halves of a connection.
pub(crate) type ByteStream = (ByteReader, ByteWriter);

pub(crate) enum ByteReader {
    Tcp(OwnedReadHalf),
    Tls(Arc<TlsStream>),
    Other(ReadHalf<Box<dyn Duplex>>),
}

pub(crate) enum ByteWriter {
    Tcp(OwnedWriteHalf),
    Tls(Arc<TlsStream>),
    Other(Mutex<WriteHalf<Box<dyn Duplex>>>),
}

/// The result of a write that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes that the stream accepted.
    pub(super) accepted: usize,
    /// Bytes that the stream holds, since the kernel does not accept them yet. They leave by
    /// [`ByteWriter::write_some`].
    pub(super) held: usize,
}

/// Splits a plain TCP connection.
pub(crate) fn split_tcp(stream: TcpStream) -> ByteStream {
    let (read, write) = stream.into_split();
    (ByteReader::Tcp(read), ByteWriter::Tcp(write))
}

/// Splits a TLS connection.
pub(crate) fn split_tls(stream: TlsStream) -> ByteStream {
    let stream = Arc::new(stream);
    (ByteReader::Tls(stream.clone()), ByteWriter::Tls(stream))
}

/// Splits any other connection.
pub(crate) fn split_any(stream: impl Duplex + 'static) -> ByteStream {
    let (read, write) = tokio::io::split(Box::new(stream) as Box<dyn Duplex>);
    (
        ByteReader::Other(read),
        ByteWriter::Other(Mutex::new(write)),
    )
}

impl ByteReader {
    /// Waits for bytes and appends them. Returns 0 at the end of the stream.
    pub(super) async fn read(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| match self {
            Self::Tcp(read) => poll_append(read, cx, out),
            Self::Tls(stream) => stream.poll_receive(cx, out),
            Self::Other(read) => poll_append(read, cx, out),
        })
        .await
    }
}

/// Reads through the thread's buffer, and appends to `out`.
fn poll_append(
    read: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    out: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut part = ReadBuf::new(buffer);
        ready!(Pin::new(read).poll_read(cx, &mut part))?;
        out.extend_from_slice(part.filled());
        Poll::Ready(Ok(part.filled().len()))
    })
}

impl ByteWriter {
    /// Writes what the stream accepts now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<Written> {
        match self {
            // Calls the kernel directly. Tokio's readiness would touch another cache line.
            Self::Tcp(write) => {
                let accepted = match socket2::SockRef::from(write.as_ref()).send(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    accepted => accepted?,
                };
                Ok(Written { accepted, held: 0 })
            }
            Self::Tls(stream) => Ok(Written {
                accepted: bytes.len(),
                held: stream.try_write(bytes)?,
            }),
            Self::Other(write) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut write = write.lock();
                let accepted = match Pin::new(&mut *write).poll_write(&mut cx, bytes) {
                    Poll::Ready(accepted) => accepted?,
                    Poll::Pending => 0,
                };
                let held = match Pin::new(&mut *write).poll_flush(&mut cx) {
                    Poll::Ready(flushed) => flushed.map(|()| 0)?,
                    // Up to as many.
                    Poll::Pending => accepted,
                };
                Ok(Written { accepted, held })
            }
        }
    }

    /// Waits until bytes leave: those that the stream holds, or some of `rest`, which it then
    /// removes. Returns the number of bytes that are left of both.
    pub(super) async fn write_some(&self, rest: &mut Bytes) -> io::Result<usize> {
        match self {
            Self::Tcp(write) => {
                while !rest.is_empty() {
                    write.writable().await?;
                    match write.try_write(rest) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        written => {
                            rest.advance(written?);
                            break;
                        }
                    }
                }
                Ok(rest.len())
            }
            Self::Tls(stream) => poll_fn(|cx| stream.poll_flush_some(cx)).await,
            Self::Other(write) => {
                if rest.is_empty() {
                    poll_fn(|cx| Pin::new(&mut *write.lock()).poll_flush(cx)).await?;
                    return Ok(0);
                }
                let left = rest.len();
                let written =
                    poll_fn(|cx| Pin::new(&mut *write.lock()).poll_write(cx, rest)).await?;
                rest.advance(written);
                // The stream may hold what it accepted.
                Ok(left)
            }
        }
    }

    /// Closes the write half.
    pub(super) fn shut_down(&self) {
        match self {
            Self::Tcp(write) => {
                let socket = socket2::SockRef::from(write.as_ref());
                // Fails if the peer has disconnected.
                let _ = socket.shutdown(std::net::Shutdown::Write);
            }
            Self::Tls(stream) => stream.shut_down(),
            Self::Other(write) => {
                let mut cx = Context::from_waker(Waker::noop());
                let _ = Pin::new(&mut *write.lock()).poll_shutdown(&mut cx);
            }
        }
    }
}
