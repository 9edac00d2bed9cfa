//! The two ends of a connection's bytes: a bare TCP socket where that is what lies
//! below, and anything else (TLS) behind the same calls.

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

/// What is read at once, in bytes.
const READ_BYTES: usize = 64 << 10;

/// A duplex stream of bytes.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

thread_local! {
    /// Where bytes are read to, so that a silent connection needs no buffer.
    static INBOUND: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Both ends.
pub(crate) type Ends = (ReadEnd, WriteEnd);

pub(crate) enum ReadEnd {
    Tcp(OwnedReadHalf),
    Other(ReadHalf<Box<dyn Duplex>>),
}

pub(crate) enum WriteEnd {
    Tcp(OwnedWriteHalf),
    Other(Mutex<WriteHalf<Box<dyn Duplex>>>),
}

/// The ends of a bare socket.
pub(crate) fn tcp(stream: TcpStream) -> Ends {
    let (read, write) = stream.into_split();
    (ReadEnd::Tcp(read), WriteEnd::Tcp(write))
}

/// The ends of anything else.
pub(crate) fn other(stream: impl Duplex + 'static) -> Ends {
    let (read, write) = tokio::io::split(Box::new(stream) as Box<dyn Duplex>);
    (ReadEnd::Other(read), WriteEnd::Other(Mutex::new(write)))
}

impl ReadEnd {
    /// Waits for bytes and appends them. 0 at the end of the stream.
    pub(super) async fn read(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| {
            INBOUND.with_borrow_mut(|inbound| {
                let mut part = ReadBuf::new(inbound);
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

impl WriteEnd {
    /// Writes what the peer takes now, and says how much that was.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            // Past tokio's note of the socket's readiness, which is one more cache
            // line to touch: the kernel knows.
            Self::Tcp(write) => socket2::SockRef::from(write.as_ref()).send(bytes),
            Self::Other(write) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut write = write.lock();
                let written = match Pin::new(&mut *write).poll_write(&mut cx, bytes) {
                    Poll::Ready(written) => written,
                    Poll::Pending => return Ok(0),
                };
                // What stays in between is taken along by the next write.
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

    /// Writes all of it, as the peer takes it.
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

    /// Says that nothing follows.
    pub(super) fn shut_down(&self) {
        match self {
            Self::Tcp(write) => {
                let socket = socket2::SockRef::from(write.as_ref());
                // It fails where the peer has gone already.
                let _ = socket.shutdown(std::net::Shutdown::Write);
            }
            Self::Other(write) => {
                let mut cx = Context::from_waker(Waker::noop());
                let _ = Pin::new(&mut *write.lock()).poll_shutdown(&mut cx);
            }
        }
    }
}
