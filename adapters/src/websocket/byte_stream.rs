//! Byte stream: the read and write halves of a connection, over plain TCP or TLS.
//!
//! Plain TCP has a path of its own, because a write can then go straight to the kernel.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

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
    Other(ReadHalf<Box<dyn Duplex>>),
}

pub(crate) enum ByteWriter {
    Tcp(OwnedWriteHalf),
    Other(Mutex<WriteHalf<Box<dyn Duplex>>>),
}

/// Splits a plain TCP connection.
pub(crate) fn split_tcp(stream: TcpStream) -> ByteStream {
    let (read, write) = stream.into_split();
    (ByteReader::Tcp(read), ByteWriter::Tcp(write))
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
        poll_fn(|cx| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let mut part = ReadBuf::new(buffer);
                ready!(match self {
                    Self::Tcp(read) => Pin::new(read).poll_read(cx, &mut part),
                    Self::Other(read) => Pin::new(read).poll_read(cx, &mut part),
                })?;
                out.extend_from_slice(part.filled());
                Poll::Ready(Ok(part.filled().len()))
            })
        })
        .await
    }
}

impl ByteWriter {
    /// Writes as many bytes as the socket accepts now, and returns their number.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            // Calls the kernel directly. Tokio's readiness would touch another cache line.
            Self::Tcp(write) => socket2::SockRef::from(write.as_ref()).send(bytes),
            Self::Other(write) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut write = write.lock();
                let written = match Pin::new(&mut *write).poll_write(&mut cx, bytes) {
                    Poll::Ready(written) => written,
                    Poll::Pending => return Ok(0),
                };
                // Bytes that stay in the TLS buffer leave with the next write.
                if let Poll::Ready(Err(error)) = Pin::new(&mut *write).poll_flush(&mut cx) {
                    return Err(error);
                }
                written
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Writes all bytes, waiting for the socket.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Tcp(write) => {
                    write.writable().await?;
                    match write.try_write(bytes) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        written => written?,
                    }
                }
                Self::Other(write) => {
                    poll_fn(|cx| Pin::new(&mut *write.lock()).poll_write(cx, bytes)).await?
                }
            };
            bytes = &bytes[written..];
        }
        if let Self::Other(write) = self {
            poll_fn(|cx| Pin::new(&mut *write.lock()).poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// Closes the write half.
    pub(super) fn shut_down(&self) {
        match self {
            Self::Tcp(write) => {
                let socket = socket2::SockRef::from(write.as_ref());
                // Fails if the peer has disconnected.
                let _ = socket.shutdown(std::net::Shutdown::Write);
            }
            Self::Other(write) => {
                let mut cx = Context::from_waker(Waker::noop());
                let _ = Pin::new(&mut *write.lock()).poll_shutdown(&mut cx);
            }
        }
    }
}
